package explain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate/simulate"
)

// now is what a call would do, in one sentence.
func now(a *Answer) string {
	switch a.Verdict {
	case VerdictNobody:
		return "A call would fail (" + nobodyResult(a) + "): nobody is ready behind " + join(a.To.Host, a.To.Port) + "."
	case VerdictRefused:
		return "A call would be refused: " + failure(&a.Endpoints[0]) + everywhere(a) + "."
	case VerdictFails:
		return "A call would fail: " + failure(&a.Endpoints[0]) + everywhere(a) + "."
	case VerdictPartly:
		return partly(a)
	}
	switch {
	case a.Endpoints[0].Result == resultLeaves || outside(a):
		return "A call would leave the mesh " + sentWords(a.Endpoints) + "; whether it works is up to " + a.To.Host + "."
	case len(a.Endpoints) == 1:
		return "A call would work" + status(&a.Endpoints[0]) + ", " + sentWords(a.Endpoints) + "."
	default:
		return fmt.Sprintf("A call would work%s at each of %d endpoints, %s.", status(&a.Endpoints[0]), len(a.Endpoints), sentWords(a.Endpoints))
	}
}

// outside says that the endpoints are nobody of the mesh.
func outside(a *Answer) bool {
	if a.To.Kind != KindExternal && a.To.Kind != KindUnknown {
		return false
	}
	for i := range a.Endpoints {
		if a.Endpoints[i].Workload != "" {
			return false
		}
	}
	return true
}

func nobodyResult(a *Answer) string {
	if len(a.Endpoints) == 0 || a.Endpoints[0].Result == "" {
		return "no address"
	}
	return a.Endpoints[0].Result
}

// failure is the result at an endpoint with its reason.
func failure(p *Endpoint) string {
	if p.Fails == "" {
		return p.Result
	}
	return p.Result + ", " + p.Fails
}

func everywhere(a *Answer) string {
	if len(a.Endpoints) == 1 {
		return ""
	}
	return fmt.Sprintf(", and so at all %d endpoints", len(a.Endpoints))
}

func partly(a *Answer) string {
	var good, bad []Endpoint
	for _, p := range a.Endpoints {
		if p.works() {
			good = append(good, p)
		} else {
			bad = append(bad, p)
		}
	}
	return fmt.Sprintf("A call would work at %d of %d endpoints, %s; at %s it would fail: %s.",
		len(good), len(a.Endpoints), sentWords(good), label(&bad[0]), failure(&bad[0]))
}

func label(p *Endpoint) string {
	if p.Workload != "" {
		return p.Workload
	}
	return p.Address
}

func status(p *Endpoint) string {
	if p.Result == "200" {
		return " (200)"
	}
	return ""
}

// sentWords is how the bytes travel to endpoints.
func sentWords(endpoints []Endpoint) string {
	count := map[simulate.Sent]int{}
	for i := range endpoints {
		count[endpoints[i].outcome.Sent]++
	}
	var parts []string
	for _, sent := range []simulate.Sent{simulate.MeshTLS, simulate.MutualTLS, simulate.SimpleTLS, simulate.AppTLS, simulate.Plaintext} {
		words := "in " + string(sent)
		if sent == simulate.AppTLS {
			words = "in the application's own TLS"
		}
		switch n := count[sent]; {
		case n == len(endpoints):
			return words
		case n > 0:
			parts = append(parts, fmt.Sprintf("%s at %d", words, n))
		}
	}
	return strings.Join(parts, " and ")
}

// notes are what else one should know about the destination.
func (e *Explainer) notes(a *Answer) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	to := a.To
	switch to.Kind {
	case KindHeadless:
		add("%s is headless: the caller chooses a pod by DNS, and TLS is decided for each.", to.Service)
	case KindPod:
		if to.svc != nil {
			add("This is a pod's own address. By name it is %s.", join(to.svc.Host, to.port.Number))
		} else {
			add("This is a pod's own address, and no service leads to port %d of it: no Policy can target it by name.", to.Port)
		}
		for i := range a.Endpoints {
			if strings.HasSuffix(a.Endpoints[i].outcome.Chain, "|probe") {
				add("Only a health probe names the port, so it is open to any bytes in every mode.")
			}
		}
	case KindExternal:
		add("%s is outside the mesh: mesh mTLS is never sent there by itself.", to.Service)
		if a.Verdict == VerdictPlaintext && a.From.Sidecar {
			add("A DestinationRule with tls.mode SIMPLE would have its sidecar speak TLS there.")
		}
	case KindUnknown:
		if e.snapshot.Mesh().RegistryOnly {
			add("No service has this host; outboundTrafficPolicy is REGISTRY_ONLY, so sidecars refuse such calls.")
		} else {
			add("No service has this host; outboundTrafficPolicy is ALLOW_ANY, so sidecars pass such calls on, never in mesh mTLS.")
		}
		add("The protocol %s is guessed by the port.", to.Protocol)
	}
	if to.port == nil {
		return out
	}
	if endsAppTLS(a) {
		add("TLS_ONLY ends the application's TLS at the sidecar: the call works only if the application behind it speaks plaintext.")
	}
	if to.port.Protocol.ServerFirst() {
		add("%s servers speak first: nothing inspects the port, so nothing slows it, and it cannot take plaintext and mTLS at once (PERMISSIVE is plaintext).", to.Protocol)
	} else if inspected(a) {
		add("In PERMISSIVE, a plaintext caller that waits for the server to speak first is served after 0.5 s.")
	}
	return out
}

// endsAppTLS says whether a sidecar ends TLS that the applications began.
func endsAppTLS(a *Answer) bool {
	return slices.ContainsFunc(a.Endpoints, func(p Endpoint) bool {
		return p.outcome.Sent == simulate.AppTLS && strings.HasSuffix(p.outcome.Chain, "|tls")
	})
}

// inspected says whether some endpoint takes both on a port of which nobody
// knows who speaks first.
func inspected(a *Answer) bool {
	if a.To.port.Protocol != model.TCP {
		return false
	}
	for i := range a.Endpoints {
		if a.Endpoints[i].Sidecar && a.Endpoints[i].decision.Mode == model.Permissive {
			return true
		}
	}
	return false
}

package explain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate/simulate"
)

// Change is one thing to edit: any one of a list of changes helps.
type Change struct {
	Object string `json:"object"`          // which one to edit, or to make
	At     string `json:"at,omitempty"`    // file:line
	Field  string `json:"field,omitempty"` // path in it
	Value  string `json:"value"`           // to write there, or what to do
	Effect string `json:"effect"`
}

// String is "Policy shop/cart (shop.yaml:3): spec.peers: [] - effect".
func (c Change) String() string {
	text := c.Object
	if c.At != "" {
		text += " (" + c.At + ")"
	}
	if c.Field != "" {
		text += ": " + c.Field
	}
	return text + ": " + c.Value + " - " + c.Effect
}

const meshConfig = "mesh config"

// changes are what to edit so that the call works, or is no longer plaintext.
func (e *Explainer) changes(a *Answer) []Change {
	var out []Change
	add := func(changes ...Change) {
		for _, c := range changes {
			if !slices.Contains(out, c) {
				out = append(out, c)
			}
		}
	}
	if a.Verdict == VerdictNobody {
		return e.findEndpoints(a)
	}
	for i := range a.Endpoints {
		p := &a.Endpoints[i]
		switch {
		case p.outcome.Sent == simulate.MeshTLS && !p.works():
			add(e.sendPlaintext(a, p)...)
			add(e.takeMTLS(a, p)...)
		case p.ownTLS() && !p.works():
			add(e.sendMTLS(a, p)...)
		case p.ownTLS():
		case p.refusesPlaintext():
			add(e.sendMTLS(a, p)...)
			add(e.takePlaintext(a, p)...)
		case p.outcome.Sent == simulate.Plaintext && p.works():
			add(e.sendMTLS(a, p)...)
			add(e.takeMTLS(a, p)...)
		}
	}
	return out
}

func (e *Explainer) findEndpoints(a *Answer) []Change {
	if a.To.port != nil && a.To.port.StandIn {
		return []Change{e.correct(a.To.port.Source, "it is invalid, so only endpoints that accept mesh mTLS are called")}
	}
	if a.To.svc == nil || a.To.svc.Key.Kind != "Service" {
		return nil
	}
	key := a.To.svc.Key
	return []Change{{Object: key.String(), At: e.place(key), Field: "spec.selector", Value: "the labels of ready pods",
		Effect: "the service then has endpoints; also check that they are ready"}}
}

// sendMTLS makes the client side send mesh mTLS.
func (e *Explainer) sendMTLS(a *Answer, p *Endpoint) []Change {
	to := a.To
	switch p.reason {
	case reasonNoProxy:
		if to.Kind == KindUnknown || to.Kind == KindExternal {
			return nil
		}
		return []Change{e.giveSidecar(a.From.key, "calls then go out in mesh mTLS by themselves, wherever it is accepted")}
	case reasonRule:
		return []Change{e.rule(a, "ISTIO_MUTUAL", "clients then send mesh mTLS")}
	case reasonExcluded:
		return []Change{{Object: meshConfig, Field: "mtlsExcludedServices", Value: "without " + e.exclusion(to.svc.Host),
			Effect: "clients then follow each endpoint's mode"}}
	case reasonExternal:
		if p.Sidecar {
			return []Change{{Object: to.svc.Key.String(), At: e.place(to.svc.Key), Field: "spec.location", Value: "MESH_INTERNAL",
				Effect: "clients then follow each endpoint's mode"}}
		}
	case reasonMeshConfig:
		return []Change{{Object: meshConfig, Field: "enableAutoMtls", Value: "true", Effect: "clients then follow each endpoint's mode"}}
	case reasonPassedOn:
		switch {
		case to.Hidden:
			return []Change{{Object: to.Service, At: e.place(to.svc.Key), Field: "exportTo", Value: "with " + a.From.id.Namespace,
				Effect: "its sidecars then know the service"}}
		case to.Kind == KindPod && to.svc != nil:
			return []Change{{Object: "the caller", Field: "host", Value: join(to.svc.Host, to.port.Number) + " instead of " + to.Asked,
				Effect: "its sidecar then knows the service, and what each endpoint accepts"}}
		}
	case reasonServerFirst:
		return []Change{{Object: to.svc.Key.String(), At: e.place(to.svc.Key), Field: "spec.ports[" + portName(to.port) + "].name", Value: "tcp-" + portName(to.port),
			Effect: "PERMISSIVE then takes mesh mTLS too, at 0.5 s for each plaintext connection"}}
	}
	return nil
}

func portName(p *model.OutboundPort) string {
	if p.Name != "" {
		return p.Name
	}
	return fmt.Sprint(p.Number)
}

// sendPlaintext makes the client side stop sending mesh mTLS to who cannot
// take it.
func (e *Explainer) sendPlaintext(a *Answer, p *Endpoint) []Change {
	if p.reason == reasonRule {
		return []Change{e.rule(a, "DISABLE", "clients then send plaintext")}
	}
	if p.reason != reasonMeshConfig {
		return nil
	}
	return []Change{
		{Object: meshConfig, Field: "enableAutoMtls", Value: "true", Effect: "clients then follow each endpoint's mode"},
		{Object: meshConfig, Field: "mtlsExcludedServices", Value: "with " + a.To.svc.Host, Effect: "clients then send it plaintext"},
	}
}

func (e *Explainer) correct(key model.Key, effect string) Change {
	return Change{Object: key.String(), At: e.place(key), Value: "correct it", Effect: effect}
}

// rule edits the tls block that decided for the port: to mode, or away with
// it, so that each endpoint decides.
func (e *Explainer) rule(a *Answer, mode, effect string) Change {
	u := &a.To.port.Upstream
	if u.StandIn {
		return e.correct(u.Source, "it is invalid, so only endpoints that accept mesh mTLS are called")
	}
	c := Change{Object: u.Source.String(), At: e.place(u.Source), Field: fmt.Sprintf("tls for port %d", a.To.port.Number), Value: "mode " + mode, Effect: effect}
	if e.snapshot.Mesh().AutoMTLS {
		c.Value, c.Effect = "none", "clients then follow each endpoint's mode"
	}
	return c
}

func (e *Explainer) giveSidecar(key model.Key, effect string) Change {
	field := "metadata.labels"
	if key.Kind == "WorkloadEntry" {
		field = "spec.labels"
	}
	return Change{Object: key.String(), At: e.place(key), Field: field,
		Value: "a sidecar, and the label security.istio.io/tlsMode: istio", Effect: effect}
}

// takeMTLS makes the endpoint accept mesh mTLS.
func (e *Explainer) takeMTLS(a *Answer, p *Endpoint) []Change {
	w := e.workloadOf(p)
	switch {
	case w == nil:
		return nil
	case !p.Sidecar:
		return []Change{e.giveSidecar(w.Key, "it can then accept mesh mTLS")}
	case p.decision.Mode != model.Disable || p.reason == reasonNoProxy:
		return nil
	case p.decision.Rank == model.RankAnnotation:
		return []Change{{Object: p.decision.Source.String(), At: p.At, Field: annotationField(a), Value: "MUTUAL_TLS",
			Effect: "the port then wants mesh mTLS (STRICT)"}}
	default:
		return []Change{e.setMode(a, p, w, model.Permissive, "the port then accepts both, and clients move to mesh mTLS")}
	}
}

// takePlaintext makes the endpoint accept plaintext too.
func (e *Explainer) takePlaintext(a *Answer, p *Endpoint) []Change {
	w := e.workloadOf(p)
	if w == nil {
		return nil
	}
	if p.decision.StandIn {
		return []Change{e.correct(p.decision.Source, "it is invalid, and STRICT stands in for it")}
	}
	if a.To.port != nil && a.To.port.Protocol.ServerFirst() {
		return []Change{e.setMode(a, p, w, model.Disable, "the port then takes plaintext, and no mesh mTLS any more: its servers speak first")}
	}
	return []Change{e.setMode(a, p, w, model.Permissive, "the port then accepts plaintext too")}
}

func (e *Explainer) workloadOf(p *Endpoint) *model.Workload {
	for _, w := range e.snapshot.Workloads() {
		if w.ID.String() == p.Workload {
			return w
		}
	}
	return nil
}

func annotationField(a *Answer) string {
	return fmt.Sprintf(`metadata.annotations["auth.istio.io/%d"]`, a.To.Port)
}

// setMode edits the object that decided if it is about this port or workload,
// and else makes one that is: an edit of a wider one would open more.
func (e *Explainer) setMode(a *Answer, p *Endpoint, w *model.Workload, mode model.Mode, effect string) Change {
	source := p.decision.Source
	narrow := p.decision.Rank == model.RankPort || p.decision.Rank == model.RankWorkload
	_, port, _ := cutPort(p.Address)
	switch {
	case narrow && source.Kind == "PeerAuthentication":
		field := "spec.mtls.mode"
		if p.decision.Rank == model.RankPort {
			field = "spec.portLevelMtls[" + port + "].mode"
		}
		return Change{Object: source.String(), At: p.At, Field: field, Value: mode.String(), Effect: effect}
	case narrow:
		return Change{Object: source.String(), At: p.At, Field: "spec.peers", Value: peers(mode), Effect: effect}
	case a.To.svc != nil && a.To.svc.Name != "" && a.To.svc.Namespace == w.ID.Namespace:
		return Change{Object: "a new Policy in namespace " + w.ID.Namespace, Field: "spec",
			Value:  fmt.Sprintf("{targets: [{name: %s, ports: [{number: %d}]}], peers: %s}", a.To.svc.Name, a.To.port.Number, peers(mode)),
			Effect: effect}
	default:
		return Change{Object: "a new PeerAuthentication in namespace " + w.ID.Namespace, Field: "spec",
			Value:  fmt.Sprintf("{selector: {matchLabels: %s}, portLevelMtls: {%s: {mode: %s}}}", labels(w), port, mode),
			Effect: effect}
	}
}

func peers(mode model.Mode) string {
	switch mode {
	case model.Disable:
		return "[]"
	case model.Strict:
		return "[{mtls: {}}]"
	default:
		return "[{mtls: {mode: " + mode.String() + "}}]"
	}
}

// labels are those of w that one would select it by.
func labels(w *model.Workload) string {
	for _, key := range []string{"app", "app.kubernetes.io/name", "k8s-app"} {
		if value := w.Labels[key]; value != "" {
			return "{" + key + ": " + value + "}"
		}
	}
	return "{…labels of " + w.ID.String() + "}"
}

func cutPort(address string) (host, port string, ok bool) {
	i := strings.LastIndexByte(address, ':')
	if i < 0 {
		return address, "", false
	}
	return address[:i], address[i+1:], true
}

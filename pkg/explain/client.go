package explain

import (
	"cmp"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate/simulate"
)

// reason is what decided about what the client side sends: the steps of spec
// client-tls.md 1, and what comes before them.
type reason uint8

const (
	reasonNoProxy     reason = iota // the caller has no sidecar
	reasonPassedOn                  // the sidecar knows no service for it
	reasonRule                      // a DestinationRule
	reasonExcluded                  // mtlsExcludedServices
	reasonExternal                  // outside the mesh
	reasonAccepts                   // AUTO, and the endpoint accepts
	reasonBare                      // AUTO, and the endpoint has no sidecar
	reasonAside                     // AUTO, and its sidecar does not see the port
	reasonDisabled                  // AUTO, and its mode is DISABLE
	reasonUnderWay                  // AUTO, and the phase of a change is not there yet
	reasonServerFirst               // AUTO, and it takes plaintext only
	reasonNobody                    // AUTO, and there is no endpoint
	reasonMeshConfig                // enableAutoMtls is false
)

func (e *Explainer) reason(from Caller, to Target, at *Endpoint) reason {
	switch {
	case !from.Sidecar:
		return reasonNoProxy
	case to.svc == nil || to.Hidden || at.outcome.Cluster != "" && !strings.HasPrefix(at.outcome.Cluster, "outbound|"):
		return reasonPassedOn
	}
	switch to.port.Step {
	case model.StepRule:
		return reasonRule
	case model.StepExcluded:
		return reasonExcluded
	case model.StepExternal:
		return reasonExternal
	case model.StepMeshConfig:
		return reasonMeshConfig
	}
	switch {
	case at.Address == "":
		return reasonNobody
	case !at.Sidecar && at.aside:
		return reasonAside
	case !at.Sidecar:
		return reasonBare
	case at.outcome.Sent == simulate.MeshTLS:
		return reasonAccepts
	case at.Phase != "":
		return reasonUnderWay
	case at.decision.Mode == model.Disable:
		return reasonDisabled
	default:
		return reasonServerFirst
	}
}

// why is the reason in words.
func (e *Explainer) why(from Caller, to Target, at *Endpoint) string {
	switch at.reason {
	case reasonNoProxy:
		return "the caller has no sidecar, so its own bytes go out"
	case reasonPassedOn:
		return passedOn(from, to)
	case reasonRule:
		return e.ruleWords(from, to, &to.port.Upstream)
	case reasonExcluded:
		return "mtlsExcludedServices names the host (" + e.exclusion(to.svc.Host) + ")"
	case reasonExternal:
		return to.svc.Key.String() + " is outside the mesh"
	case reasonAccepts:
		return "AUTO: it has a sidecar and accepts mesh mTLS"
	case reasonBare:
		return "AUTO: it has no sidecar"
	case reasonAside:
		return "AUTO: its capture annotations keep the port from its sidecar"
	case reasonUnderWay:
		return "AUTO: a change to " + at.Mode + " is under way, in which clients do not send mTLS now"
	case reasonDisabled:
		return "AUTO: its mode is DISABLE"
	case reasonServerFirst:
		return "AUTO: " + to.Protocol + " servers speak first, and such a port takes plaintext only in PERMISSIVE"
	case reasonNobody:
		return "AUTO: nobody is there to ask"
	}
	if e.snapshot.Mesh().MutualTLS {
		return "enableAutoMtls is false and authPolicy is MUTUAL_TLS"
	}
	return "enableAutoMtls is false and authPolicy is NONE"
}

func (e *Explainer) ruleWords(from Caller, to Target, u *model.Upstream) string {
	if u.StandIn {
		return u.By() + place(e.place(u.Source)) + ", so mesh mTLS goes to those who accept it, and nothing to anybody else"
	}
	mode := map[model.ClientTLS]string{model.ClientMesh: "ISTIO_MUTUAL", model.ClientSimple: "SIMPLE", model.ClientMutual: "MUTUAL"}[u.TLS]
	where := ""
	if block := e.block(from, to, u); block != "" {
		where = " in " + block
	}
	return u.By() + " says " + cmp.Or(mode, "DISABLE") + where + place(e.place(u.Source))
}

func passedOn(from Caller, to Target) string {
	switch {
	case to.Hidden:
		return to.Service + " is not exported to namespace " + from.id.Namespace + ", so the call is passed on untouched"
	case to.Kind == KindPod && to.svc != nil && to.svc.Resolution == model.ResolveHeadless:
		return "the call names the pod's address and not the host " + to.svc.Host + ", so it is passed on untouched"
	case to.Kind == KindPod:
		return "calls to a pod's own address are passed on untouched"
	default:
		return "no service of the mesh has this address, so the call is passed on untouched"
	}
}

// exclusion is the entry that excludes host.
func (e *Explainer) exclusion(host string) string {
	for _, entry := range e.snapshot.Mesh().Excluded {
		one := model.Mesh{Excluded: []string{entry}}
		if one.Excludes(host) {
			return entry
		}
	}
	return ""
}

// verdict sums up the endpoints.
func verdict(endpoints []Endpoint) Verdict {
	works, refused := 0, 0
	sent := map[simulate.Sent]int{}
	for i := range endpoints {
		switch {
		case endpoints[i].works():
			works++
			sent[endpoints[i].outcome.Sent]++
		case endpoints[i].refusesPlaintext():
			refused++
		}
	}
	switch {
	case len(endpoints) == 0 || len(endpoints) == 1 && endpoints[0].nobody():
		return VerdictNobody
	case works == 0 && refused == len(endpoints):
		return VerdictRefused
	case works == 0:
		return VerdictFails
	case works < len(endpoints):
		return VerdictPartly
	case sent[simulate.MeshTLS] == works:
		return VerdictMTLS
	case sent[simulate.AppTLS] == works:
		return VerdictAppTLS
	case sent[simulate.SimpleTLS]+sent[simulate.MutualTLS] == works:
		return VerdictRuleTLS
	case sent[simulate.Plaintext] == works:
		return VerdictPlaintext
	default:
		return VerdictMixed
	}
}

// resultLeaves is of calls that no proxy of the mesh sees.
const resultLeaves = "leaves"

func (p *Endpoint) works() bool { return p.outcome.Works() || p.outcome.Result == resultLeaves }

// refusesPlaintext says whether the call failed because it came in plaintext,
// or in a TLS without the mesh's certificate.
func (p *Endpoint) refusesPlaintext() bool {
	return !p.works() && !p.ownTLS() && p.Sidecar && p.decision.RefusesPlaintext()
}

// ownTLS says whether the client side adds TLS to what the application sends.
func (p *Endpoint) ownTLS() bool {
	return p.outcome.Sent != simulate.Plaintext && p.outcome.Sent != simulate.AppTLS && p.outcome.Sent != ""
}

func (p *Endpoint) nobody() bool {
	o := &p.outcome
	return !p.works() && o.Endpoint == "" && o.Chain == "" &&
		(strings.HasSuffix(o.Why, "has no endpoints") || strings.HasPrefix(o.Why, "nobody is behind "))
}

// plain says whether plaintext is sent, or would be if somebody were there.
func (p *Endpoint) plain() bool {
	return p.outcome.Sent == simulate.Plaintext || p.nobody() && p.reason != reasonNobody && p.reason != reasonAccepts
}

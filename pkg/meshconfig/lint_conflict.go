package meshconfig

import (
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
)

// conflicts finds clients that send what an endpoint refuses because a rule or
// the mesh configuration says so. AUTO never does.
func (l *linter) conflicts(mesh model.Key) {
	services := map[string]*model.Service{}
	for i := range l.in.Services {
		services[l.in.Services[i].Host] = &l.in.Services[i]
	}
	x := &conflictFinder{linter: l, mesh: mesh, special: map[string][]string{}}
	for _, form := range l.snapshot.Variants() {
		x.special[form.Host] = append(x.special[form.Host], form.Namespaces...)
	}
	for _, svc := range l.snapshot.Services() {
		x.service(svc, services[svc.Host], nil)
	}
	for _, form := range l.snapshot.Variants() {
		x.service(form.OutboundService, services[form.Host], form.Namespaces)
	}
}

type conflictFinder struct {
	*linter
	mesh    model.Key
	special map[string][]string // by host: namespaces that see another form than most
	clients []string            // namespaces with sidecars; made when first asked
}

// service looks at one form of a service; clients nil are all that see no
// other form.
func (x *conflictFinder) service(svc *model.OutboundService, in *model.Service, clients []string) {
	for i := range in.Ports {
		p := &in.Ports[i]
		u := svc.At(p.Number)
		if u.StandIn || u.Step == model.StepAuto || u.Step == model.StepExternal {
			continue
		}
		said := map[string]bool{}
		for j := range p.Endpoints {
			reason := x.refusal(&u.Upstream, &p.Endpoints[j])
			if reason == "" || said[reason] {
				continue
			}
			said[reason] = true
			names := x.names(svc, clients)
			if names == "" {
				continue
			}
			on, field := x.culprit(&u.Upstream)
			x.found(remark{codeConflict, on, field,
				"clients in " + names + " send " + sends(u.TLS) + " (" + u.By() + ") to ", ", " + reason + advice(&u.Upstream)}, svc.Host, p.Number)
		}
	}
}

// refusal is why an endpoint refuses what it is sent; empty if it does not.
func (x *conflictFinder) refusal(u *model.Upstream, e *model.Endpoint) string {
	sidecar := e.Workload != model.WorkloadID{} && x.snapshot.HasSidecar(e.Workload)
	d := x.snapshot.Decision(e.Workload, e.Port)
	by := d.By() + " says " + d.Mode.String()
	switch u.TLS {
	case model.ClientPlain:
		if sidecar && d.Mode.Phase() >= model.PhaseGrace {
			return "which refuses plaintext: " + by
		}
	case model.ClientSimple:
		if sidecar && d.Mode == model.Strict {
			return "which refuses clients without a certificate of the mesh: " + by
		}
	case model.ClientMesh:
		switch {
		case !sidecar:
			return "which has endpoints without a sidecar: nothing there ends mesh mTLS"
		case d.Mode == model.Disable:
			return "which takes plaintext only: " + by
		case !x.snapshot.AcceptsMesh(e.Workload, e.Port):
			return "which is server-first and so takes plaintext only while it is PERMISSIVE"
		}
	}
	return ""
}

// advice is what to write instead.
func advice(u *model.Upstream) string {
	switch {
	case u.Step == model.StepRule && u.TLS == model.ClientMesh:
		return "; let the rule say DISABLE there, or leave tls out of it"
	case u.Step == model.StepRule:
		return "; let the rule say ISTIO_MUTUAL there, or leave tls out of it"
	case u.Step == model.StepExcluded:
		return "; take it out of mtlsExcludedServices"
	case u.TLS == model.ClientMesh:
		return "; switch enableAutoMtls on, or list it in mtlsExcludedServices"
	default:
		return "; switch enableAutoMtls on, or write a DestinationRule with mode ISTIO_MUTUAL"
	}
}

func sends(t model.ClientTLS) string {
	switch t {
	case model.ClientMesh:
		return "mesh mTLS"
	case model.ClientSimple:
		return "TLS without a certificate"
	default:
		return "plaintext"
	}
}

// culprit is the object that makes clients send it.
func (x *conflictFinder) culprit(u *model.Upstream) (model.Key, string) {
	switch u.Step {
	case model.StepRule:
		return u.Source, ""
	case model.StepExcluded:
		return x.mesh, "mtlsExcludedServices"
	default:
		return x.mesh, "enableAutoMtls"
	}
}

// names are the namespaces, with sidecars in them, whose clients see a form.
func (x *conflictFinder) names(svc *model.OutboundService, clients []string) string {
	if x.clients == nil {
		x.clients = []string{}
		for _, w := range x.snapshot.Workloads() { // sorted by namespace
			if n := len(x.clients); x.snapshot.HasSidecar(w.ID) && (n == 0 || x.clients[n-1] != w.ID.Namespace) {
				x.clients = append(x.clients, w.ID.Namespace)
			}
		}
	}
	p := &places{}
	for _, namespace := range x.clients {
		mine := clients == nil && !slices.Contains(x.special[svc.Host], namespace) || slices.Contains(clients, namespace)
		if mine && svc.ExportedTo(namespace) {
			p.add(namespace)
		}
	}
	switch p.count {
	case 0:
		return ""
	case 1:
		return "namespace " + p.String()
	default:
		return "namespaces " + strings.Replace(p.String(), " and ", ", and ", 1)
	}
}

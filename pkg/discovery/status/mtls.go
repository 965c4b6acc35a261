package status

import (
	"cmp"
	"net/http"
	"slices"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

// Verdicts of /debug/mtls.
const (
	verdictOK       = "OK"       // every endpoint accepts what the clients send
	verdictMixed    = "MIXED"    // and clients send mTLS to some, plaintext to others
	verdictConflict = "CONFLICT" // some endpoint refuses what the clients send
)

// portReport is one service port as a set of client namespaces sees it.
type portReport struct {
	Service  string       `json:"service"`
	Port     uint16       `json:"port"`
	Protocol string       `json:"protocol"`
	Servers  []modeReport `json:"servers"` // one for each reason that endpoints have
	Client   clientReport `json:"client"`
	Verdict  string       `json:"verdict"`
}

// modeReport is a mode and the endpoints that have it for the same reason.
type modeReport struct {
	Mode      string     `json:"mode"` // NO_SIDECAR: what the application accepts
	Rank      model.Rank `json:"rank,omitempty"`
	Source    string     `json:"source,omitempty"`
	Phase     string     `json:"phase,omitempty"` // what is in force on the way to the mode
	Blockers  []string   `json:"blockers,omitempty"`
	Endpoints []string   `json:"endpoints"`
}

type clientReport struct {
	Namespaces []string `json:"namespaces"`
	TLS        string   `json:"tls"`
	Step       int      `json:"step"` // of the decision, by number
	Source     string   `json:"source"`
}

func (p Pages) mtls(r *http.Request, s State) (any, error) {
	if s.Snapshot == nil {
		return nil, notYet()
	}
	service, namespace := r.FormValue("service"), r.FormValue("namespace")
	mesh := newEndpointIndex(s.Snapshot)
	mesh.follow(s.Rollouts)
	seenBy := visibility(s.Snapshot, namespace)
	out := []portReport{}
	for _, svc := range seenBy.forms {
		if service != "" && service != svc.Host {
			continue
		}
		for _, port := range svc.Ports {
			endpoints := mesh.of(svc, port)
			out = append(out, portReport{
				Service: svc.Host, Port: port.Number, Protocol: port.Protocol.String(),
				Servers: servers(endpoints),
				Client:  clientReport{seenBy.namespaces[svc], port.TLS.String(), int(port.Step), clientSource(svc, &port.Upstream)},
				Verdict: verdict(port, endpoints),
			})
		}
	}
	return out, nil
}

// seen is which namespaces with workloads see a service in which form.
type seen struct {
	forms      []*model.OutboundService // by host, then first namespace
	namespaces map[*model.OutboundService][]string
}

func visibility(s *model.Snapshot, only string) seen {
	out := seen{namespaces: map[*model.OutboundService][]string{}}
	last := ""
	for _, w := range s.Workloads() { // sorted by namespace
		ns := w.ID.Namespace
		if ns == last || only != "" && ns != only {
			continue
		}
		last = ns
		for _, svc := range s.ClientView(model.ClientClass{Namespace: ns}).Services {
			if len(out.namespaces[svc]) == 0 {
				out.forms = append(out.forms, svc)
			}
			out.namespaces[svc] = append(out.namespaces[svc], ns)
		}
	}
	slices.SortStableFunc(out.forms, func(a, b *model.OutboundService) int { return cmp.Compare(a.Host, b.Host) })
	return out
}

// clientSource is what decided, with the object that puts a service outside.
func clientSource(svc *model.OutboundService, u *model.Upstream) string {
	if u.Step == model.StepExternal {
		return svc.Key.String() + " is outside the mesh"
	}
	return u.By()
}

// servers groups endpoints by mode and reason, in the order of first address.
func servers(endpoints []endpoint) []modeReport {
	out := []modeReport{}
	for _, e := range endpoints {
		report := modeReport{Mode: "NO_SIDECAR"}
		if e.sidecar {
			report = modeReport{
				Mode: e.decision.Mode.String(), Rank: e.decision.Rank,
				Source: e.decision.By(), Phase: e.decision.Phase.String(),
			}
		}
		i := slices.IndexFunc(out, func(o modeReport) bool {
			return o.Mode == report.Mode && o.Phase == report.Phase && o.Rank == report.Rank && o.Source == report.Source
		})
		if i < 0 {
			i = len(out)
			out = append(out, report)
		}
		out[i].Endpoints = append(out[i].Endpoints, e.label())
		for _, b := range e.blockers {
			if text := b.String(); !slices.Contains(out[i].Blockers, text) {
				out[i].Blockers = append(out[i].Blockers, text)
			}
		}
	}
	return out
}

func verdict(port *model.OutboundPort, endpoints []endpoint) string {
	for _, e := range endpoints {
		if refuses(e, port.TLS) && !port.StandIn { // which sends nothing there
			return verdictConflict
		}
	}
	if port.TLS == model.ClientMixed {
		return verdictMixed
	}
	return verdictOK
}

// refuses says whether an endpoint refuses what it is sent. With MUTUAL it
// depends on a certificate that is not known here.
func refuses(e endpoint, tls model.ClientTLS) bool {
	switch tls {
	case model.ClientPlain:
		return e.sidecar && e.decision.RefusesPlaintext()
	case model.ClientMixed:
		return !e.MeshTLS && e.sidecar && e.decision.RefusesPlaintext()
	case model.ClientMesh:
		return !e.MeshTLS
	case model.ClientSimple:
		return e.sidecar && e.decision.Mode == model.Strict && e.decision.Phase == model.PhaseStrict
	default:
		return false
	}
}

// endpoint is an endpoint with what is known about its workload.
type endpoint struct {
	model.OutboundEndpoint
	workload string
	sidecar  bool
	decision model.Decision
	blockers []rollout.Blocker // of the step that it is to make
}

func (e endpoint) label() string { return cmp.Or(e.workload, e.Address) }

// endpointIndex finds the endpoints of a service port, and their workloads.
type endpointIndex struct {
	snapshot  *model.Snapshot
	groups    map[groupKey][]model.OutboundEndpoint
	byAddress map[string]*model.Workload
	underWay  map[model.WorkloadID]map[uint16]*Rollout
}

type groupKey struct {
	host string
	port uint16
}

func newEndpointIndex(s *model.Snapshot) *endpointIndex {
	x := &endpointIndex{snapshot: s, groups: map[groupKey][]model.OutboundEndpoint{}, byAddress: map[string]*model.Workload{}}
	for _, g := range s.Endpoints() {
		if g.Subset != "" || g.Variant != "" {
			continue
		}
		x.groups[groupKey{g.Host, g.Port}] = g.Endpoints
	}
	for _, w := range s.Workloads() {
		x.byAddress[w.Address] = w
	}
	return x
}

// follow finds the targets that are under way.
func (x *endpointIndex) follow(rollouts []Rollout) {
	x.underWay = map[model.WorkloadID]map[uint16]*Rollout{}
	for i := range rollouts {
		r := &rollouts[i]
		if r.Settled {
			continue
		}
		for _, id := range r.Wanted.Workloads {
			if x.underWay[id] == nil {
				x.underWay[id] = map[uint16]*Rollout{}
			}
			x.underWay[id][r.Wanted.Port] = r
		}
	}
}

func (x *endpointIndex) of(svc *model.OutboundService, port *model.OutboundPort) []endpoint {
	list := port.Endpoints
	if group, ok := x.groups[groupKey{svc.Host, port.Number}]; ok {
		list = group
	}
	out := make([]endpoint, 0, len(list))
	for _, e := range list {
		found := endpoint{OutboundEndpoint: e}
		if w := x.byAddress[e.Address]; w != nil {
			found.workload = w.ID.String()
			found.sidecar = x.snapshot.HasSidecar(w.ID)
			found.decision = x.snapshot.Decision(w.ID, e.Port)
			if r := x.underWay[w.ID][e.Port]; r != nil {
				found.blockers = r.Waits
			}
		}
		out = append(out, found)
	}
	return out
}

func (p Pages) endpoints(r *http.Request, s State) (any, error) {
	type row struct {
		Address  string `json:"address"`
		Port     uint16 `json:"port"`
		Workload string `json:"workload,omitempty"`
		Locality string `json:"locality,omitempty"`
		Sidecar  bool   `json:"sidecar"`
		Mode     string `json:"mode,omitempty"` // only with a sidecar
		MeshTLS  bool   `json:"acceptsMeshTls"`
	}
	type portRows struct {
		Port      uint16 `json:"port"`
		Name      string `json:"name,omitempty"`
		Endpoints []row  `json:"endpoints"`
	}
	if s.Snapshot == nil {
		return nil, notYet()
	}
	host := r.FormValue("service")
	services := s.Snapshot.Services()
	i := slices.IndexFunc(services, func(svc *model.OutboundService) bool { return svc.Host == host })
	if i < 0 {
		return nil, refusal{http.StatusNotFound, "no service has the host " + host + "; write it fully qualified"}
	}
	mesh := newEndpointIndex(s.Snapshot)
	out := []portRows{}
	for _, port := range services[i].Ports {
		rows := []row{}
		for _, e := range mesh.of(services[i], port) {
			entry := row{e.Address, e.Port, e.workload, locality(e.Locality), e.sidecar, "", e.MeshTLS}
			if e.sidecar {
				entry.Mode = e.decision.Mode.String()
			}
			rows = append(rows, entry)
		}
		out = append(out, portRows{port.Number, port.Name, rows})
	}
	return out, nil
}

func locality(l model.Locality) string {
	text := l.Region
	for _, part := range []string{l.Zone, l.SubZone} {
		if part != "" {
			text += "/" + part
		}
	}
	return text
}

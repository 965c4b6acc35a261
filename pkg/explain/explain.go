// Package explain says, for a caller and a host:port, which mode the server
// has and why, what the client side sends and why, what becomes of a call now,
// and what to change. Reasons come from the snapshot; what happens comes from
// simulate on the generated configuration, so that it cannot disagree with
// what Envoys get. It is pure, and an Explainer is for one goroutine.
package explain

import (
	"cmp"
	"net"
	"slices"
	"strconv"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate/simulate"
)

// Explainer answers questions about one snapshot.
type Explainer struct {
	snapshot  *model.Snapshot
	place     func(model.Key) string
	mesh      *simulate.Mesh
	whole     bool // mesh holds every workload
	views     map[string]map[string]*model.OutboundService
	groups    map[string][]model.OutboundEndpoint // by host:port
	byAddress map[string]*model.Workload
}

// New is an Explainer for s. Place says where an object was written, as
// file:line; it may be nil, and say nothing.
func New(s *model.Snapshot, place func(model.Key) string) *Explainer {
	if place == nil {
		place = func(model.Key) string { return "" }
	}
	e := &Explainer{
		snapshot: s, place: place,
		views:     map[string]map[string]*model.OutboundService{},
		groups:    map[string][]model.OutboundEndpoint{},
		byAddress: map[string]*model.Workload{},
	}
	for _, g := range s.Endpoints() {
		if _, known := e.groups[join(g.Host, g.Port)]; !known && g.Subset == "" { // the variant of most comes first
			e.groups[join(g.Host, g.Port)] = g.Endpoints
		}
	}
	for _, w := range s.Workloads() {
		if e.byAddress[w.Address] == nil {
			e.byAddress[w.Address] = w
		}
	}
	return e
}

// Answer is everything about one caller and one destination.
type Answer struct {
	From    Caller  `json:"from"`
	To      Target  `json:"to"`
	Verdict Verdict `json:"verdict"`
	// Now is what a call would do now, in one sentence.
	Now       string     `json:"now"`
	Endpoints []Endpoint `json:"endpoints"`
	// TLS is what the client side asks of a server in mesh mTLS, or in TLS of a
	// DestinationRule; nil if it sends none.
	TLS *simulate.TLS `json:"tls,omitempty"`
	// Rules are the DestinationRules for the host, and Subsets what they
	// define; none where the caller's sidecar has no say.
	Rules   []Rule   `json:"rules,omitempty"`
	Subsets []Subset `json:"subsets,omitempty"`
	Notes   []string `json:"notes,omitempty"`
	// Change is what to change, if the call is refused, fails or is plaintext.
	Change []Change `json:"change,omitempty"`
}

// Caller is who calls.
type Caller struct {
	Workload string `json:"workload"`
	Sidecar  bool   `json:"sidecar"`
	Capture  string `json:"capture,omitempty"` // only with a sidecar

	id    model.WorkloadID
	key   model.Key
	class model.ClientClass
}

// Kind is what a destination is.
type Kind string

// The kinds of destinations.
const (
	KindService  Kind = "service"
	KindHeadless Kind = "headless service"
	KindExternal Kind = "service outside the mesh"
	KindPod      Kind = "pod address"
	KindUnknown  Kind = "unknown host"
)

// Target is where a call goes.
type Target struct {
	Asked    string `json:"asked"`
	Kind     Kind   `json:"kind"`
	Host     string `json:"host"`
	Port     uint16 `json:"port"`
	Protocol string `json:"protocol"`
	Service  string `json:"service,omitempty"` // the object
	Hidden   bool   `json:"hidden,omitempty"`  // not exported to the caller's namespace

	svc     *model.OutboundService // nil if no service is known
	port    *model.OutboundPort
	dial    []string // the addresses that the caller may choose from
	speaks  simulate.Protocol
	ordinal bool // one pod of a headless service, by its own name
}

// Verdict is the outcome in a word.
type Verdict string

// The verdicts.
const (
	VerdictMTLS      Verdict = "mTLS"         // works, all of it in mesh mTLS
	VerdictPlaintext Verdict = "plaintext"    // works, all of it in plaintext
	VerdictMixed     Verdict = "mixed"        // works, in one of these or another by endpoint
	VerdictAppTLS    Verdict = "app TLS"      // works, in the application's own TLS
	VerdictRuleTLS   Verdict = "TLS"          // works, in TLS that a DestinationRule adds
	VerdictRefused   Verdict = "refused"      // every endpoint refuses plaintext
	VerdictPartly    Verdict = "partly"       // some endpoints fail
	VerdictFails     Verdict = "fails"        // all endpoints fail
	VerdictNobody    Verdict = "no endpoints" // there is nobody to call
)

// Endpoint is one endpoint: what it accepts, what it is sent, what follows.
type Endpoint struct {
	Address  string `json:"address"`
	Workload string `json:"workload,omitempty"`
	Sidecar  bool   `json:"sidecar"`
	// Mode, Rank, Phase, Source and Losers are only there with a sidecar.
	Mode   string  `json:"mode,omitempty"`
	Rank   string  `json:"rank,omitempty"`   // in words
	Phase  string  `json:"phase,omitempty"`  // in force on the way to the mode; empty: there
	Source string  `json:"source,omitempty"` // what decided
	At     string  `json:"at,omitempty"`     // file:line of the source
	Losers []Loser `json:"losers,omitempty"`
	Sends  string  `json:"sends"` // what the client side sends
	Why    string  `json:"why"`   // it sends that
	Result string  `json:"result"`
	Fails  string  `json:"fails,omitempty"` // why, if it does

	outcome  simulate.Outcome
	aside    bool // capture keeps the port from the workload's sidecar
	decision model.Decision
	reason   reason
}

// Loser is an object that would decide the mode if the winner were not there.
type Loser struct {
	Object string `json:"object"`
	Mode   string `json:"mode,omitempty"` // empty: it lost the tie within its rank
	Rank   string `json:"rank"`
	At     string `json:"at,omitempty"`
}

// Ask answers for one caller (NAMESPACE/WORKLOAD, or NAMESPACE for a workload
// of it) and one destination (HOST:PORT). An error says what was not found.
func (e *Explainer) Ask(from, to string) (Answer, error) {
	caller, err := e.caller(from)
	if err != nil {
		return Answer{}, err
	}
	target, err := e.target(to, caller)
	if err != nil {
		return Answer{}, err
	}
	if !e.whole {
		e.mesh = simulate.Of(e.snapshot, e.involved(caller, target)...)
	}
	a := e.answer(caller, target)
	e.losers(a.Endpoints)
	a.Rules, a.Subsets = e.rules(&a), e.subsets(&a)
	a.Notes = e.notes(&a)
	a.Change = e.changes(&a)
	return a, nil
}

// involved are the workloads whose configuration decides about the call.
func (e *Explainer) involved(from Caller, to Target) []model.WorkloadID {
	ids := []model.WorkloadID{from.id}
	add := func(address string) {
		if w := e.byAddress[address]; w != nil {
			ids = append(ids, w.ID)
		}
	}
	for _, address := range to.dial {
		add(address)
	}
	for _, g := range e.snapshot.Endpoints() { // rules may choose among them
		for i := range g.Endpoints {
			if to.svc != nil && g.Host == to.svc.Host && g.Port == to.port.Number {
				add(g.Endpoints[i].Address)
			}
		}
	}
	return ids
}

// answer follows the call; who wants only the verdict needs no more.
func (e *Explainer) answer(from Caller, to Target) Answer {
	a := Answer{From: from, To: to}
	for _, outcome := range e.outcomes(from, to) {
		endpoint := e.endpoint(from, to, outcome)
		if endpoint.ownTLS() && a.TLS == nil {
			tls := outcome.TLS
			a.TLS = &tls
		}
		a.Endpoints = append(a.Endpoints, endpoint)
	}
	a.Verdict = verdict(a.Endpoints)
	a.Now = now(&a)
	return a
}

// outcomes are what simulate says: of a headless service, for each address
// that the caller may choose.
func (e *Explainer) outcomes(from Caller, to Target) []simulate.Outcome {
	leaves := to.svc == nil && to.Kind == KindUnknown || to.Kind == KindExternal
	if leaves && !from.Sidecar {
		return []simulate.Outcome{{Result: "leaves", Sent: raw(to.speaks)}}
	}
	var out []simulate.Outcome
	for _, address := range to.dial {
		out = append(out, e.mesh.Call(simulate.Call{
			From: from.id, Host: to.Host, Address: address, Port: to.Port, Protocol: to.speaks,
		})...)
		if from.Capture == model.CaptureNone.String() && from.Sidecar {
			break // its proxy goes by name, so it chooses
		}
	}
	return out
}

func raw(p simulate.Protocol) simulate.Sent {
	if p == simulate.HTTPS {
		return simulate.AppTLS
	}
	return simulate.Plaintext
}

// endpointsOf are those that get traffic.
func (e *Explainer) endpointsOf(svc *model.OutboundService, port *model.OutboundPort) []model.OutboundEndpoint {
	if port == nil {
		return nil
	}
	if group, ok := e.groups[join(svc.Host, port.Number)]; ok {
		return group
	}
	return port.Endpoints
}

func (e *Explainer) endpoint(from Caller, to Target, o simulate.Outcome) Endpoint {
	out := Endpoint{
		Address: o.Endpoint, Sends: string(o.Sent), Result: o.Result, Fails: cmp.Or(o.Body, o.Why),
		outcome: o, decision: model.Decision{Rank: model.RankNone},
	}
	host, number, err := net.SplitHostPort(o.Endpoint)
	port, _ := strconv.ParseUint(number, 10, 16)
	w := e.byAddress[host]
	if err == nil && w != nil {
		out.Workload, out.Sidecar = w.ID.String(), e.snapshot.HasSidecar(w.ID)
		out.aside = out.Sidecar && !w.Inbound.Has(uint16(port))
		out.Sidecar = out.Sidecar && !out.aside
	}
	if out.Sidecar {
		e.serverSide(&out, w.ID, uint16(port))
	}
	out.reason = e.reason(from, to, &out)
	out.Why = e.why(from, to, &out)
	return out
}

func (e *Explainer) serverSide(out *Endpoint, id model.WorkloadID, port uint16) {
	d := e.snapshot.Decision(id, port)
	out.decision = d
	out.Mode, out.Rank, out.Source, out.At = d.Mode.String(), rankWords(d.Rank), d.By(), e.place(d.Source)
	if d.Phase != d.Mode.Phase() {
		out.Phase = d.Phase.String()
	}
}

// losers fills in what lost against each decision: its equals, then what the
// later ranks say. authPolicy is only worth a word if it says something else.
func (e *Explainer) losers(endpoints []Endpoint) {
	for i := range endpoints {
		p := &endpoints[i]
		if !p.Sidecar {
			continue
		}
		_, port, _ := cutPort(p.Address)
		number, _ := strconv.ParseUint(port, 10, 16)
		for rank, d := range e.snapshot.Ranks(e.workloadOf(p).ID, uint16(number)) {
			if rank > 0 && (d.Rank != model.RankMeshConfig || d.Mode != p.decision.Mode) {
				p.Losers = append(p.Losers, Loser{Object: d.By(), Mode: d.Mode.String(), Rank: rankWords(d.Rank), At: e.place(d.Source)})
			}
			for _, key := range d.Losers {
				p.Losers = append(p.Losers, Loser{Object: key.String(), Rank: rankWords(d.Rank), At: e.place(key)})
			}
		}
	}
}

// rankWords is what a statement of the rank is about.
func rankWords(r model.Rank) string {
	switch r {
	case model.RankPort:
		return "port"
	case model.RankWorkload:
		return "workload"
	case model.RankNamespace:
		return "namespace"
	case model.RankMesh:
		return "mesh"
	case model.RankAnnotation:
		return "annotation"
	case model.RankMeshConfig:
		return "mesh config"
	default:
		return "default"
	}
}

func join(host string, port uint16) string { return net.JoinHostPort(host, strconv.Itoa(int(port))) }

// services are what a client namespace sees, by host.
func (e *Explainer) services(namespace string) map[string]*model.OutboundService {
	if known := e.views[namespace]; known != nil {
		return known
	}
	view := map[string]*model.OutboundService{}
	for _, svc := range e.snapshot.ClientView(model.ClientClass{Namespace: namespace}).Services {
		view[svc.Host] = svc
	}
	e.views[namespace] = view
	return view
}

func (e *Explainer) anyService(host string) *model.OutboundService {
	all := e.snapshot.Services()
	i := slices.IndexFunc(all, func(s *model.OutboundService) bool { return s.Host == host })
	if i < 0 {
		return nil
	}
	return all[i]
}

package model

import (
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Upstream is what a client class sends to a service port, or to a subset of
// its endpoints, and why. Immutable.
type Upstream struct {
	Subset string // empty: all endpoints
	// Variant tells apart endpoint groups of one port and subset that differ
	// between client namespaces; empty for most.
	Variant string
	TLS     ClientTLS
	Step    ClientStep // that decided TLS
	Source  Key        // of StepRule: the rule
	// StandIn: the rule is invalid, so nothing but mesh mTLS goes out, and only
	// to endpoints that accept it.
	StandIn bool
	// SANs are the URIs that the endpoints' certificates may carry, sorted;
	// empty: any of the trust domains, or what Traffic.TLS says.
	SANs []string
	// ModesHash changes when endpoints change verdict by policy; set for
	// ClientMixed, so that the cluster is re-created with them.
	ModesHash string
	// Endpoints of services whose clusters or listeners name them: headless,
	// DNS, and mixed ones that clients reach at their original address. The
	// EDS ones are in EndpointGroup.
	Endpoints []OutboundEndpoint
	Traffic   Traffic // of the rule; TLS set only at StepRule
	From      []Key   // the rules that say so, for provenance
}

// ClientStep is the step of spec client-tls.md 1 that decided.
type ClientStep uint8

// The steps, in their order.
const (
	StepRule ClientStep = iota + 1
	StepExcluded
	StepExternal
	StepAuto
	StepMeshConfig
)

// By is what decided, as reports name it: "DestinationRule shop/cart", "mesh
// config enableAutoMtls".
func (u *Upstream) By() string {
	switch u.Step {
	case StepRule:
		if u.StandIn {
			return u.Source.String() + " which is invalid"
		}
		return u.Source.String()
	case StepExcluded:
		return "mesh config mtlsExcludedServices"
	case StepExternal:
		return "its place outside the mesh"
	case StepAuto:
		return "mesh config enableAutoMtls"
	default:
		return "mesh config authPolicy"
	}
}

// Original says whether captured clients go to the address that they chose
// themselves, where no endpoint is known to the cluster.
func (u *Upstream) Original(r Resolution) bool {
	return r == ResolveHeadless || r == ResolveNone || u.Traffic.LoadBalancer == Passthrough
}

// population is the endpoints behind a service port or subset.
type population struct {
	ready     []OutboundEndpoint // get traffic; sorted by address
	accepting int                // of those asked, who takes mesh mTLS
	asked     int                // the ready ones or, if there are none, all
	// Of all: who will take mesh mTLS when a change that is under way ends,
	// and who still takes it until one ends.
	soon, still int
}

// populate finds the endpoints of a port that have the labels.
func (s *Snapshot) populate(in *ServicePort, labels map[string]string) population {
	p := population{ready: make([]OutboundEndpoint, 0, len(in.Endpoints))}
	waiting, all := 0, 0
	for i := range in.Endpoints {
		e := &in.Endpoints[i]
		h := s.byID[e.Workload]
		if len(labels) > 0 && !e.has(labels, h) {
			continue
		}
		all++
		mesh := h != nil && s.acceptsMesh(h, e.Port)
		if h != nil && h.sidecar {
			d := h.decision(e.Port)
			switch ends := d.Mode.Phase() >= PhaseMoved; {
			case ends && d.Phase < PhaseMoved:
				p.soon++
			case !ends && d.Phase >= PhaseMoved:
				p.still++
			}
		}
		switch {
		case !e.Ready && mesh:
			waiting++
		case e.Ready && mesh:
			p.accepting++
		}
		if e.Ready {
			p.ready = append(p.ready, OutboundEndpoint{Address: e.Address, Port: e.Port, Locality: e.Locality, Weight: e.Weight, MeshTLS: mesh})
		}
	}
	p.asked = len(p.ready)
	if p.asked == 0 { // nobody to ask: go by the workloads that are to come
		p.accepting, p.asked = waiting, all
	}
	slices.SortFunc(p.ready, compareEndpoints)
	p.ready = slices.Compact(p.ready)
	return p
}

// has says whether an endpoint has the labels: its own, else its workload's.
func (e *Endpoint) has(want map[string]string, h *hosted) bool {
	have := e.Labels
	if have == nil && h != nil {
		have = h.Labels
	}
	for key, value := range want {
		if got, ok := have[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// upstream decides the client TLS (spec client-tls.md 1): settings are what a
// rule says, source the rule; without tls in it the mesh decides.
func (s *Snapshot) upstream(svc *Service, p *population, settings Traffic, source Key, d *digest) Upstream {
	u := Upstream{Traffic: settings}
	if settings.TLS != nil {
		u.TLS, u.Step, u.Source = settings.TLS.Mode, StepRule, source
	} else {
		u.TLS, u.Step = s.clientTLS(svc, p)
	}
	if u.TLS == ClientMixed {
		u.ModesHash = modesHash(p.ready, d)
	}
	if svc.Resolution == ResolveDNS || svc.Resolution == ResolveHeadless || u.TLS == ClientMixed && u.Original(svc.Resolution) {
		u.Endpoints = p.ready
	}
	return u
}

// clientTLS is steps 2 to 5. Where authPolicy decides, clients follow the
// phases while a change is under way.
func (s *Snapshot) clientTLS(svc *Service, p *population) (ClientTLS, ClientStep) {
	switch {
	case s.mesh.Excludes(svc.Host):
		return ClientPlain, StepExcluded
	case svc.External:
		return ClientPlain, StepExternal
	case !s.mesh.AutoMTLS && (s.mesh.MutualTLS && p.soon == 0 || p.still > 0):
		return ClientMesh, StepMeshConfig
	case !s.mesh.AutoMTLS:
		return ClientPlain, StepMeshConfig
	case p.accepting == 0:
		return ClientPlain, StepAuto
	case p.accepting == p.asked:
		return ClientMesh, StepAuto
	default:
		return ClientMixed, StepAuto
	}
}

// standIn is the upstream of an invalid rule: mesh mTLS to those who accept
// it, nothing to any other.
func standIn(svc *Service, p *population, source Key) (Upstream, population) {
	accepting := population{accepting: p.accepting, asked: p.accepting}
	for _, e := range p.ready {
		if e.MeshTLS {
			accepting.ready = append(accepting.ready, e)
		}
	}
	u := Upstream{TLS: ClientMesh, Step: StepRule, Source: source, StandIn: true, Variant: variantStandIn}
	if svc.Resolution == ResolveDNS || svc.Resolution == ResolveHeadless {
		u.Endpoints = accepting.ready
	}
	return u, accepting
}

// The variants of endpoint groups: those of stand-ins; of subsets, that hold
// for some client namespaces only, by their labels.
const variantStandIn = "mtls"

func variantOf(labels map[string]string) string {
	var d digest
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		d.str(key, labels[key])
	}
	sum := d.done()
	return hex.EncodeToString(sum[:4])
}

// rulesAt fills a port's upstream and subsets by the rules in force, nil if
// there are none.
func (s *Snapshot) rulesAt(out *OutboundPort, svc *Service, in *ServicePort, set *ruleSet, sink *groupSink) {
	all := sink.port(s, in)
	if !sink.private { // of the whole port, once and always: reports need it too
		sink.group(svc, out.Number, "", "", all.ready)
	}
	d := &sink.digest
	if set == nil {
		out.Upstream = s.upstream(svc, &all.population, Traffic{}, Key{}, d)
		s.expect(&out.Upstream, svc, all)
		return
	}
	if set.standIn() {
		var accepting population
		out.Upstream, accepting = standIn(svc, &all.population, set.from.Key)
		out.From = []Key{set.from.Key}
		s.expect(&out.Upstream, svc, all)
		sink.group(svc, out.Number, "", out.Variant, accepting.ready)
		return
	}
	base := set.policy.at(in)
	out.Upstream = s.upstream(svc, &all.population, base, set.from.Key, d)
	if set.policy != nil {
		out.From = []Key{set.from.Key}
	}
	s.expect(&out.Upstream, svc, all)
	for i := range set.subsets {
		subset := set.subsets[i]
		some := s.populate(in, subset.Labels)
		own := subset.Policy.at(in)
		source := set.from.Key
		if own.TLS != nil {
			source = subset.from.Key
		}
		u := s.upstream(svc, &some, base.over(own), source, d)
		u.Subset = subset.Name
		if sink.private {
			u.Variant = variantOf(subset.Labels)
		}
		u.From = []Key{subset.from.Key}
		if set.policy != nil && set.from != subset.from {
			u.From = []Key{set.from.Key, subset.from.Key}
		}
		s.expect(&u, svc, all)
		sink.group(svc, out.Number, u.Subset, u.Variant, some.ready)
		out.Subsets = append(out.Subsets, &u)
	}
	slices.SortFunc(out.Subsets, func(a, b *Upstream) int { return strings.Compare(a.Subset, b.Subset) })
}

// expect sets the identities that mesh mTLS goes by: those that may serve the
// port, unless the rule names some itself.
func (s *Snapshot) expect(u *Upstream, svc *Service, p *portFacts) {
	if u.TLS != ClientMesh && u.TLS != ClientMixed || u.Traffic.TLS != nil && len(u.Traffic.TLS.SubjectAltNames) > 0 {
		return
	}
	if p.accounts == nil {
		p.accounts = append([]string{}, p.in.Accounts...)
		if !svc.External {
			for i := range p.in.Endpoints {
				if h := s.byID[p.in.Endpoints[i].Workload]; h != nil {
					p.accounts = s.appendIdentities(p.accounts, h.Workload)
				}
			}
		}
		slices.Sort(p.accounts)
		p.accounts = slices.Compact(p.accounts)
	}
	u.SANs = p.accounts
}

// portFacts is what all forms of a service port have in common.
type portFacts struct {
	in *ServicePort
	population
	accounts []string // nil: nobody asked yet
}

// groupSink collects endpoint groups, each once.
type groupSink struct {
	digest  digest
	groups  []*EndpointGroup
	extra   map[string]bool // of those that are not of a whole port
	private bool            // what is made now is for some client namespaces only
	facts   []portFacts     // of the ports of the present service
}

// port is the facts about a port of the service that is being made.
func (g *groupSink) port(s *Snapshot, in *ServicePort) *portFacts {
	for i := range g.facts {
		if g.facts[i].in == in {
			return &g.facts[i]
		}
	}
	g.facts = append(g.facts, portFacts{in: in, population: s.populate(in, nil)})
	return &g.facts[len(g.facts)-1]
}

func (g *groupSink) group(svc *Service, port uint16, subset, variant string, endpoints []OutboundEndpoint) {
	if svc.Resolution != ResolveEndpoints && svc.Resolution != ResolveHeadless {
		return
	}
	if subset != "" || variant != "" {
		name := strconv.Itoa(int(port)) + "|" + subset + "|" + svc.Host + "|" + variant
		if g.extra[name] {
			return
		}
		if g.extra == nil {
			g.extra = map[string]bool{}
		}
		g.extra[name] = true
	}
	group := &EndpointGroup{Key: svc.Key, Host: svc.Host, Port: port, Subset: subset, Variant: variant, Endpoints: endpoints}
	d := &g.digest
	d.str(group.Host, group.Subset, group.Variant)
	d.num(uint64(group.Port))
	digestEndpoints(d, endpoints)
	group.Fingerprint = d.done()
	g.groups = append(g.groups, group)
}

package meshconfig

import (
	"slices"
	"strconv"

	"github.com/meshpilot/pilot/pkg/model"
)

// servedPort is one container port of a workload with the service ports that
// lead to it: SP(w,p) of spec server-policy.md 5.
type servedPort struct {
	workload  model.WorkloadID
	container uint16
	first     boundPort
	more      []boundPort // only where several service ports share it
}

type boundPort struct {
	service *model.Service
	port    *model.ServicePort
}

// pairs are all service ports that lead here, by age of their services.
func (p *servedPort) pairs() []boundPort {
	all := append([]boundPort{p.first}, p.more...)
	slices.SortStableFunc(all, func(a, b boundPort) int {
		return compareAge(a.service.Created, a.service.Key, b.service.Created, b.service.Key)
	})
	return all
}

// servedPorts lists each container port once, in the order of the services.
func servedPorts(services []model.Service) []servedPort {
	type place struct {
		workload  model.WorkloadID
		container uint16
	}
	served := make([]servedPort, 0, len(services))
	seen := make(map[place]int32, len(services))
	for i := range services {
		s := &services[i]
		for j := range s.Ports {
			p := &s.Ports[j]
			for k := range p.Endpoints {
				e := &p.Endpoints[k]
				if e.Workload == (model.WorkloadID{}) || s.Resolution == model.ResolveDNS {
					continue
				}
				at, ok := seen[place{e.Workload, e.Port}]
				if !ok {
					seen[place{e.Workload, e.Port}] = int32(len(served))
					served = append(served, servedPort{workload: e.Workload, container: e.Port, first: boundPort{s, p}})
					continue
				}
				served[at].more = append(served[at].more, boundPort{s, p})
			}
		}
	}
	return served
}

// modes reports what only the resolved mode of each port shows.
func (l *linter) modes() {
	policies := make(map[model.Key]*model.ServerPolicy, len(l.in.Policies))
	for i := range l.in.Policies {
		policies[l.in.Policies[i].Key] = &l.in.Policies[i]
	}
	served := servedPorts(l.in.Services)
	for i := range served {
		p := &served[i]
		d := l.snapshot.Decision(p.workload, p.container)
		sidecar := l.snapshot.HasSidecar(p.workload)
		l.decided(p.workload, p.container, d, d.Rank != model.RankMesh)
		l.pair(p, p.first, d, sidecar)
		if len(p.more) > 0 {
			for _, pair := range p.more {
				l.pair(p, pair, d, sidecar)
			}
			l.shared(p, d, policies[d.Source])
			if sidecar {
				l.protocols(p)
			}
		}
	}
	l.unserved()
	for _, t := range l.ties {
		for _, loser := range t.decision.Losers {
			reason := " has the same rank and is older or first by name"
			if p := policies[loser]; p != nil && p.StandIn && !t.decision.StandIn {
				reason = " has the same rank and is valid"
			}
			l.placesOf(remark{codeTie, loser, "", "has no effect on ", ": " + t.decision.By() + reason}).addAll(&t.at)
		}
	}
}

// tie is a decision with losers, and where it holds.
type tie struct {
	decision model.Decision
	at       places
}

// decided remarks on a decision itself. asks says whether it asks for TLS of
// this workload in particular, and not of whoever is in the mesh.
func (l *linter) decided(id model.WorkloadID, container uint16, d model.Decision, asks bool) {
	if len(d.Losers) > 0 {
		t := l.ties[&d.Losers[0]]
		if t == nil {
			t = &tie{decision: d}
			l.ties[&d.Losers[0]] = t
		}
		t.at.add(placeName(id.String(), container))
	}
	if asks && d.Mode != model.Disable && d.Rank <= model.RankAnnotation && !l.snapshot.HasSidecar(id) {
		l.found(remark{codeNoSidecar, d.Source, "", "asks for TLS on workloads without a sidecar: ",
			"; nothing enforces it there, clients without mTLS are served"}, id.String(), container)
	}
}

// unserved looks at what no service names: ports of port-level policies and,
// of workloads without any port, all.
func (l *linter) unserved() {
	if len(l.in.Policies) == 0 {
		return
	}
	for i := range l.in.Workloads {
		id := l.in.Workloads[i].ID
		v := l.serverView(id)
		for _, p := range v.Ports {
			if p.Host == "" {
				l.decided(id, p.Port, p.Decision, true)
			}
		}
		if len(v.Ports) == 0 {
			l.decided(id, 0, v.Other, v.Other.Rank == model.RankWorkload)
		}
	}
}

// serverView is what the sidecar of a workload has, or would have.
func (l *linter) serverView(id model.WorkloadID) *model.ServerView {
	proxy, _ := l.snapshot.ProxyOf(id)
	_, class, _ := l.snapshot.ClassOf(proxy)
	if l.views[class] == nil {
		l.views[class] = l.snapshot.ServerView(class)
	}
	return l.views[class]
}

func (l *linter) pair(p *servedPort, pair boundPort, d model.Decision, sidecar bool) {
	l.shadowed(p, pair, d)
	if sidecar && d.Mode != model.Disable {
		l.serverFirst(pair, d)
	}
}

func (l *linter) shadowed(p *servedPort, pair boundPort, d model.Decision) {
	if pair.port.Annotation == model.AnnotationUnset || d.Rank >= model.RankAnnotation {
		return
	}
	key := authPrefix + strconv.Itoa(int(pair.port.Number))
	l.found(remark{codeShadowed, pair.service.Key, "metadata.annotations[" + key + "]",
		"annotation " + key + " of " + pair.service.Key.String() + " has no effect on ",
		": " + d.By() + " says " + d.Mode.String()}, p.workload.String(), p.container)
}

// serverFirst finds ports whose server speaks before a client's first bytes
// could tell mTLS from plaintext.
func (l *linter) serverFirst(pair boundPort, d model.Decision) {
	if !pair.port.Protocol.ServerFirst() {
		return
	}
	f := remark{codeServerFirst, pair.service.Key, "spec.ports",
		"port " + strconv.Itoa(int(pair.port.Number)) + " (" + pair.port.Protocol.String() + ") is server-first and " + d.Mode.String() +
			" by " + d.By() + ": it cannot serve plaintext and mTLS at once, and a change of mode cuts calls; name the port tcp-… to get PERMISSIVE, at 0.5 s per plaintext connection", ""}
	if _, said := l.remarks[f]; !said {
		l.remarks[f] = &places{}
	}
}

// shared finds service ports that are governed by what was said about another
// one, because both lead to one container port.
func (l *linter) shared(p *servedPort, d model.Decision, policy *model.ServerPolicy) {
	if d.Rank != model.RankPort && d.Rank != model.RankWorkload && d.Rank != model.RankAnnotation {
		return
	}
	pairs := p.pairs()
	meant := slices.IndexFunc(pairs, func(b boundPort) bool { return names(policy, b) })
	if meant < 0 {
		return
	}
	for _, pair := range pairs {
		if names(policy, pair) {
			continue
		}
		l.found(remark{codeSharedPort, d.Source, "", "what it says about " + pairs[meant].String() + " also governs " + pair.String() +
			": both lead to ", "; give them ports of their own, or say it for both"}, p.workload.String(), p.container)
	}
}

// names says whether a policy, or without one the annotation of the service,
// speaks about this very port.
func names(policy *model.ServerPolicy, b boundPort) bool {
	if policy == nil {
		return b.port.Annotation != model.AnnotationUnset
	}
	return slices.ContainsFunc(policy.Rules, func(r model.PolicyRule) bool {
		if r.Service == "" || r.Service != b.service.Name || policy.Key.Namespace != b.service.Namespace {
			return false
		}
		return r.Rank == model.RankWorkload || PortSelector{r.PortNumber, r.PortName}.matches(b.port)
	})
}

// String is "Service shop/cart port 80".
func (b boundPort) String() string {
	return b.service.Key.String() + " port " + strconv.Itoa(int(b.port.Number))
}

// protocols finds ports that are not served as their service says.
func (l *linter) protocols(p *servedPort) {
	pairs := p.pairs()
	oldest := pairs[0]
	for _, pair := range pairs[1:] {
		a, b := oldest.port.Protocol, pair.port.Protocol
		if a.IsHTTP() == b.IsHTTP() && a.IsHTTP2() == b.IsHTTP2() && a.ServerFirst() == b.ServerFirst() {
			continue
		}
		l.found(remark{codePortClash, pair.service.Key, "spec.ports",
			pair.String() + " is " + b.String() + ", but " + oldest.String() + ", which is older or first by name, says " + a.String() + " and decides for ",
			": give the ports the same protocol"}, p.workload.String(), p.container)
	}
}

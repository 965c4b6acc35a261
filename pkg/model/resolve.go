package model

import (
	"cmp"
	"slices"
)

// policyIndex finds the rules that may decide a port without looking at all.
type policyIndex struct {
	namespaces map[string]*namespaceRules
	mesh       []candidate
}

type namespaceRules struct {
	services  map[string][]candidate // by short name, ranks 1 and 2
	selectors []candidate            // ranks 1 and 2
	all       []candidate            // rank 3
}

// candidate is a rule with the object that it belongs to.
type candidate struct {
	policy *ServerPolicy
	rule   *PolicyRule
}

func indexPolicies(policies []ServerPolicy) *policyIndex {
	index := &policyIndex{namespaces: map[string]*namespaceRules{}}
	for i := range policies {
		policy := &policies[i]
		ns := index.namespaces[policy.Key.Namespace]
		if ns == nil {
			ns = &namespaceRules{services: map[string][]candidate{}}
			index.namespaces[policy.Key.Namespace] = ns
		}
		for j := range policy.Rules {
			c := candidate{policy, &policy.Rules[j]}
			switch {
			case c.rule.Rank == RankMesh:
				index.mesh = append(index.mesh, c)
			case c.rule.Rank == RankNamespace:
				ns.all = append(ns.all, c)
			case c.rule.Service != "":
				ns.services[c.rule.Service] = append(ns.services[c.rule.Service], c)
			default:
				ns.selectors = append(ns.selectors, c)
			}
		}
	}
	return index
}

// labelKeys are the label keys that some selector mentions.
func labelKeys(policies []ServerPolicy) []string {
	var keys []string
	for i := range policies {
		for _, rule := range policies[i].Rules {
			for key := range rule.Selector {
				keys = append(keys, key)
			}
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// boundPort is a (service, service port) pair that resolves to a container
// port of a workload: an element of SP(w,p) in the spec.
type boundPort struct {
	container uint16
	service   *Service
	port      *ServicePort
}

// decide resolves the mode of a container port of w: pairs is SP(w,p), all of
// that port, empty if no service names it (spec server-policy.md 5).
func (x *policyIndex) decide(mesh *Mesh, w *Workload, container uint16, pairs []boundPort) Decision {
	byRank := [RankMesh + 1][]candidate{RankMesh: x.mesh}
	if ns := x.namespaces[w.ID.Namespace]; ns != nil {
		byRank[RankNamespace] = ns.all
		for _, c := range ns.selectors {
			if matchesSelector(c.rule, w, container) {
				byRank[c.rule.Rank] = append(byRank[c.rule.Rank], c)
			}
		}
		for i, pair := range pairs {
			if pair.service.Name == "" || pair.service.Namespace != w.ID.Namespace {
				continue
			}
			for _, c := range ns.services[pair.service.Name] {
				if c.rule.matchesPort(pair.port) && !ruleSeen(byRank[c.rule.Rank], c, i) {
					byRank[c.rule.Rank] = append(byRank[c.rule.Rank], c)
				}
			}
		}
	}
	for rank := RankPort; rank <= RankMesh; rank++ {
		if len(byRank[rank]) > 0 {
			return pick(rank, byRank[rank])
		}
	}
	if d, ok := decideByAnnotation(pairs); ok {
		return d
	}
	if mesh.MutualTLS {
		return Decision{Mode: Strict, Rank: RankMeshConfig}
	}
	return Decision{Mode: Disable, Rank: RankMeshConfig}
}

// ruleSeen drops a rule that several pairs of one port reach; the first pair
// cannot repeat itself.
func ruleSeen(have []candidate, c candidate, pair int) bool {
	return pair > 0 && slices.Contains(have, c)
}

func matchesSelector(r *PolicyRule, w *Workload, container uint16) bool {
	if r.Rank == RankPort && r.ContainerPort != container {
		return false
	}
	for key, value := range r.Selector {
		if got, ok := w.Labels[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// matchesPort is true for a rule without a port selector too.
func (r *PolicyRule) matchesPort(p *ServicePort) bool {
	switch {
	case r.Rank == RankWorkload:
		return true
	case r.PortNumber != 0:
		return r.PortNumber == p.Number
	default:
		return r.PortName == p.Name
	}
}

// pick applies the tie rule: valid before stand-in, then oldest, then
// namespace/name, then kind. An object counts once.
func pick(rank Rank, candidates []candidate) Decision {
	winner := candidates[0]
	if len(candidates) == 1 {
		return Decision{Mode: winner.rule.Mode, Rank: rank, Source: winner.policy.Key, StandIn: winner.policy.StandIn}
	}
	sorted := slices.Clone(candidates)
	slices.SortStableFunc(sorted, func(a, b candidate) int {
		return cmp.Or(
			compareBool(a.policy.StandIn, b.policy.StandIn),
			compareAge(a.policy.Created, a.policy.Key, b.policy.Created, b.policy.Key))
	})
	winner = sorted[0]
	d := Decision{Mode: winner.rule.Mode, Rank: rank, Source: winner.policy.Key, StandIn: winner.policy.StandIn}
	for _, c := range sorted[1:] {
		if c.policy.Key != d.Source && !slices.Contains(d.Losers, c.policy.Key) {
			d.Losers = append(d.Losers, c.policy.Key)
		}
	}
	return d
}

func decideByAnnotation(pairs []boundPort) (Decision, bool) {
	var annotated []boundPort
	for _, pair := range pairs {
		if pair.port.Annotation != AnnotationUnset {
			annotated = append(annotated, pair)
		}
	}
	if len(annotated) == 0 {
		return Decision{}, false
	}
	slices.SortStableFunc(annotated, func(a, b boundPort) int { return compareServices(a.service, b.service) })
	winner := annotated[0]
	d := Decision{Mode: Disable, Rank: RankAnnotation, Source: winner.service.Key}
	if winner.port.Annotation == AnnotationMutualTLS {
		d.Mode = Strict
	}
	for _, pair := range annotated[1:] {
		if pair.service.Key != d.Source && !slices.Contains(d.Losers, pair.service.Key) {
			d.Losers = append(d.Losers, pair.service.Key)
		}
	}
	return d, true
}

// compareAge orders oldest first; an unknown age is older than any.
func compareAge(aCreated int64, a Key, bCreated int64, b Key) int {
	return cmp.Or(cmp.Compare(aCreated, bCreated), a.Compare(b))
}

func compareServices(a, b *Service) int { return compareAge(a.Created, a.Key, b.Created, b.Key) }

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

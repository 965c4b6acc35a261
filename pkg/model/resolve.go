package model

import (
	"cmp"
	"slices"
)

// policyIndex finds the rules that may decide a port without looking at all.
// Every list is in the order of the tie rule.
type policyIndex struct {
	namespaces map[string]*namespaceRules
	mesh       []candidate
	// byMesh is what mesh decides, made once; nil if it is empty.
	byMesh *Decision
}

type namespaceRules struct {
	namespace string
	services  map[string][]candidate // by short name, ranks 1 and 2
	selectors map[label][]candidate  // by one of the selector's labels, ranks 1 and 2
	all       []candidate            // rank 3
	byAll     *Decision
	labelKeys []string // that some selector mentions, sorted
}

type label struct{ key, value string }

// candidate is a rule with the object that it belongs to; order is the
// object's place in the tie rule.
type candidate struct {
	policy *ServerPolicy
	rule   *PolicyRule
	order  int
}

func indexPolicies(policies []ServerPolicy) *policyIndex {
	sorted := make([]*ServerPolicy, len(policies))
	for i := range policies {
		sorted[i] = &policies[i]
	}
	slices.SortStableFunc(sorted, compareSeniority)
	index := &policyIndex{namespaces: map[string]*namespaceRules{}}
	for order, policy := range sorted {
		ns := index.namespaces[policy.Key.Namespace]
		if ns == nil {
			ns = &namespaceRules{namespace: policy.Key.Namespace, services: map[string][]candidate{}, selectors: map[label][]candidate{}}
			index.namespaces[policy.Key.Namespace] = ns
		}
		for i := range policy.Rules {
			c := candidate{policy, &policy.Rules[i], order}
			switch {
			case c.rule.Rank == RankMesh:
				index.mesh = append(index.mesh, c)
			case c.rule.Rank == RankNamespace:
				ns.all = append(ns.all, c)
			case c.rule.Service != "":
				ns.services[c.rule.Service] = append(ns.services[c.rule.Service], c)
			default:
				ns.addSelector(c)
			}
		}
	}
	index.byMesh = pick(RankMesh, index.mesh)
	for _, ns := range index.namespaces {
		ns.byAll = pick(RankNamespace, ns.all)
		slices.Sort(ns.labelKeys)
		ns.labelKeys = slices.Compact(ns.labelKeys)
	}
	return index
}

// compareSeniority is the tie rule: valid before stand-in, then oldest, then
// namespace/name, then kind.
func compareSeniority(a, b *ServerPolicy) int {
	return cmp.Or(compareBool(a.StandIn, b.StandIn), compareAge(a.Created, a.Key, b.Created, b.Key))
}

// addSelector files a rule under the first label of its selector: a workload
// that it selects has that label.
func (ns *namespaceRules) addSelector(c candidate) {
	var first label
	for key, value := range c.rule.Selector {
		if first.key == "" || key < first.key {
			first = label{key, value}
		}
		ns.labelKeys = append(ns.labelKeys, key)
	}
	ns.selectors[first] = append(ns.selectors[first], c)
}

// selected are the rules whose selector matches w, in no order.
func (x *policyIndex) selected(w *Workload) []candidate {
	ns := x.namespaces[w.ID.Namespace]
	if ns == nil || len(ns.selectors) == 0 {
		return nil
	}
	var out []candidate
	match := func(candidates []candidate) {
		for _, c := range candidates {
			if hasLabels(w.Labels, c.rule.Selector) {
				out = append(out, c)
			}
		}
	}
	match(ns.selectors[label{}])
	for key, value := range w.Labels {
		match(ns.selectors[label{key, value}])
	}
	return out
}

func hasLabels(labels, selector map[string]string) bool {
	for key, value := range selector {
		if got, ok := labels[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// labelKeys are the label keys that some selector of the namespace mentions.
func (x *policyIndex) labelKeys(namespace string) []string {
	if ns := x.namespaces[namespace]; ns != nil {
		return ns.labelKeys
	}
	return nil
}

// boundPort is a (service, service port) pair that resolves to a container
// port of a workload: an element of SP(w,p) in the spec.
type boundPort struct {
	container uint16
	service   *Service
	port      *ServicePort
}

// decide resolves the mode of a container port of w: selected are the rules
// that select w, pairs is SP(w,p), all of that port, empty if no service names
// it (spec server-policy.md 5).
func (x *policyIndex) decide(mesh *Mesh, w *Workload, selected []candidate, container uint16, pairs []boundPort) Decision {
	ns := x.namespaces[w.ID.Namespace]
	if ns != nil {
		if d := pickFirst(ns.candidates(selected, container, pairs)); d != nil {
			return *d
		}
		if ns.byAll != nil {
			return *ns.byAll
		}
	}
	if x.byMesh != nil {
		return *x.byMesh
	}
	if d, ok := decideByAnnotation(pairs); ok {
		return d
	}
	if mesh.MutualTLS {
		return Decision{Mode: Strict, Rank: RankMeshConfig}
	}
	return Decision{Mode: Disable, Rank: RankMeshConfig}
}

// candidates are those of rank 1, and those of rank 2.
func (ns *namespaceRules) candidates(selected []candidate, container uint16, pairs []boundPort) (port, workload []candidate) {
	add := func(c candidate) {
		if c.rule.Rank == RankPort {
			port = append(port, c)
		} else {
			workload = append(workload, c)
		}
	}
	for _, c := range selected {
		if c.rule.Rank == RankWorkload || c.rule.ContainerPort == container {
			add(c)
		}
	}
	for _, pair := range pairs {
		if pair.service.Name == "" || pair.service.Namespace != ns.namespace {
			continue
		}
		for _, c := range ns.services[pair.service.Name] {
			if c.rule.matchesPort(pair.port) {
				add(c)
			}
		}
	}
	return port, workload
}

func pickFirst(port, workload []candidate) *Decision {
	if d := pick(RankPort, port); d != nil {
		return d
	}
	return pick(RankWorkload, workload)
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

// pick applies the tie rule; nil if there is no candidate. An object counts
// once.
func pick(rank Rank, candidates []candidate) *Decision {
	if len(candidates) == 0 {
		return nil
	}
	slices.SortFunc(candidates, func(a, b candidate) int { return a.order - b.order })
	winner := candidates[0]
	d := &Decision{Mode: winner.rule.Mode, Rank: rank, Source: winner.policy.Key, StandIn: winner.policy.StandIn}
	for i, c := range candidates[1:] {
		if c.order != candidates[i].order {
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
	for _, pair := range annotated {
		switch {
		case pair.service == winner.service:
			// Of one Service's annotations about one container port the
			// stricter counts: it was asked for protection.
			if pair.port.Annotation == AnnotationMutualTLS {
				d.Mode = Strict
			}
		case !slices.Contains(d.Losers, pair.service.Key):
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

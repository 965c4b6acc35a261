package model

import (
	"cmp"
	"slices"
	"strings"
)

// ruleIndex finds the destination rules for a service without looking at all.
type ruleIndex struct {
	root  string // the mesh's root namespace
	pools map[string]*rulePool
}

// rulePool is the rules of one namespace.
type rulePool struct {
	hosts map[string]*hostRules
	wild  []*hostRules // the wildcards of them, longer before shorter, then alphabetical
}

// hostRules are rules of one host: valid before stand-ins, then oldest first.
type hostRules struct {
	host  string
	rules []*DestinationRule
}

func indexRules(in []DestinationRule, root string) *ruleIndex {
	x := &ruleIndex{root: root, pools: map[string]*rulePool{}}
	for i := range in {
		x.add(&in[i])
	}
	for _, pool := range x.pools {
		for _, at := range pool.hosts {
			at.sort()
			if isWildcard(at.host) {
				pool.wild = append(pool.wild, at)
			}
		}
		slices.SortFunc(pool.wild, func(a, b *hostRules) int {
			return cmp.Or(len(b.host)-len(a.host), strings.Compare(a.host, b.host))
		})
	}
	return x
}

func (x *ruleIndex) add(rule *DestinationRule) {
	pool := x.pools[rule.Key.Namespace]
	if pool == nil {
		pool = &rulePool{hosts: map[string]*hostRules{}}
		x.pools[rule.Key.Namespace] = pool
	}
	at := pool.hosts[rule.Host]
	if at == nil {
		at = &hostRules{host: rule.Host}
		pool.hosts[rule.Host] = at
	}
	at.rules = append(at.rules, rule)
}

func (h *hostRules) sort() {
	slices.SortFunc(h.rules, func(a, b *DestinationRule) int {
		return cmp.Or(compareBool(a.StandIn, b.StandIn), compareAge(a.Created, a.Key, b.Created, b.Key))
	})
}

func isWildcard(host string) bool { return strings.HasPrefix(host, "*") }

// Matches says whether the rule is for the service host, which may be a
// wildcard itself: *.api.example.com is for v2.api.example.com, not for
// api.example.com.
func (r *DestinationRule) Matches(host string) bool { return ruleMatches(r.Host, host) }

func ruleMatches(rule, host string) bool {
	suffix, wild := strings.CutPrefix(rule, "*")
	switch {
	case !wild:
		return rule == host
	case isWildcard(host):
		return strings.HasSuffix(host[1:], suffix)
	default:
		return len(host) > len(suffix) && strings.HasSuffix(host, suffix)
	}
}

// find is the rules of the first matching host of which a client in namespace
// sees any; all are of one host.
func (p *rulePool) find(host string, sees func(*DestinationRule) bool) []*DestinationRule {
	if at := p.hosts[host]; at != nil {
		if rules := at.seen(sees); len(rules) > 0 {
			return rules
		}
	}
	for _, at := range p.wild {
		if !ruleMatches(at.host, host) {
			continue
		}
		if rules := at.seen(sees); len(rules) > 0 {
			return rules
		}
	}
	return nil
}

// seen leaves out what is hidden, and stand-ins where a valid rule is seen.
func (h *hostRules) seen(sees func(*DestinationRule) bool) []*DestinationRule {
	rules := h.rules
	if i := slices.IndexFunc(rules, func(r *DestinationRule) bool { return !sees(r) }); i >= 0 {
		rules = slices.Clone(rules[:i])
		for _, r := range h.rules[i:] {
			if sees(r) {
				rules = append(rules, r)
			}
		}
	}
	if len(rules) > 0 && !rules[0].StandIn {
		if i := slices.IndexFunc(rules, func(r *DestinationRule) bool { return r.StandIn }); i >= 0 {
			return rules[:i:i]
		}
	}
	return rules
}

// everyone is the client namespace of which nothing is known: it has no rules
// and sees only what all see.
const everyone = ""

func (r *DestinationRule) exportedTo(namespace string) bool {
	return len(r.ExportTo) == 0 || slices.Contains(r.ExportTo, namespace)
}

// private says whether only its own namespace sees the rule.
func (r *DestinationRule) private() bool {
	return len(r.ExportTo) == 1 && r.ExportTo[0] == r.Key.Namespace
}

// lookup is the rules that are in force for a host of a namespace and the
// clients of another, unmerged; nil if there are none. Those of later pools
// come with skip: how many pools with a match are passed over.
func (x *ruleIndex) lookup(client, host, namespace string, skip int) []*DestinationRule {
	exported := func(r *DestinationRule) bool { return r.exportedTo(client) }
	for i, from := range [...]string{client, namespace, x.root} {
		sees := exported
		if i == 0 {
			sees = func(r *DestinationRule) bool { return client != x.root || r.private() }
		}
		pool := x.pools[from]
		again := i == 1 && from == client && client != x.root || i == 2 && from == namespace
		if pool == nil || again || i == 0 && client == everyone {
			continue
		}
		if rules := pool.find(host, sees); len(rules) > 0 {
			if skip == 0 {
				return rules
			}
			skip--
		}
	}
	return nil
}

// RulesFor are the rules for a service that clients of a namespace see, pool by
// pool: those of the first are in force, merged. The client "" stands for a
// namespace that no rule treats differently.
func (s *Snapshot) RulesFor(client string, svc *OutboundService) [][]*DestinationRule {
	var out [][]*DestinationRule
	for {
		rules := s.rules.lookup(client, svc.Host, svc.Namespace, len(out))
		if len(rules) == 0 {
			return out
		}
		out = append(out, rules)
	}
}

// ruleSet is rules of one host, merged: the oldest policy, and all subsets.
type ruleSet struct {
	rules   []*DestinationRule // oldest first
	policy  *TrafficPolicy
	from    *DestinationRule // whose policy it is
	subsets []mergedSubset
}

type mergedSubset struct {
	*Subset
	from *DestinationRule
}

func mergeRules(rules []*DestinationRule) *ruleSet {
	set := &ruleSet{rules: rules, from: rules[0]}
	for _, r := range rules {
		if set.policy == nil && r.Policy != nil {
			set.policy, set.from = r.Policy, r
		}
		for i := range r.Subsets {
			subset := &r.Subsets[i]
			if !slices.ContainsFunc(set.subsets, func(m mergedSubset) bool { return m.Name == subset.Name }) {
				set.subsets = append(set.subsets, mergedSubset{subset, r})
			}
		}
	}
	return set
}

func (s *ruleSet) standIn() bool { return s != nil && s.rules[0].StandIn }

// ruleMerger remembers what it merged, so that services which the same rules
// govern share it. It lives as long as one Build.
type ruleMerger struct {
	index *ruleIndex
	sets  map[*DestinationRule][]*ruleSet // by their first rule
}

// set is nil where no rule is in force.
func (m *ruleMerger) set(client string, svc *Service) *ruleSet {
	rules := m.index.lookup(client, svc.Host, svc.Namespace, 0)
	if len(rules) == 0 {
		return nil
	}
	for _, known := range m.sets[rules[0]] {
		if slices.Equal(known.rules, rules) {
			return known
		}
	}
	set := mergeRules(rules)
	m.sets[rules[0]] = append(m.sets[rules[0]], set)
	return set
}

// affected are, for each service, the namespaces whose clients may see it by
// other rules than most do. services are sorted by host.
func (m *ruleMerger) affected(in []DestinationRule, services []*Service) [][]string {
	if len(in) == 0 {
		return nil
	}
	out := make([][]string, len(services))
	for i := range in {
		rule := &in[i]
		own := rule.Key.Namespace
		clients := append([]string{own}, rule.ExportTo...)
		if own == m.index.root && len(rule.ExportTo) == 0 {
			continue // all see it alike
		}
		for at := range matching(rule, services) {
			for _, client := range clients {
				reaches := client == own || own == m.index.root || own == services[at].Namespace
				if reaches && !slices.Contains(out[at], client) {
					out[at] = append(out[at], client)
				}
			}
		}
	}
	return out
}

// matching are the indexes of the services that a rule is for.
func matching(rule *DestinationRule, services []*Service) func(func(int) bool) {
	return func(yield func(int) bool) {
		if !isWildcard(rule.Host) {
			at, ok := slices.BinarySearchFunc(services, rule.Host, func(s *Service, host string) int { return strings.Compare(s.Host, host) })
			if ok {
				yield(at)
			}
			return
		}
		for at, s := range services {
			if rule.Matches(s.Host) && !yield(at) {
				return
			}
		}
	}
}

package model

import (
	"maps"
	"slices"
)

// What lost, for reports: statements about a port, and destination rules.

// Ranks are what each rank says that says something about a container port,
// the one that decides first. An object counts once, at its best rank. It is
// for reports; Decision is the first alone.
func (s *Snapshot) Ranks(id WorkloadID, container uint16) []Decision {
	h := s.byID[id]
	if h == nil {
		return []Decision{{Rank: RankNone}}
	}
	var out []Decision
	var seen []Key
	add := func(rank Rank, candidates []candidate) {
		candidates = slices.DeleteFunc(slices.Clone(candidates), func(c candidate) bool { return slices.Contains(seen, c.policy.Key) })
		if d := pick(rank, candidates); d != nil {
			out = append(out, *d)
			seen = append(append(seen, d.Source), d.Losers...)
		}
	}
	if ns := s.policies.namespaces[h.ID.Namespace]; ns != nil {
		port, workload := ns.candidates(h.selected, container, h.pairs(container))
		add(RankPort, port)
		add(RankWorkload, workload)
		add(RankNamespace, ns.all)
	}
	add(RankMesh, s.policies.mesh)
	if d, ok := decideByAnnotation(h.pairs(container)); ok {
		out = append(out, d)
	}
	last := Decision{Mode: Disable, Rank: RankMeshConfig}
	if s.mesh.MutualTLS {
		last.Mode = Strict
	}
	return append(out, last)
}

// Standing is a destination rule for a service's host, and what of it some
// clients follow.
type Standing struct {
	Rule    *DestinationRule
	Policy  bool     // they follow its trafficPolicy
	Subsets []string // of its subsets, those that they have
	// Lost is why they do not follow all of it, and To the rule that they
	// follow instead, if there is one.
	Lost RuleLoss
	To   *DestinationRule
}

// RuleLoss is why a rule is not followed, or not all of it.
type RuleLoss uint8

// The losses: by merging rules of one host, then by looking rules up.
const (
	NotLost     RuleLoss = iota
	LostToOlder          // has the same host, and gives the same
	LostToValid          // has the same host, and this one is invalid
	LostToHost           // is for a closer host
	LostToPool           // is in a namespace that comes first
	NotExported          // to the clients
	NotLookedUp          // in a namespace that has no say
)

// Standings are the rules for a service that clients of a namespace may expect
// to follow, in the order of the lookup (spec client-tls.md 2.1). Of
// namespaces that are not looked up, those that name the very host.
func (s *Snapshot) Standings(client string, svc *OutboundService) []Standing {
	pools := []string{client, svc.Namespace, s.rules.root}
	for _, namespace := range slices.Sorted(maps.Keys(s.rules.pools)) {
		if !slices.Contains(pools, namespace) {
			pools = append(pools, namespace)
		}
	}
	var set *ruleSet
	if rules := s.rules.lookup(client, svc.Host, svc.Namespace, 0); len(rules) > 0 {
		set = mergeRules(rules)
	}
	var out []Standing
	for i, namespace := range pools {
		if slices.Contains(pools[:i], namespace) || s.rules.pools[namespace] == nil {
			continue
		}
		for _, at := range s.rules.pools[namespace].matching(svc.Host) {
			for _, r := range at.rules {
				if i < 3 || at.host == svc.Host && r.exportedTo(client) {
					out = append(out, s.standing(set, r, client, i < 3))
				}
			}
		}
	}
	return out
}

// matching are the rules for a host, the closest first.
func (p *rulePool) matching(host string) []*hostRules {
	var out []*hostRules
	if at := p.hosts[host]; at != nil {
		out = append(out, at)
	}
	for _, at := range p.wild {
		if at.host != host && ruleMatches(at.host, host) {
			out = append(out, at)
		}
	}
	return out
}

func (s *Snapshot) standing(set *ruleSet, r *DestinationRule, client string, lookedUp bool) Standing {
	switch {
	case !lookedUp:
		return Standing{Rule: r, Lost: NotLookedUp}
	case !r.exportedTo(client) && (r.Key.Namespace != client || client == s.rules.root):
		return Standing{Rule: r, Lost: NotExported}
	case slices.Contains(set.rules, r):
		return set.part(r)
	}
	lost := Standing{Rule: r, Lost: LostToPool, To: set.rules[0]}
	private := client == s.rules.root && r.private() != lost.To.private() // pools of their own
	switch {
	case r.Key.Namespace != lost.To.Key.Namespace || private:
	case r.Host == lost.To.Host:
		lost.Lost = LostToValid
	default:
		lost.Lost = LostToHost
	}
	return lost
}

// part is what a merged rule adds to the others of its host.
func (s *ruleSet) part(r *DestinationRule) Standing {
	out := Standing{Rule: r, Policy: r == s.from && (s.policy != nil || r.StandIn)}
	for _, subset := range s.subsets {
		if subset.from == r {
			out.Subsets = append(out.Subsets, subset.Name)
		}
	}
	slices.Sort(out.Subsets)
	dropped := func(subset Subset) bool { return !slices.Contains(out.Subsets, subset.Name) }
	switch i := slices.IndexFunc(r.Subsets, dropped); {
	case r.Policy != nil && !out.Policy:
		out.Lost, out.To = LostToOlder, s.from
	case i >= 0:
		at := slices.IndexFunc(s.subsets, func(m mergedSubset) bool { return m.Name == r.Subsets[i].Name })
		out.Lost, out.To = LostToOlder, s.subsets[at].from
	case r.StandIn && r != s.from:
		out.Lost, out.To = LostToOlder, s.from
	}
	return out
}

// Entry is the port entry of the policy that a service port follows, by
// number or name; -1 if it follows none.
func (p *TrafficPolicy) Entry(number uint16, name string) int {
	if p == nil {
		return -1
	}
	return slices.IndexFunc(p.Ports, func(entry PortTraffic) bool {
		return entry.Number != 0 && entry.Number == number || entry.Name != "" && entry.Name == name
	})
}

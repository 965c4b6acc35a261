package model

import "slices"

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

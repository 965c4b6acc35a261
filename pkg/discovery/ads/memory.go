package ads

import (
	"fmt"
	"maps"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/meshpilot/pilot/pkg/translate"
)

// refusal is what is never sent again to a proxy.
type refusal struct{ name, version string }

// refusals are what a proxy refused of a kind, and what it keeps in place of
// it; nil if that is nothing.
type refusals struct {
	refused map[refusal]bool
	good    map[string]*translate.Resource
}

func (r *refusals) add(what refusal, good *translate.Resource) {
	if r.refused == nil {
		r.refused, r.good = map[refusal]bool{}, map[string]*translate.Resource{}
	}
	r.refused[what] = true
	r.good[what.name] = good
}

func (r refusals) clone() refusals { return refusals{maps.Clone(r.refused), maps.Clone(r.good)} }

// What is remembered of proxies that refused something: so many of them, and
// of each so much of a kind. Whoever has more is asked once more.
const (
	mostRemembered = 4096
	mostRefusals   = 4096
)

// proxyKey is the proxy that refusals are remembered of: another Envoy in its
// place may take what this one did not.
func proxyKey(node *corev3.Node) string {
	v := node.GetUserAgentBuildVersion().GetVersion()
	return fmt.Sprintf("%s %d.%d.%d", node.GetId(), v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
}

// remember keeps a refusal for when the proxy connects again. What is in the
// memory is not changed but replaced, as other streams may read it.
func (s *Store) remember(proxy string, k kind, what refusal, good *translate.Resource) {
	all, _ := s.memory.Get(proxy)
	all[k] = all[k].clone()
	if len(all[k].refused) >= mostRefusals {
		all[k] = refusals{}
	}
	all[k].add(what, good)
	s.memory.Add(proxy, all)
}

// recall gives a new stream what its proxy refused before.
func (s *Store) recall(st *stream) {
	all, _ := s.memory.Get(st.key)
	for k := range st.kinds {
		st.kinds[k].refusals = all[k].clone()
	}
}

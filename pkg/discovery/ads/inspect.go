package ads

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

// ProxyState is what a stream was sent and what its proxy said to it.
type ProxyState struct {
	Stream    uint64
	Node      string
	Proxy     model.Proxy
	Delta     bool // protocol: delta or state of the world
	Connected time.Time
	// Known is false while the proxy waits for its classes to be computed.
	Known bool
	// Secrets says whether the proxy truthfully acknowledged default and ROOTCA.
	Secrets bool
	Types   []TypeState // in push order, only types that were asked for
}

// TypeState is the part of a ProxyState about one type.
type TypeState struct {
	TypeURL  string
	Sent     string // version last sent; empty: nothing
	Acked    string // version last acknowledged; empty: none
	InFlight bool   // the last response is not answered yet
	Nonce    string
	SentAt   time.Time
	AckedAt  time.Time
	Acks     int
	Nacks    int
	Nack     string // text of the last refusal
	NackedAt time.Time
	Refused  []string // names of resources that are withheld because refused
}

// Proxies describes all connected streams, sorted by node and stream.
func (s *Store) Proxies() []ProxyState {
	var states []ProxyState
	for _, st := range s.all() {
		states = append(states, st.state())
	}
	slices.SortFunc(states, func(a, b ProxyState) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), cmp.Compare(a.Stream, b.Stream))
	})
	return states
}

func (s *stream) state() ProxyState {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := ProxyState{
		Stream: s.id, Node: s.node, Proxy: s.proxy, Delta: s.delta, Connected: s.started,
		Known: s.client != nil, Secrets: s.proven(),
	}
	for k := range kinds {
		sub := &s.kinds[k]
		if !sub.asked {
			continue
		}
		t := TypeState{
			TypeURL: k.url(), Sent: sub.sent, Acked: sub.acked, InFlight: sub.flight != nil, Nonce: sub.nonce,
			SentAt: sub.sentAt, AckedAt: sub.ackedAt, Acks: sub.acks, Nacks: sub.nacks, Nack: sub.nack, NackedAt: sub.nackedAt,
		}
		for refused := range sub.refused {
			if r := s.wanted(k, refused.name); r != nil && r.Version == refused.version {
				t.Refused = append(t.Refused, refused.name)
			}
		}
		slices.Sort(t.Refused)
		state.Types = append(state.Types, t)
	}
	return state
}

// SentResources are the resources of one type that a proxy was sent.
type SentResources struct {
	TypeURL   string
	Resources []*translate.Resource // sorted by name
}

// Config is what the newest stream of the node holds, by type in push order;
// false if the node is not connected.
func (s *Store) Config(node string) ([]SentResources, bool) {
	var newest *stream
	for _, st := range s.all() {
		if st.node == node && (newest == nil || st.id > newest.id) {
			newest = st
		}
	}
	if newest == nil {
		return nil, false
	}
	return newest.config(), true
}

func (s *stream) config() []SentResources {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sent []SentResources
	for k := range kinds {
		if sub := &s.kinds[k]; sub.asked {
			held := sub.holds()
			if k == secrets {
				held = s.sentSecrets()
			}
			sent = append(sent, SentResources{k.url(), held})
		}
	}
	return sent
}

// holds are the subscribed resources that the proxy was sent; of refused
// ones, what it keeps in their place.
func (sub *subscription) holds() []*translate.Resource {
	held := map[string]*translate.Resource{}
	bits := sub.scope.subset.raw()
	for _, h := range sub.held {
		if h.base != nil {
			for i, r := range h.base.resources {
				if sub.scope.wildcard || has(bits, h.base.ids[i]) {
					held[r.Name] = r
				}
			}
		}
		if h.over == nil {
			continue
		}
		for _, e := range h.over.entries {
			switch {
			case e.resource != nil:
				held[e.name] = e.resource
			case e.version == "":
				delete(held, e.name)
			}
		}
	}
	for name, r := range held {
		if !sub.refused[refusal{name, r.Version}] {
			continue
		}
		if good := sub.good[name]; good != nil {
			held[name] = good
		} else {
			delete(held, name)
		}
	}
	return slices.SortedFunc(maps.Values(held), byName)
}

func (s *stream) sentSecrets() []*translate.Resource {
	var sent []*translate.Resource
	for _, sec := range s.secrets {
		spelled, _ := s.spellings(sec.name)
		for _, r := range spelled {
			if r != nil && r.Version == sec.last {
				sent = append(sent, r)
				break
			}
		}
	}
	slices.SortFunc(sent, byName)
	return sent
}

func byName(a, b *translate.Resource) int { return strings.Compare(a.Name, b.Name) }

// Refuses begins what is said of a proxy that refused what it should have.
const Refuses = "refuses"

// Progress is whether a stream's proxy has what it should have now.
type Progress struct {
	Stream uint64
	Proxy  model.Proxy
	// Inbound and Outbound say what is not proven of what it serves: secrets,
	// listeners and their routes; and of how it calls: clusters and their
	// endpoints, and the listeners that lead around them. Empty: nothing.
	Inbound, Outbound string
}

// Progress describes all streams against the world that was applied last. What
// was only sent is not proven.
func (s *Store) Progress() []Progress {
	streams := s.all()
	out := make([]Progress, 0, len(streams))
	for _, st := range streams {
		st.mu.Lock()
		st.sync()
		out = append(out, Progress{st.id, st.proxy, st.unproven(serverHalf, secrets, listeners, routes), st.unproven(clientHalf, clusters, endpoints, listeners)})
		st.mu.Unlock()
	}
	return out
}

// The halves of what a proxy has, as holdings and targets count them.
const (
	clientHalf = 0
	serverHalf = 1
)

// unproven names the first of the kinds that is not as it should be in a half.
// Of the other half only what is on its way counts: it may bring both.
func (s *stream) unproven(half int, kinds ...kind) string {
	if s.gen == nil || s.client == nil {
		return "was not sent its configuration yet"
	}
	for _, k := range kinds {
		if k == secrets {
			if s.gated() {
				return "did not prove that it has its certificates"
			}
			continue
		}
		sub := &s.kinds[k]
		switch to := s.targets(k); {
		case !sub.asked && (k == endpoints || k == routes): // it has nothing that needs some
		case !sub.asked:
			return "did not ask for its " + k.plural() + " yet"
		case s.withholds(k, half):
			return Refuses + " its " + k.plural() + ": " + firstLine(sub.nack)
		case sub.flight != nil || !sub.held[half].settled(to[half]):
			return "did not acknowledge its " + k.plural() + " yet"
		}
	}
	return ""
}

// withholds says whether a resource of the kind and half is not sent because
// the proxy refused it.
func (s *stream) withholds(k kind, half int) bool {
	for refused := range s.kinds[k].refused {
		if r := s.targets(k)[half].get(refused.name); r != nil && r.Version == refused.version {
			return true
		}
	}
	return false
}

func (k kind) plural() string {
	return [...]string{"secrets", "clusters", "endpoints", "listeners", "routes"}[k]
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

package ads

import (
	"cmp"
	"iter"
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
	// Reached is the last generation of which it acknowledged all that it should
	// have; one that came meanwhile may have taken its place at once.
	Reached uint64
	Lag     Lag
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

// Lag is the first thing that a proxy should have now and did not acknowledge;
// the zero value: there is none.
type Lag struct {
	TypeURL string // empty: of any
	Why     string // after the proxy's name
	Refused bool   // Why ends with Envoy's text
	Since   time.Time
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
	s.sync()
	s.mark()
	state := ProxyState{
		Stream: s.id, Node: s.node, Proxy: s.proxy, Delta: s.delta, Connected: s.started,
		Known: s.client != nil, Secrets: s.proven(),
		Reached: s.reached, Lag: s.whole(),
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

// Claim is what a proxy that waits for its configuration says it holds.
type Claim struct {
	Proxy  model.Proxy
	At     time.Time // of its last request
	Silent bool      // none was read yet, so nothing is known of it
	Holds  bool      // it holds something
	Bare   bool      // it asked for secrets, and holds none
	// Listeners and Clusters are names and versions; none in state of the
	// world, which knows only the version of the whole. Dead after the call.
	Listeners, Clusters iter.Seq2[[]byte, []byte]
}

// Claims tells of every stream that waits for its configuration, if what they
// say is read ahead.
func (s *Store) Claims(tell func(Claim)) {
	for _, st := range s.all() {
		st.mu.Lock()
		if st.client == nil {
			tell(st.claimed())
		}
		st.mu.Unlock()
	}
}

func (s *stream) claimed() Claim {
	nothing := func(func([]byte, []byte) bool) {}
	c := Claim{Proxy: s.proxy, At: s.started, Silent: len(s.early) == 0, Listeners: nothing, Clusters: nothing}
	if !c.Silent {
		c.At = s.heardAt
	}
	secretsHeld, secretsAsked := false, false
	for i := range s.early {
		r := &s.early[i]
		k, ok := kindOf(r.TypeURL)
		if !ok {
			continue
		}
		if !s.delta {
			c.Holds = c.Holds || len(r.Version) > 0
			continue
		}
		holds := false
		for range r.Versions() {
			holds = true
			break
		}
		c.Holds = c.Holds || holds
		switch {
		case k == secrets:
			secretsAsked, secretsHeld = true, secretsHeld || holds
		case k == listeners && holds:
			c.Listeners = r.Versions()
		case k == clusters && holds:
			c.Clusters = r.Versions()
		}
	}
	c.Bare = secretsAsked && !secretsHeld
	return c
}

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
		out = append(out, Progress{st.id, st.proxy, st.lag(serverHalf, secrets, listeners, routes).Why, st.lag(clientHalf, clusters, endpoints, listeners).Why})
		st.mu.Unlock()
	}
	return out
}

// The halves of what a proxy has, as holdings and targets count them.
const (
	clientHalf = 0
	serverHalf = 1
)

// mark notes that the proxy has all that it should have.
func (s *stream) mark() {
	if s.gen != nil && s.reached < s.gen.number && s.whole() == (Lag{}) {
		s.reached = s.gen.number
	}
}

// whole is the first of all kinds that is not as it should be.
func (s *stream) whole() Lag {
	for k := range kinds {
		for _, half := range [...]int{clientHalf, serverHalf} {
			if behind := s.lag(half, k); behind.Why != "" {
				return behind
			}
		}
	}
	return Lag{}
}

// lag is the first of the kinds that is not as it should be in a half. Of the
// other half only what is on its way counts: it may bring both.
func (s *stream) lag(half int, kinds ...kind) Lag {
	if s.gen == nil || s.client == nil {
		return Lag{Why: "was not sent its configuration yet", Since: s.started}
	}
	for _, k := range kinds {
		if behind := s.behind(k, half); behind.Why != "" {
			behind.TypeURL = k.url()
			return behind
		}
	}
	return Lag{}
}

func (s *stream) behind(k kind, half int) Lag {
	sub := &s.kinds[k]
	behind := Lag{Since: s.started}
	if sub.sentAt.After(sub.ackedAt) {
		behind.Since = sub.sentAt
	}
	if k == secrets {
		if !s.gated() {
			return Lag{}
		}
		behind.Why = "did not prove that it has its certificates"
		if behind.Refused = sub.nackedAt.After(sub.ackedAt); behind.Refused {
			behind.Why += ": " + firstLine(sub.nack)
		}
		return behind
	}
	switch to := s.targets(k); {
	case !sub.asked && (k == endpoints || k == routes): // nothing that it has needs some
		return Lag{}
	case !sub.asked:
		behind.Why = "did not ask for its " + k.plural() + " yet"
	case s.withholds(k, half):
		return Lag{Why: Refuses + " its " + k.plural() + ": " + firstLine(sub.nack), Refused: true, Since: sub.nackedAt}
	case sub.flight != nil || !sub.held[half].settled(to[half]):
		behind.Why = "did not acknowledge its " + k.plural() + " yet"
	}
	return behind
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

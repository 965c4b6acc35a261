package traffic

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/feed"
	"github.com/meshpilot/pilot/pkg/model"
)

const (
	// Remembered is how long a peer is remembered after it was seen last.
	Remembered = 24 * time.Hour
	// maxSeen are remembered of a group of workloads, the newest.
	maxSeen = 64
)

// History remembers who sent a group of workloads what is not mesh mTLS: after
// the pod that was called is gone, and after the feed has newer peers. Safe
// for concurrent use; the zero value has seen nobody.
type History struct {
	mu sync.Mutex
	by map[group]map[sighting]*Sight
}

type group struct{ namespace, name string }

// sighting is a line of the feed.
type sighting struct {
	server  model.WorkloadID
	port    uint16 // of the traffic
	called  uint16
	address string
	kind    feed.Kind
}

// Sight is who was seen. Workload and Sidecar are as they were then.
type Sight struct {
	Server   model.WorkloadID // that was called
	Workload model.WorkloadID // zero: nobody's address
	Sidecar  bool
	Address  string
	Kind     feed.Kind
	Port     uint16
	Count    uint64
	First    time.Time
	Last     time.Time

	before uint64    // what the feed had counted before it forgot
	began  time.Time // feed.Peer.First of what it counts now
}

// Note takes in what the feed has. It forgets what is too old or too much.
func (h *History) Note(f *feed.Feed, s *model.Snapshot, now time.Time) {
	if s == nil {
		return
	}
	told := map[model.WorkloadID]feed.Proxy{}
	f.Each(func(id model.WorkloadID, p feed.Proxy) { told[id] = p })
	h.noteAll(told, s, now)
}

func (h *History) noteAll(told map[model.WorkloadID]feed.Proxy, s *model.Snapshot, now time.Time) {
	owners := Owners(s)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.by == nil {
		h.by = map[group]map[sighting]*Sight{}
	}
	for id, p := range told {
		w := s.Workload(id)
		if w == nil {
			continue
		}
		g := group{id.Namespace, w.Group}
		for port, t := range p.Ports {
			for _, peer := range t.Peers {
				if now.Sub(peer.Last) > Remembered {
					continue
				}
				if h.by[g] == nil {
					h.by[g] = map[sighting]*Sight{}
				}
				h.note(h.by[g], sighting{id, port, peer.Port, peer.Address, peer.Kind}, peer, owners, s)
			}
		}
	}
	for g, seen := range h.by {
		if forget(seen, now); len(seen) == 0 {
			delete(h.by, g)
		}
	}
}

func (h *History) note(seen map[sighting]*Sight, at sighting, p feed.Peer, owners map[string]model.WorkloadID, s *model.Snapshot) {
	sight := seen[at]
	if sight == nil {
		sight = &Sight{Server: at.server, Address: at.address, Kind: at.kind, Port: at.called, First: p.First, began: p.First}
		seen[at] = sight
	}
	if !p.First.Equal(sight.began) { // the feed had forgotten it
		sight.before, sight.began = sight.Count, p.First
	}
	sight.Count, sight.Last = sight.before+p.Count, p.Last
	if owner := owners[p.Address]; owner != (model.WorkloadID{}) {
		sight.Workload, sight.Sidecar = owner, s.HasSidecar(owner)
	}
}

func forget(seen map[sighting]*Sight, now time.Time) {
	for at, s := range seen {
		if now.Sub(s.Last) > Remembered {
			delete(seen, at)
		}
	}
	if len(seen) <= maxSeen {
		return
	}
	all := make([]sighting, 0, len(seen))
	for at := range seen {
		all = append(all, at)
	}
	slices.SortFunc(all, func(a, b sighting) int { return seen[a].Last.Compare(seen[b].Last) })
	for _, at := range all[:len(all)-maxSeen] {
		delete(seen, at)
	}
}

// Of are those that called a port of a group, one for each peer, kind and
// port, the newest first; if there are servers, only what those were sent.
func (h *History) Of(namespace, name string, port uint16, servers ...model.WorkloadID) []Sight {
	type key struct {
		workload model.WorkloadID
		address  string
		kind     feed.Kind
		called   uint16
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	merged := map[key]*Sight{}
	for at, s := range h.by[group{namespace, name}] {
		if at.port != port || len(servers) > 0 && !slices.Contains(servers, at.server) {
			continue
		}
		k := key{s.Workload, s.Address, s.Kind, s.Port}
		if merged[k] == nil {
			one := *s
			merged[k] = &one
			continue
		}
		sum := merged[k]
		sum.Count += s.Count
		if s.First.Before(sum.First) {
			sum.First = s.First
		}
		if s.Last.After(sum.Last) {
			sum.Last, sum.Sidecar = s.Last, s.Sidecar
		}
	}
	out := make([]Sight, 0, len(merged))
	for _, s := range merged {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b Sight) int {
		return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Kind, b.Kind))
	})
	return out
}

package replica

import (
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/discovery/feed"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

// Sources are what a replica knows of its own proxies, against the world in
// force.
type Sources struct {
	Snapshot *model.Snapshot
	Ground   string
	Serial   uint64 // of the stored phases that the world was made with
	Streams  []ads.Progress
	// Withheld takes back what looks proven only because the proxy keeps an
	// earlier configuration.
	Withheld func(*ads.Progress)
	Traffic  func(model.WorkloadID) (feed.Proxy, bool)
	// Wanted are the targets of the snapshot, States how far all are.
	Wanted []model.Wanted
	States map[model.Target]rollout.State
	// Listed has proxies in the report also when no target is under way: when
	// this replica is lost, others know by it whether all are back.
	Listed bool
}

// Report is what is known of the proxies, as far as targets under way need it.
func (s *Sources) Report(now time.Time) rollout.Report {
	r := rollout.Report{
		At: now, Ground: s.Ground, Serial: s.Serial, Phases: map[model.Target]model.Phase{},
		Clients: map[model.WorkloadID]string{}, Servers: map[model.WorkloadID]rollout.Told{},
	}
	open := s.underWay(&r, now)
	if len(r.Phases) == 0 && !s.Listed {
		return r
	}
	streams := map[model.WorkloadID]ads.Progress{} // of the newest
	for _, p := range s.Streams {
		if known, twice := streams[p.Proxy.ID]; !twice || known.Stream < p.Stream {
			streams[p.Proxy.ID] = p
		}
	}
	for _, w := range s.Snapshot.Workloads() {
		if p, connected := streams[w.ID]; connected {
			s.Withheld(&p)
			streams[w.ID] = p
			r.Clients[w.ID] = p.Outbound
		}
	}
	for _, w := range open {
		for _, id := range w.Workloads {
			told, known := r.Servers[id]
			if !known {
				told = s.told(id, streams)
			}
			if traffic, tells := s.Traffic(id); tells || told.Connected {
				told.Ports[w.Port] = portOf(traffic.Port(w.Port))
				r.Servers[id] = told
			}
		}
	}
	return r
}

// underWay enters the phases in force of the targets under way.
func (s *Sources) underWay(r *rollout.Report, now time.Time) (open []*model.Wanted) {
	here := make(map[model.Target]bool, len(s.Wanted))
	for i := range s.Wanted {
		w := &s.Wanted[i]
		here[w.Target] = true
		if state, ok := s.States[w.Target]; ok && state.Watched(w.Rollout, now) {
			open = append(open, w)
			r.Phases[w.Target] = w.Decision.Phase
		}
	}
	for t, state := range s.States { // which this replica does not know yet, or no more
		if !here[t] && !state.Settled() {
			r.Phases[t] = state.Phase
		}
	}
	return open
}

func (s *Sources) told(id model.WorkloadID, streams map[model.WorkloadID]ads.Progress) rollout.Told {
	p, connected := streams[id]
	traffic, _ := s.Traffic(id)
	return rollout.Told{
		Connected: connected, Unproven: p.Inbound, Logs: traffic.Logs, Gap: traffic.Gap, Stats: traffic.Stats,
		Failed: traffic.HandshakeErrors, Ports: map[uint16]rollout.Port{},
	}
}

func portOf(t feed.Traffic) rollout.Port {
	out := rollout.Port{Plain: connections(t.Plain), Mesh: connections(t.Mesh)}
	for _, p := range t.Peers {
		out.Peers = append(out.Peers, rollout.Call{Address: p.Address, Refused: p.Kind == feed.Refused, Count: p.Count, Last: p.Last})
	}
	return out
}

func connections(o feed.Open) rollout.Connections {
	return rollout.Connections{Known: o.Known, Open: o.Active, Total: o.Total, At: o.At}
}

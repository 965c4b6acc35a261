package discovery

import (
	"strconv"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/discovery/feed"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

// observation is what is known of all proxies at one moment, against the
// world in force. What is not known is not proven.
type observation struct {
	snapshot *model.Snapshot
	traffic  func(model.WorkloadID) (feed.Proxy, bool)
	inbound  map[model.WorkloadID]string // by workload with a sidecar; empty: proven
	behind   []behind                    // clients that are not proven
	clients  []rollout.Blocker           // the same for targets that all may call
	at       map[string]model.WorkloadID // by address
}

type behind struct {
	namespace string
	rollout.Blocker
}

const notConnected = "has a sidecar that is not connected"

func (h *hub) observe(s *model.Snapshot) *observation {
	o := &observation{
		snapshot: s, traffic: h.feed.Of,
		inbound: map[model.WorkloadID]string{}, at: map[string]model.WorkloadID{},
	}
	streams := map[model.WorkloadID]ads.Progress{} // of the newest
	for _, p := range h.store.Progress() {
		if known, twice := streams[p.Proxy.ID]; !twice || known.Stream < p.Stream {
			streams[p.Proxy.ID] = p
		}
	}
	for _, w := range s.Workloads() {
		o.at[w.Address] = w.ID
		p, connected := streams[w.ID]
		switch {
		case !connected && !s.HasSidecar(w.ID):
			continue
		case !connected:
			p.Inbound, p.Outbound = notConnected, notConnected
		default:
			h.withheld(s, &p)
		}
		o.inbound[w.ID] = p.Inbound
		if p.Outbound != "" {
			o.behind = append(o.behind, behind{w.ID.Namespace, rollout.Blocker{Who: w.ID.String(), What: p.Outbound}})
		}
	}
	o.clients = o.mayCall(func(string) bool { return true })
	return o
}

// mayCall are the clients behind, of some namespaces; of many, a few.
func (o *observation) mayCall(from func(namespace string) bool) []rollout.Blocker {
	const most = 20
	var out []rollout.Blocker
	more := 0
	for _, b := range o.behind {
		switch {
		case !from(b.namespace):
		case len(out) < most:
			out = append(out, b.Blocker)
		default:
			more++
		}
	}
	if more > 0 {
		out = append(out, rollout.Blocker{Who: "other clients", What: "are not proven either", Detail: strconv.Itoa(more)})
	}
	return out
}

// withheld takes back what looks proven only because the proxy keeps an
// earlier configuration.
func (h *hub) withheld(s *model.Snapshot, p *ads.Progress) {
	client, server, _ := s.ClassOf(p.Proxy)
	if h.translator.client[client].bad != nil {
		p.Outbound = keepsEarlier
	}
	if h.translator.server[server].bad != nil {
		p.Inbound = keepsEarlier
	}
}

// evidence is what is known about one target.
func (o *observation) evidence(w *model.Wanted, state rollout.State) rollout.Evidence {
	var e rollout.Evidence
	for _, id := range w.Workloads {
		told, _ := o.traffic(id)
		port := told.Port(w.Port)
		unproven, known := o.inbound[id]
		if !known {
			unproven = notConnected
		}
		e.Servers = append(e.Servers, rollout.Server{
			Workload: id, Unproven: unproven, Logs: told.Logs, Stats: told.Stats, Failed: told.HandshakeErrors,
			Plain: connections(port.Plain), Mesh: connections(port.Mesh),
		})
		for _, p := range port.Peers {
			e.Peers = append(e.Peers, o.peer(p))
		}
	}
	if e.Clients = o.clients; o.snapshot.Scoped(w) {
		e.Clients = o.mayCall(func(namespace string) bool { return o.snapshot.Calls(namespace, w) })
	}
	if state.Phase == model.PhaseMoved || state.Phase == model.PhaseOpened {
		for _, f := range o.snapshot.Fixed(w) {
			b := rollout.Blocker{Who: "clients of " + f.Host, What: "send plaintext, by " + f.By}
			if f.TLS == model.ClientMesh || f.TLS == model.ClientMixed {
				b.What = "send mTLS, by " + f.By
				e.Mesh = append(e.Mesh, b)
				continue
			}
			e.Plaintext = append(e.Plaintext, b)
		}
	}
	return e
}

func (o *observation) peer(p feed.Peer) rollout.Peer {
	out := rollout.Peer{Name: p.Address, Refused: p.Kind == feed.Refused, Count: p.Count, Last: p.Last}
	if id, ok := o.at[p.Address]; ok {
		out.Name, out.Sidecar = id.String()+" at "+p.Address, o.snapshot.HasSidecar(id)
	}
	return out
}

func connections(o feed.Open) rollout.Connections {
	return rollout.Connections{Known: o.Known, Open: o.Active, Total: o.Total, At: o.At}
}

package replica

import (
	"strconv"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

// Observation is what all replicas know of all proxies at one moment, against
// the world in force. What is not known is not proven.
type Observation struct {
	snapshot *model.Snapshot
	merged   *rollout.Merged
	behind   []behind                    // clients that are not proven
	clients  []rollout.Blocker           // the same for targets that all may call
	at       map[string]model.WorkloadID // by address
}

type behind struct {
	namespace string
	rollout.Blocker
}

// Observe puts together what this replica and others report of a snapshot.
func Observe(s *model.Snapshot, m *rollout.Merged) *Observation {
	o := &Observation{snapshot: s, merged: m, at: map[string]model.WorkloadID{}}
	for _, w := range s.Workloads() {
		o.at[w.Address] = w.ID
		unproven, connected := m.Client(w.ID)
		switch {
		case !connected && !s.HasSidecar(w.ID):
			continue
		case !connected:
			unproven = m.Missing(w.ID)
		}
		if unproven != "" {
			o.behind = append(o.behind, behind{w.ID.Namespace, rollout.Blocker{Who: w.ID.String(), What: unproven}})
		}
	}
	o.clients = o.mayCall(func(string) bool { return true })
	return o
}

// mayCall are the clients behind, of some namespaces; of many, a few.
func (o *Observation) mayCall(from func(namespace string) bool) []rollout.Blocker {
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

// Evidence is what is known about one target in the phase of its state, which
// stored phases of that serial brought.
func (o *Observation) Evidence(w *model.Wanted, state rollout.State, serial uint64) rollout.Evidence {
	at := rollout.Place{Target: w.Target, Phase: state.Phase, Serial: serial}
	e := rollout.Evidence{AsOf: o.merged.AsOf()}
	for _, id := range w.Workloads {
		server, calls := o.merged.Server(id, at)
		e.Servers = append(e.Servers, server)
		for _, c := range calls {
			e.Peers = append(e.Peers, o.peer(c))
		}
	}
	clients := o.clients
	if o.snapshot.Scoped(w) {
		clients = o.mayCall(func(namespace string) bool { return o.snapshot.Calls(namespace, w) })
	}
	e.Clients = append(o.merged.Replicas(at), clients...)
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

func (o *Observation) peer(c rollout.Call) rollout.Peer {
	out := rollout.Peer{Name: c.Address, Refused: c.Refused, Count: c.Count, Last: c.Last}
	if id, ok := o.at[c.Address]; ok {
		out.Name, out.Sidecar = id.String()+" at "+c.Address, o.snapshot.HasSidecar(id)
	}
	return out
}

package rollout

import (
	"slices"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

// Report is what one replica of the control plane knows of the proxies that
// are connected to it, against the world that it has in force. Its times are
// of the clock of whoever reads it.
type Report struct {
	At time.Time // it is of; what came later is not in it
	// Ground is what its world is made of, without workloads and phases.
	Ground string
	Phases map[model.Target]model.Phase // of targets under way
	// Serial is of the stored phases that its world was made with.
	Serial uint64
	// Clients are the connected proxies, with what is not proven of how they
	// call; empty: nothing.
	Clients map[model.WorkloadID]string
	// Servers are what is known of workloads of targets under way.
	Servers map[model.WorkloadID]Told
	Dropped int // clients and servers for which there was no room
}

// Told is what a replica knows of one workload. Its proxy may be connected to
// one replica and tell of its traffic to others.
type Told struct {
	Connected bool
	Unproven  string    // of what it serves; of a connected one
	Logs, Gap time.Time // access logs are followed since; a record may have been missed at
	Stats     time.Time // its gauges are followed since; zero: not here
	Failed    uint64    // TLS handshakes that failed
	Ports     map[uint16]Port
}

// Port is the traffic of a port of a target under way.
type Port struct {
	Plain, Mesh Connections
	Peers       []Call
}

// Call is somebody who talked to a port without mesh mTLS.
type Call struct {
	Address string
	Refused bool
	Count   uint64
	Last    time.Time
}

// Heard is a replica with the last that it reported.
type Heard struct {
	Replica string
	Report  Report
	// Silent says why nothing that it reported counts any more; empty: it
	// does.
	Silent string
	// Gone says that it does not run, so that its proxies are proven as soon
	// as they are, all of them, at others.
	Gone bool
}

// Place is where a target is: its phase, and the serial of the stored phases
// that brought it there. What was reported of an earlier visit does not count.
type Place struct {
	model.Target
	Phase  model.Phase
	Serial uint64
}

// Merged is what all replicas know together. What no replica that speaks
// proves is not proven.
type Merged struct {
	speak  []Heard
	silent []Heard
	ground string
	asOf   time.Time
	lost   time.Time
}

// Merge puts together what replicas report, of a world made of ground. lost
// is when a replica was lost last: what proxies told it then may be lost, too.
func Merge(heard []Heard, ground string, lost time.Time) *Merged {
	m := &Merged{ground: ground, lost: lost}
	for _, h := range heard {
		switch {
		case h.Silent != "":
			m.silent = append(m.silent, h)
		default:
			m.speak = append(m.speak, h)
			if m.asOf.IsZero() || h.Report.At.Before(m.asOf) {
				m.asOf = h.Report.At
			}
		}
	}
	m.silent = slices.DeleteFunc(m.silent, m.moved)
	return m
}

// moved says that all proxies of a replica that is gone are at others.
func (m *Merged) moved(h Heard) bool {
	if !h.Gone || len(h.Report.Clients) == 0 || h.Report.Dropped > 0 {
		return false
	}
	for id := range h.Report.Clients {
		if !m.Connected(id) {
			return false
		}
	}
	return true
}

// AsOf is of when the oldest of the reports is.
func (m *Merged) AsOf() time.Time { return m.asOf }

// Connected says whether some replica that speaks has the workload's proxy.
func (m *Merged) Connected(id model.WorkloadID) bool {
	return slices.ContainsFunc(m.speak, func(h Heard) bool { _, ok := h.Report.Clients[id]; return ok })
}

// Client is what is not proven of how a connected proxy calls; false if no
// replica has it. Of one that two have, both must have proven it.
func (m *Merged) Client(id model.WorkloadID) (unproven string, connected bool) {
	for _, h := range m.speak {
		if why, ok := h.Report.Clients[id]; ok {
			connected = true
			if unproven == "" {
				unproven = why
			}
		}
	}
	return unproven, connected
}

// Missing is why a sidecar that no replica has is not connected.
func (m *Merged) Missing(id model.WorkloadID) string {
	for _, h := range m.silent {
		if _, had := h.Report.Clients[id]; had {
			return "was connected to replica " + h.Replica + ", which " + h.Silent
		}
	}
	return notConnected
}

// notConnected is what is wrong with a sidecar that no replica has.
const notConnected = "has a sidecar that is not connected"

// Replicas are those that cannot speak for a target where it is: until they
// do, none of their proxies is proven.
func (m *Merged) Replicas(at Place) []Blocker {
	var out []Blocker
	for _, h := range m.silent {
		out = append(out, Blocker{Who: "replica " + h.Replica, What: h.Silent})
	}
	for i := range m.speak {
		if why := m.mute(&m.speak[i], at); why != "" {
			out = append(out, Blocker{Who: "replica " + m.speak[i].Replica, What: why})
		}
	}
	return out
}

// mute is why a replica does not speak for a target; empty: it does.
func (m *Merged) mute(h *Heard, at Place) string {
	switch phase, ok := h.Report.Phases[at.Target]; {
	case h.Report.At.IsZero():
		return "has not answered this one yet"
	case h.Report.Ground != m.ground:
		return "has another configuration in force"
	case !ok || phase != at.Phase || h.Report.Serial < at.Serial:
		return "does not have the phase in force yet"
	case h.Report.Dropped > 0:
		return "has more proxies than it can report"
	}
	return ""
}

// Server is what is known of a workload of a target, and who talked to it
// without mesh mTLS.
func (m *Merged) Server(id model.WorkloadID, at Place) (Server, []Call) {
	out := Server{Workload: id, Unproven: m.Missing(id)}
	var peers []Call
	missing, tellers := true, 0
	for i := range m.speak {
		h := &m.speak[i]
		told, ok := h.Report.Servers[id]
		if !ok {
			continue
		}
		port := told.Ports[at.Port]
		peers = append(peers, port.Peers...)
		out.Logs = later(out.Logs, told.Logs)
		out.Failed += told.Failed
		if !told.Stats.IsZero() {
			tellers++
			out.Stats, out.Plain, out.Mesh = told.Stats, port.Plain, port.Mesh
		}
		if !told.Connected {
			continue
		}
		why := told.Unproven
		if mute := m.mute(h, at); mute != "" {
			why = "is connected to replica " + h.Replica + ", which " + mute
		}
		if missing || out.Unproven == "" {
			out.Unproven = why
		}
		missing = false
	}
	if !out.Logs.IsZero() {
		out.Logs = later(out.Logs, m.lost)
		for _, h := range m.speak {
			out.Logs = later(out.Logs, h.Report.Servers[id].Gap)
		}
	}
	if tellers > 1 { // one of them tells of an Envoy that was
		out.Plain.Known, out.Mesh.Known = false, false
	}
	return out, joined(peers)
}

// joined are the peers by address, the newest first.
func joined(calls []Call) []Call {
	type who struct {
		address string
		refused bool
	}
	at := map[who]int{}
	var out []Call
	for _, c := range calls {
		i, known := at[who{c.Address, c.Refused}]
		if !known {
			at[who{c.Address, c.Refused}] = len(out)
			out = append(out, c)
			continue
		}
		out[i].Count += c.Count
		out[i].Last = later(out[i].Last, c.Last)
	}
	slices.SortStableFunc(out, func(a, b Call) int { return b.Last.Compare(a.Last) })
	return out
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

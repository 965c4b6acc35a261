package rollout

import (
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

// second is another replica, which has the second server and the second
// client: it follows late, and reports later.
type second struct {
	serial, entered uint64 // of the leader: stored last, and with the present phase
	follows         model.Phase
	followed        uint64 // serial
	silent          bool
	told            Report
}

type secondKey struct {
	there, silent  bool
	follows, told  model.Phase
	behind, stale  bool
	server, client string
	plain, mesh    uint64
}

func (s *second) key() secondKey {
	if s == nil {
		return secondKey{}
	}
	server := s.told.Servers[cart1]
	return secondKey{
		there: true, silent: s.silent, follows: s.follows, told: s.told.Phases[target], behind: s.followed < s.entered, stale: s.told.Serial < s.entered,
		server: server.Unproven, client: s.told.Clients[web1], plain: server.Ports[80].Plain.Open, mesh: server.Ports[80].Mesh.Open,
	}
}

var cart0, cart1 = model.WorkloadID{Namespace: "shop", Name: "cart-0"}, model.WorkloadID{Namespace: "shop", Name: "cart-1"}
var web1 = model.WorkloadID{Namespace: "shop", Name: "web-1"}

// at is the phase that the replica of a proxy has in force.
func (w *world) at(i int) model.Phase {
	if w.second != nil && i == 1 {
		return w.second.follows
	}
	return w.phase()
}

// stored notes that a phase was stored.
func (w *world) stored(before model.Phase) {
	if w.second != nil && w.phase() != before {
		w.second.serial++
		w.second.entered = w.second.serial
	}
}

func (w *world) follow() {
	if w.second != nil {
		w.second.follows, w.second.followed, w.second.silent = w.phase(), w.second.serial, false
	}
}

func (w *world) report() {
	if w.second != nil {
		w.second.told = w.known(1, w.second.follows, w.second.followed)
	}
}

// known is what the replica of the server and the client of that number knows.
func (w *world) known(i int, phase model.Phase, serial uint64) Report {
	r := Report{
		At: w.now, Serial: serial, Phases: map[model.Target]model.Phase{target: phase},
		Clients: map[model.WorkloadID]string{}, Servers: map[model.WorkloadID]Told{},
	}
	client, server := [2]model.WorkloadID{{Namespace: "shop", Name: "web-0"}, web1}[i], [2]model.WorkloadID{cart0, cart1}[i]
	r.Clients[client] = ""
	if w.sends[i] != (phase >= model.PhaseMoved) {
		r.Clients[client] = "has not acknowledged"
	}
	if !w.here[i] {
		return r
	}
	told := Told{Connected: w.running[i], Logs: w.now.Add(-time.Hour), Stats: w.now.Add(-time.Hour)}
	switch {
	case w.nack[i]:
		told.Unproven = "refuses"
	case w.serves[i] != chains(phase):
		told.Unproven = "has not acknowledged"
	}
	port := Port{Plain: Connections{Known: true, At: w.now}, Mesh: Connections{Known: true, At: w.now}}
	for c := range w.long {
		if w.long[c] && w.longMesh[c] {
			port.Mesh.Open++
		} else if w.long[c] {
			port.Plain.Open++
		}
	}
	told.Ports = map[uint16]Port{80: port}
	r.Servers[server] = told
	return r
}

// merged is the leader's evidence.
func (w *world) merged() Evidence {
	other := Heard{Replica: "b", Report: w.second.told}
	if w.second.silent {
		other.Silent = "is silent"
	}
	m := Merge([]Heard{{Replica: "a", Report: w.known(0, w.phase(), w.second.serial)}, other}, "", time.Time{})
	at := Place{target, w.phase(), w.second.entered}
	e := Evidence{AsOf: m.AsOf(), Clients: m.Replicas(at)}
	for i, id := range []model.WorkloadID{cart0, cart1} {
		if w.here[i] {
			s, _ := m.Server(id, at)
			e.Servers = append(e.Servers, s)
		}
	}
	for _, id := range []model.WorkloadID{{Namespace: "shop", Name: "web-0"}, web1} {
		why, connected := m.Client(id)
		if !connected {
			why = m.Missing(id)
		}
		if why != "" {
			e.Clients = append(e.Clients, Blocker{Who: id.String(), What: why})
		}
	}
	if w.stranger {
		e.Peers = append(e.Peers, Peer{Name: "10.0.0.9", Count: 1, Last: w.now})
	}
	return e
}

// TestEverySequenceOfTwoReplicas is TestEverySequence with a second replica
// that has half of the proxies, follows late and reports late, and a leader
// that may change.
func TestEverySequenceOfTwoReplicas(t *testing.T) {
	all := append(events(),
		event{"the other follows", (*world).follow},
		event{"the other reports", (*world).report},
		event{"the other follows and reports", func(w *world) { w.follow(); w.report() }},
		event{"the other is silent", func(w *world) { w.second.silent = true }},
	)
	everySequence(t, 4, all, func(w *world) {
		w.second = &second{follows: w.phase()}
		w.report()
	})
}

// Of a proxy that two replicas have, both must prove; of stats that two have,
// neither does.
func TestMerge(t *testing.T) {
	at := Place{target, model.PhaseMoved, 3}
	one := func(name, unproven string, serial uint64) Heard {
		return Heard{Replica: name, Report: Report{
			At: time.Unix(1e9, 0), Serial: serial, Phases: map[model.Target]model.Phase{target: model.PhaseMoved},
			Clients: map[model.WorkloadID]string{cart0: unproven},
			Servers: map[model.WorkloadID]Told{cart0: {Connected: true, Unproven: unproven, Stats: time.Unix(1, 0), Logs: time.Unix(2, 0), Failed: 2, Ports: map[uint16]Port{
				80: {Plain: Connections{Known: true}, Peers: []Call{{Address: "10.0.0.1", Count: 1, Last: time.Unix(int64(serial), 0)}}},
			}}},
		}}
	}
	a, b, late := one("a", "", 3), one("b", "is behind", 4), one("c", "", 2)
	s, peers := Merge([]Heard{a}, "", time.Time{}).Server(cart0, at)
	if s.Unproven != "" || !s.Plain.Known || s.Failed != 2 || len(peers) != 1 {
		t.Errorf("of one: %+v, %v", s, peers)
	}
	lost := time.Unix(100, 0)
	m := Merge([]Heard{a, b}, "", lost)
	s, peers = m.Server(cart0, at)
	if s.Unproven != "is behind" || s.Plain.Known || s.Failed != 4 || !s.Logs.Equal(lost) || len(peers) != 1 || peers[0].Count != 2 || !peers[0].Last.Equal(time.Unix(4, 0)) {
		t.Errorf("of two: %+v, %v", s, peers)
	}
	if why, _ := m.Client(cart0); why != "is behind" {
		t.Errorf("client %q", why)
	}
	m = Merge([]Heard{a, late}, "", lost)
	if s, _ = m.Server(cart0, at); s.Unproven != "is connected to replica c, which does not have the phase in force yet" {
		t.Errorf("of one that follows late: %q", s.Unproven)
	}
	if r := m.Replicas(at); len(r) != 1 || r[0].String() != "replica c does not have the phase in force yet" {
		t.Errorf("replicas %v", r)
	}
	b.Silent, b.Gone = "does not run", true
	if m = Merge([]Heard{a, b}, "", lost); len(m.Replicas(at)) != 0 {
		t.Errorf("waits for one that is gone, whose proxies are all elsewhere: %v", m.Replicas(at))
	}
	b.Report.Clients[cart1] = ""
	if m = Merge([]Heard{a, b}, "", lost); len(m.Replicas(at)) != 1 || m.Missing(cart1) != "was connected to replica b, which does not run" {
		t.Errorf("replicas %v, missing %q", m.Replicas(at), m.Missing(cart1))
	}
}

// What proves is read for older, what blocks for younger; what is too much is
// counted.
func TestReportOnItsWay(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := Report{
		At: now.Add(-time.Second), Ground: "g", Serial: 7, Phases: map[model.Target]model.Phase{target: model.PhaseOpened},
		Clients: map[model.WorkloadID]string{web1: "is behind"},
		Servers: map[model.WorkloadID]Told{cart0: {Connected: true, Logs: now.Add(-time.Minute), Ports: map[uint16]Port{
			80: {Plain: Connections{Known: true, Open: 2, At: now.Add(-2 * time.Second)}, Peers: []Call{{Address: "10.0.0.1", Last: now.Add(-3 * time.Second)}}},
		}}},
	}
	data, err := r.Encode(now)
	if err != nil {
		t.Fatal(err)
	}
	wrote, read := time.Unix(500, 0), time.Unix(510, 0) // of another clock
	got, err := DecodeReport(data, wrote, read)
	if err != nil {
		t.Fatal(err)
	}
	told := got.Servers[cart0]
	port := told.Ports[80]
	if !got.At.Equal(wrote.Add(-time.Second)) || got.Serial != 7 || got.Phases[target] != model.PhaseOpened || got.Clients[web1] != "is behind" ||
		!told.Logs.Equal(read.Add(-time.Minute)) || !told.Stats.IsZero() || !port.Plain.At.Equal(wrote.Add(-2*time.Second)) || port.Plain.Open != 2 || !port.Peers[0].Last.Equal(read.Add(-3*time.Second)) {
		t.Errorf("got %+v", got)
	}
	if got, _ = DecodeReport(data, time.Time{}, read); !got.At.IsZero() || !got.Servers[cart0].Ports[80].Plain.At.IsZero() {
		t.Errorf("of an unknown time: %+v", got)
	}
	if _, err := DecodeReport([]byte("torn"), wrote, read); err == nil {
		t.Error("a torn report was read")
	}
	for i := range mostClients + 5 {
		r.Clients[model.WorkloadID{Namespace: "many", Name: string(rune(0x4e00+i%20_000)) + string(rune(0x4e00+i/20_000))}] = ""
	}
	if data, err = r.Encode(now); err != nil || len(data) > 1_000_000 {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
	if got, err = DecodeReport(data, wrote, read); err != nil || got.Dropped != 6 || len(got.Clients) != mostClients {
		t.Errorf("%d clients, %d dropped, %v", len(got.Clients), got.Dropped, err)
	}
}

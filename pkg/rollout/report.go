package rollout

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

const (
	// mostClients, mostServers and mostCalls bound what a report names. The
	// rest is counted, and not proven.
	mostClients = 30_000
	mostServers = 15_000
	mostCalls   = 5_000
)

// wireReport is a Report on its way. Clocks differ, so it has no times, but
// how long ago they were when it was written, in milliseconds; -1: never.
type wireReport struct {
	Age     int64        `json:"age"`
	Ground  string       `json:"ground"`
	Serial  uint64       `json:"serial"`
	Phases  []wirePhase  `json:"phases,omitempty"`
	Clients []wireClient `json:"clients,omitempty"`
	Servers []wireServer `json:"servers,omitempty"`
	Dropped int          `json:"dropped,omitempty"`
}

type wirePhase struct {
	Namespace string `json:"ns"`
	Group     string `json:"group"`
	Port      uint16 `json:"port"`
	Phase     string `json:"phase"`
}

type wireClient struct {
	Namespace string `json:"ns"`
	Name      string `json:"name"`
	Unproven  string `json:"unproven,omitempty"`
}

type wireServer struct {
	wireClient
	Connected bool       `json:"connected,omitempty"`
	Logs      int64      `json:"logs"`
	Gap       int64      `json:"gap"`
	Stats     int64      `json:"stats"`
	Failed    uint64     `json:"failed,omitempty"`
	Ports     []wirePort `json:"ports,omitempty"`
}

type wirePort struct {
	Port  uint16     `json:"port"`
	Plain wireGauge  `json:"plain"`
	Mesh  wireGauge  `json:"mesh"`
	Peers []wireCall `json:"peers,omitempty"`
}

type wireGauge struct {
	Known bool   `json:"known,omitempty"`
	Open  uint64 `json:"open,omitempty"`
	Total uint64 `json:"total,omitempty"`
	Age   int64  `json:"age"`
}

type wireCall struct {
	Address string `json:"address"`
	Refused bool   `json:"refused,omitempty"`
	Count   uint64 `json:"count"`
	Age     int64  `json:"age"`
}

// Encode is the report as it is told to other replicas at now, compressed;
// what finds no room is counted in Dropped.
func (r *Report) Encode(now time.Time) ([]byte, error) {
	age := func(t time.Time) int64 {
		if t.IsZero() {
			return -1
		}
		return max(0, now.Sub(t).Milliseconds())
	}
	gauge := func(c Connections) wireGauge { return wireGauge{c.Known, c.Open, c.Total, age(c.At)} }
	out := wireReport{Age: age(r.At), Ground: r.Ground, Serial: r.Serial, Dropped: r.Dropped}
	for _, t := range slices.SortedFunc(maps.Keys(r.Phases), model.Target.Compare) {
		out.Phases = append(out.Phases, wirePhase{t.Namespace, t.Group, t.Port, rung(r.Phases[t])})
	}
	for i, id := range slices.SortedFunc(maps.Keys(r.Clients), model.WorkloadID.Compare) {
		if i == mostClients {
			out.Dropped += len(r.Clients) - i
			break
		}
		out.Clients = append(out.Clients, wireClient{id.Namespace, id.Name, r.Clients[id]})
	}
	calls := 0
	for i, id := range slices.SortedFunc(maps.Keys(r.Servers), model.WorkloadID.Compare) {
		if i == mostServers {
			out.Dropped += len(r.Servers) - i
			break
		}
		told := r.Servers[id]
		s := wireServer{
			wireClient: wireClient{id.Namespace, id.Name, told.Unproven}, Connected: told.Connected,
			Logs: age(told.Logs), Gap: age(told.Gap), Stats: age(told.Stats), Failed: told.Failed,
		}
		for _, number := range slices.Sorted(maps.Keys(told.Ports)) {
			p := told.Ports[number]
			port := wirePort{Port: number, Plain: gauge(p.Plain), Mesh: gauge(p.Mesh)}
			for j, c := range p.Peers {
				if calls++; calls > mostCalls && j > 0 { // the newest of each port holds it as well as all
					break
				}
				port.Peers = append(port.Peers, wireCall{c.Address, c.Refused, c.Count, age(c.Last)})
			}
			s.Ports = append(s.Ports, port)
		}
		out.Servers = append(out.Servers, s)
	}
	return json.Marshal(out)
}

// DecodeReport is Encode backwards, in times of the reader's clock. What
// proves is taken for as old as it can be, and what blocks for as young: the
// report was written at wrote or later, and read at read. A zero wrote is not
// known, and proves nothing.
func DecodeReport(data []byte, wrote, read time.Time) (Report, error) {
	var in wireReport
	if err := json.Unmarshal(data, &in); err != nil {
		return Report{}, fmt.Errorf("not a report: %w", err)
	}
	before := func(at time.Time, age int64) time.Time {
		if age < 0 || at.IsZero() {
			return time.Time{}
		}
		return at.Add(-time.Duration(age) * time.Millisecond)
	}
	gauge := func(g wireGauge) Connections {
		return Connections{Known: g.Known, Open: g.Open, Total: g.Total, At: before(wrote, g.Age)}
	}
	r := Report{
		At: before(wrote, in.Age), Ground: in.Ground, Serial: in.Serial, Dropped: in.Dropped, Phases: map[model.Target]model.Phase{},
		Clients: make(map[model.WorkloadID]string, len(in.Clients)), Servers: make(map[model.WorkloadID]Told, len(in.Servers)),
	}
	for _, p := range in.Phases {
		phase, ok := phaseOf(p.Phase)
		if !ok {
			return Report{}, fmt.Errorf("phase %q is unknown", p.Phase)
		}
		r.Phases[model.Target{Namespace: p.Namespace, Group: p.Group, Port: p.Port}] = phase
	}
	for _, c := range in.Clients {
		r.Clients[model.WorkloadID{Namespace: c.Namespace, Name: c.Name}] = c.Unproven
	}
	for _, s := range in.Servers {
		told := Told{
			Connected: s.Connected, Unproven: s.Unproven, Logs: before(read, s.Logs), Gap: before(read, s.Gap), Stats: before(read, s.Stats),
			Failed: s.Failed, Ports: make(map[uint16]Port, len(s.Ports)),
		}
		for _, p := range s.Ports {
			port := Port{Plain: gauge(p.Plain), Mesh: gauge(p.Mesh)}
			for _, c := range p.Peers {
				port.Peers = append(port.Peers, Call{c.Address, c.Refused, c.Count, before(read, c.Age)})
			}
			told.Ports[p.Port] = port
		}
		r.Servers[model.WorkloadID{Namespace: s.Namespace, Name: s.Name}] = told
	}
	return r, nil
}

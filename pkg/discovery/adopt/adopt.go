// Package adopt finds the phases in which a running mesh is of which nothing
// is stored: proxies that connect again say which versions they hold, and
// versions are hashes of content, so what is held in a phase can be told by
// making it. It is pure.
package adopt

import (
	"strconv"
	"strings"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

// Phases are those in which the targets of in are found. Nil: no proxy holds
// anything. claims tells of every proxy that is there.
func Phases(in model.Inputs, claims func(tell func(ads.Claim))) (targets []model.Wanted, found map[model.Target]model.Phase) {
	anything := false
	claims(func(c ads.Claim) { anything = anything || c.Holds || c.Silent })
	if !anything {
		return nil, nil
	}
	m := newMesh(in)
	claims(m.hear)
	found = make(map[model.Target]model.Phase, len(m.targets))
	for i := range m.targets {
		w := &m.targets[i]
		f := m.found[w.Target]
		for _, id := range w.Workloads {
			f.Unknown = f.Unknown || !m.heard[id]
		}
		found[w.Target] = f.Phase(w.Decision.Mode.Phase())
	}
	return m.targets, found
}

// mesh is what is compared with what proxies say they hold.
type mesh struct {
	base    *model.Snapshot // every target where its mode ends
	targets []model.Wanted
	found   map[model.Target]*Found
	heard   map[model.WorkloadID]bool           // servers that said something
	ports   map[model.WorkloadID][]model.Wanted // that a server has
	ways    map[model.Way][]model.Target

	plain, moved sides
	clients      map[model.ClientClass]map[string]*flip
	servers      map[held]map[uint16]model.Phase
}

// sides are client halves with all clients in plaintext, or all on mTLS.
type sides struct {
	snapshot *model.Snapshot
	shared   *translate.Shared
}

// flip is a cluster that differs between the two.
type flip struct {
	plain, moved string // versions
	targets      []model.Target
}

// held is what a server of a class says it holds.
type held struct {
	class     model.ServerClass
	listeners string
}

func newMesh(in model.Inputs) *mesh {
	at := func(p model.Phase, targets []model.Wanted) *model.Snapshot {
		in.Phases = make(map[model.Target]model.Phase, len(targets))
		for i := range targets {
			in.Phases[targets[i].Target] = p
		}
		return model.Build(in)
	}
	m := &mesh{
		base:    at(0, nil),
		found:   map[model.Target]*Found{},
		heard:   map[model.WorkloadID]bool{},
		ports:   map[model.WorkloadID][]model.Wanted{},
		ways:    map[model.Way][]model.Target{},
		clients: map[model.ClientClass]map[string]*flip{},
		servers: map[held]map[uint16]model.Phase{},
	}
	m.targets = m.base.Targets()
	for i := range m.targets {
		w := &m.targets[i]
		m.found[w.Target] = &Found{}
		for _, id := range w.Workloads {
			m.ports[id] = append(m.ports[id], *w)
		}
		for _, way := range m.base.Ways(w) {
			m.ways[way] = append(m.ways[way], w.Target)
		}
	}
	m.plain.snapshot = at(model.PhaseOpened, m.targets)
	m.plain.shared = translate.Share(m.plain.snapshot, nil)
	m.moved.snapshot = at(model.PhaseMoved, m.targets)
	m.moved.shared = translate.Share(m.moved.snapshot, m.plain.shared)
	return m
}

// hear takes what one proxy says.
func (m *mesh) hear(c ads.Claim) {
	client, server, known := m.base.ClassOf(c.Proxy)
	if !known || c.Silent {
		return
	}
	if c.Proxy.Type == model.Sidecar {
		m.heard[c.Proxy.ID] = true
	}
	if !c.Holds { // it takes any phase
		return
	}
	m.serves(c, server)
	flips := m.flips(client)
	for name, version := range c.Clusters {
		f := flips[string(name)]
		switch {
		case f == nil:
		case string(version) == f.plain, c.Bare && string(version) != f.moved:
			m.each(f.targets, func(of *Found) { of.Plain = true })
		case string(version) == f.moved:
			m.each(f.targets, func(of *Found) { of.Mesh = true })
		}
	}
}

func (m *mesh) each(targets []model.Target, note func(*Found)) {
	for _, t := range targets {
		note(m.found[t])
	}
}

// serves finds out what the proxy serves. What matches no phase is unknown,
// but without secrets it is no mTLS.
func (m *mesh) serves(c ads.Claim, class model.ServerClass) {
	if c.Proxy.Type != model.Sidecar {
		return
	}
	view := m.base.ServerView(class)
	var ports []model.Wanted // that it serves
	for _, w := range m.ports[c.Proxy.ID] {
		if translate.InboundListener(view, w.Port) != "" {
			ports = append(ports, w)
		}
	}
	listeners := map[string]string{}
	var key strings.Builder
	for name, version := range c.Listeners {
		listeners[string(name)] = string(version)
	}
	for i := range ports {
		name := translate.InboundListener(view, ports[i].Port)
		key.WriteString(" " + strconv.Itoa(int(ports[i].Port)) + "=" + listeners[name])
	}
	memo := held{class, key.String()}
	phases, done := m.servers[memo]
	if !done {
		phases = matched(view, ports, listeners)
		m.servers[memo] = phases
	}
	for i := range ports {
		f := m.found[ports[i].Target]
		phase, ok := phases[ports[i].Port]
		switch {
		case ok && phase == model.PhaseNone, !ok && c.Bare:
			f.None = true
		case !ok:
			f.Unknown = true
		case phase == model.PhaseGrace:
			f.Grace = true
		case phase == model.PhaseStrict:
			f.Strict = true
		default:
			f.Both = true
		}
	}
}

// flips are the clusters of a class that tell what it sends, by name.
func (m *mesh) flips(class model.ClientClass) map[string]*flip {
	if known, ok := m.clients[class]; ok {
		return known
	}
	plain := translate.Outbound(m.plain.snapshot.ClientView(class), m.plain.shared, nil)
	moved := translate.Outbound(m.moved.snapshot.ClientView(class), m.moved.shared, plain)
	out := map[string]*flip{}
	for _, r := range plain.Clusters.Resources {
		targets := m.ways[wayOf(r.Name)]
		if other := moved.Clusters.Find(r.Name); len(targets) > 0 && other != nil && other.Version != r.Version {
			out[r.Name] = &flip{r.Version, other.Version, targets}
		}
	}
	m.clients[class] = out
	return out
}

// wayOf reads a cluster's name: outbound|80|subset|host.
func wayOf(cluster string) model.Way {
	parts := strings.Split(cluster, "|")
	if len(parts) != 4 || parts[0] != "outbound" {
		return model.Way{}
	}
	port, _ := strconv.ParseUint(parts[1], 10, 16) // 0 is nobody's
	return model.Way{Host: parts[3], Port: uint16(port)}
}

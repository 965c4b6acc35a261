package discovery

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

// build makes a snapshot of the bundle and the evidence, and applies it. What
// may only warn comes after what proxies wait for.
func (h *hub) build() {
	h.buildAt, h.firstEdit = time.Time{}, time.Time{}
	fresh := h.fresh
	h.fresh = false
	var compiled []meshconfig.Problem
	if fresh { // else only the evidence is
		h.timed("compile", func() { h.inputs, compiled = meshconfig.Inputs(*h.bundle, h.domain) })
		h.built = h.bundle
		if h.rollouts != nil && !h.rollouts.alone() {
			h.ground = h.inputs.Ground()
		}
		h.meshChanged(time.Now())
	}
	s, in := h.snapshotNow()
	old := h.snapshot.Swap(s)
	if old == nil {
		close(h.configured)
	}
	h.history.Note(h.feed, old, time.Now()) // before the feed forgets the pods that are gone
	h.versions.Retain(s)
	h.expel(s) // before they get anything of it
	h.feed.Retain(func(id model.WorkloadID) bool { return s.Workload(id) != nil })
	h.callsAt = time.Now()
	h.apply(s)
	if fresh {
		h.revise()
	}
	h.tellAccounts()
	h.timed("lint", func() {
		lint := meshconfig.Lint(*h.bundle, in, s)
		if fresh {
			h.problems.Set("compile", compiled...)
		}
		h.problems.Set("lint", lint...)
	})
	h.moved = true // whoever was redirected to the mesh's ports is asked in show
	h.show(time.Now())
}

// snapshotNow is the snapshot of the inputs and the evidence, which is kept
// for the life of its workload.
func (h *hub) snapshotNow() (s *model.Snapshot, in model.Inputs) {
	build := func() {
		in = h.inputs
		in.Connected = slices.SortedFunc(maps.Keys(h.evidence), model.WorkloadID.Compare)
		h.timed("build", func() { s = h.rollouts.build(&in, time.Now()) })
	}
	build()
	news := false
	for _, c := range h.ledger.streams {
		news = h.seen(s, c.proxy) && !s.HasSidecar(c.proxy.ID) || news
	}
	if news {
		build()
	}
	maps.DeleteFunc(h.evidence, func(id model.WorkloadID, _ capturePorts) bool { return s.Workload(id) == nil })
	return s, in
}

// oldPorts warns of connected proxies whose traffic is still redirected to
// ports that the mesh had before.
func (h *hub) oldPorts(s *model.Snapshot) []meshconfig.Problem {
	now := portsOf(s.Mesh())
	var old []string
	for _, c := range h.ledger.streams {
		client, _, known := s.ClassOf(c.proxy)
		ports, seen := h.evidence[c.proxy.ID]
		if known && seen && client.Capture != model.CaptureNone && ports != now {
			old = append(old, c.proxy.ID.String())
		}
	}
	h.moved = len(old) > 0
	if !h.moved {
		return nil
	}
	slices.Sort(old)
	p := meshconfig.Problem{Code: "CAPTURE_PORT", Severity: meshconfig.Warning, Field: "proxyListenPort, proxyInboundListenPort"}
	if h.bundle.Mesh != nil {
		p.On = h.bundle.Mesh.Key
		p.At = h.bundle.Positions[p.On]
	}
	p.Message = fmt.Sprintf("the traffic of %d connected workloads is still redirected to the old ports, until they start again: %s",
		len(old), strings.Join(old[:min(len(old), 5)], ", "))
	return []meshconfig.Problem{p}
}

// apply gives the store the configuration of s for whoever is connected.
func (h *hub) apply(s *model.Snapshot) {
	h.classesAt = time.Time{}
	now := time.Now()
	in := classes{map[model.ClientClass]bool{}, map[model.ServerClass]bool{}}
	for stream, c := range h.ledger.streams {
		client, server, known := s.ClassOf(c.proxy)
		h.ledger.known(stream, c, known, now)
		if known {
			in.client[client], in.server[server] = true, true
		}
	}
	var w *ads.World
	h.timed("translate", func() { w = h.translator.world(s, in) })
	h.unsound.Store(h.translator.unsound())
	h.problems.Set("translate", h.translator.problems()...)
	h.ledger.applied(time.Now())
	if h.asks() || equal(w, h.world.Load()) {
		return
	}
	h.world.Store(w)
	h.timed("apply", func() { h.store.Apply(w) })
}

func (h *hub) timed(step string, work func()) {
	start := time.Now()
	work()
	h.metrics.Work.WithLabelValues(step).Observe(time.Since(start).Seconds())
}

// meshChanged notes when the mesh configuration in force became another one.
func (h *hub) meshChanged(now time.Time) {
	config, source := h.bundle.Mesh, "built-in defaults"
	if config == nil {
		config = meshconfig.DefaultMesh()
	} else {
		source = config.Key.String()
	}
	document := config.Effective()
	text, err := json.Marshal(document)
	if err != nil {
		h.log.Error("mesh configuration cannot be shown", "error", err)
	}
	sum := sha256.Sum256(text)
	hash := hex.EncodeToString(sum[:8])
	if hash != h.mesh.Hash || source != h.mesh.Source {
		h.mesh = status.Mesh{Source: source, Hash: hash, Since: now, Config: document}
	}
}

// revise names the configuration that was just applied.
func (h *hub) revise() {
	var next model.Revision
	h.timed("revision", func() { next = h.inputs.Revision() })
	change := next.ChangeSince(h.revision)
	h.revision = next
	h.ledger.revised(next.String(), change, max(1, h.store.Generation())) // the first is yet to come while proxies are asked
	if change != model.ChangeNothing {
		h.log.Info("configuration in force", "revision", next.String(), "change", change)
	}
}

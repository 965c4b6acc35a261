package discovery

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/adopt"
	"github.com/meshpilot/pilot/pkg/discovery/phases"
	"github.com/meshpilot/pilot/pkg/discovery/replica"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

// retryTime is how soon storing is tried again.
const retryTime = time.Second

// lookTime is how soon whoever waits is looked at, whatever wakes the hub: some
// proofs come about without an answer of a proxy.
const lookTime = 5 * time.Second

// rollouts carry changes of modes out in phases. Nothing reaches a proxy
// before its phase is stored. The hub owns them; nil: there are no phases.
type rollouts struct {
	engine  *rollout.Engine
	group   replica.Group
	term    uint64                  // of this replica's leadership, whose phases engine has; 0: it follows
	serial  uint64                  // of the phases in engine
	world   uint64                  // serial of the phases that the snapshot was made with
	claimed uint64                  // serial with which the term began
	entered map[model.Target]uint64 // serials with which targets came where they are, in this term
	known   bool                    // some phases are in force
	claim   bool                    // they are stored also if they are as before
	open    bool                    // some target is under way

	numbers *replica.Metrics // nil if there can be no other replica
	balance replica.Balance
	wanted  []model.Wanted // of the snapshot in force
	waits   map[model.Target]rollout.Wait
	again   time.Time        // when something may move although nothing is new; zero is never
	newsAt  time.Time        // when news are looked at; zero: there are none
	first   time.Time        // of these news
	failed  error            // of storing
	asking  *adopt.Wait      // nothing was stored: proxies are asked what they hold
	shown   []status.Rollout // nil: to be made anew
	began   timeline

	metrics *status.Metrics
}

func newRollouts(store phases.Store, m *status.Metrics) (*rollouts, error) {
	stored, err := store.Load()
	if err != nil {
		return nil, err
	}
	r := newReplicated(replica.Alone{Store: store}, m)
	r.engine, r.term, r.known = rollout.NewEngine(stored), 1, true
	if stored == nil {
		r.asking = &adopt.Wait{}
	}
	return r, nil
}

// newReplicated follows a group: nothing is in force before its phases are
// known.
func newReplicated(g replica.Group, m *status.Metrics) *rollouts {
	r := &rollouts{
		engine: rollout.NewEngine(nil), group: g, metrics: m,
		waits: map[model.Target]rollout.Wait{}, began: timeline{}, entered: map[model.Target]uint64{},
	}
	if !r.alone() {
		r.numbers = replica.NewMetrics(m.Registry())
	}
	return r
}

// stage has modes carried out in phases from now on.
func (h *hub) stage(r *rollouts) {
	h.rollouts = r
	if r.asking != nil {
		h.store.ReadAhead(adopt.Bytes)
	}
}

// expect begins to wait for the proxies of the first bundle, if nothing was
// stored.
func (h *hub) expect(b *meshconfig.Bundle, now time.Time) {
	if h.rollouts == nil || h.rollouts.asking == nil {
		return
	}
	in, _ := meshconfig.Inputs(*b, h.domain)
	h.rollouts.asking.Since = now
	h.log.Info("no phases are stored, so proxies are asked what they hold")
	for i := range in.Workloads {
		if in.Workloads[i].Sidecar {
			h.rollouts.asking.Expect = append(h.rollouts.asking.Expect, in.Workloads[i].ID)
		}
	}
}

// asks says whether proxies are still asked what they hold, so that nothing is
// sent to them.
func (h *hub) asks() bool { return h.rollouts != nil && h.rollouts.asking != nil }

// ask looks at what the proxies hold, and begins to serve them when it is
// known. It says when to look again; zero is never.
func (h *hub) ask(now time.Time) time.Time {
	if !h.asks() || h.built == nil {
		return time.Time{}
	}
	again := h.rollouts.asking.Until(h.store.Claims, now)
	if again.IsZero() {
		h.adopt(now)
		h.build()
	}
	return again
}

// adopt takes the phases from what the proxies hold.
func (h *hub) adopt(now time.Time) {
	r := h.rollouts
	r.asking, r.claim = nil, true
	in := h.inputs
	in.Connected = slices.SortedFunc(maps.Keys(h.evidence), model.WorkloadID.Compare)
	targets, found := adopt.Phases(in, h.store.Claims)
	h.store.ReadAhead(0)
	r.engine.Adopt(targets, found, now)
	if len(found) == 0 {
		return
	}
	counts := map[model.Phase]int{}
	for _, p := range found {
		counts[p]++
	}
	h.log.Warn("no phases are stored, so they are taken from what the proxies hold", "none", counts[model.PhaseNone],
		"permissive", counts[model.PhaseOpened]+counts[model.PhaseMoved], "grace", counts[model.PhaseGrace], "strict", counts[model.PhaseStrict])
}

// build makes the snapshot of inputs in the phases that follow from them.
func (r *rollouts) build(in *model.Inputs, now time.Time) *model.Snapshot {
	if r == nil {
		return model.Build(*in)
	}
	r.shown = nil
	if r.asking != nil { // for the pages: nothing reaches a proxy yet
		in.Phases = map[model.Target]model.Phase{}
		return model.Build(*in)
	}
	in.Phases = r.engine.Phases()
	s := model.Build(*in)
	r.wanted = s.Targets()
	if r.want(now) {
		in.Phases = r.engine.Phases()
		s = model.Build(*in)
		r.wanted = s.Targets()
	}
	r.world = r.serial
	r.again = now // whoever is under way is looked at
	return s
}

// want takes in what policy wants; who follows leaves that to the leader.
func (r *rollouts) want(now time.Time) (moved bool) {
	if r.term == 0 {
		return r.engine.Seed(r.wanted, now)
	}
	return r.change(now, func() bool { return r.engine.Want(r.wanted, now) })
}

// change lets the engine move, and takes that back if it cannot be stored.
func (r *rollouts) change(now time.Time, move func() bool) (moved bool) {
	before := maps.Clone(r.engine.States())
	moved = move()
	r.shown = nil
	if r.failed == nil && !r.claim && maps.Equal(before, r.engine.States()) {
		return moved
	}
	if r.failed = r.group.Save(r.engine.States()); r.failed != nil {
		r.engine = rollout.NewEngine(before)
		return false
	}
	r.saved(before)
	r.began.follow(before, r.engine.States(), r.metrics, now)
	return moved
}

// news says that evidence changed: it is looked at when it is quiet, but not
// later than a refresh delay.
func (r *rollouts) news(now time.Time, longest time.Duration) {
	if r == nil || len(r.waits) == 0 && !r.open {
		return
	}
	if r.first.IsZero() {
		r.first = now
	}
	r.newsAt = earlier(now.Add(quietTime), r.first.Add(longest))
}

// due is when step is to be called; zero is never.
func (r *rollouts) due() time.Time {
	if r == nil || r.asking != nil {
		return time.Time{}
	}
	return earlier(r.again, r.newsAt)
}

// step moves the targets whose evidence allows it, and says whether any did.
func (r *rollouts) step(see *replica.Observation, now time.Time) (moved bool) {
	r.again, r.newsAt, r.first = time.Time{}, time.Time{}, time.Time{}
	if r.term == 0 {
		if r.hold(); r.open || r.failed != nil {
			r.again = now.Add(openTime)
		}
		return false
	}
	waits := map[model.Target]rollout.Wait{}
	moved = r.change(now, func() bool {
		moved := false
		for i := range r.wanted {
			w := &r.wanted[i]
			state := r.engine.States()[w.Target]
			if !state.Watched(w.Rollout, now) {
				continue
			}
			wait := r.engine.Step(w, see.Evidence(w, state, max(r.claimed, r.entered[w.Target])), now)
			if r.engine.States()[w.Target].Phase != state.Phase {
				moved = true
				continue
			}
			if len(wait.For) > 0 || !wait.Again.IsZero() {
				waits[w.Target] = wait
			}
			r.again = earlier(r.again, wait.Again)
		}
		return moved
	})
	r.waits = waits
	if len(waits) > 0 {
		r.again = earlier(r.again, now.Add(lookTime))
	}
	if r.open && !r.alone() {
		r.again = earlier(r.again, now.Add(openTime))
	}
	if r.failed != nil {
		r.again = now.Add(retryTime)
	}
	return moved
}

// tellRollouts states which targets are held, and why; again only in other
// words as long as one is.
func (h *hub) tellRollouts() {
	if failed := h.rollouts.failed; failed != nil {
		h.problems.Set("rollouts", meshconfig.Problem{
			Code: "INTERNAL", Severity: meshconfig.Error, On: model.Key{Kind: "Rollout"},
			Message: "no change of a mode goes on, as its phase cannot be stored: " + failed.Error(),
		})
	} else {
		h.problems.Set("rollouts")
	}
	held := map[string]bool{}
	for i := range h.rollouts.wanted {
		w := &h.rollouts.wanted[i]
		wait := h.rollouts.waits[w.Target]
		if !wait.Held {
			continue
		}
		name := status.TargetName(w.Target)
		held["rollout "+name] = true
		h.problems.Reword("rollout "+name, meshconfig.Problem{
			Code: "ROLLOUT_HELD", Severity: meshconfig.Warning, On: w.Decision.Source, At: h.built.Positions[w.Decision.Source],
			Message: fmt.Sprintf("%s stays %s on the way to %s, set by %s: %s",
				name, w.Decision.Phase, w.Decision.Mode, w.Decision.By(), blockerText(wait.For)),
		})
	}
	for origin := range h.held {
		if !held[origin] {
			h.problems.Set(origin)
		}
	}
	h.held = held
}

// blockerText names the first few, without what changes all the time.
func blockerText(blockers []rollout.Blocker) string {
	const most = 5
	var names []string
	for _, b := range blockers[:min(most, len(blockers))] {
		b.Detail = ""
		names = append(names, b.String())
	}
	text := strings.Join(names, "; ")
	if more := len(blockers) - most; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}

// report is what the pages show of each target.
func (r *rollouts) report() []status.Rollout {
	if r == nil {
		return nil
	}
	if r.shown != nil {
		return r.shown
	}
	out := make([]status.Rollout, len(r.wanted))
	for i := range r.wanted {
		w := &r.wanted[i]
		state, wait := r.engine.States()[w.Target], r.waits[w.Target]
		out[i] = status.Rollout{Wanted: w, Since: state.Since, Settled: state.Settled(), Held: wait.Held, Waits: wait.For}
	}
	r.shown = out
	r.metrics.SetTargets(out)
	return out
}

// heard is told of whatever may be evidence.
func (h *hub) heard(now time.Time) {
	if s := h.snapshot.Load(); s != nil {
		h.rollouts.news(now, s.Mesh().RefreshDelay)
	}
}

// stepRollouts moves what is proven, and lets the proxies have it.
func (h *hub) stepRollouts(now time.Time) {
	s := h.snapshot.Load()
	if h.rollouts.term != h.rollouts.group.Term() {
		h.regroup(now)
	}
	moved, failed := false, h.rollouts.failed
	h.timed("rollout", func() { moved = h.rollouts.step(h.observe(s, now), now) })
	h.tellRollouts()
	if moved {
		h.ledger.stepped()
	}
	if moved || failed != nil && h.rollouts.failed == nil { // what could not be stored is tried again
		h.build()
	}
}

// timeline is since when another mode was wanted of targets that are under way.
type timeline map[model.Target]time.Time

// follow notes what began and what ended, and counts the steps in between.
func (t timeline) follow(before, after map[model.Target]rollout.State, m *status.Metrics, now time.Time) {
	for target, s := range after {
		was, known := before[target]
		switch {
		case !known:
			continue // it begins where its mode ends
		case was.Phase != s.Phase:
			m.RolloutSteps.WithLabelValues(s.Phase.String()).Inc()
		case was.Mode == s.Mode:
			continue
		}
		if was.Mode != s.Mode {
			t[target] = now
		}
		if since, open := t[target]; open && s.Settled() {
			m.RolloutTime.WithLabelValues(s.Mode.String()).Observe(now.Sub(since).Seconds())
			delete(t, target)
		}
	}
	for target := range t {
		if _, there := after[target]; !there {
			delete(t, target)
		}
	}
}

package rollout

import (
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

// State is how far a target is. It is stored, and survives restarts.
type State struct {
	Phase model.Phase
	Since time.Time  // the phase was entered
	Mode  model.Mode // wanted
	// Stopped is why the target goes no further than Limit, until another mode
	// is wanted; empty: it does.
	Stopped string
	Limit   model.Phase
	// Halted is why it waits for failures to stop, since when they did not rise.
	Halted   string
	HaltedAt time.Time
	// Failed and Handshakes are the counts when the phase was entered, or when
	// Failed rose last.
	Failed, Handshakes uint64

	// Not stored:
	proven    time.Time // since when nothing blocks
	last      time.Time // since when nothing but open connections does
	uncounted bool      // Failed and Handshakes are to be taken from the next evidence
}

// goal is the phase that the target is on the way to.
func (s State) goal() model.Phase {
	if s.Stopped != "" {
		return s.Limit
	}
	return s.Mode.Phase()
}

// Settled says whether the target is where its mode ends.
func (s State) Settled() bool { return s.Phase == s.Mode.Phase() }

// Watched says whether evidence can change anything: the target is under way,
// or so fresh at its end that failures may take it back.
func (s State) Watched(r model.Rollout, now time.Time) bool {
	return s.Phase != s.goal() || s.Stopped != "" || s.Phase == model.PhaseStrict && now.Sub(s.Since) <= r.QuietPeriod
}

func (s State) enter(p model.Phase, e Evidence, now time.Time) State {
	s.Phase, s.Since, s.proven, s.last = p, now, time.Time{}, time.Time{}
	s.Failed, s.Handshakes = e.counts()
	s.uncounted = len(e.Servers) == 0
	return s
}

// counts are all failed handshakes and all mTLS connections so far.
func (e Evidence) counts() (failed, handshakes uint64) {
	for i := range e.Servers {
		failed += e.Servers[i].Failed
		handshakes += e.Servers[i].Mesh.Total
	}
	return failed, handshakes
}

// forgetAfter is how long a target without workloads keeps its state: a
// Deployment that is scaled to none and back goes on where it was.
const forgetAfter = time.Hour

// Engine holds the states of all targets.
type Engine struct {
	states map[model.Target]State
	gone   map[model.Target]time.Time // since when it has no workload
}

// NewEngine starts from stored states.
func NewEngine(stored map[model.Target]State) *Engine {
	e := &Engine{states: map[model.Target]State{}, gone: map[model.Target]time.Time{}}
	for t, s := range stored {
		e.states[t] = s
	}
	return e
}

// States are all states. Do not change them.
func (e *Engine) States() map[model.Target]State { return e.states }

// Phases are for model.Inputs.
func (e *Engine) Phases() map[model.Target]model.Phase {
	out := make(map[model.Target]model.Phase, len(e.states))
	for t, s := range e.states {
		out[t] = s.Phase
	}
	return out
}

// Want takes in what policy wants now, and makes the steps that need no proof.
// It says whether a phase is another than the snapshot of targets had. A
// target that was never seen is where its mode ends: nothing is to protect.
func (e *Engine) Want(targets []model.Wanted, now time.Time) (moved bool) {
	here, split := make(map[model.Target]bool, len(targets)), map[model.Target]bool{}
	for i := range targets {
		w := &targets[i]
		here[w.Target] = true
		if group, _, part := strings.Cut(w.Group, "/"); part {
			split[model.Target{Namespace: w.Namespace, Group: group, Port: w.Port}] = true
		}
		s, ok := e.states[w.Target]
		if !ok {
			s = e.seed(w, now)
		}
		if s.Mode != w.Decision.Mode {
			s.Mode = w.Decision.Mode
			s = s.afresh(now)
		}
		s = s.unlatched(w.Rollout, now)
		if next, free := s.free(w.Rollout); free {
			s = s.enter(next, Evidence{}, now)
		}
		moved = moved || s.Phase != w.Decision.Phase
		e.states[w.Target] = s
	}
	for t := range e.states {
		switch since, gone := e.gone[t]; {
		case here[t]:
			delete(e.gone, t)
		case succeeded(t, here, split): // what it was would be taken for what is
			delete(e.states, t)
			delete(e.gone, t)
		case !gone:
			e.gone[t] = now
		case now.Sub(since) > forgetAfter:
			delete(e.states, t)
			delete(e.gone, t)
		}
	}
	return moved
}

// Seed gives targets that were never seen their state, as Want does, and
// leaves all others: for who follows another's engine. It says whether a phase
// is another than the snapshot of targets had.
func (e *Engine) Seed(targets []model.Wanted, now time.Time) (moved bool) {
	for i := range targets {
		w := &targets[i]
		s, ok := e.states[w.Target]
		if !ok {
			s = e.seed(w, now)
			e.states[w.Target] = s
		}
		moved = moved || s.Phase != w.Decision.Phase
	}
	return moved
}

// succeeded says that a group is whole again, of whose parts t was one, or
// was split into parts that are there.
func succeeded(t model.Target, here, split map[model.Target]bool) bool {
	if group, _, part := strings.Cut(t.Group, "/"); part {
		return here[model.Target{Namespace: t.Namespace, Group: group, Port: t.Port}]
	}
	return split[t]
}

// afresh begins the way from the phase in force.
func (s State) afresh(now time.Time) State {
	s.Since, s.proven, s.last = now, time.Time{}, time.Time{}
	s.Stopped, s.Halted = "", ""
	return s
}

// unlatched lets go of what the settings do not ask for any more, and of times
// that a clock set back has left in the future.
func (s State) unlatched(r model.Rollout, now time.Time) State {
	if r.Immediate || s.Stopped != "" && r.OnDeadline != model.DeadlineRollback {
		if s.Stopped != "" || s.Halted != "" {
			return s.afresh(now)
		}
	}
	if s.Since.After(now) {
		s.Since = now
	}
	if s.HaltedAt.After(now) {
		s.HaltedAt = now
	}
	return s
}

// seed is the state of a new target: of a group that splits, the group's; of
// one that is whole again, the lowest of its parts, but not between NONE and
// the others, where only PERMISSIVE is safe for both.
func (e *Engine) seed(w *model.Wanted, now time.Time) State {
	if group, _, split := strings.Cut(w.Group, "/"); split {
		if s, ok := e.states[model.Target{Namespace: w.Namespace, Group: group, Port: w.Port}]; ok {
			return s
		}
	}
	s := State{Phase: w.Decision.Mode.Phase(), Since: now, Mode: w.Decision.Mode}
	low, high, found := s.Phase, s.Phase, false
	for t, part := range e.states {
		if t.Namespace != w.Namespace || t.Port != w.Port || !strings.HasPrefix(t.Group, w.Group+"/") {
			continue
		}
		if !found {
			low, high, found = part.Phase, part.Phase, true
		}
		low, high = min(low, part.Phase), max(high, part.Phase)
	}
	switch {
	case !found:
	case low == model.PhaseNone && high > model.PhaseNone:
		s.Phase = model.PhaseOpened
	default:
		s.Phase = low
	}
	return s
}

// Adopt gives targets without a state the phase in which they were found.
func (e *Engine) Adopt(targets []model.Wanted, found map[model.Target]model.Phase, now time.Time) {
	for i := range targets {
		w := &targets[i]
		phase, ok := found[w.Target]
		if _, known := e.states[w.Target]; ok && !known {
			e.states[w.Target] = State{Phase: phase, Since: now, Mode: w.Decision.Mode, uncounted: true}
		}
	}
}

// Step moves one target if its evidence allows, and says what it waits for.
// Evidence must be about the phase in force: a target whose phase moved is
// stepped again only when the new one was handed to the proxies.
func (e *Engine) Step(w *model.Wanted, ev Evidence, now time.Time) Wait {
	next, wait := advance(e.states[w.Target], w.Rollout, ev, now)
	e.states[w.Target] = next
	return wait
}

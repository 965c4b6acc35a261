package rollout

import (
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

var gated = model.Rollout{QuietPeriod: 10 * time.Second, Deadline: time.Hour}

func cart(mode model.Mode, phase model.Phase, r model.Rollout) []model.Wanted {
	return []model.Wanted{{Target: target, Decision: model.Decision{Mode: mode, Phase: phase}, Rollout: r}}
}

// Who turns mTLS off because handshakes fail must get there.
func TestFailuresDoNotHaltTheWayDown(t *testing.T) {
	s := State{Phase: model.PhaseMoved, Mode: model.Disable, Since: at(0)}
	failing := with(func(s *Server) { s.Failed, s.Mesh.Total = 500, 600 })
	if next, wait := advance(s, gated, failing, at(5)); next.Halted != "" || wait.Held {
		t.Errorf("halted: %+v", wait)
	}
}

// Failures of before the step are not the step's: a step that needs no proof
// takes its counts from the next evidence.
func TestOldFailuresDoNotHalt(t *testing.T) {
	e := NewEngine(map[model.Target]State{target: {Phase: model.PhaseGrace, Mode: model.Strict, Failed: 3}})
	w := cart(model.Permissive, model.PhaseGrace, gated)
	e.Want(w, at(0))
	w[0].Decision.Mode = model.Strict
	e.Want(w, at(1))
	old := with(func(s *Server) { s.Failed, s.Mesh.Total = 500, 600 })
	if wait := e.Step(&w[0], old, at(2)); wait.Held {
		t.Errorf("held: %v", wait.For)
	}
	more := with(func(s *Server) { s.Failed, s.Mesh.Total = 510, 610 })
	if wait := e.Step(&w[0], more, at(3)); !wait.Held {
		t.Error("new failures do not halt")
	}
}

// Counts that begin anew, as those of who left do, are where new failures
// are counted from.
func TestFailuresAreCountedFromWhereCountsFell(t *testing.T) {
	s := State{Phase: model.PhaseMoved, Mode: model.Strict, Since: at(0), Failed: 500}
	s, _ = advance(s, gated, with(func(s *Server) { s.Failed = 0 }), at(1))
	if _, wait := advance(s, gated, with(func(s *Server) { s.Failed = 10 }), at(2)); !wait.Held {
		t.Error("10 failures after a restart are not seen")
	}
}

// A target that has just arrived is looked at when its calls fail.
func TestArrivedTargetIsWatched(t *testing.T) {
	s := State{Phase: model.PhaseStrict, Mode: model.Strict, Since: at(50)}
	if _, wait := advance(s, gated, with(func(*Server) {}), at(55)); !wait.Again.Equal(at(60)) || len(wait.For) > 0 {
		t.Errorf("%+v", wait)
	}
	if _, wait := advance(s, gated, with(func(*Server) {}), at(60)); !wait.Again.IsZero() {
		t.Errorf("for ever: %+v", wait)
	}
}

// What a gauge told before the last proxy followed says nothing of what that
// one opened meanwhile.
func TestGaugesCountOnceAllElseIsProven(t *testing.T) {
	for _, s := range []State{
		{Phase: model.PhaseGrace, Mode: model.Strict, Since: at(0)},
		{Phase: model.PhaseOpened, Mode: model.Disable, Since: at(0)},
	} {
		told := func(seconds float64) Evidence {
			return with(func(s *Server) { s.Plain.At, s.Mesh.At = at(seconds), at(seconds) })
		}
		late := told(4)
		late.Servers[0].Unproven = "did not acknowledge"
		s, _ = advance(s, gated, late, at(4))
		s, _ = advance(s, gated, told(4), at(5))
		next, wait := advance(s, gated, told(4), at(8))
		if next.Phase != s.Phase || len(wait.For) != 1 {
			t.Fatalf("from %s to %s, waits for %v", s.Phase, next.Phase, wait.For)
		}
		s, _ = advance(next, gated, told(9), at(9))
		if next, _ = advance(s, gated, told(9), at(10)); next.Phase == s.Phase {
			t.Errorf("stays %s when gauges are new", s.Phase)
		}
	}
}

// What was rolled back goes on when the settings no longer ask for that.
func TestRolledBackGoesOn(t *testing.T) {
	stopped := State{Phase: model.PhaseOpened, Mode: model.Strict, Stopped: "rolled back: x", Limit: model.PhaseOpened}
	r := gated
	r.OnDeadline = model.DeadlineRollback
	e := NewEngine(map[model.Target]State{target: stopped})
	if e.Want(cart(model.Strict, model.PhaseOpened, r), at(0)); e.States()[target].Stopped == "" {
		t.Error("ROLLBACK goes on by itself")
	}
	if e.Want(cart(model.Strict, model.PhaseOpened, gated), at(0)); e.States()[target].Stopped != "" || e.States()[target].Since != at(0) {
		t.Errorf("HOLD does not start over: %+v", e.States()[target])
	}
	e = NewEngine(map[model.Target]State{target: stopped})
	if e.Want(cart(model.Strict, model.PhaseOpened, model.Rollout{Immediate: true, OnDeadline: model.DeadlineRollback}), at(0)); e.Phases()[target] != model.PhaseStrict {
		t.Errorf("IMMEDIATE stays in %s", e.Phases()[target])
	}
}

// After a clock was set back, times of the future hold nothing up.
func TestClockSetBack(t *testing.T) {
	e := NewEngine(map[model.Target]State{target: {Phase: model.PhaseMoved, Mode: model.Strict, Since: at(3600), Halted: "x", HaltedAt: at(3600)}})
	e.Want(cart(model.Strict, model.PhaseMoved, gated), at(0))
	if s := e.States()[target]; s.Since != at(0) || s.HaltedAt != at(0) {
		t.Errorf("%+v", s)
	}
}

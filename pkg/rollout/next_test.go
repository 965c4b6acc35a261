package rollout

import (
	"strings"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

func at(seconds float64) time.Time {
	return time.Unix(1e9, 0).Add(time.Duration(seconds * float64(time.Second)))
}

// well is a server that proves everything at the given time.
func well(now time.Time) Server {
	idle := Connections{Known: true, At: now}
	return Server{Workload: model.WorkloadID{Namespace: "shop", Name: "cart-1"}, Logs: at(-3600), Stats: at(-3600), Plain: idle, Mesh: idle}
}

func with(edit func(*Server)) Evidence {
	s := well(at(60))
	edit(&s)
	return Evidence{Servers: []Server{s}}
}

// TestBlockers: what is not proven blocks, and says so.
func TestBlockers(t *testing.T) {
	for name, tc := range map[string]struct {
		phase model.Phase
		mode  model.Mode
		e     Evidence
		want  string
	}{
		"server not proven": {model.PhaseOpened, model.Strict, with(func(s *Server) { s.Unproven = "is not connected" }),
			"shop/cart-1 is not connected"},
		"client not proven": {model.PhaseMoved, model.Strict, Evidence{Servers: []Server{well(at(60))}, Clients: []Blocker{{Who: "shop/web-1", What: "has not acknowledged its clusters"}}},
			"shop/web-1 has not acknowledged its clusters"},
		"client held in plaintext by a rule": {model.PhaseMoved, model.Strict, Evidence{Servers: []Server{well(at(60))}, Plaintext: []Blocker{{Who: "DestinationRule shop/cart", What: "says DISABLE"}}},
			"DestinationRule shop/cart says DISABLE"},
		"no access logs": {model.PhaseMoved, model.Strict, with(func(s *Server) { s.Logs = time.Time{} }),
			"shop/cart-1 sends no access logs, so plaintext would not be seen"},
		"access logs since a moment": {model.PhaseMoved, model.Strict, with(func(s *Server) { s.Logs = at(59) }),
			"shop/cart-1 sends access logs only for a short while"},
		"plaintext": {model.PhaseMoved, model.Strict, Evidence{Servers: []Server{well(at(60))}, Peers: []Peer{{Name: "10.0.0.9", Count: 3, Last: at(55)}}},
			"10.0.0.9 sends plaintext (3 times, the last at 01:47:35)"},
		"no handshake yet": {model.PhaseMoved, model.Strict, Evidence{Servers: []Server{well(at(60))}, Peers: []Peer{{Name: "shop/web-1", Sidecar: true, Count: 3, Last: at(40)}}},
			"clients that called in plaintext before were not seen with mTLS yet"},
		"plaintext open": {model.PhaseGrace, model.Strict, with(func(s *Server) { s.Plain.Open = 2 }),
			"shop/cart-1 has open plaintext connections (2)"},
		"gauge of before": {model.PhaseGrace, model.Strict, with(func(s *Server) { s.Plain.At = at(40) }),
			"shop/cart-1 has not reported its open plaintext connections since the last step"},
		"no statistics": {model.PhaseGrace, model.Strict, with(func(s *Server) { s.Stats = time.Time{} }),
			"shop/cart-1 sends no statistics, so open plaintext connections would not be seen"},
		"off: server not proven": {model.PhaseMoved, model.Disable, with(func(s *Server) { s.Unproven = "refuses its listeners" }),
			"shop/cart-1 refuses its listeners"},
		"off: mTLS open": {model.PhaseOpened, model.Disable, with(func(s *Server) { s.Mesh.Open = 1 }),
			"shop/cart-1 has open mTLS connections (1)"},
		"off: client held in mTLS": {model.PhaseOpened, model.Disable, Evidence{Servers: []Server{well(at(60))}, Mesh: []Blocker{{Who: "DestinationRule shop/cart", What: "says ISTIO_MUTUAL"}}},
			"DestinationRule shop/cart says ISTIO_MUTUAL"},
	} {
		t.Run(name, func(t *testing.T) {
			s := State{Phase: tc.phase, Mode: tc.mode, Since: at(48)}
			r := model.Rollout{QuietPeriod: 10 * time.Second, Deadline: time.Minute}
			next, wait := advance(s, r, tc.e, at(60))
			if next.Phase != tc.phase || len(wait.For) != 1 || wait.For[0].String() != tc.want {
				t.Errorf("phase %s, waits for %v, want %s", next.Phase, wait.For, tc.want)
			}
			if name == "gauge of before" && !wait.Again.Equal(at(61)) {
				t.Errorf("looks at the gauge again at %s: a proxy that tells the same is no news", wait.Again)
			}
			if wait.Held || wait.Again.IsZero() || wait.Again.After(at(108)) {
				t.Errorf("held %v, again at %s", wait.Held, wait.Again)
			}
			r.Deadline, r.OnDeadline = 12*time.Second, model.DeadlineProceed
			if next, _ := advance(s, r, tc.e, at(60)); next.Phase == tc.phase {
				t.Error("PROCEED does not")
			}
			r.OnDeadline = model.DeadlineHold
			if next, wait := advance(s, r, tc.e, at(60)); next.Phase != tc.phase || !wait.Held {
				t.Errorf("HOLD: phase %s, held %v", next.Phase, wait.Held)
			}
			r.OnDeadline = model.DeadlineRollback
			next, wait = advance(s, r, tc.e, at(60))
			if next.Phase.String() != "PERMISSIVE" || !wait.Held || !strings.HasPrefix(next.Stopped, "rolled back: the deadline of 12s passed, waiting for ") {
				t.Errorf("ROLLBACK: phase %s, held %v, %q", next.Phase, wait.Held, next.Stopped)
			}
		})
	}
}

// TestPause: a proof must last before something is built on it.
func TestPause(t *testing.T) {
	s := State{Phase: model.PhaseOpened, Mode: model.Strict, Since: at(0)}
	r := model.Rollout{QuietPeriod: 10 * time.Second, Deadline: time.Minute}
	e := Evidence{Servers: []Server{well(at(1))}}
	s, wait := advance(s, r, e, at(1))
	if s.Phase != model.PhaseOpened || !wait.Again.Equal(at(1.5)) {
		t.Fatalf("phase %s, again at %s", s.Phase, wait.Again)
	}
	if s, _ = advance(s, r, e, at(1.4)); s.Phase != model.PhaseOpened {
		t.Error("moved within the pause")
	}
	lapse := e
	lapse.Servers = []Server{{Unproven: "gone"}}
	if s, _ := advance(s, r, lapse, at(1.5)); !s.proven.IsZero() {
		t.Error("a lapse does not start the pause over")
	}
	if s, _ = advance(s, r, e, at(1.5)); s.Phase != model.PhaseMoved {
		t.Errorf("phase %s after the pause", s.Phase)
	}
}

// TestHalt: failures after a step stop the target until they stop, or take it
// back.
func TestHalt(t *testing.T) {
	s := State{Phase: model.PhaseMoved, Mode: model.Strict, Since: at(0), Failed: 10, Handshakes: 100}
	r := model.Rollout{QuietPeriod: 10 * time.Second, Deadline: time.Hour}
	e := with(func(s *Server) { s.Failed, s.Mesh.Total = 20, 150 })
	halted, wait := advance(s, r, e, at(5))
	if halted.Phase != model.PhaseMoved || !wait.Held || wait.For[0].What != "halted: 10 TLS handshakes failed since the last step" {
		t.Fatalf("%s, %+v", halted.Phase, wait)
	}
	if again, wait := advance(halted, r, e, at(14)); !wait.Held || again.Phase != model.PhaseMoved {
		t.Error("goes on before the quiet period is over")
	}
	if again, wait := advance(halted, r, e, at(15)); wait.Held || again.Halted != "" {
		t.Errorf("still halted: %+v", wait)
	}
	few := with(func(s *Server) { s.Failed, s.Mesh.Total = 20, 5000 })
	if _, wait := advance(s, r, few, at(5)); wait.Held {
		t.Error("1 in 490 handshakes halts")
	}
	refused := Evidence{Servers: e.Servers[:0], Peers: []Peer{{Name: "shop/web-1", Sidecar: true, Refused: true, Last: at(3)}}}
	s.Phase = model.PhaseGrace
	if _, wait := advance(s, r, refused, at(5)); !wait.Held {
		t.Error("a refused client with a sidecar does not halt")
	}
	r.OnDeadline = model.DeadlineRollback
	back, _ := advance(s, r, refused, at(5))
	if back, _ = advance(back, r, Evidence{}, at(6)); back.Phase != model.PhaseMoved || !strings.Contains(back.Stopped, "shop/web-1") {
		t.Errorf("ROLLBACK: phase %s, %q", back.Phase, back.Stopped)
	}
}

func TestImmediate(t *testing.T) {
	s, _ := advance(State{Mode: model.Strict}, model.Rollout{Immediate: true}, with(func(s *Server) { s.Unproven = "x" }), at(0))
	if s.Phase != model.PhaseStrict {
		t.Errorf("phase %s", s.Phase)
	}
}

// TestSplitAndMerge: parts begin where the group was; a group that is whole
// again where its parts allow.
func TestSplitAndMerge(t *testing.T) {
	want := func(group string, mode model.Mode) model.Wanted {
		return model.Wanted{Target: model.Target{Namespace: "shop", Group: group, Port: 80}, Decision: model.Decision{Mode: mode}}
	}
	e := NewEngine(map[model.Target]State{{Namespace: "shop", Group: "cart", Port: 80}: {Phase: model.PhaseOpened, Mode: model.Strict}})
	e.Want([]model.Wanted{want("cart/a", model.Strict), want("cart/b", model.Disable), want("new", model.Strict)}, at(0))
	phases := e.Phases()
	for group, phase := range map[string]model.Phase{"cart/a": model.PhaseOpened, "cart/b": model.PhaseOpened, "new": model.PhaseStrict} {
		if got := phases[want(group, 0).Target]; got != phase {
			t.Errorf("%s: phase %s, want %s", group, got, phase)
		}
	}
	for _, tc := range [][3]model.Phase{
		{model.PhaseNone, model.PhaseStrict, model.PhaseOpened},
		{model.PhaseMoved, model.PhaseStrict, model.PhaseMoved},
		{model.PhaseStrict, model.PhaseStrict, model.PhaseStrict},
	} {
		e := NewEngine(map[model.Target]State{want("cart/a", 0).Target: {Phase: tc[0]}, want("cart/b", 0).Target: {Phase: tc[1]}})
		e.Want([]model.Wanted{want("cart", model.Strict)}, at(0))
		if got := e.Phases()[want("cart", 0).Target]; got != tc[2] {
			t.Errorf("%s and %s: phase %s, want %s", tc[0], tc[1], got, tc[2])
		}
	}
	// Scaled to none and back: where it was, for an hour.
	e.Want(nil, at(0))
	e.Want(nil, at(3000))
	if len(e.States()) == 0 {
		t.Error("forgotten after 50 minutes")
	}
	if e.Want(nil, at(3601)); len(e.States()) != 0 {
		t.Error("not forgotten after an hour")
	}
}

// What a group was before it split, and its parts before they were one, is
// not what they are when that happens again.
func TestSplitTwice(t *testing.T) {
	want := func(group string, mode model.Mode, phase model.Phase) model.Wanted {
		return model.Wanted{Target: model.Target{Namespace: "shop", Group: group, Port: 80}, Decision: model.Decision{Mode: mode, Phase: phase}}
	}
	e := NewEngine(map[model.Target]State{{Namespace: "shop", Group: "cart", Port: 80}: {Phase: model.PhaseStrict, Mode: model.Strict}})
	e.Want([]model.Wanted{want("cart/a", model.Disable, model.PhaseStrict), want("cart/b", model.Disable, model.PhaseStrict)}, at(0))
	if _, stays := e.Phases()[want("cart", 0, 0).Target]; stays {
		t.Error("the group's state stays beside its parts'")
	}
	e.Want([]model.Wanted{want("cart", model.Strict, model.PhaseStrict)}, at(10))
	if got := e.Phases(); len(got) != 1 || got[want("cart", 0, 0).Target] != model.PhaseMoved {
		t.Errorf("whole again: %v, want MOVED, where its parts were", got)
	}
}

package toggle

import (
	"reflect"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

func at(group string, port uint16, phase model.Phase, since time.Time, waits ...rollout.Blocker) status.Rollout {
	return status.Rollout{
		Wanted: &model.Wanted{
			Target:   model.Target{Namespace: "shop", Group: group, Port: port},
			Decision: model.Decision{Mode: model.Strict, Phase: phase},
		},
		Since: since, Settled: phase == model.PhaseStrict, Waits: waits,
	}
}

func TestCourse(t *testing.T) {
	start := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	c := Course{}
	sum := Calls{Requests: 100, Failed: 1}
	calls := func(*model.Wanted) Calls { return sum }
	note := func(want []string, now ...status.Rollout) {
		t.Helper()
		if got := c.Note(now, calls); !reflect.DeepEqual(got, want) {
			t.Errorf("said %q, want %q", got, want)
		}
	}
	note(nil, at("cart", 0, model.PhaseNone, start), at("cart", 80, model.PhaseNone, start), at("web", 80, model.PhaseNone, start))
	note([]string{"PERMISSIVE, clients send plaintext, on the way to STRICT: cart:80,other"},
		at("cart", 0, model.PhaseOpened, start), at("cart", 80, model.PhaseOpened, start.Add(time.Second)), at("web", 80, model.PhaseNone, start))
	sum = Calls{Requests: 150, Failed: 3}
	note([]string{"STRICT, clients send mTLS: cart:80"},
		at("cart", 0, model.PhaseOpened, start), at("cart", 80, model.PhaseStrict, start.Add(2*time.Second)), at("web", 80, model.PhaseNone, start))
	sum = Calls{Requests: 157, Failed: 3}
	steps := c.All([]status.Rollout{at("cart", 0, model.PhaseOpened, start), at("cart", 80, model.PhaseStrict, start)}, calls)
	want := []Step{
		{At: start, Target: "shop/cart:other ports", Phase: "PERMISSIVE", Clients: "plaintext", Mode: "STRICT", Calls: Calls{Requests: 57, Failed: 2}},
		{At: start.Add(time.Second), Target: "shop/cart:80", Phase: "PERMISSIVE", Clients: "plaintext", Mode: "STRICT", Calls: Calls{Requests: 50, Failed: 2}},
		{At: start.Add(2 * time.Second), Target: "shop/cart:80", Phase: "STRICT", Clients: "mTLS", Mode: "STRICT", Calls: Calls{Requests: 7}},
	}
	if !reflect.DeepEqual(steps, want) {
		t.Errorf("steps %+v, want %+v", steps, want)
	}
}

// A blocker is told once it lasts, and not again when it comes back in the
// same phase.
func TestWaits(t *testing.T) {
	start := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	plain := rollout.Blocker{Who: "10.0.0.1", What: "sends plaintext", Detail: "3 times"}
	var w Waits
	told := []string{"waits for: 10.0.0.1 sends plaintext: cart:80 web:80"}
	for i, tc := range []struct {
		phase   model.Phase
		since   time.Time
		blocked bool
		want    []string
	}{
		{model.PhaseMoved, start, true, nil},
		{model.PhaseMoved, start, true, told},
		{model.PhaseMoved, start, true, nil},
		{model.PhaseMoved, start, false, nil},
		{model.PhaseMoved, start, true, nil},
		{model.PhaseMoved, start, true, nil},
		{model.PhaseGrace, start.Add(time.Second), true, nil},
		{model.PhaseGrace, start.Add(time.Second), true, told},
	} {
		var by []rollout.Blocker
		if tc.blocked {
			plain.Detail += "!"
			by = []rollout.Blocker{plain}
		}
		got := w.News([]status.Rollout{at("cart", 80, tc.phase, tc.since, by...), at("web", 80, tc.phase, tc.since, by...)})
		if !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%d: %q, want %q", i, got, tc.want)
		}
	}
}

func TestUnderWay(t *testing.T) {
	start := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	plain := rollout.Blocker{Who: "10.0.0.1", What: "sends plaintext", Detail: "3 times"}
	held := at("db", 80, model.PhaseMoved, start, plain)
	held.Held = true
	got := UnderWay([]status.Rollout{at("cart", 80, model.PhaseMoved, start, plain), at("web", 80, model.PhaseStrict, start), held}, start.Add(12*time.Second))
	want := []string{
		"PERMISSIVE, clients send mTLS, on the way to STRICT for 12s: cart:80",
		"  waits for: 10.0.0.1 sends plaintext",
		"PERMISSIVE, clients send mTLS, on the way to STRICT, held for 12s: db:80",
		"  waits for: 10.0.0.1 sends plaintext",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

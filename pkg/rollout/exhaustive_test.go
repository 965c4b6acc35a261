package rollout

import (
	"fmt"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

// world is a target with two servers and two clients that call both, as they
// really are: what each proxy holds may lag behind what the control plane
// wants, and evidence tells only what was acknowledged.
type world struct {
	engine *Engine
	wanted model.Wanted
	now    time.Time
	// What proxies hold.
	here    [2]bool        // the server is part of the target
	running [2]bool        // it has taken a configuration
	serves  [2]model.Phase // what its chains accept
	nack    [2]bool        // it refuses what it is sent
	sends   [2]bool        // the client sends mTLS
	// long are connections that stay open, by client; and the kind they have.
	long, longMesh [2]bool
	stranger       bool // somebody without a sidecar calls
	forced         bool // a deadline was allowed to break calls
	second         *second
}

var target = model.Target{Namespace: "shop", Group: "cart", Port: 80}

const quiet, deadline = 10 * time.Second, 10 * time.Minute

func newWorld(r model.Rollout) *world {
	w := &world{now: time.Unix(1e9, 0), here: [2]bool{true, true}, running: [2]bool{true, true}}
	w.wanted = model.Wanted{Target: target, Rollout: r, Workloads: []model.WorkloadID{{Namespace: "shop", Name: "cart-0"}, {Namespace: "shop", Name: "cart-1"}}}
	w.engine = NewEngine(nil)
	w.engine.Want([]model.Wanted{w.wanted}, w.now)
	return w
}

func (w *world) clone() *world {
	c := *w
	c.engine = &Engine{states: map[model.Target]State{target: w.engine.states[target]}}
	if w.second != nil {
		s := *w.second
		c.second = &s
	}
	return &c
}

func (w *world) phase() model.Phase { return w.engine.states[target].Phase }

// chains are equal for phases that servers cannot tell apart.
func chains(p model.Phase) model.Phase {
	if p == model.PhaseOpened {
		return model.PhaseMoved
	}
	return p
}

func (w *world) evidence() Evidence {
	if w.second != nil {
		return w.merged()
	}
	var e Evidence
	for i := range w.here {
		if !w.here[i] {
			continue
		}
		s := Server{Workload: w.wanted.Workloads[i], Logs: w.now.Add(-time.Hour), Stats: w.now.Add(-time.Hour)}
		switch {
		case !w.running[i]:
			s.Unproven = "is not connected"
		case w.nack[i]:
			s.Unproven = "refuses"
		case w.serves[i] != chains(w.phase()):
			s.Unproven = "has not acknowledged"
		}
		s.Plain = Connections{Known: true, At: w.now}
		s.Mesh = Connections{Known: true, At: w.now}
		for c := range w.long {
			if w.long[c] && w.longMesh[c] {
				s.Mesh.Open++
			} else if w.long[c] {
				s.Plain.Open++
			}
		}
		e.Servers = append(e.Servers, s)
	}
	for c := range w.sends {
		if w.sends[c] != (w.phase() >= model.PhaseMoved) {
			e.Clients = append(e.Clients, Blocker{Who: "client", What: "has not acknowledged"})
		}
	}
	if w.stranger {
		e.Peers = append(e.Peers, Peer{Name: "10.0.0.9", Count: 1, Last: w.now})
	}
	return e
}

// turn is what the control plane does when anything happened.
func (w *world) turn() Wait {
	before := w.phase()
	if w.engine.states[target].Mode != w.wanted.Decision.Mode {
		w.engine.Want([]model.Wanted{w.wanted}, w.now)
	}
	held := w.now.Sub(w.engine.states[target].Since) >= deadline
	w.stored(before)
	before = w.phase()
	wait := w.engine.Step(&w.wanted, w.evidence(), w.now)
	w.stored(before)
	if held && w.phase() != before && w.wanted.Rollout.OnDeadline == model.DeadlineProceed {
		w.forced = true
	}
	return wait
}

type event struct {
	name string
	do   func(*world)
}

func events() []event {
	var out []event
	add := func(name string, do func(*world)) { out = append(out, event{name, do}) }
	for _, mode := range []model.Mode{model.Disable, model.Permissive, model.Strict} {
		add("want "+mode.String(), func(w *world) { w.wanted.Decision.Mode = mode })
	}
	for i := range 2 {
		add(fmt.Sprint("server ", i, " acknowledges"), func(w *world) {
			if w.here[i] && !w.nack[i] {
				w.running[i], w.serves[i] = true, chains(w.at(i))
			}
		})
		add(fmt.Sprint("client ", i, " acknowledges"), func(w *world) { w.sends[i] = w.at(i) >= model.PhaseMoved })
		add(fmt.Sprint("client ", i, " connects or closes"), func(w *world) {
			w.long[i], w.longMesh[i] = !w.long[i], w.sends[i]
		})
	}
	add("a pod leaves or joins", func(w *world) {
		w.here[1] = !w.here[1]
		w.running[1], w.nack[1] = false, false
	})
	add("NACK begins or ends", func(w *world) { w.nack[0] = !w.nack[0] })
	add("a stranger calls or stops", func(w *world) { w.stranger = !w.stranger })
	add("time passes", func(w *world) { w.now = w.now.Add(2 * quiet) })
	add("a moment passes", func(w *world) { w.now = w.now.Add(pause) })
	add("deadline", func(w *world) { w.now = w.now.Add(deadline) })
	add("restart", func(w *world) {
		stored := map[model.Target]State{}
		for t, s := range w.engine.states {
			s.proven = time.Time{}
			stored[t] = s
		}
		w.engine = NewEngine(stored)
		if w.second != nil { // another leads
			w.second.serial++
			w.second.entered = w.second.serial
		}
	})
	return out
}

// broken is a call that would be lost now, or a connection that was cut.
func (w *world) broken() string {
	for i := range w.here {
		if !w.here[i] || !w.running[i] {
			continue
		}
		for c := range w.sends {
			switch {
			case w.sends[c] && w.serves[i] == model.PhaseNone:
				return fmt.Sprintf("client %d sends mTLS to server %d, which takes plaintext only", c, i)
			case !w.sends[c] && w.serves[i] >= model.PhaseGrace:
				return fmt.Sprintf("client %d sends plaintext to server %d, which refuses it", c, i)
			case w.long[c] && w.longMesh[c] && w.serves[i] == model.PhaseNone:
				return fmt.Sprintf("an mTLS connection of client %d to server %d is cut", c, i)
			case w.long[c] && !w.longMesh[c] && w.serves[i] == model.PhaseStrict:
				return fmt.Sprintf("a plaintext connection of client %d to server %d is cut", c, i)
			}
		}
	}
	return ""
}

// key is all that the future depends on; ages only as far as they matter.
func (w *world) key() key {
	s := w.engine.states[target]
	age := func(t time.Time) time.Duration {
		if t.IsZero() {
			return -1
		}
		return min(w.now.Sub(t), 2*deadline)
	}
	return key{
		s.Phase, s.Limit, s.Mode, w.wanted.Decision.Mode, s.Stopped != "", age(s.Since), age(s.proven),
		w.here, w.running, w.nack, w.sends, w.long, w.longMesh, w.serves, w.stranger, w.second.key(),
	}
}

type key struct {
	phase, limit                               model.Phase
	mode, wanted                               model.Mode
	stopped                                    bool
	since, proven                              time.Duration
	here, running, nack, sends, long, longMesh [2]bool
	serves                                     [2]model.Phase
	stranger                                   bool
	second                                     secondKey
}

// in is the world at rest in a phase, on the way to a mode.
func (w *world) in(p model.Phase, m model.Mode) *world {
	w.engine.states[target] = State{Phase: p, Since: w.now, Mode: m}
	w.wanted.Decision.Mode = m
	for i := range w.here {
		w.serves[i], w.sends[i] = chains(p), p >= model.PhaseMoved
	}
	return w
}

// TestEverySequence tries all sequences of events up to a depth, from every
// phase, states that were met before once.
func TestEverySequence(t *testing.T) {
	everySequence(t, 8, events(), func(*world) {})
}

func everySequence(t *testing.T, depth int, all []event, prepare func(*world)) {
	for _, action := range []model.DeadlineAction{model.DeadlineHold, model.DeadlineProceed, model.DeadlineRollback} {
		t.Run(action.String(), func(t *testing.T) {
			t.Parallel()
			type node struct {
				w    *world
				path []string
			}
			r := model.Rollout{QuietPeriod: quiet, Deadline: deadline, OnDeadline: action}
			seen := map[key]bool{}
			reached := map[model.Phase]bool{}
			var front []node
			for p := model.PhaseNone; p <= model.PhaseStrict; p++ {
				for _, old := range []bool{false, p == model.PhaseMoved || p == model.PhaseGrace} {
					w := newWorld(r).in(p, model.Strict)
					w.long[0] = old // a plaintext connection from before
					prepare(w)
					seen[w.key()] = true
					front = append(front, node{w, []string{fmt.Sprintf("in %s, old connection %v", p, old)}})
				}
			}
			for range depth {
				var next []node
				for _, n := range front {
					for _, e := range all {
						w := n.w.clone()
						e.do(w)
						wait := w.turn()
						path := append(n.path[:len(n.path):len(n.path)], e.name)
						if lost := w.broken(); lost != "" && !w.forced {
							t.Fatalf("%s\nafter %q\nphase %s of %+v", lost, path, w.phase(), w.engine.states[target])
						}
						if s := w.engine.states[target]; s.Phase != s.goal() && len(wait.For) == 0 && wait.Again.IsZero() && n.w.phase() == w.phase() {
							t.Fatalf("waits for nothing in %s after %q", w.phase(), path)
						}
						if w.forced { // what follows may be lost by permission
							continue
						}
						if k := w.key(); !seen[k] {
							seen[k] = true
							next = append(next, node{w, path})
						}
						reached[w.phase()] = true
					}
				}
				front = next
			}
			for _, n := range front[:min(len(front), 5_000)] {
				n.w.settles(t, n.path)
			}
			if len(reached) != 5 {
				t.Errorf("only phases %v were reached", reached)
			}
			t.Logf("%d states", len(seen))
		})
	}
}

// settles lets everybody do what is asked of them: the target must arrive.
func (w *world) settles(t *testing.T, path []string) {
	t.Helper()
	w = w.clone()
	w.nack, w.stranger, w.long = [2]bool{}, false, [2]bool{}
	for range 40 {
		w.follow()
		for i := range w.here {
			if w.here[i] {
				w.running[i], w.serves[i] = true, chains(w.phase())
			}
			w.sends[i] = w.phase() >= model.PhaseMoved
		}
		w.now = w.now.Add(quiet)
		w.report()
		w.turn()
		if lost := w.broken(); lost != "" {
			t.Fatalf("%s on the way to %s after %q", lost, w.wanted.Decision.Mode, path)
		}
	}
	if s := w.engine.states[target]; s.Phase != s.goal() {
		t.Fatalf("stays in %s, wants %s after %q: %v", s.Phase, s.Mode, path, w.turn())
	}
}

package rollout

import (
	"fmt"
	"strconv"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

const (
	// pause is between a proof and what is built on it: Envoy's workers take up
	// what its main thread acknowledged (measured: at most 5 ms).
	pause = 500 * time.Millisecond
	// freshness is how long gauges are believed after a phase was entered: the
	// first values are of before.
	freshness = 100 * time.Millisecond
	// Failures stop a rollout from so many on, if they are 1 in 100.
	fewFailures = 5
	rareFailure = 100
	// idle is how many quiet periods a handshake is waited for: a client that
	// calls no more shows none.
	idle = 3
	// again is when gauges are looked at again that are of before the step: a
	// proxy that tells the same as before is no news.
	again = time.Second
)

// Wait is what a target waits for; the zero value: for nothing.
type Wait struct {
	For []Blocker
	// Held says that the deadline is missed, or that failures stopped it.
	Held bool
	// Again is when it may move although no evidence changes; zero is never.
	Again time.Time
}

// advance moves the state at most one rung towards its mode.
func advance(s State, r model.Rollout, e Evidence, now time.Time) (State, Wait) {
	if s.uncounted {
		s.Failed, s.Handshakes = e.counts()
		s.uncounted = false
	}
	if s = s.watch(r, e, now); s.Halted != "" {
		return s, Wait{For: []Blocker{{Who: "rollout", What: s.Halted}}, Held: true, Again: s.HaltedAt.Add(r.QuietPeriod)}
	}
	goal := s.goal()
	if s.Phase == goal {
		return s, s.rest(r, now)
	}
	if next, free := s.free(r); free {
		return s.enter(next, e, now), Wait{}
	}
	up := goal > s.Phase
	next, blockers, after := s.Phase-1, []Blocker(nil), time.Time{}
	if up {
		next = s.Phase + 1
	}
	switch {
	case s.Phase == model.PhaseOpened && up, s.Phase == model.PhaseMoved && !up:
		blockers = e.served()
	case s.Phase == model.PhaseMoved:
		blockers, after = e.moved(s, r.QuietPeriod, now)
	case s.Phase == model.PhaseGrace:
		s, blockers, after = s.empty(e, Server.plain, "plaintext", e.served(), now)
	default: // OPENED, down
		unproven := append(append(e.served(), e.Clients...), e.Mesh...)
		s, blockers, after = s.empty(e, Server.mesh, "mTLS", unproven, now)
	}
	return s.decide(next, blockers, after, r, e, now)
}

// free is the next phase if it needs no proof: servers that take more than
// before break nothing, and IMMEDIATE asks for none.
func (s State) free(r model.Rollout) (model.Phase, bool) {
	switch goal := s.goal(); {
	case s.Phase == goal || s.Halted != "":
		return s.Phase, false
	case r.Immediate:
		return goal, true
	case goal < model.PhaseGrace && s.Phase >= model.PhaseGrace:
		return model.PhaseMoved, true
	default:
		return model.PhaseOpened, s.Phase == model.PhaseNone
	}
}

// decide enters next if nothing blocks for the pause, or if the deadline is
// missed and that is the wish.
func (s State) decide(next model.Phase, blockers []Blocker, after time.Time, r model.Rollout, e Evidence, now time.Time) (State, Wait) {
	if len(blockers) == 0 {
		if s.proven.IsZero() {
			s.proven = now
		}
		if at := s.proven.Add(pause); at.After(now) {
			return s, Wait{Again: at}
		}
		return s.enter(next, e, now), Wait{}
	}
	s.proven = time.Time{}
	deadline := s.Since.Add(r.Deadline)
	wait := Wait{For: blockers, Again: deadline}
	if !after.IsZero() && after.Before(deadline) {
		wait.Again = after
	}
	if now.Before(deadline) {
		return s, wait
	}
	wait.Again = after
	switch r.OnDeadline {
	case model.DeadlineProceed:
		return s.enter(next, e, now), Wait{}
	case model.DeadlineRollback:
		s.Stopped, s.Limit = fmt.Sprintf("rolled back: the deadline of %s passed, waiting for %s", r.Deadline, blockers[0]), min(s.Phase, model.PhaseMoved)
		if s.Phase > model.PhaseMoved {
			s = s.enter(model.PhaseMoved, e, now)
		}
		return s, Wait{For: blockers, Held: true}
	default:
		wait.Held = true
		return s, wait
	}
}

// rest is the wait of a target that goes no further: while failures may still
// take it back, they are looked at as they come.
func (s State) rest(r model.Rollout, now time.Time) Wait {
	if s.Stopped == "" {
		if end := s.Since.Add(r.QuietPeriod); s.Watched(r, now) && end.After(now) {
			return Wait{Again: end}
		}
		return Wait{}
	}
	return Wait{For: []Blocker{{Who: "rollout", What: s.Stopped}}, Held: true}
}

// watch halts a target whose last step made calls fail, until they fail no
// more for a quiet period; ROLLBACK takes it back instead. On the way down
// nothing halts: that is where those go whose calls fail.
func (s State) watch(r model.Rollout, e Evidence, now time.Time) State {
	if s.Halted != "" && !now.Before(s.HaltedAt.Add(r.QuietPeriod)) {
		s.Halted = ""
	}
	failed, _ := e.counts()
	s.Failed = min(s.Failed, failed) // whose count went away, or began anew
	if r.Immediate || s.Phase < model.PhaseMoved || s.goal() < s.Phase || s.Stopped != "" || !s.Watched(r, now) {
		return s
	}
	why := e.failures(s)
	if why == "" {
		return s
	}
	if r.OnDeadline == model.DeadlineRollback {
		s.Stopped, s.Limit = "rolled back: "+why, model.PhaseOpened
		return s
	}
	s.Failed = failed
	s.Halted, s.HaltedAt = "halted: "+why, now
	return s
}

// failures are those since the phase was entered.
func (e Evidence) failures(s State) string {
	failed, handshakes := e.counts()
	if rise := failed - min(failed, s.Failed); rise >= fewFailures && rise*rareFailure >= handshakes-min(handshakes, s.Handshakes) {
		return fmt.Sprintf("%d TLS handshakes failed since the last step", rise)
	}
	since := s.Since
	if s.Halted != "" {
		since = s.HaltedAt
	}
	for _, p := range e.Peers {
		if p.Refused && p.Sidecar && p.Last.After(since.Add(pause)) {
			return fmt.Sprintf("%s, which has a sidecar, was refused for plaintext", p.Name)
		}
	}
	return ""
}

// served blocks for servers that are not proven to be in the phase.
func (e Evidence) served() []Blocker {
	var out []Blocker
	for i := range e.Servers {
		if s := &e.Servers[i]; s.Unproven != "" {
			out = append(out, Blocker{Who: s.Workload.String(), What: s.Unproven})
		}
	}
	return out
}

// moved blocks until no call arrives without mTLS, for a quiet period; after
// is when that is over if all stays quiet.
func (e Evidence) moved(s State, quiet time.Duration, now time.Time) (out []Blocker, after time.Time) {
	out = append(append(e.served(), e.Clients...), e.Plaintext...)
	late := time.Duration(0) // what happened meanwhile is not told yet
	if !e.AsOf.IsZero() {
		late = max(0, now.Sub(e.AsOf))
	}
	wait := func(since time.Time, b Blocker) {
		if at := since.Add(quiet + late); at.After(now) {
			out = append(out, b)
			if after.IsZero() || at.After(after) {
				after = at
			}
		}
	}
	for i := range e.Servers {
		switch srv := &e.Servers[i]; {
		case srv.Unproven != "":
		case srv.Logs.IsZero():
			out = append(out, Blocker{Who: srv.Workload.String(), What: "sends no access logs, so plaintext would not be seen"})
		case srv.Logs.After(s.Since):
			wait(srv.Logs, Blocker{Who: srv.Workload.String(), What: "sends access logs only for a short while"})
		}
	}
	called := false
	for _, p := range e.Peers {
		if p.Refused {
			continue
		}
		called = called || p.Sidecar && p.Last.After(s.Since.Add(-quiet))
		wait(p.Last, Blocker{p.Name, "sends plaintext", fmt.Sprintf("%d times, the last at %s", p.Count, p.Last.UTC().Format("15:04:05"))})
	}
	if _, handshakes := e.counts(); called && handshakes <= s.Handshakes && now.Sub(s.Since) < idle*quiet {
		out = append(out, Blocker{Who: "clients", What: "that called in plaintext before were not seen with mTLS yet"})
		if after.IsZero() {
			after = now.Add(again)
		}
	}
	if len(out) == 0 {
		wait(s.Since, Blocker{Who: "clients", What: "send no plaintext, but not yet for the quiet period"})
	}
	return out, after
}

func (s Server) plain() Connections { return s.Plain }
func (s Server) mesh() Connections  { return s.Mesh }

// empty blocks while connections of a kind are open, or may be. Gauges count
// once all else is proven: until then others may still open some.
func (s State) empty(e Evidence, of func(Server) Connections, kind string, unproven []Blocker, now time.Time) (State, []Blocker, time.Time) {
	switch {
	case len(unproven) > 0:
		s.last = time.Time{}
	case s.last.IsZero():
		s.last = now
	}
	blockers, after := e.open(s, of, kind, now)
	return s, append(unproven, blockers...), after
}

// open is the part of empty about gauges; after is when to look again.
func (e Evidence) open(s State, of func(Server) Connections, kind string, now time.Time) (out []Blocker, after time.Time) {
	since := s.Since
	if s.last.After(since) {
		since = s.last
	}
	for _, srv := range e.Servers {
		c, who := of(srv), srv.Workload.String()
		switch {
		case srv.Unproven != "":
		case srv.Stats.IsZero():
			out = append(out, Blocker{Who: who, What: "sends no statistics, so open " + kind + " connections would not be seen"})
		case c.Known && c.Open > 0:
			out = append(out, Blocker{who, "has open " + kind + " connections", strconv.FormatUint(c.Open, 10)})
		case !c.Known, !c.At.After(since.Add(freshness)):
			out = append(out, Blocker{Who: who, What: "has not reported its open " + kind + " connections since the last step"})
			after = now.Add(again)
		}
	}
	return out, after
}

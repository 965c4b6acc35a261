package drill

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/lab"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

const mostLosses = 1000 // are told, the others counted

// Event is something that the drill did, or that the control plane decided.
type Event struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// Loss is a call between sidecars that failed.
type Loss struct {
	At       time.Time `json:"at"`
	Took     string    `json:"took"`
	Caller   string    `json:"caller"`
	Callee   string    `json:"callee"`
	Protocol string    `json:"protocol"`
	Kind     lab.Kind  `json:"kind"`
	Cut      bool      `json:"cut"` // something long that was open
	Error    string    `json:"error"`
	Phases   []string  `json:"phases"` // of the callee's targets, and since when
	Doing    []string  `json:"doing"`  // the last events before
}

// Count is of the calls of one kind.
type Count struct {
	Calls     uint64 `json:"calls"`
	Lost      uint64 `json:"lost"`      // and no rule explains it
	Explained uint64 `json:"explained"` // lost, by a rule
}

// journal is what happened, and judges the calls by it.
type journal struct {
	say    func(format string, args ...any)
	phases func(lab.Endpoint) string

	mu        sync.Mutex
	events    []Event
	outages   []*Outage
	states    map[model.Target]rollout.State
	counts    map[lab.Kind]*Count
	strangers Count // Lost: refused
	losses    []Loss
	pending   []lab.Call // failed; a rule may still come to explain them
	ignored   map[string]bool
	warm      bool // before the first edit
}

func newJournal(say func(string, ...any)) *journal {
	return &journal{
		say: say, states: map[model.Target]rollout.State{}, counts: map[lab.Kind]*Count{},
		ignored: map[string]bool{}, warm: true,
	}
}

// note records an event, and shows it.
func (j *journal) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	j.mu.Lock()
	j.events = append(j.events, Event{time.Now(), text})
	j.mu.Unlock()
	j.say("%s", text)
}

// moved takes how far all targets are.
func (j *journal) moved(states map[model.Target]rollout.State) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for t, s := range states {
		old, known := j.states[t]
		if known && old.Phase != s.Phase {
			j.events = append(j.events, Event{s.Since, fmt.Sprintf("%s: %s to %s, on the way to %s", status.TargetName(t), rung(old.Phase), rung(s.Phase), s.Mode)})
		}
	}
	j.states = states
}

// rung tells the two PERMISSIVE apart.
func rung(p model.Phase) string {
	switch p {
	case model.PhaseOpened:
		return "PERMISSIVE with clients in plaintext"
	case model.PhaseMoved:
		return "PERMISSIVE with clients in mTLS"
	}
	return p.String()
}

func pairName(c *lab.Call) string { return fmt.Sprintf("%s -> %s:%d", c.Caller, c.Host, c.Port) }

// call counts a call and keeps it, if it failed, to be judged.
func (j *journal) call(c lab.Call) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !c.Sidecar {
		j.strangers.Calls++
		if c.Err != nil {
			j.strangers.Lost++
		}
		return
	}
	if j.warm {
		if c.Err != nil {
			j.ignored[pairName(&c)] = true
		}
		return
	}
	if j.ignored[pairName(&c)] {
		return
	}
	count := j.counts[c.Kind]
	if count == nil {
		count = new(Count)
		j.counts[c.Kind] = count
	}
	count.Calls++
	if c.Err != nil {
		j.pending = append(j.pending, c)
	}
}

// begin ends the time in which pairs that never work are found.
func (j *journal) begin() (never []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.warm = false
	for name := range j.ignored {
		never = append(never, name)
	}
	slices.Sort(never)
	return never
}

// judge decides on the calls that have failed so far.
func (j *journal) judge() {
	j.mu.Lock()
	pending := j.pending
	j.pending = nil
	j.mu.Unlock()
	for i := range pending {
		c := &pending[i]
		var phases []string
		for _, e := range c.Endpoints {
			phases = append(phases, fmt.Sprintf("%s:%d %s", e.Workload, e.Port, j.phases(e)))
		}
		j.mu.Lock()
		if j.explained(c) {
			j.counts[c.Kind].Explained++
			j.mu.Unlock()
			continue
		}
		j.counts[c.Kind].Lost++
		loss := j.loss(c, phases)
		if len(j.losses) < mostLosses {
			j.losses = append(j.losses, loss)
		}
		j.mu.Unlock()
		j.say("LOST %s", loss)
	}
}

func (j *journal) loss(c *lab.Call, phases []string) Loss {
	l := Loss{
		At: c.End, Took: c.End.Sub(c.Begin).Round(time.Millisecond).String(), Caller: c.Caller.String(), Callee: fmt.Sprintf("%s:%d", c.Host, c.Port),
		Protocol: c.Protocol.String(), Kind: c.Kind, Cut: c.Cut, Error: c.Err.Error(), Phases: phases,
	}
	const last = 6
	for i := len(j.events) - 1; i >= 0 && len(l.Doing) < last; i-- {
		if e := j.events[i]; !e.At.After(c.End) {
			l.Doing = append(l.Doing, fmt.Sprintf("%s before: %s", c.End.Sub(e.At).Round(time.Millisecond), e.Text))
		}
	}
	return l
}

// String is the loss in one line.
func (l Loss) String() string {
	what := "lost"
	if l.Cut {
		what = "cut"
	}
	doing := "nothing yet"
	if len(l.Doing) > 0 {
		doing = l.Doing[0]
	}
	return fmt.Sprintf("%s %s -> %s (%s, %s, %s): %s; %v; %s", l.At.Format("15:04:05.000"), l.Caller, l.Callee, l.Protocol, l.Kind, what, l.Error, l.Phases, doing)
}

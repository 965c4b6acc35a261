// Package toggle follows how changes of modes go on in a lab: the phases that
// targets enter, what became of calls meanwhile, and what is waited for.
package toggle

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/model"
)

// Step is one target that entered a phase, and the calls to services that lead
// to it, while it lasted.
type Step struct {
	At      time.Time `json:"at"`
	Target  string    `json:"target"` // namespace/group:port
	Phase   string    `json:"phase"`
	Clients string    `json:"clients"` // what those that follow send
	Mode    string    `json:"mode"`    // wanted
	Calls
}

// Calls add up calls; those of callers with a sidecar stand apart, for only
// they can follow a change of mode.
type Calls struct {
	Requests        uint64 `json:"requests"`
	Failed          uint64 `json:"failed"`
	SidecarRequests uint64 `json:"sidecarRequests"`
	SidecarFailed   uint64 `json:"sidecarFailed"`
}

// Course remembers all steps of all targets.
type Course struct {
	mu    sync.Mutex
	steps []Step
	last  map[model.Target]lastStep
}

// lastStep is the phase that a target is in.
type lastStep struct {
	phase  model.Phase
	index  int   // in steps; -1: it was there at the start
	before Calls // of calls
}

// Note takes in where all targets are, and says what is new.
func (c *Course) Note(now []status.Rollout, calls func(*model.Wanted) Calls) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		c.last = map[model.Target]lastStep{}
	}
	moved := newGroups(now)
	for _, r := range now {
		w := r.Wanted
		last, known := c.last[w.Target]
		switch {
		case !known:
			c.last[w.Target] = lastStep{phase: w.Decision.Phase, index: -1}
			continue
		case last.phase == w.Decision.Phase:
			continue
		}
		sum := calls(w)
		if last.index >= 0 {
			c.steps[last.index].Calls = sum.since(last.before)
		}
		c.last[w.Target] = lastStep{w.Decision.Phase, len(c.steps), sum}
		c.steps = append(c.steps, Step{
			At: r.Since, Target: status.TargetName(w.Target), Phase: w.Decision.Phase.String(),
			Clients: status.ClientsSend(w.Decision.Phase), Mode: w.Decision.Mode.String(),
		})
		moved.add(phaseText(r), w.Target)
	}
	return moved.lines("%s: %s")
}

// All are the steps so far; the calls of the last ones go on.
func (c *Course) All(now []status.Rollout, calls func(*model.Wanted) Calls) []Step {
	c.mu.Lock()
	defer c.mu.Unlock()
	steps := slices.Clone(c.steps)
	for _, r := range now {
		if last, known := c.last[r.Wanted.Target]; known && last.index >= 0 {
			steps[last.index].Calls = calls(r.Wanted).since(last.before)
		}
	}
	return steps
}

// since are the calls after an earlier count. It may be higher: pairs go.
func (t Calls) since(o Calls) Calls {
	return Calls{
		t.Requests - min(t.Requests, o.Requests), t.Failed - min(t.Failed, o.Failed),
		t.SidecarRequests - min(t.SidecarRequests, o.SidecarRequests), t.SidecarFailed - min(t.SidecarFailed, o.SidecarFailed),
	}
}

// phaseText is where a target is, and where it goes.
func phaseText(r status.Rollout) string {
	d := r.Wanted.Decision
	text := fmt.Sprintf("%s, clients send %s", d.Phase, status.ClientsSend(d.Phase))
	if !r.Settled {
		text += ", on the way to " + d.Mode.String()
	}
	return text
}

// groups are targets by what is said of them, in the order of their coming.
type groups struct {
	common string // namespace, which need not be named
	texts  []string
	of     map[string][]model.Target
}

// newGroups leaves out the namespace if all targets are in one.
func newGroups(all []status.Rollout) *groups {
	g := &groups{of: map[string][]model.Target{}}
	for i, r := range all {
		if i > 0 && r.Wanted.Namespace != g.common {
			g.common = ""
			break
		}
		g.common = r.Wanted.Namespace
	}
	return g
}

func (g *groups) add(text string, t model.Target) {
	if len(g.of[text]) == 0 {
		g.texts = append(g.texts, text)
	}
	g.of[text] = append(g.of[text], t)
}

// lines are one for each text: what is said, and of whom.
func (g *groups) lines(format string) []string {
	var out []string
	for _, text := range g.texts {
		out = append(out, fmt.Sprintf(format, text, g.names(text)))
	}
	return out
}

// names are a few words with all ports of a group of workloads each.
func (g *groups) names(text string) string {
	const most = 6
	var order []string
	ports := map[string][]string{}
	add := func(t model.Target, port string) {
		name := t.Group
		if t.Namespace != g.common {
			name = t.Namespace + "/" + t.Group
		}
		if len(ports[name]) == 0 {
			order = append(order, name)
		}
		ports[name] = append(ports[name], port)
	}
	for _, t := range g.of[text] {
		if t.Port != 0 {
			add(t, strconv.Itoa(int(t.Port)))
		}
	}
	for _, t := range g.of[text] {
		if t.Port == 0 {
			add(t, "other")
		}
	}
	var words []string
	for _, name := range order[:min(most, len(order))] {
		words = append(words, name+":"+strings.Join(ports[name], ","))
	}
	if more := len(order) - most; more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, " ")
}

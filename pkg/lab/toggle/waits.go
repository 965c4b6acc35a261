package toggle

import (
	"fmt"
	"slices"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

// Waits tells of each blocker once.
type Waits struct {
	known map[wait]bool // true: it was told
}

// wait is one blocker of a target in one phase.
type wait struct {
	target model.Target
	since  time.Time
	text   string
}

// News are lines about blockers that were not told yet and are there for the
// second time: many go with the next proof.
func (w *Waits) News(now []status.Rollout) []string {
	next, since := map[wait]bool{}, map[model.Target]time.Time{}
	fresh := newGroups(now)
	for _, r := range now {
		since[r.Wanted.Target] = r.Since
		for _, b := range r.Waits {
			key := wait{r.Wanted.Target, r.Since, blockerText(b)}
			told, before := w.known[key]
			next[key] = before
			if before && !told {
				fresh.add(key.text, key.target)
			}
		}
	}
	for key, told := range w.known { // who comes and goes is not told again
		if told && since[key.target].Equal(key.since) {
			next[key] = true
		}
	}
	w.known = next
	return fresh.lines("waits for: %s: %s")
}

// blockerText leaves out what changes all the time.
func blockerText(b rollout.Blocker) string {
	b.Detail = ""
	return b.String()
}

// UnderWay are the lines below the table: targets that are not where their
// mode ends, and what they wait for.
func UnderWay(now []status.Rollout, at time.Time) []string {
	const most = 4 // blockers
	g := newGroups(now)
	blockers, since := map[string][]string{}, map[string]time.Time{}
	for _, r := range now {
		if r.Settled && !r.Held {
			continue
		}
		text := phaseText(r)
		if r.Held {
			text += ", held"
		}
		g.add(text, r.Wanted.Target)
		if since[text].IsZero() || r.Since.Before(since[text]) {
			since[text] = r.Since
		}
		for _, b := range r.Waits {
			if one := blockerText(b); !slices.Contains(blockers[text], one) {
				blockers[text] = append(blockers[text], one)
			}
		}
	}
	var out []string
	for _, text := range g.texts {
		out = append(out, fmt.Sprintf("%s for %s: %s", text, at.Sub(since[text]).Truncate(time.Second), g.names(text)))
		list := blockers[text]
		slices.Sort(list) // the newest comes first, which flickers
		for _, one := range list[:min(most, len(list))] {
			out = append(out, "  waits for: "+one)
		}
		if more := len(list) - most; more > 0 {
			out = append(out, fmt.Sprintf("  and %d more, see /debug/rollouts?open=true", more))
		}
	}
	return out
}

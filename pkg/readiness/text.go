package readiness

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Answer is the judgement of all targets that were asked for.
type Answer struct {
	Targets []Report `json:"targets"`
	Strict  int      `json:"strict"` // targets that are strict already, and not listed
}

// Count is how many targets have a verdict.
func (a Answer) Count(v Verdict) int {
	n := 0
	for i := range a.Targets {
		if a.Targets[i].Verdict == v {
			n++
		}
	}
	return n
}

// Verdict is the gravest.
func (a Answer) Verdict() Verdict {
	switch {
	case a.Count(NotReady) > 0:
		return NotReady
	case a.Count(Unclear) > 0:
		return Unclear
	default:
		return Ready
	}
}

// Print writes the answer for people.
func (a Answer) Print(w io.Writer) error {
	var b strings.Builder
	for i := range a.Targets {
		a.Targets[i].print(&b)
	}
	fmt.Fprintf(&b, "%d ready, %d not ready, %d unknown", a.Count(Ready), a.Count(NotReady), a.Count(Unclear))
	switch a.Strict {
	case 0:
	case 1:
		b.WriteString("; 1 more is strict already")
	default:
		fmt.Fprintf(&b, "; %d more are strict already", a.Strict)
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) print(b *strings.Builder) {
	fmt.Fprintf(b, "%s  %s", r.Verdict, r.Target)
	if len(r.Services) > 0 {
		fmt.Fprintf(b, " (%s)", strings.Join(r.Services, ", "))
	}
	fmt.Fprintf(b, ": %s now", r.Phase)
	if !r.Settled {
		fmt.Fprintf(b, " on the way to %s", r.Mode)
	}
	fmt.Fprintf(b, ", set by %s\n", r.Source)
	if !r.Since.IsZero() {
		fmt.Fprintf(b, "  evidence without a gap since %s\n", clock(r.Since))
	}
	for _, p := range r.Peers {
		times := fmt.Sprintf("%d times, first %s, last %s", p.Count, clock(p.First), clock(p.Last))
		if p.Count == 1 {
			times = "once, " + clock(p.Last)
		}
		fmt.Fprintf(b, "  %-7s %s to port %d, %s: %s\n", p.Effect, p.Who, p.Port, times, p.Why)
	}
	for _, o := range r.Obstacles {
		fmt.Fprintf(b, "  %-7s %s %s\n", o.Effect, o.Who, o.Why)
	}
	if r.More > 0 {
		fmt.Fprintf(b, "  and %d more\n", r.More)
	}
}

func clock(t time.Time) string { return t.UTC().Format(time.DateTime) }

package plan

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/readiness"
)

// Print writes the plan for people; verbose names every target, proxy and
// resource.
func (p *Plan) Print(w io.Writer, verbose bool) error {
	t := text{verbose: verbose}
	if !p.Changes() {
		t.line("nothing changes")
	} else {
		t.targets(p)
		t.steps(p)
	}
	if len(p.Cuts) > 0 {
		t.line("Connections that end")
	}
	for _, c := range p.Cuts {
		t.line("  step %d, %s: %s: %s", c.Step, t.some(c.Proxies), c.What, c.When)
	}
	t.breaks(p)
	_, err := io.WriteString(w, t.b.String())
	return err
}

type text struct {
	b       strings.Builder
	verbose bool
}

func (t *text) line(format string, args ...any) { fmt.Fprintf(&t.b, format+"\n", args...) }

// some names the first of a list, and how many more there are.
func (t *text) some(list []string) string {
	const most = 5
	if len(list) <= most+1 || t.verbose {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
}

// targets shows those that change alike together.
func (t *text) targets(p *Plan) {
	if len(p.Targets) == 0 {
		t.line("No target changes its mode.")
		return
	}
	t.line("Targets")
	var order []string
	names := map[string][]string{}
	for i := range p.Targets {
		c := &p.Targets[i]
		key := fmt.Sprintf("    %s, set by %s -> %s, set by %s", c.Before.Mode, c.Before.By, c.After.Mode, c.After.By)
		if c.After.At != "" {
			key += " (" + c.After.At + ")"
		}
		key += "\n    " + strings.Join(c.Phases, " -> ")
		switch {
		case c.ServerFirst:
			key += ", at once: server-first"
		case c.Immediate && len(c.Phases) > 1:
			key += ", at once: IMMEDIATE"
		}
		if names[key] == nil {
			order = append(order, key)
		}
		names[key] = append(names[key], c.Target)
	}
	for _, key := range order {
		t.line("  %s\n%s", t.some(names[key]), key)
	}
}

func (t *text) steps(p *Plan) {
	t.line("Steps")
	phased := 0
	for i := range p.Targets {
		if !p.Targets[i].ServerFirst {
			phased++
		}
	}
	for i := range p.Steps {
		s := &p.Steps[i]
		if i == 0 {
			t.line("  1  the edit")
		}
		for j, m := range s.Moves {
			number := "   "
			if i > 0 && j == 0 {
				number = fmt.Sprintf("%-3d", s.Number)
			}
			who := t.some(m.Targets)
			if len(m.Targets) == phased && phased > 2 && !t.verbose {
				who = fmt.Sprintf("all %d targets", phased)
			}
			t.line("  %s%s: %s, %s", number, who, m.What, m.When)
			for _, by := range m.Held {
				t.line("       held: %s", by)
			}
		}
		for _, push := range s.Pushes {
			t.line("       %s to %s", push.counts(), t.some(push.Proxies))
			for _, kind := range types() {
				for _, name := range push.Resources[kind.name] {
					if t.verbose {
						t.line("         %s %s", kind.name, name)
					}
				}
			}
		}
	}
}

func (t *text) breaks(p *Plan) {
	breaks := slices.DeleteFunc(slices.Clone(p.Breaks), func(b Break) bool { return p.Asked && b.Plaintext && !b.Sidecar })
	if len(breaks) > 0 {
		t.line("Calls that work now and will not")
	}
	for _, b := range breaks {
		t.line("  step %d, %s -> %s:%d: %s -> %s: %s", b.Step, b.From, b.Host, b.Port, b.Was, b.Will, b.Why)
	}
	if len(p.Seen) > 0 {
		t.line("Seen in plaintext, and would be refused")
	}
	for _, s := range p.Seen {
		t.line("  %s: %s to port %d, %d times, last %s: %s", s.Target, s.Who, s.Port, s.Count, s.Last.UTC().Format(time.DateTime), s.Why)
	}
	if len(p.Unknown) > 0 {
		t.line("Not known")
	}
	for _, d := range p.Unknown {
		t.line("  %s: %s", d.Target, d.Why)
	}
	switch p.Verdict() {
	case readiness.NotReady:
		t.line("somebody would break")
	case readiness.Unclear:
		t.line("nobody is known who would break, but not all is known")
	default:
		t.line("nobody would break")
	}
}

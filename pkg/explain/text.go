package explain

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Print writes the answer as text.
func (a Answer) Print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s -> %s (%s)\n%s\n", a.callerWords(), join(a.To.Host, a.To.Port), a.targetWords(), a.Now)
	a.printEndpoints(&b)
	if a.TLS != nil {
		fmt.Fprintf(&b, "\nIn its TLS the client expects\n  SNI   %s\n  ALPN  %s\n  SAN   %s\n",
			a.TLS.SNI, orNone(strings.Join(a.TLS.ALPN, ", ")), orNone(strings.Join(a.TLS.Accepts, "\n        ")))
	}
	a.printRules(&b)
	for i, note := range a.Notes {
		if i == 0 {
			b.WriteString("\n")
		}
		b.WriteString(note + "\n")
	}
	if len(a.Change) > 0 {
		b.WriteString("\n" + a.changeTitle() + "\n")
	}
	for _, c := range a.Change {
		fmt.Fprintf(&b, "  %s\n", c)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func orNone(s string) string { return cmp.Or(s, "(none)") }

func (a Answer) callerWords() string {
	if !a.From.Sidecar {
		return a.From.Workload + " (no sidecar)"
	}
	return a.From.Workload
}

func (a Answer) targetWords() string {
	words := []string{a.To.Protocol}
	if a.To.Kind != KindService {
		words = append(words, string(a.To.Kind))
	}
	return strings.Join(words, ", ")
}

func (a Answer) printEndpoints(b *strings.Builder) {
	for i := range a.Endpoints {
		p := &a.Endpoints[i]
		switch {
		case p.Address == "" && p.Sends == "":
			fmt.Fprintf(b, "\nThe client side: %s\n", p.Why)
			continue
		case p.Address == "" || strings.HasPrefix(p.Address, ":"):
			fmt.Fprintf(b, "\n%s\n", join(a.To.Host, a.To.Port))
		default:
			fmt.Fprintf(b, "\n%s\n", strings.TrimSpace(p.Address+" "+p.Workload))
		}
		switch {
		case p.Sidecar:
			fmt.Fprintf(b, "  server  %s, set by %s%s%s\n", p.Mode, p.Source, scope(p.Rank), place(p.At))
			if p.Phase != "" {
				fmt.Fprintf(b, "          in phase %s on the way there; pilot status says what it waits for\n", p.Phase)
			}
		case p.Workload != "":
			b.WriteString("  server  no sidecar: whatever the application accepts\n")
		default:
			b.WriteString("  server  not of the mesh\n")
		}
		for _, l := range p.Losers {
			fmt.Fprintf(b, "          over %s\n", l)
		}
		fmt.Fprintf(b, "  client  %s: %s\n", p.Sends, p.Why)
		fmt.Fprintf(b, "  call    %s\n", failure(p))
	}
}

// String is "Policy shop/all for the namespace, STRICT (shop.yaml:3)".
func (l Loser) String() string {
	if l.Mode == "" {
		return l.Object + scope(l.Rank) + " too: a tie, which the oldest valid one wins" + place(l.At)
	}
	return l.Object + scope(l.Rank) + ", " + l.Mode + place(l.At)
}

// scope is what the statement of a rank is about, where its name does not say.
func scope(rank string) string {
	switch rank {
	case "port", "workload":
		return " for this " + rank
	case "namespace", "mesh":
		return " for the " + rank
	}
	return ""
}

func place(at string) string {
	if at == "" {
		return ""
	}
	return " (" + at + ")"
}

func (a Answer) changeTitle() string {
	switch a.Verdict {
	case VerdictRefused, VerdictFails, VerdictPartly, VerdictNobody:
		return "To make it work, one of:"
	}
	if len(a.Change) > 1 {
		return "To have no plaintext, all of:"
	}
	return "To have no plaintext:"
}

// Print writes the matrix as a table. Columns with equal verdicts are one.
func (m Matrix) Print(w io.Writer) error {
	columns, names := m.columns()
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "to \\ from")
	for i := range columns {
		fmt.Fprintf(table, "\t%s", names[i])
	}
	fmt.Fprintln(table)
	for _, row := range m.Rows {
		fmt.Fprint(table, join(row.Host, row.Port))
		for _, c := range columns {
			fmt.Fprintf(table, "\t%s", row.Verdicts[c[0]])
		}
		fmt.Fprintln(table)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for i, c := range columns {
		if len(c) == 1 {
			continue
		}
		all := make([]string, len(c))
		for j, class := range c {
			all[j] = m.Classes[class].Name
		}
		if _, err := fmt.Fprintf(w, "%s: %s\n", names[i], strings.Join(all, ", ")); err != nil {
			return err
		}
	}
	return nil
}

// columns are classes with the same verdicts everywhere, and what to call them.
func (m Matrix) columns() (columns [][]int, names []string) {
	known := map[string]int{}
	for class := range m.Classes {
		var verdicts strings.Builder
		for _, row := range m.Rows {
			verdicts.WriteString(string(row.Verdicts[class]) + "\n")
		}
		at, ok := known[verdicts.String()]
		if !ok {
			at = len(columns)
			known[verdicts.String()] = at
			columns, names = append(columns, nil), append(names, m.Classes[class].Name)
		}
		columns[at] = append(columns[at], class)
	}
	for i, c := range columns {
		if len(c) > 1 {
			names[i] = fmt.Sprintf("%s +%d", names[i], len(c)-1)
		}
	}
	return columns, names
}

// String is "bookinfo, no sidecar -> host:port  plaintext: why".
func (p Pair) String() string {
	from := strings.Join(p.From, ", ")
	if len(p.From) > 4 {
		from = fmt.Sprintf("%s and %d more", strings.Join(p.From[:3], ", "), len(p.From)-3)
	}
	return fmt.Sprintf("%s -> %s: %s: %s", from, join(p.Host, p.Port), p.Verdict, p.Why)
}

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate/diff"
	"sigs.k8s.io/yaml"
)

// diffReport collects what changes, each change once with all workloads that
// it concerns.
type diffReport struct {
	all         []model.WorkloadID // of the new configuration
	added, gone []model.WorkloadID
	changes     []*sharedChange // in the order of their discovery
	byChange    map[diff.Change]*sharedChange
	changed     int  // workloads with changes
	full        bool // show long values in full
}

type sharedChange struct {
	diff.Change
	workloads []model.WorkloadID
}

func newDiffReport(all []model.WorkloadID) *diffReport {
	return &diffReport{all: all, byChange: map[diff.Change]*sharedChange{}}
}

// present notes a workload that is on one side only; true if it is on both.
func (r *diffReport) present(id model.WorkloadID, had, has bool) bool {
	switch {
	case had && !has:
		r.gone = append(r.gone, id)
	case has && !had:
		r.added = append(r.added, id)
	}
	return had && has
}

func (r *diffReport) add(id model.WorkloadID, changes []diff.Change) {
	for _, c := range changes {
		s := r.byChange[c]
		if s == nil {
			s = &sharedChange{Change: c}
			r.byChange[c] = s
			r.changes = append(r.changes, s)
		}
		s.workloads = append(s.workloads, id)
	}
	if len(changes) > 0 {
		r.changed++
	}
}

func (r *diffReport) differs() bool { return len(r.changes)+len(r.added)+len(r.gone) > 0 }

func (r *diffReport) print(w io.Writer, output format) error {
	if output == formatJSON {
		return printJSON(w, r.json())
	}
	_, err := io.WriteString(w, r.text())
	return err
}

// text shows the changes by resource, each with its workloads.
func (r *diffReport) text() string {
	var b strings.Builder
	if !r.differs() {
		fmt.Fprintf(&b, "no difference for %s\n", plural(len(r.all), "workload"))
		return b.String()
	}
	for _, id := range r.gone {
		fmt.Fprintf(&b, "- workload %s\n", id)
	}
	for _, id := range r.added {
		fmt.Fprintf(&b, "+ workload %s\n", id)
	}
	resources := 0
	for i, c := range r.sorted() {
		if i == 0 || !sameHead(r.changes[i-1], c) {
			fmt.Fprintf(&b, "%s %s of %s\n", c.Type, c.Resource, r.who(c.workloads))
			resources++
		}
		r.writeChange(&b, c.Change)
	}
	fmt.Fprintf(&b, "%s in the configuration of %s", plural(resources, "change"), plural(r.changed, "workload"))
	if len(r.gone)+len(r.added) > 0 {
		fmt.Fprintf(&b, "; %s gone, %d new", plural(len(r.gone), "workload"), len(r.added))
	}
	b.WriteByte('\n')
	return b.String()
}

// sorted orders the changes by type in the order of a rendered file, then resource, and
// keeps those of the same workloads together.
func (r *diffReport) sorted() []*sharedChange {
	slices.SortStableFunc(r.changes, func(a, b *sharedChange) int {
		if n := typeOrder(a.Type) - typeOrder(b.Type); n != 0 {
			return n
		}
		if n := strings.Compare(a.Resource, b.Resource); n != 0 {
			return n
		}
		return slices.CompareFunc(a.workloads, b.workloads, model.WorkloadID.Compare)
	})
	return r.changes
}

func sameHead(a, b *sharedChange) bool {
	return a.Type == b.Type && a.Resource == b.Resource && slices.Equal(a.workloads, b.workloads)
}

// who names the workloads of a change in a line.
func (r *diffReport) who(ids []model.WorkloadID) string {
	if len(ids) == len(r.all) && len(ids) > 1 {
		return fmt.Sprintf("all %d workloads", len(ids))
	}
	return listed(ids)
}

// writeChange is one line; long values only show with --full, except where one
// replaces another.
func (r *diffReport) writeChange(b *strings.Builder, c diff.Change) {
	const width = 100
	long := len(c.Field)+len(c.Old)+len(c.New) > width
	sign, value := "~", c.Old+" -> "+c.New
	switch {
	case c.Old == "":
		sign, value = "+", c.New
	case c.New == "":
		sign, value = "-", c.Old
	}
	switch {
	case c.Field == "":
		fmt.Fprintf(b, "  %s the whole resource\n", sign)
	case !long:
		fmt.Fprintf(b, "  %s %s: %s\n", sign, c.Field, value)
	default:
		fmt.Fprintf(b, "  %s %s\n", sign, c.Field)
	}
	if r.full && (long || c.Field == "") || long && sign == "~" {
		r.writeBlock(b, "-", c.Old)
		r.writeBlock(b, "+", c.New)
	}
}

// writeBlock shows a value as YAML; of a long one, how it begins.
func (r *diffReport) writeBlock(b *strings.Builder, sign, value string) {
	const most = 8
	if value == "" {
		return
	}
	if text, err := yaml.JSONToYAML([]byte(value)); err == nil {
		value = string(text)
	}
	lines := strings.Split(strings.TrimSuffix(value, "\n"), "\n")
	for i, line := range lines {
		if i == most && len(lines) > most+1 && !r.full {
			fmt.Fprintf(b, "    %s ... %d more lines, shown with --full\n", sign, len(lines)-most)
			return
		}
		fmt.Fprintf(b, "    %s %s\n", sign, line)
	}
}

func typeOrder(name string) int {
	return slices.Index([]string{"listeners", "routes", "clusters", "endpoints", "secrets"}, name)
}

// diffJSON is the report for programs.
type diffJSON struct {
	Gone    []string     `json:"gone"`
	New     []string     `json:"new"`
	Changes []changeJSON `json:"changes"`
}

type changeJSON struct {
	Workloads []string `json:"workloads"`
	Type      string   `json:"type"`
	Resource  string   `json:"resource"`
	Field     string   `json:"field,omitempty"`
	Old       string   `json:"old,omitempty"`
	New       string   `json:"new,omitempty"`
}

func (r *diffReport) json() diffJSON {
	out := diffJSON{names(r.gone), names(r.added), []changeJSON{}}
	for _, c := range r.sorted() {
		out.Changes = append(out.Changes, changeJSON{names(c.workloads), c.Type, c.Resource, c.Field, c.Old, c.New})
	}
	return out
}

func names(ids []model.WorkloadID) []string {
	out := make([]string, 0, len(ids))
	for _, id := range ids {
		out = append(out, id.String())
	}
	return out
}

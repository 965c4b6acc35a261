package main

import (
	"fmt"
	"io"
	"maps"
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
	changed     map[model.WorkloadID]bool
	full        bool // show long values in full
}

type sharedChange struct {
	diff.Change
	workloads []model.WorkloadID
}

func newDiffReport(all []model.WorkloadID) *diffReport {
	return &diffReport{all: all, byChange: map[diff.Change]*sharedChange{}, changed: map[model.WorkloadID]bool{}}
}

// only leaves out the workloads of other namespaces; an empty one is all.
func (r *diffReport) only(namespace string) {
	if namespace == "" {
		return
	}
	other := func(id model.WorkloadID) bool { return id.Namespace != namespace }
	for _, list := range []*[]model.WorkloadID{&r.all, &r.added, &r.gone} {
		*list = slices.DeleteFunc(*list, other)
	}
	for _, c := range r.changes {
		c.workloads = slices.DeleteFunc(c.workloads, other)
	}
	r.changes = slices.DeleteFunc(r.changes, func(c *sharedChange) bool { return len(c.workloads) == 0 })
	maps.DeleteFunc(r.changed, func(id model.WorkloadID, _ bool) bool { return other(id) })
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

// add notes changes that all of the workloads see.
func (r *diffReport) add(ids []model.WorkloadID, changes []diff.Change) {
	for _, c := range changes {
		s := r.byChange[c]
		if s == nil {
			s = &sharedChange{Change: c}
			r.byChange[c] = s
			r.changes = append(r.changes, s)
		}
		s.workloads = append(s.workloads, ids...)
	}
	if len(changes) > 0 {
		for _, id := range ids {
			r.changed[id] = true
		}
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
	count := 0
	for _, block := range r.blocks() {
		fmt.Fprintf(&b, "%s %s of %s\n%s", block.kind, few(block.resources, 3), r.who(block.workloads), block.body)
		count += len(block.resources)
	}
	fmt.Fprintf(&b, "%s in the configuration of %s", plural(count, "change"), plural(len(r.changed), "workload"))
	if len(r.gone)+len(r.added) > 0 {
		fmt.Fprintf(&b, "; %s gone, %d new", plural(len(r.gone), "workload"), len(r.added))
	}
	b.WriteByte('\n')
	return b.String()
}

// block is what is shown once: the same lines, for the same workloads, at all
// of the resources.
type block struct {
	kind      string
	resources []string
	workloads []model.WorkloadID
	body      string
}

func (r *diffReport) blocks() []*block {
	// First the same line of one resource, which may hide different values.
	lines := merge(r.sorted(), func(c *sharedChange) (string, *block) {
		body := r.changeText(c.Change)
		return c.Type + "\n" + c.Resource + "\n" + body, &block{c.Type, []string{c.Resource}, c.workloads, body}
	}, func(into, from *block) { into.workloads = union(into.workloads, from.workloads) })
	// Then the lines of one resource for the same workloads.
	perResource := merge(lines, func(l *block) (string, *block) {
		return l.kind + "\n" + l.resources[0] + "\n" + strings.Join(names(l.workloads), " "), l
	}, func(into, from *block) { into.body += from.body })
	// Then the resources that change alike.
	return merge(perResource, func(l *block) (string, *block) {
		return l.kind + "\n" + l.body + strings.Join(names(l.workloads), " "), l
	}, func(into, from *block) { into.resources = append(into.resources, from.resources...) })
}

// merge folds what has the same key into the first of it.
func merge[T any](list []T, of func(T) (string, *block), fold func(into, from *block)) []*block {
	var out []*block
	byKey := map[string]*block{}
	for _, item := range list {
		key, b := of(item)
		if first := byKey[key]; first != nil {
			fold(first, b)
			continue
		}
		byKey[key] = b
		out = append(out, b)
	}
	return out
}

// sorted orders the changes by type in the order of a rendered file, then resource, and
// keeps those of the same workloads together.
func (r *diffReport) sorted() []*sharedChange {
	for _, c := range r.changes {
		c.workloads = union(c.workloads, nil)
	}
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

// who names the workloads of a change in a line.
func (r *diffReport) who(ids []model.WorkloadID) string {
	if len(ids) == len(r.all) && len(ids) > 1 {
		return fmt.Sprintf("all %d workloads", len(ids))
	}
	return listed(ids)
}

// changeText is one line; long values only show with --full, except where one
// replaces another.
func (r *diffReport) changeText(c diff.Change) string {
	const width = 100
	var b strings.Builder
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
		fmt.Fprintf(&b, "  %s the whole resource\n", sign)
	case !long:
		fmt.Fprintf(&b, "  %s %s: %s\n", sign, c.Field, value)
	default:
		fmt.Fprintf(&b, "  %s %s\n", sign, c.Field)
	}
	if r.full && (long || c.Field == "") || long && sign == "~" {
		r.writeBlock(&b, "-", c.Old)
		r.writeBlock(&b, "+", c.New)
	}
	return b.String()
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

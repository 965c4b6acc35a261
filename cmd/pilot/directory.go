package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/check"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/meshconfig/file"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/spf13/cobra"
)

const defaultDomain = "cluster.local"

// directoryFlags are the options of every command that reads a configuration
// directory.
type directoryFlags struct{ domain string }

func (f *directoryFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.domain, "domain", defaultDomain, "DNS suffix of services")
}

// directory is a configuration directory, read and compiled.
type directory struct {
	name     string
	bundle   meshconfig.Bundle
	inputs   model.Inputs
	snapshot *model.Snapshot
	problems []meshconfig.Problem // of reading it, by file and line
}

// read reads and compiles a directory; only what keeps it from being read at
// all is an error.
func (f *directoryFlags) read(dir string) (*directory, error) {
	bundle, problems, err := file.Load(dir)
	if err != nil {
		return nil, err
	}
	inputs, more := meshconfig.Inputs(bundle, f.domain)
	problems = append(slices.Clone(problems), more...)
	sortByPlace(problems)
	return &directory{dir, bundle, inputs, model.Build(inputs), problems}, nil
}

func sortByPlace(problems []meshconfig.Problem) {
	slices.SortStableFunc(problems, func(a, b meshconfig.Problem) int {
		return cmp.Or(strings.Compare(a.At.File, b.At.File), cmp.Compare(a.At.Line, b.At.Line))
	})
}

// check is whether what was accepted is meant, without what only informs
// about the reading.
func (d *directory) check() []meshconfig.Problem {
	lint := meshconfig.Lint(d.bundle, d.inputs, d.snapshot)
	problems := check.Problems(d.bundle, d.inputs, d.snapshot, lint)
	for _, p := range d.problems {
		if p.Severity > meshconfig.Info {
			problems = append(problems, p)
		}
	}
	sortByPlace(problems)
	return problems
}

// readValid reads a directory that must be without errors; those that it has
// are listed on stderr.
func (f *directoryFlags) readValid(dir string, stderr io.Writer) (*directory, error) {
	d, err := f.read(dir)
	if err != nil {
		return nil, err
	}
	return d.valid(stderr)
}

// valid is d, or an error if there are any in it; they are listed on stderr.
func (d *directory) valid(stderr io.Writer) (*directory, error) {
	errors := d.count(meshconfig.Error)
	if errors == 0 {
		return d, nil
	}
	for _, p := range d.problems {
		if p.Severity == meshconfig.Error {
			fmt.Fprintln(stderr, problemLine(p))
		}
	}
	return nil, fmt.Errorf("%s has %s", d.name, plural(errors, "error"))
}

func (d *directory) count(s meshconfig.Severity) int {
	n := 0
	for _, p := range d.problems {
		if p.Severity == s {
			n++
		}
	}
	return n
}

// sidecars are the workloads that have a proxy, sorted.
func (d *directory) sidecars() []model.WorkloadID {
	var ids []model.WorkloadID
	for _, w := range d.snapshot.Workloads() {
		if d.snapshot.HasSidecar(w.ID) {
			ids = append(ids, w.ID)
		}
	}
	return ids
}

// sidecar finds the workload that the user called NAMESPACE/WORKLOAD.
func (d *directory) sidecar(name string) (model.WorkloadID, error) {
	namespace, workload, ok := strings.Cut(name, "/")
	id := model.WorkloadID{Namespace: namespace, Name: workload}
	switch {
	case !ok:
		return id, fmt.Errorf("%q is not NAMESPACE/WORKLOAD", name)
	case d.snapshot.Workload(id) == nil:
		return id, fmt.Errorf("%s has no workload %s, but %s", d.name, name, listed(d.sidecars()))
	case !d.snapshot.HasSidecar(id):
		return id, fmt.Errorf("workload %s has no sidecar, so it gets no configuration", name)
	}
	return id, nil
}

// listed names some workloads in a sentence.
func listed(ids []model.WorkloadID) string {
	if len(ids) == 0 {
		return "no workload with a sidecar"
	}
	return few(names(ids), 10)
}

// few names the first of a list, and how many more there are.
func few(list []string, most int) string {
	if len(list) <= most+1 {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
}

func names(ids []model.WorkloadID) []string {
	out := make([]string, 0, len(ids))
	for _, id := range ids {
		out = append(out, id.String())
	}
	return out
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// completeDirectories completes every argument as a directory.
func completeDirectories(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// completeDirectory completes DIR as the first argument, and workloads of
// that directory as the second, if there is one.
func (f *directoryFlags) completeDirectory(withWorkload bool) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		switch {
		case len(args) == 0:
			return nil, cobra.ShellCompDirectiveFilterDirs
		case len(args) == 1 && withWorkload:
			d, err := f.read(args[0])
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			return names(d.sidecars()), cobra.ShellCompDirectiveNoFileComp
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

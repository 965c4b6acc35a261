package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
	"github.com/meshpilot/pilot/pkg/translate/diff"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/anypb"
)

func diffCmd() *cobra.Command {
	var from directoryFlags
	var output format
	var server serverFlags
	var edit editFlags
	var golden, namespace string
	var full bool
	cmd := &cobra.Command{
		Use:   "diff A B | diff --golden GOLDEN DIR | diff --server URL DIR|-f FILE",
		Short: "Show what an edit changes, for which workload, resource and field",
		Long: `Compares what the Envoys of two configuration directories would get, or, with
--golden, what "pilot render --out GOLDEN" wrote with what DIR would give now. Of a
running control plane (--server, --context) it is what is in force, with what DIR
would give, or what -f would make of it, as "kubectl apply -f" does to a cluster; at
the end of all rollouts.
Equal changes of several workloads are shown once.

Exit codes: 0 the same, 1 different, 2 trouble: a directory has errors or cannot
be read.`,
		Example: `  pilot diff config/ edited/
  pilot diff --golden golden/ config/
  pilot diff --context production -f policy.yaml
  pilot diff -o json config/ edited/ | jq -r '.changes[].workloads[]' | sort -u`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(edit.files) > 0 && !server.given():
				return errors.New("-f is applied over what a control plane has in force: say which one, by --server or --context")
			case server.given():
				return edit.args(cmd, args)
			case golden != "":
				return cobra.ExactArgs(1)(cmd, args)
			}
			return cobra.ExactArgs(2)(cmd, args)
		},
		ValidArgsFunction: completeDirectories,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := diffOf(cmd, &from, &server, &edit, golden, args)
			if err != nil {
				return err
			}
			r.only(namespace)
			r.full = full
			if err := r.print(cmd.OutOrStdout(), output); err != nil {
				return err
			}
			if r.differs() {
				return errFindings
			}
			return nil
		},
	}
	from.register(cmd)
	output.register(cmd)
	server.register(cmd, "", "compare with what a running control plane has in force, such as http://127.0.0.1:8080")
	edit.register(cmd)
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "only workloads of this namespace")
	cmd.Flags().BoolVar(&full, "full", false, "show long values in full")
	cmd.Flags().StringVar(&golden, "golden", "", "compare with the files that render --out wrote into this directory")
	for _, running := range runningFlags() {
		cmd.MarkFlagsMutuallyExclusive("golden", running)
	}
	return cmd
}

// diffOf compares what the command line names.
func diffOf(cmd *cobra.Command, from *directoryFlags, server *serverFlags, edit *editFlags, golden string, args []string) (*diffReport, error) {
	if server.given() {
		old, next, err := edit.running(cmd, from, server, args)
		if err != nil {
			return nil, err
		}
		return diffDirectories(old, next), nil
	}
	next, err := from.readValid(args[len(args)-1], cmd.ErrOrStderr())
	if err != nil {
		return nil, err
	}
	if golden != "" {
		return diffGolden(golden, next)
	}
	old, err := from.readValid(args[0], cmd.ErrOrStderr())
	if err != nil {
		return nil, err
	}
	return diffDirectories(old, next), nil
}

func diffDirectories(old, next *directory) *diffReport {
	a, b := newConfigs(old.snapshot), newConfigs(next.snapshot)
	r := newDiffReport(next.sidecars())
	var pairs []*halfPair
	byHalves := map[[2]*translate.Half]*halfPair{}
	note := func(id model.WorkloadID, before, after translate.Config) {
		key := [2]*translate.Half{before.Client, after.Client}
		if byHalves[key] == nil {
			byHalves[key] = &halfPair{old: before, next: after}
			pairs = append(pairs, byHalves[key])
		}
		byHalves[key].workloads = append(byHalves[key].workloads, id)
	}
	for _, id := range union(old.sidecars(), next.sidecars()) {
		before, had := a.of(id)
		after, has := b.of(id)
		if r.present(id, had, has) {
			note(id, before, after)
			note(id, translate.Config{Client: before.Server, Endpoints: before.Endpoints}, translate.Config{Client: after.Server, Endpoints: after.Endpoints})
		}
	}
	seen := resourceDiffs{}
	for _, p := range pairs {
		for _, typeURL := range typeURLs() {
			r.add(p.workloads, seen.diff(typeURL, resources(p.old, typeURL), resources(p.next, typeURL)))
		}
	}
	return r
}

// halfPair is a half before and after, and who has it: a mesh has far fewer
// of them than workloads.
type halfPair struct {
	old, next translate.Config // of which Client counts
	workloads []model.WorkloadID
}

// resources are those of the half in Client, with the endpoints of its clusters.
func resources(c translate.Config, typeURL string) []*translate.Resource {
	h := c.Client
	switch typeURL {
	case translate.ListenerType:
		return h.Listeners.Resources
	case translate.RouteType:
		return h.Routes.Resources
	case translate.ClusterType:
		return h.Clusters.Resources
	case translate.SecretType:
		return h.Secrets.Resources
	default:
		return c.Resources(typeURL)
	}
}

func diffGolden(dir string, next *directory) (*diffReport, error) {
	goldens, err := readGoldens(dir)
	if err != nil {
		return nil, err
	}
	if len(goldens) == 0 {
		return nil, fmt.Errorf("%s has no file that pilot render --out wrote", dir)
	}
	c := newConfigs(next.snapshot)
	r := newDiffReport(next.sidecars())
	seen := map[[2]string][]diff.Change{}
	for _, id := range union(slices.Collect(maps.Keys(goldens)), next.sidecars()) {
		before, had := goldens[id]
		after, has := c.text(id)
		if !r.present(id, had, has) || bytes.Equal(before, after) {
			continue
		}
		pair := [2]string{string(before), string(after)}
		if _, known := seen[pair]; !known { // of workloads that are alike
			seen[pair] = diff.Diff(before, after)
		}
		r.add([]model.WorkloadID{id}, seen[pair])
	}
	return r, nil
}

// resourceDiffs are the changes between two resources. Proxies share resources
// by pointer, so each pair is compared once for all of them.
type resourceDiffs map[resourcePair][]diff.Change

type resourcePair struct{ old, next *translate.Resource }

// diff goes by the resources' versions, which are hashes of their bytes.
func (seen resourceDiffs) diff(typeURL string, old, next []*translate.Resource) []diff.Change {
	var out []diff.Change
	for len(old)+len(next) > 0 {
		var pair resourcePair
		switch {
		case len(next) == 0 || len(old) > 0 && old[0].Name < next[0].Name:
			pair.old, old = old[0], old[1:]
		case len(old) == 0 || next[0].Name < old[0].Name:
			pair.next, next = next[0], next[1:]
		default:
			pair = resourcePair{old[0], next[0]}
			old, next = old[1:], next[1:]
		}
		out = append(out, seen.of(typeURL, pair)...)
	}
	return out
}

func (seen resourceDiffs) of(typeURL string, pair resourcePair) []diff.Change {
	if pair.old != nil && pair.next != nil && pair.old.Version == pair.next.Version {
		return nil
	}
	changes, known := seen[pair]
	if !known {
		changes = diff.Diff(renderOne(typeURL, pair.old), renderOne(typeURL, pair.next))
		seen[pair] = changes
	}
	return changes
}

func renderOne(typeURL string, r *translate.Resource) []byte {
	if r == nil {
		return nil
	}
	return diff.RenderBodies(map[string][]*anypb.Any{typeURL: {r.Body}})
}

// typeURLs are the types of resources in the order of a rendered file.
func typeURLs() []string {
	return []string{translate.ListenerType, translate.RouteType, translate.ClusterType, translate.EndpointType, translate.SecretType}
}

// union is sorted, without duplicates.
func union(a, b []model.WorkloadID) []model.WorkloadID {
	all := slices.Concat(a, b)
	slices.SortFunc(all, model.WorkloadID.Compare)
	return slices.Compact(all)
}

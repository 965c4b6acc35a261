// Package golden holds a small mesh's whole configuration to files: what each
// class of proxies gets, what is wrong with the input, and what calls do.
// A staged case holds only what each stage changes.
package golden

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/meshpilot/pilot/internal/testmesh"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
	"github.com/meshpilot/pilot/pkg/translate/diff"
	"github.com/meshpilot/pilot/pkg/translate/simulate"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite the golden files and delete stale ones")

const maxLines = 360 // a golden that nobody reads proves nothing; the smallest mesh is about so long

func TestGolden(t *testing.T) {
	cases, err := filepath.Glob("../../testdata/*")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, dir := range cases {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			compare(t, filepath.Join(dir, "golden"), results(t, dir))
		})
	}
}

// results are the golden files of a case by name.
func results(t *testing.T, dir string) map[string][]byte {
	stages, _ := filepath.Glob(filepath.Join(dir, "[0-9][0-9]-*"))
	if len(stages) == 0 {
		return whole(t, dir)
	}
	out := map[string][]byte{}
	var before map[string][]byte
	for _, stage := range stages {
		after := whole(t, stage)
		if before != nil {
			out[filepath.Base(stage)[:2]+".diff"] = changes(before, after)
		}
		before = after
	}
	return out
}

func changes(before, after map[string][]byte) []byte {
	var out bytes.Buffer
	names := maps.Clone(before)
	maps.Copy(names, after)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if name == "calls.txt" || name == "problems.txt" {
			if d := blockDiff(before[name], after[name]); d != "" {
				fmt.Fprintf(&out, "%s\n%s", name, d)
			}
			continue
		}
		for i, change := range diff.Diff(before[name], after[name]) {
			if i == 0 {
				fmt.Fprintln(&out, name)
			}
			fmt.Fprintf(&out, "  %s %s %s: %s -> %s\n", change.Type, change.Resource, change.Field, change.Old, change.New)
		}
	}
	return out.Bytes()
}

// blockDiff compares lines, those below a line that is not indented apart.
func blockDiff(before, after []byte) string {
	was, is := blocks(before), blocks(after)
	heads := maps.Clone(was)
	maps.Copy(heads, is)
	var out strings.Builder
	for _, head := range slices.Sorted(maps.Keys(heads)) {
		if d := lineDiff(was[head], is[head]); d != "" {
			out.WriteString(head + d)
		}
	}
	return out.String()
}

// blocks are the indented lines by the line before them; all lines, under no
// head, if none is indented.
func blocks(text []byte) map[string][]string {
	out, head := map[string][]string{}, ""
	nested := bytes.Contains(text, []byte("\n  "))
	for line := range strings.Lines(string(text)) {
		if nested && line[0] != ' ' {
			head = "  " + line
			continue
		}
		out[head] = append(out[head], strings.TrimSuffix(line, "\n"))
	}
	return out
}

func lineDiff(was, is []string) string {
	var out strings.Builder
	for _, line := range was {
		if !slices.Contains(is, line) {
			out.WriteString("  - " + line + "\n")
		}
	}
	for _, line := range is {
		if !slices.Contains(was, line) {
			out.WriteString("  + " + line + "\n")
		}
	}
	return out.String()
}

// whole is everything about one directory of input.
func whole(t *testing.T, dir string) map[string][]byte {
	snapshot, problems := testmesh.Load(t, dir)
	out := map[string][]byte{}
	seen := map[string]bool{}
	for id, config := range sorted(translate.Sidecars(snapshot)) {
		checkSharing(t, snapshot, id, config)
		text := diff.Render(config)
		if !seen[string(text)] { // one file for all that are alike
			seen[string(text)] = true
			out[id.Namespace+"."+id.Name+".yaml"] = text
		}
	}
	if text := problemText(problems); len(text) > 0 {
		out["problems.txt"] = text
	}
	if text := callText(t, dir, snapshot); len(text) > 0 {
		out["calls.txt"] = text
	}
	return out
}

func sorted(configs map[model.WorkloadID]translate.Config) func(func(model.WorkloadID, translate.Config) bool) {
	return func(yield func(model.WorkloadID, translate.Config) bool) {
		for _, id := range slices.SortedFunc(maps.Keys(configs), model.WorkloadID.Compare) {
			if !yield(id, configs[id]) {
				return
			}
		}
	}
}

// checkSharing proves that what a workload shares with its class is what it
// would get alone, and that Envoy would not refuse it.
func checkSharing(t *testing.T, s *model.Snapshot, id model.WorkloadID, shared translate.Config) {
	t.Helper()
	proxy, _ := s.ProxyOf(id)
	alone, ok := translate.For(s, proxy)
	if !ok || !bytes.Equal(diff.Render(alone), diff.Render(shared)) {
		t.Errorf("%s gets something else than its class", id)
	}
	for _, half := range []*translate.Half{shared.Client, shared.Server} {
		if err := translate.Check(half, shared.Endpoints); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func problemText(problems []meshconfig.Problem) []byte {
	var out bytes.Buffer
	meshconfig.SortProblems(problems)
	for _, p := range problems {
		if p.Severity > meshconfig.Info {
			fmt.Fprintf(&out, "%s %s\n", p.Code, p)
		}
	}
	return out.Bytes()
}

// callText says what the calls of calls.yaml do.
func callText(t *testing.T, dir string, s *model.Snapshot) []byte {
	text, err := os.ReadFile(filepath.Join(dir, "calls.yaml"))
	if os.IsNotExist(err) {
		text, err = os.ReadFile(filepath.Join(filepath.Dir(dir), "calls.yaml")) // of all stages
	}
	if os.IsNotExist(err) {
		return nil
	}
	var calls []struct{ From, To, Protocol, Method, Path, Subset string }
	if err != nil || yaml.UnmarshalStrict(text, &calls) != nil {
		t.Fatalf("calls.yaml: %v", yaml.UnmarshalStrict(text, &calls))
	}
	mesh := simulate.Of(s)
	var out bytes.Buffer
	for _, c := range calls {
		namespace, name, _ := strings.Cut(c.From, "/")
		var host string
		var port uint16
		if _, err := fmt.Sscan(strings.ReplaceAll(c.To, ":", " "), &host, &port); err != nil {
			t.Fatalf("calls.yaml: to: %q: %v", c.To, err)
		}
		call := simulate.Call{
			From: model.WorkloadID{Namespace: namespace, Name: name}, Host: host, Port: port,
			Address: simulate.Resolve(s, host, port), Protocol: simulate.Protocol(c.Protocol),
			Method: c.Method, Path: c.Path, Subset: c.Subset,
		}
		fmt.Fprintln(&out, strings.Join(strings.Fields(fmt.Sprint(c.From, " -> ", c.Protocol, " ", c.To, " ", c.Method, " ", c.Path, " ", c.Subset)), " "))
		for _, o := range mesh.Call(call) {
			fmt.Fprintf(&out, "  %s\n", outcome(o))
		}
	}
	return out.Bytes()
}

func outcome(o simulate.Outcome) string {
	parts := []string{o.Result}
	for _, part := range []struct{ label, value string }{
		{"sent ", string(o.Sent)}, {"by ", o.Listener}, {"cluster ", o.Cluster}, {"to ", o.Endpoint},
		{"chain ", o.Chain}, {"because ", o.Why}, {"body: ", o.Body},
	} {
		if part.value != "" {
			parts = append(parts, part.label+part.value)
		}
	}
	return strings.Join(parts, ", ")
}

func compare(t *testing.T, dir string, got map[string][]byte) {
	t.Helper()
	if *update {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range got {
		if lines := bytes.Count(text, []byte("\n")); lines > maxLines {
			t.Errorf("%s has %d lines: make two cases of it", name, lines)
		}
		path := filepath.Join(dir, name)
		if *update {
			if err := os.WriteFile(path, text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Errorf("%s: %v; run make golden and look at the difference", name, err)
			continue
		}
		if d := cmp.Diff(string(want), string(text)); d != "" {
			t.Errorf("%s (-want +got); run make golden if this is meant:\n%s", name, d)
		}
	}
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		if _, ok := got[f.Name()]; !ok {
			t.Errorf("%s is stale: nothing makes it any more", f.Name())
		}
	}
}

// Package testmesh reads a directory of configuration for tests that want all
// of it, problems included.
package testmesh

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

// Load reads the YAML files of dir, calls.yaml excepted, as if they were the
// first configuration ever: an invalid object is a problem, and what stands in
// for it is in the mesh.
func Load(t testing.TB, dir string) (*model.Snapshot, []meshconfig.Problem) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no configuration in %s: %v", dir, err)
	}
	var parts []meshconfig.Bundle
	var problems []meshconfig.Problem
	for _, name := range files {
		if filepath.Base(name) == "calls.yaml" {
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		part, found := meshconfig.Decode(f, filepath.Base(name))
		_ = f.Close()
		parts, problems = append(parts, part), append(problems, found...)
	}
	bundle, merged := meshconfig.Merge(parts, meshconfig.Bundle{})
	inputs, compiled := meshconfig.Compile(bundle, "cluster.local")
	return model.Build(inputs), slices.Concat(problems, merged, compiled)
}

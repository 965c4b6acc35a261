package meshconfig_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

// The example must be beyond doubt, also after the edit that it invites to.
func TestBookinfo(t *testing.T) {
	const invitation = "\n# authPolicy: MUTUAL_TLS\n"
	tests := []struct {
		name string
		edit *strings.Replacer
		mode model.Mode // where nothing but authPolicy decides
	}{
		{"as it is", strings.NewReplacer(), model.Disable},
		{"uncommented", strings.NewReplacer(invitation, "\nauthPolicy: MUTUAL_TLS\n"), model.Strict},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in, problems := meshconfig.Compile(decodeAll(t, "../../examples/bookinfo", tt.edit), "cluster.local")
			for _, p := range problems {
				t.Error(p)
			}
			sidecars, s := 0, model.Build(in)
			for _, w := range in.Workloads {
				if w.Sidecar {
					sidecars++
				}
			}
			if len(in.Services) != 6 || len(in.Workloads) != 8 || sidecars != 5 {
				t.Errorf("%d services, %d workloads, %d sidecars", len(in.Services), len(in.Workloads), sidecars)
			}
			for id, mode := range map[string]model.Mode{
				"productpage-v1": model.Disable, "details-v1": model.Permissive, // by annotation, by Policy
				"reviews-v1": tt.mode, "reviews-v2": tt.mode, "ratings-v1": tt.mode,
			} {
				if d := s.Decision(model.WorkloadID{Namespace: "bookinfo", Name: id}, 9080); d.Mode != mode {
					t.Errorf("%s is %s, want %s", id, d.Mode, mode)
				}
			}
		})
	}
}

// decodeAll decodes all YAML files of a directory as one bundle, edited.
func decodeAll(t *testing.T, dir string, edit *strings.Replacer) meshconfig.Bundle {
	files, err := filepath.Glob(dir + "/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var parts []meshconfig.Bundle
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b, problems := meshconfig.Decode(strings.NewReader(edit.Replace(string(text))), filepath.Base(file))
		for _, p := range problems {
			t.Error(p)
		}
		parts = append(parts, b)
	}
	all, problems := meshconfig.Merge(parts, meshconfig.Bundle{})
	for _, p := range problems {
		t.Error(p)
	}
	return all
}

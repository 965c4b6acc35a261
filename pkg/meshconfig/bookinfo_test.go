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
		mode model.Mode
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
			if len(in.Services) != 4 || len(in.Workloads) != 6 || sidecars != 5 {
				t.Errorf("%d services, %d workloads, %d sidecars", len(in.Services), len(in.Workloads), sidecars)
			}
			for _, id := range []string{"productpage-v1", "details-v1", "reviews-v1", "reviews-v2", "ratings-v1"} {
				if d := s.Decision(model.WorkloadID{Namespace: "bookinfo", Name: id}, 9080); d.Mode != tt.mode {
					t.Errorf("%s is %s", id, d.Mode)
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

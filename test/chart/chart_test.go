// Package chart tests what is installed on Kubernetes as text: that generated
// files are of what they are generated from, and that no object asks for more
// than it may. What an API server makes of them is in test/kube.
package chart

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "generate the schemas and manifests/pilot.yaml again")

const root = "../.."

// TestGenerated: manifests/generated.sum names all that the generated files
// are made from, and them, as they are now. The generator itself takes minutes
// to build; test/kube runs it.
func TestGenerated(t *testing.T) {
	if *update {
		cmd := exec.Command("go", "run", ".")
		cmd.Dir = filepath.Join(root, "tools/manifests")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	text, err := os.ReadFile(filepath.Join(root, "manifests/generated.sum"))
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{}
	for line := range strings.Lines(string(text)) {
		sum, path, _ := strings.Cut(strings.TrimSpace(line), "  ")
		listed[path] = sum
	}
	present := sums(t, "api", "manifests/charts", "manifests/pilot.yaml", "tools/manifests")
	if len(present) < 20 {
		t.Fatalf("found %d files", len(present))
	}
	for path, sum := range present {
		if listed[path] != sum {
			t.Errorf("%s is not what the schemas and manifests/pilot.yaml were generated with: run make golden", path)
		}
		delete(listed, path)
	}
	for path := range listed {
		t.Errorf("%s is gone: run make golden", path)
	}
}

func sums(t *testing.T, dirs ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, dir := range dirs {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			rel, _ := filepath.Rel(root, path)
			out[filepath.ToSlash(rel)] = fmt.Sprintf("%x", sha256.Sum256(text))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/readiness"
)

// An edit of files is previewed as kubectl would apply it: the rest of the
// mesh is the control plane's, of which the user has no copy.
func TestApplied(t *testing.T) {
	server := phased(t, shop, func(*model.Wanted, *readiness.Facts) {})
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(strictCart), 0o644); err != nil {
		t.Fatal(err)
	}
	whole := edited(t, map[string]string{"policy.yaml": strictCart})

	code, stdout, stderr := run(t, "plan", "--server", server, "-f", file)
	if code != exitOK || stderr != "" || !strings.Contains(stdout, "DISABLE, set by mesh config authPolicy -> STRICT, set by Policy shop/cart ("+file+":2)") {
		t.Errorf("plan: exit %d, %s%s", code, stdout, stderr)
	}
	_, want, _ := run(t, "diff", "-o", "json", "--server", server, whole)
	code, stdout, stderr = run(t, "diff", "-o", "json", "--server", server, "-f", filepath.Dir(file))
	if code != exitFindings || stderr != "" || stdout != want || !strings.Contains(stdout, "8080|refuse") {
		t.Errorf("diff -f: exit %d, %s%s\nwant\n%s", code, stdout, stderr, want)
	}
	if code, stdout, _ := run(t, "diff", "--server", server, "-n", "nowhere", whole); code != exitOK {
		t.Errorf("diff of a namespace that the edit leaves alone: exit %d\n%s", code, stdout)
	}
	if code, stdout, _ := run(t, "diff", "--server", server, shop); code != exitOK {
		t.Errorf("diff with the same: exit %d\n%s", code, stdout)
	}
}

func TestAppliedTrouble(t *testing.T) {
	server := phased(t, shop, func(*model.Wanted, *readiness.Facts) {})
	dir := t.TempDir()
	wrong, domain := filepath.Join(dir, "wrong.yaml"), filepath.Join(dir, "mesh.yaml")
	for path, text := range map[string]string{wrong: strings.Replace(strictCart, "mtls", "mtlss", 1), domain: "trustDomain: other.example.com\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for args, want := range map[string]string{
		"plan --server " + server + " -f " + wrong:             "wrong.yaml has 1 error",
		"plan --server " + server + " -f " + wrong + " " + dir: "unknown command",
		"diff -f " + wrong: "say which one, by --server or --context",
		"diff --server " + server + " -f /nowhere.yaml":  "no such file",
		"diff --server " + server + " -f " + t.TempDir(): "has no *.yaml or *.yml",
		"plan --from " + shop + " -f " + wrong:           "[filename from]",
	} {
		if code, stdout, stderr := run(t, strings.Fields(args)...); code != exitTrouble || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d, %s%s", args, code, stdout, stderr)
		}
	}
}

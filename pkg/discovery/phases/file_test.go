package phases

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rollout.json")
	f := open(t, path)
	if states, err := f.Load(); states != nil || err != nil {
		t.Fatalf("of no file: %v, %v", states, err)
	}
	states := map[model.Target]rollout.State{{Namespace: "shop", Group: "cart", Port: 80}: {Phase: model.PhaseGrace, Mode: model.Strict}}
	if err := f.Save(states); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "another control plane") {
		t.Errorf("opened twice: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = open(t, path)
	got, err := f.Load()
	if err != nil || !reflect.DeepEqual(got, states) {
		t.Fatalf("%v, %v", got, err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 2 { // and the lock
		t.Errorf("%d files are left", len(entries))
	}
	before, _ := os.Stat(path)
	if err := f.Save(states); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(path); !os.SameFile(before, after) {
		t.Error("written again although nothing changed")
	}
	if _, err := Open(filepath.Join(path, "x")); err == nil {
		t.Error("opened below a file")
	}
}

func open(t *testing.T, path string) *File {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// A file that is torn, or not ours, is an error, and stays as it is.
func TestTornFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rollout.json")
	const torn = `{"apiVersion": "pilot.meshpilot.io/v1", "ki`
	if err := os.WriteFile(path, []byte(torn), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := open(t, path).Load()
	if err == nil || !strings.Contains(err.Error(), path+" is not what pilot stored there") {
		t.Errorf("error %v", err)
	}
	if data, _ := os.ReadFile(path); string(data) != torn {
		t.Errorf("the file became %q", data)
	}
}

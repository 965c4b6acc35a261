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
	if states, err := (&File{Path: path}).Load(); states != nil || err != nil {
		t.Fatalf("of no file: %v, %v", states, err)
	}
	f := &File{Path: path}
	states := map[model.Target]rollout.State{{Namespace: "shop", Group: "cart", Port: 80}: {Phase: model.PhaseGrace, Mode: model.Strict}}
	if err := f.Save(states); err != nil {
		t.Fatal(err)
	}
	got, err := (&File{Path: path}).Load()
	if err != nil || !reflect.DeepEqual(got, states) {
		t.Fatalf("%v, %v", got, err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("%d files are left", len(entries))
	}
	before, _ := os.Stat(path)
	if err := f.Save(states); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(path); !os.SameFile(before, after) {
		t.Error("written again although nothing changed")
	}
	if err := (&File{Path: filepath.Join(path, "x")}).Save(states); err == nil {
		t.Error("saved below a file")
	}
}

// A file that is torn, or not ours, is an error, and stays as it is.
func TestTornFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rollout.json")
	const torn = `{"apiVersion": "pilot.meshpilot.io/v1", "ki`
	if err := os.WriteFile(path, []byte(torn), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := (&File{Path: path}).Load()
	if err == nil || !strings.Contains(err.Error(), path+" is not what pilot stored there") {
		t.Errorf("error %v", err)
	}
	if data, _ := os.ReadFile(path); string(data) != torn {
		t.Errorf("the file became %q", data)
	}
}

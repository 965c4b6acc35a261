package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRunDirsOfKilledRunsGo(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	alive, err := newRunDir()
	if err != nil {
		t.Fatal(err)
	}
	killed, err := newRunDir()
	if err != nil {
		t.Fatal(err)
	}
	if err := killed.lock.Close(); err != nil { // what the kernel does
		t.Fatal(err)
	}
	foreign := filepath.Join(os.TempDir(), runDirPrefix+"foreign")
	if err := os.Mkdir(foreign, 0o755); err != nil {
		t.Fatal(err)
	}
	next, err := newRunDir()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{alive.path: true, killed.path: false, foreign: true, next.path: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", path, err, want)
		}
	}
	for _, r := range []*runDir{alive, next} {
		if err := r.close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(r.path); err == nil {
			t.Errorf("%s is left", r.path)
		}
	}
}

func TestKeptRunDirHasNoKeys(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	r, err := newRunDir()
	if err != nil {
		t.Fatal(err)
	}
	certs := filepath.Join(r.path, "shop.cart", "certs")
	if err := os.MkdirAll(certs, 0o755); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(r.path, "shop.cart", "envoy.log")
	if err := os.WriteFile(log, []byte("why"), 0o644); err != nil {
		t.Fatal(err)
	}
	r.keep = true
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(log); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(certs); err == nil {
		t.Error("the keys are left")
	}
}

func TestRunDirClosedToOthers(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()) // of mode 0700 somewhere above
	r, err := newRunDir()
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if err := r.openToOthers(); err == nil || !strings.Contains(err.Error(), "set TMPDIR") {
		t.Errorf("%v, want advice on TMPDIR", err)
	}
}

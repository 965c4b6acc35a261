// Package e2e proves on real Envoys what the other tests claim: traffic under
// changing configuration, with and without transparent capture. `make test`
// does the set-up.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/meshpilot/pilot/pkg/lab/netns"
)

var envoyFlag = flag.String("envoy", "envoy", "Envoy binary")

// pilot is the built command; home holds all that the tests write, where the
// user that Envoy runs as may read it.
var pilot, home string

func TestMain(m *testing.M) {
	flag.Parse()
	if !netns.Privileged() {
		fmt.Fprintln(os.Stderr, "e2e:", netns.Reexec()) // returns only if it failed
		os.Exit(1)
	}
	if err := setUp(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	code := m.Run()
	if err := os.RemoveAll(home); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func setUp() error {
	envoy, err := exec.LookPath(*envoyFlag)
	if err != nil {
		return fmt.Errorf("these tests need a real Envoy: %w; run `make test`, which installs one, or name it with -envoy", err)
	}
	if *envoyFlag, err = filepath.Abs(envoy); err != nil {
		return err
	}
	if home, err = os.MkdirTemp("", "pilot-e2e-"); err != nil {
		return err
	}
	if err := os.Chmod(home, 0o755); err != nil {
		return err
	}
	if err := os.Setenv("TMPDIR", home); err != nil {
		return err
	}
	pilot = filepath.Join(home, "pilot")
	if out, err := exec.Command("go", "build", "-o", pilot, "../../cmd/pilot").CombinedOutput(); err != nil {
		return fmt.Errorf("build pilot: %w\n%s", err, out)
	}
	return nil
}

// Package kube proves on a real kube-apiserver and etcd, and real Envoys, what
// pilot does in a cluster. `make test` does the set-up.
package kube

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/meshpilot/pilot/internal/kubetest"
	"github.com/meshpilot/pilot/pkg/lab/netns"
	"github.com/meshpilot/pilot/test/kube/node"
)

// shared is the API server of the tests that leave it as it is and keep to
// namespaces of their own.
var shared *kubetest.Cluster

// programs are those of pilot's image; home holds what tests write, where the
// users of containers may read it.
var (
	programs node.Options
	home     string
)

func TestMain(m *testing.M) {
	node.Enter()
	if !netns.Privileged() {
		fmt.Fprintln(os.Stderr, "test/kube:", netns.Reexec()) // returns only if it failed
		os.Exit(1)
	}
	code := 1
	err := setUp()
	if err == nil {
		code = m.Run()
	}
	if shared != nil {
		err = errors.Join(err, shared.Close())
	}
	if err = errors.Join(err, os.RemoveAll(home)); err != nil {
		fmt.Fprintln(os.Stderr, "test/kube:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func setUp() error {
	envoy, err := exec.LookPath("envoy")
	if err != nil {
		return fmt.Errorf("these tests need a real Envoy: %w; run `make test`, which installs one, or put what hack/envoy.sh prints on PATH", err)
	}
	if programs.Envoy, err = filepath.Abs(envoy); err != nil {
		return err
	}
	if home, err = os.MkdirTemp("", "pilot-kube-"); err != nil {
		return err
	}
	if err := os.Chmod(home, 0o755); err != nil {
		return err
	}
	if err := os.Setenv("TMPDIR", home); err != nil {
		return err
	}
	programs.Pilot = filepath.Join(home, "pilot")
	if out, err := exec.Command("go", "build", "-o", programs.Pilot, "../../cmd/pilot").CombinedOutput(); err != nil {
		return fmt.Errorf("build pilot: %w\n%s", err, out)
	}
	shared, err = kubetest.New(kubetest.Options{})
	return err
}

// Package kube proves on a real kube-apiserver and etcd, and real Envoys, what
// pilot does in a cluster. `make test` does the set-up.
package kube

import (
	"fmt"
	"os"
	"testing"

	"github.com/meshpilot/pilot/internal/kubetest"
)

// shared is the API server of the tests that leave it as it is and keep to
// namespaces of their own.
var shared *kubetest.Cluster

func TestMain(m *testing.M) {
	var err error
	if shared, err = kubetest.New(kubetest.Options{}); err != nil {
		fmt.Fprintln(os.Stderr, "test/kube:", err)
		os.Exit(1)
	}
	code := m.Run()
	if err := shared.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "test/kube:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

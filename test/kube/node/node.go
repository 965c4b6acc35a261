// Package node stands in for what a cluster has besides its API server: one
// node with its kubelet, its pod network, and the controllers of Deployments
// and endpoints. Containers of pilot's image run as real processes with what
// their pod says: command, environment, user, volumes, probes, hooks; those of
// the image "app" are the lab's application. Nothing is retried behind a
// test's back.
package node

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/meshpilot/pilot/internal/kubetest"
	"github.com/meshpilot/pilot/pkg/lab/netns"
)

const (
	// address is the node's, where the API server listens.
	address = "10.255.255.254"
	name    = "node-1"
)

// Options are the programs of pilot's image, as paths of this machine.
type Options struct {
	Pilot, Envoy string
	// Flags are more flags of the API server.
	Flags []string
}

// Node is a cluster of one node.
type Node struct {
	*kubetest.Cluster
	Network *netns.Network

	options Options
	dir     string

	mu   sync.Mutex
	pods []*Pod
	last byte // pod's number
}

// Start starts the API server, in a pod network of the test's own; all ends
// with the test. TestMain must have called Enter.
func Start(t testing.TB, o Options) *Node {
	t.Helper()
	network, err := netns.NewNetwork(netip.MustParseAddr(address))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	n := &Node{
		Network: network, options: o, dir: t.TempDir(),
		Cluster: kubetest.Start(t, kubetest.Options{Address: netip.MustParseAddr(address), Inside: network.Do, Flags: o.Flags}),
	}
	if err := openToOthers(n.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, p := range n.running() {
			if err := p.kill(); err != nil {
				t.Error(err)
			}
		}
	})
	return n
}

// openToOthers lets users that containers run as through to dir, which is
// below the test's own directory.
func openToOthers(dir string) error {
	for ; strings.HasPrefix(dir, os.TempDir()) && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// newNumber is a pod's, from 1.
func (n *Node) newNumber() byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last++
	return n.last
}

// running are the pods of now.
func (n *Node) running() []*Pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.pods)
}

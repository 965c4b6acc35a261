// Package node stands in for what a cluster has besides its API server: one
// node with its kubelet, its pod network, and the controllers of Deployments
// and endpoints. Containers of pilot's image run as real processes with what
// their pod says: command, environment, user, volumes, probes, hooks; those of
// the image "app" are the lab's application. Nothing is retried behind a
// test's back.
package node

import (
	"fmt"
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

	mu    sync.Mutex
	pods  []*Pod
	hosts map[string]string // what /etc/hosts of each pod says: name to address
	next  byte              // of the next pod's address
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
		Network: network, options: o, dir: t.TempDir(), hosts: map[string]string{}, next: 1,
		Cluster: kubetest.Start(t, kubetest.Options{Address: netip.MustParseAddr(address), Inside: network.Do, Flags: o.Flags}),
	}
	if err := openToOthers(n.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.mu.Lock()
		pods := slices.Clone(n.pods)
		n.mu.Unlock()
		for _, p := range pods {
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

// Resolve lets the pods that start from now on find a host at the address:
// there is no cluster DNS.
func (n *Node) Resolve(host, address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[host] = address
}

func (n *Node) etcHosts() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n")
	for host, address := range n.hosts {
		fmt.Fprintf(&b, "%s %s\n", address, host)
	}
	return b.String()
}

func (n *Node) newAddress() netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := netip.AddrFrom4([4]byte{10, 244, 0, n.next})
	n.next++
	return a
}

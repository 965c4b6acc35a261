package netns

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/meshpilot/pilot/pkg/inject/capture"
)

// ProxyUID is the user that Envoy runs as; its own traffic is never redirected.
const ProxyUID = capture.ProxyID

const bridge = "pilot0"

// Network is a bridge in a namespace of its own, where the control plane
// listens, and the hosts that were added to it.
type Network struct {
	*Space
	gateway netip.Addr
	hosts   []*Space
}

// NewNetwork makes a network whose bridge has the address gateway.
func NewNetwork(gateway netip.Addr) (*Network, error) {
	space, err := NewSpace()
	if err != nil {
		return nil, err
	}
	n := &Network{Space: space, gateway: gateway}
	if err := space.Do(func() error {
		// Every address of the lab is a neighbour on the bridge.
		return run(fmt.Sprintf("link add %[1]s type bridge\naddr add %[2]s/32 dev %[1]s\nlink set %[1]s up\nroute add default dev %[1]s\n",
			bridge, gateway), "ip", "-batch", "-")
	}); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Host adds a namespace with the address to the network.
func (n *Network) Host(address netip.Addr) (*Space, error) {
	host, err := NewSpace()
	if err != nil {
		return nil, err
	}
	n.hosts = append(n.hosts, host)
	port := fmt.Sprintf("host%d", len(n.hosts))
	if err := host.Do(func() error {
		return run(fmt.Sprintf("link add eth0 type veth peer name %s netns %s\naddr add %s/32 dev eth0\nlink set eth0 up\nroute add default dev eth0\n",
			port, n.path(), address), "ip", "-batch", "-")
	}); err != nil {
		return nil, err
	}
	return host, n.Do(func() error {
		return run(fmt.Sprintf("link set %s master %s\nlink set %s up\n", port, bridge, port), "ip", "-batch", "-")
	})
}

// Close lets the network and all its hosts go.
func (n *Network) Close() error {
	errs := []error{n.Space.Close()}
	for _, host := range n.hosts {
		errs = append(errs, host.Close())
	}
	return errors.Join(errs...)
}

// Redirect sends the host's traffic through its sidecar, by the rules that
// pods have.
func (s *Space) Redirect(o capture.Options) error {
	return s.Do(func() error { return run(capture.Rules(o), "iptables-restore") })
}

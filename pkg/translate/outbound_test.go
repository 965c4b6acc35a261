package translate

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/meshpilot/pilot/pkg/model"
)

// ports is a mesh with one service with ports of these numbers.
func ports(protocol model.Protocol, vip string, numbers ...uint16) *model.Snapshot {
	in := model.Inputs{Mesh: model.Mesh{
		AutoMTLS: true, MutualTLS: true, ConnectTimeout: 1e9, ListenPort: 15001, InboundListenPort: 15006, HTTPPort: 15002,
		TrustDomain: "cluster.local", Domain: "cluster.local",
	}}
	s := model.Service{
		Key: model.Key{Kind: "ServiceEntry", Namespace: "shop", Name: "cart"}, Host: strings.Repeat("a.", 125) + "aaa",
		Namespace: "shop", VIPs: []string{vip},
	}
	id := model.WorkloadID{Namespace: "shop", Name: "cart-1"}
	for _, n := range numbers {
		s.Ports = append(s.Ports, model.ServicePort{Number: n, Protocol: protocol, Endpoints: []model.Endpoint{
			{Address: "10.0.0.1", Port: n, Workload: id, Ready: true},
		}})
	}
	in.Services = []model.Service{s}
	in.Workloads = []model.Workload{{ID: id, Address: "10.0.0.1", ServiceAccount: "default", Sidecar: true}}
	return model.Build(in)
}

func config(t *testing.T, s *model.Snapshot) Config {
	t.Helper()
	p, _ := s.ProxyOf(model.WorkloadID{Namespace: "shop", Name: "cart-1"})
	c, ok := For(s, p)
	if !ok {
		t.Fatal("the workload is unknown")
	}
	for _, h := range []*Half{c.Client, c.Server} {
		if err := Check(h, c.Endpoints); err != nil {
			t.Error(err)
		}
	}
	return c
}

// One service must not take a proxy's own listeners from it: Envoy takes an
// address and a match once, and refuses the second.
func TestPortsOfTheProxyItself(t *testing.T) {
	for _, c := range []struct {
		protocol model.Protocol
		vip      string
		want     []string
	}{
		{model.HTTP, "10.96.0.1", []string{"0.0.0.0_15002", "0.0.0.0_80", "127.0.0.1_15002", "virtualInbound", "virtualOutbound"}},
		{model.TCP, "127.0.0.1", []string{"127.0.0.1_15001", "127.0.0.1_15002", "127.0.0.1_15006", "127.0.0.1_80", "virtualInbound", "virtualOutbound"}},
	} {
		all := config(t, ports(c.protocol, c.vip, 80, 15001, 15002, 15006))
		var names []string
		for _, r := range all.Resources(ListenerType) {
			names = append(names, r.Name)
		}
		if diff := cmp.Diff(c.want, names); diff != "" {
			t.Errorf("%s: listeners: %s", c.protocol, diff)
		}
		var inbound []string
		for _, chain := range decodeListeners(t, all.Server)[0].FilterChains {
			if strings.HasPrefix(chain.Name, "15006|") {
				inbound = append(inbound, chain.Name)
			}
		}
		if !slices.Equal(inbound, []string{"15006|loop"}) {
			t.Errorf("%s: chains of port 15006: %q", c.protocol, inbound)
		}
	}
}

// TestLongHost: Envoy refuses a longer server name than 255 bytes.
func TestLongHost(t *testing.T) {
	config(t, ports(model.HTTP, "10.96.0.1", 80)) // checks
	short, long := "cart.shop", strings.Repeat("a.", 125)+"aaa"
	if got := outboundSNI(80, "", short); got != "outbound_.80_._.cart.shop" {
		t.Errorf("got %q", got)
	}
	if got := outboundSNI(80, "", long); got != long {
		t.Errorf("got %q", got)
	}
}

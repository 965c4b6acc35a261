package translate

import (
	"slices"
	"testing"

	"github.com/meshpilot/pilot/pkg/model"
)

// Envoy refuses a route configuration in which a domain stands twice.
func TestDomainsAreClaimedOnce(t *testing.T) {
	service := func(host, namespace, name string) *model.OutboundService {
		return &model.OutboundService{
			Host: host, Namespace: namespace, Name: name, VIPs: []string{"10.96.0.1"},
			Ports: []*model.OutboundPort{{Number: 80, Protocol: model.HTTP}},
		}
	}
	services := []*model.OutboundService{ // sorted by host
		service("cart", "shop", "cart"),
		service("cart.shop", "other", ""),
		service("cart.shop.svc.cluster.local", "shop", "cart"),
	}
	h := newHosts(services, "cluster.local", nil)
	for _, c := range []struct {
		service   int
		namespace string
		want      []string
	}{
		{0, "shop", []string{"cart", "10.96.0.1"}},
		{1, "shop", []string{"cart.shop"}},
		{2, "shop", []string{"cart.shop.svc.cluster.local", "cart.shop.svc"}}, // cart and cart.shop are full names of others
	} {
		if got := h.in(c.namespace, services[c.service], 80).domains; !slices.Equal(got, c.want) {
			t.Errorf("%s: domains %q, want %q", services[c.service].Host, got, c.want)
		}
	}
	alone := newHosts(services[2:], "cluster.local", h)
	if got := alone.in("shop", services[2], 80).domains; !slices.Contains(got, "cart") || !slices.Contains(got, "cart.shop") {
		t.Errorf("without others: domains %q, want the short names too", got)
	}
	if got := alone.in("pay", services[2], 80).domains; slices.Contains(got, "cart") {
		t.Errorf("in another namespace: domains %q hold the short name", got)
	}
}

package translate

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
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

// A service that clients do not see takes no domain from one that they see,
// and its coming and going leaves their routes as they are.
func TestHiddenServicesClaimNothing(t *testing.T) {
	service := func(host, namespace, name string, exportTo ...string) model.Service {
		return model.Service{
			Key: model.Key{Kind: "ServiceEntry", Namespace: namespace, Name: host}, Host: host, Namespace: namespace, Name: name,
			ExportTo: exportTo, Ports: []model.ServicePort{{Number: 80, Protocol: model.HTTP}},
		}
	}
	cart := service("cart.shop.svc.cluster.local", "shop", "cart")
	hidden := []model.Service{
		service("cart", "other", "cart", "other"), service("cart.shop", "other", "", "other"), service("cart.shop.svc", "third", "", "third"),
	}
	routes := func(namespace string, services ...model.Service) (domains [][]string, version string) {
		s := model.Build(model.Inputs{Mesh: model.Mesh{
			Domain: "cluster.local", TrustDomain: "cluster.local", ConnectTimeout: 1e9, ListenPort: 15001, InboundListenPort: 15006,
		}, Services: services})
		shared := Share(s, nil)
		v := s.ClientView(model.ClientClass{Namespace: namespace})
		half := Outbound(v, shared, nil)
		if err := Check(half, Endpoints(s.Endpoints(), nil)); err != nil {
			t.Error(err)
		}
		for _, svc := range v.Services {
			domains = append(domains, shared.hosts.in(namespace, svc, 80).domains)
		}
		return domains, half.Routes.Version
	}
	for namespace, want := range map[string][][]string{
		"shop":  {{"cart.shop.svc.cluster.local", "cart.shop.svc", "cart.shop", "cart"}},
		"pay":   {{"cart.shop.svc.cluster.local", "cart.shop.svc", "cart.shop"}},
		"other": {{"cart"}, {"cart.shop"}, {"cart.shop.svc.cluster.local", "cart.shop.svc"}},
		"third": {{"cart.shop.svc"}, {"cart.shop.svc.cluster.local", "cart.shop"}},
	} {
		got, with := routes(namespace, append(hidden, cart)...)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: domains: %s", namespace, diff)
		}
		if _, without := routes(namespace, cart); (with == without) != (len(want) == 1) {
			t.Errorf("%s: routes are %s with services of other namespaces and %s without", namespace, with, without)
		}
	}
}

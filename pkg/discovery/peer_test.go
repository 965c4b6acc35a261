package discovery

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshpilot/pilot/pkg/model"
)

func TestCertificateMustBeTheWorkloads(t *testing.T) {
	mesh := model.Mesh{TrustDomain: "new.example", TrustDomainAliases: []string{"old.example"}}
	known := model.Build(model.Inputs{Mesh: mesh, Workloads: []model.Workload{
		{ID: model.WorkloadID{Namespace: "shop", Name: "cart-1"}, ServiceAccount: "cart"},
	}})
	unknown := model.Build(model.Inputs{Mesh: mesh})
	cases := []struct {
		name, uri string
		snapshot  *model.Snapshot
		allowed   bool
	}{
		{"its own", "spiffe://new.example/ns/shop/sa/cart", known, true},
		{"of an alias", "spiffe://old.example/ns/shop/sa/cart", known, true},
		{"another account", "spiffe://new.example/ns/shop/sa/stock", known, false},
		{"another namespace", "spiffe://new.example/ns/pay/sa/cart", known, false},
		{"another domain", "spiffe://evil.example/ns/shop/sa/cart", known, false},
		{"longer", "spiffe://new.example/ns/shop/sa/cart/x", known, false},
		{"two", "spiffe://new.example/ns/shop/sa/cart,spiffe://new.example/ns/shop/sa/cart", known, false},
		{"none", "", known, false},
		{"unknown workload of the namespace", "spiffe://new.example/ns/shop/sa/cart", unknown, true},
		{"unknown workload of another namespace", "spiffe://new.example/ns/pay/sa/cart", unknown, false},
		{"nothing known yet", "spiffe://new.example/ns/shop/sa/cart", nil, true},
	}
	for _, c := range cases {
		who := &certified{uri: c.uri, expires: clock(10), node: "n", id: model.WorkloadID{Namespace: "shop", Name: "cart-1"}}
		err := who.check(c.snapshot, clock(0))
		if c.allowed != (err == nil) {
			t.Errorf("%s: got %v", c.name, err)
		}
		if err != nil && (status.Code(err) != codes.PermissionDenied ||
			status.Convert(err).Message() != "identity "+c.uri+" may not act for node n") {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
}

func TestPeersAreCheckedAgain(t *testing.T) {
	var p peers
	id := model.WorkloadID{Namespace: "shop", Name: "cart-1"}
	early, late := clock(10), clock(20)
	p.add(1, &certified{uri: "spiffe://d/ns/shop/sa/cart", expires: late, id: id})
	p.add(2, &certified{uri: "spiffe://d/ns/shop/sa/stock", expires: early, id: id})
	p.add(3, &certified{uri: "spiffe://d/ns/shop/sa/cart", expires: early, id: id})
	p.add(4, &certified{uri: "spiffe://d/ns/shop/sa/cart", expires: clock(1), id: id})
	p.remove(4)
	if bad, next := p.refused(nil, clock(0)); len(bad) != 0 || next != early {
		t.Fatalf("before a snapshot: %v, next %v", bad, next)
	}
	s := model.Build(model.Inputs{Mesh: model.Mesh{TrustDomain: "d"}, Workloads: []model.Workload{{ID: id, ServiceAccount: "cart"}}})
	if bad, next := p.refused(s, clock(0)); len(bad) != 1 || status.Code(bad[2]) != codes.PermissionDenied || next != early {
		t.Fatalf("got %v, next %v; want only the stream of another account", bad, next)
	}
	bad, next := p.refused(s, early)
	if len(bad) != 1 || next != late {
		t.Fatalf("at the first expiry: %v, next %v", bad, next)
	}
	want := "identity spiffe://d/ns/shop/sa/cart may not act for node : its certificate has expired at " + early.Format(time.RFC3339)
	if got := status.Convert(bad[3]).Message(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if uri, expiry := p.of(3); uri != "" || !expiry.IsZero() {
		t.Errorf("still there: %s until %v", uri, expiry)
	}
}

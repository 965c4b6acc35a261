package model

import (
	"fmt"
	"slices"
	"testing"
)

// shop is the mesh of the worked examples in spec server-policy.md 7.
func shop(policies ...ServerPolicy) Inputs {
	cart := Service{
		Key: Key{"Service", "shop", "cart"}, Host: "cart.shop.svc.cluster.local", Namespace: "shop", Name: "cart",
		Ports: []ServicePort{
			{Name: "http", Number: 7000, Protocol: HTTP, Endpoints: []Endpoint{at("cart-1", 9000), at("cart-2", 9005)}},
			{Name: "tcp-sync", Number: 7001, Endpoints: []Endpoint{at("cart-1", 7701), at("cart-2", 7701)}},
		},
	}
	stock := Service{
		Key: Key{"Service", "shop", "stock"}, Host: "stock.shop.svc.cluster.local", Namespace: "shop", Name: "stock",
		Ports: []ServicePort{{Name: "http-main", Number: 81, Protocol: HTTP, Endpoints: []Endpoint{at("stock-1", 8081)}}},
	}
	return Inputs{
		Mesh:     Mesh{TrustDomain: "cluster.local", Domain: "cluster.local", AutoMTLS: true},
		Services: []Service{cart, stock},
		Workloads: []Workload{
			pod("shop", "cart-1", map[string]string{"app": "cart", "ver": "1"}),
			pod("shop", "cart-2", map[string]string{"app": "cart", "ver": "2"}),
			pod("shop", "stock-1", nil),
			pod("pay", "till-1", nil),
		},
		Policies: policies,
	}
}

func pod(ns, name string, labels map[string]string) Workload {
	return Workload{
		ID: WorkloadID{ns, name}, Key: Key{"Pod", ns, name}, Address: "10.0.0." + fmt.Sprint(len(name)),
		ServiceAccount: "default", Labels: labels, Sidecar: true,
	}
}

func at(name string, port uint16) Endpoint {
	return Endpoint{Address: "10.0.0." + fmt.Sprint(len(name)), Port: port, Workload: WorkloadID{"shop", name}, Ready: true}
}

func policy(kind, ns, name string, created int64, rules ...PolicyRule) ServerPolicy {
	return ServerPolicy{Key: Key{kind, ns, name}, Created: created, Rules: rules}
}

func TestWorkedExamples(t *testing.T) {
	toCart := PolicyRule{Rank: RankPort, Mode: Strict, Service: "cart", PortNumber: 7000}
	namespace := func(m Mode) PolicyRule { return PolicyRule{Rank: RankNamespace, Mode: m} }
	app := map[string]string{"app": "cart"}
	ver2 := map[string]string{"ver": "2"}
	annotated := func(in Inputs) Inputs {
		in.Services[1].Ports[0].Annotation = AnnotationMutualTLS
		return in
	}
	meshTLS := func(in Inputs) Inputs {
		in.Mesh.MutualTLS = true
		return in
	}
	bad := policy("Policy", "shop", "bad", 0, PolicyRule{Rank: RankWorkload, Mode: Strict, Service: "cart"})
	bad.StandIn = true
	type want struct {
		workload string
		port     uint16
		mode     Mode
		rank     Rank
		by       string
	}
	for _, c := range []struct {
		name string
		in   Inputs
		want []want
	}{
		{"1 nothing", shop(), []want{{"shop/cart-1", 9000, Disable, RankMeshConfig, "mesh config authPolicy"}}},
		{"2 one port, named target per pod", shop(policy("Policy", "shop", "p1", 1, toCart)), []want{
			{"shop/cart-1", 9000, Strict, RankPort, "Policy shop/p1"},
			{"shop/cart-2", 9005, Strict, RankPort, "Policy shop/p1"},
			{"shop/cart-1", 7701, Disable, RankMeshConfig, "mesh config authPolicy"}}},
		{"3 a container port is no service port", shop(policy("Policy", "shop", "p1", 1,
			PolicyRule{Rank: RankPort, Mode: Strict, Service: "cart", PortNumber: 9000})),
			[]want{{"shop/cart-1", 9000, Disable, RankMeshConfig, "mesh config authPolicy"}}},
		{"4 no prefix match of names", shop(policy("Policy", "shop", "p1", 1,
			PolicyRule{Rank: RankPort, Mode: Strict, Service: "stock", PortName: "http"})),
			[]want{{"shop/stock-1", 8081, Disable, RankMeshConfig, "mesh config authPolicy"}}},
		{"5 namespace over mesh", shop(
			policy("MeshPolicy", "", "default", 1, PolicyRule{Rank: RankMesh, Mode: Strict}),
			policy("Policy", "shop", "ns", 2, namespace(Disable))), []want{
			{"shop/stock-1", 8081, Disable, RankNamespace, "Policy shop/ns"},
			{"pay/till-1", 80, Strict, RankMesh, "MeshPolicy default"}}},
		{"6 a port of a PeerAuthentication", shop(
			policy("Policy", "shop", "all", 1, namespace(Strict)),
			policy("PeerAuthentication", "shop", "v2", 2, PolicyRule{Rank: RankPort, Mode: Disable, Selector: ver2, ContainerPort: 9005})), []want{
			{"shop/cart-2", 9005, Disable, RankPort, "PeerAuthentication shop/v2"},
			{"shop/cart-2", 7701, Strict, RankNamespace, "Policy shop/all"}}},
		{"7 the older wins a tie", shop(
			policy("PeerAuthentication", "shop", "a", 1, PolicyRule{Rank: RankWorkload, Mode: Permissive, Selector: app}),
			policy("Policy", "shop", "b", 2, PolicyRule{Rank: RankWorkload, Mode: Strict, Service: "cart"})), []want{
			{"shop/cart-1", 9000, Permissive, RankWorkload, "PeerAuthentication shop/a"}}},
		{"8 annotation", annotated(shop()), []want{{"shop/stock-1", 8081, Strict, RankAnnotation, "annotation of Service shop/stock"}}},
		{"8 annotation below every policy", annotated(shop(policy("Policy", "shop", "ns", 1, namespace(Disable)))),
			[]want{{"shop/stock-1", 8081, Disable, RankNamespace, "Policy shop/ns"}}},
		{"9 TLS only", shop(policy("Policy", "shop", "p", 1, PolicyRule{Rank: RankWorkload, Mode: TLSOnly, Service: "stock"})),
			[]want{{"shop/stock-1", 8081, TLSOnly, RankWorkload, "Policy shop/p"}}},
		{"10 authPolicy", meshTLS(shop(policy("Policy", "shop", "open", 1,
			PolicyRule{Rank: RankPort, Mode: Disable, Service: "cart", PortNumber: 7001}))), []want{
			{"shop/cart-1", 7701, Disable, RankPort, "Policy shop/open"},
			{"shop/cart-1", 9000, Strict, RankMeshConfig, "mesh config authPolicy"},
			{"shop/cart-1", 6060, Strict, RankMeshConfig, "mesh config authPolicy"}}},
		{"11 stand-in", shop(bad), []want{
			{"shop/cart-1", 9000, Strict, RankWorkload, "Policy shop/bad which is invalid"},
			{"shop/cart-1", 7701, Strict, RankWorkload, "Policy shop/bad which is invalid"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := Build(c.in)
			for _, w := range c.want {
				id := s.Workloads()[slices.IndexFunc(s.Workloads(), func(x *Workload) bool { return x.ID.String() == w.workload })].ID
				got := s.Decision(id, w.port)
				if got.Mode != w.mode || got.Rank != w.rank || got.By() != w.by {
					t.Errorf("%s:%d is %s, rank %d, by %q; want %s, rank %d, by %q",
						w.workload, w.port, got.Mode, got.Rank, got.By(), w.mode, w.rank, w.by)
				}
			}
		})
	}
}

func TestTieNamesLosersOnceAndStandInsLose(t *testing.T) {
	rule := PolicyRule{Rank: RankWorkload, Mode: Strict, Service: "cart"}
	bad := policy("Policy", "shop", "a-bad", 0, rule)
	bad.StandIn = true
	s := Build(shop(bad,
		policy("Policy", "shop", "z", 0, rule, rule), // no timestamp is older than any
		policy("Policy", "shop", "b", 5, rule)))
	got := s.Decision(WorkloadID{"shop", "cart-1"}, 9000)
	want := []Key{{"Policy", "shop", "b"}, {"Policy", "shop", "a-bad"}}
	if got.By() != "Policy shop/z" || !slices.Equal(got.Losers, want) {
		t.Errorf("by %s, losers %v; want Policy shop/z, %v", got.By(), got.Losers, want)
	}
}

func TestStricterOfOneServicesAnnotations(t *testing.T) {
	in := shop()
	ports := in.Services[1].Ports
	twin := ports[0]
	ports[0].Annotation, twin.Annotation, twin.Number = AnnotationNone, AnnotationMutualTLS, 82
	in.Services[1].Ports = append(ports, twin)
	got := Build(in).Decision(WorkloadID{"shop", "stock-1"}, 8081)
	if got.Mode != Strict || got.Rank != RankAnnotation || len(got.Losers) != 0 {
		t.Errorf("%+v, want STRICT at rank 5 without losers", got)
	}
}

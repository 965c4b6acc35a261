package model

import (
	"slices"
	"testing"
)

// phasedMesh is a service of two pods of one group and one of another, all
// with sidecars; version v2 is the other group.
func phasedMesh(phases map[Target]Phase, policies ...ServerPolicy) Inputs {
	in := Inputs{
		Mesh:     Mesh{AutoMTLS: true, TrustDomain: "cluster.local", RootNamespace: "istio-system"},
		Phases:   phases,
		Policies: policies,
	}
	port := ServicePort{Name: "http", Number: 80, Protocol: HTTP}
	for _, pod := range []struct{ name, group, version, address string }{
		{"cart-1", "cart", "v1", "10.0.0.1"}, {"cart-2", "cart", "v1", "10.0.0.2"}, {"cart-3", "cart-v2", "v2", "10.0.0.3"},
	} {
		id := WorkloadID{"shop", pod.name}
		in.Workloads = append(in.Workloads, Workload{
			ID: id, Address: pod.address, Group: pod.group, ServiceAccount: "cart", Sidecar: true,
			Labels: map[string]string{"version": pod.version, "pod": pod.name},
		})
		port.Endpoints = append(port.Endpoints, Endpoint{Address: pod.address, Port: 8080, Workload: id, Ready: true})
	}
	in.Services = []Service{{Key: Key{"Service", "shop", "cart"}, Host: "cart.shop.svc", Namespace: "shop", Name: "cart", Ports: []ServicePort{port}}}
	return in
}

func strictIn(namespace string) ServerPolicy {
	return ServerPolicy{Key: Key{"Policy", namespace, "default"}, Rules: []PolicyRule{{Rank: RankNamespace, Mode: Strict}}}
}

// Clients of a service follow the phases of its endpoints, not their modes.
func TestClientsFollowPhases(t *testing.T) {
	one, two := Target{"shop", "cart", 8080}, Target{"shop", "cart-v2", 8080}
	for _, tc := range []struct {
		phases map[Target]Phase
		auto   bool
		want   ClientTLS
	}{
		{nil, true, ClientMesh},
		{map[Target]Phase{one: PhaseNone, two: PhaseNone}, true, ClientPlain},
		{map[Target]Phase{one: PhaseOpened, two: PhaseOpened}, true, ClientPlain},
		{map[Target]Phase{one: PhaseMoved, two: PhaseOpened}, true, ClientMixed},
		{map[Target]Phase{one: PhaseGrace, two: PhaseMoved}, true, ClientMesh},
		{map[Target]Phase{one: PhaseNone, two: PhaseStrict}, false, ClientPlain},
		{map[Target]Phase{one: PhaseMoved, two: PhaseStrict}, false, ClientMesh},
	} {
		in := phasedMesh(tc.phases, strictIn("shop"))
		in.Mesh.AutoMTLS, in.Mesh.MutualTLS = tc.auto, !tc.auto
		if got := Build(in).Services()[0].Ports[0].TLS; got != tc.want {
			t.Errorf("auto %v, phases %v: clients send %s, want %s", tc.auto, tc.phases, got, tc.want)
		}
	}
	// On the way off, who was sent mTLS by authPolicy is, until servers opened
	// and clients may move.
	for phase, want := range map[Phase]ClientTLS{PhaseStrict: ClientMesh, PhaseMoved: ClientMesh, PhaseOpened: ClientPlain} {
		in := phasedMesh(map[Target]Phase{one: phase, two: phase})
		in.Mesh.AutoMTLS = false
		if got := Build(in).Services()[0].Ports[0].TLS; got != want {
			t.Errorf("off, %d: clients send %s, want %s", phase, got, want)
		}
	}
}

func TestTargets(t *testing.T) {
	stored := map[Target]Phase{{"shop", "cart", 8080}: PhaseOpened}
	own := Rollout{Immediate: true}
	policy := strictIn("shop")
	policy.Rollout = &own
	targets := Build(phasedMesh(stored, policy)).Targets()
	var names []string
	for _, w := range targets {
		names = append(names, w.Group+":"+string(rune('0'+w.Port%10))+" "+w.Decision.Phase.String())
		if w.Rollout != own {
			t.Errorf("%v: rollout %+v, want the policy's", w.Target, w.Rollout)
		}
	}
	want := []string{"cart:0 STRICT", "cart:0 PERMISSIVE", "cart-v2:0 STRICT", "cart-v2:0 STRICT"}
	if !slices.Equal(names, want) {
		t.Errorf("targets %v, want %v", names, want)
	}
	if Build(phasedMesh(nil)).Targets() != nil {
		t.Error("targets without phases")
	}
}

// Workloads of one group that want different things move apart, each from
// where the group was.
func TestSplitGroup(t *testing.T) {
	group := Target{"shop", "cart", 8080}
	one := ServerPolicy{Key: Key{"PeerAuthentication", "shop", "one"}, Rules: []PolicyRule{
		{Rank: RankWorkload, Mode: Strict, Selector: map[string]string{"pod": "cart-1"}},
	}}
	s := Build(phasedMesh(map[Target]Phase{group: PhaseMoved, {"shop", "cart/cart-1", 8080}: PhaseGrace}, one))
	for pod, want := range map[string]Phase{"cart-1": PhaseGrace, "cart-2": PhaseMoved} {
		if got := s.Decision(WorkloadID{"shop", pod}, 8080).Phase; got != want {
			t.Errorf("%s is in phase %d, want %d", pod, got, want)
		}
	}
	a, _ := s.ProxyOf(WorkloadID{"shop", "cart-1"})
	b, _ := s.ProxyOf(WorkloadID{"shop", "cart-2"})
	_, classA, _ := s.ClassOf(a)
	_, classB, _ := s.ClassOf(b)
	if classA == classB {
		t.Error("pods in different phases share a class")
	}
	if v := s.ServerView(classA); v.Ports[0].Decision.Phase != PhaseGrace {
		t.Errorf("the view of cart-1 is in phase %s", v.Ports[0].Decision.Phase)
	}
}

// Parts that are to be one again stay apart until they are in one phase.
func TestPartsMeetBeforeTheyMerge(t *testing.T) {
	part := func(pod string) Target { return Target{"shop", "cart/" + pod, 8080} }
	for _, tc := range []struct {
		second Phase
		whole  bool
	}{{PhaseNone, false}, {PhaseStrict, true}} {
		s := Build(phasedMesh(map[Target]Phase{part("cart-1"): PhaseStrict, part("cart-2"): tc.second}, strictIn("shop")))
		whole := slices.ContainsFunc(s.Targets(), func(w Wanted) bool { return w.Target == Target{"shop", "cart", 8080} })
		if whole != tc.whole {
			t.Errorf("second part %s: whole %v", tc.second, whole)
		}
	}
}

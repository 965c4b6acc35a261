package model

import (
	"slices"
	"testing"
)

func TestNormalizePath(t *testing.T) {
	for path, want := range map[string]string{
		"":                             "/",
		"/":                            "/",
		"healthz":                      "/healthz",
		"/healthz":                     "/healthz",
		"/healthz/":                    "/healthz/",
		"/healthz?a=/../b%2f":          "/healthz",
		"/a/./b":                       "/a/b",
		"/a/../b":                      "/b",
		"/a/..":                        "/",
		"/a/b/..":                      "/a/",
		"/../../a":                     "/a",
		"/a//b":                        "/a/b",
		"//a":                          "/a",
		"/a//../b":                     "/a/b",
		"/%2e%2e/a":                    "/a",
		"/a/%2E/b":                     "/a/b",
		"/%68ealthz":                   "/healthz",
		"/a%20b":                       "/a%20b",
		"/a b":                         "/a%20b",
		"/a%3fb":                       "/a%3fb",
		"/a%":                          "/a%",
		"/a%zz":                        "/a%zz",
		"/%252e%252e/a":                "/%252e%252e/a",
		"/a\\..\\b":                    "/b",
		"/a;b=c":                       "/a;b=c",
		"/grpc.health.v1.Health/Check": "/grpc.health.v1.Health/Check",
	} {
		if got, ok := NormalizePath(path); got != want || !ok {
			t.Errorf("%q is %q, %t; want %q", path, got, ok, want)
		}
	}
	for _, path := range []string{"/a%2fb", "/a%2Fb", "/a%5cb", "/a%5C", "/%00", "/%2f%2e%2e"} {
		if got, ok := NormalizePath(path); ok {
			t.Errorf("%q is %q, want a refusal", path, got)
		}
	}
}

func view(t *testing.T, in Inputs, id WorkloadID) *ServerView {
	t.Helper()
	s := Build(in)
	p, _ := s.ProxyOf(id)
	_, class, ok := s.ClassOf(p)
	if !ok {
		t.Fatalf("%s is unknown", id)
	}
	return s.ServerView(class)
}

// TestPortsOfAView: which ports have chains of their own, and why.
func TestPortsOfAView(t *testing.T) {
	health := Probe{Port: 9000, Path: "/healthz"}
	admin := Probe{Port: 6060, Path: "/ready"}
	app := map[string]string{"app": "cart"}
	in := shop(policy("PeerAuthentication", "shop", "admin", 1, PolicyRule{Rank: RankPort, Mode: Strict, Selector: app, ContainerPort: 6060}))
	in.Workloads[0].Probes = []Probe{{Port: 5000, Path: "/x"}, health, {Port: 9000}, {Port: 5001}, admin, health, {Port: 5000}}
	v := view(t, in, WorkloadID{"shop", "cart-1"})
	var ports []uint16
	for _, p := range v.Ports {
		ports = append(ports, p.Port)
	}
	if !slices.Equal(ports, []uint16{6060, 7701, 9000}) || !slices.Equal(v.ProbePorts, []uint16{5000, 5001}) {
		t.Fatalf("ports %v, opened for probes %v", ports, v.ProbePorts)
	}
	named := v.Ports[0]
	if named.Protocol != TCP || named.Host != "" || named.Decision.Mode != Strict || !slices.Equal(named.Probes, []Probe{admin}) ||
		!slices.Equal(named.From, []Key{{"PeerAuthentication", "shop", "admin"}}) {
		t.Errorf("the port that a policy names: %+v", named)
	}
	if got := v.Ports[2].Probes; !slices.Equal(got, []Probe{health}) {
		t.Errorf("probes with a path: %v", got)
	}
	if other := view(t, in, WorkloadID{"shop", "stock-1"}); len(other.Ports) != 1 || len(other.ProbePorts) > 0 {
		t.Errorf("a workload that nothing of it concerns: %+v", other)
	}
}

// Probes and the ports of policies are part of what a class shares, and
// selectors of another namespace are not.
func TestProbesShapeClasses(t *testing.T) {
	class := func(in Inputs, i int) ServerClass {
		s := Build(in)
		p, _ := s.ProxyOf(in.Workloads[i].ID)
		_, c, _ := s.ClassOf(p)
		return c
	}
	in := shop()
	in.Services[0].Ports = in.Services[0].Ports[1:] // the port that cart-1 and cart-2 both serve
	if class(in, 0) != class(in, 1) {
		t.Fatal("two equal workloads differ")
	}
	fingerprint := view(t, in, in.Workloads[0].ID).Fingerprint
	in.Workloads[0].Probes = []Probe{{Port: 7701, Path: "/healthz"}}
	if class(in, 0) == class(in, 1) || view(t, in, in.Workloads[0].ID).Fingerprint == fingerprint {
		t.Error("a probe changes neither class nor view")
	}
	in.Workloads[0].Probes = nil
	in.Policies = []ServerPolicy{policy("PeerAuthentication", "pay", "p", 1, PolicyRule{Rank: RankWorkload, Mode: Strict, Selector: map[string]string{"ver": "1"}})}
	if class(in, 0) != class(in, 1) {
		t.Error("a selector of another namespace splits a class")
	}
}

// Selectors are found by one of their labels; all of them must match.
func TestSelectors(t *testing.T) {
	rule := func(labels ...string) PolicyRule {
		r := PolicyRule{Rank: RankWorkload, Mode: Strict, Selector: map[string]string{}}
		for i := 0; i < len(labels); i += 2 {
			r.Selector[labels[i]] = labels[i+1]
		}
		return r
	}
	for _, c := range []struct {
		rule PolicyRule
		want []string
	}{
		{rule("app", "cart"), []string{"cart-1", "cart-2"}},
		{rule("ver", "1"), []string{"cart-1"}},
		{rule("ver", "2", "app", "cart"), []string{"cart-2"}},
		{rule("ver", "2", "app", "stock"), nil},
		{rule("app", "cart", "zone", "a"), nil},
		{rule("app", ""), nil},
		{rule(), []string{"cart-1", "cart-2", "stock-1"}},
	} {
		s := Build(shop(policy("PeerAuthentication", "shop", "p", 1, c.rule)))
		var got []string
		for _, w := range s.Workloads() {
			if s.Decision(w.ID, 1).Mode == Strict {
				got = append(got, w.ID.Name)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v selects %v, want %v", c.rule.Selector, got, c.want)
		}
	}
}

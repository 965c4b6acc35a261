package model

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// rule is "namespace/name host"; its age is its place in a list.
func rule(at, host string, change func(*DestinationRule)) DestinationRule {
	namespace, name, _ := strings.Cut(at, "/")
	r := DestinationRule{Key: Key{"DestinationRule", namespace, name}, Host: host}
	if change != nil {
		change(&r)
	}
	return r
}

func tls(mode ClientTLS) *TrafficPolicy {
	return &TrafficPolicy{Traffic: Traffic{TLS: &TLSSettings{Mode: mode}}}
}

func withTLS(mode ClientTLS) func(*DestinationRule) {
	return func(r *DestinationRule) { r.Policy = tls(mode) }
}

func exported(to ...string) func(*DestinationRule) {
	return func(r *DestinationRule) { r.Policy, r.ExportTo = tls(ClientMesh), to }
}

// ledger is a service of namespace pay with ports 7000 (http) and 7001 (tcp),
// at one pod without a sidecar.
func ledger(host string, rules ...DestinationRule) *Snapshot {
	at := func(port uint16) []Endpoint {
		return []Endpoint{{Address: "10.0.0.1", Port: port, Workload: WorkloadID{"pay", "ledger-1"}, Ready: true}}
	}
	for i := range rules {
		rules[i].Created = int64(i + 1)
	}
	return Build(Inputs{
		Mesh: Mesh{AutoMTLS: true, TrustDomain: "cluster.local", Domain: "cluster.local", RootNamespace: "root"},
		Services: []Service{{
			Key: Key{"Service", "pay", "ledger"}, Host: host, Namespace: "pay", Name: "ledger",
			Ports: []ServicePort{{Name: "http", Number: 7000, Protocol: HTTP, Endpoints: at(7000)}, {Name: "tcp", Number: 7001, Endpoints: at(7001)}},
		}},
		Workloads: []Workload{{ID: WorkloadID{"pay", "ledger-1"}, ServiceAccount: "ledger", Labels: map[string]string{"version": "v1"}}},
		Rules:     rules,
	})
}

const ledgerHost = "ledger.pay.svc.cluster.local"

func (s *Snapshot) seen(client string, port uint16) *OutboundPort {
	return s.ClientView(ClientClass{Namespace: client}).Services[0].At(port)
}

// TestWhichRule is spec client-tls.md 2.1. The rule found is the only one that
// says anything about TLS; "" is none.
func TestWhichRule(t *testing.T) {
	mesh := withTLS(ClientMesh)
	for _, c := range []struct {
		name, host, client string
		rules              []DestinationRule
		want               string
	}{
		{"client's namespace first", ledgerHost, "web", []DestinationRule{
			rule("root/r", ledgerHost, mesh), rule("pay/s", ledgerHost, mesh), rule("web/c", ledgerHost, mesh)}, "web/c"},
		{"then the service's", ledgerHost, "web", []DestinationRule{
			rule("root/r", ledgerHost, mesh), rule("pay/s", ledgerHost, mesh), rule("shop/c", ledgerHost, mesh)}, "pay/s"},
		{"then the root's", ledgerHost, "web", []DestinationRule{rule("root/r", ledgerHost, mesh), rule("shop/c", ledgerHost, mesh)}, "root/r"},
		{"no other", ledgerHost, "web", []DestinationRule{rule("shop/c", ledgerHost, mesh)}, ""},
		{"client's wildcard before service's exact", ledgerHost, "web", []DestinationRule{
			rule("pay/s", ledgerHost, mesh), rule("web/c", "*", mesh)}, "web/c"},
		{"own rule needs no export", ledgerHost, "web", []DestinationRule{rule("web/c", ledgerHost, exported("shop"))}, "web/c"},
		{"service's, not exported", ledgerHost, "web", []DestinationRule{rule("pay/s", ledgerHost, exported("pay")), rule("root/r", "*", mesh)}, "root/r"},
		{"service's, exported to another", ledgerHost, "web", []DestinationRule{rule("pay/s", ledgerHost, exported("shop"))}, ""},
		{"service's, exported to the client", ledgerHost, "web", []DestinationRule{rule("pay/s", ledgerHost, exported("shop", "web"))}, "pay/s"},
		{"root's, not exported", ledgerHost, "web", []DestinationRule{rule("root/r", ledgerHost, exported("root"))}, ""},
		{"root's, exported to the client", ledgerHost, "web", []DestinationRule{rule("root/r", ledgerHost, exported("web"))}, "root/r"},
		{"client in root: private first", ledgerHost, "root", []DestinationRule{
			rule("pay/s", ledgerHost, mesh), rule("root/all", ledgerHost, mesh), rule("root/own", ledgerHost, exported("root"))}, "root/own"},
		{"client in root: its public rules come last", ledgerHost, "root", []DestinationRule{
			rule("root/all", ledgerHost, mesh), rule("pay/s", ledgerHost, mesh)}, "pay/s"},
		{"client in root: but they come", ledgerHost, "root", []DestinationRule{rule("root/all", ledgerHost, mesh)}, "root/all"},
		{"hidden exact rule leaves the wildcard", ledgerHost, "web", []DestinationRule{
			rule("pay/s", ledgerHost, exported("pay")), rule("pay/w", "*.pay.svc.cluster.local", mesh)}, "pay/w"},
		{"exact before wildcard", ledgerHost, "web", []DestinationRule{rule("pay/w", "*.pay.svc.cluster.local", mesh), rule("pay/s", ledgerHost, mesh)}, "pay/s"},
		{"longer before shorter", ledgerHost, "web", []DestinationRule{
			rule("pay/a", "*", mesh), rule("pay/b", "*.local", mesh), rule("pay/c", "*.svc.cluster.local", mesh)}, "pay/c"},
		{"wildcard matches below", "v2.api.example.com", "web", []DestinationRule{rule("pay/w", "*.api.example.com", mesh)}, "pay/w"},
		{"wildcard does not match itself", "api.example.com", "web", []DestinationRule{rule("pay/w", "*.api.example.com", mesh)}, ""},
		{"wildcard does not match above", "example.com", "web", []DestinationRule{rule("pay/w", "*.api.example.com", mesh)}, ""},
		{"wildcard needs the dot", "fooapi.example.com", "web", []DestinationRule{rule("pay/w", "*.api.example.com", mesh)}, ""},
		{"equal wildcards", "*.example.com", "web", []DestinationRule{rule("pay/w", "*.example.com", mesh)}, "pay/w"},
		{"wider wildcard", "*.api.example.com", "web", []DestinationRule{rule("pay/w", "*.example.com", mesh)}, "pay/w"},
		{"narrower wildcard", "*.example.com", "web", []DestinationRule{rule("pay/w", "*.api.example.com", mesh)}, ""},
		{"exact rule, wildcard host", "*.example.com", "web", []DestinationRule{rule("pay/w", "a.example.com", mesh)}, ""},
		{"oldest of a host", ledgerHost, "web", []DestinationRule{rule("pay/z", ledgerHost, mesh), rule("pay/a", ledgerHost, mesh)}, "pay/z"},
		{"oldest with a policy", ledgerHost, "web", []DestinationRule{rule("pay/z", ledgerHost, nil), rule("pay/a", ledgerHost, mesh)}, "pay/a"},
		{"a rule without tls hides one with", ledgerHost, "web", []DestinationRule{rule("web/z", ledgerHost, nil), rule("pay/a", ledgerHost, mesh)}, ""},
		{"stand-in loses to a valid rule", ledgerHost, "web", []DestinationRule{
			rule("pay/bad", ledgerHost, func(r *DestinationRule) { r.StandIn = true }), rule("pay/s", ledgerHost, mesh)}, "pay/s"},
		{"stand-in of a longer host does not", ledgerHost, "web", []DestinationRule{
			rule("pay/bad", ledgerHost, func(r *DestinationRule) { r.StandIn = true }), rule("pay/s", "*", mesh)}, "pay/bad"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := ledger(c.host, c.rules...)
			got := s.seen(c.client, 7000)
			source := strings.TrimPrefix(got.Source.String(), "DestinationRule ")
			if source != c.want || (got.Step == StepRule) != (c.want != "") {
				t.Errorf("step %d, source %q, want %q", got.Step, source, c.want)
			}
			followed := ""
			for _, st := range s.Standings(c.client, s.Services()[0]) {
				if st.Policy {
					followed += strings.TrimPrefix(st.Rule.Key.String(), "DestinationRule ")
				}
			}
			if followed != c.want {
				t.Errorf("said to follow %q, want %q", followed, c.want)
			}
		})
	}
}

// TestMerge: the policy of the oldest that has one, and all subsets, of which
// the first definition counts.
func TestMerge(t *testing.T) {
	s := ledger(ledgerHost,
		rule("pay/a", ledgerHost, func(r *DestinationRule) {
			r.Subsets = []Subset{{Name: "v2"}, {Name: "v1", Policy: tls(ClientPlain)}}
		}),
		rule("pay/b", ledgerHost, func(r *DestinationRule) {
			r.Policy, r.Subsets = tls(ClientMesh), []Subset{{Name: "v1", Policy: tls(ClientSimple)}, {Name: "v3"}}
		}),
		rule("pay/c", ledgerHost, withTLS(ClientPlain)))
	p := s.seen("web", 7000)
	var got []string
	for _, u := range append([]*Upstream{&p.Upstream}, p.Subsets...) {
		got = append(got, fmt.Sprintf("%s %s by %s of %v", u.Subset, u.TLS, u.Source.Name, u.From))
	}
	want := []string{
		" MESH by b of [DestinationRule pay/b]",
		"v1 NONE by a of [DestinationRule pay/b DestinationRule pay/a]",
		"v2 MESH by b of [DestinationRule pay/b DestinationRule pay/a]",
		"v3 MESH by b of [DestinationRule pay/b]",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestPortAndSubset is the table of spec client-tls.md 2.2. "next" is that
// step 2 or a later one decides.
func TestPortAndSubset(t *testing.T) {
	disable := &TLSSettings{Mode: ClientPlain}
	onlyBalancer := []PortTraffic{{Number: 7000, Traffic: Traffic{LoadBalancer: Random}}}
	with := func(p *TrafficPolicy, ports []PortTraffic) *TrafficPolicy {
		if p == nil {
			p = &TrafficPolicy{}
		}
		p.Ports = ports
		return p
	}
	for _, c := range []struct {
		name         string
		rule, subset *TrafficPolicy
		port         uint16
		want         string // base, subset
	}{
		{"port entry with tls, its port", with(tls(ClientMesh), []PortTraffic{{Number: 7000, Traffic: Traffic{TLS: disable}}}), nil, 7000, "NONE NONE"},
		{"port entry with tls, another port", with(tls(ClientMesh), []PortTraffic{{Number: 7000, Traffic: Traffic{TLS: disable}}}), nil, 7001, "MESH MESH"},
		{"port entry without tls, rule with", with(tls(ClientMesh), onlyBalancer), nil, 7000, "MESH MESH"},
		{"port entry without tls, rule without", with(nil, onlyBalancer), nil, 7000, "next next"},
		{"subset with tls", tls(ClientPlain), tls(ClientMesh), 7001, "NONE MESH"},
		{"only the subset has tls", nil, tls(ClientPlain), 7000, "next NONE"},
		{"port entry by name", with(nil, []PortTraffic{{Name: "http", Traffic: Traffic{TLS: disable}}}), nil, 7000, "NONE NONE"},
		{"port entry by another name", with(nil, []PortTraffic{{Name: "htt", Traffic: Traffic{TLS: disable}}}), nil, 7000, "next next"},
		{"first entry of two", with(nil, []PortTraffic{{Name: "http", Traffic: Traffic{TLS: disable}}, {Number: 7000, Traffic: Traffic{TLS: &TLSSettings{Mode: ClientMesh}}}}), nil, 7000, "NONE NONE"},
		{"subset's port entry before the subset", tls(ClientSimple), with(tls(ClientPlain), []PortTraffic{{Number: 7000, Traffic: Traffic{TLS: &TLSSettings{Mode: ClientMesh}}}}), 7000, "SIMPLE MESH"},
		{"subset's port entry without tls", tls(ClientSimple), with(tls(ClientPlain), onlyBalancer), 7000, "SIMPLE NONE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := ledger(ledgerHost, rule("pay/r", ledgerHost, func(r *DestinationRule) {
				r.Policy, r.Subsets = c.rule, []Subset{{Name: "v1", Policy: c.subset}}
			})).seen("web", c.port)
			say := func(u *Upstream) string {
				if u.Step != StepRule {
					return "next"
				}
				return u.TLS.String()
			}
			if got := say(&p.Upstream) + " " + say(p.Subsets[0]); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// TestBlocks: what a port entry leaves out is empty; a subset adds to the base.
func TestBlocks(t *testing.T) {
	pool, outliers := &ConnectionPool{MaxConnections: 1}, &OutlierDetection{ConsecutiveErrors: 2}
	p := &TrafficPolicy{Traffic: Traffic{LoadBalancer: Random, Pool: pool}, Ports: []PortTraffic{{Number: 7000, Traffic: Traffic{Outliers: outliers}}}}
	s := ledger(ledgerHost, rule("pay/r", ledgerHost, func(r *DestinationRule) {
		r.Policy, r.Subsets = p, []Subset{{Name: "v1", Policy: &TrafficPolicy{Traffic: Traffic{LoadBalancer: LeastRequest}}}}
	}))
	for _, c := range []struct {
		port         uint16
		base, subset Traffic
	}{
		{7000, Traffic{Outliers: outliers}, Traffic{LoadBalancer: LeastRequest, Outliers: outliers}},
		{7001, Traffic{LoadBalancer: Random, Pool: pool}, Traffic{LoadBalancer: LeastRequest, Pool: pool}},
	} {
		got := s.seen("web", c.port)
		if got.Traffic != c.base || got.Subsets[0].Traffic != c.subset {
			t.Errorf("port %d: base %+v, subset %+v", c.port, got.Traffic, got.Subsets[0].Traffic)
		}
	}
}

// TestSharedForms: a namespace has its own form of a port only where other
// rules hold for it.
func TestSharedForms(t *testing.T) {
	s := ledger(ledgerHost,
		rule("pay/s", ledgerHost, withTLS(ClientMesh)),
		rule("pay/some", ledgerHost, exported("a", "b")),
		rule("web/c", "*.example.com", withTLS(ClientPlain)))
	if s.seen("web", 7000) != s.seen("shop", 7000) || s.seen("pay", 7000) == s.seen("shop", 7000) {
		t.Error("web has no other rule for ledger than shop has; pay has")
	}
	if s.seen("a", 7000) != s.seen("b", 7000) || s.seen("a", 7000) == s.seen("web", 7000) {
		t.Error("a and b see one more rule than web, and the same")
	}
	if len(s.Variants()) != 1 || !slices.Equal(s.Variants()[0].Namespaces, []string{"a", "b", "pay"}) {
		t.Errorf("variants %+v", s.Variants())
	}
	one := ledger(ledgerHost, rule("pay/s", ledgerHost, withTLS(ClientMesh)))
	if one.seen("pay", 7000) != one.seen("web", 7000) || len(one.Variants()) != 0 {
		t.Error("the service's own namespace finds the same rule in another pool")
	}
}

// TestStandIn: nothing but mesh mTLS goes out, and to nobody who does not take it.
func TestStandIn(t *testing.T) {
	bad := rule("pay/bad", ledgerHost, func(r *DestinationRule) { r.StandIn = true })
	p := ledger(ledgerHost, bad).seen("web", 7000)
	if !p.StandIn || p.TLS != ClientMesh || p.Variant == "" || p.By() != "DestinationRule pay/bad which is invalid" {
		t.Errorf("got %+v", p.Upstream)
	}
	var groups []string
	for _, g := range ledger(ledgerHost, bad).Endpoints() {
		groups = append(groups, fmt.Sprintf("%d %q %d", g.Port, g.Variant, len(g.Endpoints)))
	}
	if want := []string{`7000 "" 1`, `7000 "mtls" 0`, `7001 "" 1`, `7001 "mtls" 0`}; !slices.Equal(groups, want) {
		t.Errorf("endpoint groups %q, want %q", groups, want)
	}
}

// TestInboundPool: a rule of the server's own namespace limits what
// its proxy sends to the application.
func TestInboundPool(t *testing.T) {
	pool := &ConnectionPool{MaxConnections: 3}
	s := ledger(ledgerHost, rule("pay/own", ledgerHost, func(r *DestinationRule) {
		r.ExportTo, r.Policy = []string{"pay"}, &TrafficPolicy{Ports: []PortTraffic{{Number: 7000, Traffic: Traffic{Pool: pool}}}}
	}))
	proxy, _ := s.ProxyOf(WorkloadID{"pay", "ledger-1"})
	_, class, _ := s.ClassOf(proxy)
	ports := s.ServerView(class).Ports
	if ports[0].Pool != pool || ports[1].Pool != nil || !slices.Contains(ports[0].From, Key{"DestinationRule", "pay", "own"}) {
		t.Errorf("ports %+v", ports)
	}
}

// TestRulesIgnoreOrder: which rules hold does not depend on the order in which
// a source lists them, nor on what another namespace writes for itself.
func TestRulesIgnoreOrder(t *testing.T) {
	own := func(namespace string) []DestinationRule {
		return []DestinationRule{
			rule(namespace+"/z", ledgerHost, withTLS(ClientSimple)),
			rule(namespace+"/a", "*", withTLS(ClientMesh)),
			rule(namespace+"/b", ledgerHost, func(r *DestinationRule) {
				r.Subsets = []Subset{{Name: "v1", Labels: map[string]string{"of": namespace}}}
			}),
		}
	}
	rules := slices.Concat(own("pay"), own("web"), own("root"), []DestinationRule{rule("pay/x", ledgerHost, exported("shop", "web"))})
	prints := func(rules []DestinationRule) (out []Fingerprint) {
		rules = slices.Clone(rules)
		s := ledger(ledgerHost) // ledger would give ages by order
		in := Inputs{Mesh: *s.Mesh(), Rules: rules}
		in.Services = []Service{{Key: Key{"Service", "pay", "ledger"}, Host: ledgerHost, Namespace: "pay", Ports: []ServicePort{{Number: 80}}}}
		built := Build(in)
		for _, namespace := range []string{"web", "pay", "shop", "root", "none"} {
			out = append(out, built.ClientView(ClientClass{Namespace: namespace}).Fingerprint)
		}
		return out
	}
	want := prints(rules)
	random := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		random.Shuffle(len(rules), func(i, j int) { rules[i], rules[j] = rules[j], rules[i] })
		if !slices.Equal(prints(rules), want) {
			t.Fatalf("another order gives other views: %v", rules)
		}
	}
	if !slices.Equal(prints(append(rules, own("unrelated")...)), want) {
		t.Error("rules of an unrelated namespace change what others get")
	}
	if slices.Equal(prints(rules[:len(rules)-1]), want) {
		t.Error("a rule less changes nothing")
	}
}

package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/readiness"
)

// mesh is web, which has a sidecar, old, which has none, and the cart and the
// db that they call.
func mesh(change ...func(*model.Inputs)) model.Inputs {
	in := model.Inputs{
		Mesh: model.Mesh{
			AutoMTLS: true, TrustDomain: "cluster.local", Domain: "cluster.local", ListenPort: 15001, InboundListenPort: 15006,
			ConnectTimeout: time.Second, DrainDuration: 45 * time.Second,
			Rollout: model.Rollout{QuietPeriod: 10 * time.Second, Deadline: 10 * time.Minute},
		},
		Workloads: []model.Workload{pod("web", 1, true), pod("old", 2, false), pod("cart", 3, true), pod("db", 4, true)},
		Services:  []model.Service{service("cart", 3, model.HTTP, 80), service("db", 4, model.MySQL, 3306)},
	}
	for _, c := range change {
		c(&in)
	}
	return in
}

func pod(name string, at int, sidecar bool) model.Workload {
	return model.Workload{
		ID: model.WorkloadID{Namespace: "shop", Name: name}, Key: model.Key{Kind: "Pod", Namespace: "shop", Name: name},
		Address: fmt.Sprintf("10.0.0.%d", at), Group: name, ServiceAccount: name, Sidecar: sidecar,
	}
}

func service(name string, at int, protocol model.Protocol, port uint16) model.Service {
	return model.Service{
		Key: model.Key{Kind: "Service", Namespace: "shop", Name: name}, Host: name + ".shop.svc.cluster.local", Namespace: "shop", Name: name,
		VIPs: []string{fmt.Sprintf("10.96.0.%d", at)},
		Ports: []model.ServicePort{{Name: "main", Number: port, Protocol: protocol, Endpoints: []model.Endpoint{
			{Address: fmt.Sprintf("10.0.0.%d", at), Port: port, Workload: model.WorkloadID{Namespace: "shop", Name: name}, Ready: true},
		}}},
	}
}

// policy is a mode for one service.
func policy(service string, mode model.Mode, own *model.Rollout) func(*model.Inputs) {
	return func(in *model.Inputs) {
		in.Policies = append(in.Policies, model.ServerPolicy{
			Key: model.Key{Kind: "Policy", Namespace: "shop", Name: service}, Rollout: own,
			Rules: []model.PolicyRule{{Rank: model.RankWorkload, Mode: mode, Service: service}},
		})
	}
}

func plain(in *model.Inputs) {
	in.Rules = append(in.Rules, model.DestinationRule{
		Key: model.Key{Kind: "DestinationRule", Namespace: "shop", Name: "plain"}, Host: "cart.shop.svc.cluster.local",
		Policy: &model.TrafficPolicy{Traffic: model.Traffic{TLS: &model.TLSSettings{Mode: model.ClientPlain}}},
	})
}

func protocol(p model.Protocol) func(*model.Inputs) {
	return func(in *model.Inputs) { in.Services[0].Ports[0].Protocol = p }
}

type planCase struct {
	name          string
	before, after model.Inputs
	phases        string // of the first target
	steps         int    // that move somebody, or send something
	cuts          []string
	breaks        []string
}

func planCases() []planCase {
	strict, gated := policy("cart", model.Strict, nil), "none, as the step waits until none is open"
	at := func(step int) string { return fmt.Sprintf("45s (drainDuration) after step %d", step) }
	atCart := "no sidecar -> cart.shop.svc.cluster.local:80 plaintext refused"
	return []planCase{
		{"nothing", mesh(), mesh(), "", 0, nil, nil},
		{"on", mesh(), mesh(strict), "NONE > PERMISSIVE (servers) > PERMISSIVE (clients) > GRACE > STRICT", 4, []string{
			"4 connections to port 80 in TLS of the application: " + gated,
			"4 plaintext connections to port 80: " + gated,
		}, []string{"3 " + atCart}},
		{"off", mesh(strict), mesh(), "STRICT > PERMISSIVE (clients) > PERMISSIVE (servers) > NONE", 3, []string{
			"3 mTLS connections to port 80: " + gated,
		}, nil},
		{"at once", mesh(), mesh(policy("cart", model.Strict, &model.Rollout{Immediate: true})), "NONE > STRICT", 1, []string{
			"1 connections to port 80 in TLS of the application: " + at(1),
			"1 plaintext connections to port 80: " + at(1),
		}, []string{"1 " + atCart}},
		{"past a deadline", mesh(policy("cart", model.Permissive, nil)), mesh(policy("cart", model.Strict, &model.Rollout{OnDeadline: model.DeadlineProceed, Deadline: time.Minute})),
			"PERMISSIVE (clients) > GRACE > STRICT", 2, []string{
				"3 connections to port 80 in TLS of the application: " + gated + ", or " + at(3) + " if its deadline passed (PROCEED)",
				"3 plaintext connections to port 80: " + gated + ", or " + at(3) + " if its deadline passed (PROCEED)",
			}, []string{"2 " + atCart}},
		{"a rule keeps clients back", mesh(plain), mesh(plain, strict), "NONE > PERMISSIVE (servers) > PERMISSIVE (clients) > GRACE > STRICT", 4, []string{
			"4 connections to port 80 in TLS of the application: " + gated,
			"4 plaintext connections to port 80: " + gated,
		}, []string{"3 shop -> cart.shop.svc.cluster.local:80 plaintext refused", "3 " + atCart}},
		{"server-first", mesh(), mesh(policy("db", model.Strict, nil)), "NONE > STRICT", 1, []string{
			"1 plaintext connections to port 3306: " + at(1),
		}, []string{"1 no sidecar -> db.shop.svc.cluster.local:3306 plaintext refused"}},
		{"another protocol", mesh(), mesh(protocol(model.MySQL)), "", 1, []string{
			"1 all connections of listener virtualInbound, which is replaced: " + at(1),
			"1 from the application, all connections of listener 0.0.0.0_80, which is removed: " + at(1),
		}, nil},
		{"a service goes", mesh(), mesh(func(in *model.Inputs) { in.Services = in.Services[1:] }), "", 1, []string{
			"1 connections to port 80 in TLS of the application: " + at(1),
			"1 from the application, all connections of listener 0.0.0.0_80, which is removed: " + at(1),
			"1 plaintext connections to port 80: " + at(1),
		}, []string{
			"1 shop -> cart.shop.svc.cluster.local:80 plaintext no endpoints", "1 no sidecar -> cart.shop.svc.cluster.local:80 plaintext no endpoints",
		}},
	}
}

func TestMake(t *testing.T) {
	for _, c := range planCases() {
		t.Run(c.name, func(t *testing.T) {
			p := Make(c.before, c.after, func(model.Key) string { return "" })
			var phases string
			if len(p.Targets) > 0 {
				phases = strings.Join(p.Targets[0].Phases, " > ")
			}
			steps := 0
			for _, s := range p.Steps {
				if len(s.Moves)+len(s.Pushes) > 0 {
					steps++
				}
			}
			var cuts, breaks []string
			for _, cut := range p.Cuts {
				cuts = append(cuts, fmt.Sprintf("%d %s: %s", cut.Step, cut.What, cut.When))
			}
			for _, b := range p.Breaks {
				breaks = append(breaks, fmt.Sprintf("%d %s -> %s:%d %s %s", b.Step, b.From, b.Host, b.Port, b.Was, b.Will))
				if b.Why == "" {
					t.Errorf("no reason: %+v", b)
				}
			}
			slices.Sort(cuts)
			if phases != c.phases || steps != c.steps || !slices.Equal(cuts, c.cuts) || !slices.Equal(breaks, c.breaks) {
				t.Errorf("got phases %s, %d steps\n%s\n%s", phases, steps, strings.Join(cuts, "\n"), strings.Join(breaks, "\n"))
			}
			if p.Changes() != (c.name != "nothing") {
				t.Errorf("changes: %v", p.Changes())
			}
		})
	}
}

// A rule that keeps clients in plaintext holds the step that refuses it.
func TestMakeHeld(t *testing.T) {
	p := Make(mesh(plain), mesh(plain, policy("cart", model.Strict, nil)), func(model.Key) string { return "" })
	for _, s := range p.Steps {
		for _, m := range s.Moves {
			want := m.To == "GRACE"
			if held := slices.Equal(m.Held, []string{"clients of cart.shop.svc.cluster.local:80 send plaintext, by DestinationRule shop/plain"}); held != want {
				t.Errorf("to %s: held by %v", m.To, m.Held)
			}
		}
	}
}

// A change that is under way goes on from where it is.
func TestMakeUnderWay(t *testing.T) {
	before := mesh(policy("cart", model.Strict, nil))
	before.Phases = map[model.Target]model.Phase{{Namespace: "shop", Group: "cart", Port: 80}: model.PhaseMoved}
	p := Make(before, mesh(), func(model.Key) string { return "" })
	if got := strings.Join(p.Targets[0].Phases, " > "); len(p.Targets) != 1 || got != "PERMISSIVE (clients) > PERMISSIVE (servers) > NONE" {
		t.Errorf("got %d targets, %s", len(p.Targets), got)
	}
}

// With a running mesh, callers without a sidecar count if they were seen.
func TestWitness(t *testing.T) {
	report := readiness.Report{Namespace: "shop", Workload: "cart", Port: 80}
	seen := report
	seen.Peers = []readiness.Seen{{Who: "shop/old at 10.0.0.2", Effect: readiness.Breaks}, {Who: "shop/web at 10.0.0.1", Effect: readiness.Follows}}
	young := report
	young.Obstacles = []readiness.Obstacle{{Who: "shop/cart", Why: "tells nothing", Effect: readiness.Unknown}}
	for _, c := range []struct {
		name          string
		reports       []readiness.Report
		seen, unknown int
		verdict       readiness.Verdict
	}{
		{"nobody", []readiness.Report{report}, 0, 0, readiness.Ready},
		{"somebody", []readiness.Report{seen}, 1, 0, readiness.NotReady},
		{"young", []readiness.Report{young}, 0, 1, readiness.Unclear},
		{"no evidence", nil, 0, 1, readiness.Unclear},
	} {
		p := Make(mesh(), mesh(policy("cart", model.Strict, nil)), func(model.Key) string { return "" })
		if p.Verdict() != readiness.NotReady {
			t.Fatal("offline, whoever could break does")
		}
		if p.Witness(c.reports); len(p.Seen) != c.seen || len(p.Unknown) != c.unknown || p.Verdict() != c.verdict {
			t.Errorf("%s: seen %v, unknown %v, %s", c.name, p.Seen, p.Unknown, p.Verdict())
		}
	}
	p := Make(mesh(plain), mesh(plain, policy("cart", model.Strict, nil)), func(model.Key) string { return "" })
	if p.Witness([]readiness.Report{report}); p.Verdict() != readiness.NotReady {
		t.Error("a caller with a sidecar that is told to send plaintext breaks, seen or not")
	}
}

package adopt

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

// shop is cart, of two pods with two ports, and its client front.
func shop(capture model.Capture) model.Inputs {
	in := model.Inputs{
		Mesh: model.Mesh{
			AutoMTLS: true, TrustDomain: "cluster.local", RootNamespace: "istio-system", Domain: "cluster.local", Capture: capture,
			ListenPort: 15001, InboundListenPort: 15006, HTTPPort: 15002, ConnectTimeout: time.Second,
		},
		Policies: []model.ServerPolicy{strict("shop")},
	}
	http := model.ServicePort{Name: "http", Number: 80, Protocol: model.HTTP}
	tcp := model.ServicePort{Name: "tcp", Number: 90, Protocol: model.TCP}
	for i, name := range []string{"cart-1", "cart-2", "front"} {
		id := model.WorkloadID{Namespace: "shop", Name: name}
		address := fmt.Sprintf("10.0.0.%d", i+1)
		w := model.Workload{ID: id, Address: address, Group: "cart", ServiceAccount: "cart", Sidecar: true}
		if name == "front" {
			w.Group, w.ServiceAccount = "front", "front"
		} else {
			http.Endpoints = append(http.Endpoints, model.Endpoint{Address: address, Port: 8080, Workload: id, Ready: true})
			tcp.Endpoints = append(tcp.Endpoints, model.Endpoint{Address: address, Port: 9090, Workload: id, Ready: true})
		}
		in.Workloads = append(in.Workloads, w)
	}
	in.Services = []model.Service{{
		Key: model.Key{Kind: "Service", Namespace: "shop", Name: "cart"}, Host: "cart.shop.svc.cluster.local", Namespace: "shop", Name: "cart",
		VIPs: []string{"10.1.0.1"}, Ports: []model.ServicePort{http, tcp},
	}}
	return in
}

func strict(namespace string) model.ServerPolicy {
	return model.ServerPolicy{
		Key: model.Key{Kind: "Policy", Namespace: namespace, Name: "default"}, Rules: []model.PolicyRule{{Rank: model.RankNamespace, Mode: model.Strict}},
	}
}

func target(group string, port uint16) model.Target {
	return model.Target{Namespace: "shop", Group: group, Port: port}
}

// claim is what the workload's proxy holds of in.
func claim(in model.Inputs, name string) ads.Claim {
	s := model.Build(in)
	p, _ := s.ProxyOf(model.WorkloadID{Namespace: "shop", Name: name})
	config, _ := translate.For(s, p)
	versions := func(url string) func(func([]byte, []byte) bool) {
		return func(yield func([]byte, []byte) bool) {
			for _, r := range config.Resources(url) {
				if !yield([]byte(r.Name), []byte(r.Version)) {
					return
				}
			}
		}
	}
	return ads.Claim{Proxy: p, At: time.Unix(1, 0), Holds: true, Listeners: versions(translate.ListenerType), Clusters: versions(translate.ClusterType)}
}

func found(in model.Inputs, list ...ads.Claim) map[model.Target]model.Phase {
	_, phases := Phases(in, func(tell func(ads.Claim)) {
		for _, c := range list {
			tell(c)
		}
	})
	return phases
}

// at is in with targets of cart in some phases.
func at(in model.Inputs, http, tcp, other model.Phase) model.Inputs {
	in.Phases = map[model.Target]model.Phase{
		target("cart", 8080): http, target("cart", 9090): tcp, target("cart", 0): other,
		target("front", 0): model.PhaseStrict,
	}
	return in
}

// Every mixture of phases is told by what proxies hold, but for the two
// PERMISSIVE where no client tells them apart, and whatever the mode is now.
func TestPhasesAreTold(t *testing.T) {
	for _, capture := range []model.Capture{model.CaptureRedirect, model.CaptureNone} {
		for _, mode := range []string{"strict", "off"} {
			in := shop(capture)
			for p := 0; p < 125; p += 7 {
				http, tcp, other := model.Phase(p%5), model.Phase(p/5%5), model.Phase(p/25)
				was := at(in, http, tcp, other)
				now := in
				if mode == "off" {
					now.Policies = nil
				}
				got := found(now, claim(was, "cart-1"), claim(was, "cart-2"), claim(was, "front"))
				want := was.Phases
				switch {
				case capture == model.CaptureNone: // ports that nothing names are not served
					want[target("cart", 0)], want[target("front", 0)] = now0(mode), now0(mode)
				case (other == model.PhaseOpened || other == model.PhaseMoved) && mode == "off":
					want[target("cart", 0)] = model.PhaseOpened
				case other == model.PhaseOpened || other == model.PhaseMoved:
					want[target("cart", 0)] = model.PhaseMoved
				}
				if !maps.Equal(got, want) {
					t.Fatalf("%s, %s: held\n%v, found\n%v", capture, mode, want, got)
				}
			}
		}
	}
}

// now0 is where a mode ends.
func now0(mode string) model.Phase {
	if mode == "off" {
		return model.PhaseNone
	}
	return model.PhaseStrict
}

// What is not known is PERMISSIVE, with clients as they are.
func TestUnknownIsPermissive(t *testing.T) {
	in := shop(model.CaptureRedirect)
	rest := at(in, model.PhaseStrict, model.PhaseStrict, model.PhaseStrict)
	plain := at(in, model.PhaseNone, model.PhaseNone, model.PhaseNone)
	upgraded := at(in, model.PhaseStrict, model.PhaseStrict, model.PhaseStrict)
	upgraded.Mesh.AccessLogFile = "/dev/stdout"
	upgraded.Mesh.ConnectTimeout = 2 * time.Second
	bare := claim(upgraded, "cart-1")
	bare.Bare = true
	fresh := ads.Claim{Proxy: claim(in, "cart-2").Proxy, At: time.Unix(1, 0)}
	fresh.Listeners, fresh.Clusters = claim(in, "front").Listeners, claim(in, "front").Clusters
	unheard := fresh
	unheard.Silent = true
	sotw := fresh
	sotw.Holds = true
	nothing := func(func([]byte, []byte) bool) {}
	sotw.Listeners, sotw.Clusters = nothing, nothing
	off := in
	off.Policies = nil
	for name, tc := range map[string]struct {
		in    model.Inputs
		held  []ads.Claim
		phase model.Phase
	}{
		"a server is not there":           {in, []ads.Claim{claim(rest, "cart-1"), claim(rest, "front")}, model.PhaseMoved},
		"nothing of a server was read":    {in, []ads.Claim{claim(rest, "cart-1"), unheard, claim(rest, "front")}, model.PhaseMoved},
		"in state of the world":           {in, []ads.Claim{claim(rest, "cart-1"), sotw, claim(rest, "front")}, model.PhaseMoved},
		"of another version":              {in, []ads.Claim{claim(upgraded, "cart-1"), claim(upgraded, "cart-2"), claim(upgraded, "front")}, model.PhaseMoved},
		"of another version, off":         {off, []ads.Claim{claim(upgraded, "cart-1"), claim(upgraded, "cart-2"), claim(upgraded, "front")}, model.PhaseOpened},
		"servers without secrets":         {off, []ads.Claim{bare, claim(plain, "cart-2"), claim(plain, "front")}, model.PhaseNone},
		"a server not there, plain":       {in, []ads.Claim{claim(plain, "cart-1"), claim(plain, "front")}, model.PhaseOpened},
		"servers differ":                  {in, []ads.Claim{claim(rest, "cart-1"), claim(plain, "cart-2"), claim(rest, "front")}, model.PhaseMoved},
		"a new server takes what is held": {in, []ads.Claim{claim(rest, "cart-1"), fresh, claim(rest, "front")}, model.PhaseStrict},
		"a client is not there":           {in, []ads.Claim{claim(rest, "cart-1"), claim(rest, "cart-2")}, model.PhaseStrict},
	} {
		if got := found(tc.in, tc.held...)[target("cart", 8080)]; got != tc.phase {
			t.Errorf("%s: %d, want %d", name, got, tc.phase)
		}
	}
	if got := found(in, fresh); got != nil {
		t.Errorf("nobody holds anything: %v", got)
	}
}

// Of many ports, one that lags behind is found.
func TestGuesses(t *testing.T) {
	ports := make([]model.Wanted, 9)
	seen := false
	list := guesses(ports)
	for _, guess := range list {
		lags := len(guess) == 9 && guess[4] == model.PhaseOpened
		for i, p := range guess {
			lags = lags && (i == 4 || p == model.PhaseGrace)
		}
		seen = seen || lags
	}
	if !seen || len(list) > 200 {
		t.Errorf("%d guesses; the one that lags is there: %v", len(list), seen)
	}
}

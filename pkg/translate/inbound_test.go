package translate

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/meshpilot/pilot/pkg/model"
	"google.golang.org/protobuf/proto"
)

// serverView is a workload with a port of each kind, all in one mode.
func serverView(mode model.Mode, capture model.Capture) *model.ServerView {
	d := model.Decision{Mode: mode, Phase: mode.Phase(), Rank: model.RankNamespace, Source: model.Key{Kind: "Policy", Namespace: "shop", Name: "p"}}
	port := func(number uint16, protocol model.Protocol) model.InboundPort {
		return model.InboundPort{Port: number, Protocol: protocol, Decision: d, Host: "cart.shop.svc.cluster.local", ServicePort: number,
			From: []model.Key{{Kind: "Service", Namespace: "shop", Name: "cart"}}}
	}
	return &model.ServerView{
		Class: model.ServerClass{Namespace: "shop", Identity: "cart", Capture: capture, Address: "127.10.0.1"},
		Mesh: model.InboundMesh{InboundListenPort: 15006, HTTPPort: 15002, ConnectTimeout: 1e9,
			AccessLogFile: "/dev/stdout", TrustDomains: []string{"cluster.local"}},
		Ports: []model.InboundPort{port(80, model.HTTP), port(3306, model.MySQL), port(3307, model.MySQL), port(443, model.HTTPS), port(9000, model.GRPC)},
		Other: d,
	}
}

// probedView has a probe with a path on each port, and ports that only probes
// name, one of them Envoy's own.
func probedView(mode model.Mode, capture model.Capture) *model.ServerView {
	v := serverView(mode, capture)
	for i := range v.Ports {
		port := v.Ports[i].Port
		v.Ports[i].Probes = []model.Probe{{Port: port, Path: "/grpc.health.v1.Health/Check", GRPC: true}, {Port: port, Path: "/healthz"}}
	}
	v.ProbePorts = []uint16{5000, 15006}
	return v
}

// inForce is a mode, and how far all ports are on the way to it.
type inForce struct {
	mode  model.Mode
	phase model.Phase
}

func (f inForce) String() string { return f.mode.String() + " in phase " + f.phase.String() }

func (f inForce) of(view func(model.Mode, model.Capture) *model.ServerView, capture model.Capture) *model.ServerView {
	v := view(f.mode, capture)
	for i := range v.Ports {
		v.Ports[i].Decision.Phase = f.phase
	}
	v.Other.Phase = f.phase
	return v
}

func decodeListeners(t *testing.T, h *Half) []*listenerv3.Listener {
	t.Helper()
	var out []*listenerv3.Listener
	for _, r := range h.Listeners.Resources {
		l := &listenerv3.Listener{}
		if err := proto.Unmarshal(r.Body.Value, l); err != nil {
			t.Fatal(err)
		}
		out = append(out, l)
	}
	return out
}

// A listener whose shell changes is replaced, and every long connection cut:
// rules 1 and 2 of what Envoy was measured to do.
func TestShellIsTheSameInEveryMode(t *testing.T) {
	states := []inForce{{model.Disable, model.PhaseNone}, {model.Permissive, model.PhaseMoved}, {model.Strict, model.PhaseStrict}, {model.TLSOnly, model.PhaseStrict},
		{model.Strict, model.PhaseNone}, {model.Disable, model.PhaseOpened}, {model.Strict, model.PhaseGrace}, {model.TLSOnly, model.PhaseGrace}}
	for _, view := range []func(model.Mode, model.Capture) *model.ServerView{serverView, probedView} {
		for _, capture := range []model.Capture{model.CaptureRedirect, model.CaptureTProxy, model.CaptureNone} {
			for _, a := range states {
				for _, b := range states {
					change := fmt.Sprintf("%s: %s to %s", capture, a, b)
					from := decodeListeners(t, Inbound(a.of(view, capture), nil))
					to := decodeListeners(t, Inbound(b.of(view, capture), nil))
					if len(from) != len(to) {
						t.Fatalf("%s: %d listeners, then %d", change, len(from), len(to))
					}
					for i := range from {
						compareShells(t, from[i], to[i], change)
					}
				}
			}
		}
	}
}

func compareShells(t *testing.T, from, to *listenerv3.Listener, change string) {
	t.Helper()
	before := map[string]*listenerv3.FilterChain{}
	for _, c := range from.FilterChains {
		before[c.Name] = c
	}
	for _, c := range to.FilterChains {
		if old := before[c.Name]; old != nil && !proto.Equal(old, c) {
			t.Errorf("%s: chain %s of %s changes its content, so its connections are cut", change, c.Name, from.Name)
		}
	}
	if len(from.FilterChains) == 0 || len(to.FilterChains) == 0 {
		t.Errorf("%s: %s has no chains, so it is replaced", change, from.Name)
	}
	from.FilterChains, to.FilterChains = nil, nil
	a, _ := proto.MarshalOptions{Deterministic: true}.Marshal(from)
	b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(to)
	if string(a) != string(b) {
		t.Errorf("%s: the shell of %s changes:\n%v\n%v", change, from.Name, from, to)
	}
}

func TestChainsOfModesAndPhases(t *testing.T) {
	const both = "80|mtls 80|app-tls 80|plain 3306|plain 443|mtls 443|app-tls 443|plain other|mtls other|app-tls other|plain"
	for state, want := range map[inForce]string{
		{model.Strict, model.PhaseOpened}:    both,
		{model.Disable, model.PhaseMoved}:    both,
		{model.Strict, model.PhaseGrace}:     "80|mtls 80|app-tls 80|plain 80|refuse 3306|plain 443|mtls 443|app-tls 443|plain 443|refuse other|mtls other|app-tls other|plain other|refuse",
		{model.Disable, model.PhaseNone}:     "80|app-tls 80|plain 3306|plain 443|app-tls 443|plain other|app-tls other|plain",
		{model.Permissive, model.PhaseMoved}: "80|mtls 80|app-tls 80|plain 3306|plain 443|mtls 443|app-tls 443|plain other|mtls other|app-tls other|plain",
		{model.Strict, model.PhaseStrict}:    "80|mtls 80|mtls-any 80|refuse 3306|mtls 443|mtls 443|mtls-any 443|refuse other|mtls other|mtls-any other|refuse",
		{model.TLSOnly, model.PhaseStrict}:   "80|mtls 80|tls 80|refuse 3306|tls 443|mtls 443|tls 443|refuse other|mtls other|tls other|refuse",
	} {
		v := state.of(serverView, model.CaptureRedirect)
		v.Ports = slices.DeleteFunc(v.Ports, func(p model.InboundPort) bool { return p.Port == 3307 || p.Port == 9000 })
		var names []string
		for _, c := range decodeListeners(t, Inbound(v, nil))[0].FilterChains {
			names = append(names, c.Name)
		}
		if diff := cmp.Diff("15006|loop "+want, strings.Join(names, " ")); diff != "" {
			t.Errorf("%s: %s", state, diff)
		}
	}
}

// TestProbeRoutes: which routes and clusters a probe has, by mode and protocol.
func TestProbeRoutes(t *testing.T) {
	for _, mode := range []model.Mode{model.Disable, model.Permissive, model.Strict, model.TLSOnly} {
		for _, reset := range []bool{false, true} {
			v := probedView(mode, model.CaptureRedirect)
			v.Mesh.RefusalReset = reset
			h := Inbound(v, nil)
			if err := Check(h, &Table{}); err != nil {
				t.Error(err)
			}
			var chains []string
			for _, c := range decodeListeners(t, h)[0].FilterChains {
				chains = append(chains, c.Name)
			}
			if !slices.Contains(chains, "5000|probe") || slices.Contains(chains, "15006|probe") {
				t.Errorf("%s: chains %v", mode, chains)
			}
			got := ""
			for _, r := range h.Routes.Resources {
				if r.Name != inboundName(80, "") && r.Name != inboundName(9000, "") {
					got += r.Name + " "
				}
			}
			want := "inbound|80|plain| inbound|9000|plain| "
			if mode.Phase() >= model.PhaseGrace {
				want = "inbound|443|refuse| inbound|80|refuse| inbound|9000|refuse| "
			}
			if got != want {
				t.Errorf("%s: routes %s, want %s", mode, got, want)
			}
			for port, want := range map[uint16]bool{80: true, 443: true, 9000: false, 3306: true} {
				if got := h.Clusters.Find(inboundName(port, grpcProbeUse)) != nil; got != want {
					t.Errorf("port %d has a cluster for gRPC probes: %t", port, got)
				}
			}
		}
	}
}

// A probe's route in a refusal must carry nothing but the probe; where
// plaintext is served it changes nothing.
func TestProbeRoutesAdmitOnlyTheProbe(t *testing.T) {
	routes := func(mode model.Mode, name string) []*routev3.Route {
		config := &routev3.RouteConfiguration{}
		if err := proto.Unmarshal(Inbound(probedView(mode, model.CaptureRedirect), nil).Routes.Find(name).Body.Value, config); err != nil {
			t.Fatal(err)
		}
		return config.VirtualHosts[0].Routes
	}
	refusal := routes(model.Strict, "inbound|80|refuse|")
	if len(refusal) != 3 || refusal[2].GetDirectResponse().GetStatus() != 403 {
		t.Fatalf("got %v", refusal)
	}
	get := refusal[1]
	if get.Match.GetPath() != "/healthz" || len(get.Match.Headers) != 2 || len(get.TypedPerFilterConfig) != 1 || get.GetRoute().UpgradeConfigs[0].Enabled.GetValue() || len(get.RequestHeadersToRemove) == 0 {
		t.Errorf("the probe's route admits more: %v", get)
	}
	if refusal[0].GetRoute().GetCluster() != "inbound|80|grpc-probe|" || refusal[0].Match.Grpc == nil {
		t.Errorf("gRPC: %v", refusal[0])
	}
	plain := routes(model.Permissive, "inbound|80|plain|")[1]
	if plain.Match.GetPath() != "/healthz" || len(plain.TypedPerFilterConfig) > 0 || len(plain.GetRoute().UpgradeConfigs) > 0 || len(plain.RequestHeadersToRemove) > 0 {
		t.Errorf("the probe's route restricts plaintext that is served: %v", plain)
	}
}

// A service may lead to the port that Envoy itself listens on.
func TestOwnPortHasOneChain(t *testing.T) {
	v := serverView(model.Strict, model.CaptureRedirect)
	v.Ports[0].Port = v.Mesh.InboundListenPort
	for _, c := range decodeListeners(t, Inbound(v, nil))[0].FilterChains {
		if strings.HasPrefix(c.Name, "15006|") && c.Name != "15006|loop" {
			t.Errorf("chain %s matches what 15006|loop does: Envoy refuses the listener", c.Name)
		}
	}
}

// The text of a refusal may change with the policy; the chains may not.
func TestAnotherPolicyOfTheSameModeTouchesRoutesOnly(t *testing.T) {
	a, b := serverView(model.Strict, model.CaptureRedirect), serverView(model.Strict, model.CaptureRedirect)
	for i := range b.Ports {
		b.Ports[i].Decision.Source.Name = "other"
	}
	was := Inbound(a, nil)
	is := Inbound(b, was)
	if is.Listeners.Version != was.Listeners.Version || is.Clusters != was.Clusters || is.Secrets != was.Secrets {
		t.Error("a table besides the routes changed")
	}
	for half, name := range map[*Half]string{was: a.Ports[0].Decision.Source.Name, is: "other"} {
		if !slices.ContainsFunc(half.Listeners.Resources[0].From, func(key model.Key) bool { return key.Name == name }) {
			t.Errorf("the listener is made from %v, which lacks the policy %s", half.Listeners.Resources[0].From, name)
		}
	}
	if is.Routes == was.Routes {
		t.Error("the refusal does not name the new policy")
	}
}

func TestEqualViewsKeepPointers(t *testing.T) {
	was := Inbound(serverView(model.Permissive, model.CaptureRedirect), nil)
	is := Inbound(serverView(model.Permissive, model.CaptureRedirect), was)
	if is.Secrets != was.Secrets || is.SecretsRespelled != was.SecretsRespelled || is.Resident != was.Resident ||
		is.Clusters != was.Clusters || is.Listeners != was.Listeners || is.Routes != was.Routes {
		t.Error("an equal table was not taken by pointer")
	}
}

func TestSecretsAreSpelledTwice(t *testing.T) {
	h := Inbound(serverView(model.Disable, model.CaptureRedirect), nil)
	for i, r := range h.Secrets.Resources {
		if other := h.SecretsRespelled.Resources[i]; r.Name != other.Name || r.Version == other.Version {
			t.Errorf("%s is spelled the same", r.Name)
		}
	}
	if h.NeedsSecrets {
		t.Error("a plaintext half waits for secrets")
	}
	if !Inbound(serverView(model.Permissive, model.CaptureRedirect), nil).NeedsSecrets {
		t.Error("a half with TLS does not wait for secrets")
	}
	// Without capture, ports that no service names have no chains.
	open := serverView(model.Disable, model.CaptureNone)
	open.Other.Mode = model.Strict
	if Inbound(open, nil).NeedsSecrets {
		t.Error("a half without a TLS part waits for secrets")
	}
}

func TestCheckFindsWhatEnvoyWouldRefuse(t *testing.T) {
	none := &Table{}
	good := Inbound(serverView(model.Strict, model.CaptureRedirect), nil)
	if err := Check(good, none); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*Half)
		want   string
	}{
		"cluster": {func(h *Half) { h.Clusters = &Table{} }, "inbound|80||: cluster inbound|80|| does not exist"},
		"route":   {func(h *Half) { h.Routes = &Table{} }, "virtualInbound: route inbound|80|| does not exist"},
		"twice": {func(h *Half) {
			h.Listeners = &Table{Resources: slices.Repeat(h.Listeners.Resources, 2)}
		}, "virtualInbound: name used twice"},
		"rule": {func(h *Half) {
			v := serverView(model.Strict, model.CaptureRedirect)
			v.Class.Local.AppAddress = strings.Repeat("x", 3)
			v.Ports[0].Port = 0 // no address at all
			v.Mesh.ConnectTimeout = -1
			*h = *Inbound(v, nil)
		}, "ConnectTimeout: value must be greater than 0s"},
	} {
		t.Run(name, func(t *testing.T) {
			h := *good
			c.change(&h)
			if err := Check(&h, none); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

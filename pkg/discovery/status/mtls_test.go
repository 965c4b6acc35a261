package status

import (
	"context"
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

func TestVerdict(t *testing.T) {
	port := func(tls model.ClientTLS) *model.OutboundPort {
		return &model.OutboundPort{Upstream: model.Upstream{TLS: tls}}
	}
	at := func(mode model.Mode, accepts bool) endpoint {
		return endpoint{
			OutboundEndpoint: model.OutboundEndpoint{MeshTLS: accepts},
			sidecar:          true, decision: model.Decision{Mode: mode, Phase: mode.Phase()},
		}
	}
	bare := endpoint{}
	cases := []struct {
		name      string
		tls       model.ClientTLS
		endpoints []endpoint
		want      string
	}{
		{"nobody", model.ClientMesh, nil, verdictOK},
		{"plaintext to none", model.ClientPlain, []endpoint{bare}, verdictOK},
		{"plaintext to PERMISSIVE", model.ClientPlain, []endpoint{at(model.Permissive, true)}, verdictOK},
		{"plaintext to STRICT", model.ClientPlain, []endpoint{at(model.Disable, false), at(model.Strict, true)}, verdictConflict},
		{"plaintext to TLS_ONLY", model.ClientPlain, []endpoint{at(model.TLSOnly, true)}, verdictConflict},
		{"mTLS to STRICT", model.ClientMesh, []endpoint{at(model.Strict, true)}, verdictOK},
		{"mTLS to DISABLE", model.ClientMesh, []endpoint{at(model.Disable, false)}, verdictConflict},
		{"mTLS to no sidecar", model.ClientMesh, []endpoint{at(model.Strict, true), bare}, verdictConflict},
		{"TLS to STRICT", model.ClientSimple, []endpoint{at(model.Strict, true)}, verdictConflict},
		{"TLS to PERMISSIVE", model.ClientSimple, []endpoint{at(model.Permissive, true), bare}, verdictOK},
		{"each as it wants", model.ClientMixed, []endpoint{at(model.Strict, true), bare}, verdictMixed},
	}
	for _, c := range cases {
		if got := verdict(port(c.tls), c.endpoints); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestClientSource(t *testing.T) {
	outside := &model.OutboundService{Host: "a.example", Key: model.Key{Kind: "ServiceEntry", Namespace: "n", Name: "a"}}
	for _, c := range []struct {
		upstream model.Upstream
		want     string
	}{
		{model.Upstream{Step: model.StepRule, Source: model.Key{Kind: "DestinationRule", Namespace: "n", Name: "r"}}, "DestinationRule n/r"},
		{model.Upstream{Step: model.StepRule, Source: model.Key{Kind: "DestinationRule", Namespace: "n", Name: "r"}, StandIn: true}, "DestinationRule n/r which is invalid"},
		{model.Upstream{Step: model.StepExcluded}, "mesh config mtlsExcludedServices"},
		{model.Upstream{Step: model.StepExternal}, "ServiceEntry n/a is outside the mesh"},
		{model.Upstream{Step: model.StepAuto}, "mesh config enableAutoMtls"},
		{model.Upstream{Step: model.StepMeshConfig}, "mesh config authPolicy"},
	} {
		if got := clientSource(outside, &c.upstream); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}

// The page names what the endpoints' targets wait for, by the target of the
// port and no other.
func TestMTLSNamesBlockers(t *testing.T) {
	p := testPages(t)
	state, err := p.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id := model.WorkloadID{Namespace: "shop", Name: "cart-1"}
	target := func(port uint16, settled bool, who string) Rollout {
		return Rollout{
			Wanted:  &model.Wanted{Target: model.Target{Namespace: "shop", Group: "cart", Port: port}, Workloads: []model.WorkloadID{id}},
			Settled: settled, Waits: []rollout.Blocker{{Who: who, What: "sends plaintext"}},
		}
	}
	for _, c := range []struct {
		settled bool
		want    bool
	}{{false, true}, {true, false}} {
		state.Rollouts = []Rollout{target(0, false, "nobody"), target(8080, c.settled, "somebody")}
		p.State = func(context.Context) (State, error) { return state, nil }
		text := get(p, "GET", "/debug/mtls?service=cart.shop.svc.cluster.local", "127.0.0.1:1").Body.String()
		if strings.Contains(text, "somebody sends plaintext") != c.want || strings.Contains(text, "nobody") {
			t.Errorf("settled %v:\n%s", c.settled, text)
		}
	}
}

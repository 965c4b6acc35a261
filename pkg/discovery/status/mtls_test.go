package status

import (
	"testing"

	"github.com/meshpilot/pilot/pkg/model"
)

func TestVerdict(t *testing.T) {
	port := func(tls model.ClientTLS) *model.OutboundPort { return &model.OutboundPort{TLS: tls} }
	at := func(mode model.Mode, accepts bool) endpoint {
		return endpoint{
			OutboundEndpoint: model.OutboundEndpoint{MeshTLS: accepts},
			sidecar:          true, decision: model.Decision{Mode: mode},
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
		{"each as it wants", model.ClientMixed, []endpoint{at(model.Strict, true), bare}, verdictMixed},
	}
	for _, c := range cases {
		if got := verdict(port(c.tls), c.endpoints); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestClientStep(t *testing.T) {
	inside := &model.OutboundService{Host: "a.example"}
	outside := &model.OutboundService{Host: "a.example", External: true, Key: model.Key{Kind: "ServiceEntry", Namespace: "n", Name: "a"}}
	cases := []struct {
		mesh model.Mesh
		svc  *model.OutboundService
		step int
		by   string
	}{
		{model.Mesh{AutoMTLS: true, Excluded: []string{"*.example"}}, outside, 2, "mesh config mtlsExcludedServices"},
		{model.Mesh{AutoMTLS: true}, outside, 3, "ServiceEntry n/a is outside the mesh"},
		{model.Mesh{AutoMTLS: true}, inside, 4, "mesh config enableAutoMtls"},
		{model.Mesh{}, inside, 5, "mesh config authPolicy"},
	}
	for _, c := range cases {
		if step, by := clientStep(&c.mesh, c.svc); step != c.step || by != c.by {
			t.Errorf("got step %d by %s, want %d by %s", step, by, c.step, c.by)
		}
	}
}

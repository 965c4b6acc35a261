package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshpilot/pilot/pkg/identity/inspect"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// noon is the time of everything in these tests.
func noon() time.Time { return time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC) }

// shop is a mesh whose cart is STRICT by policy at one of two endpoints, and
// whose bank is outside.
func shop() *model.Snapshot {
	mesh := meshconfig.DefaultMesh().Mesh
	cart := model.Key{Kind: "Service", Namespace: "shop", Name: "cart"}
	return model.Build(model.Inputs{
		Mesh: mesh,
		Services: []model.Service{
			{Key: cart, Host: "cart.shop.svc.cluster.local", Namespace: "shop", Name: "cart", VIPs: []string{"10.1.0.1"},
				Ports: []model.ServicePort{{Name: "http", Number: 80, Protocol: model.HTTP, Endpoints: []model.Endpoint{
					{Address: "10.0.0.1", Port: 8080, Workload: model.WorkloadID{Namespace: "shop", Name: "cart-1"}, Ready: true,
						Locality: model.Locality{Region: "eu", Zone: "a"}},
					{Address: "10.0.0.2", Port: 8080, Workload: model.WorkloadID{Namespace: "shop", Name: "cart-2"}, Ready: true},
				}}}},
			{Key: model.Key{Kind: "ServiceEntry", Namespace: "pay", Name: "bank"}, Host: "bank.example.com", Namespace: "pay",
				External: true, Resolution: model.ResolveNone, ExportTo: []string{"."},
				Ports: []model.ServicePort{{Name: "https", Number: 443, Protocol: model.HTTPS}}},
		},
		Workloads: []model.Workload{
			{ID: model.WorkloadID{Namespace: "shop", Name: "cart-1"}, Address: "10.0.0.1", ServiceAccount: "cart", Sidecar: true},
			{ID: model.WorkloadID{Namespace: "shop", Name: "cart-2"}, Address: "10.0.0.2", ServiceAccount: "cart"},
			{ID: model.WorkloadID{Namespace: "pay", Name: "pay-1"}, Address: "10.0.0.3", ServiceAccount: "pay", Sidecar: true},
		},
		Policies: []model.ServerPolicy{{
			Key:   model.Key{Kind: "Policy", Namespace: "shop", Name: "strict"},
			Rules: []model.PolicyRule{{Rank: model.RankWorkload, Mode: model.Strict, Service: "cart"}},
		}},
	})
}

func testPages(t *testing.T) *Pages {
	t.Helper()
	state := State{
		Snapshot: shop(),
		Bundle:   &meshconfig.Bundle{},
		Inputs:   model.Inputs{Mesh: model.Mesh{Excluded: []string{"nobody.example.com"}}},
		Mesh:     Mesh{Source: "MeshConfig mesh.yaml", Hash: "0011223344556677", Since: noon(), Config: meshconfig.DefaultMesh().Effective()},
		Findings: []Finding{
			{meshconfig.Problem{Code: "INVALID", Severity: meshconfig.Error, On: model.Key{Kind: "MeshConfig", Name: "mesh.yaml"},
				Field: "authPolicy", Message: "unrecognized auth policy: on", At: meshconfig.Position{File: "mesh.yaml", Line: 3}}, noon()},
			{meshconfig.Problem{Code: "NO_SERVICE", Severity: meshconfig.Warning,
				On: model.Key{Kind: "Policy", Namespace: "shop", Name: "p"}, Message: "no service <x>"}, noon()},
		},
		Proxies: []Proxy{{
			Node: "sidecar~10.0.0.1~cart-1.shop~shop.svc.cluster.local", Workload: "shop/cart-1", Connected: noon(), Known: true, Protocol: "delta",
			Types: map[string]Exchange{"CDS": {Sent: "b", SentAt: noon(), Acked: "a", AckedAt: noon()}},
		}},
		Edits: []Edit{{At: noon(), Applied: noon().Add(time.Second), LastACK: noon().Add(2 * time.Second), Pushes: 3, Done: true}},
	}
	return &Pages{
		Ready: func() []string { return nil },
		State: func(context.Context) (State, error) { return state, nil },
		Config: func(_ context.Context, node string) ([]Resources, bool, error) {
			return []Resources{
				{translate.SecretType, []*translate.Resource{secretResource(t)}},
				{translate.ClusterType, []*translate.Resource{pack(t, "c", &clusterv3.Cluster{Name: "c"})}},
			}, node == state.Proxies[0].Node, nil
		},
		Certificates: func() []inspect.Public {
			return []inspect.Public{{Name: "control plane", Roots: "PEM"}, {Name: "proxy shop/cart-1", Identity: "spiffe://cluster.local/ns/shop/sa/cart", Serial: "abc", NotAfter: noon(), Chain: "PEM"}}
		},
	}
}

func pack(t *testing.T, name string, m proto.Message) *translate.Resource {
	t.Helper()
	body, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return &translate.Resource{Name: name, Version: "v1", Body: body, From: []model.Key{{Kind: "Service", Namespace: "shop", Name: "cart"}}}
}

// secretResource has key material inline, which translation never makes.
func secretResource(t *testing.T) *translate.Resource {
	inline := func(text string) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: text}}
	}
	return pack(t, "default", &tlsv3.Secret{Name: "default", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline("public"), PrivateKey: inline("KEY MATERIAL"), Password: inline("KEY MATERIAL"),
	}}})
}

func get(p *Pages, method, target, remote string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	r.RemoteAddr = remote
	w := httptest.NewRecorder()
	p.Handler().ServeHTTP(w, r)
	return w
}

func TestPages(t *testing.T) {
	for name, target := range map[string]string{
		"index":            "/debug/",
		"problems":         "/debug/problems",
		"problems-warning": "/debug/problems?severity=warning&namespace=shop",
		"proxies":          "/debug/proxies",
		"edits":            "/debug/edits",
		"config":           "/debug/config?proxy=sidecar~10.0.0.1~cart-1.shop~shop.svc.cluster.local",
		"mtls":             "/debug/mtls",
		"mtls-filtered":    "/debug/mtls?service=bank.example.com&namespace=pay",
		"endpoints":        "/debug/endpoints?service=cart.shop.svc.cluster.local",
		"explain":          "/debug/explain?from=pay/pay-1&to=cart.shop:80",
		"explain-all":      "/debug/explain?all=true",
		"explain-plain":    "/debug/explain?plaintext=true",
		"check":            "/debug/check",
		"certificates":     "/debug/certificates",
		"mesh":             "/debug/mesh",
	} {
		t.Run(name, func(t *testing.T) {
			w := get(testPages(t), "GET", target, "127.0.0.1:4000")
			if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" {
				t.Fatalf("got %d %s: %s", w.Code, w.Header(), w.Body)
			}
			if !json.Valid(w.Body.Bytes()) {
				t.Fatalf("no JSON: %s", w.Body)
			}
			golden(t, name, w.Body.Bytes())
		})
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (-update rewrites it); got\n%s", path, got)
	}
}

func TestPagesRefuse(t *testing.T) {
	const local = "127.0.0.1:4000"
	cases := []struct {
		method, target, remote string
		code                   int
		text                   string
	}{
		{"GET", "/debug/problems", "10.0.0.9:4000", 403, "--debug-remote"},
		{"GET", "/debug/", "[2001:db8::1]:4000", 403, "--debug-remote"},
		{"GET", "/debug/", "garbage", 403, "--debug-remote"},
		{"POST", "/debug/problems", local, 405, ""},
		{"DELETE", "/readyz", local, 405, ""},
		{"GET", "/debug/problems?severity=bad", local, 400, "severity is error, warning or info"},
		{"GET", "/debug/proxies?proxy=x", local, 404, "no connected proxy"},
		{"GET", "/debug/config", local, 400, "node id"},
		{"GET", "/debug/config?proxy=x", local, 404, "no connected proxy"},
		{"GET", "/debug/endpoints?service=cart", local, 404, "no service has the host cart"},
		{"GET", "/debug/explain?from=shop", local, 400, "to is HOST:PORT"},
		{"GET", "/debug/explain?from=shop/nobody&to=cart:80", local, 404, "there is no workload shop/nobody"},
		{"GET", "/debug/explain?all=true&skip=-1", local, 400, "skip is a number"},
		{"GET", "/debug/explain?all=true", "10.0.0.9:4000", 403, "--debug-remote"},
		{"GET", "/debug/check", "10.0.0.9:4000", 403, "--debug-remote"},
		{"GET", "/debug/certificates", "10.0.0.9:4000", 403, "--debug-remote"},
		{"GET", "/debug/nothing", local, 404, ""},
	}
	for _, c := range cases {
		w := get(testPages(t), c.method, c.target, c.remote)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.text) {
			t.Errorf("%s %s from %s: got %d %s, want %d %s", c.method, c.target, c.remote, w.Code, w.Body, c.code, c.text)
		}
	}
}

func TestPagesForOthers(t *testing.T) {
	p := testPages(t)
	for _, remote := range []string{"[::1]:4000", "[::ffff:127.0.0.1]:4000", "127.9.9.9:4000"} {
		if w := get(p, "GET", "/debug/mesh", remote); w.Code != 200 {
			t.Errorf("%s: got %d", remote, w.Code)
		}
	}
	for _, path := range []string{"/livez", "/readyz"} {
		if w := get(p, "GET", path, "10.0.0.9:4000"); w.Code != 200 {
			t.Errorf("%s: got %d, want an answer for everybody", path, w.Code)
		}
	}
	p.Remote = true
	if w := get(p, "GET", "/debug/mesh", "10.0.0.9:4000"); w.Code != 200 {
		t.Errorf("--debug-remote: got %d", w.Code)
	}
}

func TestReadyz(t *testing.T) {
	p := testPages(t)
	p.Ready = func() []string { return []string{"no complete configuration was read yet"} }
	w := get(p, "GET", "/readyz", "10.0.0.9:4000")
	want := "{\n  \"ready\": false,\n  \"reasons\": [\n    \"no complete configuration was read yet\"\n  ]\n}\n"
	if w.Code != 503 || w.Body.String() != want {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if w := get(p, "GET", "/livez", "10.0.0.9:4000"); w.Code != 200 {
		t.Errorf("livez: got %d, want 200 of one that is not ready: a restart does not help", w.Code)
	}
}

func TestPagesBeforeTheFirstBundle(t *testing.T) {
	p := testPages(t)
	p.State = func(context.Context) (State, error) { return State{}, nil }
	for target, code := range map[string]int{
		"/debug/mtls": 503, "/debug/mesh": 503, "/debug/explain?all=true": 503, "/debug/check": 503, "/debug/endpoints?service=x": 503,
		"/debug/problems": 200, "/debug/proxies": 200, "/debug/edits": 200,
	} {
		if w := get(p, "GET", target, "127.0.0.1:1"); w.Code != code {
			t.Errorf("%s: got %d, want %d", target, w.Code, code)
		}
	}
	p.State = func(context.Context) (State, error) { return State{}, errors.New("too busy") }
	if w := get(p, "GET", "/debug/proxies", "127.0.0.1:1"); w.Code != 503 || !strings.Contains(w.Body.String(), "too busy") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestConfigHidesKeys(t *testing.T) {
	w := get(testPages(t), "GET", "/debug/config?proxy=sidecar~10.0.0.1~cart-1.shop~shop.svc.cluster.local", "127.0.0.1:1")
	if strings.Contains(w.Body.String(), "KEY MATERIAL") || !strings.Contains(w.Body.String(), "public") {
		t.Errorf("got %s", w.Body)
	}
}

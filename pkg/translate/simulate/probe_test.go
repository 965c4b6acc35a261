package simulate

import (
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/model"
)

// probed is a mesh in which cart declares two probes of its port.
func probed(protocol model.Protocol, mode model.Mode, reset bool) *Mesh {
	return mesh(mode, protocol, func(in *model.Inputs) {
		in.Mesh.RefusalReset = reset
		in.Workloads[0].Probes = []model.Probe{
			{Port: 8080, Path: "/healthz"},
			{Port: 8080, Path: "/grpc.health.v1.Health/Check", GRPC: true},
			{Port: 5000},
		}
	})
}

func probeCall(m *Mesh, c Call) Outcome {
	c.From, c.Host, c.Address = model.WorkloadID{Namespace: "shop", Name: "legacy"}, "10.0.0.1", "10.0.0.1"
	if c.Port == 0 {
		c.Port = 8080
	}
	return m.Call(c)[0]
}

// TestProbes is the table of spec probes-https-ingress.md 1 for what a probe
// itself gets, and its neighbours.
func TestProbes(t *testing.T) {
	const health = "/grpc.health.v1.Health/Check"
	for _, c := range []struct {
		call Call
		want map[model.Protocol]string // in STRICT and TLS_ONLY
	}{
		{Call{Protocol: HTTP, Path: "/healthz"}, map[model.Protocol]string{model.HTTP: "200", model.GRPC: "200", model.TCP: "200", model.HTTPS: "200", model.MySQL: "closed"}},
		{Call{Protocol: HTTP, Path: "/healthz?verbose"}, map[model.Protocol]string{model.HTTP: "200", model.TCP: "200"}},
		{Call{Protocol: HTTP, Path: "/healthz", Method: "HEAD"}, map[model.Protocol]string{model.HTTP: "403", model.TCP: "403"}},
		{Call{Protocol: HTTP, Path: "/healthz", Body: true}, map[model.Protocol]string{model.HTTP: "403", model.TCP: "403"}},
		{Call{Protocol: HTTP, Path: "/"}, map[model.Protocol]string{model.HTTP: "403", model.TCP: "403", model.MySQL: "closed"}},
		{Call{Protocol: HTTP, Path: "/healthz%2F"}, map[model.Protocol]string{model.HTTP: "400", model.TCP: "400"}},
		{Call{Protocol: GRPC, Path: health}, map[model.Protocol]string{model.HTTP: "200", model.GRPC: "200", model.TCP: "200", model.MySQL: "closed"}},
		{Call{Protocol: GRPC, Path: "/grpc.health.v1.Health/Watch"}, map[model.Protocol]string{model.HTTP: "403", model.GRPC: "403", model.TCP: "403"}},
		{Call{Protocol: HTTP, Path: health, Method: "POST"}, map[model.Protocol]string{model.HTTP: "403", model.GRPC: "403", model.TCP: "403"}},
		{Call{Protocol: HTTP, Path: "/any", Port: 5000}, map[model.Protocol]string{model.HTTP: "200", model.TCP: "200"}},
		{Call{Protocol: TCP, Port: 5000}, map[model.Protocol]string{model.HTTP: "works"}},
		{Call{Protocol: TCP, Port: 5001}, map[model.Protocol]string{model.HTTP: "closed"}},
	} {
		for protocol, want := range c.want {
			for _, mode := range []model.Mode{model.Strict, model.TLSOnly} {
				for _, reset := range []bool{false, true} {
					got := probeCall(probed(protocol, mode, reset), c.call)
					if got.Result != want || reset && got.Body != "" {
						t.Errorf("%+v at a %s port in %s, reset %t: %+v, want %s", c.call, protocol, mode, reset, got, want)
					}
				}
			}
			for _, mode := range []model.Mode{model.Disable, model.Permissive} {
				if got := probeCall(probed(protocol, mode, false), c.call); !got.Works() {
					t.Errorf("%+v at a %s port in %s: %+v", c.call, protocol, mode, got)
				}
			}
		}
	}
}

// FuzzProbePath: whatever path and method a caller without a certificate
// sends, the application gets the declared path or nothing.
func FuzzProbePath(f *testing.F) {
	for _, seed := range []string{
		"/healthz", "/healthz?a=b", "//healthz", "/healthz/../admin", "/x/../healthz", "/healthz/..%2fadmin", "/%68ealthz", "/healthz%00",
		"/healthz/%2e%2e/admin", "/healthz;/../admin", "/healthz\\..\\admin", "/healthz#/admin", "healthz", "http://evil/healthz", "/HEALTHZ", "/healthz/", "/healthz%3f",
	} {
		f.Add(seed, "GET", false)
	}
	f.Add("/healthz", "POST", true)
	meshes := []*Mesh{probed(model.HTTP, model.Strict, false), probed(model.TCP, model.TLSOnly, true)}
	f.Fuzz(func(t *testing.T, target, method string, body bool) {
		for _, m := range meshes {
			got := probeCall(m, Call{Protocol: HTTP, Path: target, Method: method, Body: body})
			bare, _, _ := strings.Cut(target, "?")
			switch {
			case got.Works() && (method != "GET" && method != "" || body):
				t.Errorf("%s %q (body %t) got in", method, target, body)
			case got.Works() && !strings.HasPrefix(got.Path+"?", "/healthz?"):
				t.Errorf("the application gets %q", got.Path)
			case got.Works() && meaning(bare) != "/healthz":
				t.Errorf("%q means %q to an application that decodes it, and got in", bare, meaning(bare))
			case !got.Works() && bare == "/healthz" && method == "GET" && !body:
				t.Errorf("the probe %q does not get in: %+v", target, got)
			}
		}
	})
}

// meaning is a path as a careful application understands it, by other code
// than what is tested.
func meaning(target string) string {
	decoded, err := url.PathUnescape(target)
	if err != nil {
		decoded = target // what cannot be decoded means itself
	}
	return path.Clean("/" + strings.ReplaceAll(decoded, "\\", "/"))
}

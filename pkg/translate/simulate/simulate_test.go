package simulate

import (
	"fmt"
	"testing"

	"github.com/meshpilot/pilot/pkg/model"
)

const host = "cart.shop.svc.cluster.local"

// mesh is a service with one pod, a caller with a sidecar and one without.
func mesh(mode model.Mode, protocol model.Protocol, change func(*model.Inputs)) *Mesh {
	workload := func(name, address string, sidecar bool) model.Workload {
		return model.Workload{
			ID: model.WorkloadID{Namespace: "shop", Name: name}, Key: model.Key{Kind: "Pod", Namespace: "shop", Name: name},
			Address: address, ServiceAccount: name, Sidecar: sidecar,
		}
	}
	in := model.Inputs{
		Mesh: model.Mesh{AutoMTLS: true, TrustDomain: "cluster.local", Domain: "cluster.local", ListenPort: 15001, InboundListenPort: 15006, ConnectTimeout: 1e9},
		Services: []model.Service{{
			Key: model.Key{Kind: "Service", Namespace: "shop", Name: "cart"}, Host: host, Namespace: "shop", Name: "cart", VIPs: []string{"10.96.0.1"},
			Ports: []model.ServicePort{{Name: protocol.String(), Number: 80, Protocol: protocol, Endpoints: []model.Endpoint{
				{Address: "10.0.0.1", Port: 8080, Workload: model.WorkloadID{Namespace: "shop", Name: "cart"}, Ready: true}}}},
		}},
		Workloads: []model.Workload{workload("cart", "10.0.0.1", true), workload("web", "10.0.0.2", true), workload("legacy", "10.0.0.9", false)},
		Policies: []model.ServerPolicy{{
			Key:   model.Key{Kind: "Policy", Namespace: "shop", Name: "p"},
			Rules: []model.PolicyRule{{Rank: model.RankNamespace, Mode: mode}},
		}},
	}
	if change != nil {
		change(&in)
	}
	return Of(model.Build(in))
}

func (m *Mesh) one(t *testing.T, from string, protocol Protocol) Outcome {
	t.Helper()
	return m.asked(t, from, protocol, App{})
}

func (m *Mesh) asked(t *testing.T, from string, protocol Protocol, app App) Outcome {
	t.Helper()
	c := Call{From: model.WorkloadID{Namespace: "shop", Name: from}, Host: host, Address: "10.96.0.1", Port: 80, Protocol: protocol, App: app}
	if from == "legacy" {
		c.Address, c.Port = "10.0.0.1", 8080
	}
	out := m.Call(c)
	if len(out) != 1 {
		t.Fatalf("%d outcomes, want 1: %v", len(out), out)
	}
	return out[0]
}

// matrixRow is a row of the matrix of spec client-tls.md 5.
type matrixRow struct {
	name, from string
	inputs     func(*model.Inputs)
	mesh       func(*Mesh)
	protocol   Protocol
	port       model.Protocol
	want       [5]string // by mode; empty: not asked
}

func (row matrixRow) run(t *testing.T) {
	modes := []string{"no sidecar", "DISABLE", "PERMISSIVE", "STRICT", "TLS_ONLY"}
	for i, want := range row.want {
		if want == "" {
			continue
		}
		t.Run(row.name+"/"+modes[i], func(t *testing.T) {
			m := mesh(model.Mode(max(i-1, 0)), row.port, func(in *model.Inputs) {
				if row.inputs != nil {
					row.inputs(in)
				}
				in.Workloads[0].Sidecar = i > 0
			})
			if row.mesh != nil {
				row.mesh(m)
			}
			if got := m.one(t, row.from, row.protocol); got.Result != want {
				t.Errorf("%s, want %s: %+v", got.Result, want, got)
			}
		})
	}
}

// TestResultMatrix is the matrix of spec client-tls.md 5.
func TestResultMatrix(t *testing.T) {
	exclude := func(in *model.Inputs) { in.Mesh.Excluded = []string{host} }
	force := func(in *model.Inputs) { in.Mesh.AutoMTLS, in.Mesh.MutualTLS = false, true }
	// The server runs as another account than the client was told.
	stranger := func(m *Mesh) { m.at("10.0.0.1").Identity = "spiffe://cluster.local/ns/shop/sa/stranger" }
	certified := func(m *Mesh) { m.at("10.0.0.9").Identity = "spiffe://cluster.local/ns/shop/sa/legacy" }
	for _, row := range []matrixRow{
		{"plaintext through a sidecar", "web", exclude, nil, HTTP, model.HTTP, [5]string{"200", "200", "200", "403", "403"}},
		{"plaintext without one", "legacy", nil, nil, HTTP, model.HTTP, [5]string{"200", "200", "200", "403", "403"}},
		{"mesh mTLS", "web", force, nil, HTTP, model.HTTP, [5]string{"503", "503", "200", "200", "200"}},
		{"mesh mTLS to another account", "web", force, stranger, HTTP, model.HTTP, [5]string{"", "", "503", "503", "503"}},
		{"AUTO", "web", nil, nil, HTTP, model.HTTP, [5]string{"200", "200", "200", "200", "200"}},
		{"AUTO, gRPC", "web", nil, nil, GRPC, model.GRPC, [5]string{"200", "200", "200", "200", "200"}},
		{"TLS without a certificate", "legacy", nil, nil, HTTPS, model.HTTP, [5]string{"works", "works", "works", "closed", "works"}},
		{"TLS with a certificate", "legacy", nil, certified, HTTPS, model.HTTP, [5]string{"works", "works", "works", "works", "works"}},
		{"TCP: plaintext through a sidecar", "web", exclude, nil, TCP, model.TCP, [5]string{"works", "works", "works", "closed", "closed"}},
		{"TCP: plaintext without one", "legacy", nil, nil, TCP, model.TCP, [5]string{"works", "works", "works", "closed", "closed"}},
		{"TCP: mesh mTLS", "web", force, nil, TCP, model.TCP, [5]string{"closed", "closed", "works", "works", "works"}},
		{"TCP: AUTO", "web", nil, nil, TCP, model.TCP, [5]string{"works", "works", "works", "works", "works"}},
		{"HTTPS through a sidecar", "web", nil, nil, HTTPS, model.HTTPS, [5]string{"works", "works", "works", "works", "works"}},
		{"HTTPS without one", "legacy", nil, nil, HTTPS, model.HTTPS, [5]string{"works", "works", "works", "closed", "works"}},
		{"server-first: AUTO", "web", nil, nil, TCP, model.MySQL, [5]string{"works", "works", "works", "works", "works"}},
		{"server-first: plaintext", "legacy", nil, nil, TCP, model.MySQL, [5]string{"works", "works", "works", "closed", "closed"}},
	} {
		row.run(t)
	}
}

// byRule makes clients send what a DestinationRule says.
func byRule(mode model.ClientTLS, change func(*model.TLSSettings)) func(*model.Inputs) {
	t := &model.TLSSettings{Mode: mode}
	if change != nil {
		change(t)
	}
	return func(in *model.Inputs) {
		in.Rules = []model.DestinationRule{{
			Key: model.Key{Kind: "DestinationRule", Namespace: "shop", Name: "r"}, Host: host,
			Policy: &model.TrafficPolicy{Traffic: model.Traffic{TLS: t}},
		}}
	}
}

// TestRuleMatrix is the same matrix for what a DestinationRule says.
func TestRuleMatrix(t *testing.T) {
	const account = "spiffe://cluster.local/ns/shop/sa/cart"
	expect := func(name string) func(*model.TLSSettings) {
		return func(t *model.TLSSettings) {
			t.SubjectAltNames, t.CACertificates = []string{name}, "/etc/certs/root-cert.pem"
		}
	}
	files := func(dir string) func(*model.TLSSettings) {
		return func(t *model.TLSSettings) {
			t.ClientCertificate, t.PrivateKey = dir+"/cert-chain.pem", dir+"/key.pem"
			expect(account)(t)
		}
	}
	for _, row := range []matrixRow{
		{"DISABLE", "web", byRule(model.ClientPlain, nil), nil, HTTP, model.HTTP, [5]string{"200", "200", "200", "403", "403"}},
		{"ISTIO_MUTUAL", "web", byRule(model.ClientMesh, nil), nil, HTTP, model.HTTP, [5]string{"503", "503", "200", "200", "200"}},
		{"ISTIO_MUTUAL to its account", "web", byRule(model.ClientMesh, expect(account)), nil, HTTP, model.HTTP, [5]string{"503", "503", "200", "200", "200"}},
		{"ISTIO_MUTUAL to another account", "web", byRule(model.ClientMesh, expect(account+"2")), nil, HTTP, model.HTTP, [5]string{"", "", "503", "503", "503"}},
		{"SIMPLE", "web", byRule(model.ClientSimple, nil), nil, HTTP, model.HTTP, [5]string{"200", "200", "200", "503", "503"}},
		{"SIMPLE that knows the account", "web", byRule(model.ClientSimple, expect(account)), nil, HTTP, model.HTTP, [5]string{"200", "200", "200", "503", "200"}},
		{"SIMPLE to another account", "web", byRule(model.ClientSimple, expect(account+"2")), nil, HTTP, model.HTTP, [5]string{"200", "200", "200", "503", "503"}},
		{"SIMPLE by the system's roots", "web", byRule(model.ClientSimple, func(t *model.TLSSettings) { t.SubjectAltNames = []string{account} }), nil, HTTP, model.HTTP, [5]string{"200", "200", "200", "503", "503"}},
		{"SIMPLE without a check", "web", byRule(model.ClientSimple, func(t *model.TLSSettings) { t.SkipVerify = true }), nil, HTTP, model.HTTP, [5]string{"200", "200", "200", "503", "200"}},
		{"MUTUAL by the mesh's certificate", "web", byRule(model.ClientMutual, files("/etc/certs")), nil, HTTP, model.HTTP, [5]string{"200", "200", "200", "200", "200"}},
		{"MUTUAL by another", "web", byRule(model.ClientMutual, files("/etc/partner")), nil, HTTP, model.HTTP, [5]string{"200", "200", "200", "503", "503"}},
		{"gRPC: SIMPLE", "web", byRule(model.ClientSimple, nil), nil, GRPC, model.GRPC, [5]string{"200", "200", "200", "503", "503"}},
		{"TCP: ISTIO_MUTUAL", "web", byRule(model.ClientMesh, nil), nil, TCP, model.TCP, [5]string{"closed", "closed", "works", "works", "works"}},
		{"TCP: SIMPLE", "web", byRule(model.ClientSimple, expect(account)), nil, TCP, model.TCP, [5]string{"works", "works", "works", "closed", "works"}},
	} {
		row.run(t)
	}
}

func TestRefusalSaysWhy(t *testing.T) {
	got := mesh(model.Strict, model.HTTP, nil).one(t, "legacy", HTTP)
	want := "plaintext refused: " + host + ":80 accepts only mutual TLS (STRICT, set by Policy shop/p)"
	if got.Body != want {
		t.Errorf("body %q, want %q", got.Body, want)
	}
}

// TestMixesOfOldAndNew: while a change is delivered, some proxies hold the old
// configuration and others the new one. Through PERMISSIVE every call works in
// every mix; straight to STRICT it does not, which is why there are phases.
func TestMixesOfOldAndNew(t *testing.T) {
	clientsStay := func(in *model.Inputs) { in.Mesh.Excluded = []string{host} }
	for _, c := range []struct {
		name   string
		before *Mesh
		after  *Mesh
		safe   bool
	}{
		{"server opens", mesh(model.Disable, model.HTTP, nil), mesh(model.Permissive, model.HTTP, clientsStay), true},
		{"clients move", mesh(model.Permissive, model.HTTP, clientsStay), mesh(model.Permissive, model.HTTP, nil), true},
		{"server closes", mesh(model.Permissive, model.HTTP, nil), mesh(model.Strict, model.HTTP, nil), true},
		{"all at once", mesh(model.Disable, model.HTTP, nil), mesh(model.Strict, model.HTTP, nil), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			lost := 0
			for mix := range 4 {
				m := &Mesh{Peers: []*Peer{c.before.Peers[0], c.before.Peers[2]}} // cart, web: sorted by name
				for i, peer := range []*Peer{c.after.Peers[0], c.after.Peers[2]} {
					if mix>>i&1 == 1 {
						m.Peers[i] = peer
					}
				}
				if got := m.one(t, "web", HTTP); !got.Works() {
					lost++
					if c.safe {
						t.Errorf("mix %02b: %+v", mix, got)
					}
				}
			}
			if !c.safe && lost != 2 {
				t.Errorf("%d of 4 mixes lose the call; want 2, or the phases are not needed", lost)
			}
		})
	}
}

func ExampleMesh_Call() {
	m := mesh(model.Strict, model.HTTP, nil)
	call := Call{From: model.WorkloadID{Namespace: "shop", Name: "web"}, Host: host, Address: "10.96.0.1", Port: 80, Protocol: HTTP}
	for _, o := range m.Call(call) {
		fmt.Println(o.Result, o.Sent, o.Cluster, o.Chain)
	}
	// Output: 200 mesh mTLS outbound|80||cart.shop.svc.cluster.local 8080|mtls
}

// What capture leaves out goes to the application, whatever the policy says.
func TestPortsThatCaptureLeavesOut(t *testing.T) {
	m := mesh(model.Strict, model.HTTP, func(in *model.Inputs) {
		in.Workloads[0].Inbound = &model.CapturedPorts{All: true, Except: []uint16{8080}}
	})
	for _, from := range []string{"web", "legacy"} {
		if got := m.one(t, from, HTTP); got.Result != "200" || got.Sent != Plaintext || got.Chain != "" {
			t.Errorf("from %s: %+v, want 200 in plaintext, past the sidecar", from, got)
		}
	}
}

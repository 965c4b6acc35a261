package translate

import (
	"fmt"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/meshpilot/pilot/pkg/model"
)

// tlsOf is what the clients of a service of two accounts get by a rule, as
// "certificate; root; names; SNI; ALPN; versions".
func tlsOf(t *testing.T, host string, protocol model.Protocol, rule model.TLSSettings) (string, *Half) {
	t.Helper()
	s := model.Build(model.Inputs{
		Mesh: model.Mesh{TrustDomain: "td", TrustDomainAliases: []string{"old"}, Domain: "cluster.local", ListenPort: 15001, ConnectTimeout: 1e9},
		Services: []model.Service{{
			Key: model.Key{Kind: "Service", Namespace: "a", Name: "s"}, Host: host, Namespace: "a",
			Ports: []model.ServicePort{{Number: 80, Protocol: protocol, Endpoints: []model.Endpoint{
				{Address: "10.0.0.1", Port: 80, Workload: model.WorkloadID{Namespace: "a", Name: "w"}, Ready: true}}}},
		}},
		Workloads: []model.Workload{{ID: model.WorkloadID{Namespace: "a", Name: "w"}, ServiceAccount: "x"}},
		Rules: []model.DestinationRule{{
			Key: model.Key{Kind: "DestinationRule", Namespace: "a", Name: "r"}, Host: host, Policy: &model.TrafficPolicy{Traffic: model.Traffic{TLS: &rule}},
		}},
	})
	half := Outbound(s.ClientView(model.ClientClass{Namespace: "b"}), Share(s, nil), nil)
	if err := Check(half, Endpoints(s.Endpoints(), nil)); err != nil {
		t.Fatal(err)
	}
	cluster, context := &clusterv3.Cluster{}, &tlsv3.UpstreamTlsContext{}
	if err := half.Clusters.Find(OutboundCluster(80, host)).Body.UnmarshalTo(cluster); err != nil {
		t.Fatal(err)
	}
	if cluster.TransportSocket == nil {
		return "none", half
	}
	if err := cluster.TransportSocket.GetTypedConfig().UnmarshalTo(context); err != nil {
		t.Fatal(err)
	}
	common := context.CommonTlsContext
	var cert, names []string
	for _, c := range common.TlsCertificateSdsSecretConfigs {
		cert = append(cert, c.Name)
	}
	check := common.GetCombinedValidationContext()
	for _, san := range check.GetDefaultValidationContext().GetMatchTypedSubjectAltNames() {
		name := san.Matcher.GetExact() + san.Matcher.GetPrefix() + san.Matcher.GetSuffix()
		names = append(names, fmt.Sprintf("%s %T %s", san.SanType, san.Matcher.MatchPattern, name))
	}
	text := fmt.Sprint(cert, "; ", check.GetValidationContextSdsSecretConfig().GetName(), "; ", strings.Join(names, ", "), "; ",
		context.Sni, "; ", common.AlpnProtocols, "; ", common.TlsParams.GetTlsMaximumProtocolVersion())
	return strings.NewReplacer("*matcherv3.StringMatcher_", "", "TLS_AUTO", "default").Replace(text), half
}

// TestClientTLS is the table of spec client-tls.md 3.
func TestClientTLS(t *testing.T) {
	mutual := model.TLSSettings{Mode: model.ClientMutual, ClientCertificate: "/c/a.crt", PrivateKey: "/c/a.key", CACertificates: "/c/ca.crt"}
	with := func(s model.TLSSettings, change func(*model.TLSSettings)) model.TLSSettings { change(&s); return s }
	simple, mesh := model.TLSSettings{Mode: model.ClientSimple}, model.TLSSettings{Mode: model.ClientMesh}
	const host, wild = "s.a.svc.cluster.local", "*.example.com"
	for _, c := range []struct {
		name, host string
		protocol   model.Protocol
		rule       model.TLSSettings
		want       string
	}{
		{"DISABLE", host, model.HTTP, model.TLSSettings{}, "none"},
		{"MESH", host, model.HTTP, mesh,
			"[default]; ROOTCA; URI Exact spiffe://old/ns/a/sa/x, URI Exact spiffe://td/ns/a/sa/x; outbound_.80_._.s.a.svc.cluster.local; [istio]; TLSv1_3"},
		{"MESH, HTTP/2", host, model.GRPC, mesh,
			"[default]; ROOTCA; URI Exact spiffe://old/ns/a/sa/x, URI Exact spiffe://td/ns/a/sa/x; outbound_.80_._.s.a.svc.cluster.local; [istio h2]; TLSv1_3"},
		{"MESH as the rule says", host, model.TCP, with(mesh, func(s *model.TLSSettings) {
			s.SNI, s.SubjectAltNames, s.SkipVerify = "n", []string{"spiffe://x/y"}, true
		}),
			"[default]; ROOTCA; URI Exact spiffe://x/y; n; [istio]; TLSv1_3"},
		{"SIMPLE", host, model.HTTP, simple, "[]; file-root:system; DNS Exact s.a.svc.cluster.local; s.a.svc.cluster.local; []; default"},
		{"SIMPLE, HTTP/2", host, model.HTTP2, simple, "[]; file-root:system; DNS Exact s.a.svc.cluster.local; s.a.svc.cluster.local; [h2]; default"},
		{"SIMPLE with sni", host, model.TCP, with(simple, func(s *model.TLSSettings) { s.SNI = "n.example" }), "[]; file-root:system; DNS Exact n.example; n.example; []; default"},
		{"SIMPLE with names", host, model.TCP, with(simple, func(s *model.TLSSettings) { s.SubjectAltNames = []string{"n", "spiffe://x/y", "10.0.0.1", "a@b"} }),
			"[]; file-root:system; DNS Exact n, URI Exact spiffe://x/y, IP_ADDRESS Exact 10.0.0.1, EMAIL Exact a@b; s.a.svc.cluster.local; []; default"},
		{"SIMPLE to a wildcard", wild, model.TCP, simple, "[]; file-root:system; DNS Suffix .example.com; ; []; default"},
		{"SIMPLE without a check", host, model.TCP, with(simple, func(s *model.TLSSettings) { s.SkipVerify = true }), "[]; ; ; s.a.svc.cluster.local; []; default"},
		{"MUTUAL", host, model.HTTP, mutual, "[file-cert:/c/a.crt~/c/a.key]; file-root:/c/ca.crt; DNS Exact s.a.svc.cluster.local; s.a.svc.cluster.local; []; default"},
		{"MUTUAL without a check", host, model.TCP, with(mutual, func(s *model.TLSSettings) { s.SkipVerify = true }), "[file-cert:/c/a.crt~/c/a.key]; ; ; s.a.svc.cluster.local; []; default"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, half := tlsOf(t, c.host, c.protocol, c.rule)
			if got != c.want {
				t.Errorf("\n got %s\nwant %s", got, c.want)
			}
			if half.NeedsSecrets != (c.rule.Mode == model.ClientMesh) {
				t.Errorf("needs secrets of the mesh: %v", half.NeedsSecrets)
			}
			for _, secret := range half.Secrets.Resources {
				if other := half.SecretsRespelled.Find(secret.Name); other == nil || other.Version == secret.Version {
					t.Errorf("%s has one spelling", secret.Name)
				}
			}
		})
	}
}

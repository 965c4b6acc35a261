package meshconfig

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/meshpilot/pilot/pkg/model"
)

const ruleHead = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: r, namespace: shop}\nspec:\n  "

// TestRuleErrors: every row of the tables of spec client-tls.md 2. The first
// word of want is whether a stand-in remains, "tls", or "-".
func TestRuleErrors(t *testing.T) {
	const files = "clientCertificate: /c/a.pem, privateKey: /c/a.key"
	for _, c := range []struct{ spec, want string }{
		{"trafficPolicy: {tls: {mode: SIMPLE}}", `- INVALID spec.host: destination rule host must be set`},
		{"host: ''", `- INVALID spec.host: destination rule host must be set`},
		{"host: a.*.b", `- INVALID spec.host: invalid host "a.*.b"`},
		{"host: '*a.b'", `- INVALID spec.host: invalid host "*a.b"`},
		{"host: 'a*'", `- INVALID spec.host: invalid host "a*"`},
		{"host: '*.'", `- INVALID spec.host: invalid host "*."`},
		{"host: A.b", `- INVALID spec.host: invalid host "A.b"`},
		{"host: a\n  trafficPolicy: {tls: {mode: MUTUAL}}", `tls INVALID spec.trafficPolicy.tls.clientCertificate: client certificate required for mutual tls
INVALID spec.trafficPolicy.tls.privateKey: private key required for mutual tls`},
		{"host: a\n  trafficPolicy: {tls: {mode: MUTUAL, clientCertificate: /a}}", `tls INVALID spec.trafficPolicy.tls.privateKey: private key required for mutual tls`},
		{"host: a\n  trafficPolicy: {tls: {mode: mutual}}", `tls INVALID spec.trafficPolicy.tls.mode: unknown tls mode "mutual", did you mean "MUTUAL"?`},
		{"host: a\n  trafficPolicy: {tls: {mode: ''}}", `tls INVALID spec.trafficPolicy.tls.mode: unknown tls mode "", want one of DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL`},
		{"host: a\n  trafficPolicy: {}", `- INVALID spec.trafficPolicy: traffic policy must have at least one field`},
		{"host: a\n  trafficPolicy: {portLevelSettings: []}", `- INVALID spec.trafficPolicy: traffic policy must have at least one field`},
		{"host: a\n  trafficPolicy: {connectionPool: {}}", `- INVALID spec.trafficPolicy.connectionPool: connection pool must have tcp or http settings`},
		{"host: a\n  trafficPolicy: {outlierDetection: {}}", `- INVALID spec.trafficPolicy.outlierDetection: outlier detection must have at least one field`},
		{"host: a\n  trafficPolicy: {outlierDetection: {http: {}}}", `- INVALID spec.trafficPolicy.outlierDetection.http: outlier detection must have at least one field`},
		{"host: a\n  trafficPolicy: {portLevelSettings: [{tls: {mode: DISABLE}}]}", `tls INVALID spec.trafficPolicy.portLevelSettings[0].port: portTrafficPolicy must have valid port`},
		{"host: a\n  trafficPolicy: {portLevelSettings: [{port: {number: 0}, loadBalancer: {}}]}", `- INVALID spec.trafficPolicy.portLevelSettings[0].port: portTrafficPolicy must have valid port`},
		{"host: a\n  trafficPolicy: {portLevelSettings: [{port: {number: 65536}, loadBalancer: {}}]}", `- INVALID spec.trafficPolicy.portLevelSettings[0].port: portTrafficPolicy must have valid port`},
		{"host: a\n  trafficPolicy: {portLevelSettings: [{port: {name: A_b}, loadBalancer: {}}]}", `- INVALID spec.trafficPolicy.portLevelSettings[0].port: portTrafficPolicy must have valid port`},
		{"host: a\n  trafficPolicy: {portLevelSettings: [{port: {name: a, number: 1}, loadBalancer: {}}]}", `- INVALID spec.trafficPolicy.portLevelSettings[0].port: portTrafficPolicy must have valid port`},
		{"host: a\n  trafficPolicy: {portLevelSettings: [{port: {number: 80}}]}", `- INVALID spec.trafficPolicy.portLevelSettings[0]: port traffic policy must have at least one field`},
		{"host: a\n  subsets: [{name: ''}]", `- INVALID spec.subsets[0].name: subset name "" must be a valid label`},
		{"host: a\n  subsets: [{name: a.b}]", `- INVALID spec.subsets[0].name: subset name "a.b" must be a valid label`},
		{"host: a\n  subsets: [{name: a}, {name: a}]", `- INVALID spec.subsets[1].name: duplicate subset "a"`},
		{"host: a\n  subsets: [{name: a, trafficPolicy: {}}]", `- INVALID spec.subsets[0].trafficPolicy: traffic policy must have at least one field`},
		{"host: a\n  subsets: [{name: a, labels: {tls: {}}, trafficPolicy: {tls: {mode: X}}}]", `tls INVALID spec.subsets[0].labels.tls: want a string, got a mapping
INVALID spec.subsets[0].trafficPolicy.tls.mode: unknown tls mode "X", want one of DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL`},
		{"host: a\n  workloadSelector: {}", `- UNSUPPORTED spec.workloadSelector: workloadSelector is not supported: the rule would hold for clients that it is not meant for`},
		{"host: a\n  trafficPolicy: {tls: {mode: SIMPLE, credentialName: x}}", `tls UNSUPPORTED spec.trafficPolicy.tls.credentialName: credentialName is not supported: name files at the proxy instead`},
		{"host: a\n  trafficPolicy: {tls: {mode: SIMPLE, caCrl: /x}}", `tls UNSUPPORTED spec.trafficPolicy.tls.caCrl: caCrl is not supported: revoked certificates would be accepted`},
		{"host: a\n  trafficPolicy: {tsl: {mode: ISTIO_MUTUAL}}", `tls INVALID unknown field "spec.trafficPolicy.tsl", did you mean "tls"?`},
		{"host: a\n  trafficPolicy: {tls: ISTIO_MUTUAL}", `tls INVALID spec.trafficPolicy.tls: want a mapping, got the string "ISTIO_MUTUAL"`},
		{"host: a\n  trafficPolicy: {tls: {mode: SIMPLE, caCertificates: ca.pem}}", `tls INVALID spec.trafficPolicy.tls.caCertificates: file "ca.pem" must be an absolute path at the proxy, without ".." and "~"`},
		{"host: a\n  trafficPolicy: {tls: {mode: MUTUAL, clientCertificate: /a/../b, privateKey: /a~b}}", `tls INVALID spec.trafficPolicy.tls.clientCertificate: file "/a/../b" must be an absolute path at the proxy, without ".." and "~"
INVALID spec.trafficPolicy.tls.privateKey: file "/a~b" must be an absolute path at the proxy, without ".." and "~"`},
		{"host: a\n  trafficPolicy: {tls: {mode: MUTUAL, " + files + ", subjectAltNames: ['']}}", `tls INVALID spec.trafficPolicy.tls.subjectAltNames[0]: subject alternative name must not be empty`},
		{"host: a\n  trafficPolicy: {tls: {mode: SIMPLE, sni: " + strings.Repeat("a", 256) + "}}", `tls INVALID spec.trafficPolicy.tls.sni: sni must have at most 255 characters, got 256`},
		{"host: a\n  trafficPolicy: {loadBalancer: {simple: RANDM}}", `- INVALID spec.trafficPolicy.loadBalancer.simple: unknown load balancer "RANDM", did you mean "RANDOM"?`},
		{"host: a\n  trafficPolicy: {connectionPool: {tcp: {maxConnections: -1, connectTimeout: 5}}}", `- INVALID spec.trafficPolicy.connectionPool.tcp.connectTimeout: got the number 5: write a duration with its unit, like 500ms, 45s or 1m0s
INVALID spec.trafficPolicy.connectionPool.tcp.maxConnections: -1 must not be negative`},
		{"host: a\n  trafficPolicy: {outlierDetection: {maxEjectionPercent: 101}}", `- INVALID spec.trafficPolicy.outlierDetection.maxEjectionPercent: 101 must be in the range 0..100`},
		{"host: a\n  trafficPolicy: {outlierDetection: {interval: 1s, http: {interval: 1s}}}", `- INVALID spec.trafficPolicy.outlierDetection.http: outlier detection must not be given twice, here and in http`},
		{"host: a\n  exportTo: [A]", `- INVALID spec.exportTo[0]: "A" must be a namespace, "." or "*"`},
	} {
		b, problems := Decode(strings.NewReader(ruleHead+c.spec+"\n"), "r.yaml")
		var got []string
		for _, p := range problems {
			if p.Severity == Error && p.On.String() == "DestinationRule shop/r" {
				got = append(got, p.Code+" "+Problem{Field: p.Field, Message: p.Message}.String())
			}
		}
		if len(b.DestinationRules) > 0 || len(b.Invalid) != 1 {
			t.Errorf("%q: got %+v", c.spec, b)
			continue
		}
		standIn := "- "
		if b.Invalid[0].Rule != nil {
			standIn = "tls "
		}
		if text := standIn + strings.Join(got, "\n"); text != c.want {
			t.Errorf("%q\n got %s\nwant %s", c.spec, text, c.want)
		}
	}
}

// TestRuleRemarks: what is accepted with a word about it.
func TestRuleRemarks(t *testing.T) {
	for _, c := range []struct{ spec, want string }{
		{"trafficPolicy:", ""},
		{"trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]}", ""},
		{"trafficPolicy: {tls: }\n  subsets: []", "error INVALID spec.trafficPolicy: traffic policy must have at least one field"},
		{"trafficPolicy: {tls: {}}", "warning TLS_WITHOUT_MODE spec.trafficPolicy.tls: tls without mode means DISABLE: clients send plaintext; write mode: ISTIO_MUTUAL for mesh mTLS, or mode: DISABLE"},
		{"trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true}}", "warning NO_VERIFY spec.trafficPolicy.tls.insecureSkipVerify: clients take any server for the right one: name its root in caCertificates and its name in subjectAltNames instead"},
		{"trafficPolicy: {tls: {mode: ISTIO_MUTUAL, clientCertificate: a, privateKey: b, caCertificates: c, insecureSkipVerify: true}}", `info UNUSED_FIELD spec.trafficPolicy.tls.clientCertificate: has no effect with mode ISTIO_MUTUAL
info UNUSED_FIELD spec.trafficPolicy.tls.privateKey: has no effect with mode ISTIO_MUTUAL
info UNUSED_FIELD spec.trafficPolicy.tls.caCertificates: has no effect with mode ISTIO_MUTUAL
info UNUSED_FIELD spec.trafficPolicy.tls.insecureSkipVerify: has no effect with mode ISTIO_MUTUAL`},
		{"trafficPolicy: {tls: {mode: SIMPLE, clientCertificate: /a}}", "info UNUSED_FIELD spec.trafficPolicy.tls.clientCertificate: has no effect with mode SIMPLE"},
		{"trafficPolicy: {tunnel: {protocol: CONNECT}}", "info UNUSED_FIELD spec.trafficPolicy.tunnel: has no effect here"},
		{"trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}", "info UNUSED_FIELD spec.trafficPolicy.loadBalancer.consistentHash: has no effect here"},
		{"trafficPolicy: {portLevelSettings: [{port: {number: 80}, connectionPool: {tcp: {tcpKeepalive: {}}}}]}", "info UNUSED_FIELD spec.trafficPolicy.portLevelSettings[0].connectionPool.tcp.tcpKeepalive: has no effect here"},
		{"subsets: [{name: a, trafficPolicy: {outlierDetection: {minHealthPercent: 5}}}]", "info UNUSED_FIELD spec.subsets[0].trafficPolicy.outlierDetection.minHealthPercent: has no effect here"},
		{"subset: []", `error INVALID unknown field "spec.subset", did you mean "subsets"?`},
	} {
		b, problems := Decode(strings.NewReader(ruleHead+"host: a\n  "+c.spec+"\n"), "r.yaml")
		var got []string
		for _, p := range problems {
			got = append(got, p.Severity.String()+" "+p.Code+" "+Problem{Field: p.Field, Message: p.Message}.String())
		}
		if text := strings.Join(got, "\n"); text != c.want {
			t.Errorf("%q\n got %s\nwant %s", c.spec, text, c.want)
		}
		if accepted := !strings.HasPrefix(c.want, "error"); accepted != (len(b.DestinationRules) == 1) {
			t.Errorf("%q: accepted %v", c.spec, !accepted)
		}
	}
}

// TestRule: every field that has an effect, in each apiVersion.
func TestRule(t *testing.T) {
	const spec = `
host: ledger
exportTo: [., books]
trafficPolicy:
  tls: {mode: MUTUAL, clientCertificate: /c/a.pem, privateKey: /c/a.key, caCertificates: /c/ca.pem, subjectAltNames: [x], sni: y, insecureSkipVerify: true}
  loadBalancer: {simple: LEAST_CONN}
  connectionPool:
    tcp: {maxConnections: 1, connectTimeout: 2s}
    http: {http1MaxPendingRequests: 3, http2MaxRequests: 4, maxRequestsPerConnection: 5, maxRetries: 6}
  outlierDetection: {consecutive5xxErrors: 7, interval: 8s, baseEjectionTime: 9s, maxEjectionPercent: 10}
  portLevelSettings:
  - {port: {number: 80}, tls: {mode: ISTIO_MUTUAL}}
  - {port: {name: http}, loadBalancer: {}, outlierDetection: {http: {consecutiveErrors: 2}}}
subsets:
- {name: v1, labels: {version: v1}, trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}, outlierDetection: {consecutive5xxErrors: 0}}}
- {name: v2}
`
	want := &DestinationRule{
		Host: "ledger", ExportTo: []string{".", "books"},
		Policy: &model.TrafficPolicy{
			Traffic: model.Traffic{
				TLS: &model.TLSSettings{
					Mode: model.ClientMutual, ClientCertificate: "/c/a.pem", PrivateKey: "/c/a.key", CACertificates: "/c/ca.pem",
					SubjectAltNames: []string{"x"}, SNI: "y", SkipVerify: true,
				},
				LoadBalancer: model.LeastRequest,
				Pool: &model.ConnectionPool{
					MaxConnections: 1, ConnectTimeout: 2 * time.Second, MaxPendingRequests: 3, MaxRequests: 4, MaxRequestsPerConnection: 5, MaxRetries: 6,
				},
				Outliers: &model.OutlierDetection{ConsecutiveErrors: 7, Interval: 8 * time.Second, BaseEjectionTime: 9 * time.Second, MaxEjectionPercent: 10},
			},
			Ports: []model.PortTraffic{
				{Number: 80, Traffic: model.Traffic{TLS: &model.TLSSettings{Mode: model.ClientMesh}}},
				{Name: "http", Traffic: model.Traffic{LoadBalancer: model.RoundRobin, Outliers: &model.OutlierDetection{ConsecutiveErrors: 2}}},
			},
		},
		Subsets: []model.Subset{
			{Name: "v1", Labels: map[string]string{"version": "v1"}, Policy: &model.TrafficPolicy{Traffic: model.Traffic{
				LoadBalancer: model.Passthrough, Outliers: &model.OutlierDetection{ErrorsOff: true}}}},
			{Name: "v2"},
		},
	}
	want.Namespace, want.Name = "shop", "r"
	for _, version := range []string{"v1", "v1beta1", "v1alpha3"} {
		text := strings.Replace(ruleHead, "istio.io/v1", "istio.io/"+version, 1) + strings.ReplaceAll(spec, "\n", "\n  ") + "\n"
		b, problems := Decode(strings.NewReader(text), "r.yaml")
		if len(problems) != 1 || problems[0].Code != codeNoVerify || len(b.DestinationRules) != 1 {
			t.Fatalf("%s: %v", version, problems)
		}
		if d := cmp.Diff(want, b.DestinationRules[0]); d != "" {
			t.Errorf("%s: -want +got:\n%s", version, d)
		}
	}
}

// TestRuleAcceptance: across edits an invalid rule keeps its last version;
// without one, a rule with a tls block stands in for itself.
func TestRuleAcceptance(t *testing.T) {
	read := func(spec string) (Bundle, []Problem) {
		b, problems := Decode(strings.NewReader(ruleHead+spec+"\n"), "r.yaml")
		b, more := Merge([]Bundle{b}, Bundle{})
		return b, append(problems, more...)
	}
	good, _ := read("host: ledger\n  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}")
	bad, problems := read("host: ledger.books\n  trafficPolicy: {tls: {mode: MESH}}")
	next, problems := bad.Accept(good, problems)
	in, _ := Inputs(next, "cluster.local")
	if len(in.Rules) != 1 || in.Rules[0].StandIn || in.Rules[0].Host != "ledger.shop.svc.cluster.local" || len(problems) == 0 ||
		!strings.HasSuffix(problems[0].Message, "the last accepted version stays in force") {
		t.Errorf("rules %+v, problems %v", in.Rules, problems)
	}
	next, _ = bad.Accept(Bundle{}, nil)
	in, problems = Inputs(next, "cluster.local")
	if len(in.Rules) != 1 || !in.Rules[0].StandIn || in.Rules[0].Host != "ledger.books" || in.Rules[0].HasTLS() != true || len(problems) != 1 || problems[0].Code != codeFailClosed {
		t.Errorf("rules %+v, problems %v", in.Rules, problems)
	}
	harmless, _ := read("host: ledger\n  trafficPolicy: {loadBalancer: {simple: X}}")
	next, _ = harmless.Accept(Bundle{}, nil)
	if in, problems = Inputs(next, "cluster.local"); len(in.Rules) != 0 || len(problems) != 0 {
		t.Errorf("rules %+v, problems %v", in.Rules, problems)
	}
}

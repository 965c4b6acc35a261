package meshconfig

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/meshpilot/pilot/pkg/model"
)

// TestMeshErrors: every row of the spec's tables of fields, with its text.
func TestMeshErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"authPolicy: mutual_tls", `authPolicy: unrecognized auth policy "mutual_tls", did you mean "MUTUAL_TLS"?`},
		{"authPolicy: ON_AND_OFF", `authPolicy: unrecognized auth policy "ON_AND_OFF", want one of NONE, MUTUAL_TLS`},
		{"enableAutoMtls: 'true'", `enableAutoMtls: want true or false, got the string "true"; write true without quotes`},
		{"mtlsExcludedServices: [a.b, '*.c.d', Upper.case, '*', 'a b']", `mtlsExcludedServices[2]: invalid excluded service "Upper.case"; write a lower-case DNS name, or "*." and one
mtlsExcludedServices[3]: invalid excluded service "*"; write a lower-case DNS name, or "*." and one
mtlsExcludedServices[4]: invalid excluded service "a b"; write a lower-case DNS name, or "*." and one`},
		{"mtlsExcludedServices: a.b", `mtlsExcludedServices: want a list (lines that start with "- "), got the string "a.b"`},
		{"plaintextRefusal: reset", `plaintextRefusal: unrecognized plaintext refusal "reset", did you mean "RESET"?`},
		{"mtlsRollout: {mode: gated}", `mtlsRollout.mode: unrecognized mtls rollout mode "gated", did you mean "GATED"?`},
		{"mtlsRollout: {quietPeriod: 999ms}", `mtlsRollout.quietPeriod: invalid mtls rollout quiet period "999ms": duration must be in the range 1s..1h`},
		{"mtlsRollout: {quietPeriod: 61m}", `mtlsRollout.quietPeriod: invalid mtls rollout quiet period "61m": duration must be in the range 1s..1h`},
		{"mtlsRollout: {deadline: 25h}", `mtlsRollout.deadline: invalid mtls rollout deadline "25h": duration must be in the range 1s..24h`},
		{"mtlsRollout: {onDeadline: hold}", `mtlsRollout.onDeadline: unrecognized mtls rollout deadline action "hold", did you mean "HOLD"?`},
		{"connectTimeout: 10", `connectTimeout: got the number 10: write a duration with its unit, like 500ms, 45s or 1m0s`},
		{"connectTimeout: '10'", `connectTimeout: invalid connect timeout "10": write a duration with its unit, like 500ms, 45s or 1m0s`},
		{"connectTimeout: 100us", `connectTimeout: invalid connect timeout "100us": duration must be greater than 1ms`},
		{"connectTimeout: -1s", `connectTimeout: invalid connect timeout "-1s": duration must be greater than 1ms`},
		{"connectTimeout: 1500us", `connectTimeout: invalid connect timeout "1500us": only durations to ms precision are supported`},
		{"connectTimeout: 31s", `connectTimeout: invalid connect timeout "31s": duration must be in the range 1ms..30s`},
		{"proxyListenPort: 0", `proxyListenPort: invalid proxy listen port 0: port number 0 must be in the range 1..65535`},
		{"proxyInboundListenPort: 65536", `proxyInboundListenPort: invalid proxy inbound listen port 65536: port number 65536 must be in the range 1..65535`},
		{"proxyHttpPort: -1", `proxyHttpPort: invalid proxy HTTP port -1: port number -1 must be in the range 0..65535`},
		{"proxyListenPort: 15006", `proxyInboundListenPort: proxy ports must differ: 15006 is also proxyListenPort`},
		{"proxyHttpPort: 15000", `defaultConfig.proxyAdminPort: proxy ports must differ: 15000 is also proxyHttpPort`},
		{"rootNamespace: a.b", `rootNamespace: invalid root namespace "a.b"; write a DNS label`},
		{"rootNamespace: ''", `rootNamespace: invalid root namespace ""; write a DNS label`},
		{"trustDomain: Corp", `trustDomain: invalid trust domain "Corp"; write a lower-case DNS name`},
		{"trustDomainAliases: [a, b/c]", `trustDomainAliases[1]: invalid trust domain alias "b/c"; write a lower-case DNS name`},
		{"outboundTrafficPolicy: {mode: any}", `outboundTrafficPolicy.mode: unrecognized outbound traffic policy "any", want one of ALLOW_ANY, REGISTRY_ONLY`},
		{"accessLogFile: log", `accessLogFile: invalid access log file "log"; write an absolute path, or nothing for none`},
		{"ingressClass: ''", `ingressClass: ingress class must be set`},
		{"ingressControllerMode: on_demand", `ingressControllerMode: unrecognized ingress controller mode "on_demand", want one of OFF, DEFAULT, STRICT`},
		{"defaultConfig: {discoveryRefreshDelay: 100ms}", `defaultConfig.discoveryRefreshDelay: invalid refresh delay "100ms": duration must be in the range 1s..10m`},
		{"defaultConfig: {discoveryRefreshDelay: 1.0005s}", `defaultConfig.discoveryRefreshDelay: invalid refresh delay "1.0005s": only durations to ms precision are supported`},
		{"defaultConfig: {interceptionMode: tproxy}", `defaultConfig.interceptionMode: unrecognized interception mode "tproxy", did you mean "TPROXY"?`},
		{"defaultConfig: {discoveryAddress: ''}", `defaultConfig.discoveryAddress: discovery address must be set to the proxy discovery service`},
		{"defaultConfig: {discoveryAddress: pilot}", `defaultConfig.discoveryAddress: invalid discovery address "pilot"; write host:port`},
		{"defaultConfig: {discoveryAddress: 'pilot:0'}", `defaultConfig.discoveryAddress: invalid discovery address "pilot:0"; write host:port`},
		{"defaultConfig: {discoveryAddress: 'a b:15012'}", `defaultConfig.discoveryAddress: invalid discovery address "a b:15012"; write host:port`},
		{"defaultConfig: {drainDuration: 1500ms}", `defaultConfig.drainDuration: invalid drain duration "1500ms": only durations to s precision are supported`},
		{"defaultConfig: {parentShutdownDuration: 2h}", `defaultConfig.parentShutdownDuration: invalid parent shutdown duration "2h": duration must be in the range 1s..1h`},
		{"defaultConfig: {drainDuration: 60s}", `defaultConfig.parentShutdownDuration: parent shutdown time 1m0s must be greater than drain time 1m0s`},
		{"defaultConfig: {proxyAdminPort: 0}", `defaultConfig.proxyAdminPort: invalid proxy admin port 0: port number 0 must be in the range 1..65535`},
		{"defaultConfig: {concurrency: -1}", `defaultConfig.concurrency: invalid concurrency -1; write a number of threads, or 0 for all cores`},
		{"defaultConfig: {serviceCluster: ''}", `defaultConfig.serviceCluster: service cluster must be set`},
		{"defaultConfig: {configPath: ''}", `defaultConfig.configPath: config path must be set`},
		{"defaultConfig: {binaryPath: ''}", `defaultConfig.binaryPath: binary path must be set`},
		{"authpolicy: NONE", `unknown field "authpolicy", did you mean "authPolicy"?`},
		{"defaultConfig: {drain: 1s}", `unknown field "defaultConfig.drain"`},
		{"mtlsRollout: {quiet: 1s}", `unknown field "mtlsRollout.quiet"`},
		{"authPolicy: NONE\nauthPolicy: MUTUAL_TLS", `duplicate field "authPolicy"`},
		{"defaultConfig: 3", `defaultConfig: want a mapping, got the number 3`},
		{"- authPolicy: NONE", `want an object with apiVersion and kind, got a list`},
	} {
		b, problems := Decode(strings.NewReader(c.text), "conf/mesh.yaml")
		var got []string
		for _, p := range problems {
			if p.Code != codeInvalid || p.Severity != Error {
				t.Errorf("%q: got %s %s", c.text, p.Severity, p.Code)
			}
			p.At, p.On = Position{}, model.Key{}
			got = append(got, p.String())
		}
		if text := strings.Join(got, "\n"); text != c.want {
			t.Errorf("%q\n got %s\nwant %s", c.text, text, c.want)
		}
		if b.Mesh != nil {
			t.Errorf("%q: accepted", c.text)
		}
	}
}

func TestMeshAllErrorsWithLines(t *testing.T) {
	_, got := decodeText("conf/mesh.yaml", "authPolicy: mutual_tls\nfoo: 1\ndefaultConfig:\n  drainDuration: 5\n  zipkinAddress: z:1\nrdsRefreshDelay: 1s\n")
	want := []string{
		`error INVALID conf/mesh.yaml:2: MeshConfig mesh.yaml: unknown field "foo"`,
		`error INVALID conf/mesh.yaml:4: MeshConfig mesh.yaml: defaultConfig.drainDuration: got the number 5: write a duration with its unit, like 500ms, 45s or 1m0s`,
		`info UNUSED_FIELD conf/mesh.yaml:5: MeshConfig mesh.yaml: defaultConfig.zipkinAddress: has no effect here`,
		`info UNUSED_FIELD conf/mesh.yaml:6: MeshConfig mesh.yaml: rdsRefreshDelay: has no effect here`,
		`error INVALID conf/mesh.yaml:1: MeshConfig mesh.yaml: authPolicy: unrecognized auth policy "mutual_tls", did you mean "MUTUAL_TLS"?`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// meshOfText decodes settings that must be accepted.
func meshOfText(t *testing.T, text string) *MeshConfig {
	t.Helper()
	b, problems := Decode(strings.NewReader(text), meshFile)
	if b.Mesh == nil || slices.ContainsFunc(problems, isError) {
		t.Fatalf("%q: %v", text, problems)
	}
	return b.Mesh
}

func TestMeshDefaults(t *testing.T) {
	want := DefaultMesh()
	want.Key = meshFileKey()
	for _, text := range []string{"---", "# authPolicy: MUTUAL_TLS\n", "{}", "defaultConfig:", "defaultConfig: {}", "mtlsExcludedServices: null", "authPolicy:\nconnectTimeout: ~"} {
		if diff := cmp.Diff(want, meshOfText(t, text)); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
	const document = `{"authPolicy":"NONE","enableAutoMtls":true,"mtlsExcludedServices":["kubernetes.default.svc.cluster.local"],` +
		`"plaintextRefusal":"EXPLAIN","mtlsRollout":{"mode":"GATED","quietPeriod":"10s","deadline":"10m0s","onDeadline":"HOLD"},` +
		`"connectTimeout":"10s","proxyListenPort":15001,"proxyInboundListenPort":15006,"proxyHttpPort":0,"rootNamespace":"istio-system",` +
		`"trustDomain":"cluster.local","trustDomainAliases":[],"outboundTrafficPolicy":{"mode":"ALLOW_ANY"},"accessLogFile":"/dev/stdout",` +
		`"ingressClass":"istio","ingressControllerMode":"STRICT","ingressService":"","defaultConfig":{"discoveryRefreshDelay":"1s",` +
		`"interceptionMode":"REDIRECT","discoveryAddress":"istio-pilot.istio-system.svc:15012","drainDuration":"45s",` +
		`"parentShutdownDuration":"1m0s","proxyAdminPort":15000,"concurrency":0,"serviceCluster":"istio-proxy",` +
		`"configPath":"/etc/istio/proxy","binaryPath":"/usr/local/bin/envoy"}}`
	got, err := json.Marshal(DefaultMesh().Effective())
	if err != nil || string(got) != document {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestMeshValues(t *testing.T) {
	text := `
authPolicy: MUTUAL_TLS
enableAutoMtls: off
mtlsExcludedServices: []
plaintextRefusal: RESET
mtlsRollout: {mode: IMMEDIATE, quietPeriod: 1m30s, deadline: 24h, onDeadline: ROLLBACK}
connectTimeout: 1ms
proxyListenPort: 1
proxyInboundListenPort: 2
proxyHttpPort: 3
rootNamespace: root
trustDomain: corp.example
trustDomainAliases: [old.example]
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
accessLogFile: ""
ingressClass: mine
ingressControllerMode: OFF
ingressService: front
defaultConfig:
  discoveryRefreshDelay: 1500ms
  interceptionMode: TPROXY
  discoveryAddress: "[::1]:15010"
  drainDuration: 1s
  parentShutdownDuration: 2s
  proxyAdminPort: 4
  concurrency: 2
  serviceCluster: c
  configPath: d
  binaryPath: e
`
	want := &MeshConfig{
		Key: meshFileKey(),
		Mesh: model.Mesh{
			MutualTLS: true, Excluded: []string{}, RefusalReset: true, ConnectTimeout: time.Millisecond,
			ListenPort: 1, InboundListenPort: 2, HTTPPort: 3, RootNamespace: "root", TrustDomain: "corp.example",
			TrustDomainAliases: []string{"old.example"}, Domain: "cluster.local", RegistryOnly: true,
			Rollout:      model.Rollout{Immediate: true, QuietPeriod: 90 * time.Second, Deadline: 24 * time.Hour, OnDeadline: model.DeadlineRollback},
			RefreshDelay: 1500 * time.Millisecond, Capture: model.CaptureTProxy, DiscoveryAddress: "[::1]:15010",
			DrainDuration: time.Second, ParentShutdown: 2 * time.Second, AdminPort: 4, Concurrency: 2,
			ServiceCluster: "c", ConfigPath: "d", BinaryPath: "e",
		},
		IngressClass: "mine", IngressControllerMode: "OFF", IngressService: "front",
	}
	got := meshOfText(t, text)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// What is printed is what is read.
	printed, err := json.Marshal(got.Effective())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, meshOfText(t, string(printed))); diff != "" {
		t.Error(diff)
	}
}

func TestDefaultConfigFieldByField(t *testing.T) {
	m := meshOfText(t, "defaultConfig: {concurrency: 2}")
	if m.Concurrency != 2 || m.DrainDuration != 45*time.Second || m.AdminPort != 15000 {
		t.Errorf("got %+v", m)
	}
}

func TestOldDiscoveryPorts(t *testing.T) {
	for _, port := range []int{15003, 15005, 15007, 15011} {
		b, got := decodeText(meshFile, fmt.Sprintf("defaultConfig: {discoveryAddress: 'pilot:%d'}", port))
		want := []string{fmt.Sprintf("warning OLD_PORT mesh.yaml:1: MeshConfig mesh.yaml: defaultConfig.discoveryAddress: port %d is one of old Istio and read as 15012; write pilot:15012", port)}
		if !slices.Equal(got, want) || b.Mesh.DiscoveryAddress != "pilot:15012" {
			t.Errorf("got %s, %s", got, b.Mesh.DiscoveryAddress)
		}
	}
}

func TestUnusedMeshFields(t *testing.T) {
	for _, name := range strings.Fields(`mixerCheckServer mixerReportServer disablePolicyChecks rdsRefreshDelay sdsUdsPath enableTracing
		accessLogFormat accessLogEncoding extensionProviders defaultProviders enablePrometheusMerge protocolDetectionTimeout tcpKeepalive
		inboundTrafficPolicy discoverySelectors pathNormalization meshMTLS caCertificates defaultConfig.connectTimeout
		defaultConfig.controlPlaneAuthPolicy defaultConfig.zipkinAddress defaultConfig.statsdUdpAddress defaultConfig.statNameLength
		defaultConfig.tracing defaultConfig.proxyMetadata defaultConfig.holdApplicationUntilProxyStarts`) {
		if !unusedMeshField(name) {
			t.Errorf("%s is known to Istio", name)
		}
	}
	_, got := decodeText(meshFile, "extensionProviders: [{any: thing}]\n")
	if want := []string{"info UNUSED_FIELD mesh.yaml:1: MeshConfig mesh.yaml: extensionProviders: has no effect here"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestMeshConfigMap(t *testing.T) {
	const head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
	b, got := decodeText("a.yaml", head+"data:\n  mesh: |-\n    authPolicy: MUTUAL_TLS\n  meshNetworks: 'networks: {}'\n")
	if len(got) > 0 || !b.Mesh.MutualTLS || b.Mesh.Key != (model.Key{Kind: "ConfigMap", Namespace: "istio-system", Name: "istio"}) {
		t.Errorf("got %v, %+v", got, b.Mesh)
	}
	if b, got := decodeText("a.yaml", head+"data: {mesh: ''}\n"); len(got) > 0 || b.Mesh == nil {
		t.Errorf("empty text is the defaults: got %v", got)
	}
	for _, c := range []struct{ text, want string }{
		{"data: {other: a}\n", `error INVALID a.yaml:4: ConfigMap istio-system/istio: data: missing configuration map key "mesh"`},
		{"", `error INVALID a.yaml:1: ConfigMap istio-system/istio: data: missing configuration map key "mesh"`},
		{"data:\n  mesh: |\n    authPolicy: NONE\n    connectTimeout: 3\n", `error INVALID a.yaml:7: ConfigMap istio-system/istio: connectTimeout: got the number 3: write a duration with its unit, like 500ms, 45s or 1m0s`},
		{"data:\n  mesh: |\n    a: [\n", `error INVALID a.yaml:6: ConfigMap istio-system/istio: data.mesh: not valid YAML: did not find expected node content; the file ends here, is it written only in half?`},
		{"data:\n  mesh:\n    authPolicy: NONE\n", `error INVALID a.yaml:6: ConfigMap istio-system/istio: data.mesh: want a string, got a mapping`},
		{"data:\n  mesh: '- a'\n", `error INVALID a.yaml:5: ConfigMap istio-system/istio: want a mapping, got a list`},
	} {
		b, got := decodeText("a.yaml", head+c.text)
		if strings.Join(got, "\n") != c.want || b.Mesh != nil || len(b.Invalid) != 1 {
			t.Errorf("%q: got %q, %v", c.text, got, b.Invalid)
		}
	}
}

func TestTwoMeshes(t *testing.T) {
	b, got := decodeText(meshFile, "authPolicy: MUTUAL_TLS\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio}\ndata: {mesh: ''}\n")
	want := []string{"error DUPLICATE mesh.yaml:3: ConfigMap default/istio: mesh settings are given twice, here and as MeshConfig mesh.yaml at mesh.yaml:1; remove one"}
	if !slices.Equal(got, want) || !b.Mesh.MutualTLS {
		t.Errorf("got %q", got)
	}
	b, got = decodeText(meshFile, "authPolicy: MUTUAL_TLS\n---\nauthPolicy: NONE\n")
	want = []string{"error DUPLICATE mesh.yaml:3: MeshConfig mesh.yaml: is given twice, at mesh.yaml:1 and at mesh.yaml:3; remove one"}
	if !slices.Equal(got, want) || !b.Mesh.MutualTLS {
		t.Errorf("got %q", got)
	}
}

func TestTransition(t *testing.T) {
	last := meshOfText(t, "trustDomain: old.example")
	for _, c := range []struct{ text, want string }{
		{"trustDomain: old.example", ""},
		{"trustDomain: new.example", "error INVALID MeshConfig mesh.yaml: trustDomain: trust domain change needs the old value in trustDomainAliases: old.example"},
		{"trustDomain: new.example\ntrustDomainAliases: [old.example]", ""},
		{"trustDomain: old.example\ndefaultConfig: {discoveryRefreshDelay: 2s, interceptionMode: NONE}", ""},
		{"trustDomain: old.example\ndefaultConfig: {drainDuration: 2s, concurrency: 3}", `info RESTART_NEEDED MeshConfig mesh.yaml: defaultConfig.drainDuration: reaches a proxy at its next start
info RESTART_NEEDED MeshConfig mesh.yaml: defaultConfig.concurrency: reaches a proxy at its next start`},
	} {
		var got []string
		for _, p := range meshOfText(t, c.text).Transition(last) {
			got = append(got, fmt.Sprintf("%s %s %s", p.Severity, p.Code, p))
		}
		if text := strings.Join(got, "\n"); text != c.want {
			t.Errorf("%q: got %s", c.text, text)
		}
	}
}

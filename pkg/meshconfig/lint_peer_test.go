package meshconfig

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

// TestPeerLints: what lints say about the other kinds of policies.
func TestPeerLints(t *testing.T) {
	const app = "selector: {matchLabels: {app: cart}}"
	annotated := strings.Replace(workedMesh, "{name: stock, namespace: shop}", "{name: stock, namespace: shop, annotations: {auth.istio.io/81: MUTUAL_TLS}}", 1)
	legacy := strings.Replace(sidecarPod("old-1", "legacy", "10.1.0.9"), ", security.istio.io/tlsMode: istio", "", 1)
	invalid := policy("bad", "{targets: [{name: stock}], peers: [{}]}")
	for _, tt := range []struct {
		name string
		docs []string
		want string
	}{
		{"TIE across kinds", []string{workedMesh, aged(peers("a", "{"+app+", mtls: {mode: STRICT}}"), "a", 2), aged(policy("b", "{targets: [{name: cart}]}"), "b", 1)},
			"warning TIE PeerAuthentication shop/a [] has no effect on shop/cart-1:7701, shop/cart-1:9000, shop/cart-2:7701 and 1 more: Policy shop/b has the same rank and is older or first by name"},
		{"TIE on one port", []string{workedMesh, peers("a", "{"+app+", portLevelMtls: {7701: {mode: STRICT}}}"), policy("b", "{targets: [{name: cart, ports: [{number: 7001}]}]}")},
			"warning TIE Policy shop/b [] has no effect on shop/cart-1:7701, shop/cart-2:7701: PeerAuthentication shop/a has the same rank and is older or first by name"},
		{"TIE on a port that no service names", []string{workedMesh, peers("a", "{"+app+", portLevelMtls: {6060: {mode: STRICT}}}"), peers("b", "{"+app+", portLevelMtls: {6060: {mode: DISABLE}}}")},
			"warning TIE PeerAuthentication shop/b [] has no effect on shop/cart-1:6060, shop/cart-2:6060: PeerAuthentication shop/a has the same rank and is older or first by name"},
		{"TIE in the mesh", []string{sidecarPod("job-1", "job", "10.1.0.1"), meshPolicy("{}"), strings.Replace(peers("a", "{mtls: {mode: STRICT}}"), "shop", "istio-system", 1)},
			"warning TIE PeerAuthentication istio-system/a [] has no effect on shop/job-1: MeshPolicy default has the same rank and is older or first by name"},
		{"TIE: a stand-in loses", []string{workedMesh, aged(policy("good", "{targets: [{name: stock}]}"), "good", 9), invalid},
			"warning TIE Policy shop/bad [] has no effect on shop/stock-1:8081: Policy shop/good has the same rank and is valid"},
		{"UNSET ties with nobody", []string{workedMesh, peers("a", "{"+app+"}"), peers("b", "{"+app+", mtls: {mode: UNSET}}"), policy("c", "{targets: [{name: cart}]}")}, ""},

		{"SHADOWED_ANNOTATION by a selector", []string{annotated, peers("a", "{selector: {matchLabels: {app: stock}}, mtls: {mode: DISABLE}}")},
			"warning SHADOWED_ANNOTATION Service shop/stock [metadata.annotations[auth.istio.io/81]] annotation auth.istio.io/81 of Service shop/stock has no effect on shop/stock-1:8081: PeerAuthentication shop/a says DISABLE"},
		{"SHADOWED_ANNOTATION by the mesh", []string{annotated, meshPolicy("{}")},
			"warning SHADOWED_ANNOTATION Service shop/stock [metadata.annotations[auth.istio.io/81]] annotation auth.istio.io/81 of Service shop/stock has no effect on shop/stock-1:8081: MeshPolicy default says DISABLE"},
		{"SHADOWED_ANNOTATION: not by UNSET", []string{annotated, peers("a", "{selector: {matchLabels: {app: stock}}}")}, ""},

		{"NO_SIDECAR: a selector", []string{legacy, peers("a", "{selector: {matchLabels: {app: legacy}}, mtls: {mode: STRICT}}")},
			"warning NO_SIDECAR PeerAuthentication shop/a [] asks for TLS on workloads without a sidecar: shop/old-1; nothing enforces it there, clients without mTLS are served"},
		{"NO_SIDECAR: a port", []string{legacy, peers("a", "{selector: {matchLabels: {app: legacy}}, portLevelMtls: {80: {mode: STRICT}}}")},
			"warning NO_SIDECAR PeerAuthentication shop/a [] asks for TLS on workloads without a sidecar: shop/old-1:80; nothing enforces it there, clients without mTLS are served"},
		{"NO_SIDECAR: the mesh asks nobody in particular", []string{legacy, meshPolicy("{peers: [{mtls: }]}")}, ""},
		{"NO_SIDECAR: what has no service is not meant by its namespace", []string{legacy, peers("a", "{mtls: {mode: STRICT}}")}, ""},
		{"NO_MATCH", []string{workedMesh, peers("a", "{selector: {matchLabels: {app: cart, ver: '3'}}, mtls: {mode: STRICT}}")},
			"warning NO_MATCH PeerAuthentication shop/a [spec.selector.matchLabels] no workload in namespace shop has the labels app=cart, ver=3, so this object has no effect"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, _ := Decode(strings.NewReader(strings.Join(tt.docs, "\n---\n")), "test.yaml")
			_, problems := Compile(b, "cluster.local")
			equal(t, withoutCode(problems, codeFailClosed), tt.want)
		})
	}
}

// Hundreds of policies in one rank must not cost their square, nor their
// number at each port.
func TestManyPoliciesOfOneRank(t *testing.T) {
	var docs strings.Builder
	for i := range 400 {
		fmt.Fprintf(&docs, "%s\n---\n%s\n---\n", policy(fmt.Sprintf("ns-%d", i), "{peers: [{mtls: }]}"), peers(fmt.Sprintf("sel-%d", i), fmt.Sprintf("{selector: {matchLabels: {app: 'a-%d'}}, mtls: {mode: STRICT}}", i)))
	}
	for i := range 2000 {
		fmt.Fprintf(&docs, "%s\n---\n", sidecarPod(fmt.Sprintf("pod-%d", i), fmt.Sprintf("a-%d", i%1000), fmt.Sprintf("10.1.%d.%d", i/250, i%250)))
	}
	b := bundle(t, docs.String())
	start := time.Now()
	in, _ := Compile(b, "cluster.local")
	s := model.Build(in)
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("took %s", took)
	}
	if d := s.Decision(model.WorkloadID{Namespace: "shop", Name: "pod-999"}, 80); len(d.Losers) != 399 || d.Source.Name != "ns-0" {
		t.Errorf("by %s, %d losers", d.Source, len(d.Losers))
	}
}

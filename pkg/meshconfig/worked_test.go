package meshconfig

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/model"
)

// peers is a PeerAuthentication in shop.
func peers(name, spec string) string {
	return "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: " + name + ", namespace: shop}, spec: " + spec + "}"
}

func meshPolicy(spec string) string {
	return "{apiVersion: authentication.istio.io/v1alpha1, kind: MeshPolicy, metadata: {name: default}, spec: " + spec + "}"
}

// decided is "MODE rank source" of a port, as "name:port", of a pod in shop
// unless the name says another namespace.
func decided(t *testing.T, s *model.Snapshot, at string) string {
	t.Helper()
	name, number, _ := strings.Cut(at, ":")
	namespace, name, other := strings.Cut(name, "/")
	if !other {
		namespace, name = "shop", namespace
	}
	var port uint16
	if _, err := fmt.Sscan(number, &port); err != nil || s.Workload(model.WorkloadID{Namespace: namespace, Name: name}) == nil {
		t.Fatalf("%s: no such port", at)
	}
	d := s.Decision(model.WorkloadID{Namespace: namespace, Name: name}, port)
	return fmt.Sprintf("%s %d %s", d.Mode, d.Rank, d.By())
}

// TestWorkedExamples is spec server-policy.md 7, from YAML to modes.
func TestWorkedExamples(t *testing.T) {
	const till = "\n---\n{apiVersion: v1, kind: Pod, metadata: {name: till-1, namespace: pay, labels: {security.istio.io/tlsMode: istio}}, status: {podIP: 10.2.0.1}}"
	annotated := strings.Replace(workedMesh, "{name: stock, namespace: shop}",
		"{name: stock, namespace: shop, annotations: {auth.istio.io/81: MUTUAL_TLS}}", 1)
	tests := []struct {
		name     string
		mesh     string
		objects  []string // oldest first
		want     map[string]string
		problems string
	}{
		{"1", workedMesh, nil, map[string]string{"cart-1:9000": "DISABLE 6 mesh config authPolicy"}, ""},
		{"2", workedMesh, []string{policy("p1", "{targets: [{name: cart, ports: [{number: 7000}]}], peers: [{mtls: {}}]}")},
			map[string]string{"cart-1:9000": "STRICT 1 Policy shop/p1", "cart-2:9005": "STRICT 1 Policy shop/p1", "cart-1:7701": "DISABLE 6 mesh config authPolicy"}, ""},
		{"3", workedMesh, []string{policy("p1", "{targets: [{name: cart, ports: [{number: 9000}]}], peers: [{mtls: {}}]}")},
			map[string]string{"cart-1:9000": "DISABLE 6 mesh config authPolicy"}, "NO_MATCH"},
		{"4", workedMesh, []string{policy("p1", "{targets: [{name: stock, ports: [{name: http}]}], peers: [{mtls: {}}]}")},
			map[string]string{"stock-1:8081": "DISABLE 6 mesh config authPolicy"}, "NO_MATCH"},
		{"5", workedMesh + till, []string{meshPolicy("{peers: [{mtls: {}}]}"), policy("ns", "{}")},
			map[string]string{"stock-1:8081": "DISABLE 3 Policy shop/ns", "pay/till-1:80": "STRICT 4 MeshPolicy default"}, ""},
		{"6", workedMesh, []string{policy("all", "{peers: [{mtls: }]}"), peers("v2", "{selector: {matchLabels: {ver: '2'}}, portLevelMtls: {9005: {mode: DISABLE}}}")},
			map[string]string{"cart-2:9005": "DISABLE 1 PeerAuthentication shop/v2", "cart-2:7701": "STRICT 3 Policy shop/all"}, ""},
		{"7", workedMesh, []string{peers("a", "{selector: {matchLabels: {app: cart}}, mtls: {mode: PERMISSIVE}}"), policy("b", "{targets: [{name: cart}], peers: [{mtls: }]}")},
			map[string]string{"cart-1:9000": "PERMISSIVE 2 PeerAuthentication shop/a"}, "TIE"},
		{"8", annotated, nil, map[string]string{"stock-1:8081": "STRICT 5 annotation of Service shop/stock"}, ""},
		{"8 overruled", annotated, []string{policy("ns", "{}")}, map[string]string{"stock-1:8081": "DISABLE 3 Policy shop/ns"}, "SHADOWED_ANNOTATION"},
		{"9", workedMesh, []string{policy("p", "{targets: [{name: stock}], peers: [{mtls: {allowTls: true}}]}")},
			map[string]string{"stock-1:8081": "TLS_ONLY 2 Policy shop/p"}, ""},
		{"10", workedMesh, []string{mesh("authPolicy: MUTUAL_TLS"), policy("open", "{targets: [{name: cart, ports: [{number: 7001}]}]}")},
			map[string]string{"cart-1:7701": "DISABLE 1 Policy shop/open", "cart-1:9000": "STRICT 6 mesh config authPolicy", "cart-1:6060": "STRICT 6 mesh config authPolicy"}, ""},
		{"11", workedMesh, []string{policy("bad", "{targets: [{name: cart, ports: [{number: 0}]}], peers: [{mtls: {}}]}")},
			map[string]string{"cart-1:9000": "STRICT 2 Policy shop/bad which is invalid", "cart-1:7701": "STRICT 2 Policy shop/bad which is invalid"}, "FAIL_CLOSED"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for i := range tt.objects {
				tt.objects[i] = strings.Replace(tt.objects[i], "metadata: {", fmt.Sprintf("metadata: {creationTimestamp: \"2024-01-%02dT00:00:00Z\", ", i+1), 1)
			}
			b, _ := Decode(strings.NewReader(strings.Join(append([]string{tt.mesh}, tt.objects...), "\n---\n")), "test.yaml")
			in, problems := Compile(b, "cluster.local")
			s := model.Build(in)
			for at, want := range tt.want {
				if got := decided(t, s, at); got != want {
					t.Errorf("%s is %s, want %s", at, got, want)
				}
			}
			var codes []string
			for _, p := range problems {
				codes = append(codes, p.Code)
			}
			equal(t, strings.Join(slices.Compact(codes), " "), tt.problems)
		})
	}
}

// TestRanks: each rank wins over all below it, and an UNSET object is not asked.
func TestRanks(t *testing.T) {
	annotated := strings.Replace(workedMesh, "{name: cart, namespace: shop}", "{name: cart, namespace: shop, annotations: {auth.istio.io/7000: NONE}}", 1)
	inRoot := func(doc string) string { return strings.Replace(doc, "namespace: shop", "namespace: istio-system", 1) }
	const app = "selector: {matchLabels: {app: cart}}"
	stack := []struct{ doc, want string }{
		{peers("a-port", "{"+app+", portLevelMtls: {9000: {mode: PERMISSIVE}}}"), "PERMISSIVE 1 PeerAuthentication shop/a-port"},
		{policy("port", "{targets: [{name: cart, ports: [{name: http}]}], peers: [{mtls: }]}"), "STRICT 1 Policy shop/port"},
		{peers("b-workload", "{"+app+", mtls: {mode: STRICT}, portLevelMtls: {9000: {mode: UNSET}}}"), "STRICT 2 PeerAuthentication shop/b-workload"},
		{policy("workload", "{targets: [{name: cart}]}"), "DISABLE 2 Policy shop/workload"},
		{peers("c-ns", "{mtls: {mode: PERMISSIVE}}"), "PERMISSIVE 3 PeerAuthentication shop/c-ns"},
		{policy("ns", "{peers: [{mtls: {allowTls: true}}]}"), "TLS_ONLY 3 Policy shop/ns"},
		{meshPolicy("{peers: [{mtls: {mode: PERMISSIVE}}]}"), "PERMISSIVE 4 MeshPolicy default"},
		{inRoot(peers("root", "{mtls: {mode: STRICT}}")), "STRICT 4 PeerAuthentication istio-system/root"},
		{mesh("authPolicy: MUTUAL_TLS"), "DISABLE 5 annotation of Service shop/cart"},
	}
	noise := []string{
		peers("unset", "{"+app+"}"), peers("unset-ns", "{mtls: {mode: UNSET}}"), peers("empty", "{}"),
		inRoot(peers("unset-root", "{mtls: {}}")), inRoot(peers("elsewhere", "{"+app+", mtls: {mode: DISABLE}}")),
		inRoot(policy("root-ns", "{}")),
	}
	for i, step := range stack {
		docs := append([]string{annotated}, noise...)
		for _, s := range stack[i:] {
			docs = append(docs, s.doc)
		}
		in, problems := compile(t, docs...)
		equal(t, decided(t, model.Build(in), "cart-1:9000"), step.want)
		for _, p := range problems {
			if strings.Contains(p.On.Name, "unset") || p.On.Name == "empty" {
				t.Errorf("what does not decide neither wins nor ties: %s", p)
			}
		}
	}
}

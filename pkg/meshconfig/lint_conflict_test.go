package meshconfig

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func rule(name, namespace, spec string) string {
	return "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: " + name + ", namespace: " + namespace + "}, spec: " + spec + "}"
}

// client is a pod with a sidecar that nothing leads to.
func client(namespace string) string {
	return "{apiVersion: v1, kind: Pod, metadata: {name: client, namespace: " + namespace + ", labels: {security.istio.io/tlsMode: istio}}, status: {podIP: 10.9.9.9}}"
}

// TestConflicts is spec client-tls.md 6: each step that can make clients send
// what an endpoint refuses.
func TestConflicts(t *testing.T) {
	const legacyService = "{apiVersion: v1, kind: Service, metadata: {name: legacy, namespace: shop}, spec: {selector: {app: legacy}, ports: [{name: http, port: 80}]}}"
	legacy := strings.Replace(cartPod("old-1", "10.1.0.9", ""), "app: cart", "app: legacy", 1)
	stock := "{apiVersion: v1, kind: Service, metadata: {name: stock, namespace: shop}, spec: {selector: {app: stock}, ports: [{name: http, port: 80}]}}\n---\n" + sidecarPod("stock-1", "stock", "10.1.0.1")
	strict := policy("strict", "{targets: [{name: stock}], peers: [{mtls: }]}")
	permissive := policy("open", "{targets: [{name: stock}], peers: [{mtls: {mode: PERMISSIVE}}]}")
	off, on := "{host: stock.shop.svc.cluster.local, trafficPolicy: {tls: {mode: DISABLE}}}", "{host: stock.shop.svc.cluster.local, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}"
	simple := strings.Replace(off, "DISABLE", "SIMPLE", 1)
	tests := []struct {
		name string
		docs []string
		want string
	}{
		{"plaintext to STRICT by a rule", []string{stock, strict, client("web"), rule("r", "web", off)},
			"warning CONFLICT DestinationRule web/r [] clients in namespace web send plaintext (DestinationRule web/r) to stock.shop.svc.cluster.local:80, which refuses plaintext: Policy shop/strict says STRICT; let the rule say ISTIO_MUTUAL there, or leave tls out of it"},
		{"plaintext to PERMISSIVE by a rule", []string{stock, permissive, client("web"), rule("r", "web", off)}, ""},
		{"of all clients but those with a rule of their own", []string{stock, strict, client("web"), client("pay"), rule("r", "shop", off), rule("own", "web", on)},
			"warning CONFLICT DestinationRule shop/r [] clients in namespaces pay, shop send plaintext (DestinationRule shop/r) to stock.shop.svc.cluster.local:80, which refuses plaintext: Policy shop/strict says STRICT; let the rule say ISTIO_MUTUAL there, or leave tls out of it"},
		{"of many namespaces", []string{stock, strict, client("a"), client("b"), client("c"), client("d"), rule("r", "shop", off)},
			"warning CONFLICT DestinationRule shop/r [] clients in namespaces a, b, c, and 2 more send plaintext (DestinationRule shop/r) to stock.shop.svc.cluster.local:80, which refuses plaintext: Policy shop/strict says STRICT; let the rule say ISTIO_MUTUAL there, or leave tls out of it"},
		{"a namespace without clients", []string{stock, strict, rule("r", "web", off)}, ""},
		{"TLS without a certificate", []string{stock, strict, client("web"), rule("r", "web", simple)},
			"warning CONFLICT DestinationRule web/r [] clients in namespace web send TLS without a certificate (DestinationRule web/r) to stock.shop.svc.cluster.local:80, which refuses clients without a certificate of the mesh: Policy shop/strict says STRICT; let the rule say ISTIO_MUTUAL there, or leave tls out of it"},
		{"mesh mTLS to DISABLE by a rule", []string{stock, client("web"), rule("r", "web", on)},
			"warning CONFLICT DestinationRule web/r [] clients in namespace web send mesh mTLS (DestinationRule web/r) to stock.shop.svc.cluster.local:80, which takes plaintext only: mesh config authPolicy says DISABLE; let the rule say DISABLE there, or leave tls out of it"},
		{"mesh mTLS to no sidecar by a rule", []string{legacy, legacyService, client("web"), rule("r", "web", strings.Replace(on, "stock", "legacy", 1))},
			"warning CONFLICT DestinationRule web/r [] clients in namespace web send mesh mTLS (DestinationRule web/r) to legacy.shop.svc.cluster.local:80, which has endpoints without a sidecar: nothing there ends mesh mTLS; let the rule say DISABLE there, or leave tls out of it"},
		{"plaintext by an exclusion", []string{legacy, legacyService, stock, strict, client("web"), mesh("mtlsExcludedServices: ['*.local']")},
			"warning CONFLICT ConfigMap istio-system/istio [mtlsExcludedServices] clients in namespaces shop, web send plaintext (mesh config mtlsExcludedServices) to stock.shop.svc.cluster.local:80, which refuses plaintext: Policy shop/strict says STRICT; take it out of mtlsExcludedServices"},
		{"plaintext without AUTO", []string{stock, strict, client("web"), mesh("enableAutoMtls: false")},
			"warning CONFLICT ConfigMap istio-system/istio [enableAutoMtls] clients in namespaces shop, web send plaintext (mesh config authPolicy) to stock.shop.svc.cluster.local:80, which refuses plaintext: Policy shop/strict says STRICT; switch enableAutoMtls on, or write a DestinationRule with mode ISTIO_MUTUAL"},
		{"mesh mTLS without AUTO", []string{legacy, legacyService, client("web"), mesh("enableAutoMtls: false\\nauthPolicy: MUTUAL_TLS")},
			"warning CONFLICT ConfigMap istio-system/istio [enableAutoMtls] clients in namespace web send mesh mTLS (mesh config authPolicy) to legacy.shop.svc.cluster.local:80, which has endpoints without a sidecar: nothing there ends mesh mTLS; switch enableAutoMtls on, or list it in mtlsExcludedServices"},
		{"AUTO never conflicts", []string{legacy, legacyService, stock, strict, client("web")}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, problems := compile(t, tt.docs...)
			var conflicts []Problem
			for _, p := range problems {
				if p.Code == codeConflict {
					conflicts = append(conflicts, p)
				}
			}
			equal(t, texts(conflicts), tt.want)
		})
	}
}

// Rules that say nothing, or not what they seem to.
func TestRuleLints(t *testing.T) {
	stock := "{apiVersion: v1, kind: Service, metadata: {name: stock, namespace: shop}, spec: {selector: {app: stock}, ports: [{name: http, port: 80}]}}"
	for _, tt := range []struct {
		name string
		docs []string
		want string
	}{
		{"SHORT_HOST", []string{stock, rule("r", "web", "{host: stock.shop}")},
			"warning SHORT_HOST DestinationRule web/r [spec.host] a host with a dot is taken as it is, so this rule is not for stock.shop.svc.cluster.local: write that"},
		{"SHORT_HOST: with svc", []string{stock, rule("r", "web", "{host: stock.shop.svc}")},
			"warning SHORT_HOST DestinationRule web/r [spec.host] a host with a dot is taken as it is, so this rule is not for stock.shop.svc.cluster.local: write that"},
		{"NO_SERVICE", []string{stock, rule("r", "web", "{host: stock}")},
			"warning NO_SERVICE DestinationRule web/r [spec.host] no service has the host stock.web.svc.cluster.local, so this rule has no effect"},
		{"a wildcard may match later", []string{stock, rule("r", "web", "{host: '*.example.com'}")}, ""},
		{"TIE", []string{stock, aged(rule("a", "shop", "{host: stock, trafficPolicy: {tls: {mode: DISABLE}}}"), "a", 2), aged(rule("b", "shop", "{host: stock.shop.svc.cluster.local, trafficPolicy: {tls: {mode: DISABLE}}}"), "b", 1)},
			"warning TIE DestinationRule shop/a [spec.trafficPolicy] trafficPolicy has no effect: DestinationRule shop/b has the same host and is older or first by name"},
		{"TIE: nothing is dropped", []string{stock, rule("a", "shop", "{host: stock, subsets: [{name: v1}]}"), rule("b", "shop", "{host: stock, trafficPolicy: {loadBalancer: {}}, subsets: [{name: v2}]}")}, ""},
		{"HIDDEN_TLS", []string{stock, rule("a", "web", "{host: '*', trafficPolicy: {loadBalancer: {}}}"), rule("b", "shop", "{host: stock, trafficPolicy: {tls: {mode: DISABLE}}}")},
			"warning HIDDEN_TLS DestinationRule web/a [spec.trafficPolicy] has no tls and hides that of DestinationRule shop/b for stock.shop.svc.cluster.local: add tls to it"},
		{"HIDDEN_TLS: in the root namespace, for everybody", []string{stock, rule("a", "shop", "{host: stock, subsets: [{name: v1}]}"), rule("b", "istio-system", "{host: '*.local', trafficPolicy: {tls: {mode: DISABLE}}}")},
			"warning HIDDEN_TLS DestinationRule shop/a [spec.trafficPolicy] has no tls and hides that of DestinationRule istio-system/b for stock.shop.svc.cluster.local: add tls to it"},
		{"HIDDEN_TLS: the rule in front has tls", []string{stock, rule("a", "web", "{host: '*', trafficPolicy: {tls: {mode: DISABLE}}}"), rule("b", "shop", "{host: stock, trafficPolicy: {tls: {mode: DISABLE}}}")}, ""},
		{"HIDDEN_TLS: the rule behind is not exported", []string{stock, rule("a", "web", "{host: '*', trafficPolicy: {loadBalancer: {}}}"), rule("b", "shop", "{host: stock, exportTo: [.], trafficPolicy: {tls: {mode: DISABLE}}}")}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, problems := compile(t, tt.docs...)
			equal(t, texts(problems), tt.want)
		})
	}
}

// TestRuleScale: every namespace makes its clients send mesh mTLS to services
// without sidecars. What that costs must not grow with the square of the mesh.
func TestRuleScale(t *testing.T) {
	const namespaces, small, large = 20, 300, 2400
	fastest := func(services int) time.Duration {
		b := oneNamespace(services)
		b.Policies = nil
		for i := range namespaces {
			meta := metav1.ObjectMeta{Namespace: fmt.Sprint("ns-", i), Name: "all", Labels: map[string]string{tlsModeLabel: "istio"}}
			b.Pods = append(b.Pods, &corev1.Pod{ObjectMeta: meta, Status: corev1.PodStatus{PodIP: fmt.Sprint("10.2.0.", i)}})
			b.DestinationRules = append(b.DestinationRules, &DestinationRule{
				ObjectMeta: meta, Host: "*", Policy: &model.TrafficPolicy{Traffic: model.Traffic{TLS: &model.TLSSettings{Mode: model.ClientMesh}}},
			})
		}
		best := time.Hour
		for range 3 {
			start := time.Now()
			_, problems := Compile(b, "cluster.local")
			best = min(best, time.Since(start))
			if len(problems) != namespaces { // a CONFLICT of each rule
				t.Fatalf("%d problems of %d rules: %s", len(problems), namespaces, texts(problems[:1]))
			}
		}
		return best
	}
	if a, b := fastest(small), fastest(large); b > 32*a {
		t.Errorf("%s for %d services, %s for %d", a, small, b, large)
	} else {
		t.Logf("%s for %d services, %s for %d", a, small, b, large)
	}
}

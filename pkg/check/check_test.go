package check

import (
	"slices"
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

// base is a service with a sidecar and one without, and a caller.
const base = `
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop, labels: {app: cart}, annotations: {ANNOTATIONS}}
spec: {containers: [{name: cart, ports: [{containerPort: 8080}PORTS]}, {name: istio-proxy, ports: [{containerPort: 15090}]}]}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Service
metadata: {name: old, namespace: shop}
spec: {clusterIP: 10.96.0.2, selector: {app: old}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: old, namespace: shop, labels: {app: old}}
spec: {containers: [{name: old}]}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {containers: [{name: web}, {name: istio-proxy}]}
status: {podIP: 10.0.0.3}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: partner, namespace: shop}
spec: {hosts: [partner.example.com], ports: [{number: 443, name: https, protocol: HTTPS}], resolution: DNS}
`

func policy(name, namespace, spec string) string {
	return "---\napiVersion: authentication.istio.io/v1alpha1\nkind: Policy\nmetadata: {name: " + name + ", namespace: " + namespace + "}\nspec: " + spec + "\n"
}

func rule(name, host, tls string) string {
	return "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: " + name + ", namespace: shop}\nspec: {host: " + host + ", trafficPolicy: {tls: {" + tls + "}}}\n"
}

func compiled(t *testing.T, objects, mesh string) []meshconfig.Problem {
	t.Helper()
	var parts []meshconfig.Bundle
	for file, text := range map[string]string{"shop.yaml": objects, "mesh.yaml": mesh} {
		part, problems := meshconfig.Decode(strings.NewReader(text), file)
		for _, p := range problems {
			if p.Severity == meshconfig.Error {
				t.Fatal(p)
			}
		}
		parts = append(parts, part)
	}
	b, _ := meshconfig.Merge(parts, meshconfig.Bundle{})
	in, _ := meshconfig.Inputs(b, "cluster.local")
	s := model.Build(in)
	return Problems(b, in, s, meshconfig.Lint(b, in, s))
}

func TestProblems(t *testing.T) {
	replace := func(annotations, ports string) string {
		return strings.NewReplacer("ANNOTATIONS", annotations, "PORTS", ports).Replace(base)
	}
	plain := replace("", "")
	const strict = "{targets: [{name: cart}], peers: [{mtls: {}}]}"
	for _, c := range []struct {
		name, objects, mesh string
		want                []string // exactly; each begins so, after the place
	}{
		{"nothing", plain, "", nil},
		{"the default exclusion", plain, "authPolicy: NONE\n", nil},
		{"a policy that decides", plain + policy("p", "shop", strict), "", nil},
		{"excluded and refused", plain + policy("p", "shop", strict), "mtlsExcludedServices: [cart.shop.svc.cluster.local]\n", []string{
			"warning CONFLICT MeshConfig mesh.yaml: calls of sidecars in shop do not reach cart.shop.svc.cluster.local:80: they send plaintext, as mtlsExcludedServices names the host (cart.shop.svc.cluster.local), and shop/cart is STRICT, set by Policy shop/p; write one of: mesh config: mtlsExcludedServices: without ",
			"warning EXCLUDED_SIDECAR MeshConfig mesh.yaml: mtlsExcludedServices[0]: ",
		}},
		{"mTLS to who has no sidecar", plain, "{enableAutoMtls: false, authPolicy: MUTUAL_TLS}\n", []string{
			"warning CONFLICT MeshConfig mesh.yaml: calls of sidecars in shop do not reach old.shop.svc.cluster.local:80: they send mesh mTLS, as enableAutoMtls is false and authPolicy is MUTUAL_TLS, and shop/old has no sidecar; write one of: mesh config: enableAutoMtls: true - ",
		}},
		{"exclusions that do nothing", plain, "mtlsExcludedServices: [gone.example.com, partner.example.com, old.shop.svc.cluster.local]\n", []string{
			`warning NEEDLESS_EXCLUSION MeshConfig mesh.yaml: mtlsExcludedServices[0]: no service has the host "gone.example.com"`,
			`info NEEDLESS_EXCLUSION MeshConfig mesh.yaml: mtlsExcludedServices[1]: "partner.example.com" is outside the mesh`,
			`info NEEDLESS_EXCLUSION MeshConfig mesh.yaml: mtlsExcludedServices[2]: nobody behind "old.shop.svc.cluster.local" has a sidecar`,
		}},
		{"an exclusion that is needed", plain, "{enableAutoMtls: false, authPolicy: MUTUAL_TLS, mtlsExcludedServices: [old.shop.svc.cluster.local]}\n", nil},
		{"a policy where nobody is", plain + policy("p", "empty", "{peers: [{mtls: {}}]}"), "", []string{
			"warning NO_EFFECT Policy empty/p: it decides nothing: no workload in namespace empty has a sidecar",
		}},
		{"a policy under others", plain + policy("a", "shop", "{targets: [{name: cart, ports: [{number: 80}]}], peers: [{mtls: {}}]}") + policy("b", "shop", strict), "", []string{
			"warning NO_EFFECT Policy shop/b: it decides nothing: wherever it applies, narrower objects decide",
		}},
		{"Lint said so already", plain + policy("p", "shop", "{targets: [{name: nobody}]}"), "", []string{"warning NO_SERVICE Policy shop/p: "}},
		{"a rule that switches mTLS off", plain + policy("p", "shop", "{targets: [{name: cart}], peers: [{mtls: {mode: PERMISSIVE}}]}") + rule("r", "cart", "mode: DISABLE"), "", []string{
			"warning RULE_OFF DestinationRule shop/r: spec.trafficPolicy.tls: it keeps clients from mesh mTLS, which endpoints accept, to cart.shop.svc.cluster.local:80: leave tls out",
		}},
		{"a rule that is refused", plain + policy("p", "shop", strict) + rule("r", "cart", "mode: DISABLE"), "", []string{
			"warning CONFLICT DestinationRule shop/r: calls of sidecars in shop do not reach cart.shop.svc.cluster.local:80: they send plaintext, as DestinationRule shop/r says DISABLE (shop.yaml:",
			"warning RULE_OFF DestinationRule shop/r: ",
		}},
		{"a rule that sends mTLS to who cannot take it", plain + rule("r", "old", "mode: ISTIO_MUTUAL"), "", []string{
			"warning CONFLICT DestinationRule shop/r: calls of sidecars in shop do not reach old.shop.svc.cluster.local:80: they send mesh mTLS, as DestinationRule shop/r says ISTIO_MUTUAL (shop.yaml:",
		}},
		{"a rule where nothing accepts mTLS", plain + rule("r", "old", "mode: DISABLE"), "", nil},
		{"a rule for nobody", plain + rule("r", "gone", "mode: DISABLE"), "", []string{
			"warning NO_SERVICE DestinationRule shop/r: spec.host: ",
		}},
		{"a port without a name", replace("", ", {containerPort: 9999}, {containerPort: 53, protocol: UDP}"), "", []string{
			"info UNNAMED_PORT Pod shop/cart: spec.containers[].ports: no Service names port 9999, so neither a Policy's target nor an annotation reaches it; its mode is DISABLE, set by mesh config authPolicy: ",
		}},
		{"a port of a probe only", replace("", ", {containerPort: 9999}], readinessProbe: {httpGet: {path: /ready, port: 9999}}, args: ["), "", nil},
		{"a port around the sidecar", replace(`traffic.sidecar.istio.io/excludeInboundPorts: "22, 8080"`, "") + policy("p", "shop", strict), "", []string{
			"warning UNCAPTURED_PORT Pod shop/cart: metadata.annotations[traffic.sidecar.istio.io/excludeInboundPorts]: port 8080 should be STRICT, set by Policy shop/p, but ",
		}},
		{"another port around the sidecar", replace(`traffic.sidecar.istio.io/excludeInboundPorts: "22"`, "") + policy("p", "shop", strict), "", nil},
		{"only some ports captured", replace(`traffic.sidecar.istio.io/includeInboundPorts: "22"`, "") + policy("p", "shop", strict), "", []string{
			"warning UNCAPTURED_PORT Pod shop/cart: metadata.annotations[traffic.sidecar.istio.io/includeInboundPorts]: ",
		}},
		{"all ports captured", replace(`traffic.sidecar.istio.io/includeInboundPorts: "*"`, "") + policy("p", "shop", strict), "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := compiled(t, c.objects, c.mesh)
			matches := slices.EqualFunc(got, c.want, func(p meshconfig.Problem, want string) bool {
				place := p.At.String() + ": "
				return p.At.Line > 0 && strings.HasPrefix(p.Severity.String()+" "+p.Code+" "+strings.TrimPrefix(p.String(), place), want)
			})
			if !matches {
				t.Errorf("want %q, got", c.want)
				for _, p := range got {
					t.Errorf("  %s %s %s", p.Severity, p.Code, p)
				}
			}
		})
	}
}

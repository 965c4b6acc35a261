package meshconfig

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// mesh is the mesh configuration as Kubernetes holds it.
func mesh(settings string) string {
	return "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: \"" + settings + "\"}}"
}

// aged gives the first object of its kind in doc an age, in days.
func aged(doc, name string, day int) string {
	return strings.Replace(doc, "{name: "+name+",", fmt.Sprintf("{name: %s, creationTimestamp: \"2024-01-%02dT00:00:00Z\",", name, day), 1)
}

// sidecarPod is a pod of app in shop with a sidecar.
func sidecarPod(name, app, ip string) string {
	return "{apiVersion: v1, kind: Pod, metadata: {name: " + name + ", namespace: shop, labels: {app: " + app + ", security.istio.io/tlsMode: istio}}, status: {podIP: " + ip + "}}"
}

func TestLints(t *testing.T) {
	legacy := strings.Replace(cartPod("old-1", "10.1.0.9", ""), "app: cart", "app: legacy", 1)
	const legacyService = "{apiVersion: v1, kind: Service, metadata: {name: legacy, namespace: shop}, spec: {selector: {app: legacy}, ports: [{name: http, port: 80}]}}"
	const admin = "{apiVersion: v1, kind: Service, metadata: {name: cart-admin, namespace: shop}, spec: {selector: {app: cart}, ports: [{name: http, port: 8080, targetPort: web}]}}"
	const db = "{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {selector: {app: db}, ports: [{name: mysql, port: 3306}]}}"
	tests := []struct {
		name string
		docs []string
		want string
	}{
		{"NO_SERVICE", []string{workedMesh, policy("p", "{targets: [{name: cart}, {name: card}]}")},
			`warning NO_SERVICE Policy shop/p [spec.targets[1].name] no service "card" in namespace shop, so this target has no effect: name a Service, or the one-word host of a ServiceEntry, of this namespace`},
		{"a ServiceEntry counts as service", []string{entry("{hosts: [billing], location: MESH_INTERNAL, ports: [{number: 80, name: http}]}"), policy("p", "{targets: [{name: billing, ports: [{number: 80}]}]}")}, ""},
		{"NO_MATCH by number", []string{workedMesh, policy("p", "{targets: [{name: cart, ports: [{number: 7000}, {number: 9005}, {number: 1}]}]}")},
			`warning NO_MATCH Policy shop/p [spec.targets[0].ports[1].number] Service shop/cart has no port 9005, so this selector has no effect: its ports are 7000 (http), 7001 (tcp-sync); 9005 is a container port, of service port 7000
warning NO_MATCH Policy shop/p [spec.targets[0].ports[2].number] Service shop/cart has no port 1, so this selector has no effect: its ports are 7000 (http), 7001 (tcp-sync)`},
		{"NO_MATCH by name", []string{workedMesh, policy("p", "{targets: [{name: cart, ports: [{name: tcp}]}]}")},
			`warning NO_MATCH Policy shop/p [spec.targets[0].ports[0].name] Service shop/cart has no port named "tcp", so this selector has no effect: its ports are 7000 (http), 7001 (tcp-sync)`},

		{"NO_SIDECAR", []string{legacy, legacyService, policy("p", "{targets: [{name: legacy}], peers: [{mtls: }]}")},
			`warning NO_SIDECAR Policy shop/p [] asks for TLS on workloads without a sidecar: shop/old-1:80; nothing enforces it there, clients without mTLS are served`},
		{"NO_SIDECAR: what switches mTLS off asks nothing", []string{legacy, legacyService, policy("p", "{targets: [{name: legacy}]}")}, ""},
		{"NO_SIDECAR: an exception is made", []string{legacy, legacyService, policy("ns", "{peers: [{mtls: }]}"), policy("p", "{targets: [{name: legacy}]}")}, ""},
		{"NO_SIDECAR: the mesh as a whole asks nobody", []string{legacy, legacyService, mesh("authPolicy: MUTUAL_TLS")}, ""},
		{"NO_SIDECAR: by annotation", []string{legacy, strings.Replace(legacyService, "namespace: shop", "namespace: shop, annotations: {auth.istio.io/80: MUTUAL_TLS}", 1)},
			`warning NO_SIDECAR Service shop/legacy [] asks for TLS on workloads without a sidecar: shop/old-1:80; nothing enforces it there, clients without mTLS are served`},
		{"NO_SIDECAR: not even a workload", []string{cart, slice("one", "addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [{addresses: [10.9.0.1]}]"),
			policy("p", "{targets: [{name: cart, ports: [{number: 80}]}], peers: [{mtls: }]}")},
			`warning NO_SIDECAR Policy shop/p [spec.targets[0]] the policy asks for TLS where no pod or WorkloadEntry is known: 10.9.0.1:8080 of Service shop/cart; nothing enforces it there`},

		{"TIE", []string{workedMesh, policy("a", "{targets: [{name: stock}]}"), policy("b", "{targets: [{name: stock}], peers: [{mtls: }]}"), policy("c", "{targets: [{name: stock}]}")},
			`warning TIE Policy shop/b [] has no effect on shop/stock-1:8081: Policy shop/a has the same rank and is older or first by name
warning TIE Policy shop/c [] has no effect on shop/stock-1:8081: Policy shop/a has the same rank and is older or first by name`},
		{"TIE: the older wins", []string{workedMesh, aged(policy("a", "{}"), "a", 2), aged(policy("b", "{}"), "b", 1)},
			`warning TIE Policy shop/a [] has no effect on shop/cart-1:7701, shop/cart-1:9000, shop/cart-2:7701 and 2 more: Policy shop/b has the same rank and is older or first by name`},

		{"SHADOWED_ANNOTATION", []string{strings.Replace(workedMesh, "{name: stock, namespace: shop}", "{name: stock, namespace: shop, annotations: {auth.istio.io/81: MUTUAL_TLS}}", 1), policy("ns", "{}")},
			`warning SHADOWED_ANNOTATION Service shop/stock [metadata.annotations[auth.istio.io/81]] annotation auth.istio.io/81 of Service shop/stock has no effect on shop/stock-1:8081: Policy shop/ns says DISABLE`},

		{"SHARED_PORT", []string{workedMesh, admin, policy("p", "{targets: [{name: cart-admin}], peers: [{mtls: }]}")},
			`warning SHARED_PORT Policy shop/p [] what it says about Service shop/cart-admin port 8080 also governs Service shop/cart port 7000: both lead to shop/cart-1:9000, shop/cart-2:9005; give them ports of their own, or say it for both`},
		{"SHARED_PORT: said for both", []string{workedMesh, admin, policy("p", "{targets: [{name: cart-admin}, {name: cart}], peers: [{mtls: }]}")}, ""},
		{"SHARED_PORT: said for all", []string{workedMesh, admin, policy("p", "{peers: [{mtls: }]}")}, ""},
		{"SHARED_PORT: nothing said", []string{workedMesh, admin}, ""},
		{"SHARED_PORT: by annotation", []string{workedMesh, strings.Replace(admin, "namespace: shop", "namespace: shop, annotations: {auth.istio.io/8080: MUTUAL_TLS}", 1)},
			`warning SHARED_PORT Service shop/cart-admin [] what it says about Service shop/cart-admin port 8080 also governs Service shop/cart port 7000: both lead to shop/cart-1:9000, shop/cart-2:9005; give them ports of their own, or say it for both`},

		{"PORT_CLASH", []string{sidecarPod("cart-1", "cart", "10.1.0.1"),
			aged("{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop}, spec: {selector: {app: cart}, ports: [{name: tcp, port: 90}]}}", "a", 2),
			aged("{apiVersion: v1, kind: Service, metadata: {name: b, namespace: shop}, spec: {selector: {app: cart}, ports: [{name: http, port: 91, targetPort: 90}]}}", "b", 1)},
			`warning PORT_CLASH Service shop/a [spec.ports] Service shop/a port 90 is tcp, but Service shop/b port 91, which is older or first by name, says http and decides for shop/cart-1:90: give the ports the same protocol`},
		{"PORT_CLASH: both pass bytes through", []string{sidecarPod("cart-1", "cart", "10.1.0.1"),
			"{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop}, spec: {selector: {app: cart}, ports: [{name: tcp, port: 90}, {name: tls, port: 91, targetPort: 90}]}}"}, ""},

		{"EXCLUDED_SIDECAR", []string{workedMesh, mesh("mtlsExcludedServices: [other.example.com, '*.shop.svc.cluster.local']")},
			`warning EXCLUDED_SIDECAR ConfigMap istio-system/istio [mtlsExcludedServices[1]] Service shop/cart (cart.shop.svc.cluster.local) has a sidecar, and "*.shop.svc.cluster.local" sends it plaintext from every client: use a Policy or the annotation instead
warning EXCLUDED_SIDECAR ConfigMap istio-system/istio [mtlsExcludedServices[1]] Service shop/stock (stock.shop.svc.cluster.local) has a sidecar, and "*.shop.svc.cluster.local" sends it plaintext from every client: use a Policy or the annotation instead`},
		{"EXCLUDED_SIDECAR: rightly so", []string{legacy, legacyService, mesh("mtlsExcludedServices: [legacy.shop.svc.cluster.local]")}, ""},

		{"SERVER_FIRST", []string{db, sidecarPod("db-1", "db", "10.1.0.1"), sidecarPod("db-2", "db", "10.1.0.2"), policy("p", "{targets: [{name: db}], peers: [{mtls: {mode: PERMISSIVE}}]}")},
			`warning SERVER_FIRST Service shop/db [spec.ports] port 3306 (mysql) is server-first and PERMISSIVE by Policy shop/p: it cannot serve plaintext and mTLS at once, and a change of mode cuts calls; name the port tcp-… to get PERMISSIVE, at 0.5 s per plaintext connection`},
		{"SERVER_FIRST: mTLS is off", []string{db, sidecarPod("db-1", "db", "10.1.0.1")}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, problems := compile(t, tt.docs...)
			equal(t, texts(problems), tt.want)
			for _, p := range problems {
				if p.At.Line == 0 {
					t.Errorf("no position: %s", p)
				}
			}
		})
	}
}

// Evidence of a sidecar, which only the running control plane has, silences
// the lint about its absence.
func TestLintWithEvidence(t *testing.T) {
	b := bundle(t, cart, cartPod("cart-1", "10.1.0.1", ""), policy("p", "{targets: [{name: cart}], peers: [{mtls: }]}"))
	in, problems := Inputs(b, "cluster.local")
	if len(problems) != 0 {
		t.Fatal(texts(problems))
	}
	if got := Lint(b, in, model.Build(in)); len(got) != 1 || got[0].Code != codeNoSidecar {
		t.Errorf("without evidence: %s", texts(got))
	}
	in.Connected = []model.WorkloadID{{Namespace: "shop", Name: "cart-1"}}
	if got := Lint(b, in, model.Build(in)); len(got) != 0 {
		t.Errorf("with evidence: %s", texts(got))
	}
}

// oneNamespace is a mesh in which each policy has something wrong and every
// selector shares a label with all others.
func oneNamespace(size int) Bundle {
	var b Bundle
	for i := range size {
		meta := metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("s-%d", i), Labels: map[string]string{"app": fmt.Sprint(i), "all": "yes"}}
		b.Pods = append(b.Pods, &corev1.Pod{ObjectMeta: meta, Status: corev1.PodStatus{PodIP: fmt.Sprintf("10.1.%d.%d", i>>8, i&255)}})
		b.Services = append(b.Services, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
			Selector: meta.Labels, Ports: []corev1.ServicePort{{Port: 80}}}})
		b.Policies = append(b.Policies, &Policy{ObjectMeta: meta, Mode: model.Strict, Targets: []PolicyTarget{{Name: meta.Name}, {Name: "none"}}})
	}
	return b
}

// Neither time nor problems may grow with the square of the mesh: 8 times the
// mesh may take some 8 times as long, far from 64. The process's own time
// counts, whoever else is on the machine.
func TestScale(t *testing.T) {
	const small, large = 1000, 8000
	fastest := func(size int) time.Duration {
		b, best := oneNamespace(size), time.Hour
		for range 3 {
			start := processTime(t)
			_, problems := Compile(b, "cluster.local")
			best = min(best, processTime(t)-start)
			if len(problems) != 2*size { // NO_SERVICE and NO_SIDECAR of each policy
				t.Fatalf("%d problems of %d policies", len(problems), size)
			}
		}
		return best
	}
	if a, b := fastest(small), fastest(large); b > 32*a {
		t.Errorf("%s for %d services, %s for %d", a, small, b, large)
	}
}

func processTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

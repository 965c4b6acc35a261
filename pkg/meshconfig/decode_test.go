package meshconfig

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/model"
)

// services is a file of n services, each with a workload.
func services(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, `apiVersion: v1
kind: Service
metadata:
  name: svc-%d
  namespace: ns-%d
  labels: {app: svc-%[1]d}
  annotations:
    auth.istio.io/80: MUTUAL_TLS
spec:
  clusterIP: 10.%d.%d.%d
  selector:
    app: svc-%[1]d
  ports:
  - name: http
    port: 80
    targetPort: 8080
  - name: grpc-admin
    port: 9000
---
`, i, i%50, i>>16, i>>8&255, i&255)
	}
	return b.Bytes()
}

func TestManyServices(t *testing.T) {
	b, problems := Decode(bytes.NewReader(services(10_000)), "many.yaml")
	if len(problems) > 0 {
		t.Fatal(problems[0])
	}
	if len(b.Services) != 10_000 {
		t.Fatalf("got %d services", len(b.Services))
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		data := services(n)
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				bundle, _ := Decode(bytes.NewReader(data), "many.yaml")
				if len(bundle.Services) != n {
					b.Fatalf("got %d services", len(bundle.Services))
				}
			}
		})
	}
}

func decodeText(file, text string) (Bundle, []string) {
	b, problems := Decode(strings.NewReader(text), file)
	var out []string
	for _, p := range problems {
		out = append(out, fmt.Sprintf("%s %s %s", p.Severity, p.Code, p))
	}
	return b, out
}

func BenchmarkDecodePod(b *testing.B) {
	data := []byte(`{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {app: a}}, spec: {containers: [{name: a, image: b, ports: [{containerPort: 80}]}]}, status: {podIP: 10.0.0.1}}`)
	b.ReportAllocs()
	for b.Loop() {
		if bundle, _ := Decode(bytes.NewReader(data), "pod.yaml"); len(bundle.Pods) != 1 {
			b.Fatal("no pod")
		}
	}
}

func wantProblems(t *testing.T, name string, got []string, want string) {
	t.Helper()
	if text := strings.Join(got, "\n"); text != strings.TrimSpace(want) {
		t.Errorf("%s\n got %s\nwant %s", name, text, want)
	}
}

// TestBadInput: each mistake with the whole message that a user reads.
func TestBadInput(t *testing.T) {
	const service = "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\n"
	for _, c := range []struct{ name, text, want string }{
		{"empty file", "", ""},
		{"only comments", "# nothing\n---\n# here\n", ""},
		{"tab", service + "spec:\n\tports: []\n", "error INVALID a.yaml:5: a tab indents this line; YAML takes spaces only, write spaces instead"},
		{"half-written", service + "spec:\n  ports:\n  - port: 80\n    na", "error INVALID a.yaml:7: not valid YAML: could not find expected ':'; the file ends here, is it written only in half?"},
		{"unknown field", service + "spec:\n  ports:\n  - prot: 80\n    port: 80\n", `error INVALID a.yaml:6: Service shop/cart: unknown field "spec.ports[0].prot", did you mean "port"?`},
		{"duplicate field", service + "spec:\n  ports: [{port: 80}]\n  ports: [{port: 81}]\n", `error INVALID a.yaml:6: Service shop/cart: duplicate field "spec.ports"`},
		{"port 0", service + "spec: {ports: [{port: 0}]}\n", "error INVALID a.yaml:4: Service shop/cart: spec.ports[0].port: port number 0 must be in the range 1..65535"},
		{"port in quotes", service + "spec:\n  ports:\n  - port: '80'\n", `error INVALID a.yaml:6: Service shop/cart: spec.ports[0].port: want a number, got the string "80"; write 80 without quotes`},
		{"enum in lower case", service + "spec:\n  ports:\n  - port: 80\n    protocol: tcp\n", `error INVALID a.yaml:7: Service shop/cart: spec.ports[0].protocol: unknown protocol "tcp", did you mean "TCP"?`},
		{"label that is a number", "apiVersion: v1\nkind: Service\nmetadata:\n  name: cart\n  labels: {version: 1}\nspec: {clusterIP: None}\n", `error INVALID a.yaml:5: Service default/cart: metadata.labels.version: want a string, got the number 1; write "1"`},
		{"no name", "apiVersion: v1\nkind: Namespace\nmetadata: {}\n", "error INVALID a.yaml:3: Namespace: metadata.name: metadata.name must be set"},
		{"bad name", "apiVersion: v1\nkind: Namespace\nmetadata: {name: A}\n", `error INVALID a.yaml:3: Namespace A: metadata.name: name "A" must be a valid label (lower-case letters, digits and '-')`},
		{"bad names", "apiVersion: v1\nkind: Pod\nmetadata: {name: A, namespace: a.b}\n", `
error INVALID a.yaml:3: Pod a.b/A: metadata.name: name "A" must be a valid DNS name (lower-case letters, digits, '-' and '.')
error INVALID a.yaml:3: Pod a.b/A: metadata.namespace: namespace "a.b" must be a valid label (lower-case letters, digits and '-')`},
		{"no object", "- a\n", "error INVALID a.yaml:1: want an object with apiVersion and kind, got a list"},
		{"text", "just words\n", `error INVALID a.yaml:1: want an object with apiVersion and kind, got the string "just words"`},
		{"no kind", "apiVersion: v1\n", "error INVALID a.yaml:1: kind: kind must be set"},
		{"no apiVersion", "kind: Service\n", "error INVALID a.yaml:1: apiVersion: apiVersion must be set"},
		{"mesh settings elsewhere", "authPolicy: NONE\n", "error INVALID a.yaml:1: apiVersion and kind must be set (mesh settings, which have none, live in mesh.yaml)"},
		{"unknown kind", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, namespace: b}\n", `info UNKNOWN_KIND a.yaml:1: Deployment b/a: kind "Deployment" of "apps/v1" is not known here and is skipped`},
		{"kind with a slip", "apiVersion: v1\nkind: Sevrice\n", `info UNKNOWN_KIND a.yaml:1: Sevrice: kind "Sevrice" of "v1" is not known here and is skipped (did you mean "Service"?)`},
		{"other version", "apiVersion: authentication.istio.io/v1\nkind: Policy\n", `warning UNKNOWN_KIND a.yaml:1: Policy: kind "Policy" of "authentication.istio.io/v1" is not known here and is skipped (another apiVersion of it is known); the protection that it asks for is not in force`},
		{"protection", "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: a}\n", `warning UNKNOWN_KIND a.yaml:1: RequestAuthentication a: kind "RequestAuthentication" of "security.istio.io/v1" is not known here and is skipped; the protection that it asks for is not in force`},
		{"other ConfigMap", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\n", `info UNKNOWN_KIND a.yaml:1: ConfigMap other: only the ConfigMap "istio" is read, this one is skipped`},
		{"list of no list", "apiVersion: v1\nkind: List\nitems: 3\n", "error INVALID a.yaml:3: items: want a list of objects, got the number 3"},
		{"item without kind", "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n", "error INVALID a.yaml:4: kind: kind must be set"},
		{"twice", "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n", "error DUPLICATE a.yaml:5: Namespace a: is given twice, at a.yaml:1 and at a.yaml:5; remove one"},
	} {
		b, got := decodeText("a.yaml", c.text)
		wantProblems(t, c.name, got, c.want)
		if len(b.Services) > 0 {
			t.Errorf("%s: accepted", c.name)
		}
	}
}

func TestObjectErrors(t *testing.T) {
	for _, c := range []struct{ kind, text, want string }{
		{"v1 Service", "spec: {}", "spec.ports: ports must be set"},
		{"v1 Service", "spec: {clusterIP: None}", ""},
		{"v1 Service", "spec: {clusterIP: none, ports: [{port: 1}]}", `spec.clusterIP: cluster IP "none" must be an IP address`},
		{"v1 Service", "spec: {clusterIPs: [None, x], ports: [{port: 1}]}", `spec.clusterIPs[1]: cluster IP "x" must be an IP address`},
		{"v1 Service", "spec: {type: clusterip, ports: [{port: 1}]}", `spec.type: unknown service type "clusterip", did you mean "ClusterIP"?`},
		{"v1 Service", "spec: {type: ExternalName}", `spec.externalName: external name "" must be a DNS name`},
		{"v1 Service", "spec: {type: ExternalName, externalName: a.example.}", ""},
		{"v1 Service", "spec: {ports: [{port: 80}, {port: 81, name: b}]}", "spec.ports[0].name: port name must be set, because the service has more than one port"},
		{"v1 Service", "spec: {ports: [{port: 80, name: a}, {port: 80, name: a}]}", "spec.ports[1].port: port 80 is already that of spec.ports[0]\nspec.ports[1].name: port name \"a\" is already that of spec.ports[0]"},
		{"v1 Service", "spec: {ports: [{port: 80, name: a}, {port: 80, name: b, protocol: UDP}]}", ""},
		{"v1 Service", "spec: {ports: [{port: 80, targetPort: 65536}]}", "spec.ports[0].targetPort: port number 65536 must be in the range 1..65535"},
		{"v1 Service", "spec: {ports: [{port: 80, targetPort: '8080'}]}", `spec.ports[0].targetPort: port name "8080" has no letter; for the number write 8080 without quotes`},
		{"v1 Service", "spec: {ports: [{port: 80, targetPort: A}]}", `spec.ports[0].targetPort: port name "A" must be a valid label of at most 15 characters`},
		{"v1 Pod", "spec: {containers: [{ports: [{containerPort: 0}, {containerPort: 1, name: A}]}]}", "spec.containers[0].ports[0].containerPort: port number 0 must be in the range 1..65535\nspec.containers[0].ports[1].name: port name \"A\" must be a valid label of at most 15 characters"},
		{"v1 Pod", "status: {podIP: here}", `status.podIP: pod IP "here" must be an IP address`},
		{"discovery.k8s.io/v1 EndpointSlice", "endpoints: [{addresses: []}]", "addressType: addressType must be set, to IPv4 or IPv6\nendpoints[0].addresses: addresses must be set"},
		{"discovery.k8s.io/v1 EndpointSlice", "addressType: ipv4\nendpoints: [{addresses: [x]}]", "addressType: unknown address type \"ipv4\", did you mean \"IPv4\"?\nendpoints[0].addresses[0]: address \"x\" must be an IP address"},
		{"discovery.k8s.io/v1 EndpointSlice", "addressType: IPv4\nendpoints: []\nports: [{port: 0, name: A_, protocol: tcp}]", "ports[0].port: port number 0 must be in the range 1..65535\nports[0].name: port name \"A_\" must be a valid label\nports[0].protocol: unknown protocol \"tcp\", did you mean \"TCP\"?"},
		{"networking.istio.io/v1 ServiceEntry", "spec: {}", "spec.hosts: hosts must be set\nspec.ports: ports must be set"},
		{"networking.istio.io/v1 ServiceEntry", "spec:", "spec.hosts: hosts must be set\nspec.ports: ports must be set"},
		{"networking.istio.io/v1beta1 ServiceEntry", "spec: {hosts: ['*', A.b, '*.ok', ok], ports: [{number: 1, name: a}]}", "spec.hosts[0]: host \"*\" must be a DNS name in lower case, or \"*.\" and one\nspec.hosts[1]: host \"A.b\" must be a DNS name in lower case, or \"*.\" and one"},
		{"networking.istio.io/v1alpha3 ServiceEntry", "spec: {hosts: [a], addresses: [1.2.3.4, 10.0.0.0/8, x], ports: [{number: 1, name: a}]}", `spec.addresses[2]: address "x" must be an IP address or a CIDR range`},
		{"networking.istio.io/v1 ServiceEntry", "spec: {hosts: [a], resolution: DNS, addresses: [10.0.0.0/8], ports: [{number: 1, name: a}]}", `spec.addresses[0]: CIDR range "10.0.0.0/8" needs resolution NONE or STATIC`},
		{"networking.istio.io/v1 ServiceEntry", "spec: {hosts: [a], ports: [{number: 70000}, {number: 5, name: a, protocol: XYZ, targetPort: 70000}, {number: 5, name: a}]}", `spec.ports[0].number: port number 70000 must be in the range 1..65535
spec.ports[0].name: port name must be set
spec.ports[1].targetPort: port number 70000 must be in the range 1..65535
spec.ports[1].protocol: unknown protocol "XYZ", want one of HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP, TLS, UDP, REDIS, MYSQL
spec.ports[2].name: port name "a" is already that of spec.ports[1]
spec.ports[2].number: port 5 is already that of spec.ports[1]`},
		{"networking.istio.io/v1 ServiceEntry", "spec: {hosts: [a], location: mesh_internal, resolution: static, ports: [{number: 1, name: a}]}", "spec.location: unknown value \"mesh_internal\", did you mean \"MESH_INTERNAL\"?\nspec.resolution: unknown value \"static\", did you mean \"STATIC\"?"},
		{"networking.istio.io/v1 ServiceEntry", "spec: {hosts: [a], resolution: STATIC, endpoints: [{}, {address: a.b}], workloadSelector: {labels: {a: b}}, ports: [{number: 1, name: a}]}", `spec.workloadSelector: only one of endpoints and workloadSelector may be set
spec.endpoints[0].address: address must be set
spec.endpoints[1].address: address "a.b" must be an IP address`},
		{"networking.istio.io/v1 ServiceEntry", "spec: {hosts: [a], endpoints: [{address: 1.2.3.4}], ports: [{number: 1, name: a}]}", "spec.endpoints: endpoints need resolution STATIC or DNS"},
		{"networking.istio.io/v1 ServiceEntry", "spec: {hosts: ['*.a'], resolution: DNS, ports: [{number: 1, name: a}]}", `spec.hosts[0]: host "*.a" cannot be resolved by DNS; set endpoints`},
		{"networking.istio.io/v1 ServiceEntry", "spec: {hosts: [a], resolution: DYNAMIC_DNS, ports: [{number: 1, name: a}]}", "spec.resolution: resolution DYNAMIC_DNS is not supported; write NONE, STATIC or DNS"},
		{"networking.istio.io/v1 ServiceEntry", "spec: {hosts: [a], resolution: DNS_ROUND_ROBIN, ports: [{number: 1, name: a}]}", "info spec.resolution: DNS_ROUND_ROBIN is treated as DNS"},
		{"networking.istio.io/v1 ServiceEntry", "spec: {hosts: [a], exportTo: [., '*', '~', ns, A], ports: [{number: 1, name: a}]}", `spec.exportTo[4]: "A" must be a namespace, "." or "*"`},
		{"networking.istio.io/v1 WorkloadEntry", "spec: {}", "spec.address: address must be set"},
		{"networking.istio.io/v1 WorkloadEntry", "spec: {address: 'a b'}", `spec.address: address "a b" must be an IP address or a DNS name`},
		{"networking.istio.io/v1 WorkloadEntry", "spec: {address: 1.2.3.4, ports: {http: 0, A: 1}, serviceAccount: A}", `spec.ports.A: port name "A" must be a valid label
spec.ports.http: port number 0 must be in the range 1..65535
spec.serviceAccount: service account "A" must be a valid DNS name`},
		{"networking.istio.io/v1alpha3 WorkloadEntry", "spec: {address: 1.2.3.4, network: n1}", "info spec.network: has no effect here"},
	} {
		version, kind, _ := strings.Cut(c.kind, " ")
		b, problems := Decode(strings.NewReader("apiVersion: "+version+"\nkind: "+kind+"\nmetadata: {name: x}\n"+c.text+"\n"), "a.yaml")
		var got []string
		refused := false
		for _, p := range problems {
			text := Problem{Field: p.Field, Message: p.Message}.String()
			if p.Severity != Error {
				text = "info " + text
			}
			refused = refused || p.Severity == Error
			got = append(got, text)
		}
		wantProblems(t, c.kind+" "+c.text, got, c.want)
		if refused != (len(b.Invalid) == 1) || refused == (len(b.Positions) == 1) {
			t.Errorf("%s %s: invalid %v, valid %v", kind, c.text, b.Invalid, b.Positions)
		}
	}
}

const allKinds = `
authPolicy: MUTUAL_TLS
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: shop}}
- apiVersion: v1
  kind: ServiceList
  items:
  - apiVersion: v1
    kind: Service
    metadata: {name: cart, namespace: shop, creationTimestamp: 2024-05-06T07:08:09Z}
    spec:
      ports:
      - port: 80
        appProtocol: http
    status: {loadBalancer: {}}
---
{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "cart", "namespace": "shop"}}
---
apiVersion: v1
kind: Pod
metadata:
  name: cart-1
  creationTimestamp: null
  managedFields:
  - manager: kubectl
    fieldsV1: {"f:metadata": {}}
spec:
  containers:
  - name: app
    image: cart:1
    resources: {limits: {cpu: 1, memory: 1Gi}}
    livenessProbe: {httpGet: {path: /, port: 8080}}
status: {podIP: 10.0.0.1, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-x, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}]
ports: [{port: 8080, name: ""}]
---
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata: {name: ext}
spec:
  hosts: [api.example.com]
  ports: [{number: 443, name: https, protocol: https}]
  resolution: DNS
status: {anything: [at, all]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm}
spec: {address: 10.0.0.2, labels: {app: vm}, ports: {http: 8080}, serviceAccount: vm, locality: a/b/c, weight: 3}
---
apiVersion: authentication.istio.io/v1alpha1
kind: Policy
metadata: {name: all}
spec: {peers: [{mtls: {}}]}
`

func TestDecodeAllKinds(t *testing.T) {
	b, got := decodeText("dir/mesh.yaml", allKinds)
	wantProblems(t, "all kinds", got, "")
	var keys []string
	for key := range b.objects() {
		keys = append(keys, key.String()+" "+b.Positions[key].String())
	}
	wantProblems(t, "keys", keys, `
Namespace shop dir/mesh.yaml:7
ServiceAccount shop/cart dir/mesh.yaml:20
Service shop/cart dir/mesh.yaml:11
Pod default/cart-1 dir/mesh.yaml:22
EndpointSlice default/cart-x dir/mesh.yaml:38
ServiceEntry default/ext dir/mesh.yaml:45
WorkloadEntry default/vm dir/mesh.yaml:54
Policy default/all dir/mesh.yaml:59`)
	if !b.Mesh.MutualTLS || b.Positions[b.Mesh.Key].Line != 2 {
		t.Errorf("got %+v", b.Mesh)
	}
	s := b.Services[0]
	if p := s.Spec.Ports[0]; p.Protocol != "TCP" || p.TargetPort.IntVal != 80 || *p.AppProtocol != "http" || s.CreationTimestamp.Unix() != 1714979289 {
		t.Errorf("got %+v", s)
	}
	if p := b.Pods[0]; p.Spec.ServiceAccountName != "default" || p.Spec.Containers[0].Resources.Limits.Memory().Value() != 1<<30 {
		t.Errorf("got %+v", p)
	}
	if w := b.WorkloadEntries[0].Spec; w.Ports["http"] != 8080 || w.Weight != 3 || w.Locality != "a/b/c" {
		t.Errorf("got %v", w)
	}
}

func TestSortProblems(t *testing.T) {
	on := func(name string) model.Key { return model.Key{Kind: "Service", Namespace: "a", Name: name} }
	want := []Problem{
		{Severity: Error, On: on("a"), Field: "x"},
		{Severity: Error, On: on("b"), Field: "x"},
		{Severity: Error, On: on("b"), Field: "y", At: Position{Line: 1}},
		{Severity: Error, On: on("b"), Field: "y", At: Position{Line: 2}},
		{Severity: Warning, On: on("a")},
		{Severity: Info, On: on("a")},
	}
	got := slices.Clone(want)
	slices.Reverse(got)
	SortProblems(got)
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestProblemString(t *testing.T) {
	on := model.Key{Kind: "Service", Namespace: "a", Name: "b"}
	for _, c := range []struct {
		problem Problem
		want    string
	}{
		{Problem{On: on, Field: "spec.x", Message: "bad", At: Position{"f.yaml", 3}}, "f.yaml:3: Service a/b: spec.x: bad"},
		{Problem{On: on, Message: "bad", At: Position{File: "f.yaml"}}, "f.yaml: Service a/b: bad"},
		{Problem{On: on, Field: "spec.x", Message: `unknown field "spec.x"`}, `Service a/b: unknown field "spec.x"`},
		{Problem{On: model.Key{Kind: "File", Name: "f.yaml"}, Message: "bad", At: Position{"f.yaml", 3}}, "f.yaml:3: bad"},
		{Problem{Message: "bad"}, "bad"},
	} {
		if got := c.problem.String(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

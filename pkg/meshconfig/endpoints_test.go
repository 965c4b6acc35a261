package meshconfig

import (
	"testing"

	"github.com/meshpilot/pilot/pkg/model"
	corev1 "k8s.io/api/core/v1"
)

// cart is a Service that selects app=cart, with a named and a numbered port.
const cart = "{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {selector: {app: cart}, " +
	"ports: [{name: http, port: 80, targetPort: web}, {name: tcp, port: 90}]}}"

// cartPod is a pod of it; more is flow YAML after the labels.
func cartPod(name, ip, more string) string {
	return "{apiVersion: v1, kind: Pod, metadata: {name: " + name + ", namespace: shop, labels: {app: cart, ver: \"1\"}}, status: {podIP: " + ip + "}" + more + "}"
}

func TestPodEndpoints(t *testing.T) {
	s := only(t, cart,
		cartPod("a", "10.1.0.1", ", spec: {containers: [{name: log}, {name: app, ports: [{containerPort: 1}, {name: web, containerPort: 8080}]}]}"),
		cartPod("b", "10.1.0.2", ", spec: {containers: [{name: app, ports: [{name: web, containerPort: 8081}]}]}"),
		cartPod("udp", "10.1.0.3", ", spec: {containers: [{name: app, ports: [{name: web, containerPort: 8080, protocol: UDP}]}]}"),
		cartPod("native", "10.1.0.4", ", spec: {initContainers: [{name: p, restartPolicy: Always, ports: [{name: web, containerPort: 8084}]}]}"),
		cartPod("init", "10.1.0.5", ", spec: {initContainers: [{name: p, ports: [{name: web, containerPort: 8085}]}]}"),
		"{apiVersion: v1, kind: Pod, metadata: {name: elsewhere, namespace: pay, labels: {app: cart}}, status: {podIP: 10.1.0.9}}",
		"{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: vm, namespace: shop}, spec: {address: 10.1.0.8, labels: {app: cart}}}")
	equal(t, addresses(s.Ports[0]), []string{"10.1.0.1:8080 a", "10.1.0.2:8081 b", "10.1.0.4:8084 native"})
	equal(t, addresses(s.Ports[1]), []string{"10.1.0.1:90 a", "10.1.0.2:90 b", "10.1.0.3:90 udp", "10.1.0.4:90 native", "10.1.0.5:90 init"})
}

func TestReadiness(t *testing.T) {
	b := bundle(t, cart, cartPod("ready", "10.1.0.1", ""), cartPod("waits", "10.1.0.2", ""), cartPod("ends", "10.1.0.3", ""))
	now := b.Pods[2].CreationTimestamp
	b.Pods[1].Status.Conditions = append(b.Pods[1].Status.Conditions, notReady())
	b.Pods[2].DeletionTimestamp = &now
	in, _ := Compile(b, "cluster.local")
	equal(t, addresses(in.Services[0].Ports[1]), []string{"10.1.0.1:90 ready", "10.1.0.2:90 waits not ready", "10.1.0.3:90 ends not ready"})

	b.Services[0].Spec.PublishNotReadyAddresses = true
	in, _ = Compile(b, "cluster.local")
	equal(t, addresses(in.Services[0].Ports[1]), []string{"10.1.0.1:90 ready", "10.1.0.2:90 waits", "10.1.0.3:90 ends"})
}

func notReady() corev1.PodCondition {
	return corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse}
}

func TestSelectors(t *testing.T) {
	service := func(selector string) string {
		return "{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {selector: " + selector + ", ports: [{port: 80}]}}"
	}
	pods := cartPod("a", "10.1.0.1", "")
	equal(t, addresses(only(t, service("{app: cart, ver: \"1\"}"), pods).Ports[0]), []string{"10.1.0.1:80 a"})
	for _, selector := range []string{"{}", "{app: cart, ver: \"2\"}", "{app: cart, zone: x}", "{app: stock}"} {
		if got := addresses(only(t, service(selector), pods).Ports[0]); got != nil {
			t.Errorf("%s selects %s", selector, got)
		}
	}
}

// slice lists endpoints of Service cart.
func slice(name, more string) string {
	return "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: " + name + ", namespace: shop, labels: {kubernetes.io/service-name: cart}}, " + more + "}"
}

func TestEndpointSlices(t *testing.T) {
	const ports = "addressType: IPv4, ports: [{name: http, port: 8080}, {name: tcp, port: 7000, protocol: UDP}], "
	s := only(t, cart, cartPod("a", "10.1.0.1", ""), cartPod("b", "10.1.0.2", ""), cartPod("unlisted", "10.1.0.7", ""),
		slice("one", ports+`endpoints: [
			{addresses: [10.1.0.1], targetRef: {kind: Pod, name: a}, zone: z1},
			{addresses: [10.1.0.2], conditions: {ready: false}},
			{addresses: [10.1.0.3], targetRef: {kind: Pod, name: gone}, conditions: {ready: true, terminating: true}}]`),
		slice("two", ports+"endpoints: [{addresses: [10.1.0.2], conditions: {ready: true}}, {addresses: [10.1.0.4]}]"),
		slice("names", "addressType: FQDN, ports: [{name: http, port: 8080}], endpoints: [{addresses: [cart.example.com]}]"))
	equal(t, addresses(s.Ports[0]), []string{"10.1.0.1:8080 a", "10.1.0.2:8080 b", "10.1.0.3:8080  not ready", "10.1.0.4:8080 "})
	equal(t, addresses(s.Ports[1]), []string(nil))
	equal(t, s.Ports[0].Endpoints[0].Locality, model.Locality{Zone: "z1"})
}

func TestSliceOfUnnamedPort(t *testing.T) {
	s := only(t, "{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {ports: [{port: 80}]}}",
		slice("one", "addressType: IPv4, ports: [{port: 8080}], endpoints: [{addresses: [10.1.0.1]}]"))
	equal(t, addresses(s.Ports[0]), []string{"10.1.0.1:8080 "})
}

// A dual-stack Service lists each pod twice; clients need it once.
func TestDualStack(t *testing.T) {
	s := only(t, "{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {ipFamilies: [IPv6, IPv4], ports: [{port: 80}]}}",
		slice("v4", "addressType: IPv4, ports: [{port: 80}], endpoints: [{addresses: [10.1.0.1]}]"),
		slice("v6", "addressType: IPv6, ports: [{port: 80}], endpoints: [{addresses: [\"fd00::1\"]}]"))
	equal(t, addresses(s.Ports[0]), []string{"fd00::1:80 "})
}

// Pods of the host network share an address, so it tells nothing.
func TestSharedAddress(t *testing.T) {
	s := only(t, cart, cartPod("a", "10.1.0.1", ""), cartPod("b", "10.1.0.1", ""), cartPod("c", "10.1.0.1", ""),
		slice("one", "addressType: IPv4, ports: [{name: http, port: 1}], endpoints: [{addresses: [10.1.0.1]}]"))
	equal(t, addresses(s.Ports[0]), []string{"10.1.0.1:1 "})
}

// entry is a ServiceEntry in shop.
func entry(spec string) string {
	return "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: se, namespace: shop}, spec: " + spec + "}"
}

func TestServiceEntry(t *testing.T) {
	in, problems := compile(t, entry(`{hosts: [billing, billing.example.com], addresses: [240.1.1.1, 10.0.0.0/8, 0.0.0.0], location: MESH_INTERNAL, resolution: STATIC,
  exportTo: [., pay], subjectAltNames: [spiffe://td/x],
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}, {number: 53, name: dns, protocol: UDP}, {number: 9, name: tcp, protocol: TCP}],
  endpoints: [{address: 10.2.0.1, ports: {http: 8888}, serviceAccount: biller, weight: 3, locality: eu/eu-1}, {address: 10.1.0.1, labels: {security.istio.io/tlsMode: istio}}, {address: 10.2.0.3, labels: {security.istio.io/tlsMode: istio}}]}`),
		cartPod("a", "10.1.0.1", ""))
	key := model.Key{Kind: "ServiceEntry", Namespace: "shop", Name: "se"}
	accounts := []string{"spiffe://td/x", "spiffe://cluster.local/ns/shop/sa/biller"}
	a := model.WorkloadID{Namespace: "shop", Name: "a"}
	eu := model.Locality{Region: "eu", Zone: "eu-1"}
	labels := map[string]string{"security.istio.io/tlsMode": "istio"}
	ports := []model.ServicePort{
		{Name: "http", Number: 80, Protocol: model.HTTP, Accounts: accounts, Endpoints: []model.Endpoint{
			{Address: "10.1.0.1", Port: 8080, Workload: a, Labels: labels, Ready: true},
			{Address: "10.2.0.1", Port: 8888, Weight: 3, Locality: eu, Ready: true},
			{Address: "10.2.0.3", Port: 8080, Labels: labels, Ready: true}}},
		{Name: "tcp", Number: 9, Accounts: accounts, Endpoints: []model.Endpoint{
			{Address: "10.1.0.1", Port: 9, Workload: a, Labels: labels, Ready: true},
			{Address: "10.2.0.1", Port: 9, Weight: 3, Locality: eu, Ready: true},
			{Address: "10.2.0.3", Port: 9, Labels: labels, Ready: true}}},
	}
	want := model.Service{Key: key, Host: "billing", Name: "billing", Namespace: "shop", VIPs: []string{"240.1.1.1"}, ExportTo: []string{"shop", "pay"}, Ports: ports}
	second := want
	second.Host, second.Name, second.VIPs = "billing.example.com", "", []string{}
	equal(t, in.Services, []model.Service{want, second})
	equal(t, texts(problems), `warning VIP_CLASH ServiceEntry shop/se [] address 240.1.1.1:80 belongs to ServiceEntry shop/se (billing), which is first by name, and does not lead to billing.example.com: give it another address
info UNUSED_FIELD ServiceEntry shop/se [spec.addresses[1]] "10.0.0.0/8" is no single IP address, so calls to it are not recognised; calls by host name are
info UNUSED_FIELD ServiceEntry shop/se [spec.addresses[2]] "0.0.0.0" is no single IP address, so calls to it are not recognised; calls by host name are
info UNUSED_FIELD ServiceEntry shop/se [spec.endpoints[2].labels] label security.istio.io/tlsMode has no effect on an inline endpoint: write a WorkloadEntry and select it with workloadSelector`)
}

func TestServiceEntryKinds(t *testing.T) {
	const port = "ports: [{number: 443, name: tls, protocol: TLS, targetPort: 8443}]"
	tests := []struct {
		name, spec string
		resolution model.Resolution
		external   bool
		endpoints  []string
	}{
		{"default", "{hosts: [a.example.com], " + port + "}", model.ResolveNone, true, nil},
		{"DNS without endpoints", "{hosts: [a.example.com], resolution: DNS, " + port + "}", model.ResolveDNS, true, []string{"a.example.com:8443 "}},
		{"DNS with endpoints", "{hosts: [a.example.com], resolution: DNS, endpoints: [{address: b.example.com}], " + port + "}", model.ResolveDNS, true, []string{"b.example.com:8443 "}},
		{"selector", "{hosts: [a.example.com], location: MESH_INTERNAL, workloadSelector: {labels: {app: cart}}, " + port + "}", model.ResolveEndpoints, false,
			[]string{"10.1.0.1:8443 a", "10.2.0.1:9443 vm"}},
		{"selector of none", "{hosts: [a.example.com], location: MESH_INTERNAL, resolution: STATIC, workloadSelector: {labels: {app: none}}, " + port + "}", model.ResolveEndpoints, false, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := only(t, entry(tt.spec), cartPod("a", "10.1.0.1", ""),
				"{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: vm, namespace: shop}, spec: {address: 10.2.0.1, labels: {app: cart}, ports: {tls: 9443}, weight: 2}}")
			equal(t, s.Resolution, tt.resolution)
			equal(t, s.External, tt.external)
			equal(t, addresses(s.Ports[0]), tt.endpoints)
			equal(t, s.Ports[0].Protocol, model.TLS)
		})
	}
}

func TestNamedAddressOfStaticEntry(t *testing.T) {
	in, problems := compile(t, entry("{hosts: [a.example.com], resolution: STATIC, workloadSelector: {labels: {app: vm}}, ports: [{number: 80, name: http}]}"),
		"{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: vm, namespace: shop}, spec: {address: vm.example.com, labels: {app: vm}}}")
	if in.Services[0].Ports[0].Endpoints != nil {
		t.Errorf("got %v", in.Services[0].Ports[0].Endpoints)
	}
	equal(t, texts(problems), `warning BAD_ADDRESS WorkloadEntry shop/vm [spec.address] address "vm.example.com" is no IP address, so ServiceEntry shop/se does not reach it: write an IP address, or resolution: DNS`)
}

func TestExportTo(t *testing.T) {
	equal(t, exportTo([]string{"pay", "*"}, "shop"), []string(nil))
	equal(t, exportTo([]string{".", "pay"}, "shop"), []string{"shop", "pay"})
	equal(t, exportTo(nil, "shop"), []string(nil))
}

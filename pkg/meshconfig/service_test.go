package meshconfig

import (
	"testing"

	"github.com/meshpilot/pilot/pkg/model"
)

func TestKubernetesService(t *testing.T) {
	got := only(t, `
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop, creationTimestamp: "2024-01-02T03:04:05Z"},
 spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00::1"], ports: [
  {name: http, port: 80}, {name: db, port: 3306, appProtocol: mysql}, {name: dns, port: 53, protocol: UDP}, {name: other, port: 90, appProtocol: example.com/x}]}}`)
	equal(t, got, model.Service{
		Key:  model.Key{Kind: "Service", Namespace: "shop", Name: "cart"},
		Host: "cart.shop.svc.cluster.local", Namespace: "shop", Name: "cart", Created: 1704164645,
		VIPs: []string{"10.96.0.1", "fd00::1"},
		Ports: []model.ServicePort{
			{Name: "http", Number: 80, Protocol: model.HTTP},
			{Name: "db", Number: 3306, Protocol: model.MySQL},
			{Name: "other", Number: 90},
		},
	})
}

func TestServiceKinds(t *testing.T) {
	tests := []struct {
		name, spec string
		want       model.Service // Resolution, External, VIPs, DNSName
	}{
		{"cluster IP", "{clusterIP: 10.96.0.1, ports: [{port: 80}]}", model.Service{VIPs: []string{"10.96.0.1"}}},
		{"no cluster IP", "{ports: [{port: 80}]}", model.Service{}},
		{"headless", "{clusterIP: None, ports: [{port: 80}]}", model.Service{Resolution: model.ResolveHeadless}},
		{"external name", "{type: ExternalName, externalName: db.example.com., ports: [{port: 80}]}",
			model.Service{Resolution: model.ResolveNone, External: true, DNSName: "db.example.com"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := only(t, "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop}, spec: "+tt.spec+"}")
			equal(t, model.Service{Resolution: s.Resolution, External: s.External, VIPs: s.VIPs, DNSName: s.DNSName}, tt.want)
		})
	}
}

func TestAuthAnnotation(t *testing.T) {
	in, problems := compile(t, `
{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop, annotations: {
  auth.istio.io/80: NONE, auth.istio.io/81: MUTUAL_TLS, auth.istio.io/82: INHERIT, auth.istio.io/83: mutual_tls,
  auth.istio.io/84: "NONE ", auth.istio.io/99: NONE, auth.istio.io/http: NONE, auth.istio.io/080: NONE}},
 spec: {ports: [{name: http, port: 80}, {name: b, port: 81}, {name: c, port: 82}, {name: d, port: 83}, {name: e, port: 84}]}}`)
	var got []model.Annotation
	for _, p := range in.Services[0].Ports {
		got = append(got, p.Annotation)
	}
	equal(t, got, []model.Annotation{model.AnnotationNone, model.AnnotationMutualTLS, 0, 0, 0})
	const ports = "80 (http), 81 (b), 82 (c), 83 (d), 84 (e)"
	equal(t, texts(problems), `warning BAD_ANNOTATION Service shop/a [metadata.annotations[auth.istio.io/080]] annotation auth.istio.io/080: "NONE" of Service shop/a has no effect: "080" is none of its ports; write one of `+ports+`
warning BAD_ANNOTATION Service shop/a [metadata.annotations[auth.istio.io/83]] annotation auth.istio.io/83: "mutual_tls" of Service shop/a has no effect: write NONE, MUTUAL_TLS or INHERIT
warning BAD_ANNOTATION Service shop/a [metadata.annotations[auth.istio.io/84]] annotation auth.istio.io/84: "NONE " of Service shop/a has no effect: write NONE, MUTUAL_TLS or INHERIT
warning BAD_ANNOTATION Service shop/a [metadata.annotations[auth.istio.io/99]] annotation auth.istio.io/99: "NONE" of Service shop/a has no effect: "99" is none of its ports; write one of `+ports+`
warning BAD_ANNOTATION Service shop/a [metadata.annotations[auth.istio.io/http]] annotation auth.istio.io/http: "NONE" of Service shop/a has no effect: "http" is none of its ports; write one of `+ports)
}

func TestAccountAnnotations(t *testing.T) {
	in, problems := compile(t,
		"{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: \"{trustDomain: td1, trustDomainAliases: [td2]}\"}}", `
{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop, annotations: {
  alpha.istio.io/kubernetes-serviceaccounts: "vm, legacy", alpha.istio.io/canonical-serviceaccounts: ops@example.com}},
 spec: {ports: [{name: http, port: 80}, {name: tcp, port: 81}]}}`)
	if len(problems) != 0 {
		t.Error(texts(problems))
	}
	for _, p := range in.Services[0].Ports {
		equal(t, p.Accounts, []string{
			"spiffe://td1/ns/shop/sa/vm", "spiffe://td2/ns/shop/sa/vm",
			"spiffe://td1/ns/shop/sa/legacy", "spiffe://td2/ns/shop/sa/legacy", "spiffe://ops@example.com"})
	}
}

func TestHostClash(t *testing.T) {
	in, problems := compile(t, `
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: se, namespace: shop, creationTimestamp: "2024-01-02T00:00:00Z"},
 spec: {hosts: [cart.shop.svc.cluster.local, api.example.com, api.example.com], ports: [{number: 80, name: http, protocol: HTTP}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop, creationTimestamp: "2024-01-01T00:00:00Z"}, spec: {ports: [{port: 80}]}}`)
	var got []string
	for _, s := range in.Services {
		got = append(got, s.Key.String()+" "+s.Host)
	}
	equal(t, got, []string{"Service shop/cart cart.shop.svc.cluster.local", "ServiceEntry shop/se api.example.com"})
	equal(t, texts(problems), `warning HOST_CLASH ServiceEntry shop/se [] host api.example.com belongs to ServiceEntry shop/se, which is first by name; this object gives it nothing: use another host, or merge the two
warning HOST_CLASH ServiceEntry shop/se [] host cart.shop.svc.cluster.local belongs to Service shop/cart, which is older; this object gives it nothing: use another host, or merge the two`)
}

func TestVIPClash(t *testing.T) {
	in, problems := compile(t, `
{apiVersion: v1, kind: Service, metadata: {name: a-young, namespace: shop, creationTimestamp: "2024-01-02T00:00:00Z"}, spec: {clusterIPs: [10.96.0.1, 10.96.0.2], ports: [{name: http, port: 80}, {name: b, port: 81}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: b-old, namespace: shop, creationTimestamp: "2024-01-01T00:00:00Z"}, spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}, {name: b, port: 81}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: c-other-port, namespace: shop, creationTimestamp: "2024-01-02T00:00:00Z"}, spec: {clusterIP: 10.96.0.1, ports: [{name: tcp, port: 90}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: d-twice, namespace: shop}, spec: {clusterIPs: ["fd00::1", "fd00:0::1", "fd00::1"], ports: [{port: 80}]}}`)
	var got [][]string
	for _, s := range in.Services {
		got = append(got, s.VIPs)
	}
	equal(t, got, [][]string{{"10.96.0.2"}, {"10.96.0.1"}, {"10.96.0.1"}, {"fd00::1"}})
	equal(t, texts(problems), `warning VIP_CLASH Service shop/a-young [] address 10.96.0.1:80 belongs to Service shop/b-old (b-old.shop.svc.cluster.local), which is older, and does not lead to a-young.shop.svc.cluster.local: give it another address`)
}

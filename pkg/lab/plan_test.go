package lab

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

func decode(t *testing.T, text string) (meshconfig.Bundle, model.Inputs) {
	t.Helper()
	b, problems := meshconfig.Decode(strings.NewReader(text), "test.yaml")
	for _, p := range problems {
		if p.Severity == meshconfig.Error {
			t.Fatalf("%+v", p)
		}
	}
	in, _ := meshconfig.Compile(b, domain)
	return b, in
}

const shop = `apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  selector: {app: cart}
  ports:
    - {name: http, port: 80, targetPort: 8080}
    - {name: tcp, port: 90, targetPort: 9000}
---
apiVersion: v1
kind: Service
metadata: {name: direct, namespace: shop}
spec:
  clusterIP: None
  selector: {app: cart}
  ports: [{name: grpc, port: 7070}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody, namespace: shop}
spec:
  clusterIP: 10.96.0.2
  selector: {app: nobody}
  ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: Pod
metadata:
  name: cart
  namespace: shop
  labels: {app: cart, security.istio.io/tlsMode: istio}
spec:
  serviceAccountName: cart
  containers:
    - name: app
      ports: [{containerPort: 8080}, {containerPort: 5353, protocol: UDP}, {containerPort: 6060, name: http-admin}, {containerPort: 9000, name: tls-lines}]
status: {podIP: 127.10.0.11}
`

func TestPlan(t *testing.T) {
	b, in := decode(t, shop)
	p, err := makePlan(b, in, false)
	if err != nil {
		t.Fatal(err)
	}
	want := workload{
		id:      model.WorkloadID{Namespace: "shop", Name: "cart"},
		address: netip.MustParseAddr("127.10.0.11"), app: netip.MustParseAddr("127.20.0.11"),
		uri: "spiffe://cluster.local/ns/shop/sa/cart", sidecar: true,
		ports: []port{{6060, model.HTTP, false}, {7070, model.GRPC, false}, {8080, model.HTTP, false}, {9000, model.TLS, true}},
	}
	if len(p.workloads) != 1 || !reflect.DeepEqual(p.workloads[0], want) {
		t.Errorf("workloads %+v, want %+v", p.workloads, want)
	}
	var targets []string
	for _, target := range p.targets {
		targets = append(targets, target.through().Address+" or "+target.direct()[0].Address+" "+target.protocol.String())
	}
	wantTargets := []string{
		"10.96.0.1:80 or 127.10.0.11:8080 http",
		"10.96.0.1:90 or 127.10.0.11:9000 tls",      // as the Pod says
		"127.10.0.11:7070 or 127.10.0.11:7070 grpc", // no virtual address
	}
	if !reflect.DeepEqual(targets, wantTargets) {
		t.Errorf("targets %q, want %q", targets, wantTargets)
	}
	p.addClient(false)
	if last := p.workloads[len(p.workloads)-1]; last.sidecar || len(p.workloads) != 2 {
		t.Errorf("no client without a sidecar: %+v", p.workloads)
	}
	if p.addClient(false); len(p.workloads) != 2 {
		t.Error("a second client although there is one")
	}
}

func TestPlanWithCapture(t *testing.T) {
	b, _ := decode(t, shop)
	moved := capturedBundle(b)
	if ip := moved.Pods[0].Status.PodIP; ip != "10.10.0.11" {
		t.Errorf("pod moved to %s", ip)
	}
	if ip := b.Pods[0].Status.PodIP; ip != "127.10.0.11" {
		t.Errorf("the source's own pod was changed to %s", ip)
	}
	if ip := moved.Services[0].Spec.ClusterIP; ip != "10.96.0.1" {
		t.Errorf("virtual address moved to %s", ip)
	}
	in, _ := meshconfig.Compile(moved, domain)
	p, err := makePlan(moved, in, true)
	if err != nil {
		t.Fatal(err)
	}
	if w := p.workloads[0]; w.address.String() != "10.10.0.11" || w.app.String() != "0.0.0.0" {
		t.Errorf("workload at %s, application on %s", w.address, w.app)
	}
}

func TestCaptured(t *testing.T) {
	for from, to := range map[string]string{
		"127.10.0.11": "10.10.0.11", "127.0.0.1": "10.0.0.1", "10.244.1.2": "10.244.1.2",
		"None": "None", "": "", "::1": "::1", "db.example.com": "db.example.com",
	} {
		if got := captured(from); got != to {
			t.Errorf("%q becomes %q, want %q", from, got, to)
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	pod := func(name, ip string) string {
		return "---\napiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", namespace: shop, labels: {security.istio.io/tlsMode: istio}}\n" +
			"spec: {containers: [{name: app}]}\nstatus: {podIP: " + ip + "}\n"
	}
	for name, tc := range map[string]struct {
		yaml    string
		capture bool
		want    string
	}{
		"no address":        {pod("a", `""`), false, "Pod shop/a has no address: give it one in status.podIP"},
		"not loopback":      {pod("a", "10.1.2.3"), false, "Pod shop/a has the address 10.1.2.3: without capture the lab runs on 127.x addresses only"},
		"one for two":       {pod("a", "127.10.0.1") + pod("b", "127.10.0.1"), false, "shop/a and shop/b both need the address 127.10.0.1"},
		"an application's":  {pod("a", "127.10.0.1") + pod("b", "127.20.0.1"), false, "both need the address 127.20.0.1"},
		"the control plane": {pod("a", "10.255.255.254"), true, "which the lab uses itself"},
		"IPv6":              {pod("a", `"fd00::1"`), true, "the lab needs IPv4"},
		"nothing":           {"---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n", false, "there is no workload"},
	} {
		t.Run(name, func(t *testing.T) {
			b, in := decode(t, tc.yaml)
			_, err := makePlan(b, in, tc.capture)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

package meshconfig

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/meshpilot/pilot/pkg/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// bundle decodes YAML documents that are meant to be valid.
func bundle(t testing.TB, docs ...string) Bundle {
	t.Helper()
	b, problems := Decode(strings.NewReader(strings.Join(docs, "\n---\n")), "test.yaml")
	for _, p := range problems {
		if p.Severity > Info {
			t.Fatalf("test input: %s", p)
		}
	}
	return b
}

// compile is Compile of YAML documents.
func compile(t testing.TB, docs ...string) (model.Inputs, []Problem) {
	t.Helper()
	return Compile(bundle(t, docs...), "cluster.local")
}

// only compiles documents that give one service.
func only(t *testing.T, docs ...string) model.Service {
	t.Helper()
	in, problems := compile(t, docs...)
	if len(in.Services) != 1 || len(problems) != 0 {
		t.Fatalf("got %d services, problems %s", len(in.Services), texts(problems))
	}
	return in.Services[0]
}

// texts are problems without their place, one a line.
func texts(problems []Problem) string {
	var lines []string
	for _, p := range problems {
		lines = append(lines, fmt.Sprintf("%s %s %s [%s] %s", p.Severity, p.Code, p.On, p.Field, p.Message))
	}
	return strings.Join(lines, "\n")
}

// addresses are a port's endpoints, one each: address:port workload ready.
func addresses(p model.ServicePort) []string {
	var out []string
	for _, e := range p.Endpoints {
		text := fmt.Sprintf("%s:%d %s", e.Address, e.Port, e.Workload.Name)
		if !e.Ready {
			text += " not ready"
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return out
}

func equal(t *testing.T, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("want -, got +:\n%s", d)
	}
}

// The mesh of spec server-policy.md 7.
const workedMesh = `
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {selector: {app: cart}, ports: [{name: http, port: 7000, targetPort: web}, {name: tcp-sync, port: 7001, targetPort: 7701}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: stock, namespace: shop}, spec: {selector: {app: stock}, ports: [{name: http-main, port: 81, targetPort: 8081}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: cart-1, namespace: shop, labels: {app: cart, ver: "1", security.istio.io/tlsMode: istio}}, spec: {containers: [{name: app, ports: [{name: web, containerPort: 9000}]}]}, status: {podIP: 10.1.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: cart-2, namespace: shop, labels: {app: cart, ver: "2", security.istio.io/tlsMode: istio}}, spec: {containers: [{name: app, ports: [{name: web, containerPort: 9005}]}]}, status: {podIP: 10.1.0.2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: stock-1, namespace: shop, labels: {app: stock, security.istio.io/tlsMode: istio}}, status: {podIP: 10.1.0.3}}
`

// policy is a Policy in shop.
func policy(name, spec string) string {
	return "{apiVersion: authentication.istio.io/v1alpha1, kind: Policy, metadata: {name: " + name + ", namespace: shop}, spec: " + spec + "}"
}

// Example 11: what is invalid closes what it names, and says so.
func TestStandIn(t *testing.T) {
	b := bundle(t, workedMesh)
	bad := model.Key{Kind: "Policy", Namespace: "shop", Name: "bad"}
	b.Invalid = []Invalid{
		{On: bad, Targets: []PolicyTarget{{Name: "cart"}}},
		{On: model.Key{Kind: "Policy", Namespace: "pay", Name: "unreadable"}},
		{On: model.Key{Kind: "Service", Namespace: "shop", Name: "broken"}},
	}
	in, problems := Compile(b, "cluster.local")
	equal(t, in.Policies, []model.ServerPolicy{
		{Key: bad, StandIn: true, Rules: []model.PolicyRule{{Rank: model.RankWorkload, Mode: model.Strict, Service: "cart"}}},
		{Key: b.Invalid[1].On, StandIn: true, Rules: []model.PolicyRule{{Rank: model.RankNamespace, Mode: model.Strict}}},
	})
	equal(t, texts(problems), `error FAIL_CLOSED Policy pay/unreadable [] the object is invalid and no valid version of it is known: until it is corrected or deleted, mode STRICT applies to all of namespace pay where no valid object of the same rank says otherwise
error FAIL_CLOSED Policy shop/bad [] the object is invalid and no valid version of it is known: until it is corrected or deleted, mode STRICT applies to what it targets where no valid object of the same rank says otherwise`)
	d := model.Build(in).Decision(model.WorkloadID{Namespace: "shop", Name: "cart-1"}, 7701)
	if d.Mode != model.Strict || d.By() != "Policy shop/bad which is invalid" {
		t.Errorf("got %s by %s", d.Mode, d.By())
	}
}

func TestPolicyRules(t *testing.T) {
	in, problems := compile(t, workedMesh, policy("p",
		"{targets: [{name: cart, ports: [{number: 7000}, {name: tcp-sync}]}, {name: stock}], peers: [{mtls: {mode: PERMISSIVE}}]}"), policy("ns", "{peers: [{mtls: }]}"))
	if len(problems) != 0 {
		t.Error(texts(problems))
	}
	equal(t, in.Policies, []model.ServerPolicy{
		{Key: model.Key{Kind: "Policy", Namespace: "shop", Name: "p"}, Rules: []model.PolicyRule{
			{Rank: model.RankPort, Mode: model.Permissive, Service: "cart", PortNumber: 7000},
			{Rank: model.RankPort, Mode: model.Permissive, Service: "cart", PortName: "tcp-sync"},
			{Rank: model.RankWorkload, Mode: model.Permissive, Service: "stock"},
		}},
		{Key: model.Key{Kind: "Policy", Namespace: "shop", Name: "ns"}, Rules: []model.PolicyRule{{Rank: model.RankNamespace, Mode: model.Strict}}},
	})
}

func TestMesh(t *testing.T) {
	in, _ := Compile(Bundle{}, "example.org")
	want := DefaultMesh().Mesh
	want.Domain = "example.org"
	equal(t, in.Mesh, want)

	b := bundle(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: \"connectTimeout: 3s\"}}")
	in, _ = Compile(b, "cluster.local")
	if in.Mesh.ConnectTimeout != 3*time.Second {
		t.Errorf("connect timeout %s", in.Mesh.ConnectTimeout)
	}
}

// The order of objects must not show, nor may Compile change them.
func TestOrderAndInput(t *testing.T) {
	b := bundle(t, workedMesh, policy("a", "{}"), policy("b", "{peers: [{mtls: }]}"),
		"{apiVersion: v1, kind: Service, metadata: {name: other, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}",
		"{apiVersion: v1, kind: Service, metadata: {name: another, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}")
	for i, s := range b.Services {
		s.CreationTimestamp = metav1.Unix(int64(100+i), 0)
	}
	before := b.Services[2].DeepCopy()
	in, problems := Compile(b, "cluster.local")
	slices.Reverse(b.Services)
	slices.Reverse(b.Pods)
	slices.Reverse(b.Policies)
	again, problemsAgain := Compile(b, "cluster.local")
	equal(t, problemsAgain, problems)
	equal(t, model.Build(again).Endpoints(), model.Build(in).Endpoints())
	byHost := func(a, b model.Service) int { return strings.Compare(a.Host, b.Host) }
	slices.SortFunc(in.Services, byHost)
	slices.SortFunc(again.Services, byHost)
	for i := range in.Services {
		equal(t, again.Services[i].VIPs, in.Services[i].VIPs)
	}
	equal(t, b.Services[1], before)
	if problems[0].At.File != "test.yaml" || problems[0].At.Line == 0 {
		t.Errorf("no position: %+v", problems[0])
	}
}

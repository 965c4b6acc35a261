package kube

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/meshpilot/pilot/internal/fakeenvoy"
	"github.com/meshpilot/pilot/internal/kubetest"
	"github.com/meshpilot/pilot/pkg/discovery"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/meshconfig/file"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/replicas"
	"github.com/meshpilot/pilot/pkg/translate"
)

// twoPods are a server and a client, whose Envoys the test plays.
const twoPods = `apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.1.0.1, selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: cart-1, namespace: shop, labels: {app: cart, security.istio.io/tlsMode: istio}}
spec: {serviceAccountName: cart, containers: [{name: app, image: app}]}
status: {podIP: 127.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web, security.istio.io/tlsMode: istio}}
spec: {serviceAccountName: web, containers: [{name: app, image: app}]}
status: {podIP: 127.0.0.2}
`

const strictCart = `---
apiVersion: authentication.istio.io/v1alpha1
kind: Policy
metadata: {name: strict, namespace: shop}
spec: {targets: [{name: cart}], peers: [{mtls: {}}]}
`

// deployment is the replicas of one control plane in this process, with an API
// server of their own.
type deployment struct {
	t       *testing.T
	cluster *kubetest.Cluster
	dir     string
}

// pilot is one of them.
type pilot struct {
	*discovery.Server
	lease *replicas.Lease
	group *replicas.Group
	end   func() // as SIGKILL does: nothing is released
	stop  func() // as SIGTERM does
}

// newDeployment lets pilots do no more than what the package says it needs.
func newDeployment(t *testing.T) *deployment {
	t.Helper()
	d := &deployment{t: t, cluster: kubetest.Start(t, kubetest.Options{}), dir: t.TempDir()}
	d.cluster.Namespace(t, "istio-system", nil)
	d.cluster.ServiceAccount(t, "istio-system", "istio-pilot")
	rbac := d.cluster.Client.RbacV1()
	_, err := rbac.Roles("istio-system").Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "pilot"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"get", "create", "update"}},
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "list", "watch", "create", "update", "delete"}},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}},
	}}, metav1.CreateOptions{})
	if err == nil {
		_, err = rbac.RoleBindings("istio-system").Create(t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "pilot"}, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: "pilot"},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "istio-system", Name: "istio-pilot"}},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	d.edit(twoPods)
	return d
}

func (d *deployment) edit(documents ...string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, "mesh.yaml"), []byte(strings.Join(documents, "")), 0o644); err != nil {
		d.t.Fatal(err)
	}
}

func (d *deployment) start(name string) *pilot {
	d.t.Helper()
	config := d.cluster.Account(d.t, "istio-system", "istio-pilot")
	ctx, kill := context.WithCancel(context.WithoutCancel(d.t.Context()))
	config.Wrap(untilDone(ctx))
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		d.t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	p := &pilot{lease: replicas.NewLease(client, "istio-system", name)}
	p.group = replicas.New(replicas.Options{Client: client, Namespace: "istio-system", Lease: p.lease, Log: log})
	p.Server, err = discovery.Listen(discovery.Options{
		Source: &file.Source{Dir: d.dir, Log: log}, Replicas: p.group, Log: log,
		PlaintextAddress: "127.0.0.1:0", HTTPAddress: "127.0.0.1:0",
	})
	if err != nil {
		d.t.Fatal(err)
	}
	run, cancel := context.WithCancel(context.WithoutCancel(d.t.Context()))
	var wg sync.WaitGroup
	for _, work := range []func(context.Context) error{p.lease.Run, p.group.Run, p.Run} {
		wg.Go(func() {
			if err := work(run); err != nil {
				d.t.Errorf("%s: %v", name, err)
			}
		})
	}
	p.stop = sync.OnceFunc(func() { cancel(); wg.Wait(); kill() })
	p.end = func() { kill(); p.stop() }
	d.t.Cleanup(p.stop)
	return p
}

// envoy connects a proxy to a replica.
func (d *deployment) envoy(p *pilot, node string, held fakeenvoy.Held) *fakeenvoy.Envoy {
	d.t.Helper()
	conn, err := grpc.NewClient(p.Addresses().Plaintext, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = conn.Close() })
	e, err := fakeenvoy.Connect(d.t.Context(), conn, fakeenvoy.Options{Node: &corev3.Node{Id: node}, Held: held})
	if err != nil {
		d.t.Fatal(err)
	}
	return e
}

// within waits until what is true.
func within(t *testing.T, d time.Duration, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", d, what)
		}
	}
}

func cartAt(p *pilot) status.Rollout {
	for _, r := range p.Rollouts() {
		if r.Wanted.Group == "cart" && r.Wanted.Port == 8080 {
			return r
		}
	}
	return status.Rollout{}
}

func waitsAt(p *pilot) string {
	var out []string
	for _, b := range cartAt(p).Waits {
		out = append(out, b.String())
	}
	return strings.Join(out, "; ")
}

func sendsTLS(e *fakeenvoy.Envoy) bool {
	r, ok := e.Held()[translate.ClusterType]["outbound|80||cart.shop.svc.cluster.local"]
	return ok && strings.Contains(string(r.Body.Value), "envoy.transport_sockets.tls")
}

// Two replicas carry a change out together; the leader is killed in the middle
// of it, and the other goes on where it was. A proxy that moves is sent nothing.
func TestReplicas(t *testing.T) {
	const cartNode, webNode = "sidecar~127.0.0.1~cart-1.shop~shop.svc.cluster.local", "sidecar~127.0.0.2~web-1.shop~shop.svc.cluster.local"
	d := newDeployment(t)
	a := d.start("a")
	within(t, 20*time.Second, "a leads", func() bool { return a.lease.Leader() && len(a.Rollouts()) > 0 })
	b := d.start("b")
	within(t, 20*time.Second, "b follows", func() bool { return len(b.Rollouts()) > 0 && len(b.State().Replicas) == 2 })
	web := d.envoy(b, webNode, nil)
	within(t, 10*time.Second, "the client is served", func() bool { return len(web.Names(translate.ListenerType)) > 0 })

	d.edit(twoPods, strictCart)
	for _, p := range []*pilot{a, b} {
		within(t, 10*time.Second, "both wait for the server", func() bool { return waitsAt(p) == "shop/cart-1 has a sidecar that is not connected" })
	}
	before := cartAt(a)
	if before.Wanted.Decision.Phase.String() != "PERMISSIVE" || sendsTLS(web) {
		t.Fatalf("in %s, clients send mTLS %v", before.Wanted.Decision.Phase, sendsTLS(web))
	}
	a.end()
	within(t, 40*time.Second, "b leads", b.lease.Leader)
	if after := cartAt(b); after.Wanted.Decision.Phase != before.Wanted.Decision.Phase || sendsTLS(web) {
		t.Errorf("in %s, clients send mTLS %v", after.Wanted.Decision.Phase, sendsTLS(web))
	}
	c := d.start("c")
	within(t, 20*time.Second, "c follows", func() bool { return len(c.Rollouts()) > 0 })
	cart := d.envoy(c, cartNode, nil)
	within(t, 20*time.Second, "the client sends mTLS", func() bool { return sendsTLS(web) })
	within(t, 90*time.Second, "both wait for traffic alone, as nobody is silent any more", func() bool {
		const want = "shop/cart-1 sends no access logs, so plaintext would not be seen"
		return waitsAt(b) == want && waitsAt(c) == want
	})

	held := cart.Close()
	moved := d.envoy(b, cartNode, held)
	within(t, 20*time.Second, "the server is proven at the other", func() bool {
		return len(moved.Responses()) > 0 && waitsAt(c) == "shop/cart-1 sends no access logs, so plaintext would not be seen"
	})
	for _, r := range moved.Responses() {
		if len(r.Resources)+len(r.Removed) > 0 {
			t.Errorf("the proxy that moved was sent %d resources of %s", len(r.Resources), r.TypeURL)
		}
	}
	for _, f := range b.State().Findings {
		if f.Code == "REPLICA_DIVERGED" {
			t.Error(f.Message)
		}
	}
}

// untilDone fails all requests once ctx is done, as of a process that is dead.
func untilDone(ctx context.Context) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return next.RoundTrip(r)
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

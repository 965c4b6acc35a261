package kube

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/meshpilot/pilot/internal/kubetest"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/cluster"
)

// followed is a Source that runs, and what it published last.
type followed struct {
	log textLog

	mu       sync.Mutex
	bundle   meshconfig.Bundle
	problems []meshconfig.Problem
	count    int
	err      chan error
}

func open(t testing.TB, config *rest.Config, namespace string) *cluster.Cluster {
	t.Helper()
	c := &cluster.Cluster{Config: config, Namespace: namespace}
	var err error
	for _, open := range []func() error{
		func() error { c.Client, err = kubernetes.NewForConfig(config); return err },
		func() error { c.Dynamic, err = dynamic.NewForConfig(config); return err },
		func() error { c.Metadata, err = metadata.NewForConfig(config); return err },
	} {
		if err := open(); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// quietOnce keeps client-go's log out of the tests' output.
var quietOnce sync.Once

// follow runs a Source until the test ends.
func follow(t testing.TB, s *kube.Source) *followed {
	quietOnce.Do(func() { kube.LogTo(slog.New(slog.DiscardHandler)) })
	f := &followed{err: make(chan error, 1)}
	s.Log = slog.New(slog.NewTextHandler(&f.log, nil))
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.err <- s.Run(ctx, func(b meshconfig.Bundle, p []meshconfig.Problem) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.bundle, f.problems = b, p
			f.count++
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if t.Failed() {
			t.Logf("the source's log:\n%s", f.log.String())
		}
	})
	return f
}

// shows waits until what was published last is as check wants it.
func (f *followed) shows(t testing.TB, what string, check func(meshconfig.Bundle, string) error) {
	t.Helper()
	eventually(t, what, func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.count == 0 {
			return fmt.Errorf("nothing was published")
		}
		return check(f.bundle, problemText(f.problems))
	})
}

func (f *followed) published() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

func problemText(problems []meshconfig.Problem) string {
	var lines []string
	for _, p := range problems {
		lines = append(lines, p.Code+" "+p.Severity.String()+" "+p.String())
	}
	return strings.Join(lines, "\n")
}

// textLog collects log lines.
type textLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *textLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *textLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func service(t testing.TB, c *kubetest.Cluster, namespace, name string) {
	t.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": name},
		Ports:    []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}},
	}}
	if _, err := c.Client.CoreV1().Services(namespace).Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// settings makes the ConfigMap istio hold this text.
func settings(t testing.TB, c *kubetest.Cluster, namespace, text string) {
	t.Helper()
	c.Kubectl(t, fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"istio","namespace":%q},"data":{"mesh":%q}}`, namespace, text), "apply", "-f", "-")
}

// wantMesh wants this of the mesh settings, and of the problems exactly these
// lines.
func wantMesh(mutual bool, problems ...string) func(meshconfig.Bundle, string) error {
	return func(b meshconfig.Bundle, text string) error {
		if got := b.Mesh != nil && b.Mesh.MutualTLS; got != mutual || text != strings.Join(problems, "\n") {
			return fmt.Errorf("mutual TLS %t, problems:\n%s", got, text)
		}
		return nil
	}
}

// The ConfigMap is followed, absent, invalid, without its key and gone.
func TestSourceSettings(t *testing.T) {
	shared.Namespace(t, "settings", nil)
	f := follow(t, &kube.Source{Cluster: open(t, shared.Config(), "settings"), Namespace: "settings"})
	const on = "ConfigMap settings/istio: "
	f.shows(t, "no ConfigMap", wantMesh(false, "NO_MESH_CONFIG info "+on+"no mesh configuration; the built-in defaults are in force"))
	settings(t, shared, "settings", "authPolicy: MUTUAL_TLS\n")
	f.shows(t, "MUTUAL_TLS", wantMesh(true))
	settings(t, shared, "settings", "authPolicy: NON\nconnectTimeout: 1h\n")
	f.shows(t, "an invalid edit", wantMesh(true, "INVALID error data.mesh:1: "+on+
		`authPolicy: unrecognized auth policy "NON", did you mean "NONE"?; connectTimeout: invalid connect timeout "1h": duration must be in the range 1ms..30s; the last accepted version stays in force`))
	shared.Kubectl(t, "", "-n", "settings", "patch", "configmap", "istio", "--type=json", `-p=[{"op":"remove","path":"/data/mesh"}]`)
	f.shows(t, "no key", wantMesh(true, "INVALID error "+on+`data: missing configuration map key "mesh"; the last accepted version stays in force`))
	shared.Kubectl(t, "", "-n", "settings", "delete", "configmap", "istio")
	f.shows(t, "deleted", wantMesh(true, "NO_MESH_CONFIG error "+on+"the mesh configuration is gone or empty; the last accepted version stays in force"))
	settings(t, shared, "settings", "authPolicy: NONE\n")
	f.shows(t, "NONE", wantMesh(false))
}

// Settings with errors refuse the start, all at once.
func TestSourceRefuses(t *testing.T) {
	shared.Namespace(t, "refuses", nil)
	for text, want := range map[string]string{
		"authPolicy: NON\nauthPolici: NONE\n": "the mesh settings in ConfigMap refuses/istio have 2 errors:\n" +
			`data.mesh:2: ConfigMap refuses/istio: unknown field "authPolici", did you mean "authPolicy"?` + "\n" +
			`data.mesh:1: ConfigMap refuses/istio: authPolicy: unrecognized auth policy "NON", did you mean "NONE"?`,
		"": "the mesh settings in ConfigMap refuses/istio have an error:\n" +
			`ConfigMap refuses/istio: data: missing configuration map key "mesh"`,
	} {
		settings(t, shared, "refuses", text)
		if text == "" {
			shared.Kubectl(t, "", "-n", "refuses", "patch", "configmap", "istio", "--type=json", `-p=[{"op":"remove","path":"/data/mesh"}]`)
		}
		f := follow(t, &kube.Source{Cluster: open(t, shared.Config(), "refuses"), Namespace: "refuses"})
		select {
		case err := <-f.err:
			if err == nil || err.Error() != want {
				t.Errorf("%q:\n got %v\nwant %s", text, err, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%q: it runs", text)
		}
	}
}

// wantCounts wants this many of what a cluster has, and exactly these problems.
func wantCounts(services, endpoints, pods int, problems string) func(meshconfig.Bundle, string) error {
	return func(b meshconfig.Bundle, text string) error {
		ready := 0
		for _, s := range b.EndpointSlices {
			ready += len(s.Endpoints)
		}
		if len(b.Services) != services || ready != endpoints || len(b.Pods) != pods || !strings.Contains(text, problems) || problems == "" && strings.Contains(text, "error") {
			return fmt.Errorf("%d services, %d endpoints, %d pods, problems:\n%s", len(b.Services), ready, len(b.Pods), text)
		}
		return nil
	}
}

// peersCRD is PeerAuthentication as Istio installs it, without its schema.
const peersCRD = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"peerauthentications.security.istio.io"},
"spec":{"group":"security.istio.io","scope":"Namespaced","names":{"plural":"peerauthentications","singular":"peerauthentication","kind":"PeerAuthentication"},
"versions":[{"name":"v1beta1","served":true,"storage":true,"subresources":{"status":{}},"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`

func wantPeer(mode string, problems string) func(meshconfig.Bundle, string) error {
	return func(b meshconfig.Bundle, text string) error {
		got := ""
		for _, p := range b.PeerAuthentications {
			got += p.Mode.String()
		}
		if got != mode || !strings.Contains(text, problems) || problems == "" && strings.Contains(text, "error") {
			return fmt.Errorf("mode %q, problems:\n%s", got, text)
		}
		return nil
	}
}

// A CRD that appears late is picked up, an invalid edit keeps the accepted
// version, and a CRD that goes takes its objects with it, or comes back.
func TestSourceCustom(t *testing.T) {
	c := kubetest.Start(t, kubetest.Options{})
	c.Namespace(t, "shop", nil)
	c.Namespace(t, "istio-system", nil)
	f := follow(t, &kube.Source{Cluster: open(t, c.Config(), "istio-system"), Namespace: "istio-system"})
	f.shows(t, "no CRD", wantPeer("", ""))
	peer := func(mode string) {
		t.Helper()
		eventually(t, "apply "+mode, func() error {
			_, err := c.TryKubectl(t, `{"apiVersion":"security.istio.io/v1beta1","kind":"PeerAuthentication","metadata":{"name":"p","namespace":"shop"},"spec":{"mtls":{"mode":"`+mode+`"}}}`, "apply", "-f", "-")
			return err
		})
	}
	for _, round := range []string{"first", "second"} {
		c.Kubectl(t, peersCRD, "apply", "-f", "-")
		peer("STRICT")
		f.shows(t, round+": a CRD", wantPeer("STRICT", ""))
		before := f.published()
		c.Kubectl(t, "", "-n", "shop", "patch", "peerauthentication", "p", "--subresource=status", "--type=merge", `-p={"status":{"a":1}}`)
		peer("STRIKT")
		f.shows(t, round+": an invalid edit", wantPeer("STRICT",
			`INVALID error PeerAuthentication shop/p: spec.mtls.mode: unknown mTLS mode "STRIKT", did you mean "STRICT"?; the last accepted version stays in force`))
		if n := f.published() - before; n != 1 {
			t.Errorf("%s: %d bundles of a status and an edit", round, n)
		}
		c.Kubectl(t, "", "delete", "crd", "peerauthentications.security.istio.io")
		f.shows(t, round+": the CRD is gone", wantPeer("", ""))
	}
}

// What RBAC denies is a Problem that says what to grant, and holds nothing up;
// once granted it is read.
func TestSourceDenied(t *testing.T) {
	c := kubetest.Start(t, kubetest.Options{})
	c.Namespace(t, "istio-system", nil)
	c.Namespace(t, "default", nil)
	c.ServiceAccount(t, "istio-system", "istio-pilot")
	service(t, c, "default", "cart")
	pod := c.Pod(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cart"}}, "10.1.0.1")
	c.Endpoints(t, "default", "cart", pod)
	grant := func(resources string) {
		c.Kubectl(t, `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"pilot"},"rules":[{"verbs":["list","watch"],"apiGroups":["","discovery.k8s.io","apiextensions.k8s.io"],"resources":[`+resources+`]}]}`, "apply", "-f", "-")
	}
	source := func() *kube.Source {
		return &kube.Source{Cluster: open(t, c.AsAccount("istio-system", "istio-pilot"), "istio-system"), Namespace: "istio-system"}
	}
	refused := follow(t, source())
	select {
	case err := <-refused.err:
		if want := `ServiceAccount istio-system/istio-pilot: may not list the ConfigMap istio-system/istio, so the mesh settings are not known; grant it list and watch on resource "configmaps" of API group "" by a Role in istio-system`; err == nil || err.Error() != want {
			t.Errorf("without any role: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for the ConfigMap")
	}
	grant(`"configmaps","services","endpointslices","namespaces"`)
	c.Kubectl(t, "", "create", "clusterrolebinding", "pilot", "--clusterrole=pilot", "--serviceaccount=istio-system:istio-pilot")
	eventually(t, "the role", func() error {
		_, err := c.TryKubectl(t, "", "auth", "can-i", "list", "services", "--as=system:serviceaccount:istio-system:istio-pilot")
		return err
	})
	f := follow(t, source())
	f.shows(t, "no right on pods", wantCounts(2, 1, 0, `RBAC_DENIED error ServiceAccount istio-system/istio-pilot: may not list Pods, so no sidecar of the cluster gets a configuration; grant it list and watch on resource "pods" of API group "" by a ClusterRole`))
	grant(`"configmaps","services","endpointslices","namespaces","pods","serviceaccounts","customresourcedefinitions"`)
	f.shows(t, "granted", wantCounts(2, 1, 1, ""))
	if text := f.log.String(); strings.Count(text, "\n") > 2 {
		t.Errorf("the log repeats itself:\n%s", text)
	}
}

// The API server is away, and back: the last state stays, the log says it once,
// and what happened meanwhile is followed. Then the watch is cut again and
// again.
func TestSourceOutage(t *testing.T) {
	c := kubetest.Start(t, kubetest.Options{})
	c.Namespace(t, "istio-system", nil)
	relay := c.Relay(t)
	relay.Refuse(true)
	f := follow(t, &kube.Source{Cluster: open(t, relay.Config(c.Config()), "istio-system"), Namespace: "istio-system"})
	eventually(t, "the log of an outage at the start", func() error {
		if !strings.Contains(f.log.String(), "cannot be followed") {
			return fmt.Errorf("log: %s", f.log.String())
		}
		return nil
	})
	if f.published() > 0 {
		t.Fatal("a bundle without a cluster")
	}
	relay.Refuse(false)
	f.shows(t, "it answers", wantCounts(1, 0, 0, ""))
	service(t, c, "default", "cart")
	f.shows(t, "a Service", wantCounts(2, 0, 0, ""))

	c.APIServer.Kill()
	f.shows(t, "it is killed", wantCounts(2, 0, 0, "API_UNREACHABLE error APIServer https://"))
	if err := c.APIServer.Start(); err != nil {
		t.Fatal(err)
	}
	c.Kubectl(t, "", "delete", "service", "cart")
	f.shows(t, "it is back", wantCounts(1, 0, 0, ""))
	for _, text := range []string{"cannot be followed", "is followed again"} {
		if n := strings.Count(f.log.String(), text); n != 2 {
			t.Errorf("%d lines say that it %s, of 2 outages:\n%s", n, text, f.log.String())
		}
	}

	for i := range 10 {
		service(t, c, "default", fmt.Sprint("s", i))
		relay.Cut()
		f.shows(t, "a Service while the watch is cut", wantCounts(2+i, 0, 0, ""))
	}
}

// Endpoints that vanish without an event, as a restored backup of etcd makes
// them, stay until a second list says the same; deleted ones go at once.
func TestSourceGuard(t *testing.T) {
	c := kubetest.Start(t, kubetest.Options{})
	c.Namespace(t, "istio-system", nil)
	c.Namespace(t, "default", nil)
	var pods []*corev1.Pod
	for i := range 12 {
		pods = append(pods, c.Pod(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("p", i)}}, fmt.Sprint("10.1.0.", i+1)))
	}
	for _, name := range []string{"big", "small"} {
		service(t, c, "default", name)
	}
	c.Endpoints(t, "default", "big", pods...)
	c.Endpoints(t, "default", "small", pods[:9]...)
	relay := c.Relay(t)
	f := follow(t, &kube.Source{Cluster: open(t, relay.Config(c.Config()), "istio-system"), Namespace: "istio-system", Confirm: 3 * time.Second})
	f.shows(t, "both", wantCounts(3, 21, 12, ""))

	// A restarted API server does not know the events before its start.
	relay.Refuse(true)
	relay.Cut()
	c.Kubectl(t, "", "delete", "endpointslices", "--all")
	c.Kubectl(t, "", "delete", "pods", "--all", "--force", "--grace-period=0")
	c.APIServer.Stop()
	if err := c.APIServer.Start(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	relay.Refuse(false)
	f.shows(t, "held", wantCounts(3, 12, 12, "MASS_REMOVAL error Service default/big: all 12 ready endpoints are missing in the list that followed a lost watch"))
	f.shows(t, "let go", wantCounts(3, 0, 0, ""))
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("let go after %s, before a second list could tell", took)
	}

	for i := range pods {
		pods[i].ResourceVersion = ""
	}
	c.Endpoints(t, "default", "big", pods...)
	f.shows(t, "back", wantCounts(3, 12, 0, ""))
	before := f.published()
	c.Kubectl(t, "", "delete", "endpointslices", "--all")
	f.shows(t, "deleted", wantCounts(3, 0, 0, ""))
	if n := f.published() - before; n != 1 {
		t.Errorf("%d bundles of one deletion", n)
	}
}

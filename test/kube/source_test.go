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

// follow runs a Source until the test ends.
func follow(t testing.TB, s *kube.Source) *followed {
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

// want wants this of the mesh settings, and of the problems exactly these
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

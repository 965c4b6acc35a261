package kube

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpilot/pilot/pkg/lab/app"
	"github.com/meshpilot/pilot/pkg/lab/envoy"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/test/kube/node"
)

const (
	system = "istio-system"
	shop   = "bookinfo"

	// inForce is within what time an edit must be: the refresh delay and 2 s.
	inForce = time.Second + 2*time.Second
)

// mesh is a cluster with pilot installed as a user would, and bookinfo.
type mesh struct {
	*node.Node
	t       *testing.T
	control []*node.Pod
	pods    map[string]*node.Pod // by name of their Deployment
}

// startMesh installs pilot, then deploys bookinfo, whose pods get their
// sidecars from the webhook.
func startMesh(t *testing.T) *mesh {
	t.Helper()
	m := install(t)
	m.control = m.Deploy(t, system, "istio-pilot")
	m.Namespace(t, shop, map[string]string{"istio-injection": "enabled"})
	bookinfo, err := os.ReadFile("testdata/bookinfo.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m.Kubectl(t, string(bookinfo), "apply", "-f", "-")
	for _, name := range []string{"details", "reviews", "productpage", "legacy"} {
		m.pods[name] = m.Deploy(t, shop, name)[0]
	}
	return m
}

// install applies what pilot install prints, and nothing runs yet.
func install(t *testing.T, args ...string) *mesh {
	t.Helper()
	m := &mesh{Node: node.Start(t, programs), t: t, pods: map[string]*node.Pod{}}
	m.Namespace(t, "default", nil)
	m.Namespace(t, system, nil)
	m.Kubectl(t, m.pilot(append([]string{"install", "--dry-run"}, args...)...), "apply", "-f", "-")
	return m
}

// pilot runs the command on the node and returns what it prints.
func (m *mesh) pilot(args ...string) string {
	m.t.Helper()
	var out []byte
	err := m.Network.Do(func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		var stderr strings.Builder
		cmd := exec.CommandContext(ctx, programs.Pilot, args...)
		cmd.Stderr = &stderr
		if out, err = cmd.Output(); err != nil {
			err = fmt.Errorf("pilot %s: %w\n%s%s", strings.Join(args, " "), err, out, stderr.String())
		}
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return string(out)
}

// setMesh writes the ConfigMap and returns when the API server had it.
func (m *mesh) setMesh(t *testing.T, text string) time.Time {
	t.Helper()
	maps := m.Client.CoreV1().ConfigMaps(system)
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "istio"}, Data: map[string]string{"mesh": text}}
	_, err := maps.Update(t.Context(), config, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = maps.Create(t.Context(), config, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return time.Now()
}

// apply is kubectl apply; it returns when that was over.
func (m *mesh) apply(t *testing.T, text string) time.Time {
	t.Helper()
	m.Kubectl(t, text, "apply", "-f", "-")
	return time.Now()
}

// remove is kubectl delete of what apply made.
func (m *mesh) remove(t *testing.T, text string) time.Time {
	t.Helper()
	m.Kubectl(t, text, "delete", "-f", "-")
	return time.Now()
}

// call makes one request from a pod, on a connection of its own, to a service:
// to its virtual address, as applications do.
func (m *mesh) call(from, service string, port uint16) (app.Echo, error) {
	p := m.pods[from]
	s, err := m.Client.CoreV1().Services(shop).Get(m.t.Context(), service, metav1.GetOptions{})
	if err != nil {
		return app.Echo{}, err
	}
	target := app.Target{
		Host: service + "." + shop + ".svc.cluster.local", Port: port, Protocol: model.HTTP,
		Address: net.JoinHostPort(s.Spec.ClusterIP, strconv.Itoa(int(port))),
	}
	client := app.NewClient(p.Name, target, p.Space.Dial, "")
	defer client.Close()
	ctx, cancel := context.WithTimeout(m.t.Context(), 5*time.Second)
	defer cancel()
	return client.Call(ctx, false)
}

// uri is the identity of a service account of bookinfo.
func uri(account string) string { return "spiffe://cluster.local/ns/" + shop + "/sa/" + account }

// mutual wants the call to be answered, by mutual TLS.
func (m *mesh) mutual(from, service string, port uint16) error {
	echo, err := m.call(from, service, port)
	if err != nil {
		return fmt.Errorf("%s to %s:%d: %w", from, service, port, err)
	}
	if echo.Peer != uri(from) {
		return fmt.Errorf("%s to %s:%d: the callee sees the caller %q", from, service, port, echo.Peer)
	}
	return nil
}

// plain wants the call to be answered, without mutual TLS.
func (m *mesh) plain(from, service string, port uint16) error {
	echo, err := m.call(from, service, port)
	if err != nil {
		return fmt.Errorf("%s to %s:%d: %w", from, service, port, err)
	}
	if echo.Peer != "" {
		return fmt.Errorf("%s to %s:%d is mutual TLS", from, service, port)
	}
	return nil
}

// refused wants the call to be refused with a text.
func (m *mesh) refused(from, service string, port uint16, text string) error {
	echo, err := m.call(from, service, port)
	if err == nil {
		return fmt.Errorf("%s to %s:%d is answered: %+v", from, service, port, echo)
	}
	if !strings.Contains(err.Error(), text) {
		return fmt.Errorf("%s to %s:%d: %w, want %q", from, service, port, err, text)
	}
	return nil
}

// inTime waits until check has no error, and fails unless that is at most
// limit after the edit.
func inTime(t *testing.T, what string, edited time.Time, limit time.Duration, check func() error) {
	t.Helper()
	eventually(t, what, check)
	took := time.Since(edited).Round(time.Millisecond)
	t.Logf("%s: after %s", what, took)
	if took > limit {
		t.Errorf("%s took %s, more than %s", what, took, limit)
	}
}

// all are several checks.
func all(checks ...func() error) func() error {
	return func() error {
		for _, check := range checks {
			if err := check(); err != nil {
				return err
			}
		}
		return nil
	}
}

// admin is the admin endpoint of the pod's Envoy.
func admin(p *node.Pod) *envoy.Admin { return envoy.NewAdmin("127.0.0.1:15000", p.Space.Dial) }

// traffic calls from every pod with a sidecar to every service, all the time,
// until stop says what failed.
type traffic struct {
	calls, failed atomic.Int64
	first         atomic.Pointer[string]
	cancel        context.CancelFunc
	running       sync.WaitGroup
}

// load starts the traffic; the test fails if a call fails before stop.
func (m *mesh) load(t *testing.T) *traffic {
	ctx, cancel := context.WithCancel(t.Context())
	l := &traffic{cancel: cancel}
	for _, from := range []string{"productpage", "reviews"} {
		for _, to := range []string{"details", "reviews", "productpage"} {
			if from == to {
				continue
			}
			l.running.Go(func() {
				tick := time.NewTicker(100 * time.Millisecond)
				defer tick.Stop()
				for {
					select {
					case <-ctx.Done():
						return
					case <-tick.C:
					}
					l.calls.Add(1)
					if _, err := m.call(from, to, 9080); err != nil && ctx.Err() == nil {
						l.failed.Add(1)
						text := fmt.Sprintf("%s to %s: %v", from, to, err)
						l.first.CompareAndSwap(nil, &text)
					}
				}
			})
		}
	}
	t.Cleanup(func() { l.stop(t) })
	return l
}

// stop ends the traffic, of which no call may have failed.
func (l *traffic) stop(t testing.TB) {
	t.Helper()
	l.cancel()
	l.running.Wait()
	if n := l.failed.Load(); n > 0 {
		t.Errorf("%d of %d calls between sidecars failed, the first: %s", n, l.calls.Load(), *l.first.Load())
		l.failed.Store(0)
	}
	if l.calls.Load() < 10 {
		t.Errorf("only %d calls were made", l.calls.Load())
	}
}

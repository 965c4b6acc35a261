package kube

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/meshpilot/pilot/internal/kubetest"
)

// The API server is a real one: kubectl finds its version, admission and RBAC
// work, and a service account's token is known to it.
func TestServer(t *testing.T) {
	var version struct {
		ServerVersion struct{ GitVersion string }
	}
	out := shared.Kubectl(t, "", "version", "-o", "json")
	if err := json.Unmarshal([]byte(out), &version); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(version.ServerVersion.GitVersion, "v1.") {
		t.Errorf("kubectl version prints %s", out)
	}
	shared.Namespace(t, "server", nil)
	pod := shared.Pod(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "server", Name: "a"}}, "10.244.0.1")
	if len(pod.Spec.Volumes) != 1 || pod.Spec.ServiceAccountName != "default" {
		t.Errorf("the admission of a pod did not mount its account's token: %+v", pod.Spec)
	}
	account, err := kubernetes.NewForConfig(shared.Account(t, "server", "default"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = account.CoreV1().Pods("server").List(t.Context(), metav1.ListOptions{})
	if want := `User "system:serviceaccount:server:default" cannot list resource "pods"`; !errors.IsForbidden(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("an account without a role lists pods: %v, want %s", err, want)
	}
	out, err = shared.TryKubectl(t, "", "auth", "can-i", "list", "pods", "--as=system:serviceaccount:server:default")
	if err == nil || strings.TrimSpace(out) != "no" {
		t.Errorf("kubectl auth can-i: %q, %v", out, err)
	}
}

// What is stored survives a kill of either process, on the same address; a cut
// connection is only a connection.
func TestServerRestarts(t *testing.T) {
	c := kubetest.Start(t, kubetest.Options{})
	maps := c.Client.CoreV1().ConfigMaps("default")
	if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"etcd killed and started", func() error { c.Etcd.Kill(); return c.Etcd.Start() }},
		{"API server killed and started", func() error { c.APIServer.Kill(); return c.APIServer.Start() }},
		{"API server stopped and started", func() error { c.APIServer.Stop(); return c.APIServer.Start() }},
		{"API server paused and resumed", func() error {
			if err := c.APIServer.Pause(); err != nil {
				return err
			}
			return c.APIServer.Resume()
		}},
	} {
		began := time.Now()
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		eventually(t, step.name, func() error {
			_, err := maps.Get(t.Context(), "kept", metav1.GetOptions{})
			return err
		})
		t.Logf("%s: answers after %s", step.name, time.Since(began).Round(time.Millisecond))
	}
	relay := c.Relay(t)
	through, err := kubernetes.NewForConfig(relay.Config(c.Config()))
	if err != nil {
		t.Fatal(err)
	}
	watch, err := through.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	relay.Refuse(true)
	relay.Cut()
	for range watch.ResultChan() { // until it is closed
	}
	short, cancel := context.WithTimeout(t.Context(), time.Second) // the client tries again
	defer cancel()
	if _, err := through.CoreV1().ConfigMaps("default").Get(short, "kept", metav1.GetOptions{}); err == nil {
		t.Error("a refused connection answers")
	}
	relay.Refuse(false)
	if _, err := through.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

// eventually waits until check has no error, for at most 30 s.
func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%s: %v", what, err)
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

package kube

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpilot/pilot/internal/kubetest"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/cluster"
)

// A control plane in a cluster is reached through the API server, and takes
// the caller for one on its own machine.
func TestForward(t *testing.T) {
	control := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s from %s", r.URL.Path, strings.Split(r.RemoteAddr, ":")[0])
	}))
	t.Cleanup(control.Close)
	shared.Kubelet(t, "forward-node", func(pod string, port int) (net.Conn, error) {
		if pod != "pilot-2" || port != 8080 {
			return nil, fmt.Errorf("nothing listens at %d of %s", port, pod)
		}
		return net.Dial("tcp", control.Listener.Addr().String())
	})
	shared.Namespace(t, "forward", nil)
	labels := map[string]string{"app": "pilot"}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "forward", Name: "istio-pilot"},
		Spec: corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 15012}}}}
	if _, err := shared.Client.CoreV1().Services("forward").Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := func(name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "forward", Name: name, Labels: labels}, Spec: corev1.PodSpec{NodeName: "forward-node", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	}
	if _, err := shared.Client.CoreV1().Pods("forward").Create(t.Context(), pod("pilot-1"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Open(cluster.Where{Kubeconfig: kubetest.Kubeconfig(t, shared.Config(), "")})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Forward(t.Context(), "forward", "istio-pilot", 8080); err == nil || err.Error() != "none of the 1 pods of service forward/istio-pilot is ready" {
		t.Errorf("no pod is ready: %v", err)
	}

	shared.Pod(t, pod("pilot-2"), "10.244.7.2")
	address, name, err := c.Forward(t.Context(), "forward", "istio-pilot", 8080)
	if err != nil || name != "pilot-2" {
		t.Fatalf("pod %q, %v", name, err)
	}
	response, err := http.Get("http://" + address + "/debug/status")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "/debug/status from 127.0.0.1" {
		t.Errorf("%q, %v", body, err)
	}
	if _, _, err := c.Forward(t.Context(), "forward", "nobody", 8080); err == nil || !strings.Contains(err.Error(), `services "nobody" not found`) {
		t.Errorf("no such service: %v", err)
	}
}

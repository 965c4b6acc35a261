package kube

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshpilot/pilot/pkg/lab/app"
	"github.com/meshpilot/pilot/test/kube/node"
)

// shell is a container of this machine's shell, as another user.
func shell(name, script string) corev1.Container {
	user, readOnly := int64(1337), true
	return corev1.Container{
		Name: name, Image: "image", Command: []string{"/bin/sh", "-euc", script},
		Env:             []corev1.EnvVar{{Name: "POD_IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}}},
		SecurityContext: &corev1.SecurityContext{RunAsUser: &user, RunAsGroup: &user, ReadOnlyRootFilesystem: &readOnly},
		VolumeMounts:    []corev1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}, {Name: "config", MountPath: "/config", ReadOnly: true}},
	}
}

// The node that the other tests rely on runs containers as a cluster does.
func TestNode(t *testing.T) {
	n := node.Start(t, programs)
	n.Namespace(t, "default", nil)
	if _, err := n.Client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "config"}, Data: map[string]string{"key": "one"},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	service, err := n.Client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{
			{Name: "http", Port: 80, TargetPort: intstr.FromString("http")},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := n.Run(t, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{
			Volumes: []corev1.Volume{
				{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
				{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "config"}}}},
			},
			InitContainers: []corev1.Container{shell("init", `
				test "$(id -u)" = 1337
				test "$(cat /config/key)" = one
				test -s /var/run/secrets/kubernetes.io/serviceaccount/token
				grep -q 'web.default.svc.cluster.local' /etc/hosts
				grep -q "$POD_IP" /etc/hosts
				! touch /config/new 2>/dev/null || { echo config is writable; exit 1; }
				! touch /new 2>/dev/null || { echo the root is writable; exit 1; }
				echo "$POD_IP" > /scratch/ip
				/usr/local/bin/envoy --version
				/usr/local/bin/pilot version`)},
			Containers: []corev1.Container{
				{Name: "app", Image: node.AppImage, Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}},
				shell("follower", `while test "$(cat /config/key)" = one; do sleep 0.1; done; cat /config/key /scratch/ip`),
			},
		},
	})
	if _, err := n.Client.CoreV1().ConfigMaps("default").Update(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "config"}, Data: map[string]string{"key": "two"},
	}, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := p.Processes["follower"].Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := p.Processes["follower"].Tail(); !strings.Contains(got, "two"+p.Address) {
		t.Errorf("the container printed %q", got)
	}
	slice, err := n.Client.DiscoveryV1().EndpointSlices("default").Get(t.Context(), "web-1", metav1.GetOptions{})
	if err != nil || len(slice.Endpoints) != 1 || *slice.Ports[0].Port != 8080 {
		t.Fatalf("%+v, %v", slice, err)
	}
	conn, err := p.Space.Dial(t.Context(), net.JoinHostPort(service.Spec.ClusterIP, "80"))
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{Dial: func(string, string) (net.Conn, error) { return conn, nil }}}
	resp, err := client.Get("http://web/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	var echo app.Echo
	if err != nil || json.Unmarshal(body, &echo) != nil || echo.Name != "web" {
		t.Errorf("%s, %v", body, err)
	}
	p.Delete(t)
	if left, err := n.Client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); err != nil || len(left.Items) != 0 {
		t.Errorf("%d pods are left, %v", len(left.Items), err)
	}
	if _, err := n.Client.DiscoveryV1().EndpointSlices("default").Get(t.Context(), "kubernetes", metav1.GetOptions{}); err != nil {
		t.Errorf("the API server's own endpoints: %v", err)
	}
}

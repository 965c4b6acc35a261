package kube

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/meshconfig/file"
)

func peer(generation int64, status string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
		"metadata": map[string]any{"name": "default", "namespace": "shop", "uid": "u", "resourceVersion": fmt.Sprint(generation, status)},
		"spec":     map[string]any{"mtls": map[string]any{"mode": "STRICT"}},
		"status":   map[string]any{"message": status},
	}}
	u.SetGeneration(generation)
	return u
}

func trimmed[T metav1.Object](t *testing.T, trim func(any) (metav1.Object, error), list []T) []T {
	t.Helper()
	out := make([]T, 0, len(list))
	for _, o := range list {
		once, err := trim(o)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := trim(once)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(once, twice); diff != "" {
			t.Errorf("trimming again changes it:\n%s", diff)
		}
		out = append(out, twice.(T))
	}
	return out
}

// What is trimmed compiles to the same inputs and problems as the whole does,
// for each example and golden case.
func TestTrimLosesNothing(t *testing.T) {
	var dirs []string
	for _, pattern := range []string{"../../../testdata/*", "../../../testdata/*/*", "../../../examples/*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, found...)
	}
	pods := 0
	for _, dir := range dirs {
		whole, _, err := file.Load(dir)
		if err != nil || len(whole.Services) == 0 {
			continue // no directory of configuration
		}
		pods += len(whole.Pods)
		part := whole
		part.Services = trimmed(t, trimService, whole.Services)
		part.EndpointSlices = trimmed(t, trimSlice, whole.EndpointSlices)
		part.Pods = trimmed(t, trimPod, whole.Pods)
		in, problems := meshconfig.Compile(whole, "cluster.local")
		inPart, problemsPart := meshconfig.Compile(part, "cluster.local")
		if diff := cmp.Diff(in, inPart); diff != "" {
			t.Errorf("%s: whole -, trimmed +:\n%s", dir, diff)
		}
		if diff := cmp.Diff(problems, problemsPart); diff != "" {
			t.Errorf("%s: problems of the whole -, trimmed +:\n%s", dir, diff)
		}
	}
	if pods < 20 {
		t.Errorf("only %d pods were compared", pods)
	}
}

// A pod with conditions, but not the one that counts, is not ready.
func TestTrimReadiness(t *testing.T) {
	ready := func(conditions ...corev1.PodCondition) string {
		o, err := trimPod(&corev1.Pod{Status: corev1.PodStatus{Conditions: conditions}})
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(o.(*corev1.Pod).Status)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if got := ready(corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}); !strings.Contains(got, `"type":"Ready","status":"False"`) {
		t.Errorf("scheduled only: %s", got)
	}
	if got := ready(); strings.Contains(got, "conditions") {
		t.Errorf("no conditions: %s", got)
	}
}

// usualPod is one as an injected Deployment has it.
func usualPod(i int) *corev1.Pod {
	var env []corev1.EnvVar
	for j := range 20 {
		env = append(env, corev1.EnvVar{Name: fmt.Sprintf("SETTING_%d_%d", i, j), Value: strings.Repeat("v", 40)})
	}
	container := func(name string) corev1.Container {
		return corev1.Container{
			Name: name, Image: fmt.Sprintf("registry.example.com/team/%s:%d", name, i), Env: env, Args: []string{"proxy", "sidecar", fmt.Sprint(i)},
			Ports:          []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
			Resources:      corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("128Mi")}},
			ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: fmt.Sprintf("/ready/%d", i)}}},
			VolumeMounts:   []corev1.VolumeMount{{Name: "token", MountPath: "/var/run/secrets"}, {Name: "certs", MountPath: "/etc/certs"}},
		}
	}
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: fmt.Sprintf("cart-6c5bf8d7f4-%05d", i), UID: "0d4eb2a0-7c3e-4d55-9a1f-1d7f2f7e1c11",
			Labels:        map[string]string{"app": fmt.Sprintf("cart-%d", i/10), "version": "v1", "pod-template-hash": fmt.Sprintf("6c5bf8d7%02d", i/10)},
			Annotations:   map[string]string{"sidecar.istio.io/status": strings.Repeat("s", 300), "kubectl.kubernetes.io/restartedAt": "2026-01-01"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet", FieldsV1: &metav1.FieldsV1{Raw: []byte(strings.Repeat("f", 3000))}}},
		},
		Spec: corev1.PodSpec{ServiceAccountName: "cart", Containers: []corev1.Container{container("app"), container("istio-proxy")}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, {Type: corev1.PodReady, Status: corev1.ConditionTrue},
		}},
	}
	return p
}

// wire is a copy that shares no memory, as one that came over the network.
func wire(t testing.TB, p *corev1.Pod) *corev1.Pod {
	t.Helper()
	data, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	out := &corev1.Pod{}
	if err := out.Unmarshal(data); err != nil {
		t.Fatal(err)
	}
	return out
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkPodMemory is the heap that one pod costs, whole and in a mirror.
func BenchmarkPodMemory(b *testing.B) {
	const n = 2000
	for b.Loop() {
		before := heap()
		whole := make([]*corev1.Pod, n)
		for i := range whole {
			whole[i] = wire(b, usualPod(i))
		}
		middle := heap()
		m := newMirror(trimPod, func() {})
		for i := range whole {
			if err := m.Add(whole[i]); err != nil {
				b.Fatal(err)
			}
			whole[i] = nil
		}
		runtime.KeepAlive(whole)
		after := heap()
		if list, _ := m.list(); len(list) != n {
			b.Fatal(len(list))
		}
		b.ReportMetric(float64(middle-before)/n, "whole-B/pod")
		b.ReportMetric(float64(after-before)/n, "mirror-B/pod")
	}
}

// An endpoint of a trimmed slice must not cost much either.
func BenchmarkSliceMemory(b *testing.B) {
	const n = 1000
	for b.Loop() {
		before := heap()
		m := newMirror(trimSlice, func() {})
		for i := range n {
			raw := slice(fmt.Sprint("cart-", i), fmt.Sprint("cart-", i), 10)
			data, err := raw.Marshal()
			if err != nil {
				b.Fatal(err)
			}
			s := &discoveryv1.EndpointSlice{}
			if err := s.Unmarshal(data); err != nil {
				b.Fatal(err)
			}
			if err := m.Add(s); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(heap()-before)/n/10, "mirror-B/endpoint")
		runtime.KeepAlive(m)
	}
}

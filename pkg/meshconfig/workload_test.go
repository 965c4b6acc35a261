package meshconfig

import (
	"testing"

	"github.com/meshpilot/pilot/pkg/model"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPodWorkload(t *testing.T) {
	in, problems := compile(t, `
{apiVersion: v1, kind: Pod, metadata: {name: cart-abc-1, namespace: shop, creationTimestamp: "2024-01-02T03:04:05Z",
 labels: {app: cart, pod-template-hash: abc, topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-1, topology.istio.io/subzone: rack-2},
 annotations: {sidecar.istio.io/status: "{}", sidecar.istio.io/interceptionMode: NONE},
 ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: cart-abc, uid: u, controller: true}]},
 spec: {serviceAccountName: buyer}, status: {podIP: 10.1.0.1}}`)
	if len(problems) != 0 {
		t.Fatal(texts(problems))
	}
	none := model.CaptureNone
	equal(t, in.Workloads, []model.Workload{{
		ID:      model.WorkloadID{Namespace: "shop", Name: "cart-abc-1"},
		Key:     model.Key{Kind: "Pod", Namespace: "shop", Name: "cart-abc-1"},
		Address: "10.1.0.1", Group: "cart", ServiceAccount: "buyer", Sidecar: true, Capture: &none, Created: 1704164645,
		Locality: model.Locality{Region: "eu", Zone: "eu-1", SubZone: "rack-2"},
		Labels: map[string]string{"app": "cart", "pod-template-hash": "abc", "topology.kubernetes.io/region": "eu",
			"topology.kubernetes.io/zone": "eu-1", "topology.istio.io/subzone": "rack-2"},
	}})
}

func TestWorkloadEntry(t *testing.T) {
	in, problems := compile(t, `
{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: vm-1, namespace: shop, labels: {tier: own}},
 spec: {address: 10.2.0.1, labels: {app: billing, version: v2, tier: spec, security.istio.io/tlsMode: istio}, locality: eu/eu-1/rack-2}}`)
	if len(problems) != 0 {
		t.Fatal(texts(problems))
	}
	equal(t, in.Workloads, []model.Workload{{
		ID:      model.WorkloadID{Namespace: "shop", Name: "vm-1"},
		Key:     model.Key{Kind: "WorkloadEntry", Namespace: "shop", Name: "vm-1"},
		Address: "10.2.0.1", Group: "billing-v2", ServiceAccount: "default", Sidecar: true,
		Locality: model.Locality{Region: "eu", Zone: "eu-1", SubZone: "rack-2"},
		Labels:   map[string]string{"app": "billing", "version": "v2", "tier": "own", "security.istio.io/tlsMode": "istio"},
	}})
}

func TestSidecar(t *testing.T) {
	label := map[string]string{"security.istio.io/tlsMode": "istio"}
	always := corev1.ContainerRestartPolicyAlways
	proxy := []corev1.Container{{Name: "app"}, {Name: "istio-proxy"}}
	tests := []struct {
		name        string
		labels      map[string]string
		annotations map[string]string
		spec        corev1.PodSpec
		want        bool
	}{
		{name: "nothing says so"},
		{name: "label", labels: label, want: true},
		{name: "label of another value", labels: map[string]string{"security.istio.io/tlsMode": "disabled"}},
		{name: "injector's annotation", annotations: map[string]string{"sidecar.istio.io/status": ""}, want: true},
		{name: "container", spec: corev1.PodSpec{Containers: proxy}, want: true},
		{name: "native sidecar", spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "istio-proxy", RestartPolicy: &always}}}, want: true},
		{name: "other container", spec: corev1.PodSpec{Containers: proxy[:1]}},
		{name: "opt-out beats the label", labels: label, annotations: map[string]string{"sidecar.istio.io/inject": "false"}},
		{name: "opt-out by label", labels: map[string]string{"security.istio.io/tlsMode": "istio", "sidecar.istio.io/inject": "false"}},
		{name: "opt-out does not beat the container", annotations: map[string]string{"sidecar.istio.io/inject": "false"},
			spec: corev1.PodSpec{Containers: proxy}, want: true},
		{name: "opt-in is no sidecar yet", annotations: map[string]string{"sidecar.istio.io/inject": "true"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: tt.labels, Annotations: tt.annotations}, Spec: tt.spec}
			equal(t, podSidecar(pod), tt.want)
		})
	}
}

func TestGroup(t *testing.T) {
	yes, no := true, false
	owner := func(kind, name string, controller *bool) metav1.OwnerReference {
		return metav1.OwnerReference{Kind: kind, Name: name, Controller: controller}
	}
	tests := []struct {
		name   string
		labels map[string]string
		owners []metav1.OwnerReference
		want   string
	}{
		{"Deployment", map[string]string{"pod-template-hash": "77c"}, []metav1.OwnerReference{owner("ReplicaSet", "web-v1-77c", &yes)}, "web-v1"},
		{"bare ReplicaSet", nil, []metav1.OwnerReference{owner("ReplicaSet", "web-77c", &yes)}, "web-77c"},
		{"StatefulSet", map[string]string{"app": "x"}, []metav1.OwnerReference{owner("StatefulSet", "db", &yes)}, "db"},
		{"second owner controls", nil, []metav1.OwnerReference{owner("Node", "n1", &no), owner("DaemonSet", "log", nil)}, "log"},
		{"app and version", map[string]string{"app": "reviews", "version": "v2"}, nil, "reviews-v2"},
		{"app", map[string]string{"app": "reviews"}, nil, "reviews"},
		{"recommended labels", map[string]string{"app.kubernetes.io/name": "reviews", "app.kubernetes.io/version": "2"}, nil, "reviews-2"},
		{"nothing", nil, nil, "pod-1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod-1", Labels: tt.labels, OwnerReferences: tt.owners}}
			equal(t, podGroup(pod), tt.want)
		})
	}
}

func TestLocality(t *testing.T) {
	equal(t, podLocality(map[string]string{"istio-locality": "eu.eu-1.rack-2", "topology.kubernetes.io/region": "us"}),
		model.Locality{Region: "eu", Zone: "eu-1", SubZone: "rack-2"})
	equal(t, entryLocality("eu", map[string]string{"istio-locality": "us"}), model.Locality{Region: "eu"})
	equal(t, entryLocality("", map[string]string{"istio-locality": "us.us-1"}), model.Locality{Region: "us", Zone: "us-1"})
}

func TestReady(t *testing.T) {
	with := func(conditions ...corev1.PodCondition) *corev1.Pod {
		return &corev1.Pod{Status: corev1.PodStatus{Conditions: conditions}}
	}
	scheduled := corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}
	equal(t, podReady(with()), true)
	equal(t, podReady(with(scheduled)), false)
	equal(t, podReady(with(scheduled, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})), true)
	equal(t, podReady(with(corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionUnknown})), false)
}

func TestNoWorkload(t *testing.T) {
	in, problems := compile(t, `
{apiVersion: v1, kind: Pod, metadata: {name: pending, namespace: shop}}
---
{apiVersion: v1, kind: Pod, metadata: {name: done, namespace: shop}, status: {podIP: 10.1.0.1, phase: Succeeded}}
---
{apiVersion: v1, kind: Pod, metadata: {name: failed, namespace: shop}, status: {podIP: 10.1.0.1, phase: Failed}}
---
{apiVersion: v1, kind: Pod, metadata: {name: twin, namespace: shop}, status: {podIP: 10.1.0.1}}
---
{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: twin, namespace: shop}, spec: {address: 10.1.0.2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: odd, namespace: shop, annotations: {sidecar.istio.io/interceptionMode: none}}, status: {podIP: 10.1.0.3}}`)
	var got []string
	for _, w := range in.Workloads {
		got = append(got, w.Key.String())
		if w.Capture != nil {
			t.Errorf("%s has capture %s", w.Key, *w.Capture)
		}
	}
	equal(t, got, []string{"Pod shop/twin", "Pod shop/odd"})
	equal(t, texts(problems), `warning BAD_ANNOTATION Pod shop/odd [metadata.annotations[sidecar.istio.io/interceptionMode]] annotation sidecar.istio.io/interceptionMode: "none" has no effect: write REDIRECT, TPROXY or NONE
warning WORKLOAD_CLASH WorkloadEntry shop/twin [metadata.name] Pod shop/twin has this name too and keeps it, so this object is no workload: rename one of them`)
}

func TestCapturedPorts(t *testing.T) {
	const include, exclude = "traffic.sidecar.istio.io/includeInboundPorts", "traffic.sidecar.istio.io/excludeInboundPorts"
	for _, c := range []struct {
		annotations string
		in, out     []uint16
		want        string
	}{
		{`{}`, []uint16{80, 9000}, nil, ""},
		{`{` + include + `: "*"}`, []uint16{80}, nil, ""},
		{`{` + include + `: "80, 81"}`, []uint16{80, 81}, []uint16{82}, ""},
		{`{` + include + `: ""}`, nil, []uint16{80}, ""},
		{`{` + exclude + `: "9000"}`, []uint16{80}, []uint16{9000}, ""},
		{`{` + include + `: "80,81", ` + exclude + `: "81"}`, []uint16{80}, []uint16{81, 82}, ""},
		{`{` + exclude + `: "9000,web"}`, []uint16{80}, []uint16{9000},
			`warning BAD_ANNOTATION Pod shop/cart [metadata.annotations[` + exclude + `]] annotation ` + exclude + `: "web" has no effect: write * or port numbers with commas between`},
	} {
		in, problems := compile(t, `{apiVersion: v1, kind: Pod, metadata: {name: cart, namespace: shop, annotations: `+c.annotations+`}, status: {podIP: 10.1.0.1}}`)
		equal(t, texts(problems), c.want)
		for _, port := range c.in {
			equal(t, in.Workloads[0].Inbound.Has(port), true)
		}
		for _, port := range c.out {
			equal(t, in.Workloads[0].Inbound.Has(port), false)
		}
	}
}

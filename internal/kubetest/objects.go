package kubetest

import (
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Namespace creates a namespace and what controllers put into each: the
// account default and the ConfigMap kube-root-ca.crt. One that exists gets
// what it lacks.
func (c *Cluster) Namespace(t testing.TB, name string, labels map[string]string) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: name, Labels: labels}
	_, err := c.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: meta}, metav1.CreateOptions{})
	made(t, err)
	c.ServiceAccount(t, name, "default")
	ca, err := os.ReadFile(c.keys.path("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	root := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": string(ca)}}
	_, err = c.Client.CoreV1().ConfigMaps(name).Create(t.Context(), root, metav1.CreateOptions{})
	made(t, err)
}

// ServiceAccount creates one, unless it is there.
func (c *Cluster) ServiceAccount(t testing.TB, namespace, name string) {
	t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
	_, err := c.Client.CoreV1().ServiceAccounts(namespace).Create(t.Context(), account, metav1.CreateOptions{})
	made(t, err)
}

// Pod creates a pod and says, as its kubelet would, that it runs and is ready
// at the address. A pod without containers gets one.
func (c *Cluster) Pod(t testing.TB, pod *corev1.Pod, address string) *corev1.Pod {
	t.Helper()
	pod = pod.DeepCopy()
	if len(pod.Spec.Containers) == 0 {
		pod.Spec.Containers = []corev1.Container{{Name: "app", Image: "app"}}
	}
	if pod.Spec.NodeName == "" {
		pod.Spec.NodeName = "node"
	}
	pod, err := c.Client.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: address, PodIPs: []corev1.PodIP{{IP: address}}, HostIP: "10.0.0.1",
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	if pod, err = c.Client.CoreV1().Pods(pod.Namespace).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return pod
}

// Endpoints makes the service's only EndpointSlice name these pods, ready, at
// the service's target ports, which are numbers.
func (c *Cluster) Endpoints(t testing.TB, namespace, service string, pods ...*corev1.Pod) {
	t.Helper()
	s, err := c.Client.CoreV1().Services(namespace).Get(t.Context(), service, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service, discoveryv1.LabelManagedBy: "kubetest"}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, p := range s.Spec.Ports {
		port := p.TargetPort.IntVal
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
	}
	ready := true
	for _, p := range pods {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{p.Status.PodIP}, NodeName: &p.Spec.NodeName,
			Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		})
	}
	slices := c.Client.DiscoveryV1().EndpointSlices(namespace)
	if _, err = slices.Create(t.Context(), slice, metav1.CreateOptions{}); errors.IsAlreadyExists(err) {
		_, err = slices.Update(t.Context(), slice, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func made(t testing.TB, err error) {
	t.Helper()
	if err != nil && !errors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

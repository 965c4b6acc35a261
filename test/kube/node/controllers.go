package node

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Deploy runs the pods of a Deployment that is in the API, as its controller
// and its ReplicaSet's would make them.
func (n *Node) Deploy(t testing.TB, namespace, deployment string) []*Pod {
	t.Helper()
	d, err := n.Client.AppsV1().Deployments(namespace).Get(t.Context(), deployment, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var pods []*Pod
	for i := range *d.Spec.Replicas {
		pods = append(pods, n.Run(t, podOf(d, i)))
	}
	return pods
}

func podOf(d *appsv1.Deployment, number int32) *corev1.Pod {
	const hash = "5d8c7"
	pod := &corev1.Pod{ObjectMeta: *d.Spec.Template.ObjectMeta.DeepCopy(), Spec: *d.Spec.Template.Spec.DeepCopy()}
	controller := true
	pod.Namespace, pod.Name = d.Namespace, fmt.Sprintf("%s-%s-%d", d.Name, hash, number)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels["pod-template-hash"] = hash
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: d.Name + "-" + hash, UID: d.UID, Controller: &controller}}
	return pod
}

// Endpoints brings the EndpointSlices of all services of the namespace up to
// the pods that run, and then what pods reach by virtual addresses.
func (n *Node) Endpoints(t testing.TB, namespace string) {
	t.Helper()
	services, err := n.Client.CoreV1().Services(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pods, err := n.Client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(pods.Items, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	for i := range services.Items {
		if s := &services.Items[i]; len(s.Spec.Selector) > 0 {
			if err := n.writeSlice(t.Context(), sliceOf(s, pods.Items)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := n.route(t.Context(), n.running()...); err != nil {
		t.Fatal(err)
	}
}

func sliceOf(s *corev1.Service, pods []corev1.Pod) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, Name: s.Name + "-1",
			Labels: map[string]string{discoveryv1.LabelServiceName: s.Name, discoveryv1.LabelManagedBy: "kubetest"},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for i := range pods {
		pod := &pods[i]
		if !selected(s.Spec.Selector, pod.Labels) || pod.Status.PodIP == "" {
			continue
		}
		if len(slice.Ports) == 0 {
			slice.Ports = slicePorts(s, pod)
		}
		terminating := pod.DeletionTimestamp != nil
		serving := slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
		ready := serving && !terminating
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{pod.Status.PodIP}, NodeName: &pod.Spec.NodeName,
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		})
	}
	return slice
}

func slicePorts(s *corev1.Service, pod *corev1.Pod) []discoveryv1.EndpointPort {
	var ports []discoveryv1.EndpointPort
	for _, p := range s.Spec.Ports {
		number := p.TargetPort.IntVal
		if p.TargetPort.Type == intstr.String {
			for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
				for _, own := range c.Ports {
					if own.Name == p.TargetPort.StrVal {
						number = own.ContainerPort
					}
				}
			}
		}
		ports = append(ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &number, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
	}
	return ports
}

func selected(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}

func (n *Node) writeSlice(ctx context.Context, slice *discoveryv1.EndpointSlice) error {
	client := n.Client.DiscoveryV1().EndpointSlices(slice.Namespace)
	current, err := client.Get(ctx, slice.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = client.Create(ctx, slice, metav1.CreateOptions{})
		return err
	}
	if err != nil || reflect.DeepEqual(current.Endpoints, slice.Endpoints) && reflect.DeepEqual(current.Ports, slice.Ports) {
		return err
	}
	slice.ResourceVersion = current.ResourceVersion
	_, err = client.Update(ctx, slice, metav1.UpdateOptions{})
	return err
}

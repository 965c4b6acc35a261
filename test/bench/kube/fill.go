package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
)

// size is how much the cluster has.
type size struct{ services, endpoints, pods int }

const (
	namespaces = 20
	writers    = 16
)

func namespace(service int) string { return fmt.Sprint("ns-", service%namespaces) }

// fill writes all objects, several at a time.
func (s size) fill(ctx context.Context, client kubernetes.Interface) error {
	for i := range namespaces {
		meta := metav1.ObjectMeta{Name: namespace(i)}
		_, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: meta}, metav1.CreateOptions{})
		if err == nil {
			account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
			_, err = client.CoreV1().ServiceAccounts(meta.Name).Create(ctx, account, metav1.CreateOptions{})
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(
		parallel(s.pods, func(i int) error { return s.pod(ctx, client, i) }),
		parallel(s.services, func(i int) error { return s.service(ctx, client, i) }))
}

// parallel does n things with a few writers and gives the first errors.
func parallel(n int, do func(int) error) error {
	next := make(chan int)
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range next {
				if errs[w] == nil {
					errs[w] = do(i)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	return errors.Join(errs...)
}

func (s size) address(pod int) string {
	return fmt.Sprintf("10.%d.%d.%d", 1+pod>>16, pod>>8&255, pod&255)
}

// pod is as large as an injected one usually is.
func (s size) pod(ctx context.Context, client kubernetes.Interface, i int) error {
	var env []corev1.EnvVar
	for j := range 20 {
		env = append(env, corev1.EnvVar{Name: fmt.Sprint("SETTING_", j), Value: strings.Repeat("v", 40)})
	}
	container := func(name string, port int32) corev1.Container {
		return corev1.Container{
			Name: name, Image: "example/" + name, Env: env, Ports: []corev1.ContainerPort{{Name: name, ContainerPort: port}},
			ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromInt32(port)}}},
		}
	}
	service := i % s.services
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprint("pod-", i), Annotations: map[string]string{"sidecar.istio.io/status": strings.Repeat("s", 300)},
			Labels: map[string]string{"app": fmt.Sprint("svc-", service), "version": "v1", "pod-template-hash": fmt.Sprintf("%010d", service)},
		},
		Spec: corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{container("app", 8080), container("istio-proxy", 15021)}},
	}
	pods := client.CoreV1().Pods(namespace(service))
	pod, err := pods.Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: s.address(i), PodIPs: []corev1.PodIP{{IP: s.address(i)}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	_, err = pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return err
}

// service has endpoints at pods of its namespace.
func (s size) service(ctx context.Context, client kubernetes.Interface, i int) error {
	name := fmt.Sprint("svc-", i)
	object := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}},
	}}
	if _, err := client.CoreV1().Services(namespace(i)).Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return err
	}
	ready, portName, port := true, "http", int32(8080)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port}},
	}
	for j := range s.endpoints {
		pod := (i + j*namespaces) % s.pods
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{s.address(pod)}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: namespace(i), Name: fmt.Sprint("pod-", pod)},
		})
	}
	_, err := client.DiscoveryV1().EndpointSlices(namespace(i)).Create(ctx, slice, metav1.CreateOptions{})
	return err
}

package cluster

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

// Forward opens a port of this machine's loopback that leads to a port of one
// ready pod behind a Service, as "kubectl port-forward" does, until ctx ends:
// the pod sees a caller on its own loopback. It uses get services, list pods
// and create pods/portforward. It gives the local address and the pod's name.
func (c *Cluster) Forward(ctx context.Context, namespace, service string, port int) (address, pod string, err error) {
	pod, err = c.readyPod(ctx, namespace, service)
	if err != nil {
		return "", "", err
	}
	dialer, err := c.dialer(namespace, pod)
	if err != nil {
		return "", "", err
	}
	ready, ended := make(chan struct{}), make(chan error, 1)
	f, err := portforward.NewOnAddressesWithContext(ctx, dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, ready, io.Discard, io.Discard)
	if err != nil {
		return "", "", err
	}
	go func() { ended <- f.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		return "", "", fmt.Errorf("port %d of pod %s/%s: %w", port, namespace, pod, err)
	case <-ctx.Done():
		return "", "", ctx.Err()
	}
	ports, err := f.GetPorts()
	if err != nil {
		return "", "", err
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0].Local), pod, nil
}

// readyPod is the first by name of the Service's ready pods.
func (c *Cluster) readyPod(ctx context.Context, namespace, service string) (string, error) {
	s, err := c.Client.CoreV1().Services(namespace).Get(ctx, service, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if len(s.Spec.Selector) == 0 {
		return "", fmt.Errorf("service %s/%s selects no pods", namespace, service)
	}
	list, err := c.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(s.Spec.Selector).String()})
	if err != nil {
		return "", err
	}
	pods := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return !ready(&p) })
	if len(pods) == 0 {
		return "", fmt.Errorf("none of the %d pods of service %s/%s is ready", len(list.Items), namespace, service)
	}
	return slices.MinFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) }).Name, nil
}

func ready(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// dialer speaks WebSocket, and SPDY with API servers before 1.30 or through
// HTTPS proxies.
func (c *Cluster) dialer(namespace, pod string) (httpstream.Dialer, error) {
	url := c.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(c.Config)
	if err != nil {
		return nil, err
	}
	websocket, err := portforward.NewSPDYOverWebsocketDialer(url, c.Config)
	if err != nil {
		return nil, err
	}
	old := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	return portforward.NewFallbackDialer(websocket, old, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

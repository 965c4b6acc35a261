package meshconfig

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const grpcHealthCheck = "/grpc.health.v1.Health/Check"

// podProbe is one thing that the kubelet asks of a container: a probe or, with
// hook, what happens at its start or end.
type podProbe struct {
	container string
	field     string // "spec.containers[0].livenessProbe"
	what      string // "livenessProbe"
	hook      bool
	asks      string // "https GET /healthz", for messages
	blind     bool   // tcpSocket: asks nothing
	tls       bool
	missing   string // why it has no port; empty if it has one
	probe     model.Probe
}

// workloadProbes are those that configuration has to make room for.
func workloadProbes(pod *corev1.Pod) []model.Probe {
	var out []model.Probe
	for _, p := range podProbes(pod) {
		if !p.hook && !p.blind && p.missing == "" {
			out = append(out, p.probe)
		}
	}
	return out
}

// podProbes are all of a pod that arrive over the network. Those that name
// another host do not arrive at this pod.
func podProbes(pod *corev1.Pod) []podProbe {
	var out []podProbe
	for _, list := range []struct {
		field      string
		containers []corev1.Container
	}{{"spec.containers", pod.Spec.Containers}, {"spec.initContainers", pod.Spec.InitContainers}} {
		for i := range list.containers {
			c := &list.containers[i]
			if c.Name == sidecarContainer {
				continue // its status port is not captured
			}
			at := list.field + "[" + strconv.Itoa(i) + "]."
			add := func(what string, hook bool, http *corev1.HTTPGetAction, tcp *corev1.TCPSocketAction, grpc *corev1.GRPCAction) {
				p := podProbe{container: c.Name, field: at + what, what: what[strings.LastIndexByte(what, '.')+1:], hook: hook}
				if p.fill(c, pod.Status.PodIP, http, tcp, grpc) {
					out = append(out, p)
				}
			}
			for _, probe := range []struct {
				what  string
				probe *corev1.Probe
			}{{"startupProbe", c.StartupProbe}, {"livenessProbe", c.LivenessProbe}, {"readinessProbe", c.ReadinessProbe}} {
				if probe.probe != nil {
					add(probe.what, false, probe.probe.HTTPGet, probe.probe.TCPSocket, probe.probe.GRPC)
				}
			}
			if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
				add("lifecycle.postStart", true, c.Lifecycle.PostStart.HTTPGet, nil, nil)
			}
			if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
				add("lifecycle.preStop", true, c.Lifecycle.PreStop.HTTPGet, nil, nil)
			}
		}
	}
	return out
}

// fill reads the handler; false if nothing of it arrives here (exec).
func (p *podProbe) fill(c *corev1.Container, ip string, http *corev1.HTTPGetAction, tcp *corev1.TCPSocketAction, grpc *corev1.GRPCAction) bool {
	switch {
	case http != nil:
		p.setPort(c, http.Port)
		p.tls = strings.EqualFold(string(http.Scheme), "https")
		sent := kubeletPath(http.Path)
		if !p.tls {
			p.probe.Path, _ = model.NormalizePath(sent)
		}
		p.asks = "GET " + sent
		if p.tls {
			p.asks = "https " + p.asks
		}
		return http.Host == "" || http.Host == ip
	case tcp != nil:
		p.setPort(c, tcp.Port)
		p.blind, p.asks = true, "tcpSocket"
		return tcp.Host == "" || tcp.Host == ip
	case grpc != nil:
		p.setPort(c, intstr.FromInt32(grpc.Port))
		p.asks, p.probe.Path, p.probe.GRPC = "gRPC health check", grpcHealthCheck, true
		return true
	}
	return false
}

// setPort looks a name up in the same container, as the kubelet does.
func (p *podProbe) setPort(c *corev1.Container, port intstr.IntOrString) {
	number := port.IntVal
	if port.Type == intstr.String {
		n, err := strconv.ParseInt(port.StrVal, 10, 32)
		number = int32(n)
		for i := range c.Ports {
			if c.Ports[i].Name == port.StrVal {
				number, err = c.Ports[i].ContainerPort, nil
			}
		}
		if err != nil {
			p.missing = fmt.Sprintf("missing named port %q", port.StrVal)
			return
		}
	}
	if !validPort(number) {
		p.missing = fmt.Sprintf("port %d is not in the range 1..65535", number)
		return
	}
	p.probe.Port = uint16(number)
}

// kubeletPath is the path that the kubelet sends for a declared one.
func kubeletPath(declared string) string {
	u, err := url.Parse(declared)
	if err != nil {
		u = &url.URL{Path: declared}
	}
	path := u.EscapedPath()
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return path
}

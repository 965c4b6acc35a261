package check

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	corev1 "k8s.io/api/core/v1"
)

// The annotations by which a pod leaves ports out of capture.
const (
	includeInbound = "traffic.sidecar.istio.io/includeInboundPorts"
	excludeInbound = "traffic.sidecar.istio.io/excludeInboundPorts"
)

// place is one container port of one workload group.
type place struct {
	namespace, group string
	port             uint16
}

// unnamedPorts are ports that a pod declares and no service names: targets of
// Policies and annotations cannot reach them.
func (c *checker) unnamedPorts() {
	served := c.served()
	first, count := map[place]*corev1.Pod{}, map[place]int{}
	for _, pod := range c.bundle.Pods {
		id := model.WorkloadID{Namespace: pod.Namespace, Name: pod.Name}
		w := c.snapshot.Workload(id)
		if w == nil || !c.snapshot.HasSidecar(id) {
			continue
		}
		for _, port := range declared(pod) {
			at := place{pod.Namespace, w.Group, port}
			probed := slices.ContainsFunc(w.Probes, func(p model.Probe) bool { return p.Port == port })
			if served[id][port] || probed { // a probe's own port is open, and meant to be
				continue
			}
			if first[at] == nil {
				first[at] = pod
			}
			count[at]++
		}
	}
	for at, pod := range first {
		d := c.snapshot.Decision(model.WorkloadID{Namespace: pod.Namespace, Name: pod.Name}, at.port)
		more := ""
		if count[at] > 1 {
			more = fmt.Sprintf(" (and of %d more like it)", count[at]-1)
		}
		if d.Rank == model.RankPort {
			continue // something reaches it
		}
		c.add(codeUnnamed, meshconfig.Info, podKey(pod), "spec.containers[].ports",
			"no Service names port %d%s, so neither a Policy's target nor an annotation reaches it; its mode is %s, set by %s: "+
				"name it in a Service, or write a PeerAuthentication with portLevelMtls", at.port, more, d.Mode, d.By())
	}
}

// served are the container ports that some service names.
func (c *checker) served() map[model.WorkloadID]map[uint16]bool {
	out := map[model.WorkloadID]map[uint16]bool{}
	for i := range c.in.Services {
		for j := range c.in.Services[i].Ports {
			for _, e := range c.in.Services[i].Ports[j].Endpoints {
				if out[e.Workload] == nil {
					out[e.Workload] = map[uint16]bool{}
				}
				out[e.Workload][e.Port] = true
			}
		}
	}
	return out
}

// declared are the TCP ports of a pod's own containers.
func declared(pod *corev1.Pod) []uint16 {
	var out []uint16
	for i := range pod.Spec.Containers {
		container := &pod.Spec.Containers[i]
		if container.Name == "istio-proxy" {
			continue
		}
		for _, p := range container.Ports {
			if cmp.Or(p.Protocol, corev1.ProtocolTCP) == corev1.ProtocolTCP {
				out = append(out, uint16(p.ContainerPort))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// uncapturedPorts are ports that want TLS, and that the pod leaves out of
// capture: whoever calls them meets the application itself.
func (c *checker) uncapturedPorts() {
	served := c.served()
	for _, pod := range c.bundle.Pods {
		id := model.WorkloadID{Namespace: pod.Namespace, Name: pod.Name}
		if !c.snapshot.HasSidecar(id) || pod.Annotations[includeInbound] == "" && pod.Annotations[excludeInbound] == "" {
			continue
		}
		for port := range served[id] {
			annotation := uncaptured(pod, port)
			d := c.snapshot.Decision(id, port)
			if annotation == "" || d.Mode == model.Disable {
				continue
			}
			c.add(codeUncaptured, meshconfig.Warning, podKey(pod), "metadata.annotations["+annotation+"]",
				"port %d should be %s, set by %s, but its traffic goes around the sidecar, so nothing enforces it and mesh mTLS fails: "+
					"let the annotation capture %d, or switch mTLS off for the port", port, d.Mode, d.By(), port)
		}
	}
}

// uncaptured is the annotation that leaves the port out; empty if none does.
func uncaptured(pod *corev1.Pod, port uint16) string {
	if list, ok := pod.Annotations[includeInbound]; ok && list != "*" && !listed(list, port) {
		return includeInbound
	}
	if list := pod.Annotations[excludeInbound]; listed(list, port) {
		return excludeInbound
	}
	return ""
}

func listed(list string, port uint16) bool {
	return slices.ContainsFunc(strings.Split(list, ","), func(item string) bool {
		return strings.TrimSpace(item) == strconv.Itoa(int(port))
	})
}

func podKey(pod *corev1.Pod) model.Key {
	return model.Key{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name}
}

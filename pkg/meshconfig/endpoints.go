package meshconfig

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// endpointsOf gives the source of a Service's endpoints, to be asked for each
// port: its EndpointSlices if there are any, else the pods that it selects
// (spec xds.md 6).
func (c *compiler) endpointsOf(s *corev1.Service) func(*corev1.ServicePort) []model.Endpoint {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return func(*corev1.ServicePort) []model.Endpoint { return nil }
	}
	if all := c.slices[objectName{s.Namespace, s.Name}]; len(all) > 0 {
		family := addressFamily(s)
		return func(p *corev1.ServicePort) []model.Endpoint { return c.sliceEndpoints(s, all, family, p) }
	}
	pods := c.matching(s.Namespace, s.Spec.Selector)
	return func(p *corev1.ServicePort) []model.Endpoint { return c.podEndpoints(s, pods, p) }
}

// addressFamily is the type of slices that count: a dual-stack Service lists
// each pod in two families, of which clients need one.
func addressFamily(s *corev1.Service) discoveryv1.AddressType {
	if len(s.Spec.IPFamilies) > 0 {
		return discoveryv1.AddressType(s.Spec.IPFamilies[0])
	}
	return ""
}

func (c *compiler) podEndpoints(s *corev1.Service, pods []int32, p *corev1.ServicePort) []model.Endpoint {
	if len(pods) == 0 {
		return nil
	}
	out := make([]model.Endpoint, 0, len(pods))
	for _, at := range pods {
		b := &c.backends[at]
		if b.pod == nil { // Services select pods only
			continue
		}
		port, ok := targetPort(b.pod, p)
		if !ok {
			continue
		}
		w := &c.in.Workloads[at]
		out = append(out, model.Endpoint{
			Address: w.Address, Port: port, Workload: w.ID, Locality: w.Locality,
			Ready: s.Spec.PublishNotReadyAddresses || b.ready && !b.terminating,
		})
	}
	return out
}

// targetPort is the container port that a service port has at one pod; false
// if the pod has none of that name (spec server-policy.md 6).
func targetPort(pod *corev1.Pod, p *corev1.ServicePort) (uint16, bool) {
	if p.TargetPort.Type == intstr.Int {
		number := p.TargetPort.IntVal
		if number == 0 {
			number = p.Port
		}
		return uint16(number), validPort(number)
	}
	for i := range pod.Spec.Containers {
		if port, ok := namedPort(&pod.Spec.Containers[i], p.TargetPort.StrVal); ok {
			return port, true
		}
	}
	for i := range pod.Spec.InitContainers {
		container := &pod.Spec.InitContainers[i]
		// An init container that keeps running is a sidecar and may serve.
		if container.RestartPolicy == nil || *container.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		if port, ok := namedPort(container, p.TargetPort.StrVal); ok {
			return port, true
		}
	}
	return 0, false
}

func namedPort(container *corev1.Container, name string) (uint16, bool) {
	for i := range container.Ports {
		p := &container.Ports[i]
		if p.Name == name && isTCP(p.Protocol) && validPort(p.ContainerPort) {
			return uint16(p.ContainerPort), true
		}
	}
	return 0, false
}

func (c *compiler) sliceEndpoints(s *corev1.Service, all []*discoveryv1.EndpointSlice, family discoveryv1.AddressType, p *corev1.ServicePort) []model.Endpoint {
	var out []model.Endpoint
	for _, slice := range all {
		if slice.AddressType == discoveryv1.AddressTypeFQDN || family != "" && slice.AddressType != "" && slice.AddressType != family {
			continue
		}
		port, ok := slicePort(slice, p.Name)
		if !ok {
			continue
		}
		out = slices.Grow(out, len(slice.Endpoints))
		for i := range slice.Endpoints {
			if e, ok := c.sliceEndpoint(slice.Namespace, &slice.Endpoints[i]); ok {
				e.Port = port
				e.Ready = e.Ready || s.Spec.PublishNotReadyAddresses
				out = append(out, e)
			}
		}
	}
	if len(all) > 1 { // while slices are rebalanced, two may list one endpoint
		out = distinct(out)
	}
	return out
}

// slicePort finds the container port of a service port; they share the name.
func slicePort(slice *discoveryv1.EndpointSlice, name string) (uint16, bool) {
	for i := range slice.Ports {
		p := &slice.Ports[i]
		if p.Port == nil || p.Protocol != nil && !isTCP(*p.Protocol) {
			continue
		}
		if p.Name == nil && name == "" || p.Name != nil && *p.Name == name {
			return uint16(*p.Port), validPort(*p.Port)
		}
	}
	return 0, false
}

func (c *compiler) sliceEndpoint(namespace string, e *discoveryv1.Endpoint) (model.Endpoint, bool) {
	if len(e.Addresses) == 0 { // several addresses are the same endpoint
		return model.Endpoint{}, false
	}
	if _, err := netip.ParseAddr(e.Addresses[0]); err != nil {
		return model.Endpoint{}, false
	}
	ready := e.Conditions.Ready == nil || *e.Conditions.Ready
	terminating := e.Conditions.Terminating != nil && *e.Conditions.Terminating
	out := model.Endpoint{Address: e.Addresses[0], Ready: ready && !terminating}
	if at, ok := c.workloadBehind(namespace, e); ok {
		w := &c.in.Workloads[at]
		out.Workload, out.Locality = w.ID, w.Locality
	}
	if e.Zone != nil && out.Locality.Zone == "" {
		out.Locality.Zone = *e.Zone
	}
	return out, true
}

func (c *compiler) workloadBehind(namespace string, e *discoveryv1.Endpoint) (int32, bool) {
	if ref := e.TargetRef; ref != nil && ref.Kind == "Pod" {
		at, ok := c.byID[model.WorkloadID{Namespace: cmp.Or(ref.Namespace, namespace), Name: ref.Name}]
		if ok && c.backends[at].pod != nil {
			return at, true
		}
	}
	return c.workloadAt(e.Addresses[0])
}

// distinct keeps one endpoint of each address and port, a ready one if there
// is any.
func distinct(endpoints []model.Endpoint) []model.Endpoint {
	slices.SortFunc(endpoints, func(a, b model.Endpoint) int {
		return cmp.Or(strings.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port),
			readyFirst(a, b), a.Workload.Compare(b.Workload))
	})
	return slices.CompactFunc(endpoints, func(a, b model.Endpoint) bool {
		return a.Address == b.Address && a.Port == b.Port
	})
}

func readyFirst(a, b model.Endpoint) int {
	switch {
	case a.Ready == b.Ready:
		return 0
	case a.Ready:
		return -1
	default:
		return 1
	}
}

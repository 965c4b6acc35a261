package kube

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What is kept of an object is made anew from it, so that nothing else stays
// in memory. Each of these functions takes its own result, too.

// unexpected is the error of an object of another kind.
func unexpected(o any) error { return fmt.Errorf("unexpected %T", o) }

// meta keeps what every kind needs. Labels are the caller's matter.
func meta(m *metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, Annotations: annotations(m.Annotations),
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp,
	}
}

// annotations keeps those of Istio and of pilot. Tools keep whole copies of
// objects in others.
func annotations(all map[string]string) map[string]string {
	var out map[string]string
	for key, value := range all {
		domain, _, _ := strings.Cut(key, "/")
		if strings.HasSuffix(domain, "istio.io") || strings.HasSuffix(domain, "meshpilot.io") {
			if out == nil {
				out = map[string]string{}
			}
			out[key] = value
		}
	}
	// The injector's report is read for being there.
	if _, there := out["sidecar.istio.io/status"]; there {
		out["sidecar.istio.io/status"] = ""
	}
	return out
}

func trimService(o any) (metav1.Object, error) {
	s, ok := o.(*corev1.Service)
	if !ok {
		return nil, unexpected(o)
	}
	out := &corev1.Service{ObjectMeta: meta(&s.ObjectMeta), Spec: corev1.ServiceSpec{
		Type: s.Spec.Type, ClusterIP: s.Spec.ClusterIP, ClusterIPs: s.Spec.ClusterIPs, IPFamilies: s.Spec.IPFamilies,
		ExternalName: s.Spec.ExternalName, Selector: s.Spec.Selector, PublishNotReadyAddresses: s.Spec.PublishNotReadyAddresses,
	}}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		out.Spec.Ports = append(out.Spec.Ports, corev1.ServicePort{
			Name: p.Name, Protocol: p.Protocol, AppProtocol: p.AppProtocol, Port: p.Port, TargetPort: p.TargetPort,
		})
	}
	return out, nil
}

func trimSlice(o any) (metav1.Object, error) {
	s, ok := o.(*discoveryv1.EndpointSlice)
	if !ok {
		return nil, unexpected(o)
	}
	out := &discoveryv1.EndpointSlice{ObjectMeta: meta(&s.ObjectMeta), AddressType: s.AddressType}
	if service := s.Labels[discoveryv1.LabelServiceName]; service != "" {
		out.Labels = map[string]string{discoveryv1.LabelServiceName: service}
	}
	out.Endpoints = make([]discoveryv1.Endpoint, 0, len(s.Endpoints))
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		kept := discoveryv1.Endpoint{Zone: e.Zone, Conditions: discoveryv1.EndpointConditions{
			Ready: shared(e.Conditions.Ready), Terminating: shared(e.Conditions.Terminating),
		}}
		if len(e.Addresses) > 0 { // several are the same endpoint
			kept.Addresses = e.Addresses[:1:1]
		}
		if e.TargetRef != nil {
			kept.TargetRef = &corev1.ObjectReference{Kind: e.TargetRef.Kind, Name: e.TargetRef.Name}
		}
		out.Endpoints = append(out.Endpoints, kept)
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		out.Ports = append(out.Ports, discoveryv1.EndpointPort{Name: p.Name, Port: p.Port, Protocol: p.Protocol})
	}
	return out, nil
}

// yes and no stand for the many equal booleans behind pointers.
var yes, no = new(true), new(false)

func shared(b *bool) *bool {
	switch {
	case b == nil:
		return nil
	case *b:
		return yes
	default:
		return no
	}
}

func trimPod(o any) (metav1.Object, error) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return nil, unexpected(o)
	}
	out := &corev1.Pod{ObjectMeta: meta(&p.ObjectMeta)}
	out.Labels = p.Labels
	for i := range p.OwnerReferences {
		owner := &p.OwnerReferences[i]
		if owner.Controller == nil || *owner.Controller {
			out.OwnerReferences = []metav1.OwnerReference{{Kind: owner.Kind, Name: owner.Name, Controller: shared(owner.Controller)}}
			break
		}
	}
	out.Spec.ServiceAccountName = p.Spec.ServiceAccountName
	out.Spec.Containers = trimContainers(p.Spec.Containers)
	out.Spec.InitContainers = trimContainers(p.Spec.InitContainers)
	out.Status.PodIP, out.Status.Phase = p.Status.PodIP, p.Status.Phase
	if len(p.Status.Conditions) > 0 {
		// Without this one a pod with others is not ready.
		condition := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse}
		for i := range p.Status.Conditions {
			if p.Status.Conditions[i].Type == corev1.PodReady {
				condition.Status = p.Status.Conditions[i].Status
			}
		}
		out.Status.Conditions = []corev1.PodCondition{condition}
	}
	return out, nil
}

func trimContainers(all []corev1.Container) []corev1.Container {
	if len(all) == 0 {
		return nil
	}
	out := make([]corev1.Container, 0, len(all))
	for i := range all {
		c := &all[i]
		kept := corev1.Container{
			Name: c.Name, RestartPolicy: c.RestartPolicy,
			LivenessProbe: trimProbe(c.LivenessProbe), ReadinessProbe: trimProbe(c.ReadinessProbe), StartupProbe: trimProbe(c.StartupProbe),
		}
		for j := range c.Ports {
			p := &c.Ports[j]
			kept.Ports = append(kept.Ports, corev1.ContainerPort{Name: p.Name, ContainerPort: p.ContainerPort, Protocol: p.Protocol})
		}
		if l := c.Lifecycle; l != nil {
			start, stop := trimHook(l.PostStart), trimHook(l.PreStop)
			if start != nil || stop != nil {
				kept.Lifecycle = &corev1.Lifecycle{PostStart: start, PreStop: stop}
			}
		}
		out = append(out, kept)
	}
	return out
}

// trimProbe is nil for a probe that does not come over the network.
func trimProbe(p *corev1.Probe) *corev1.Probe {
	if p == nil || p.HTTPGet == nil && p.TCPSocket == nil && p.GRPC == nil {
		return nil
	}
	return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: trimGet(p.HTTPGet), TCPSocket: p.TCPSocket, GRPC: p.GRPC}}
}

func trimHook(h *corev1.LifecycleHandler) *corev1.LifecycleHandler {
	if h == nil || h.HTTPGet == nil {
		return nil
	}
	return &corev1.LifecycleHandler{HTTPGet: trimGet(h.HTTPGet)}
}

func trimGet(g *corev1.HTTPGetAction) *corev1.HTTPGetAction {
	if g == nil {
		return nil
	}
	return &corev1.HTTPGetAction{Path: g.Path, Port: g.Port, Host: g.Host, Scheme: g.Scheme}
}

// Of these kinds only the metadata is read, and fetched.

func trimNamespace(o any) (metav1.Object, error) {
	if kept, ok := o.(*corev1.Namespace); ok {
		return kept, nil
	}
	m, ok := o.(*metav1.PartialObjectMetadata)
	if !ok {
		return nil, unexpected(o)
	}
	out := &corev1.Namespace{ObjectMeta: meta(&m.ObjectMeta)}
	out.Labels = m.Labels
	return out, nil
}

func trimAccount(o any) (metav1.Object, error) {
	if kept, ok := o.(*corev1.ServiceAccount); ok {
		return kept, nil
	}
	m, ok := o.(*metav1.PartialObjectMetadata)
	if !ok {
		return nil, unexpected(o)
	}
	return &corev1.ServiceAccount{ObjectMeta: meta(&m.ObjectMeta)}, nil
}

// trimDefinition leaves the name: which versions are served is asked of the
// API. A change of the definition must show, so its generation stays.
func trimDefinition(o any) (metav1.Object, error) {
	m, ok := o.(*metav1.PartialObjectMetadata)
	if !ok {
		return nil, unexpected(o)
	}
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: m.Name, Generation: m.Generation, ResourceVersion: m.ResourceVersion}}, nil
}

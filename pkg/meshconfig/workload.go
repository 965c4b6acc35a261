package meshconfig

import (
	"strconv"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
	corev1 "k8s.io/api/core/v1"
)

// Labels and annotations that say what a workload is.
const (
	tlsModeLabel           = "security.istio.io/tlsMode"
	localityLabel          = "istio-locality"
	subZoneLabel           = "topology.istio.io/subzone"
	podTemplateHashLabel   = "pod-template-hash"
	injectKey              = "sidecar.istio.io/inject"
	injectStatusAnnotation = "sidecar.istio.io/status"
	captureAnnotation      = "sidecar.istio.io/interceptionMode"
	sidecarContainer       = "istio-proxy"
)

// backend is what endpoints need of a workload's object: exactly one of pod
// and entry is set.
type backend struct {
	pod         *corev1.Pod
	entry       *WorkloadEntry
	ready       bool
	terminating bool
}

// ambiguous marks an address that several workloads share.
const ambiguous = -1

func (c *compiler) addWorkloads() {
	size := len(c.b.Pods) + len(c.b.WorkloadEntries)
	c.in.Workloads = make([]model.Workload, 0, size)
	c.backends = make([]backend, 0, size)
	c.byID = make(map[model.WorkloadID]int32, size)
	for _, pod := range c.b.Pods {
		// Without an address there is nobody to call or to configure.
		if pod.Status.PodIP == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		c.addWorkload(c.podWorkload(pod), backend{pod: pod, ready: podReady(pod), terminating: pod.DeletionTimestamp != nil})
	}
	for _, entry := range c.b.WorkloadEntries {
		c.addWorkload(entryWorkload(entry), backend{entry: entry, ready: true, terminating: entry.DeletionTimestamp != nil})
	}
}

func (c *compiler) addWorkload(w model.Workload, b backend) {
	if other, taken := c.byID[w.ID]; taken {
		c.warn(codeWorkloadClash, w.Key, "metadata.name",
			"%s has this name too and keeps it, so this object is no workload: rename one of them", c.in.Workloads[other].Key)
		return
	}
	at := int32(len(c.in.Workloads))
	c.byID[w.ID] = at
	c.in.Workloads = append(c.in.Workloads, w)
	c.backends = append(c.backends, b)
	for key, value := range w.Labels {
		label := labelIn{w.ID.Namespace, key, value}
		if list, wanted := c.byLabel[label]; wanted {
			c.byLabel[label] = append(list, at)
		}
	}
}

// workloadAt finds a workload by its address; false if none or several have it.
func (c *compiler) workloadAt(address string) (int32, bool) {
	if c.byAddress == nil {
		c.byAddress = make(map[string]int32, len(c.in.Workloads))
		for i := range c.in.Workloads {
			at := int32(i)
			if _, shared := c.byAddress[c.in.Workloads[i].Address]; shared {
				at = ambiguous
			}
			c.byAddress[c.in.Workloads[i].Address] = at
		}
	}
	at, ok := c.byAddress[address]
	return at, ok && at != ambiguous
}

func (c *compiler) podWorkload(pod *corev1.Pod) model.Workload {
	w := model.Workload{
		ID:             model.WorkloadID{Namespace: pod.Namespace, Name: pod.Name},
		Key:            model.Key{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name},
		Address:        pod.Status.PodIP,
		Group:          podGroup(pod),
		ServiceAccount: accountOr(pod.Spec.ServiceAccountName),
		Labels:         pod.Labels,
		Locality:       podLocality(pod.Labels),
		Sidecar:        podSidecar(pod),
		Created:        created(&pod.ObjectMeta),
		Probes:         workloadProbes(pod),
	}
	if mode, given := pod.Annotations[captureAnnotation]; given {
		if capture, ok := parseCapture(mode); ok {
			w.Capture = &capture
		} else {
			c.warn(codeBadAnnotation, w.Key, "metadata.annotations["+captureAnnotation+"]",
				"annotation %s: %q has no effect: write REDIRECT, TPROXY or NONE", captureAnnotation, mode)
		}
	}
	w.Inbound = c.inboundPorts(pod, w.Key)
	return w
}

// Which inbound ports reach the sidecar (spec xds.md 4).
const (
	includeInboundAnnotation = "traffic.sidecar.istio.io/includeInboundPorts"
	excludeInboundAnnotation = "traffic.sidecar.istio.io/excludeInboundPorts"
)

// inboundPorts is nil if all ports are captured.
func (c *compiler) inboundPorts(pod *corev1.Pod, on model.Key) *model.CapturedPorts {
	include, given := pod.Annotations[includeInboundAnnotation]
	ports := &model.CapturedPorts{All: !given || strings.TrimSpace(include) == "*"}
	if !ports.All {
		ports.Only = c.portList(on, includeInboundAnnotation, include)
	}
	ports.Except = c.portList(on, excludeInboundAnnotation, pod.Annotations[excludeInboundAnnotation])
	if ports.All && len(ports.Except) == 0 {
		return nil
	}
	return ports
}

func (c *compiler) portList(on model.Key, annotation, list string) []uint16 {
	var ports []uint16
	for item := range splitList(list) {
		port, err := strconv.ParseUint(item, 10, 16)
		if err != nil || port == 0 {
			c.warn(codeBadAnnotation, on, "metadata.annotations["+annotation+"]",
				"annotation %s: %q has no effect: write * or port numbers with commas between", annotation, item)
			continue
		}
		ports = append(ports, uint16(port))
	}
	return ports
}

func entryWorkload(e *WorkloadEntry) model.Workload {
	labels := mergeLabels(e.Spec.GetLabels(), e.Labels)
	return model.Workload{
		ID:             model.WorkloadID{Namespace: e.Namespace, Name: e.Name},
		Key:            model.Key{Kind: "WorkloadEntry", Namespace: e.Namespace, Name: e.Name},
		Address:        e.Spec.GetAddress(),
		Group:          groupByLabels(labels, e.Name),
		ServiceAccount: accountOr(e.Spec.GetServiceAccount()),
		Labels:         labels,
		Locality:       entryLocality(e.Spec.GetLocality(), labels),
		Sidecar:        labels[tlsModeLabel] == "istio",
		Created:        created(&e.ObjectMeta),
	}
}

// mergeLabels prefers the object's own labels, as Istio does.
func mergeLabels(spec, own map[string]string) map[string]string {
	if len(own) == 0 {
		return spec
	}
	if len(spec) == 0 {
		return own
	}
	merged := make(map[string]string, len(spec)+len(own))
	for key, value := range spec {
		merged[key] = value
	}
	for key, value := range own {
		merged[key] = value
	}
	return merged
}

func accountOr(name string) string {
	if name == "" {
		return "default"
	}
	return name
}

// podGroup is the Deployment of the pod's ReplicaSet, or another owner. Pods
// without an owner go by their labels.
func podGroup(pod *corev1.Pod) string {
	for i := range pod.OwnerReferences {
		owner := &pod.OwnerReferences[i]
		if owner.Controller != nil && !*owner.Controller {
			continue
		}
		if hash := pod.Labels[podTemplateHashLabel]; owner.Kind == "ReplicaSet" && hash != "" {
			return strings.TrimSuffix(owner.Name, "-"+hash)
		}
		return owner.Name
	}
	return groupByLabels(pod.Labels, pod.Name)
}

// groupByLabels names the group as a Deployment of that app and version would
// usually be named.
func groupByLabels(labels map[string]string, name string) string {
	app := labels["app"]
	if app == "" {
		app = labels["app.kubernetes.io/name"]
	}
	if app == "" {
		return name
	}
	version := labels["version"]
	if version == "" {
		version = labels["app.kubernetes.io/version"]
	}
	if version == "" {
		return app
	}
	return app + "-" + version
}

// podSidecar is spec client-tls.md 1, "has a sidecar". An opt-out of injection
// beats the label, which a template may carry for all, but not the evidence.
func podSidecar(pod *corev1.Pod) bool {
	if _, injected := pod.Annotations[injectStatusAnnotation]; injected {
		return true
	}
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == sidecarContainer {
			return true
		}
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == sidecarContainer {
			return true
		}
	}
	optedOut := pod.Annotations[injectKey] == "false" || pod.Labels[injectKey] == "false"
	return pod.Labels[tlsModeLabel] == "istio" && !optedOut
}

func parseCapture(mode string) (model.Capture, bool) {
	for c := model.CaptureRedirect; c <= model.CaptureNone; c++ {
		if c.String() == mode {
			return c, true
		}
	}
	return 0, false
}

// podReady takes a pod without conditions as ready, so that a directory of
// files stays short (spec xds.md 6).
func podReady(pod *corev1.Pod) bool {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == corev1.PodReady {
			return pod.Status.Conditions[i].Status == corev1.ConditionTrue
		}
	}
	return len(pod.Status.Conditions) == 0
}

// podLocality prefers what a user wrote to what the scheduler did. Dots stand
// for slashes, which a label's value cannot hold.
func podLocality(labels map[string]string) model.Locality {
	if text := labels[localityLabel]; text != "" {
		return parseLocality(text, ".")
	}
	return model.Locality{
		Region:  labels[corev1.LabelTopologyRegion],
		Zone:    labels[corev1.LabelTopologyZone],
		SubZone: labels[subZoneLabel],
	}
}

func entryLocality(text string, labels map[string]string) model.Locality {
	if text == "" {
		return podLocality(labels)
	}
	return parseLocality(text, "/")
}

func parseLocality(text, separator string) model.Locality {
	region, rest, _ := strings.Cut(text, separator)
	zone, subZone, _ := strings.Cut(rest, separator)
	return model.Locality{Region: region, Zone: zone, SubZone: subZone}
}

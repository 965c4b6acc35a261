package inject

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/meshpilot/pilot/pkg/inject/capture"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

// Annotations of a pod that decide about its sidecar (spec xds.md 4).
const (
	modeAnnotation            = "sidecar.istio.io/interceptionMode"
	includeInboundAnnotation  = "traffic.sidecar.istio.io/includeInboundPorts"
	excludeInboundAnnotation  = "traffic.sidecar.istio.io/excludeInboundPorts"
	includeRangesAnnotation   = "traffic.sidecar.istio.io/includeOutboundIPRanges"
	excludeRangesAnnotation   = "traffic.sidecar.istio.io/excludeOutboundIPRanges"
	excludeOutboundAnnotation = "traffic.sidecar.istio.io/excludeOutboundPorts"

	imageAnnotation    = "sidecar.istio.io/proxyImage"
	resourceAnnotation = "sidecar.istio.io/proxy" // followed by CPU, Memory, CPULimit, MemoryLimit
)

// wanted is what a pod's annotations make of the settings.
type wanted struct {
	mode      model.Capture
	capture   capture.Options
	image     string
	resources corev1.ResourceRequirements
}

// read fills wanted and reports what cannot be read: a pod that is captured
// otherwise than its author thinks is worse than one that does not start.
func (i *injection) read() {
	w := &i.wanted
	w.mode, w.image = i.Mesh.Capture, i.Image
	if text, given := i.Meta.Annotations[modeAnnotation]; given {
		mode, ok := parseMode(text)
		if !ok {
			i.errorf(annotationField(modeAnnotation), "unknown interception mode %q; write REDIRECT, TPROXY or NONE", text)
		}
		w.mode = mode
	}
	if image := i.Meta.Annotations[imageAnnotation]; image != "" {
		w.image = image
	}
	w.capture = capture.Everything(i.Mesh.ListenPort, i.Mesh.InboundListenPort)
	w.capture.TProxy = w.mode == model.CaptureTProxy
	annotation(i, includeInboundAnnotation, capture.ParsePorts, func(p capture.Ports) { w.capture.IncludeInbound = p })
	annotation(i, excludeInboundAnnotation, capture.ParsePortList, func(p []uint16) { w.capture.ExcludeInbound = p })
	annotation(i, includeRangesAnnotation, capture.ParseRanges, func(r capture.Ranges) { w.capture.IncludeRanges = r })
	annotation(i, excludeRangesAnnotation, capture.ParseRangeList, func(r []netip.Prefix) { w.capture.ExcludeRanges = r })
	annotation(i, excludeOutboundAnnotation, capture.ParsePortList, func(p []uint16) { w.capture.ExcludeOutbound = p })
	w.resources = *i.Resources.DeepCopy()
	i.readResource("CPU", corev1.ResourceCPU, &w.resources.Requests)
	i.readResource("Memory", corev1.ResourceMemory, &w.resources.Requests)
	i.readResource("CPULimit", corev1.ResourceCPU, &w.resources.Limits)
	i.readResource("MemoryLimit", corev1.ResourceMemory, &w.resources.Limits)
}

func parseMode(text string) (model.Capture, bool) {
	for mode := model.CaptureRedirect; mode <= model.CaptureNone; mode++ {
		if mode.String() == text {
			return mode, true
		}
	}
	return 0, false
}

func annotationField(name string) string { return "metadata.annotations[" + name + "]" }

// annotation reads one if it is there.
func annotation[T any](i *injection, name string, parse func(string) (T, error), set func(T)) {
	text, given := i.Meta.Annotations[name]
	if !given {
		return
	}
	value, err := parse(text)
	if err != nil {
		i.errorf(annotationField(name), "%v", err)
		return
	}
	set(value)
}

func (i *injection) readResource(suffix string, name corev1.ResourceName, list *corev1.ResourceList) {
	annotation(i, resourceAnnotation+suffix, resource.ParseQuantity, func(q resource.Quantity) {
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[name] = q
	})
}

// conflicts are what the pod already uses of what the sidecar needs.
func (i *injection) conflicts() {
	if i.hasContainer(CaptureContainer) {
		i.errorf("spec.initContainers", "a container is called %s, which is the sidecar's; rename it", CaptureContainer)
	}
	for j := range i.Spec.Volumes {
		if name := i.Spec.Volumes[j].Name; name == certsVolume || name == configVolume {
			i.errorf("spec.volumes", "a volume is called %s, which is the sidecar's; rename it", name)
		}
	}
	i.runsAsProxy("spec.securityContext.runAsUser", i.Spec.SecurityContext != nil && isProxy(i.Spec.SecurityContext.RunAsUser))
	for j := range i.Spec.Containers {
		c := &i.Spec.Containers[j]
		i.runsAsProxy("spec.containers["+c.Name+"].securityContext.runAsUser", c.SecurityContext != nil && isProxy(c.SecurityContext.RunAsUser))
	}
	if i.wanted.mode == model.CaptureNone {
		for _, name := range []string{includeInboundAnnotation, excludeInboundAnnotation, includeRangesAnnotation, excludeRangesAnnotation, excludeOutboundAnnotation} {
			if _, given := i.Meta.Annotations[name]; given {
				i.add(codeBadAnnotation, meshconfig.Warning, annotationField(name), "has no effect: interception mode NONE captures nothing")
			}
		}
	}
}

func isProxy(user *int64) bool { return user != nil && *user == capture.ProxyID }

func (i *injection) runsAsProxy(field string, is bool) {
	if is && i.wanted.mode != model.CaptureNone {
		i.errorf(field, "user %d is the sidecar's, whose traffic is not captured: write another", capture.ProxyID)
	}
}

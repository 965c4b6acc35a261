package meshconfig

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/meshconfig/strict"
	networkingv1 "istio.io/api/networking/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// finding is one Problem of an object before its place is known.
type finding struct {
	code     string
	severity Severity
	path     string
	text     string
}

// check collects what is wrong with one object.
type check struct {
	faults   []strict.Fault // of decoding
	findings []finding
	targets  []PolicyTarget      // readable scope of an invalid Policy
	peer     *PeerAuthentication // and of an invalid PeerAuthentication
	rule     *DestinationRule    // readable part of an invalid one with a tls block
}

func (c *check) errorf(path, format string, args ...any) {
	c.findings = append(c.findings, finding{codeInvalid, Error, path, fmt.Sprintf(format, args...)})
}

// explained says whether decoding already found fault with the field, so that
// its missing value is no second mistake.
func (c *check) explained(path string) bool {
	for _, f := range c.faults {
		if !f.Unused && path != "" && (within(f.Path, path) || within(path, f.Path)) {
			return true
		}
	}
	return false
}

// within says whether path is the field at or one inside it.
func within(path, at string) bool {
	rest, ok := strings.CutPrefix(path, at)
	return ok && (rest == "" || at == "" || rest[0] == '.' || rest[0] == '[')
}

// metadata checks the name and fills the namespace.
func (c *check) metadata(kind string, meta *metav1.ObjectMeta) {
	if kind == "Namespace" || kind == "MeshPolicy" {
		meta.Namespace = ""
	} else if meta.Namespace == "" {
		meta.Namespace = "default"
	}
	switch {
	case meta.Name == "":
		c.errorf("metadata.name", "metadata.name must be set")
	case (kind == "Service" || kind == "Namespace") && !isLabel(meta.Name):
		c.errorf("metadata.name", "name %q must be a valid label (lower-case letters, digits and '-')", meta.Name)
	case !isHost(meta.Name):
		c.errorf("metadata.name", "name %q must be a valid DNS name (lower-case letters, digits, '-' and '.')", meta.Name)
	}
	if meta.Namespace != "" && !isLabel(meta.Namespace) {
		c.errorf("metadata.namespace", "namespace %q must be a valid label (lower-case letters, digits and '-')", meta.Namespace)
	}
}

// identity says whether path is of what tells an object from others.
func identity(path string) bool {
	return within(path, "metadata") && !within(path, "metadata.labels") && !within(path, "metadata.annotations")
}

// anonymous says that it is not sure which object this is: the one that has
// this name and namespace may be meant as well as another.
func (c *check) anonymous() bool {
	return slices.ContainsFunc(c.faults, func(f strict.Fault) bool { return !f.Unused && identity(f.Path) }) ||
		slices.ContainsFunc(c.findings, func(f finding) bool { return identity(f.path) })
}

// oneOf wants one of the allowed values, exactly.
func (c *check) oneOf(path, what, value string, allowed ...string) {
	for _, a := range allowed {
		if value == a {
			return
		}
	}
	c.errorf(path, "unknown %s %q%s", what, value, strict.OneOf(value, allowed))
}

func (c *check) portNumber(path string, n int64) {
	if n < 1 || n > 65535 {
		c.errorf(path, "port number %d must be in the range 1..65535", n)
	}
}

func (c *check) portName(path, name string) {
	if !isLabel(name) {
		c.errorf(path, "port name %q must be a valid label", name)
	}
}

// service also fills what the API server would.
func (c *check) service(s *corev1.Service) {
	spec := &s.Spec
	if spec.Type == "" {
		spec.Type = corev1.ServiceTypeClusterIP
	}
	c.oneOf("spec.type", "service type", string(spec.Type), "ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
	if spec.Type == corev1.ServiceTypeExternalName {
		if !isHost(strings.TrimSuffix(spec.ExternalName, ".")) {
			c.errorf("spec.externalName", "external name %q must be a DNS name", spec.ExternalName)
		}
	} else if len(spec.Ports) == 0 && spec.ClusterIP != corev1.ClusterIPNone {
		c.errorf("spec.ports", "ports must be set")
	}
	if ip := spec.ClusterIP; ip != "" && ip != corev1.ClusterIPNone {
		c.address("spec.clusterIP", "cluster IP", ip)
	}
	for i, ip := range spec.ClusterIPs {
		if ip != corev1.ClusterIPNone {
			c.address(fmt.Sprintf("spec.clusterIPs[%d]", i), "cluster IP", ip)
		}
	}
	c.servicePorts(spec.Ports)
}

func (c *check) servicePorts(ports []corev1.ServicePort) {
	names, numbers := map[string]int{}, map[string]int{}
	for i := range ports {
		p := &ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		c.oneOf(fmt.Sprintf("spec.ports[%d].protocol", i), "protocol", string(p.Protocol), "TCP", "UDP", "SCTP")
		c.portNumber(fmt.Sprintf("spec.ports[%d].port", i), int64(p.Port))
		if first, taken := numbers[fmt.Sprint(p.Protocol, p.Port)]; taken && p.Port != 0 {
			c.errorf(fmt.Sprintf("spec.ports[%d].port", i), "port %d is already that of spec.ports[%d]", p.Port, first)
		}
		numbers[fmt.Sprint(p.Protocol, p.Port)] = i
		if p.Name != "" {
			c.portName(fmt.Sprintf("spec.ports[%d].name", i), p.Name)
		} else if len(ports) > 1 {
			c.errorf(fmt.Sprintf("spec.ports[%d].name", i), "port name must be set, because the service has more than one port")
		}
		if first, taken := names[p.Name]; taken && p.Name != "" {
			c.errorf(fmt.Sprintf("spec.ports[%d].name", i), "port name %q is already that of spec.ports[%d]", p.Name, first)
		}
		names[p.Name] = i
		switch {
		case p.TargetPort == intstr.IntOrString{}:
			p.TargetPort = intstr.FromInt32(p.Port)
		case p.TargetPort.Type == intstr.Int:
			c.portNumber(fmt.Sprintf("spec.ports[%d].targetPort", i), int64(p.TargetPort.IntVal))
		default:
			c.containerPortName(fmt.Sprintf("spec.ports[%d].targetPort", i), p.TargetPort.StrVal)
		}
	}
}

func (c *check) pod(p *corev1.Pod) {
	if p.Spec.ServiceAccountName == "" {
		p.Spec.ServiceAccountName = p.Spec.DeprecatedServiceAccount
	}
	if p.Spec.ServiceAccountName == "" {
		p.Spec.ServiceAccountName = "default" // as the API server fills it
	}
	if p.Status.PodIP != "" {
		c.address("status.podIP", "pod IP", p.Status.PodIP)
	}
	for i, container := range p.Spec.Containers {
		for j, port := range container.Ports {
			at := fmt.Sprintf("spec.containers[%d].ports[%d]", i, j)
			c.portNumber(at+".containerPort", int64(port.ContainerPort))
			if port.Name != "" {
				c.containerPortName(at+".name", port.Name)
			}
		}
	}
}

// containerPortName is stricter than the name of a service port: a number in
// quotes is no name.
func (c *check) containerPortName(path, name string) {
	switch {
	case strings.Trim(name, "0123456789") == "" && name != "":
		c.errorf(path, "port name %q has no letter; for the number write %s without quotes", name, name)
	case len(name) > 15 || !isLabel(name):
		c.errorf(path, "port name %q must be a valid label of at most 15 characters", name)
	}
}

func (c *check) endpointSlice(s *discoveryv1.EndpointSlice) {
	switch s.AddressType {
	case "":
		c.errorf("addressType", "addressType must be set, to IPv4 or IPv6")
	default:
		c.oneOf("addressType", "address type", string(s.AddressType), "IPv4", "IPv6", "FQDN")
	}
	for i, e := range s.Endpoints {
		if len(e.Addresses) == 0 {
			c.errorf(fmt.Sprintf("endpoints[%d].addresses", i), "addresses must be set")
		}
		for j, a := range e.Addresses {
			if s.AddressType != discoveryv1.AddressTypeFQDN {
				c.address(fmt.Sprintf("endpoints[%d].addresses[%d]", i, j), "address", a)
			}
		}
	}
	for i, p := range s.Ports {
		if p.Port != nil {
			c.portNumber(fmt.Sprintf("ports[%d].port", i), int64(*p.Port))
		}
		if p.Name != nil && *p.Name != "" {
			c.portName(fmt.Sprintf("ports[%d].name", i), *p.Name)
		}
		if p.Protocol != nil {
			c.oneOf(fmt.Sprintf("ports[%d].protocol", i), "protocol", string(*p.Protocol), "TCP", "UDP", "SCTP")
		}
	}
}

// address wants an IP address.
func (c *check) address(path, what, value string) {
	if _, err := netip.ParseAddr(value); err != nil {
		c.errorf(path, "%s %q must be an IP address", what, value)
	}
}

func (c *check) serviceEntry(s *networkingv1.ServiceEntry) {
	if len(s.Hosts) == 0 {
		c.errorf("spec.hosts", "hosts must be set")
	}
	for i, h := range s.Hosts {
		if !isHost(strings.TrimPrefix(h, "*.")) {
			c.errorf(fmt.Sprintf("spec.hosts[%d]", i), `host %q must be a DNS name in lower case, or "*." and one`, h)
		}
	}
	for i, a := range s.Addresses {
		_, err := netip.ParseAddr(a)
		if _, cidr := netip.ParsePrefix(a); err != nil && cidr != nil {
			c.errorf(fmt.Sprintf("spec.addresses[%d]", i), "address %q must be an IP address or a CIDR range", a)
		} else if cidr == nil && s.Resolution != networkingv1.ServiceEntry_NONE && s.Resolution != networkingv1.ServiceEntry_STATIC {
			c.errorf(fmt.Sprintf("spec.addresses[%d]", i), "CIDR range %q needs resolution NONE or STATIC", a)
		}
	}
	if len(s.Ports) == 0 {
		c.errorf("spec.ports", "ports must be set")
	}
	c.entryPorts(s.Ports)
	if len(s.Endpoints) > 0 && s.WorkloadSelector != nil {
		c.errorf("spec.workloadSelector", "only one of endpoints and workloadSelector may be set")
	}
	for i, e := range s.Endpoints {
		at := fmt.Sprintf("spec.endpoints[%d]", i)
		c.workloadEntry(e, at)
		if s.Resolution == networkingv1.ServiceEntry_STATIC && e.GetAddress() != "" {
			c.address(at+".address", "address", e.Address)
		}
	}
	c.resolution(s)
	for i, ns := range s.ExportTo {
		if ns != "." && ns != "*" && ns != "~" && !isLabel(ns) {
			c.errorf(fmt.Sprintf("spec.exportTo[%d]", i), `%q must be a namespace, "." or "*"`, ns)
		}
	}
}

// resolution refuses what has no meaning under the entry's resolution.
func (c *check) resolution(s *networkingv1.ServiceEntry) {
	switch s.Resolution {
	case networkingv1.ServiceEntry_NONE:
		if len(s.Endpoints) > 0 {
			c.errorf("spec.endpoints", "endpoints need resolution STATIC or DNS")
		}
	case networkingv1.ServiceEntry_DNS, networkingv1.ServiceEntry_DNS_ROUND_ROBIN:
		for i, h := range s.Hosts {
			if len(s.Endpoints) == 0 && s.WorkloadSelector == nil && strings.HasPrefix(h, "*.") {
				c.errorf(fmt.Sprintf("spec.hosts[%d]", i), "host %q cannot be resolved by DNS; set endpoints", h)
			}
		}
	case networkingv1.ServiceEntry_DYNAMIC_DNS:
		c.unsupported("spec.resolution", "resolution DYNAMIC_DNS is not supported; write NONE, STATIC or DNS")
	}
	if s.Resolution == networkingv1.ServiceEntry_DNS_ROUND_ROBIN {
		c.findings = append(c.findings, finding{codeUnusedField, Info, "spec.resolution", "DNS_ROUND_ROBIN is treated as DNS"})
	}
}

func (c *check) entryPorts(ports []*networkingv1.ServicePort) {
	names, numbers := map[string]int{}, map[uint32]int{}
	for i, p := range ports {
		at := fmt.Sprintf("spec.ports[%d]", i)
		c.portNumber(at+".number", int64(p.GetNumber()))
		if p.GetTargetPort() != 0 {
			c.portNumber(at+".targetPort", int64(p.TargetPort))
		}
		if p.GetName() == "" {
			c.errorf(at+".name", "port name must be set")
		} else {
			c.portName(at+".name", p.Name)
		}
		if first, taken := names[p.GetName()]; taken && p.GetName() != "" {
			c.errorf(at+".name", "port name %q is already that of spec.ports[%d]", p.Name, first)
		}
		if first, taken := numbers[p.GetNumber()]; taken && p.GetNumber() != 0 {
			c.errorf(at+".number", "port %d is already that of spec.ports[%d]", p.Number, first)
		}
		names[p.GetName()], numbers[p.GetNumber()] = i, i
		if p.GetProtocol() != "" {
			c.oneOf(at+".protocol", "protocol", strings.ToUpper(p.Protocol),
				"HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS", "UDP", "REDIS", "MYSQL")
		}
	}
}

// workloadEntry checks a WorkloadEntry, or the same within a ServiceEntry.
func (c *check) workloadEntry(w *networkingv1.WorkloadEntry, at string) {
	switch address := w.GetAddress(); {
	case address == "":
		c.errorf(at+".address", "address must be set")
	default:
		if _, err := netip.ParseAddr(address); err != nil && !isHost(address) {
			c.errorf(at+".address", "address %q must be an IP address or a DNS name", address)
		}
	}
	for _, name := range sortedKeys(w.GetPorts()) {
		c.portName(at+".ports."+name, name)
		c.portNumber(at+".ports."+name, int64(w.Ports[name]))
	}
	if account := w.GetServiceAccount(); account != "" && !isHost(account) {
		c.errorf(at+".serviceAccount", "service account %q must be a valid DNS name", account)
	}
	if w.GetNetwork() != "" {
		c.findings = append(c.findings, finding{codeUnusedField, Info, at + ".network", "has no effect here"})
	}
}

// isLabel is a DNS-1123 label.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// isHost is labels with dots between them.
func isHost(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

package meshconfig

import (
	"iter"
	"net/netip"
	"strconv"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
	corev1 "k8s.io/api/core/v1"
)

// Annotations of a Service (spec server-policy.md 4, client-tls.md 3).
const (
	authPrefix            = "auth.istio.io/"
	accountsAnnotation    = "alpha.istio.io/kubernetes-serviceaccounts"
	rawAccountsAnnotation = "alpha.istio.io/canonical-serviceaccounts"
)

func (c *compiler) addServices() {
	size := len(c.b.Services)
	for _, e := range c.b.ServiceEntries {
		size += len(e.Spec.GetHosts())
	}
	c.in.Services = make([]model.Service, 0, size)
	for _, s := range c.b.Services {
		c.in.Services = append(c.in.Services, c.kubernetesService(s))
	}
	for _, e := range c.b.ServiceEntries {
		c.addServiceEntry(e)
	}
}

func (c *compiler) kubernetesService(s *corev1.Service) model.Service {
	out := model.Service{
		Key:       model.Key{Kind: "Service", Namespace: s.Namespace, Name: s.Name},
		Host:      s.Name + "." + s.Namespace + c.suffix,
		Namespace: s.Namespace,
		Name:      s.Name,
		Created:   created(&s.ObjectMeta),
	}
	switch {
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		out.Resolution, out.External = model.ResolveNone, true
		out.DNSName = strings.TrimSuffix(s.Spec.ExternalName, ".")
	case isHeadless(s):
		out.Resolution = model.ResolveHeadless
	case len(s.Spec.ClusterIPs) > 0:
		out.VIPs = c.vips(out.Key, "spec.clusterIPs", s.Spec.ClusterIPs)
	case s.Spec.ClusterIP != "":
		out.VIPs = c.vips(out.Key, "spec.clusterIP", []string{s.Spec.ClusterIP})
	}
	out.Ports = c.kubernetesPorts(s)
	c.annotate(s, &out)
	return out
}

func isHeadless(s *corev1.Service) bool {
	return s.Spec.ClusterIP == corev1.ClusterIPNone ||
		len(s.Spec.ClusterIPs) > 0 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// kubernetesPorts are the TCP ports; the mesh has nothing to do with others.
func (c *compiler) kubernetesPorts(s *corev1.Service) []model.ServicePort {
	ports := make([]model.ServicePort, 0, len(s.Spec.Ports))
	find := c.endpointsOf(s)
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if !isTCP(p.Protocol) || !validPort(p.Port) || hasPort(ports, uint16(p.Port)) {
			continue
		}
		out := model.ServicePort{Name: p.Name, Number: uint16(p.Port)}
		appProtocol := ""
		if p.AppProtocol != nil {
			appProtocol = *p.AppProtocol
		}
		out.Protocol = model.ParseProtocol(appProtocol, p.Name)
		out.Endpoints = find(p)
		ports = append(ports, out)
	}
	return ports
}

func isTCP(p corev1.Protocol) bool { return p == "" || p == corev1.ProtocolTCP }

func validPort[T int32 | uint32](n T) bool { return n >= 1 && n <= 65535 }

func hasPort(ports []model.ServicePort, number uint16) bool {
	for i := range ports {
		if ports[i].Number == number {
			return true
		}
	}
	return false
}

// vips drops what cannot be the address of one listener.
func (c *compiler) vips(on model.Key, field string, addresses []string) []string {
	for i, text := range addresses {
		if ip, err := netip.ParseAddr(text); err == nil && !ip.IsUnspecified() {
			continue
		}
		good := append([]string(nil), addresses[:i]...)
		for j, text := range addresses[i:] {
			if ip, err := netip.ParseAddr(text); err == nil && !ip.IsUnspecified() {
				good = append(good, text)
				continue
			}
			c.add(codeUnusedField, Info, on, field+"["+strconv.Itoa(i+j)+"]",
				"%q is no single IP address, so calls to it are not recognised; calls by host name are", text)
		}
		return good
	}
	return addresses
}

// annotate applies the annotations of a Service to its ports.
func (c *compiler) annotate(s *corev1.Service, out *model.Service) {
	for key, value := range s.Annotations {
		if strings.HasPrefix(key, authPrefix) {
			c.annotateAuth(out, key, value)
		}
	}
	for account := range splitList(s.Annotations[accountsAnnotation]) {
		addAccounts(out, c.accountURIs(s.Namespace, account)...)
	}
	for account := range splitList(s.Annotations[rawAccountsAnnotation]) {
		addAccounts(out, "spiffe://"+account)
	}
}

// annotateAuth compares exactly: nearly right decides nothing and is reported.
func (c *compiler) annotateAuth(out *model.Service, key, value string) {
	field := "metadata.annotations[" + key + "]"
	var port *model.ServicePort
	for i := range out.Ports {
		if strconv.Itoa(int(out.Ports[i].Number)) == key[len(authPrefix):] {
			port = &out.Ports[i]
		}
	}
	if port == nil {
		c.warn(codeBadAnnotation, out.Key, field,
			"annotation %s: %q of %s has no effect: %q is none of its ports; write one of %s",
			key, value, out.Key, key[len(authPrefix):], portList(out.Ports))
		return
	}
	switch value {
	case "NONE":
		port.Annotation = model.AnnotationNone
	case "MUTUAL_TLS":
		port.Annotation = model.AnnotationMutualTLS
	case "INHERIT":
	default:
		c.warn(codeBadAnnotation, out.Key, field,
			"annotation %s: %q of %s has no effect: write NONE, MUTUAL_TLS or INHERIT", key, value, out.Key)
	}
}

// portList is "80 (http), 7001 (tcp-sync)" for messages.
func portList(ports []model.ServicePort) string {
	if len(ports) == 0 {
		return "(it has no TCP port)"
	}
	var list []string
	for i := range ports {
		text := strconv.Itoa(int(ports[i].Number))
		if ports[i].Name != "" {
			text += " (" + ports[i].Name + ")"
		}
		list = append(list, text)
	}
	return strings.Join(list, ", ")
}

func splitList(text string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" && !yield(item) {
				return
			}
		}
	}
}

// accountURIs is one account in the trust domain and each of its aliases.
func (c *compiler) accountURIs(namespace, account string) []string {
	path := "/ns/" + namespace + "/sa/" + account
	uris := []string{"spiffe://" + c.in.Mesh.TrustDomain + path}
	for _, alias := range c.in.Mesh.TrustDomainAliases {
		uris = append(uris, "spiffe://"+alias+path)
	}
	return uris
}

func addAccounts(s *model.Service, uris ...string) {
	for i := range s.Ports {
		s.Ports[i].Accounts = append(s.Ports[i].Accounts, uris...)
	}
}

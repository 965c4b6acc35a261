package meshconfig

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
	networkingv1 "istio.io/api/networking/v1"
	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
)

// backing is one address behind a ServiceEntry, before its ports are asked.
type backing struct {
	model.Endpoint
	ports map[string]uint32 // of the WorkloadEntry, by service port name
}

// addServiceEntry makes one service of each host; they share ports and
// endpoints.
func (c *compiler) addServiceEntry(e *ServiceEntry) {
	spec := e.Spec
	template := model.Service{
		Key:        model.Key{Kind: "ServiceEntry", Namespace: e.Namespace, Name: e.Name},
		Namespace:  e.Namespace,
		Created:    created(&e.ObjectMeta),
		Resolution: entryResolution(spec),
		External:   spec.GetLocation() == networkingv1alpha3.ServiceEntry_MESH_EXTERNAL,
		ExportTo:   exportTo(spec.GetExportTo(), e.Namespace),
	}
	template.VIPs = c.vips(template.Key, "spec.addresses", spec.GetAddresses())
	backings, accounts := c.backingsOf(e, &template)
	template.Ports = entryPorts(spec, backings, accounts)
	for _, host := range spec.GetHosts() {
		s := template
		s.Host = host
		if !strings.ContainsAny(host, ".*") {
			s.Name = host
		}
		if s.Resolution == model.ResolveDNS && len(backings) == 0 {
			s.Ports = portsByName(spec, s.Ports, host)
		}
		c.in.Services = append(c.in.Services, s)
	}
}

// entryResolution is the table of spec xds.md 6. A selector makes the
// endpoints known, except where their addresses are names.
func entryResolution(spec *networkingv1.ServiceEntry) model.Resolution {
	switch spec.GetResolution() {
	case networkingv1alpha3.ServiceEntry_DNS, networkingv1alpha3.ServiceEntry_DNS_ROUND_ROBIN, networkingv1alpha3.ServiceEntry_DYNAMIC_DNS:
		return model.ResolveDNS
	case networkingv1alpha3.ServiceEntry_STATIC:
		return model.ResolveEndpoints
	}
	if spec.GetWorkloadSelector() != nil {
		return model.ResolveEndpoints
	}
	return model.ResolveNone
}

// exportTo resolves "." and says nothing where all namespaces see the service.
func exportTo(list []string, namespace string) []string {
	if slices.Contains(list, "*") {
		return nil
	}
	out := slices.Clone(list)
	for i := range out {
		if out[i] == "." {
			out[i] = namespace
		}
	}
	return out
}

// backingsOf are the inline endpoints or the selected workloads, and the
// identities that none of them brings as a workload.
func (c *compiler) backingsOf(e *ServiceEntry, s *model.Service) (out []backing, accounts []string) {
	accounts = slices.Clone(e.Spec.GetSubjectAltNames())
	if s.Resolution == model.ResolveNone {
		return nil, accounts
	}
	for i, inline := range e.Spec.GetEndpoints() {
		field := "spec.endpoints[" + strconv.Itoa(i) + "]"
		if !c.reachable(s, s.Key, field+".address", inline.GetAddress()) {
			continue
		}
		b := backing{ports: inline.GetPorts()}
		b.Address, b.Weight, b.Ready = inline.GetAddress(), inline.GetWeight(), true
		b.Labels = inline.GetLabels()
		b.Locality = entryLocality(inline.GetLocality(), inline.GetLabels())
		at, known := c.workloadAt(b.Address)
		switch {
		case known:
			b.Workload = c.in.Workloads[at].ID
		case inline.GetLabels()[tlsModeLabel] == "istio":
			c.add(codeUnusedField, Info, s.Key, field+".labels",
				"label %s has no effect on an inline endpoint: write a WorkloadEntry and select it with workloadSelector", tlsModeLabel)
		}
		if account := inline.GetServiceAccount(); account != "" {
			accounts = append(accounts, c.accountURIs(e.Namespace, account)...)
		}
		out = append(out, b)
	}
	for _, at := range c.matching(e.Namespace, e.Spec.GetWorkloadSelector().GetLabels()) {
		w, from := &c.in.Workloads[at], &c.backends[at]
		if !c.reachable(s, w.Key, "spec.address", w.Address) {
			continue
		}
		b := backing{Endpoint: model.Endpoint{
			Address: w.Address, Workload: w.ID, Locality: w.Locality, Ready: from.ready && !from.terminating,
		}}
		if from.entry != nil {
			b.ports, b.Weight = from.entry.Spec.GetPorts(), from.entry.Spec.GetWeight()
		}
		out = append(out, b)
	}
	return out, accounts
}

// reachable says whether the kind of address fits the resolution: names only
// where something resolves them.
func (c *compiler) reachable(s *model.Service, on model.Key, field, address string) bool {
	if s.Resolution == model.ResolveDNS {
		return address != "" && !strings.HasPrefix(address, "unix:")
	}
	if _, err := netip.ParseAddr(address); err == nil {
		return true
	}
	c.warn(codeBadAddress, on, field,
		"address %q is no IP address, so %s does not reach it: write an IP address, or resolution: DNS", address, s.Key)
	return false
}

func entryPorts(spec *networkingv1.ServiceEntry, backings []backing, accounts []string) []model.ServicePort {
	ports := make([]model.ServicePort, 0, len(spec.GetPorts()))
	for _, p := range spec.GetPorts() {
		if strings.EqualFold(p.GetProtocol(), "UDP") || !validPort(p.GetNumber()) || hasPort(ports, uint16(p.GetNumber())) {
			continue
		}
		out := model.ServicePort{
			Name: p.GetName(), Number: uint16(p.GetNumber()),
			Protocol: model.ParseProtocol(p.GetProtocol(), p.GetName()),
			Accounts: accounts,
		}
		for i := range backings {
			number := cmp.Or(backings[i].ports[p.GetName()], p.GetTargetPort(), p.GetNumber())
			if !validPort(number) {
				continue
			}
			e := backings[i].Endpoint
			e.Port = uint16(number)
			out.Endpoints = append(out.Endpoints, e)
		}
		if len(out.Endpoints) > 1 {
			out.Endpoints = distinct(out.Endpoints)
		}
		ports = append(ports, out)
	}
	return ports
}

// portsByName gives ports without endpoints the host itself to resolve. A
// wildcard names no host.
func portsByName(spec *networkingv1.ServiceEntry, ports []model.ServicePort, host string) []model.ServicePort {
	if strings.HasPrefix(host, "*") || spec.GetWorkloadSelector() != nil {
		return ports
	}
	out := slices.Clone(ports)
	for _, p := range spec.GetPorts() {
		for i := range out {
			if target := cmp.Or(p.GetTargetPort(), p.GetNumber()); uint32(out[i].Number) == p.GetNumber() && validPort(target) {
				out[i].Endpoints = []model.Endpoint{{Address: host, Port: uint16(target), Ready: true}}
			}
		}
	}
	return out
}

package translate

import (
	"errors"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/meshpilot/pilot/pkg/model"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// hosts are the virtual hosts of all HTTP ports as clients of other namespaces
// get them. A namespace's routes differ from another's in its own services
// only, so adding a service does not marshal the mesh once per namespace.
type hosts struct {
	domain   string
	services []*model.OutboundService              // that they are of
	owners   map[portName]*model.OutboundService   // who has a domain on a port; short names have none
	later    map[portName][]*model.OutboundService // who would have it next, where those before are not exported
	losers   map[portName]bool                     // services that are among the later ones
	byPort   map[portName]*virtualHost
}

// portName is a domain, or a service's host, on a service port or on anyPort.
type portName struct {
	port uint16
	name string
}

// anyPort stands for the explicit proxy, which is asked for any port.
const anyPort = 0

// virtualHost is one, encoded as a field of its route configuration.
type virtualHost struct {
	domains []string
	field   []byte
	err     error
}

func newHosts(services []*model.OutboundService, domain string, prev *hosts) *hosts {
	if prev == nil {
		prev = &hosts{}
	}
	same := func(a, b *model.OutboundService) bool { return a.Topology == b.Topology }
	if prev.domain == domain && slices.EqualFunc(prev.services, services, same) {
		return prev
	}
	h := &hosts{
		domain: domain, services: services, byPort: map[portName]*virtualHost{},
		owners: map[portName]*model.OutboundService{}, later: map[portName][]*model.OutboundService{}, losers: map[portName]bool{},
	}
	each := func(do func(svc *model.OutboundService, port uint16)) {
		for _, svc := range services {
			do(svc, anyPort)
			for _, p := range svc.Ports {
				if p.Protocol.IsHTTP() {
					do(svc, p.Number)
				}
			}
		}
	}
	// Envoy refuses a configuration with a domain twice as a whole: a full
	// name comes before all other claims, which go in the order of services.
	each(func(svc *model.OutboundService, port uint16) { h.claim(portName{port, svc.Host}, svc) })
	each(func(svc *model.OutboundService, port uint16) {
		var domains []string
		for _, d := range serviceDomains(svc, domain) {
			if h.claim(portName{port, d}, svc) {
				domains = append(domains, d)
			}
		}
		if port == anyPort {
			return // each class encodes its own
		}
		key := portName{port, svc.Host}
		host := prev.byPort[key]
		if host == nil || !slices.Equal(host.domains, domains) {
			host = newVirtualHost(svc.Host, port, domains)
		}
		h.byPort[key] = host
	})
	return h
}

// claim says whether svc has the domain for clients that see every service.
func (h *hosts) claim(domain portName, svc *model.OutboundService) bool {
	owner := h.owners[domain]
	switch {
	case owner == nil:
		h.owners[domain] = svc
	case owner.Host != svc.Host:
		h.later[domain] = append(h.later[domain], svc)
		h.losers[portName{domain.port, svc.Host}] = true
		return false
	}
	return true
}

// owner is who has the domain for clients of namespace: a service that they
// do not see takes nothing from others. Nil if nobody has it.
func (h *hosts) owner(namespace string, domain portName) *model.OutboundService {
	owner := h.owners[domain]
	if owner == nil || owner.ExportedTo(namespace) {
		return owner
	}
	for _, svc := range h.later[domain] {
		if svc.ExportedTo(namespace) {
			return svc
		}
	}
	return nil
}

// in is the virtual host for clients of namespace.
func (h *hosts) in(namespace string, svc *model.OutboundService, port uint16) *virtualHost {
	host := h.byPort[portName{port, svc.Host}]
	domains := h.domains(namespace, svc, port)
	if slices.Equal(domains, host.domains) {
		return host
	}
	return newVirtualHost(svc.Host, port, domains)
}

// domains are those of svc on a port for clients of namespace, which find
// services of their own namespace by short name too.
func (h *hosts) domains(namespace string, svc *model.OutboundService, port uint16) []string {
	var domains []string
	if host := h.byPort[portName{port, svc.Host}]; host != nil && !h.losers[portName{port, svc.Host}] {
		domains = host.domains
	} else {
		for _, d := range serviceDomains(svc, h.domain) {
			if h.owner(namespace, portName{port, d}).Host == svc.Host {
				domains = append(domains, d)
			}
		}
	}
	if name := shortName(svc, h.domain); name != "" && svc.Namespace == namespace && h.owner(namespace, portName{port, name}) == nil {
		domains = append(slices.Clip(domains), name)
	}
	return domains
}

func newVirtualHost(host string, port uint16, domains []string) *virtualHost {
	var b builder
	vh := &routev3.VirtualHost{
		Name:   host + ":" + decimal(port),
		Routes: []*routev3.Route{b.forward(OutboundCluster(port, host))},
	}
	for _, d := range domains {
		vh.Domains = append(vh.Domains, d, d+":"+decimal(port))
	}
	field := b.field(virtualHostsField, vh)
	return &virtualHost{domains: domains, field: field, err: b.err}
}

// virtualHostsField is RouteConfiguration.virtual_hosts.
const virtualHostsField protowire.Number = 2

// field is m as a field of another message.
func (b *builder) field(number protowire.Number, m validated) []byte {
	out := protowire.AppendTag(nil, number, protowire.BytesType)
	return protowire.AppendBytes(out, b.marshal(m).Value)
}

// portRoutes is the route configuration of one port: its fields one after the
// other, as Envoy's decoder takes them.
func portRoutes(v *model.ClientView, port uint16, services []*model.OutboundService, all *hosts) *Resource {
	var b builder
	name := decimal(port)
	body := b.marshal(&routev3.RouteConfiguration{Name: name, ValidateClusters: wrapperspb.Bool(false)})
	var from []model.Key
	for _, svc := range services {
		host := all.in(v.Class.Namespace, svc, port)
		b.err = errors.Join(b.err, host.err)
		b.clusters = append(b.clusters, OutboundCluster(port, svc.Host))
		body.Value = append(body.Value, host.field...)
		from = append(from, svc.Key)
	}
	rest := &routev3.VirtualHost{Name: "unknown", Domains: []string{"*"}}
	if v.Mesh.RegistryOnly {
		rest.Routes = []*routev3.Route{answer(502, "")}
	} else {
		rest.Routes = []*routev3.Route{b.forward(passthroughCluster)}
	}
	body.Value = append(body.Value, b.field(virtualHostsField, rest)...)
	return b.named(name, body, from)
}

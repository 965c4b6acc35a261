package model

import (
	"cmp"
	"encoding/hex"
	"slices"
	"strings"
)

// indexServices makes the outbound form of each service once, for all views.
func (s *Snapshot) indexServices(services []*Service) {
	mesh := s.OutboundMesh()
	var d digest
	d.num(uint64(mesh.ConnectTimeout))
	d.list(mesh.TrustDomains)
	clusterMesh := d.done()

	s.services = make([]*OutboundService, 0, len(services))
	for _, in := range services {
		out := &OutboundService{
			Key: in.Key, Host: in.Host, Namespace: in.Namespace, Name: in.Name, VIPs: in.VIPs,
			Resolution: in.Resolution, DNSName: in.DNSName, External: in.External, exportTo: in.ExportTo,
			Ports: make([]*OutboundPort, 0, len(in.Ports)),
		}
		s.scoped = s.scoped || len(in.ExportTo) > 0
		for i := range in.Ports {
			port, endpoints := s.outboundPort(in, &in.Ports[i], clusterMesh, &d)
			out.Ports = append(out.Ports, port)
			if in.Resolution == ResolveEndpoints || in.Resolution == ResolveHeadless {
				s.endpoints = append(s.endpoints, endpointGroup(in, port, endpoints, &d))
			}
		}
		slices.SortFunc(out.Ports, func(a, b *OutboundPort) int { return int(a.Number) - int(b.Number) })
		out.Topology = out.digest(&d)
		s.services = append(s.services, out)
	}
	slices.SortFunc(s.endpoints, func(a, b *EndpointGroup) int {
		return cmp.Or(strings.Compare(a.Host, b.Host), int(a.Port)-int(b.Port))
	})
}

// OutboundMesh is the part of the mesh configuration that shapes outbound.
func (s *Snapshot) OutboundMesh() OutboundMesh {
	return OutboundMesh{
		ConnectTimeout: s.mesh.ConnectTimeout,
		ListenPort:     s.mesh.ListenPort,
		InboundPort:    s.mesh.InboundListenPort,
		HTTPPort:       s.mesh.HTTPPort,
		RegistryOnly:   s.mesh.RegistryOnly,
		AccessLogFile:  s.mesh.AccessLogFile,
		TrustDomains:   s.mesh.trustDomains(),
		Domain:         s.mesh.Domain,
	}
}

// outboundPort decides the client TLS of a port; the endpoints it returns are
// those that get traffic, sorted by address.
func (s *Snapshot) outboundPort(svc *Service, in *ServicePort, clusterMesh Fingerprint, d *digest) (*OutboundPort, []OutboundEndpoint) {
	out := &OutboundPort{Name: in.Name, Number: in.Number, Protocol: in.Protocol}
	ready := make([]OutboundEndpoint, 0, len(in.Endpoints))
	accepting, waiting := 0, 0 // by readiness: who takes mesh mTLS
	accounts := slices.Clone(in.Accounts)
	for _, e := range in.Endpoints {
		h := s.byID[e.Workload]
		mesh := h != nil && s.acceptsMesh(h, e.Port)
		if h != nil && !svc.External {
			accounts = s.appendIdentities(accounts, h.Workload)
		}
		if !e.Ready {
			if mesh {
				waiting++
			}
			continue
		}
		if mesh {
			accepting++
		}
		ready = append(ready, OutboundEndpoint{Address: e.Address, Port: e.Port, Locality: e.Locality, Weight: e.Weight, MeshTLS: mesh})
	}
	if len(ready) == 0 { // nobody to ask: go by the workloads that are to come
		out.TLS = s.clientTLS(svc, waiting, len(in.Endpoints))
	} else {
		out.TLS = s.clientTLS(svc, accepting, len(ready))
	}
	slices.SortFunc(ready, func(a, b OutboundEndpoint) int {
		return cmp.Or(strings.Compare(a.Address, b.Address), int(a.Port)-int(b.Port))
	})
	ready = slices.Compact(ready)
	if out.TLS != ClientPlain {
		slices.Sort(accounts)
		out.SANs = slices.Compact(accounts)
	}
	if out.TLS == ClientMixed {
		out.ModesHash = modesHash(ready, d)
	}
	if svc.Resolution == ResolveDNS || svc.Resolution == ResolveHeadless {
		out.Endpoints = ready
	}
	out.Fingerprint = out.digest(svc, clusterMesh, d)
	return out, ready
}

// acceptsMesh is AUTO for one endpoint (spec client-tls.md 1): a port that is
// served server-first takes plaintext only in PERMISSIVE, whatever protocol
// the service has that the client calls.
func (s *Snapshot) acceptsMesh(h *hosted, container uint16) bool {
	if !h.sidecar {
		return false
	}
	d, ok := h.decision(container)
	if !ok {
		d = s.decide(h, container)
	}
	switch d.Mode {
	case Disable:
		return false
	case Permissive:
		pairs := h.pairs(container)
		return len(pairs) == 0 || !servedProtocol(pairs).ServerFirst()
	default:
		return true
	}
}

// clientTLS is the decision of spec client-tls.md 1, steps 2 to 5, for a port
// of whose endpoints so many, of so many, accept mesh mTLS.
func (s *Snapshot) clientTLS(svc *Service, accepting, all int) ClientTLS {
	switch {
	case s.mesh.Excludes(svc.Host), svc.External:
		return ClientPlain
	case !s.mesh.AutoMTLS && s.mesh.MutualTLS:
		return ClientMesh
	case !s.mesh.AutoMTLS, accepting == 0:
		return ClientPlain
	case accepting == all:
		return ClientMesh
	default:
		return ClientMixed
	}
}

// Excludes says whether mtlsExcludedServices names host.
func (m *Mesh) Excludes(host string) bool {
	for _, entry := range m.Excluded {
		if entry == host {
			return true
		}
		if suffix, ok := strings.CutPrefix(entry, "*"); ok && len(host) > len(suffix) && strings.HasSuffix(host, suffix) {
			return true
		}
	}
	return false
}

func (s *Snapshot) appendIdentities(accounts []string, w *Workload) []string {
	account := "/ns/" + w.ID.Namespace + "/sa/" + w.ServiceAccount
	accounts = append(accounts, "spiffe://"+s.mesh.TrustDomain+account)
	for _, alias := range s.mesh.TrustDomainAliases {
		accounts = append(accounts, "spiffe://"+alias+account)
	}
	return accounts
}

func modesHash(endpoints []OutboundEndpoint, d *digest) string {
	for _, e := range endpoints {
		d.str(e.Address)
		d.num(uint64(e.Port))
		d.flag(e.MeshTLS)
	}
	sum := d.done()
	return hex.EncodeToString(sum[:4])
}

func endpointGroup(svc *Service, port *OutboundPort, endpoints []OutboundEndpoint, d *digest) *EndpointGroup {
	g := &EndpointGroup{Key: svc.Key, Host: svc.Host, Port: port.Number, Endpoints: endpoints}
	d.str(g.Host)
	d.num(uint64(g.Port))
	digestEndpoints(d, endpoints)
	g.Fingerprint = d.done()
	return g
}

func digestEndpoints(d *digest, endpoints []OutboundEndpoint) {
	d.num(uint64(len(endpoints)))
	for _, e := range endpoints {
		d.str(e.Address, e.Locality.Region, e.Locality.Zone, e.Locality.SubZone)
		d.num(uint64(e.Port), uint64(e.Weight))
		d.flag(e.MeshTLS)
	}
}

func (p *OutboundPort) digest(svc *Service, clusterMesh Fingerprint, d *digest) Fingerprint {
	d.sum(clusterMesh)
	d.str(svc.Host, svc.DNSName, p.Name, p.ModesHash, svc.Key.Kind, svc.Key.Namespace, svc.Key.Name)
	d.num(uint64(svc.Resolution), uint64(p.Number), uint64(p.Protocol), uint64(p.TLS))
	d.list(p.SANs)
	digestEndpoints(d, p.Endpoints)
	return d.done()
}

// digest covers what listeners and routes depend on: not the TLS of the port,
// but which endpoints of a headless service need another one.
func (o *OutboundService) digest(d *digest) Fingerprint {
	d.str(o.Key.Kind, o.Key.Namespace, o.Key.Name, o.Host, o.Namespace, o.Name, o.DNSName)
	d.list(o.VIPs)
	d.num(uint64(o.Resolution), uint64(len(o.Ports)))
	for _, p := range o.Ports {
		d.str(p.Name)
		d.num(uint64(p.Number), uint64(p.Protocol))
		if o.Resolution == ResolveHeadless {
			d.flag(p.TLS == ClientMixed)
			digestEndpoints(d, p.Endpoints)
		}
	}
	return d.done()
}

// ClientView is what the outbound half of class c depends on.
func (s *Snapshot) ClientView(c ClientClass) *ClientView {
	v := &ClientView{Class: c, Mesh: s.OutboundMesh(), Services: s.visible(c.Namespace)}
	m := v.Mesh
	var d digest
	d.str(c.Namespace, m.AccessLogFile, m.Domain)
	d.num(uint64(c.Type), uint64(c.Capture), uint64(m.ListenPort), uint64(m.InboundPort), uint64(m.HTTPPort), uint64(m.ConnectTimeout))
	d.flag(m.RegistryOnly)
	d.num(uint64(len(v.Services)))
	for _, svc := range v.Services {
		d.sum(svc.Topology)
	}
	v.Topology = d.done()
	d.sum(v.Topology)
	d.list(m.TrustDomains)
	for _, svc := range v.Services {
		for _, p := range svc.Ports {
			d.sum(p.Fingerprint)
		}
	}
	v.Fingerprint = d.done()
	return v
}

// visible shares one list between all namespaces that see everything.
func (s *Snapshot) visible(namespace string) []*OutboundService {
	if !s.scoped {
		return s.services
	}
	var out []*OutboundService
	for _, svc := range s.services {
		if svc.exportedTo(namespace) {
			out = append(out, svc)
		}
	}
	return out
}

func (o *OutboundService) exportedTo(namespace string) bool {
	if len(o.exportTo) == 0 {
		return true
	}
	return slices.ContainsFunc(o.exportTo, func(to string) bool {
		return to == "*" || to == namespace || to == "." && namespace == o.Namespace
	})
}

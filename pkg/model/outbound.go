package model

import (
	"cmp"
	"encoding/hex"
	"slices"
	"strings"
)

// indexServices makes the outbound form of each service once, for all views,
// and again for namespaces whose clients other destination rules govern.
func (s *Snapshot) indexServices(services []*Service, rules []DestinationRule) {
	mesh := s.OutboundMesh()
	sink := &groupSink{}
	d := &sink.digest
	d.num(uint64(mesh.ConnectTimeout))
	d.list(mesh.TrustDomains)
	clusterMesh := d.done()

	merger := &ruleMerger{index: s.rules, sets: map[*DestinationRule][]*ruleSet{}}
	affected := merger.affected(rules, services)
	s.services = make([]*OutboundService, 0, len(services))
	special := map[string]map[int]*OutboundService{}
	for i, in := range services {
		var set *ruleSet
		if len(rules) > 0 {
			set = merger.set(everyone, in)
		}
		s.scoped = s.scoped || len(in.ExportTo) > 0
		sink.facts = sink.facts[:0]
		s.services = append(s.services, s.outboundService(in, set, clusterMesh, sink))
		if i >= len(affected) || len(affected[i]) == 0 {
			continue
		}
		sink.private = true
		forms := map[*ruleSet]*Variant{}
		slices.Sort(affected[i])
		for _, client := range affected[i] {
			own := merger.set(client, in)
			if own == set {
				continue
			}
			if forms[own] == nil {
				forms[own] = &Variant{OutboundService: s.outboundService(in, own, clusterMesh, sink)}
				s.variants = append(s.variants, forms[own])
			}
			forms[own].Namespaces = append(forms[own].Namespaces, client)
			if special[client] == nil {
				special[client] = map[int]*OutboundService{}
			}
			special[client][i] = forms[own].OutboundService
		}
		sink.private = false
	}
	s.seenBy(special)
	s.endpoints = sink.groups
	slices.SortFunc(s.endpoints, func(a, b *EndpointGroup) int {
		return cmp.Or(strings.Compare(a.Host, b.Host), int(a.Port)-int(b.Port), strings.Compare(a.Subset, b.Subset), strings.Compare(a.Variant, b.Variant))
	})
}

// seenBy lists the services for the namespaces that see some of them in
// another form than most do.
func (s *Snapshot) seenBy(special map[string]map[int]*OutboundService) {
	s.special = make(map[string][]*OutboundService, len(special))
	for namespace, forms := range special {
		list := slices.Clone(s.services)
		for i, svc := range forms {
			list[i] = svc
		}
		s.special[namespace] = list
	}
}

// Variant is the form in which some client namespaces see a service, because
// of destination rules that hold for them only.
type Variant struct {
	*OutboundService
	Namespaces []string
}

// Variants are the forms of services that only some namespaces see, by host;
// all others see the one in Services.
func (s *Snapshot) Variants() []*Variant { return s.variants }

func (s *Snapshot) outboundService(in *Service, set *ruleSet, clusterMesh Fingerprint, sink *groupSink) *OutboundService {
	out := &OutboundService{
		Key: in.Key, Host: in.Host, Namespace: in.Namespace, Name: in.Name, VIPs: in.VIPs,
		Resolution: in.Resolution, DNSName: in.DNSName, External: in.External, exportTo: in.ExportTo,
		Ports: make([]*OutboundPort, 0, len(in.Ports)),
	}
	for i := range in.Ports {
		port := &OutboundPort{Name: in.Ports[i].Name, Number: in.Ports[i].Number, Protocol: in.Ports[i].Protocol}
		s.rulesAt(port, in, &in.Ports[i], set, sink)
		port.Fingerprint = port.digest(in, clusterMesh, &sink.digest)
		out.Ports = append(out.Ports, port)
	}
	slices.SortFunc(out.Ports, func(a, b *OutboundPort) int { return int(a.Number) - int(b.Number) })
	out.Topology = out.digest(&sink.digest)
	return out
}

// At is the port of that number, or nil.
func (o *OutboundService) At(number uint16) *OutboundPort {
	for _, p := range o.Ports {
		if p.Number == number {
			return p
		}
	}
	return nil
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

// acceptsMesh is AUTO for one endpoint (spec client-tls.md 1): a port that is
// served server-first takes plaintext only in PERMISSIVE, whatever protocol
// the service has that the client calls.
func (s *Snapshot) acceptsMesh(h *hosted, container uint16) bool {
	if !h.sidecar || !h.Inbound.Has(container) {
		return false
	}
	switch phase := h.decision(container).Phase; phase {
	case PhaseMoved:
		return !h.serverFirst(container)
	default:
		return phase > PhaseMoved
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

func digestEndpoints(d *digest, endpoints []OutboundEndpoint) {
	d.num(uint64(len(endpoints)))
	for _, e := range endpoints {
		d.str(e.Address, e.Locality.Region, e.Locality.Zone, e.Locality.SubZone)
		d.num(uint64(e.Port), uint64(e.Weight))
		d.flag(e.MeshTLS)
	}
}

// compareEndpoints leaves no two different ones equal: the order in which a
// source lists them must not show.
func compareEndpoints(a, b OutboundEndpoint) int {
	return cmp.Or(
		strings.Compare(a.Address, b.Address), int(a.Port)-int(b.Port),
		strings.Compare(a.Locality.Region, b.Locality.Region), strings.Compare(a.Locality.Zone, b.Locality.Zone),
		strings.Compare(a.Locality.SubZone, b.Locality.SubZone), cmp.Compare(a.Weight, b.Weight), compareBool(a.MeshTLS, b.MeshTLS),
	)
}

func (p *OutboundPort) digest(svc *Service, clusterMesh Fingerprint, d *digest) Fingerprint {
	d.sum(clusterMesh)
	d.str(svc.Host, svc.DNSName, p.Name, svc.Key.Kind, svc.Key.Namespace, svc.Key.Name)
	d.num(uint64(svc.Resolution), uint64(p.Number), uint64(p.Protocol))
	d.flag(svc.External)
	p.Upstream.digest(d)
	d.num(uint64(len(p.Subsets)))
	for _, subset := range p.Subsets {
		subset.digest(d)
	}
	return d.done()
}

func (u *Upstream) digest(d *digest) {
	d.str(u.Subset, u.Variant, u.ModesHash)
	d.num(uint64(u.TLS), uint64(len(u.From)))
	d.flag(u.StandIn)
	d.list(u.SANs)
	digestEndpoints(d, u.Endpoints)
	u.Traffic.digest(d)
	for _, key := range u.From {
		d.str(key.Kind, key.Namespace, key.Name)
	}
}

// digest covers what listeners and routes depend on: not the TLS of the port,
// but which endpoints of a headless service need another one.
func (o *OutboundService) digest(d *digest) Fingerprint {
	d.str(o.Key.Kind, o.Key.Namespace, o.Key.Name, o.Host, o.Namespace, o.Name, o.DNSName)
	d.list(o.VIPs)
	d.list(o.exportTo) // nobody else may use domains that it has
	d.num(uint64(o.Resolution), uint64(len(o.Ports)))
	for _, p := range o.Ports {
		d.str(p.Name)
		d.num(uint64(p.Number), uint64(p.Protocol))
		d.flag(p.detours(o.Resolution))
		if o.Resolution == ResolveHeadless || p.detours(o.Resolution) {
			d.flag(p.TLS == ClientMixed)
			digestEndpoints(d, p.Endpoints)
		}
	}
	return d.done()
}

// detours says whether some endpoints have listeners of their own, because
// the cluster takes mesh mTLS and knows no endpoint that does not.
func (p *OutboundPort) detours(r Resolution) bool { return p.TLS == ClientMixed && p.Original(r) }

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

// visible shares one list between all namespaces that see everything, and
// that no rule treats differently.
func (s *Snapshot) visible(namespace string) []*OutboundService {
	all, ok := s.special[namespace]
	if !ok {
		all = s.services
	}
	if !s.scoped {
		return all
	}
	var out []*OutboundService
	for _, svc := range all {
		if svc.ExportedTo(namespace) {
			out = append(out, svc)
		}
	}
	return out
}

// ExportedTo says whether clients of a namespace see the service.
func (o *OutboundService) ExportedTo(namespace string) bool {
	if len(o.exportTo) == 0 {
		return true
	}
	return slices.ContainsFunc(o.exportTo, func(to string) bool {
		return to == "*" || to == namespace || to == "." && namespace == o.Namespace
	})
}

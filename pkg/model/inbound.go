package model

import (
	"slices"
	"strings"
)

// DefaultHTTPProxyPort is the explicit HTTP proxy of workloads without
// capture where the mesh names none (spec mesh-config.md 3).
const DefaultHTTPProxyPort = 15002

// ServerView is what the inbound half of class c depends on; nil if no
// workload has this class any more.
func (s *Snapshot) ServerView(c ServerClass) *ServerView {
	h := s.byShape[shapeKey{c.Namespace, c.Identity, c.Shape}]
	if h == nil {
		return nil
	}
	v := &ServerView{Class: c, Mesh: s.inboundMesh()}
	if c.Type == Sidecar {
		for i, container := range h.containers {
			p := h.inboundPort(container, h.modes[i])
			s.limit(&p, c.Namespace)
			v.Ports = append(v.Ports, p)
		}
		v.ProbePorts = h.probePorts()
		v.Other = h.other
	}
	v.Fingerprint = v.digest()
	return v
}

func (s *Snapshot) inboundMesh() InboundMesh {
	m := InboundMesh{
		InboundListenPort: s.mesh.InboundListenPort,
		HTTPPort:          s.mesh.HTTPPort,
		RefusalReset:      s.mesh.RefusalReset,
		ConnectTimeout:    s.mesh.ConnectTimeout,
		AccessLogFile:     s.mesh.AccessLogFile,
		TrustDomains:      s.mesh.trustDomains(),
	}
	if m.HTTPPort == 0 {
		m.HTTPPort = DefaultHTTPProxyPort
	}
	return m
}

func (m *Mesh) trustDomains() []string {
	return append([]string{m.TrustDomain}, m.TrustDomainAliases...)
}

// servedProtocol is what a container port speaks. If services disagree, the
// oldest decides (spec xds.md 3).
func servedProtocol(pairs []boundPort) Protocol {
	return slices.MinFunc(pairs, func(a, b boundPort) int { return compareServices(a.service, b.service) }).port.Protocol
}

func (h *hosted) inboundPort(container uint16, d Decision) InboundPort {
	p := InboundPort{Port: container, Decision: d}
	for _, probe := range probesOf(h.probes, container) {
		if probe.Path != "" {
			p.Probes = append(p.Probes, probe)
		}
	}
	pairs := h.pairs(container) // sorted by host and service port
	if len(pairs) == 0 {
		p.From = []Key{d.Source}
		return p
	}
	p.Protocol = servedProtocol(pairs)
	p.Host, p.ServicePort = pairs[0].service.Host, pairs[0].port.Number
	for _, pair := range pairs {
		if pair.service.Host == p.Host {
			p.ServicePort = min(p.ServicePort, pair.port.Number)
		}
		if !slices.Contains(p.From, pair.service.Key) {
			p.From = append(p.From, pair.service.Key)
		}
	}
	return p
}

// limit gives the port the connection pool that the clients of its own
// namespace are told for its host.
func (s *Snapshot) limit(p *InboundPort, namespace string) {
	all, ok := s.special[namespace]
	if !ok {
		all = s.services
	}
	i, ok := slices.BinarySearchFunc(all, p.Host, func(o *OutboundService, host string) int { return strings.Compare(o.Host, host) })
	if !ok {
		return
	}
	if out := all[i].At(p.ServicePort); out != nil && out.Traffic.Pool != nil {
		p.Pool = out.Traffic.Pool
		p.From = append(p.From, out.From...)
	}
}

// probePorts are the ports that only probes name, ascending.
func (h *hosted) probePorts() []uint16 {
	var out []uint16
	for _, probe := range h.probes {
		_, named := slices.BinarySearch(h.containers, probe.Port)
		if !named && !slices.Contains(out, probe.Port) {
			out = append(out, probe.Port)
		}
	}
	return out
}

func (v *ServerView) digest() Fingerprint {
	var d digest
	c, m := v.Class, v.Mesh
	d.str(c.Namespace, c.Identity, c.Shape, c.Address, c.Local.CertChain, c.Local.Key, c.Local.RootCert, c.Local.AppAddress)
	d.num(uint64(c.Type), uint64(c.Capture), uint64(m.InboundListenPort), uint64(m.HTTPPort), uint64(m.ConnectTimeout))
	d.flag(m.RefusalReset)
	d.str(m.AccessLogFile)
	d.list(m.TrustDomains)
	d.num(uint64(len(v.Ports)))
	for i := range v.Ports {
		p := &v.Ports[i]
		d.num(uint64(p.Port), uint64(p.Protocol), uint64(p.ServicePort))
		d.str(p.Host)
		p.Decision.digest(&d)
		d.flag(p.Pool != nil)
		p.Pool.digest(&d)
		d.num(uint64(len(p.Probes)))
		for _, probe := range p.Probes {
			d.str(probe.Path)
			d.flag(probe.GRPC)
		}
		d.num(uint64(len(p.From)))
		for _, key := range p.From {
			d.str(key.Kind, key.Namespace, key.Name)
		}
	}
	d.num(uint64(len(v.ProbePorts)))
	for _, port := range v.ProbePorts {
		d.num(uint64(port))
	}
	v.Other.digest(&d)
	return d.done()
}

func (x Decision) digest(d *digest) {
	d.num(uint64(x.Mode), uint64(x.Phase), uint64(x.Rank))
	d.flag(x.StandIn)
	d.str(x.Source.Kind, x.Source.Namespace, x.Source.Name)
}

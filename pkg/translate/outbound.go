package translate

import (
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"github.com/meshpilot/pilot/pkg/model"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// outboundListeners take a captured workload's calls: by original destination,
// HTTP by port, other protocols by address and port.
func outboundListeners(v *model.ClientView, shared *Shared) []*Resource {
	out := []*Resource{catchAllListener(v)}
	taken := map[string]bool{}
	if v.Mesh.HTTPPort != 0 {
		out = append(out, proxyListener("127.0.0.1", v.Mesh.HTTPPort, v.Mesh.AccessLogFile))
		taken[out[1].Name] = true
	}
	ports := map[uint16]*portListener{}
	for _, svc := range v.Services {
		for _, r := range shared.listeners[svc.Topology] {
			if !taken[r.Name] { // two headless services may share a pod
				taken[r.Name] = true
				out = append(out, r)
			}
		}
		for _, p := range svc.Ports {
			sniHost := len(svc.VIPs) == 0 && (p.Protocol == model.HTTPS || p.Protocol == model.TLS) && svc.Resolution != model.ResolveHeadless
			if !p.Protocol.IsHTTP() && !sniHost || p.Number == v.Mesh.ListenPort || p.Number == v.Mesh.InboundPort {
				continue // Envoy takes one listener per address, and needs its own
			}
			l := ports[p.Number]
			if l == nil {
				l = &portListener{port: p.Number}
				ports[p.Number] = l
			}
			if sniHost {
				l.sni = append(l.sni, svc)
			} else {
				l.http = true
			}
			l.from = append(l.from, svc.Key)
		}
	}
	for _, l := range ports {
		out = append(out, l.resource(v))
	}
	return out
}

// catchAllListener gets what no other listener takes.
func catchAllListener(v *model.ClientView) *Resource {
	var b builder
	unknown := passthroughCluster
	if v.Mesh.RegistryOnly {
		unknown = blackHoleCluster
	}
	l := &listenerv3.Listener{
		Name:           virtualOutbound,
		Address:        socketAddress("0.0.0.0", v.Mesh.ListenPort),
		UseOriginalDst: wrapperspb.Bool(true),
		FilterChains: []*listenerv3.FilterChain{
			{
				Name:             chainName(decimal(v.Mesh.ListenPort), "loop"),
				FilterChainMatch: portMatch(v.Mesh.ListenPort),
				Filters:          b.tcpFilters(tcpUse{stat: "outbound_loop", cluster: blackHoleCluster}),
			},
			{Name: "unknown", Filters: b.tcpFilters(tcpUse{stat: "outbound_unknown", cluster: unknown, accessLog: v.Mesh.AccessLogFile})},
		},
		TrafficDirection: corev3.TrafficDirection_OUTBOUND,
	}
	if v.Class.Capture == model.CaptureTProxy {
		l.Transparent = wrapperspb.Bool(true)
	}
	return b.resource(l.Name, l)
}

// proxyListener is the explicit HTTP proxy.
func proxyListener(address string, port uint16, accessLog string) *Resource {
	var b builder
	l := &listenerv3.Listener{
		Name:    listenerName(address, port),
		Address: socketAddress(address, port),
		FilterChains: []*listenerv3.FilterChain{{
			Name:    "http-proxy",
			Filters: b.httpFilters(httpUse{stat: proxyRoute, route: proxyRoute, accessLog: accessLog, proxy: true}),
		}},
		TrafficDirection: corev3.TrafficDirection_OUTBOUND,
	}
	return b.resource(l.Name, l)
}

// unbound is a listener that gets its connections from virtualOutbound.
func unbound(address string, port uint16, chains ...*listenerv3.FilterChain) *listenerv3.Listener {
	return &listenerv3.Listener{
		Name:             listenerName(address, port),
		Address:          socketAddress(address, port),
		BindToPort:       wrapperspb.Bool(false),
		FilterChains:     chains,
		TrafficDirection: corev3.TrafficDirection_OUTBOUND,
	}
}

// portListener is 0.0.0.0_<port>: HTTP by route, and TLS to hosts without an
// address of their own by server name.
type portListener struct {
	port uint16
	http bool
	sni  []*model.OutboundService
	from []model.Key
}

func (p *portListener) resource(v *model.ClientView) *Resource {
	var b builder
	l := unbound("0.0.0.0", p.port)
	stat := "outbound_" + decimal(p.port)
	log := v.Mesh.AccessLogFile
	if p.http {
		l.FilterChains = append(l.FilterChains, &listenerv3.FilterChain{
			Name: "http", Filters: b.httpFilters(httpUse{stat: stat, route: decimal(p.port), accessLog: log}),
		})
	}
	for _, svc := range p.sni {
		l.FilterChains = append(l.FilterChains, &listenerv3.FilterChain{
			Name:             "tls|" + svc.Host,
			FilterChainMatch: &listenerv3.FilterChainMatch{TransportProtocol: "tls", ServerNames: []string{svc.Host}},
			Filters:          b.tcpFilters(tcpUse{stat: stat, cluster: OutboundCluster(p.port, svc.Host), accessLog: log}),
		})
	}
	if len(p.sni) > 0 {
		l.ListenerFilters = []*listenerv3.ListenerFilter{b.tlsInspector(nil)}
		inspected(l)
		unknown := passthroughCluster
		if v.Mesh.RegistryOnly {
			unknown = blackHoleCluster
		}
		rest := &listenerv3.FilterChain{Name: "unknown", Filters: b.tcpFilters(tcpUse{stat: stat, cluster: unknown, accessLog: log})}
		if p.http { // plaintext is HTTP here, so the rest is TLS to other names
			rest.FilterChainMatch = &listenerv3.FilterChainMatch{TransportProtocol: "tls"}
		}
		l.FilterChains = append(l.FilterChains, rest)
	}
	return b.resource(l.Name, l, slices.Compact(p.from)...)
}

// addressListeners are the listeners of a service's own addresses. They are
// the same for every captured class.
func addressListeners(m *model.OutboundMesh, svc *model.OutboundService) []*Resource {
	var out []*Resource
	tcp := func(address string, port uint16, cluster string) {
		var b builder
		name := listenerName(address, port)
		l := unbound(address, port, &listenerv3.FilterChain{Name: "tcp", Filters: b.tcpFilters(tcpUse{stat: "outbound_" + name, cluster: cluster, accessLog: m.AccessLogFile})})
		out = append(out, b.resource(name, l, svc.Key))
	}
	for _, p := range svc.Ports {
		if !p.Protocol.IsHTTP() {
			for _, vip := range svc.VIPs {
				tcp(vip, p.Number, OutboundCluster(p.Number, svc.Host))
			}
		}
		headless := svc.Resolution == model.ResolveHeadless
		detours := p.TLS == model.ClientMixed && p.Original(svc.Resolution)
		if !headless && !detours {
			continue
		}
		for _, e := range p.Endpoints {
			switch {
			case detours && !e.MeshTLS:
				tcp(e.Address, e.Port, outboundName(p.Number, plainSubset, svc.Host))
			case headless && !p.Protocol.IsHTTP():
				tcp(e.Address, e.Port, OutboundCluster(p.Number, svc.Host))
			}
		}
	}
	return out
}

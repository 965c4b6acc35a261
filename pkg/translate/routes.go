package translate

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/meshpilot/pilot/pkg/model"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// outboundRoutes are the routes of a client class: one per HTTP port number,
// or all ports in http_proxy for the explicit proxy.
func outboundRoutes(v *model.ClientView, shared *Shared) []*Resource {
	var out []*Resource
	if v.Class.Capture == model.CaptureNone || v.Mesh.HTTPPort != 0 {
		out = append(out, proxyRoutes(v, shared.hosts))
	}
	if v.Class.Capture == model.CaptureNone {
		return out
	}
	ports := map[uint16][]*model.OutboundService{}
	for _, svc := range v.Services {
		for _, p := range svc.Ports {
			if p.Protocol.IsHTTP() {
				ports[p.Number] = append(ports[p.Number], svc)
			}
		}
	}
	for port, services := range ports {
		out = append(out, portRoutes(v, port, services, shared.hosts))
	}
	return out
}

// proxyRoutes serve the explicit proxy: requests by host and port, CONNECT to
// host:port of any protocol. Without a port it is 80, else the lowest HTTP port.
func proxyRoutes(v *model.ClientView, all *hosts) *Resource {
	var b builder
	config := &routev3.RouteConfiguration{Name: proxyRoute, ValidateClusters: wrapperspb.Bool(false)}
	var from []model.Key
	for _, svc := range v.Services {
		if v.Class.Capture == model.CaptureNone && svc.Resolution == model.ResolveNone && svc.Host[0] == '*' {
			continue // nothing to resolve, so no cluster
		}
		domains := all.domains(v.Class.Namespace, svc, anyPort)
		portless := portlessPort(svc)
		for _, p := range svc.Ports {
			config.VirtualHosts = append(config.VirtualHosts, b.proxyHost(svc, p, domains, p == portless))
		}
		from = append(from, svc.Key)
	}
	config.VirtualHosts = append(config.VirtualHosts, &routev3.VirtualHost{
		Name: "unknown", Domains: []string{"*"},
		Routes: []*routev3.Route{answer(502, "")},
	})
	return b.resource(config.Name, config, from...)
}

func portlessPort(svc *model.OutboundService) *model.OutboundPort {
	var lowest *model.OutboundPort
	for _, p := range svc.Ports { // ascending
		if p.Protocol.IsHTTP() && (lowest == nil || p.Number == 80) {
			lowest = p
		}
	}
	return lowest
}

func (b *builder) proxyHost(svc *model.OutboundService, p *model.OutboundPort, domains []string, portless bool) *routev3.VirtualHost {
	host := &routev3.VirtualHost{Name: svc.Host + ":" + decimal(p.Number)}
	for _, domain := range domains {
		host.Domains = append(host.Domains, domain+":"+decimal(p.Number))
	}
	if portless {
		host.Domains = append(host.Domains, domains...)
	}
	cluster := OutboundCluster(p.Number, svc.Host)
	connect := b.forward(cluster)
	connect.Match = &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_ConnectMatcher_{ConnectMatcher: &routev3.RouteMatch_ConnectMatcher{}}}
	connect.GetRoute().UpgradeConfigs = []*routev3.RouteAction_UpgradeConfig{{
		UpgradeType: "CONNECT", ConnectConfig: &routev3.RouteAction_UpgradeConfig_ConnectConfig{},
	}}
	host.Routes = []*routev3.Route{connect}
	if p.Protocol.IsHTTP() {
		host.Routes = append(host.Routes, b.forward(cluster))
	}
	return host
}

// forward sends every path to cluster, as long as it takes.
func (b *builder) forward(cluster string) *routev3.Route {
	b.clusters = append(b.clusters, cluster)
	return &routev3.Route{Match: anyPath(), Action: &routev3.Route_Route{Route: &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
		Timeout:          durationpb.New(0),
	}}}
}

func anyPath() *routev3.RouteMatch {
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
}

func answer(status uint32, body string) *routev3.Route {
	direct := &routev3.DirectResponseAction{Status: status}
	if body != "" {
		direct.Body = &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: body}}
	}
	return &routev3.Route{Match: anyPath(), Action: &routev3.Route_DirectResponse{DirectResponse: direct}}
}

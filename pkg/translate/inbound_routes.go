package translate

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	bufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/buffer/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/meshpilot/pilot/pkg/model"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// inboundRoutes lead to the application and, where plaintext is refused,
// say why.
func inboundRoutes(v *model.ServerView) []*Resource {
	var out []*Resource
	for i := range v.Ports {
		p := &v.Ports[i]
		if p.Protocol.IsHTTP() {
			var b builder
			out = append(out, b.inboundRoute(inboundName(p.Port, ""), p.From, b.forward(inboundName(p.Port, ""))))
			if name := plainRoute(p); name != inboundName(p.Port, "") && p.Decision.Phase < model.PhaseStrict {
				var plain builder
				routes := append(plain.probeRoutes(p), plain.forward(inboundName(p.Port, "")))
				out = append(out, plain.inboundRoute(name, p.From, routes...))
			}
		}
		if p.Decision.RefusesPlaintext() && answersPlaintext(p, v.Mesh.RefusalReset) {
			var refusal builder
			routes := append(refusal.admitOnly(refusal.probeRoutes(p)), refuse(p, v.Mesh.RefusalReset))
			out = append(out, refusal.inboundRoute(refuseRoute(p.Port), decidedBy(p.From, p.Decision), routes...))
		}
	}
	return out
}

// answersPlaintext says whether plaintext is refused by an answer instead of
// a closed connection: where it is parsed, to explain or to find a probe.
func answersPlaintext(p *model.InboundPort, reset bool) bool {
	if p.Protocol.ServerFirst() {
		return false // its only chain does not look at the bytes
	}
	return len(p.Probes) > 0 || p.Protocol.IsHTTP() && !reset
}

func (b *builder) inboundRoute(name string, from []model.Key, routes ...*routev3.Route) *Resource {
	return b.resource(name, &routev3.RouteConfiguration{
		Name: name, ValidateClusters: wrapperspb.Bool(false),
		VirtualHosts: []*routev3.VirtualHost{{Name: "*", Domains: []string{"*"}, Routes: routes}},
	}, from...)
}

// refuse names the port's mode and who decided. gRPC callers get the text as
// PERMISSION_DENIED: Envoy translates local replies for them.
func refuse(p *model.InboundPort, reset bool) *routev3.Route {
	if reset { // reached where only a probe gets an answer
		return answer(403, "")
	}
	accepts := "only mutual TLS"
	if p.Decision.Mode == model.TLSOnly {
		accepts = "only TLS"
	}
	at := "port " + decimal(p.Port)
	if p.Host != "" {
		at = p.Host + ":" + decimal(p.ServicePort)
	}
	body := "plaintext refused: " + at + " accepts " + accepts +
		" (" + p.Decision.Mode.String() + ", set by " + p.Decision.By() + ")"
	route := answer(403, body)
	route.ResponseHeadersToAdd = []*corev3.HeaderValueOption{
		overwrite("content-type", "text/plain"),
		overwrite("x-mesh-refused", "plaintext"),
	}
	return route
}

func overwrite(header, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: header, Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// probeRoutes take what the port's probes ask for.
func (b *builder) probeRoutes(p *model.InboundPort) []*routev3.Route {
	routes := make([]*routev3.Route, len(p.Probes))
	for i, probe := range p.Probes {
		if !probe.GRPC {
			routes[i] = b.forward(inboundName(p.Port, ""))
			routes[i].Name, routes[i].Match = RouteProbe, exactly("GET", probe.Path)
			continue
		}
		cluster := inboundName(p.Port, "")
		if probesBeside(p) {
			cluster = inboundName(p.Port, grpcProbeUse)
		}
		routes[i] = b.forward(cluster)
		routes[i].Name, routes[i].Match = RouteProbe, exactly("POST", probe.Path)
		routes[i].Match.Grpc = &routev3.RouteMatch_GrpcRouteMatchOptions{}
	}
	return routes
}

// admitOnly closes what could carry another request past the match of method
// and path: a body of a GET, an upgrade, and the headers by which frameworks
// replace method or path. A body of unknown length has no header to match, but
// is at most one byte; only what HTTP/2 sends at once gets past that, framed
// anew as the probe's own.
func (b *builder) admitOnly(routes []*routev3.Route) []*routev3.Route {
	for _, route := range routes {
		if route.Match.Grpc == nil {
			route.GetRoute().UpgradeConfigs = []*routev3.RouteAction_UpgradeConfig{{UpgradeType: "websocket", Enabled: wrapperspb.Bool(false)}}
			route.Match.Headers = append(route.Match.Headers, &routev3.HeaderMatcher{
				Name: "content-length", InvertMatch: true, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true},
			})
			route.TypedPerFilterConfig = map[string]*anypb.Any{bufferFilter: b.marshal(&bufferv3.BufferPerRoute{
				Override: &bufferv3.BufferPerRoute_Buffer{Buffer: maxBody(1)},
			})}
		}
		route.RequestHeadersToRemove = []string{"x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"}
	}
	return routes
}

const bufferFilter = "envoy.filters.http.buffer"

func maxBody(bytes uint32) *bufferv3.Buffer {
	return &bufferv3.Buffer{MaxRequestBytes: wrapperspb.UInt32(bytes)}
}

func exactly(verb, path string) *routev3.RouteMatch {
	return &routev3.RouteMatch{
		PathSpecifier: &routev3.RouteMatch_Path{Path: path},
		Headers: []*routev3.HeaderMatcher{{Name: ":method", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{
			StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: verb}},
		}}},
	}
}

package simulate

import (
	"net"
	"strconv"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/meshpilot/pilot/pkg/translate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// hop is a connection from the client side to one endpoint.
type hop struct {
	address           string
	port              uint16
	sent              Sent
	sni               string
	alpn              []string
	identity          string                         // that the certificate proves; empty: none of the mesh
	accepts           []*tlsv3.SubjectAltNameMatcher // of the server; none: any
	root              string                         // secret with the roots that verify the server; empty: any
	listener, cluster string
}

// send walks the caller's sidecar: listener, route, cluster, endpoints. It
// gives hops, or the answer that the sidecar itself gives.
func (p *Peer) send(c Call) ([]hop, *Outcome) {
	listener := p.outboundListener(c)
	if listener == nil {
		o := c.failed(Outcome{Why: "no listener takes the call"})
		return nil, &o
	}
	cluster, ended := p.outboundCluster(c, listener)
	if ended != nil {
		ended.Listener = listener.Name
		return nil, ended
	}
	if parts := strings.Split(cluster, "|"); c.Subset != "" && len(parts) == 4 {
		parts[2] = c.Subset
		cluster = strings.Join(parts, "|")
	}
	hops, why := p.endpoints(c, cluster)
	for i := range hops {
		hops[i].listener, hops[i].cluster = listener.Name, cluster
	}
	if why != "" {
		o := c.failed(Outcome{Listener: listener.Name, Cluster: cluster, Why: why})
		return nil, &o
	}
	return hops, nil
}

// outboundListener is the one of the destination, of its port, or the one
// that takes the rest; without capture, the explicit proxy.
func (p *Peer) outboundListener(c Call) *listenerv3.Listener {
	x := p.outbound()
	switch {
	case x.byAddress[socket{c.Address, c.Port}] != nil:
		return x.byAddress[socket{c.Address, c.Port}]
	case x.byPort[c.Port] != nil:
		return x.byPort[c.Port]
	case x.rest != nil:
		return x.rest
	default:
		return x.proxy
	}
}

func (p *Peer) outboundCluster(c Call, l *listenerv3.Listener) (string, *Outcome) {
	arrival := connection{port: c.Port, transport: "raw_buffer"}
	if c.Protocol == HTTPS {
		arrival = connection{port: c.Port, transport: "tls", serverName: c.Host}
	}
	chain := arrival.chain(l.FilterChains)
	if chain == nil {
		o := c.failed(Outcome{Why: "no filter chain of " + l.Name + " matches"})
		return "", &o
	}
	hcm, tcp := p.filter(chain)
	if tcp != nil {
		return tcp.GetCluster(), nil
	}
	if !c.http() && hcm.GetRds().RouteConfigName != "http_proxy" {
		o := c.failed(Outcome{Why: l.Name + " expects HTTP"})
		return "", &o
	}
	route := find[*routev3.RouteConfiguration](p, translate.RouteType, hcm.GetRds().RouteConfigName)
	action := p.routeFor(route, c)
	switch {
	case action == nil:
		return "", &Outcome{Result: "404", Why: "no route for " + c.Host}
	case action.GetDirectResponse() != nil:
		direct := action.GetDirectResponse()
		return "", &Outcome{Result: strconv.Itoa(int(direct.Status)), Body: direct.Body.GetInlineString(), Why: "no service " + c.Host + " is known"}
	default:
		return action.GetRoute().GetCluster(), nil
	}
}

// routeFor picks the virtual host by authority, and of its routes the one for
// requests or for CONNECT.
func (p *Peer) routeFor(config *routev3.RouteConfiguration, c Call) *routev3.Route {
	if config == nil {
		return nil
	}
	best := p.decoder().hostsOf(config).find(strings.ToLower(net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))))
	if best == nil {
		return nil
	}
	for _, route := range best.Routes {
		if connect := route.Match.GetConnectMatcher() != nil; connect == !c.http() {
			return route
		}
		if route.Match.GetConnectMatcher() == nil && route.GetDirectResponse() != nil {
			return route
		}
	}
	return nil
}

// endpoints are the hops of a cluster with what each is sent.
func (p *Peer) endpoints(c Call, name string) ([]hop, string) {
	cluster := find[*clusterv3.Cluster](p, translate.ClusterType, name)
	if cluster == nil {
		return nil, "cluster " + name + " does not exist"
	}
	assignment := cluster.LoadAssignment
	switch cluster.GetType() {
	case clusterv3.Cluster_ORIGINAL_DST:
		h := hop{address: c.Address, port: c.Port}
		h.secure(c, p, cluster, nil)
		return []hop{h}, ""
	case clusterv3.Cluster_EDS:
		assignment = find[*endpointv3.ClusterLoadAssignment](p, translate.EndpointType, cluster.EdsClusterConfig.ServiceName)
	}
	var out []hop
	for _, group := range assignment.GetEndpoints() {
		for _, e := range group.LbEndpoints {
			address := e.GetEndpoint().GetAddress().GetSocketAddress()
			h := hop{address: address.GetAddress(), port: uint16(address.GetPortValue())}
			h.secure(c, p, cluster, e.Metadata)
			out = append(out, h)
		}
	}
	if len(out) == 0 {
		return nil, "cluster " + name + " has no endpoints"
	}
	return out, ""
}

// secure chooses the transport socket: of the first match that the endpoint's
// metadata satisfies, else the cluster's own.
func (h *hop) secure(c Call, from *Peer, cluster *clusterv3.Cluster, metadata *corev3.Metadata) {
	h.sent = c.raw()
	socket := cluster.TransportSocket
	fields := metadata.GetFilterMetadata()["envoy.transport_socket_match"]
	for _, match := range cluster.TransportSocketMatches {
		if satisfies(fields, match.Match) {
			socket = match.TransportSocket
			break
		}
	}
	context := within[*tlsv3.UpstreamTlsContext](from.decoder(), socket.GetTypedConfig())
	if context == nil {
		return
	}
	h.sent = SimpleTLS
	for _, cert := range context.CommonTlsContext.TlsCertificateSdsSecretConfigs {
		h.sent, h.identity = from.certificate(cert.Name)
	}
	h.sni = context.Sni
	h.alpn = context.CommonTlsContext.AlpnProtocols
	check := context.CommonTlsContext.GetCombinedValidationContext()
	h.accepts = check.GetDefaultValidationContext().GetMatchTypedSubjectAltNames()
	h.root = check.GetValidationContextSdsSecretConfig().GetName()
}

// certificate is what a client certificate makes of a connection. A file of a
// rule may well be the mesh's own.
func (p *Peer) certificate(name string) (Sent, string) {
	if name == "default" {
		return MeshTLS, p.Identity
	}
	file := func(name string) string {
		secret := find[*tlsv3.Secret](p, translate.SecretType, name)
		return plainly(secret.GetTlsCertificate().GetCertificateChain().GetFilename())
	}
	if file(name) != "" && file(name) == file("default") {
		return MutualTLS, p.Identity
	}
	return MutualTLS, ""
}

func satisfies(have, want *structpb.Struct) bool {
	for key, value := range want.GetFields() {
		if !proto.Equal(have.GetFields()[key], value) {
			return false
		}
	}
	return true
}

package simulate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/meshpilot/pilot/pkg/translate"
)

// arrive walks the server side: its sidecar's chains, or the application.
func (m *Mesh) arrive(c Call, from *Peer, h hop) Outcome {
	o := Outcome{Endpoint: socket{h.address, h.port}.String(), Sent: h.sent, TLS: h.tls(), Listener: h.listener, Cluster: h.cluster}
	server := m.at(h.address)
	if server == nil {
		if h.cluster == "" || h.sent == MeshTLS {
			o.Why = "nobody of the mesh is at " + h.address
			return c.failed(o)
		}
		return c.worked(o) // outside the mesh: taken to answer
	}
	if bare := server.Config == nil; bare || !server.inbound.Has(h.port) {
		if h.sent == MeshTLS {
			o.Why = "mesh mTLS to " + server.ID.String() + ", which has no sidecar"
			if !bare {
				o.Why += " at this port"
			}
			return c.failed(o)
		}
		return m.answer(c, from, h, server, o)
	}
	return m.receive(c, from, h, server, o)
}

// answer is what the application at the server says to a connection that no
// sidecar ends.
func (m *Mesh) answer(c Call, from *Peer, h hop, server *Peer, o Outcome) Outcome {
	o.Why = cmp.Or(m.verify(c, from, h, server, false), c.refuses(h, false))
	if o.Why != "" {
		return c.failed(o)
	}
	return c.worked(o)
}

func (m *Mesh) receive(c Call, from *Peer, h hop, p *Peer, o Outcome) Outcome {
	listener := p.inboundListener(h.port)
	if listener == nil {
		o.Why = "no listener of " + p.ID.String() + " takes port " + fmt.Sprint(h.port)
		return c.failed(o)
	}
	arrival := connection{port: h.port, transport: "raw_buffer"}
	if h.sent != Plaintext {
		arrival.transport, arrival.alpn = "tls", h.alpn
	}
	if serverFirst(listener, h.port) { // nobody looks at the first bytes
		arrival.transport, arrival.alpn = "raw_buffer", nil
	}
	chain := arrival.chain(listener.FilterChains)
	if chain == nil {
		o.Why = "no filter chain of " + p.ID.String() + " takes it"
		return c.failed(o)
	}
	o.Chain = chain.Name
	if o.Why = cmp.Or(m.verify(c, from, h, p, chain.TransportSocket != nil), handshake(chain, h, p)); o.Why != "" {
		return c.failed(o)
	}
	return p.serve(c, h, chain, o)
}

// serve is what the chain's filters do with the bytes of the application.
func (p *Peer) serve(c Call, h hop, chain *listenerv3.FilterChain, o Outcome) Outcome {
	hcm, tcp := p.filter(chain)
	unread := c.refuses(h, chain.TransportSocket != nil)
	if tcp != nil {
		if strings.HasPrefix(tcp.GetCluster(), "inbound|") || tcp.GetCluster() == "InboundPassthroughCluster" {
			if chain.TransportSocket == nil && h.sent == MeshTLS {
				o.Why = "mesh mTLS reaches the application of " + p.ID.String() + ", whose sidecar does not end it"
				return c.failed(o)
			}
			if o.Why = unread; unread != "" {
				return c.failed(o)
			}
			return c.worked(o)
		}
		o.Why = p.ID.String() + " refuses plaintext"
		return c.failed(o)
	}
	// TLS of the application that the sidecar ends has HTTP in it.
	if ended := h.sent == AppTLS && chain.TransportSocket != nil; !c.http() && !(ended && c.Protocol == HTTPS) {
		o.Why = p.ID.String() + " expects HTTP"
		return c.failed(o)
	}
	path, ok := normalize(hcm, c.path())
	if !ok {
		o.Result, o.Why = "400", p.ID.String()+" rejects the path"
		return o
	}
	config := find[*routev3.RouteConfiguration](p, translate.RouteType, hcm.GetRds().RouteConfigName)
	route := inboundRoute(config, c, path)
	if direct := route.GetDirectResponse(); direct != nil {
		o.Result, o.Body = fmt.Sprint(direct.Status), direct.Body.GetInlineString()
		o.Why = p.ID.String() + " refuses plaintext"
		return o
	}
	if find[*clusterv3.Cluster](p, translate.ClusterType, route.GetRoute().GetCluster()) == nil {
		o.Result, o.Why = "503", p.ID.String()+" has no route to its application"
		return o
	}
	if unread != "" {
		o.Result, o.Why = "503", unread
		return o
	}
	o.Path = path
	return c.worked(o)
}

// handshake checks the client's certificate; empty if the chain has no TLS of
// its own, or takes it.
func handshake(chain *listenerv3.FilterChain, h hop, server *Peer) string {
	context := within[*tlsv3.DownstreamTlsContext](server.decoder(), chain.TransportSocket.GetTypedConfig())
	if context == nil {
		return ""
	}
	if h.sent == Plaintext {
		return "plaintext where " + server.ID.String() + " expects a TLS handshake"
	}
	identity := h.identity
	switch required := context.RequireClientCertificate.GetValue(); {
	case h.sent == MutualTLS && identity == "":
		return server.ID.String() + " does not accept a certificate of another authority"
	case identity == "" && required:
		return server.ID.String() + " wants a client certificate of the mesh"
	case identity == "":
		return ""
	}
	sans := context.CommonTlsContext.GetCombinedValidationContext().GetDefaultValidationContext().GetMatchTypedSubjectAltNames()
	if len(sans) > 0 && !matches(sans, identity) {
		return server.ID.String() + " does not accept " + identity
	}
	return ""
}

func matches(sans []*tlsv3.SubjectAltNameMatcher, identity string) bool {
	return slices.ContainsFunc(sans, func(m *tlsv3.SubjectAltNameMatcher) bool {
		if exact := m.Matcher.GetExact(); exact != "" {
			return exact == identity
		}
		if suffix := m.Matcher.GetSuffix(); suffix != "" {
			return strings.HasSuffix(identity, suffix)
		}
		return m.Matcher.GetPrefix() != "" && strings.HasPrefix(identity, m.Matcher.GetPrefix())
	})
}

// tls is what a hop in TLS of the sidecar asks of the server.
func (h hop) tls() TLS {
	if !h.ownTLS() {
		return TLS{}
	}
	t := TLS{SNI: h.sni, ALPN: h.alpn}
	for _, san := range h.accepts {
		m := san.Matcher
		switch {
		case m.GetExact() != "":
			t.Accepts = append(t.Accepts, m.GetExact())
		case m.GetSuffix() != "":
			t.Accepts = append(t.Accepts, "*"+m.GetSuffix())
		default:
			t.Accepts = append(t.Accepts, m.GetPrefix()+"*")
		}
	}
	return t
}

func (p *Peer) inboundListener(port uint16) *listenerv3.Listener {
	for _, r := range p.Config.Server.Listeners.Resources {
		l := decode[*listenerv3.Listener](p.decoder(), r)
		if l == nil || l.TrafficDirection != corev3.TrafficDirection_INBOUND {
			continue
		}
		if l.Name == "virtualInbound" || l.Address.GetSocketAddress().GetPortValue() == uint32(port) {
			return l
		}
	}
	return nil
}

func serverFirst(l *listenerv3.Listener, port uint16) bool {
	for _, f := range l.ListenerFilters {
		if f.Name != "envoy.filters.listener.tls_inspector" {
			continue
		}
		rules := f.FilterDisabled.GetOrMatch().GetRules()
		if f.FilterDisabled != nil && rules == nil {
			rules = []*listenerv3.ListenerFilterChainMatchPredicate{f.FilterDisabled}
		}
		return slices.ContainsFunc(rules, func(r *listenerv3.ListenerFilterChainMatchPredicate) bool {
			return r.GetDestinationPortRange().GetStart() == int32(port)
		})
	}
	return true // no inspector at all
}

// connection is what a listener knows of a connection when it picks a chain.
type connection struct {
	port                  uint16
	transport, serverName string
	alpn                  []string
}

// chain narrows step by step, as Envoy does: port, server name, transport,
// ALPN. A step that leaves chains is not taken back.
func (c connection) chain(chains []*listenerv3.FilterChain) *listenerv3.FilterChain {
	chains = narrow(chains, func(m *listenerv3.FilterChainMatch) (bool, bool) {
		return m.GetDestinationPort() != nil, m.GetDestinationPort().GetValue() == uint32(c.port)
	})
	chains = narrow(chains, func(m *listenerv3.FilterChainMatch) (bool, bool) {
		return len(m.GetServerNames()) > 0, slices.ContainsFunc(m.GetServerNames(), func(name string) bool {
			suffix, wild := strings.CutPrefix(name, "*")
			return name == c.serverName || wild && strings.HasSuffix(c.serverName, suffix)
		})
	})
	chains = narrow(chains, func(m *listenerv3.FilterChainMatch) (bool, bool) {
		return m.GetTransportProtocol() != "", m.GetTransportProtocol() == c.transport
	})
	chains = narrow(chains, func(m *listenerv3.FilterChainMatch) (bool, bool) {
		return len(m.GetApplicationProtocols()) > 0, slices.ContainsFunc(m.GetApplicationProtocols(), func(token string) bool {
			return slices.Contains(c.alpn, token)
		})
	})
	if len(chains) == 0 {
		return nil
	}
	return chains[0]
}

// narrow keeps the chains that state the criterion and match it; if none
// does, those that do not state it.
func narrow(chains []*listenerv3.FilterChain, test func(*listenerv3.FilterChainMatch) (stated, matched bool)) []*listenerv3.FilterChain {
	var specific, general []*listenerv3.FilterChain
	for _, chain := range chains {
		switch stated, matched := test(chain.FilterChainMatch); {
		case stated && matched:
			specific = append(specific, chain)
		case !stated:
			general = append(general, chain)
		}
	}
	if len(specific) > 0 {
		return specific
	}
	return general
}

func (p *Peer) filter(chain *listenerv3.FilterChain) (*hcmv3.HttpConnectionManager, *tcpv3.TcpProxy) {
	config := chain.Filters[0].GetTypedConfig()
	if hcm := within[*hcmv3.HttpConnectionManager](p.decoder(), config); hcm != nil {
		return hcm, nil
	}
	if tcp := within[*tcpv3.TcpProxy](p.decoder(), config); tcp != nil {
		return nil, tcp
	}
	return nil, &tcpv3.TcpProxy{}
}

package translate

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"github.com/meshpilot/pilot/pkg/model"
	"google.golang.org/protobuf/types/known/durationpb"
)

// chainKind is a filter chain of a port (spec xds.md 5). Its name is part of
// what a connection hangs on: it never changes with the mode.
type chainKind string

const (
	chainMTLS    chainKind = "mtls"     // TLS with the mesh's ALPN
	chainMTLSAny chainKind = "mtls-any" // mesh certificate without the ALPN
	chainTLS     chainKind = "tls"      // any TLS, ended here
	chainAppTLS  chainKind = "app-tls"  // the application's own TLS, untouched
	chainPlain   chainKind = "plain"
	chainRefuse  chainKind = "refuse"
	chainProbe   chainKind = "probe" // a port that only probes name: any bytes
)

// chainKinds is the table of phases and chains; the last phase differs by
// mode. A server-first port has no inspector, so one chain that takes all.
func chainKinds(d model.Decision, serverFirst bool) []chainKind {
	tls := chainMTLSAny
	if d.Mode == model.TLSOnly {
		tls = chainTLS
	}
	switch {
	case serverFirst && d.Phase < model.PhaseStrict:
		return []chainKind{chainPlain}
	case serverFirst && d.Mode == model.TLSOnly:
		return []chainKind{chainTLS}
	case serverFirst:
		return []chainKind{chainMTLS}
	}
	switch d.Phase {
	case model.PhaseOpened, model.PhaseMoved:
		return []chainKind{chainMTLS, chainAppTLS, chainPlain}
	case model.PhaseGrace: // refuse is more specific than plain, which keeps its connections
		return []chainKind{chainMTLS, chainAppTLS, chainPlain, chainRefuse}
	case model.PhaseStrict:
		return []chainKind{chainMTLS, tls, chainRefuse}
	default:
		return []chainKind{chainAppTLS, chainPlain}
	}
}

// chainSpec is a port whose chains are wanted; port is nil for those that
// nothing names.
type chainSpec struct {
	view     *model.ServerView
	port     *model.InboundPort
	match    *listenerv3.FilterChainMatch // what all its chains match
	decision model.Decision
}

func (s chainSpec) http() bool        { return s.port != nil && s.port.Protocol.IsHTTP() }
func (s chainSpec) serverFirst() bool { return s.port != nil && s.port.Protocol.ServerFirst() }

// scope begins the names of the port's chains and stats.
func (s chainSpec) scope() string {
	if s.port == nil {
		return otherScope
	}
	return decimal(s.port.Port)
}

// cluster leads a TCP proxy to the application. What is not mesh mTLS has its
// own, so that its gauge shows when the last such connection is gone.
func (s chainSpec) cluster(kind chainKind) string {
	open := kind == chainPlain || kind == chainAppTLS
	switch {
	case s.port == nil && open:
		return openPassthroughCluster
	case s.port == nil:
		return inboundPassthroughCluster
	case open:
		return inboundName(s.port.Port, plainUse)
	default:
		return inboundName(s.port.Port, "")
	}
}

func (b *builder) chains(s chainSpec) []*listenerv3.FilterChain {
	kinds := chainKinds(s.decision, s.serverFirst())
	out := make([]*listenerv3.FilterChain, len(kinds))
	for i, kind := range kinds {
		out[i] = &listenerv3.FilterChain{
			Name:             chainName(s.scope(), string(kind)),
			FilterChainMatch: s.chainMatch(kind),
			TransportSocket:  b.chainSocket(s, kind),
			Filters:          b.chainFilters(s, kind),
		}
		if out[i].TransportSocket != nil {
			out[i].TransportSocketConnectTimeout = durationpb.New(handshakeTimeout)
		}
	}
	return out
}

func (s chainSpec) chainMatch(kind chainKind) *listenerv3.FilterChainMatch {
	m := &listenerv3.FilterChainMatch{DestinationPort: s.match.DestinationPort}
	if s.serverFirst() {
		return m
	}
	switch kind {
	case chainMTLS:
		m.TransportProtocol = "tls"
		m.ApplicationProtocols = meshALPN()
	case chainMTLSAny, chainTLS, chainAppTLS:
		m.TransportProtocol = "tls"
	case chainRefuse:
		m.TransportProtocol = "raw_buffer"
	}
	return m
}

func (b *builder) chainSocket(s chainSpec, kind chainKind) *corev3.TransportSocket {
	switch kind {
	case chainMTLS, chainMTLSAny:
		return b.meshServerTLS(s.view.Mesh.TrustDomains, s.http())
	case chainTLS:
		return b.openServerTLS(s.http())
	default:
		return nil
	}
}

// probeChain takes any bytes at a port that only probes name.
func (b *builder) probeChain(port uint16, log string) *listenerv3.FilterChain {
	return &listenerv3.FilterChain{
		Name:             chainName(decimal(port), string(chainProbe)),
		FilterChainMatch: portMatch(port),
		Filters:          b.tcpFilters(tcpUse{stat: statPrefix(decimal(port), chainProbe), cluster: inboundPassthroughCluster, accessLog: log}),
	}
}

// chainFilters are the same bytes whatever the port's mode: what is open when
// the mode changes hangs on them.
func (b *builder) chainFilters(s chainSpec, kind chainKind) []*listenerv3.Filter {
	log := s.view.Mesh.AccessLogFile
	stat := statPrefix(s.scope(), kind)
	evidence := s.evidenceLog(kind)
	switch {
	case kind == chainRefuse && s.port != nil && answersPlaintext(s.port, s.view.Mesh.RefusalReset):
		return b.httpFilters(httpUse{stat: stat, route: refuseRoute(s.port.Port), accessLog: log, evidence: evidence, exactPath: len(s.port.Probes) > 0})
	case kind == chainRefuse:
		return b.tcpFilters(tcpUse{stat: stat, cluster: refuseCluster, accessLog: log, evidence: evidence})
	case s.http() && kind == chainPlain:
		return b.httpFilters(httpUse{stat: stat, route: plainRoute(s.port), accessLog: log, evidence: evidence})
	case s.http() && kind != chainAppTLS:
		return b.httpFilters(httpUse{stat: stat, route: inboundName(s.port.Port, ""), accessLog: log, peerURI: true})
	default:
		return b.tcpFilters(tcpUse{stat: stat, cluster: s.cluster(kind), accessLog: log, evidence: evidence})
	}
}

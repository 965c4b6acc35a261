package translate

import (
	"net/netip"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/meshpilot/pilot/pkg/model"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	// inspectTimeout bounds how long a silent client is waited for; Envoy's
	// default would close it after 15 s.
	inspectTimeout = 500 * time.Millisecond
	// handshakeTimeout closes a plaintext client that waits for a server-first
	// application behind a STRICT port.
	handshakeTimeout = 5 * time.Second
)

// InboundListeners are the listeners of the view's server half.
func InboundListeners(v *model.ServerView) []*Resource {
	if v.Class.Type != model.Sidecar {
		return nil
	}
	return inboundListeners(v)
}

// InboundListener is the name of the listener that serves a port, where 0 is
// all ports that nothing names; empty: none does.
func InboundListener(v *model.ServerView, port uint16) string {
	switch {
	case v.Class.Capture != model.CaptureNone:
		return virtualInbound
	case port == 0:
		return ""
	default:
		return listenerName(v.Class.Address, port)
	}
}

// inboundListeners serve a workload's ports: one captured listener, or, without
// capture, one bound listener for each port and the explicit HTTP proxy.
func inboundListeners(v *model.ServerView) []*Resource {
	if v.Class.Capture == model.CaptureNone {
		out := []*Resource{proxyListener(proxyAddress(v.Class.Address), v.Mesh.HTTPPort, v.Mesh.AccessLogFile)}
		for i := range v.Ports {
			out = append(out, boundListener(v, &v.Ports[i]))
		}
		return out
	}
	return []*Resource{capturedListener(v)}
}

// proxyAddress is loopback only: elsewhere the proxy would lend the workload's
// identity to others.
func proxyAddress(own string) string {
	if a, err := netip.ParseAddr(own); err == nil && a.IsLoopback() {
		return own
	}
	return "127.0.0.1"
}

// capturedListener differs between modes in its filter chains only, so a mode
// change is an in-place update that cuts nothing.
func capturedListener(v *model.ServerView) *Resource {
	var b builder
	var serverFirst []uint16
	from := make([]model.Key, 0, len(v.Ports))
	chains := []*listenerv3.FilterChain{{
		Name:             chainName(decimal(v.Mesh.InboundListenPort), "loop"),
		FilterChainMatch: portMatch(v.Mesh.InboundListenPort),
		Filters:          b.tcpFilters(tcpUse{stat: "inbound_loop", cluster: blackHoleCluster}),
	}}
	for i := range v.Ports {
		p := &v.Ports[i]
		if p.Port == v.Mesh.InboundListenPort {
			continue // the loop's; Envoy refuses a listener with one match twice
		}
		if p.Protocol.ServerFirst() {
			serverFirst = append(serverFirst, p.Port)
		}
		for _, key := range decidedBy(p.From, p.Decision) {
			if !slices.Contains(from, key) {
				from = append(from, key)
			}
		}
		chains = append(chains, b.chains(chainSpec{view: v, port: p, match: portMatch(p.Port), decision: p.Decision})...)
	}
	for _, port := range v.ProbePorts {
		if port != v.Mesh.InboundListenPort {
			chains = append(chains, b.probeChain(port, v.Mesh.AccessLogFile))
		}
	}
	chains = append(chains, b.chains(chainSpec{view: v, match: &listenerv3.FilterChainMatch{}, decision: v.Other})...)
	listener := &listenerv3.Listener{
		Name:    virtualInbound,
		Address: socketAddress("0.0.0.0", v.Mesh.InboundListenPort),
		ListenerFilters: []*listenerv3.ListenerFilter{
			{Name: "envoy.filters.listener.original_dst", ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: b.marshal(&originaldstv3.OriginalDst{})}},
			b.tlsInspector(serverFirst),
		},
		FilterChains: chains,
	}
	if v.Class.Capture == model.CaptureTProxy {
		listener.Transparent = wrapperspb.Bool(true)
	}
	inboundShell(listener)
	return b.resource(listener.Name, listener, decidedBy(from, v.Other)...)
}

// decidedBy adds to the objects behind chains the one that decided the mode.
func decidedBy(from []model.Key, d model.Decision) []model.Key {
	if d.Source == (model.Key{}) || slices.Contains(from, d.Source) {
		return from
	}
	return append(slices.Clip(from), d.Source)
}

func boundListener(v *model.ServerView, p *model.InboundPort) *Resource {
	var b builder
	listener := &listenerv3.Listener{
		Name:         listenerName(v.Class.Address, p.Port),
		Address:      socketAddress(v.Class.Address, p.Port),
		FilterChains: b.chains(chainSpec{view: v, port: p, match: &listenerv3.FilterChainMatch{}, decision: p.Decision}),
	}
	if !p.Protocol.ServerFirst() {
		listener.ListenerFilters = []*listenerv3.ListenerFilter{b.tlsInspector(nil)}
	}
	inboundShell(listener)
	return b.resource(listener.Name, listener, decidedBy(p.From, p.Decision)...)
}

func inboundShell(l *listenerv3.Listener) {
	inspected(l)
	l.TrafficDirection = corev3.TrafficDirection_INBOUND
}

func inspected(l *listenerv3.Listener) {
	l.ListenerFiltersTimeout = durationpb.New(inspectTimeout)
	l.ContinueOnListenerFiltersTimeout = true
}

func portMatch(port uint16) *listenerv3.FilterChainMatch {
	return &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(uint32(port))}
}

// tlsInspector leaves ports alone whose server speaks first: there is nothing
// to wait for. Which those are goes by protocol, never by mode.
func (b *builder) tlsInspector(except []uint16) *listenerv3.ListenerFilter {
	f := &listenerv3.ListenerFilter{
		Name:       "envoy.filters.listener.tls_inspector",
		ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: b.marshal(&inspectorv3.TlsInspector{})},
	}
	var rules []*listenerv3.ListenerFilterChainMatchPredicate
	for _, port := range except {
		rules = append(rules, &listenerv3.ListenerFilterChainMatchPredicate{
			Rule: &listenerv3.ListenerFilterChainMatchPredicate_DestinationPortRange{
				DestinationPortRange: &typev3.Int32Range{Start: int32(port), End: int32(port) + 1},
			},
		})
	}
	switch len(rules) {
	case 0:
	case 1:
		f.FilterDisabled = rules[0]
	default:
		f.FilterDisabled = &listenerv3.ListenerFilterChainMatchPredicate{
			Rule: &listenerv3.ListenerFilterChainMatchPredicate_OrMatch{
				OrMatch: &listenerv3.ListenerFilterChainMatchPredicate_MatchSet{Rules: rules},
			},
		}
	}
	return f
}

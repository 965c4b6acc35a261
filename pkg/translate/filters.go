package translate

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	filelogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// httpUse is what differs between the HTTP connection managers.
type httpUse struct {
	stat      string
	route     string
	accessLog string
	evidence  string // name of the log that the control plane gets, if any
	peerURI   bool   // tell the application who the mTLS peer is
	proxy     bool   // explicit proxy: absolute URLs and CONNECT
	exactPath bool   // a path decides who gets in, so it must mean the same to the application
}

// httpFilters is the network filter chain of every HTTP connection.
func (b *builder) httpFilters(use httpUse) []*listenerv3.Filter {
	b.routes = append(b.routes, use.route)
	hcm := &hcmv3.HttpConnectionManager{
		StatPrefix: use.stat,
		CodecType:  hcmv3.HttpConnectionManager_AUTO,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{
			Rds: &hcmv3.Rds{ConfigSource: adsSource(), RouteConfigName: use.route},
		},
		HttpFilters: []*hcmv3.HttpFilter{
			{Name: "envoy.filters.http.router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: b.marshal(&routerv3.Router{})}},
		},
		UpgradeConfigs:           []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		UseRemoteAddress:         wrapperspb.Bool(false),
		NormalizePath:            wrapperspb.Bool(true),
		StreamIdleTimeout:        durationpb.New(0), // a quiet stream is not a dead one
		AccessLog:                b.accessLog(use.accessLog),
		ForwardClientCertDetails: hcmv3.HttpConnectionManager_SANITIZE,
	}
	b.httpEvidence(hcm, use.evidence)
	if use.peerURI {
		hcm.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
		hcm.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{Uri: true}
	}
	if use.exactPath {
		hcm.MergeSlashes = true
		hcm.PathWithEscapedSlashesAction = hcmv3.HttpConnectionManager_REJECT_REQUEST
		hcm.HttpFilters = append([]*hcmv3.HttpFilter{{
			Name: bufferFilter, Disabled: true, // except by route
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: b.marshal(maxBody(1))},
		}}, hcm.HttpFilters...)
	}
	if use.proxy {
		hcm.UpgradeConfigs = append(hcm.UpgradeConfigs, &hcmv3.HttpConnectionManager_UpgradeConfig{UpgradeType: "CONNECT"})
		hcm.HttpProtocolOptions = &corev3.Http1ProtocolOptions{AllowAbsoluteUrl: wrapperspb.Bool(true)}
		hcm.Http2ProtocolOptions = &corev3.Http2ProtocolOptions{AllowConnect: true}
	}
	return []*listenerv3.Filter{networkFilter("envoy.filters.network.http_connection_manager", b.marshal(hcm))}
}

// tcpUse is what differs between the TCP proxies.
type tcpUse struct {
	stat      string
	cluster   string
	accessLog string
	evidence  string // name of the log that the control plane gets, if any
}

// tcpFilters is the network filter chain of every TCP connection.
func (b *builder) tcpFilters(use tcpUse) []*listenerv3.Filter {
	b.clusters = append(b.clusters, use.cluster)
	proxy := &tcpv3.TcpProxy{
		StatPrefix:       use.stat,
		ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: use.cluster},
		AccessLog:        b.accessLog(use.accessLog),
	}
	b.tcpEvidence(proxy, use.evidence)
	return []*listenerv3.Filter{networkFilter("envoy.filters.network.tcp_proxy", b.marshal(proxy))}
}

func networkFilter(name string, config *anypb.Any) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: config}}
}

// accessLog tells of what is over. Where evidence makes Envoy log earlier as
// well, that is not for the file.
func (b *builder) accessLog(file string) []*accesslogv3.AccessLog {
	if file == "" {
		return nil
	}
	return []*accesslogv3.AccessLog{{
		Name:       "envoy.access_loggers.file",
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: b.marshal(&filelogv3.FileAccessLog{Path: file})},
	}}
}

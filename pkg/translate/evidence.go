package translate

import (
	"strconv"
	"strings"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	dataaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	grpclogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Names of the access logs that sidecars send to the control plane. They say
// how a connection came in; the port is in its records. Envoy opens a stream
// for each name and worker, so the ports share them.
const (
	LogPlain  = "plain"   // plaintext that was served
	LogAppTLS = "app-tls" // the application's own TLS that was passed on
	LogRefuse = "refuse"  // plaintext that was refused
	// LogOther is what the three end with for ports that nothing names.
	LogOther = "-other"
)

// RouteProbe is the route of what a probe asks for, which is let in whatever
// the mode: its plaintext is in nobody's way.
const RouteProbe = "probe"

const (
	// evidenceFlush is how long Envoy gathers records.
	evidenceFlush = 500 * time.Millisecond
	// evidenceAgain is how often what stays open is told again, so that a
	// control plane that starts later hears of it.
	evidenceAgain = time.Minute
)

// evidenceLog is the name of a chain's log; mesh mTLS needs none.
func (s chainSpec) evidenceLog(kind chainKind) string {
	name := ""
	switch kind {
	case chainPlain:
		name = LogPlain
	case chainAppTLS:
		name = LogAppTLS
	case chainRefuse:
		name = LogRefuse
	}
	if s.port == nil && name != "" {
		name += LogOther
	}
	return name
}

// httpEvidence tells of requests when they come: a stream may never end. A
// refusal is told when it is over, as a probe then has an upstream.
func (b *builder) httpEvidence(hcm *hcmv3.HttpConnectionManager, name string) {
	if name == "" {
		return
	}
	log := b.grpcLog("envoy.access_loggers.http_grpc", b.marshal(&grpclogv3.HttpGrpcAccessLogConfig{CommonConfig: commonLog(name)}))
	if !strings.HasPrefix(name, LogRefuse) {
		early := []dataaccesslogv3.AccessLogType{dataaccesslogv3.AccessLogType_DownstreamStart, dataaccesslogv3.AccessLogType_DownstreamPeriodic}
		hcm.AccessLogOptions = &hcmv3.HttpConnectionManager_HcmAccessLogOptions{
			FlushAccessLogOnNewRequest: true,
			AccessLogFlushInterval:     durationpb.New(evidenceAgain),
		}
		log.Filter = logTypes(false, early...)
		restrict(hcm.AccessLog, logTypes(true, early...))
	}
	hcm.AccessLog = append(hcm.AccessLog, log)
}

// tcpEvidence tells of connections when they come, while they last, and when
// they end.
func (b *builder) tcpEvidence(proxy *tcpv3.TcpProxy, name string) {
	if name == "" {
		return
	}
	log := b.grpcLog("envoy.access_loggers.tcp_grpc", b.marshal(&grpclogv3.TcpGrpcAccessLogConfig{CommonConfig: commonLog(name)}))
	if !strings.HasPrefix(name, LogRefuse) {
		proxy.AccessLogOptions = &tcpv3.TcpProxy_TcpAccessLogOptions{
			FlushAccessLogOnConnected: true,
			AccessLogFlushInterval:    durationpb.New(evidenceAgain),
		}
		restrict(proxy.AccessLog, logTypes(true, dataaccesslogv3.AccessLogType_TcpUpstreamConnected, dataaccesslogv3.AccessLogType_TcpPeriodic))
	}
	proxy.AccessLog = append(proxy.AccessLog, log)
}

// commonLog goes over the proxy's connection to the control plane. While
// there is none records are dropped, and nothing waits for it.
func commonLog(name string) *grpclogv3.CommonGrpcAccessLogConfig {
	return &grpclogv3.CommonGrpcAccessLogConfig{
		LogName: name,
		GrpcService: &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
			EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: controlPlaneCluster},
		}},
		TransportApiVersion: corev3.ApiVersion_V3,
		BufferFlushInterval: durationpb.New(evidenceFlush),
	}
}

func (b *builder) grpcLog(logger string, config *anypb.Any) *accesslogv3.AccessLog {
	return &accesslogv3.AccessLog{Name: logger, ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: config}}
}

// restrict keeps what was logged before evidence asked for more.
func restrict(logs []*accesslogv3.AccessLog, filter *accesslogv3.AccessLogFilter) {
	for _, log := range logs {
		log.Filter = filter
	}
}

func logTypes(exclude bool, types ...dataaccesslogv3.AccessLogType) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_LogTypeFilter{
		LogTypeFilter: &accesslogv3.LogTypeFilter{Types: types, Exclude: exclude},
	}}
}

// Series says what one of a sidecar's stats tells of the traffic of a port.
type Series uint8

// The series that are evidence. Counters grow for as long as the Envoy runs;
// Open are gauges of connections.
const (
	NoSeries        Series = iota
	SeriesPlainOpen        // not mesh mTLS, but served; of HTTP plaintext
	SeriesPassOpen         // the same, of what a TCP proxy takes
	SeriesPlain            // counter of both
	SeriesMeshOpen         // TLS that the sidecar ends, of HTTP ports
	SeriesMesh             // its counter
	SeriesMeshTCP          // the counter of TCP ports
	SeriesToAppOpen        // to the application, of mTLS on TCP ports; a pool of all requests on HTTP ports
	SeriesRefused          // counter of refused plaintext: HTTP requests, TCP connections
	SeriesHandshake        // counter of failed TLS handshakes, of no certain port
	SeriesLost             // counter of records that the sidecar dropped
)

// ReadSeries reads the name of a stat. Port 0 is all ports that nothing names.
func ReadSeries(name string) (port uint16, s Series) {
	switch {
	case strings.HasPrefix(name, "http.inbound_"):
		return readChain(name[len("http.inbound_"):], true)
	case strings.HasPrefix(name, "tcp.inbound_"):
		return readChain(name[len("tcp.inbound_"):], false)
	case strings.HasPrefix(name, "cluster.inbound|"):
		return readCluster(name[len("cluster.inbound|"):])
	case name == "cluster."+inboundPassthroughCluster+".upstream_cx_active":
		return 0, SeriesToAppOpen
	case name == "access_logs.grpc_access_log.logs_dropped":
		return 0, SeriesLost
	case strings.HasPrefix(name, "listener."):
		if strings.HasSuffix(name, ".ssl.connection_error") || strings.Contains(name, ".ssl.fail_verify_") {
			return 0, SeriesHandshake
		}
	}
	return 0, NoSeries
}

// readChain reads <port>_<chain>.<stat>.
func readChain(rest string, http bool) (uint16, Series) {
	scope, rest, _ := strings.Cut(rest, "_")
	chain, stat, _ := strings.Cut(rest, ".")
	port, ok := readScope(scope)
	if !ok {
		return 0, NoSeries
	}
	switch kind := chainKind(chain); {
	case (kind == chainPlain || kind == chainAppTLS) && stat == "downstream_cx_total":
		return port, SeriesPlain
	case kind == chainPlain && http && stat == "downstream_cx_active":
		return port, SeriesPlainOpen
	case kind == chainRefuse && stat == refusals(http):
		return port, SeriesRefused
	case kind == chainMTLS || kind == chainMTLSAny || kind == chainTLS:
		switch {
		case http && stat == "downstream_cx_active":
			return port, SeriesMeshOpen
		case http && stat == "downstream_cx_total":
			return port, SeriesMesh
		case stat == "downstream_cx_total":
			return port, SeriesMeshTCP
		}
	}
	return 0, NoSeries
}

// refusals leaves out the probes that a refusal of HTTP lets in.
func refusals(http bool) string {
	if http {
		return "downstream_rq_4xx"
	}
	return "downstream_cx_total"
}

// readCluster reads <port>|<use>|.<stat>.
func readCluster(rest string) (uint16, Series) {
	scope, rest, _ := strings.Cut(rest, "|")
	port, ok := readScope(scope)
	switch {
	case ok && rest == plainUse+"|.upstream_cx_active":
		return port, SeriesPassOpen
	case ok && rest == "|.upstream_cx_active":
		return port, SeriesToAppOpen
	}
	return 0, NoSeries
}

func readScope(scope string) (port uint16, ok bool) {
	if scope == otherScope {
		return 0, true
	}
	n, err := strconv.ParseUint(scope, 10, 16)
	return uint16(n), err == nil && n > 0
}

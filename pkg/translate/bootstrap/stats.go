package bootstrap

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// statsInterval is how old the control plane's figures may be.
const statsInterval = 5 * time.Second

// statsSink tells the control plane which connections are open. Envoy sends
// every stat that it keeps and that was ever used, so statsConfig keeps few.
func statsSink() *metricsv3.StatsSink {
	return &metricsv3.StatsSink{
		Name: "envoy.stat_sinks.metrics_service",
		ConfigType: &metricsv3.StatsSink_TypedConfig{TypedConfig: bootAny(&metricsv3.MetricsServiceConfig{
			TransportApiVersion: corev3.ApiVersion_V3,
			HistogramEmitMode:   metricsv3.HistogramEmitMode_SUMMARY,
			GrpcService: &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: bootCluster},
			}},
		})},
	}
}

// statsConfig names the stats that are kept: of Envoy itself and of its
// configuration, of certificates, and of connections, inbound by filter chain
// and outbound by cluster.
func statsConfig(all bool) *metricsv3.StatsConfig {
	if all {
		return nil
	}
	list := &matcherv3.ListStringMatcher{}
	for _, prefix := range []string{"server.", "listener_manager.", "cluster_manager.", "control_plane.", "access_logs.", "sds."} {
		list.Patterns = append(list.Patterns, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix}})
	}
	for _, suffix := range []string{".update_rejected", ".expiration_unix_time_seconds"} {
		list.Patterns = append(list.Patterns, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: suffix}})
	}
	for _, regex := range []string{
		`cluster\.xds-grpc\.(upstream_cx_(active|total|connect_fail)|upstream_rq_active|ssl\.(handshake|connection_error|fail_verify_.+))`,
		`listener\..+\.(ssl\.(handshake|connection_error|no_certificate|fail_verify_.+)|downstream_cx_total|no_filter_chain_match)`,
		`(http|tcp)\.inbound_[^.]+\.downstream_(cx_total|cx_active|rq_total|rq_active|rq_4xx|rq_5xx)`,
		`cluster\.(inbound\|.*|InboundPassthroughCluster)\.upstream_cx_(active|total|connect_fail)`,
		`cluster\.outbound\|.+\.(upstream_cx_total|ssl\.(handshake|connection_error|fail_verify_.+))`,
	} {
		list.Patterns = append(list.Patterns, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{
			SafeRegex: &matcherv3.RegexMatcher{Regex: regex},
		}})
	}
	return &metricsv3.StatsConfig{StatsMatcher: &metricsv3.StatsMatcher{
		StatsMatcher: &metricsv3.StatsMatcher_InclusionList{InclusionList: list},
	}}
}

package translate

import (
	"strings"
	"testing"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	grpclogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"github.com/meshpilot/pilot/pkg/model"
	"google.golang.org/protobuf/types/known/anypb"
)

// What every chain tells of itself: the log for the control plane, the stat
// prefix, and the cluster of a TCP proxy.
func TestEvidenceOfChains(t *testing.T) {
	for _, capture := range []model.Capture{model.CaptureRedirect, model.CaptureNone} {
		for _, mode := range []model.Mode{model.Disable, model.Permissive, model.Strict, model.TLSOnly} {
			prefixes := map[string]string{}
			for _, l := range decodeListeners(t, Inbound(probedView(mode, capture), nil)) {
				for _, c := range l.FilterChains {
					scope, kind, _ := strings.Cut(c.Name, "|")
					if kind == "loop" || kind == "unknown" || l.Name == "127.10.0.1_15002" {
						continue
					}
					got := tellsOf(t, c)
					if before := prefixes[got.stat]; before != "" || got.stat != "inbound_"+scope+"_"+kind {
						t.Errorf("%s: chain %s has the stat prefix %s, like %q", mode, c.Name, got.stat, before)
					}
					prefixes[got.stat] = c.Name
					want := map[string]string{"plain": "plain", "app-tls": "app-tls", "refuse": "refuse"}[kind]
					if scope == "other" && want != "" {
						want += "-other"
					}
					if got.log != want {
						t.Errorf("%s: chain %s writes the log %q, want %q", mode, c.Name, got.log, want)
					}
					open := "inbound|" + scope + "|plain|"
					if served := kind == "plain" || kind == "app-tls"; got.cluster != "" && served != (got.cluster == open) {
						t.Errorf("%s: chain %s leads to %s", mode, c.Name, got.cluster)
					}
				}
			}
		}
	}
}

// tells is what a chain shows of itself; cluster is empty for HTTP.
type tells struct{ log, stat, cluster string }

func tellsOf(t *testing.T, c *listenerv3.FilterChain) (got tells) {
	t.Helper()
	var hcm hcmv3.HttpConnectionManager
	var tcp tcpv3.TcpProxy
	config, logs := c.Filters[0].GetTypedConfig(), []*accesslogv3.AccessLog(nil)
	if config.UnmarshalTo(&hcm) == nil {
		logs, got.stat = hcm.AccessLog, hcm.StatPrefix
	} else if err := config.UnmarshalTo(&tcp); err != nil {
		t.Fatal(err)
	} else {
		logs, got.stat, got.cluster = tcp.AccessLog, tcp.StatPrefix, tcp.GetCluster()
	}
	if logs[0].Name != "envoy.access_loggers.file" || len(logs) > 2 {
		t.Errorf("chain %s has the logs %v", c.Name, logs)
	}
	if len(logs) == 2 {
		got.log = logName(t, logs[1].GetTypedConfig())
	}
	return got
}

func logName(t *testing.T, config *anypb.Any) string {
	t.Helper()
	var http grpclogv3.HttpGrpcAccessLogConfig
	var tcp grpclogv3.TcpGrpcAccessLogConfig
	if config.UnmarshalTo(&http) == nil {
		return http.CommonConfig.LogName
	}
	if err := config.UnmarshalTo(&tcp); err != nil {
		t.Fatal(err)
	}
	return tcp.CommonConfig.LogName
}

// The file log keeps one line for each request and connection, though the
// control plane is told earlier and again.
func TestEvidenceAddsNoLineToTheLogFile(t *testing.T) {
	for _, c := range decodeListeners(t, Inbound(serverView(model.Disable, model.CaptureRedirect), nil))[0].FilterChains {
		var hcm hcmv3.HttpConnectionManager
		var tcp tcpv3.TcpProxy
		config, logs := c.Filters[0].GetTypedConfig(), []*accesslogv3.AccessLog(nil)
		early := false
		if config.UnmarshalTo(&hcm) == nil {
			logs, early = hcm.AccessLog, hcm.AccessLogOptions != nil
		} else if config.UnmarshalTo(&tcp) == nil {
			logs, early = tcp.AccessLog, tcp.AccessLogOptions != nil
		}
		for _, log := range logs {
			if f := log.Filter.GetLogTypeFilter(); early && log.Name == "envoy.access_loggers.file" && (!f.GetExclude() || len(f.Types) != 2) {
				t.Errorf("chain %s: file log has the filter %v", c.Name, log.Filter)
			}
		}
	}
}

func TestReadSeries(t *testing.T) {
	for name, want := range map[string]struct {
		port   uint16
		series Series
	}{
		"http.inbound_80_plain.downstream_cx_active":           {80, SeriesPlainOpen},
		"http.inbound_80_plain.downstream_cx_total":            {80, SeriesPlain},
		"tcp.inbound_80_app-tls.downstream_cx_total":           {80, SeriesPlain},
		"cluster.inbound|80|plain|.upstream_cx_active":         {80, SeriesPassOpen},
		"cluster.inbound|other|plain|.upstream_cx_active":      {0, SeriesPassOpen},
		"tcp.inbound_other_plain.downstream_cx_total":          {0, SeriesPlain},
		"cluster.InboundPassthroughCluster.upstream_cx_active": {0, SeriesToAppOpen},
		"cluster.inbound|3306||.upstream_cx_active":            {3306, SeriesToAppOpen},
		"http.inbound_80_mtls.downstream_cx_active":            {80, SeriesMeshOpen},
		"http.inbound_80_mtls-any.downstream_cx_total":         {80, SeriesMesh},
		"tcp.inbound_3306_tls.downstream_cx_total":             {3306, SeriesMeshTCP},
		"http.inbound_80_refuse.downstream_rq_4xx":             {80, SeriesRefused},
		"tcp.inbound_3306_refuse.downstream_cx_total":          {3306, SeriesRefused},
		"listener.0.0.0.0_15006.ssl.connection_error":          {0, SeriesHandshake},
		"listener.0.0.0.0_15006.ssl.fail_verify_no_cert":       {0, SeriesHandshake},
		"access_logs.grpc_access_log.logs_dropped":             {0, SeriesLost},
		"http.inbound_80_refuse.downstream_cx_total":           {},
		"http.inbound_80_plain.downstream_cx_total.more":       {},
		"http.inbound_70000_plain.downstream_cx_total":         {},
		"http.inbound_0_plain.downstream_cx_total":             {},
		"http.inbound_80": {},
		"cluster.inbound|80|grpc-probe|.upstream_cx_active": {},
		"cluster.inbound|80|plain|.upstream_cx_total":       {},
		"cluster.outbound|80||cart.upstream_cx_active":      {},
		"listener.0.0.0.0_15006.ssl.handshake":              {},
		"server.live":                                       {},
		"":                                                  {},
	} {
		if port, series := ReadSeries(name); port != want.port || series != want.series {
			t.Errorf("%s: got port %d series %d, want %d and %d", name, port, series, want.port, want.series)
		}
	}
}

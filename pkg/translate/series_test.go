package translate

import "testing"

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

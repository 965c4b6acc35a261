package main

import (
	"context"
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/service/metrics/v3"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

const flush = 500 * time.Millisecond // as sidecars gather records

// connect runs all proxies until their server is gone.
func (l load) connect(ctx context.Context) error {
	failed := make(chan error)
	for i := range l.proxies {
		go func() { failed <- l.proxy(ctx, i) }()
		time.Sleep(time.Millisecond)
	}
	return <-failed
}

// proxy is one, on a connection of its own.
func (l load) proxy(ctx context.Context, number int) error {
	conn, err := grpc.NewClient(l.address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithReadBufferSize(1<<10), grpc.WithWriteBufferSize(4<<10))
	if err != nil {
		return err
	}
	node := &corev3.Node{Id: fmt.Sprintf("ns-%d/pod-%d", number%50, number), Cluster: "istio-proxy",
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"TRAFFIC_STATS": structpb.NewBoolValue(true)}}}
	failed := make(chan error)
	go func() { failed <- l.stats(ctx, conn, node) }()
	for i := range l.logs {
		go func() { failed <- l.records(ctx, conn, node, number+i) }()
	}
	return <-failed
}

func (l load) stats(ctx context.Context, conn *grpc.ClientConn, node *corev3.Node) error {
	s, err := metricsv3.NewMetricsServiceClient(conn).StreamMetrics(ctx)
	if err != nil {
		return err
	}
	m := &metricsv3.StreamMetricsMessage{Identifier: &metricsv3.StreamMetricsMessage_Identifier{Node: node}, EnvoyMetrics: families()}
	for {
		if err := s.Send(m); err != nil {
			return err
		}
		m.Identifier = nil
		time.Sleep(l.interval)
	}
}

// families are as many as a sidecar of the example has in use, four ports of
// them.
func families() (out []*dto.MetricFamily) {
	add := func(format string, args ...any) {
		name := fmt.Sprintf(format, args...)
		out = append(out, &dto.MetricFamily{Name: &name, Type: dto.MetricType_GAUGE.Enum(), Metric: []*dto.Metric{{
			Gauge: &dto.Gauge{Value: proto.Float64(3)}, TimestampMs: proto.Int64(time.Now().UnixMilli()),
		}}})
	}
	for port := 8080; port < 8084; port++ {
		for _, chain := range []string{"plain", "mtls"} {
			for _, stat := range []string{"cx_active", "cx_total", "rq_active", "rq_total", "rq_4xx", "rq_5xx"} {
				add("http.inbound_%d_%s.downstream_%s", port, chain, stat)
			}
		}
		for _, use := range []string{"", "plain"} {
			add("cluster.inbound|%d|%s|.upstream_cx_active", port, use)
			add("cluster.inbound|%d|%s|.upstream_cx_total", port, use)
		}
	}
	for i := len(out); i < 120; i++ {
		add("cluster.outbound|%d||service-%d.namespace.svc.cluster.local.upstream_cx_total", i, i)
	}
	return out
}

// records sends the stream's share, of 20 peers.
func (l load) records(ctx context.Context, conn *grpc.ClientConn, node *corev3.Node, seed int) error {
	s, err := alsv3.NewAccessLogServiceClient(conn).StreamAccessLogs(ctx)
	if err != nil {
		return err
	}
	first := &alsv3.StreamAccessLogsMessage{Identifier: &alsv3.StreamAccessLogsMessage_Identifier{Node: node, LogName: "plain"}}
	if err := s.Send(first); err != nil {
		return err
	}
	share := float64(l.rate) * flush.Seconds() / float64(l.logs)
	for due := 0.0; ; time.Sleep(flush) {
		var entries []*datav3.HTTPAccessLogEntry
		for due += share; due >= 1; due-- {
			seed++
			entries = append(entries, entry(seed))
		}
		if len(entries) == 0 {
			continue
		}
		if err := s.Send(&alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{
			HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: entries},
		}}); err != nil {
			return err
		}
	}
}

// entry is as long as Envoy's are, about 350 bytes.
func entry(seed int) *datav3.HTTPAccessLogEntry {
	address := func(ip string, port uint32) *corev3.Address {
		return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
		}}}
	}
	peer := fmt.Sprintf("10.244.7.%d", seed%20)
	return &datav3.HTTPAccessLogEntry{
		CommonProperties: &datav3.AccessLogCommon{
			DownstreamRemoteAddress: address(peer, 41234), DownstreamDirectRemoteAddress: address(peer, 41234),
			DownstreamLocalAddress: address("10.244.3.9", uint32(8080+seed%4)), UpstreamCluster: "inbound|8080||",
			AccessLogType: datav3.AccessLogType_DownstreamStart, StreamId: "5f1c6a4e-8f0b-4c0e-9a51-aa0b1ec5d6f4",
		},
		Request: &datav3.HTTPRequestProperties{
			Authority: "reviews.bookinfo.svc.cluster.local:9080", Path: "/reviews/0/stars?user=somebody", Scheme: "http",
			UserAgent: "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101", RequestId: "5f1c6a4e-8f0b-4c0e-9a51-aa0b1ec5d6f4",
		},
	}
}

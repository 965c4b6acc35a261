package feed

import (
	"context"
	"net"
	"strings"
	"testing"
	"testing/synctest"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/service/metrics/v3"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meshpilot/pilot/pkg/discovery/ads/wire"
	"github.com/meshpilot/pilot/pkg/model"
)

// bed is a feed behind a real gRPC server, in a bubble of fake time.
type bed struct {
	t      *testing.T
	feed   *Feed
	conn   *grpc.ClientConn
	denied map[string]bool // nodes whose certificate is not theirs
}

var cart = model.WorkloadID{Namespace: "shop", Name: "cart"}

func inBubble(t *testing.T, test func(*testing.T, *bed)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bed{t: t, denied: map[string]bool{}}
		b.feed = New(Options{Identify: b.identify})
		listen := bufconn.Listen(1 << 16)
		server := grpc.NewServer(wire.ServerOptions()...)
		b.feed.Register(server)
		served := make(chan error)
		go func() { served <- server.Serve(listen) }()
		conn, err := grpc.NewClient("passthrough:bed", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listen.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		b.conn = conn
		defer func() {
			b.feed.Close()
			conn.Close()
			server.Stop()
			<-served
			synctest.Wait()
			if logs, stats := b.feed.Streams(); logs+stats != 0 {
				t.Errorf("%d streams of logs and %d of stats are left", logs, stats)
			}
		}()
		test(t, b)
	})
}

// identify reads nodes called "namespace/name".
func (b *bed) identify(_ context.Context, node *corev3.Node) (model.WorkloadID, func() error, error) {
	namespace, name, ok := strings.Cut(node.GetId(), "/")
	if !ok {
		return model.WorkloadID{}, nil, status.Error(codes.InvalidArgument, "missing parts in the service node")
	}
	check := func() error {
		if b.denied[node.GetId()] {
			return status.Error(codes.PermissionDenied, "not yours")
		}
		return nil
	}
	return model.WorkloadID{Namespace: namespace, Name: name}, check, check()
}

func node(id string) *corev3.Node {
	return &corev3.Node{Id: id, Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{tellsAll: structpb.NewBoolValue(true)}}}
}

// logs is an open stream of access logs.
type logs struct {
	b *bed
	alsv3.AccessLogService_StreamAccessLogsClient
	cancel context.CancelFunc
}

func (b *bed) logs(id, name string) *logs {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	s, err := alsv3.NewAccessLogServiceClient(b.conn).StreamAccessLogs(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := s.Send(&alsv3.StreamAccessLogsMessage{Identifier: &alsv3.StreamAccessLogsMessage_Identifier{Node: node(id), LogName: name}}); err != nil {
		b.t.Fatal(err)
	}
	synctest.Wait()
	return &logs{b, s, cancel}
}

// common is what a record of a type tells of a peer that called a port.
func common(peer string, port uint32, kind datav3.AccessLogType) *datav3.AccessLogCommon {
	return &datav3.AccessLogCommon{
		DownstreamRemoteAddress:       address("9.9.9.9", 1), // as a header claims
		DownstreamDirectRemoteAddress: address(peer, 4711),
		DownstreamLocalAddress:        address("10.0.0.1", port),
		AccessLogType:                 kind,
	}
}

func address(ip string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

func (l *logs) http(records ...*datav3.AccessLogCommon) {
	l.b.t.Helper()
	entries := make([]*datav3.HTTPAccessLogEntry, len(records))
	for i, r := range records {
		entries[i] = &datav3.HTTPAccessLogEntry{CommonProperties: r, Request: &datav3.HTTPRequestProperties{Path: "/"}}
	}
	l.send(&alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{
		HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: entries},
	}})
}

func (l *logs) tcp(records ...*datav3.AccessLogCommon) {
	l.b.t.Helper()
	entries := make([]*datav3.TCPAccessLogEntry, len(records))
	for i, r := range records {
		entries[i] = &datav3.TCPAccessLogEntry{CommonProperties: r}
	}
	l.send(&alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_TcpLogs{
		TcpLogs: &alsv3.StreamAccessLogsMessage_TCPAccessLogEntries{LogEntry: entries},
	}})
}

func (l *logs) send(m *alsv3.StreamAccessLogsMessage) {
	l.b.t.Helper()
	if err := l.Send(m); err != nil {
		l.b.t.Fatal(err)
	}
	synctest.Wait()
}

// ended is how the server ended the stream.
func (l *logs) ended() error {
	_, err := l.CloseAndRecv()
	return err
}

// stats is an open stream of stats.
type stats struct {
	b *bed
	metricsv3.MetricsService_StreamMetricsClient
	cancel context.CancelFunc
	node   *corev3.Node // for the first message
}

func (b *bed) stats(id string) *stats {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	s, err := metricsv3.NewMetricsServiceClient(b.conn).StreamMetrics(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	return &stats{b, s, cancel, node(id)}
}

// flush tells gauges and counters by name.
func (s *stats) flush(values map[string]float64) {
	s.b.t.Helper()
	m := &metricsv3.StreamMetricsMessage{}
	if s.node != nil {
		m.Identifier, s.node = &metricsv3.StreamMetricsMessage_Identifier{Node: s.node}, nil
	}
	for name, value := range values {
		family := &dto.MetricFamily{Name: &name}
		if strings.HasSuffix(name, "_active") {
			family.Type, family.Metric = dto.MetricType_GAUGE.Enum(), []*dto.Metric{{Gauge: &dto.Gauge{Value: &value}}}
		} else {
			family.Type, family.Metric = dto.MetricType_COUNTER.Enum(), []*dto.Metric{{Counter: &dto.Counter{Value: &value}, TimestampMs: proto.Int64(5)}}
		}
		m.EnvoyMetrics = append(m.EnvoyMetrics, family)
	}
	if err := s.Send(m); err != nil {
		s.b.t.Fatal(err)
	}
	synctest.Wait()
}

// of is what the feed knows of the cart.
func (b *bed) of() Proxy {
	b.t.Helper()
	p, ok := b.feed.Of(cart)
	if !ok {
		b.t.Fatal("nothing is known of it")
	}
	return p
}

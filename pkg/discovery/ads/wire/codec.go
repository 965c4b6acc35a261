// Package wire reads discovery requests in place and writes discovery
// responses as shared, pre-encoded bytes. It is what stands between the store
// of package ads and gRPC, and knows the protocol's fields, not its rules.
package wire

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// Service is the gRPC service of aggregated discovery.
const Service = "envoy.service.discovery.v3.AggregatedDiscoveryService"

// Message is an encoded response. Its parts go to the connection by
// reference: they may be shared by any number of messages and must be
// mem.SliceBuffers, which have no reference count.
type Message struct{ Parts mem.BufferSlice }

// codec passes Message, Request and Raw through and is protobuf for all else.
type codec struct{ rest encoding.CodecV2 }

func (codec) Name() string { return proto.Name }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(*Message); ok {
		return m.Parts, nil
	}
	return c.rest.Marshal(v)
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch v := v.(type) {
	case *Request:
		return v.take(data)
	case *Raw:
		v.buffer = data.MaterializeToBuffer(mem.DefaultBufferPool())
		return nil
	}
	return c.rest.Unmarshal(data, v)
}

// ServerOptions are what a server of Messages must be made with. The figures
// were measured with 1,000 services and 2,000 proxies: windows of 1 MiB turn
// grpc's bandwidth estimator off, which pings for every acknowledgement, and
// a write buffer is one TLS record: larger ones write nothing faster, and each
// connection that sends a small response has one at that moment.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2(proto.Name)}),
		grpc.InitialWindowSize(1 << 20),
		grpc.InitialConnWindowSize(1 << 20),
		grpc.WriteBufferSize(16 << 10),
		grpc.ReadBufferSize(4 << 10),
		grpc.MaxRecvMsgSize(16 << 20), // a first request names every resource that the proxy holds
		grpc.MaxConcurrentStreams(100),
		grpc.ConnectionTimeout(15 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second, MaxConnectionIdle: 5 * time.Minute}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

// End ends the stream of this context with err, a gRPC status or nil, and so
// makes the calls that wait on it return. grpc gives handlers no other way to
// wake a RecvMsg, and would answer its failure with Canceled.
func End(ctx context.Context, err error) {
	type ender interface{ WriteStatus(*status.Status) error }
	if s, ok := grpc.ServerTransportStreamFromContext(ctx).(ender); ok {
		_ = s.WriteStatus(status.Convert(err)) // fails if the stream has ended
	}
}

// Raw is any message in the bytes that it came in.
type Raw struct{ buffer mem.Buffer }

// Data is the encoded message; it is dead after Free.
func (r *Raw) Data() []byte { return r.buffer.ReadOnlyData() }

// Free gives the bytes back. Each received message wants one.
func (r *Raw) Free() { r.buffer.Free() }

// Package wire reads discovery requests in place and writes discovery
// responses as shared, pre-encoded bytes. It is what stands between the store
// of package ads and gRPC, and knows the protocol's fields, not its rules.
package wire

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

// Service is the gRPC service of aggregated discovery.
const Service = "envoy.service.discovery.v3.AggregatedDiscoveryService"

// Message is an encoded response. Its parts go to the connection by
// reference: they may be shared by any number of messages and must be
// mem.SliceBuffers, which have no reference count.
type Message struct{ Parts mem.BufferSlice }

// codec passes Message and Request through and is protobuf for all else.
type codec struct{ rest encoding.CodecV2 }

func (codec) Name() string { return proto.Name }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(*Message); ok {
		return m.Parts, nil
	}
	return c.rest.Marshal(v)
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if r, ok := v.(*Request); ok {
		return r.take(data)
	}
	return c.rest.Unmarshal(data, v)
}

// ServerOptions are what a server of Messages must be made with. The figures
// were measured with 1,000 services and 2,000 proxies: windows of 1 MiB turn
// grpc's bandwidth estimator off, which pings for every acknowledgement, and
// shared write buffers save 32 kB a connection.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2(proto.Name)}),
		grpc.InitialWindowSize(1 << 20),
		grpc.InitialConnWindowSize(1 << 20),
		grpc.SharedWriteBuffer(true),
		grpc.WriteBufferSize(64 << 10),
		grpc.ReadBufferSize(4 << 10),
		grpc.MaxRecvMsgSize(16 << 20), // a first request names every resource that the proxy holds
		grpc.MaxConcurrentStreams(100),
		grpc.ConnectionTimeout(15 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.InTapHandle(makeEndable),
	}
}

// endable is the context of a discovery stream that End can end: grpc gives
// no other way to wake a handler that waits for the next request.
type endable struct {
	context.Context
	end context.CancelFunc
}

type endKey struct{}

func (e *endable) Value(key any) any {
	if key == (endKey{}) {
		return e.end
	}
	return e.Context.Value(key)
}

func makeEndable(ctx context.Context, info *tap.Info) (context.Context, error) {
	if !strings.HasPrefix(info.FullMethodName, "/"+Service+"/") {
		return ctx, nil
	}
	ctx, end := context.WithCancel(ctx)
	return &endable{ctx, end}, nil
}

// End makes the calls that wait on a stream with this context return. If err
// is not nil, it is the status that the peer gets: a RecvMsg that returns
// because of the context would otherwise say Canceled before the handler can.
func End(ctx context.Context, err error) {
	if err != nil {
		// The transport's stream has this method, though not in an interface.
		type closer interface{ WriteStatus(*status.Status) error }
		if stream, ok := grpc.ServerTransportStreamFromContext(ctx).(closer); ok {
			_ = stream.WriteStatus(status.Convert(err)) // the peer is gone; so is its stream
		}
	}
	if end, ok := ctx.Value(endKey{}).(context.CancelFunc); ok {
		end()
	}
}

package feed

import (
	"context"
	"errors"
	"io"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshpilot/pilot/pkg/discovery/ads/wire"
	"github.com/meshpilot/pilot/pkg/model"
)

// stream is one open stream of a proxy.
type stream struct {
	ctx   context.Context
	feed  *Feed
	stats bool
	id    model.WorkloadID
	check func() error
	proxy *proxy // nil before the first message
	log   log    // of a stream of access logs
}

// Register adds the services of Envoy's access logs and stats to g, which
// must be made with ads.ServerOptions.
func (f *Feed) Register(g grpc.ServiceRegistrar) {
	for _, service := range []struct {
		name, method, file string
		stats              bool
	}{
		{"envoy.service.accesslog.v3.AccessLogService", "StreamAccessLogs", "envoy/service/accesslog/v3/als.proto", false},
		{"envoy.service.metrics.v3.MetricsService", "StreamMetrics", "envoy/service/metrics/v3/metrics_service.proto", true},
	} {
		g.RegisterService(&grpc.ServiceDesc{
			ServiceName: service.name, HandlerType: (*any)(nil), Metadata: service.file,
			Streams: []grpc.StreamDesc{{
				StreamName: service.method, ClientStreams: true,
				Handler: func(_ any, g grpc.ServerStream) error { return f.serve(g, service.stats) },
			}},
		}, f)
	}
}

// Close ends all streams; proxies look for another replica.
func (f *Feed) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for st := range f.streams {
		wire.End(st.ctx, errStopping())
	}
}

func errStopping() error { return status.Error(codes.Unavailable, "the control plane is stopping") }

func (f *Feed) serve(g grpc.ServerStream, stats bool) error {
	st := &stream{ctx: g.Context(), feed: f, stats: stats}
	if err := f.enter(st); err != nil {
		return err
	}
	defer f.leave(st)
	for {
		var m wire.Raw
		if err := g.RecvMsg(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		err := st.take(m.Data())
		m.Free()
		if err != nil {
			return err
		}
	}
}

func (f *Feed) enter(st *stream) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errStopping()
	}
	f.streams[st] = true
	return nil
}

func (f *Feed) leave(st *stream) {
	f.mu.Lock()
	delete(f.streams, st)
	f.mu.Unlock()
	if st.proxy != nil {
		st.proxy.left(st.stats, time.Now())
		f.wake()
	}
}

// take reads one message; the first says who sends it.
func (st *stream) take(message []byte) error {
	if st.proxy == nil {
		if err := st.identify(message); err != nil {
			return err
		}
	} else if st.check != nil {
		if err := st.check(); err != nil {
			return err
		}
	}
	now, p := time.Now(), st.proxy
	var news bool
	var err error
	p.mu.Lock()
	read, excess := p.read, p.excess
	if st.stats {
		news, err = p.flush(message, now, func(port uint16, more uint64) { st.feed.options.Refused(st.id, port, more) })
	} else {
		news, err = p.records(message, st.log, now)
	}
	read, excess = p.read-read, p.excess-excess
	p.mu.Unlock()
	if read+excess > 0 {
		st.feed.options.Count(read, excess)
	}
	if news {
		st.feed.wake()
	}
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return nil
}

// identify lets a stream in by its first message.
func (st *stream) identify(message []byte) error {
	node, name, err := readIdentifier(message)
	if err != nil {
		return status.Error(codes.InvalidArgument, "the first message has no readable identifier")
	}
	if st.id, st.check, err = st.feed.options.Identify(st.ctx, node); err != nil {
		return err
	}
	if !st.stats {
		var known bool
		if st.log, known = readLogName(name); !known {
			return status.Errorf(codes.InvalidArgument, "%q is no log of this control plane", name)
		}
	}
	st.feed.mu.Lock()
	st.proxy = st.feed.of(st.id)
	st.feed.mu.Unlock()
	if st.proxy == nil {
		return status.Error(codes.ResourceExhausted, "too many proxies")
	}
	st.proxy.joined(st.stats, node.GetMetadata().GetFields()[tellsAll].GetBoolValue(), time.Now())
	st.feed.wake()
	return nil
}

// tellsAll is the key of node metadata by which a bootstrap says that the
// sidecar's stats hold all series of inbound traffic: what is missing is zero.
const tellsAll = "TRAFFIC_STATS"

func readIdentifier(message []byte) (node *corev3.Node, logName string, err error) {
	node = &corev3.Node{}
	found := false
	for m, ok := first(message); ok; m, ok = first(m.rest) {
		if m.number != logsIdentifier { // which is metricsIdentifier
			continue
		}
		for f, ok := first(m.bytes); ok; f, ok = first(f.rest) {
			switch f.number {
			case identifierNode:
				found = true
				err = errors.Join(err, proto.Unmarshal(f.bytes, node))
			case identifierName:
				logName = string(f.bytes)
			}
		}
	}
	if !found {
		err = errMalformed
	}
	return node, logName, err
}

// joined notes that a stream began.
func (p *proxy) joined(stats, all bool, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.logStreams+p.statStreams == 0 {
		p.since = now
	}
	if !stats {
		p.logStreams++
		return
	}
	p.statStreams++
	p.tellsAll, p.statsSince, p.flushes = all, now, 0
}

// left notes that a stream ended. What it still had to tell is lost.
func (p *proxy) left(stats bool, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if stats {
		if p.statStreams--; p.statStreams == 0 {
			p.statsSince = time.Time{}
			p.flushes = 0
		}
	} else {
		p.logStreams--
		p.gap(now)
	}
	if p.logStreams+p.statStreams == 0 {
		p.since = time.Time{}
	}
}

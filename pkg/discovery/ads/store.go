// Package ads sends worlds to proxies over aggregated discovery, delta and
// state of the world, and says what proxies answer. Each stream is sent the
// difference between what its proxy holds and what it should have; streams
// in the same state share the bytes. An own implementation because the
// general one marshals per stream: see docs/delivery.md for the rules.
package ads

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshpilot/pilot/pkg/discovery/ads/wire"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

// World is the whole configuration at one moment, as the hub computed it.
// It is immutable.
type World struct {
	Snapshot  *model.Snapshot
	Client    map[model.ClientClass]*translate.Half
	Server    map[model.ServerClass]*translate.Half
	Endpoints *translate.Table
}

// Identify says which proxy the node of a stream is. Its error, a gRPC
// status, ends the stream. ctx knows the stream's StreamID; a stream that
// Identify let in is followed by Connected and, in the end, Disconnected.
type Identify func(ctx context.Context, node *corev3.Node) (model.Proxy, error)

// StreamID is the stream whose context this is; 0 outside of Identify.
func StreamID(ctx context.Context) uint64 {
	id, _ := ctx.Value(streamKey{}).(uint64)
	return id
}

type streamKey struct{}

// StoreOptions are what a Store needs from its surroundings. Zero values of
// InFlight and SendTimeout mean 64 and 30 s.
type StoreOptions struct {
	Identify Identify
	// Notify hears what happens on streams, those of one stream in order. It
	// runs under the stream's lock, so it must neither block nor call the Store.
	Notify      func(Event)
	InFlight    int           // streams that are sent to at the same time
	SendTimeout time.Duration // a stream that takes no bytes for so long is ended
}

// EventKind says what happened on a stream.
type EventKind uint8

// The kinds of events. Refused carries Envoy's text in Detail and, in Names,
// the resources that the text names; Ignored is a request with a stale nonce;
// SecretUnknown names secrets that no part of the proxy's configuration has.
const (
	Connected EventKind = iota
	Disconnected
	Sent
	Acked
	Refused
	Ignored
	SecretUnknown
)

// Event is one thing that happened on a stream.
type Event struct {
	Kind      EventKind
	Stream    uint64
	Node      string
	Proxy     model.Proxy
	TypeURL   string
	Version   string // of the response that was sent, acknowledged or refused
	Nonce     string
	Detail    string
	Resources int
	Bytes     int
	Names     []string
	// Truthful is set on an SDS Acked once the proxy has proven that it read
	// both mesh secrets (rule 14 of the secrets: equal bytes prove nothing).
	Truthful bool
	Time     time.Time
}

// Store holds one record per stream and answers each with what differs from
// what its proxy holds. It runs no goroutine while there is nothing to send.
type Store struct {
	options    StoreOptions
	generation atomic.Pointer[generation]
	memory     *lru.Cache[string, [kinds]refusals] // by proxyKey
	ahead      atomic.Int64                        // bytes that may still be read ahead

	mu      sync.Mutex
	streams map[uint64]*stream
	last    uint64 // stream's number
	closed  bool
	queue   []*stream // streams that may have something to send
	workers int
	tidying bool
}

// NewStore makes a store without a world: its streams wait for the first Apply.
func NewStore(o StoreOptions) *Store {
	if o.InFlight == 0 {
		o.InFlight = 64
	}
	if o.SendTimeout == 0 {
		o.SendTimeout = 30 * time.Second
	}
	memory, _ := lru.New[string, [kinds]refusals](mostRemembered) // fails only for a size below 1
	return &Store{options: o, memory: memory, streams: map[uint64]*stream{}}
}

// Apply makes w the world that proxies get, and returns before they have it.
// Streams whose tables did not move are sent nothing. Calls must not overlap.
func (s *Store) Apply(w *World) {
	prev, next := s.generation.Load(), newGeneration(w, s.generation.Load())
	next.number = 1
	if prev != nil {
		next.number += prev.number
	}
	s.generation.Store(next)
	if prev != nil && prev.names.era != next.names.era {
		for _, st := range s.all() { // who comes again is numbered anew
			st.stop(status.Error(codes.Unavailable, "the index of names begins anew"))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.streams {
		s.push(st)
	}
}

// ReadAhead lets streams that wait for their configuration say all that they
// have to say, for Claims, within so many bytes in all; 0: no more.
func (s *Store) ReadAhead(bytes int64) { s.ahead.Store(bytes) }

// Generation numbers the world that was applied last; 0 is none.
func (s *Store) Generation() uint64 {
	if g := s.generation.Load(); g != nil {
		return g.number
	}
	return 0
}

// Register adds the aggregated discovery service to g, which must have been
// made with ServerOptions.
func (s *Store) Register(g *grpc.Server) {
	g.RegisterService(&grpc.ServiceDesc{
		ServiceName: wire.Service,
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName: "StreamAggregatedResources", ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, g grpc.ServerStream) error { return s.serve(g, false) },
		}, {
			StreamName: "DeltaAggregatedResources", ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, g grpc.ServerStream) error { return s.serve(g, true) },
		}},
		Metadata: "envoy/service/discovery/v3/ads.proto",
	}, s)
}

// ServerOptions are what a gRPC server that serves a Store must be made with.
func ServerOptions() []grpc.ServerOption { return wire.ServerOptions() }

// number is a new stream's number.
func (s *Store) number() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	return s.last
}

// enter takes a stream in.
func (s *Store) enter(st *stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errStopping()
	}
	s.streams[st.id] = st
	return nil
}

// leave forgets a stream that ended with err.
func (s *Store) leave(st *stream, err error) {
	s.mu.Lock()
	delete(s.streams, st.id)
	s.mu.Unlock()
	st.mu.Lock()
	st.emit(Event{Kind: Disconnected, Detail: status.Convert(err).Message()})
	st.mu.Unlock()
}

// End ends one stream with err, a gRPC status: its certificate has expired,
// or its workload has gone. A stream that is not there is no error.
func (s *Store) End(stream uint64, err error) {
	s.mu.Lock()
	st := s.streams[stream]
	s.mu.Unlock()
	if st != nil {
		st.stop(err)
	}
}

// Move ends some streams, of n proxies, so that these look for another replica,
// and gives leave the context of each.
func (s *Store) Move(n int, leave func(context.Context)) {
	all := s.all() // in no order
	for _, st := range all[:min(n, len(all))] {
		st.stop(status.Error(codes.Unavailable, "another replica of the control plane has fewer proxies"))
		leave(st.grpc.Context())
	}
}

// Close ends all streams with Unavailable, and every later one.
func (s *Store) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	for _, st := range s.all() {
		st.stop(errStopping())
	}
}

func errStopping() error { return status.Error(codes.Unavailable, "the control plane is stopping") }

// all are the streams of this moment.
func (s *Store) all() []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	streams := make([]*stream, 0, len(s.streams))
	for _, st := range s.streams {
		streams = append(streams, st)
	}
	return streams
}

// Package ads sends worlds to proxies: it holds one record per stream of the
// aggregated discovery service and answers each with what differs from what
// its proxy holds.
package ads

import (
	"context"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"

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

// withStream marks the context that Identify gets.
func withStream(ctx context.Context, stream uint64) context.Context {
	return context.WithValue(ctx, streamKey{}, stream)
}

type streamKey struct{}

// StoreOptions are what a Store needs from its surroundings. Zero values of
// InFlight and SendTimeout mean 64 and 30 s.
type StoreOptions struct {
	Identify Identify
	// Notify hears what happens on streams. It must not block; no lock of
	// the store is held while it runs. Events of one stream come in order.
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
	options StoreOptions

	mu      sync.Mutex
	streams map[uint64]*stream
	nextID  uint64
	closed  bool
}

// NewStore makes a store without a world: its streams wait for the first Apply.
func NewStore(o StoreOptions) *Store {
	return &Store{options: o, streams: map[uint64]*stream{}}
}

// Apply makes w the world that proxies get. Streams whose tables did not move
// are sent nothing.
func (s *Store) Apply(w *World) {}

// Register adds the aggregated discovery service to g, which must have been
// made with ServerOptions.
func (s *Store) Register(g *grpc.Server) {}

// ServerOptions are what a gRPC server that serves a Store must be made with.
func ServerOptions() []grpc.ServerOption { return nil }

// ProxyState is what a stream was sent and what its proxy said to it.
type ProxyState struct {
	Stream    uint64
	Node      string
	Proxy     model.Proxy
	Delta     bool // protocol: delta or state of the world
	Connected time.Time
	// Known is false while the proxy waits for its classes to be computed.
	Known bool
	// Secrets says whether the proxy truthfully acknowledged default and ROOTCA.
	Secrets bool
	Types   []TypeState // in push order, only types that were asked for
}

// TypeState is the part of a ProxyState about one type.
type TypeState struct {
	TypeURL  string
	Sent     string // version last sent; empty: nothing
	Acked    string // version last acknowledged; empty: none
	InFlight bool   // the last response is not answered yet
	Nonce    string
	SentAt   time.Time
	AckedAt  time.Time
	Acks     int
	Nacks    int
	Nack     string // text of the last refusal
	NackedAt time.Time
	Refused  []string // names of resources that are withheld because refused
}

// Proxies describes all connected streams, sorted by node and stream.
func (s *Store) Proxies() []ProxyState { return nil }

// SentResources are the resources of one type that a proxy was sent.
type SentResources struct {
	TypeURL   string
	Resources []*translate.Resource
}

// Config is what the newest stream of the node holds, by type in push order;
// false if the node is not connected.
func (s *Store) Config(node string) ([]SentResources, bool) { return nil, false }

// End ends one stream with err, a gRPC status: its certificate has expired,
// or its workload has gone. A stream that is not there is no error.
func (s *Store) End(stream uint64, err error) {}

// Close ends all streams with Unavailable, and every later one.
func (s *Store) Close() {}

type stream struct{}

package ads

import (
	"cmp"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshpilot/pilot/pkg/discovery/ads/wire"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

// stream is one proxy's connection. Its handler goroutine reads requests;
// a worker of the store writes responses when there is something to send.
type stream struct {
	store   *Store
	grpc    grpc.ServerStream
	id      uint64
	delta   bool
	node    string
	key     string // proxyKey
	proxy   model.Proxy
	started time.Time
	known   chan struct{} // closed once the proxy's halves are there, and early is handled
	place   place         // guarded by the store's mutex

	sending sync.Mutex // held during SendMsg; the handler takes it to leave
	left    bool       // guarded by sending

	mu             sync.Mutex
	early          []wire.Request // read ahead, before known
	heardAt        time.Time      // of the last of them
	outbox         *wire.Message  // composed, and to be sent by a worker
	gen            *generation
	client, server *half
	kinds          [kinds]subscription
	secrets        []secret
	spelled        [2]spellings // for which no secret is left to send
	claims         bool         // the proxy held something when it connected
	reached        uint64       // the last generation of which it acknowledged all
	residentOnly   bool         // sds-resident is all that it was sent of clusters
	nonces         uint64
	warmBy         time.Time // routes and listeners wait no longer for warming clusters
	wakeAt         time.Time
	timer          *time.Timer
	end            error
}

// subscription is the state of one kind on one stream.
type subscription struct {
	asked   bool
	scope   scope
	strange []string // subscribed names that no table ever had

	answer bool     // the next response is due even if it is empty
	force  subset   // names to send even if held
	gone   []string // names to tell as removed

	held    [2]holding // of the client half (or the mesh's endpoints), of the server half
	flight  *flight    // the response that is not answered yet
	retryAt time.Time  // after a refusal
	refusals

	sent, acked, nonce string
	sentAt, ackedAt    time.Time
	acks, nacks        int
	row                int // refusals since the last acknowledgement
	nack               string
	nackedAt           time.Time
}

// flight is a response on its way.
type flight struct {
	version string
	changes [2]*change
	from    [2]holding
	secret  string
}

// warms says whether the response brings what the proxy has to warm.
func (f *flight) warms() bool {
	for _, c := range f.changes {
		if c != nil && len(c.updates) > 0 {
			return true
		}
	}
	return false
}

// serve is the handler of both methods: it returns when the stream ends.
func (s *Store) serve(g grpc.ServerStream, delta bool) error {
	var r wire.Request
	defer r.Free()
	if err := g.RecvMsg(&r); err != nil {
		return err
	}
	if err := parse(&r, delta); err != nil {
		return err
	}
	st, err := s.open(g, delta, &r)
	if err != nil {
		return err
	}
	err = st.reason(st.read(&r))
	wire.End(g.Context(), err) // wakes a worker that sends
	st.sending.Lock()
	st.left = true
	st.sending.Unlock()
	st.forget()
	s.leave(st, err)
	return err
}

// parse gives malformed requests and requests without a type their error.
func parse(r *wire.Request, delta bool) error {
	if err := r.Parse(delta); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if len(r.TypeURL) == 0 {
		return status.Error(codes.InvalidArgument, "type URL is required for ADS")
	}
	return nil
}

// open identifies the proxy and takes it into the store.
func (s *Store) open(g grpc.ServerStream, delta bool, r *wire.Request) (*stream, error) {
	node := new(corev3.Node)
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(r.Node, node); err != nil {
		return nil, status.Error(codes.InvalidArgument, "malformed node")
	}
	id := s.number()
	proxy, err := s.options.Identify(context.WithValue(g.Context(), streamKey{}, id), node)
	if err != nil {
		return nil, err
	}
	st := &stream{
		store: s, grpc: g, id: id, delta: delta, node: node.GetId(), key: proxyKey(node), proxy: proxy,
		started: time.Now(), known: make(chan struct{}),
	}
	s.recall(st)
	st.mu.Lock() // Connected is the first event
	defer st.mu.Unlock()
	if err := s.enter(st); err != nil {
		return nil, err
	}
	st.emit(Event{Kind: Connected})
	return st, nil
}

// read handles requests until the stream ends. They wait for the proxy's
// configuration, so that what a proxy says it holds is always compared with
// something.
func (s *stream) read(r *wire.Request) error {
	s.store.enqueue(s)
	for {
		if s.ahead(r) {
			*r = wire.Request{}
		} else {
			select {
			case <-s.known:
			case <-s.grpc.Context().Done():
				return status.FromContextError(s.grpc.Context().Err()).Err()
			}
			if err := s.handle(r); err != nil {
				return err
			}
			r.Free()
		}
		if err := s.grpc.RecvMsg(r); err != nil {
			return err
		}
		if err := parse(r, s.delta); err != nil {
			return err
		}
	}
}

// mostEarly is how many requests of a stream are read ahead: Envoy begins with
// one of each type.
const mostEarly = 16

// ahead keeps a request for when the proxy's configuration is there. It says
// false if it is there, or if the store reads no further ahead.
func (s *stream) ahead(r *wire.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil || len(s.early) == mostEarly || s.store.ahead.Add(-int64(r.Size())) < 0 {
		return false
	}
	s.early = append(s.early, *r)
	s.heardAt = time.Now()
	return true
}

// forget gives back what was read ahead for nothing.
func (s *stream) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.early {
		s.early[i].Free()
	}
	s.early = nil
}

// catchUp handles what was read ahead.
func (s *stream) catchUp() error {
	var err error
	for i := range s.early {
		if k, ok := kindOf(s.early[i].TypeURL); ok && err == nil {
			err = s.request(k, &s.early[i])
		}
		s.early[i].Free()
	}
	s.early = nil
	return err
}

// handle applies one request and lets a worker send what it asks for; most
// are acknowledgements, which ask for nothing.
func (s *stream) handle(r *wire.Request) error {
	k, ok := kindOf(r.TypeURL)
	if !ok {
		return nil
	}
	s.mu.Lock()
	s.sync()
	err := s.request(k, r)
	more := s.prepare() != nil
	s.mu.Unlock()
	if more {
		s.store.enqueue(s)
	}
	return err
}

func (s *stream) request(k kind, r *wire.Request) error {
	if s.delta {
		return s.deltaRequest(k, r)
	}
	return s.sotwRequest(k, r)
}

// prepare composes the next response, unless one waits to be sent.
func (s *stream) prepare() *wire.Message {
	if s.outbox == nil {
		s.outbox = s.next(time.Now())
	}
	return s.outbox
}

// sync moves the stream to the store's generation. A proxy whose halves are
// not in it keeps those it has.
func (s *stream) sync() {
	g := s.store.generation.Load()
	if g == nil || g == s.gen || s.gen != nil && s.gen.names.era != g.names.era {
		return // of another era: the stream is about to end
	}
	grown := s.gen == nil || s.gen.names != g.names
	s.gen = g
	if clientClass, serverClass, ok := g.world.Snapshot.ClassOf(s.proxy); ok {
		client, server := g.halves[g.world.Client[clientClass]], g.halves[g.world.Server[serverClass]]
		if client != nil && server != nil {
			first := s.client == nil
			s.client, s.server = client, server
			if first {
				s.become()
			}
		}
	}
	for k := range s.kinds {
		if sub := &s.kinds[k]; grown && len(sub.strange) > 0 {
			names := sub.strange
			sub.strange = nil
			found, _ := s.resolve(sub, names)
			sub.scope.subset = sub.scope.subset.with(found)
			sub.force = sub.force.with(found)
		}
	}
}

// become lets the requests in that waited for the proxy's configuration.
func (s *stream) become() {
	if err := s.catchUp(); err != nil {
		s.end = cmp.Or(s.end, err)
		wire.End(s.grpc.Context(), err)
	}
	close(s.known)
}

// resolve numbers names; those that have none become strange.
func (s *stream) resolve(sub *subscription, names []string) (subset, error) {
	var bits []byte
	for _, name := range names {
		if id, ok := s.gen.names.number[name]; ok {
			bits = mark(bits, id)
		} else if err := sub.addStrange(name); err != nil {
			return subset{}, err
		}
	}
	return newSubset(bits), nil
}

// addStrange remembers a name that may come to exist.
func (sub *subscription) addStrange(name string) error {
	const most = 10_000
	if len(sub.strange) >= most {
		return status.Error(codes.ResourceExhausted, "too many subscriptions to resources that do not exist")
	}
	sub.strange = append(sub.strange, name)
	return nil
}

// targets are the lists that the proxy should have of a kind.
func (s *stream) targets(k kind) [2]*list {
	if k == endpoints {
		return [2]*list{s.gen.endpoints, nil}
	}
	return [2]*list{s.client.lists[k], s.server.lists[k]}
}

// wanted is the resource of that name that the proxy should have, or nil.
func (s *stream) wanted(k kind, name string) *translate.Resource {
	to := s.targets(k)
	if r := to[0].get(name); r != nil {
		return r
	}
	return to[1].get(name)
}

// emit tells of an event. The stream's mutex is held, which keeps their order.
func (s *stream) emit(e Event) {
	if s.store.options.Notify == nil {
		return
	}
	e.Stream, e.Node, e.Proxy, e.Time = s.id, s.node, s.proxy, time.Now()
	s.store.options.Notify(e)
}

// later says whether t is still to come, and if so has the stream looked at
// again then.
func (s *stream) later(t, now time.Time) bool {
	if !now.Before(t) {
		return false
	}
	if s.wakeAt.IsZero() || t.Before(s.wakeAt) {
		s.wakeAt = t
	}
	return true
}

// schedule arms the timer for what later noted.
func (s *stream) schedule(now time.Time) {
	switch {
	case s.wakeAt.IsZero():
		if s.timer != nil {
			s.timer.Stop()
			s.timer = nil
		}
	case s.timer == nil:
		s.timer = time.AfterFunc(s.wakeAt.Sub(now), func() { s.store.enqueue(s) })
	default:
		s.timer.Reset(s.wakeAt.Sub(now))
	}
}

// stop ends the stream with err; only the first call counts.
func (s *stream) stop(err error) {
	s.mu.Lock()
	if s.end == nil {
		s.end = err
	}
	s.mu.Unlock()
	wire.End(s.grpc.Context(), err)
}

// reason is the status that the handler returns: err, unless the stream was
// stopped or the client is done.
func (s *stream) reason(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.end != nil {
		return s.end
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Package fakeenvoy is a proxy for tests: it speaks real ADS over gRPC, delta
// or state of the world, and asks for what Envoy asks for, in Envoy's order:
// clusters, their endpoints, their secrets, then listeners, their secrets and
// routes. It holds configuration but carries no traffic.
package fakeenvoy

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshpilot/pilot/pkg/translate"
)

// Options are how an Envoy behaves. The zero value accepts everything.
type Options struct {
	Node *corev3.Node
	SotW bool // state of the world instead of delta
	// Refuse gives the text of a NACK for a response, or empty to accept it.
	Refuse func(Response) string
	// Held is what the proxy holds from an earlier connection.
	Held Held
}

// Held are resources by type URL and name.
type Held map[string]map[string]Resource

// Resource is one resource with its version; in state of the world the
// response's.
type Resource struct {
	Version string
	Body    *anypb.Any
}

// Response is what the control plane sent in one message.
type Response struct {
	TypeURL, Version, Nonce string
	Resources               map[string]Resource
	Removed                 []string
	Refused                 string // text of the NACK that it was answered with
}

// Envoy is one connected proxy.
type Envoy struct {
	options Options
	wire    wire
	cancel  context.CancelFunc
	ended   chan struct{}
	sending sync.Mutex // held while requests are written

	mu        sync.Mutex
	held      Held
	asked     map[string]map[string]bool // subscribed names by type URL
	responses []Response
	err       error
	started   bool            // the first clusters were acknowledged
	warming   map[string]bool // endpoints without which clusters is not acknowledged
	clusters  *Response       // waits for warming
}

// warmFor is how long a cluster without endpoints keeps the acknowledgement
// back, as Envoy's initial_fetch_timeout does.
const warmFor = 15 * time.Second

// Connect opens a stream on conn and asks for clusters, and after a
// reconnection for all that Held implies. Close ends it.
func Connect(ctx context.Context, conn grpc.ClientConnInterface, o Options) (*Envoy, error) {
	ctx, cancel := context.WithCancel(ctx)
	e := &Envoy{options: o, cancel: cancel, ended: make(chan struct{}), held: Held{}, asked: map[string]map[string]bool{}}
	for _, url := range order() {
		e.held[url] = maps.Clone(o.Held[url])
		if e.held[url] == nil {
			e.held[url] = map[string]Resource{}
		}
	}
	var err error
	if e.wire, err = dial(ctx, discoveryv3.NewAggregatedDiscoveryServiceClient(conn), o); err != nil {
		cancel()
		return nil, err
	}
	e.ask(translate.ClusterType)
	if len(o.Held) > 0 {
		e.started = true
		e.ask(translate.ListenerType)
		e.refer()
	}
	go e.run()
	return e, nil
}

func order() []string {
	return []string{translate.SecretType, translate.ClusterType, translate.EndpointType, translate.ListenerType, translate.RouteType}
}

// Close disconnects and gives what the proxy holds.
func (e *Envoy) Close() Held {
	e.cancel()
	<-e.ended
	return e.Held()
}

// Err is why the stream ended; nil while it is there.
func (e *Envoy) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// Held is what the proxy holds now.
func (e *Envoy) Held() Held {
	e.mu.Lock()
	defer e.mu.Unlock()
	held := Held{}
	for url, resources := range e.held {
		held[url] = maps.Clone(resources)
	}
	return held
}

// Names are the names of the resources of a type that the proxy holds, sorted.
func (e *Envoy) Names(url string) []string {
	return slices.Sorted(maps.Keys(e.Held()[url]))
}

// Responses are all responses so far, in order.
func (e *Envoy) Responses() []Response {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.responses)
}

func (e *Envoy) run() {
	defer close(e.ended)
	for {
		r, err := e.wire.receive()
		if err == nil {
			err = e.apply(r)
		}
		if err != nil {
			e.mu.Lock()
			e.err = err
			e.mu.Unlock()
			return
		}
	}
}

// apply takes a response, asks for what it refers to, and answers it. Like
// Envoy after its start, it answers clusters when they are warm: when their
// endpoints came, changed or not.
func (e *Envoy) apply(r Response) error {
	if e.options.Refuse != nil {
		r.Refused = e.options.Refuse(r)
	}
	e.mu.Lock()
	e.responses = append(e.responses, r)
	warming := e.take(r)
	wait := r.TypeURL == translate.ClusterType && e.started && len(warming) > 0
	if wait {
		e.warming, e.clusters = warming, &r
		time.AfterFunc(warmFor, func() { e.warm(r.Nonce) })
	}
	e.mu.Unlock()
	if !wait {
		if err := e.answer(r); err != nil {
			return err
		}
	}
	e.refer()
	if r.TypeURL == translate.ClusterType {
		e.ask(translate.ListenerType)
	}
	if r.TypeURL == translate.EndpointType && r.Refused == "" {
		e.warmed(r)
	}
	return nil
}

// take makes an accepted response's resources those that are held, and gives
// the endpoints that its clusters need anew.
func (e *Envoy) take(r Response) map[string]bool {
	if r.Refused != "" {
		return nil
	}
	held := e.held[r.TypeURL]
	fresh := Held{r.TypeURL: {}}
	for name, resource := range r.Resources {
		if old, ok := held[name]; !ok || !bytes.Equal(old.Body.GetValue(), resource.Body.GetValue()) {
			fresh[r.TypeURL][name] = resource
		}
	}
	if e.options.SotW && (r.TypeURL == translate.ClusterType || r.TypeURL == translate.ListenerType) {
		clear(held)
	}
	maps.Copy(held, r.Resources)
	for _, name := range r.Removed {
		delete(held, name)
	}
	return references(fresh)[translate.EndpointType]
}

func (e *Envoy) answer(r Response) error {
	e.mu.Lock()
	names := slices.Sorted(maps.Keys(e.asked[r.TypeURL]))
	if r.TypeURL == translate.ClusterType {
		e.started = true
	}
	e.mu.Unlock()
	e.sending.Lock()
	defer e.sending.Unlock()
	return e.wire.answer(r, names)
}

// warmed answers the clusters that wait for nothing but r.
func (e *Envoy) warmed(r Response) {
	e.mu.Lock()
	for name := range r.Resources {
		delete(e.warming, name)
	}
	nonce := ""
	if e.clusters != nil && len(e.warming) == 0 {
		nonce = e.clusters.Nonce
	}
	e.mu.Unlock()
	if nonce != "" {
		e.warm(nonce)
	}
}

// warm answers the clusters of that response if they still wait.
func (e *Envoy) warm(nonce string) {
	e.mu.Lock()
	r := e.clusters
	if r == nil || r.Nonce != nonce {
		e.mu.Unlock()
		return
	}
	e.clusters = nil
	e.mu.Unlock()
	_ = e.answer(*r) // a failure shows in receive
}

// ask subscribes to all of a type, once.
func (e *Envoy) ask(url string) {
	e.mu.Lock()
	held := e.held[url]
	first := e.asked[url] == nil
	if first {
		e.asked[url] = map[string]bool{}
	}
	e.mu.Unlock()
	if first {
		e.sending.Lock()
		defer e.sending.Unlock()
		e.wire.subscribe(url, nil, nil, nil, held)
	}
}

// refer brings the subscriptions to endpoints, secrets and routes in line
// with what clusters and listeners refer to.
func (e *Envoy) refer() {
	e.mu.Lock()
	want := references(e.held)
	type step struct {
		url            string
		all, add, drop []string
		first          bool
		held           map[string]Resource
	}
	var steps []step
	for _, url := range []string{translate.EndpointType, translate.SecretType, translate.RouteType} {
		s := step{url: url, first: e.asked[url] == nil, all: slices.Sorted(maps.Keys(want[url])), held: map[string]Resource{}}
		for _, name := range s.all {
			if !e.asked[url][name] {
				s.add = append(s.add, name)
			}
		}
		for name := range e.asked[url] {
			if !want[url][name] {
				s.drop = append(s.drop, name)
				delete(e.held[url], name)
			}
		}
		slices.Sort(s.drop)
		maps.Copy(s.held, e.held[url])
		if len(s.add) > 0 || len(s.drop) > 0 {
			e.asked[url] = want[url]
			steps = append(steps, s)
		}
	}
	e.mu.Unlock()
	e.sending.Lock()
	defer e.sending.Unlock()
	for _, s := range steps {
		held := s.held
		if !s.first {
			held = nil
		}
		e.wire.subscribe(s.url, s.all, s.add, s.drop, held)
	}
}

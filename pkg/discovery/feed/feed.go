// Package feed takes what sidecars tell of their inbound traffic: access logs
// of what is not mesh mTLS, with who sent it, and the gauges that say what is
// still open. It keeps a bounded summary per proxy for the hub, which decides
// by it how far a change may go. What it was not told it calls unknown.
package feed

import (
	"context"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/meshpilot/pilot/pkg/model"
)

const (
	// wakeTime is how often readers are woken at most.
	wakeTime = 100 * time.Millisecond
	// enoughFlushes of a stream: what they do not tell is zero.
	enoughFlushes = 2
	// maxProxies bounds the memory that names without a workload can take.
	maxProxies = 50_000
)

// Options are what a Feed needs of its surroundings.
type Options struct {
	// Identify says which workload the node of a stream is, or with a gRPC
	// status why the stream must end. check, which may be nil, is asked again
	// as long as the stream lives.
	Identify func(ctx context.Context, node *corev3.Node) (id model.WorkloadID, check func() error, err error)
	// Count takes how many records were read, and how many were too many; nil
	// is nobody. It may not block, nor may Refused.
	Count func(read, excess uint64)
	// Refused takes how much more plaintext a port has refused.
	Refused func(id model.WorkloadID, port uint16, more uint64)
}

// Feed is the evidence of all proxies. Safe for concurrent use.
type Feed struct {
	options Options
	changed chan struct{}

	mu      sync.Mutex
	proxies map[model.WorkloadID]*proxy
	streams map[*stream]bool
	closed  bool
	wokenAt time.Time
	waking  bool // a timer will
}

// proxy is one sidecar's state.
type proxy struct {
	mu          sync.Mutex
	logStreams  int
	statStreams int
	tellsAll    bool      // what its stats leave out is zero
	crowded     bool      // some ports found no place
	since       time.Time // some stream is open
	statsSince  time.Time
	gapAt       time.Time // a record may have been missed
	flushes     int       // of this stream
	flushed     time.Time
	ports       map[uint16]*traffic
	budgets     [2]budget // of what was served, of what was refused

	read, excess    uint64
	counted         bool   // handshakes is known
	handshakes      uint64 // the counter
	handshakeErrors uint64
	lost            uint64
}

// New returns a Feed without proxies.
func New(o Options) *Feed {
	if o.Count == nil {
		o.Count = func(_, _ uint64) {}
	}
	if o.Refused == nil {
		o.Refused = func(model.WorkloadID, uint16, uint64) {}
	}
	return &Feed{
		options: o, changed: make(chan struct{}, 1),
		proxies: map[model.WorkloadID]*proxy{}, streams: map[*stream]bool{},
	}
}

// Changed wakes a reader when there are new peers, when a gauge leaves or
// reaches zero, and when a stream begins or ends; at most every 100 ms.
func (f *Feed) Changed() <-chan struct{} { return f.changed }

// Of is what a workload's sidecar told; false if it told nothing.
func (f *Feed) Of(id model.WorkloadID) (Proxy, bool) {
	f.mu.Lock()
	p := f.proxies[id]
	f.mu.Unlock()
	if p == nil {
		return Proxy{}, false
	}
	return p.copy(), true
}

// Each shows what every sidecar told, in no order.
func (f *Feed) Each(show func(model.WorkloadID, Proxy)) {
	f.mu.Lock()
	all := make(map[model.WorkloadID]*proxy, len(f.proxies))
	for id, p := range f.proxies {
		all[id] = p
	}
	f.mu.Unlock()
	for id, p := range all {
		show(id, p.copy())
	}
}

// Retain forgets the workloads that are not wanted and have no stream.
func (f *Feed) Retain(wanted func(model.WorkloadID) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, p := range f.proxies {
		if !p.open() && !wanted(id) {
			delete(f.proxies, id)
		}
	}
}

// Streams are the open streams of access logs and of stats.
func (f *Feed) Streams() (logs, stats int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for st := range f.streams {
		if st.stats {
			stats++
		} else {
			logs++
		}
	}
	return logs, stats
}

// wake tells readers that something changed.
func (f *Feed) wake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waking {
		return
	}
	if wait := wakeTime - time.Since(f.wokenAt); wait > 0 {
		f.waking = true
		time.AfterFunc(wait, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.waking = false
			f.signal()
		})
		return
	}
	f.signal()
}

func (f *Feed) signal() {
	f.wokenAt = time.Now()
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// of is the state of a workload's proxy; nil if there are too many.
func (f *Feed) of(id model.WorkloadID) *proxy {
	p := f.proxies[id]
	if p == nil && len(f.proxies) < maxProxies {
		p = &proxy{ports: map[uint16]*traffic{}}
		f.proxies[id] = p
	}
	return p
}

func (p *proxy) open() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.logStreams+p.statStreams > 0
}

// port is the state of a port; nil if there are too many.
func (p *proxy) port(port uint16) *traffic {
	t := p.ports[port]
	switch {
	case t != nil:
	case len(p.ports) < maxPorts:
		t = &traffic{}
		p.ports[port] = t
	default:
		p.crowded = true
	}
	return t
}

// known says that the figures are those of one Envoy, and that what they
// leave out is zero.
func (p *proxy) known() bool {
	return p.tellsAll && !p.crowded && p.statStreams == 1 && p.flushes >= enoughFlushes
}

// gap notes that a record may have been missed.
func (p *proxy) gap(now time.Time) { p.gapAt = now }

func (p *proxy) copy() Proxy {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := Proxy{
		Stats: p.statsSince, Gap: p.gapAt, Ports: make(map[uint16]Traffic, len(p.ports)),
		HandshakeErrors: p.handshakeErrors, Records: p.read, Excess: p.excess,
		absent: Open{Known: p.known(), At: p.flushed},
	}
	if !p.since.IsZero() {
		out.Logs = p.since
		if p.gapAt.After(out.Logs) {
			out.Logs = p.gapAt
		}
	}
	for port, t := range p.ports {
		out.Ports[port] = t.copy(out.absent)
	}
	return out
}

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/meshpilot/pilot/pkg/lab/app"
	"github.com/meshpilot/pilot/pkg/lab/envoy"
	"github.com/meshpilot/pilot/pkg/lab/rotation"
	"github.com/meshpilot/pilot/pkg/model"
)

const (
	callTimeout = 5 * time.Second
	sessionTime = 2500 * time.Millisecond // of long connections that end by themselves
	// maxRate bounds all traffic of a lab, in requests a second; a pair never
	// makes more than pairRate.
	maxRate  = 300
	pairRate = 10
	// The calls of the last recentTime, at most recentCalls and at least the
	// latest, decide what the table says of "now".
	recentTime  = 600 * time.Millisecond
	recentCalls = 10
)

// pair is one caller and one service port, and what became of its calls.
type pair struct {
	caller  model.WorkloadID
	uri     string // the caller's identity
	sidecar bool   // the caller has one
	target  target
	leaves  func() *rotation.Leaves // of the caller's sidecar; nil if it has none
	clients []*app.Client           // one, or one per endpoint for a caller without a sidecar

	newClient func() *app.Client
	probe     func(Call)    // nil but in a drill
	silent    func() bool   // it makes no calls now
	renewals  func() uint64 // what is open longer than since this changed last is given up

	mu         sync.Mutex
	sum        tally
	firstError string
	lastError  string
	recent     []outcome // the latest last, at most recentCalls
	conns      envoy.Connections
	share      float64 // of connections in the last interval with one; line protocols
	connsBase  envoy.Connections
	connsSeen  bool
	seen       rotation.Leaf // the caller's latest, by the answers so far
	seenHash   string
	changes    int // of seen
}

// tally counts calls. Mesh counts those whose answer names the caller's
// identity; only HTTP answers do.
type tally struct{ requests, failed, mesh uint64 }

type outcome struct {
	at           time.Time
	failed, mesh bool
	hash         string // of the caller's certificate, as the callee saw it
}

// pair is c as a caller of t.
func (l *Lab) pair(c *cell, t target) *pair {
	p := &pair{
		caller: c.id, uri: c.uri, sidecar: c.sidecar, target: t, leaves: c.leaves.Load,
		silent: func() bool { return false }, renewals: l.renewals.Load,
	}
	targets := t.direct()
	if c.sidecar {
		targets = []app.Target{t.through()}
	}
	for _, one := range targets {
		p.clients = append(p.clients, app.NewClient(c.id.Name, one, c.dial, c.proxy))
	}
	p.newClient = func() *app.Client { return app.NewClient(c.id.Name, targets[0], c.dial, c.proxy) }
	if drill := l.options.Drill; drill != nil {
		p.probe = drill.Call
		p.silent = func() bool { return !c.sidecar && !l.strangers.Load() }
	}
	return p
}

// run calls the target every interval until ctx ends, by turns on a kept
// connection and on a new one.
func (p *pair) run(ctx context.Context, first, interval time.Duration) {
	timer := time.NewTimer(first)
	defer timer.Stop()
	renewals := p.renewals()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			p.closeAll()
			return
		case <-timer.C:
		}
		timer.Reset(interval)
		if now := p.renewals(); now != renewals {
			renewals = now
			p.closeAll()
		}
		if p.silent() {
			p.closeAll()
			continue
		}
		p.call(ctx, p.clients[i/2%len(p.clients)], i%2 == 0)
	}
}

// lasting adds, in a drill, what outlives a change: slow requests, sessions of
// some seconds, and connections and streams that end only when RenewLong says.
func (l *Lab) lasting(ctx context.Context, p *pair) {
	if p.probe == nil || !p.sidecar {
		return
	}
	done := func(kind Kind) app.Done {
		return func(begin time.Time, cut bool, echo app.Echo, err error) {
			if err == nil && kind == SlowRequest {
				err = p.check(echo)
			}
			p.count(err)
			p.report(kind, begin, cut, err)
		}
	}
	if p.target.protocol.IsHTTP() {
		l.traffic.Go(func() { p.newClient().KeepSlow(ctx, done(SlowRequest)) })
	}
	l.traffic.Go(func() { p.newClient().KeepLong(ctx, sessionTime, p.renewals, done(LongConnection)) })
	l.traffic.Go(func() { p.newClient().KeepLong(ctx, 0, p.renewals, done(LongConnection)) })
}

func (p *pair) closeAll() {
	for _, c := range p.clients {
		c.Close()
	}
}

func (p *pair) call(ctx context.Context, client *app.Client, keepAlive bool) {
	begin := time.Now()
	limited, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	echo, err := client.Call(limited, keepAlive)
	if ctx.Err() != nil {
		return // the lab is stopping, which is nobody's failure
	}
	if err == nil {
		err = p.check(echo)
	}
	p.record(outcome{at: time.Now(), failed: err != nil, mesh: err == nil && echo.Peer != "", hash: echo.PeerHash}, err)
	kind := NewConnection
	if keepAlive {
		kind = KeptConnection
	}
	var cut *app.CutError
	if errors.As(err, &cut) {
		begin = cut.Used
	}
	p.report(kind, begin, cut != nil, err)
}

// check fails if another application answered than should, or if the sidecar
// there takes the caller for somebody else.
func (p *pair) check(echo app.Echo) error {
	if echo.Peer != "" && echo.Peer != p.uri {
		return fmt.Errorf("the callee's sidecar reports the caller as %s, but it is %s", echo.Peer, p.uri)
	}
	for _, e := range p.target.endpoints {
		if e.workload.Name == echo.Name {
			return nil
		}
	}
	return fmt.Errorf("%s answered, which is not behind the service", echo.Name)
}

func (p *pair) record(o outcome, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.add(err)
	if o.mesh {
		p.sum.mesh++
		p.recordLeaf(o.hash)
	}
	if len(p.recent) == recentCalls {
		p.recent = append(p.recent[:0], p.recent[1:]...)
	}
	p.recent = append(p.recent, o)
}

// count adds a call that says nothing of now.
func (p *pair) count(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.add(err)
}

func (p *pair) add(err error) {
	p.sum.requests++
	if err != nil {
		p.sum.failed++
		p.lastError = errorText(err)
		if p.firstError == "" {
			p.firstError = p.lastError
		}
	}
}

// recordLeaf takes which certificate of the caller the callee saw. Older ones
// on connections that are still open do not count as a change.
func (p *pair) recordLeaf(hash string) {
	l := p.leaves()
	if l == nil || hash == p.seenHash {
		return
	}
	seen := l.ByHash(hash)
	if p.seen.Number > 0 && seen.Number > p.seen.Number {
		p.changes++
	}
	if seen.Number >= p.seen.Number {
		p.seen, p.seenHash = seen, hash
	}
}

// errorText leaves out the addresses of a network error: the row has those
// that matter, and the caller's port differs each time.
func errorText(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}

// recordConnections takes what the caller's sidecar counts for the target's
// cluster. Its counters start again with the process.
func (p *pair) recordConnections(now envoy.Connections) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.connsSeen || now.All < p.connsBase.All || now.TLS < p.connsBase.TLS {
		p.connsSeen, p.connsBase = true, now
		return
	}
	opened := envoy.Connections{All: now.All - p.connsBase.All, TLS: now.TLS - p.connsBase.TLS}
	if opened.All == 0 {
		return // a handshake still under way counts with its connection
	}
	p.connsBase = now
	p.conns.All += opened.All
	p.conns.TLS += opened.TLS
	p.share = min(1, float64(opened.TLS)/float64(opened.All))
}

// Row is the state of one pair, as the table shows it.
type Row struct {
	Caller   string `json:"caller"`
	Sidecar  bool   `json:"sidecar"` // the caller has one
	Callee   string `json:"callee"`  // host
	Port     uint16 `json:"port"`
	Protocol string `json:"protocol"`
	Requests uint64 `json:"requests"`
	Failed   uint64 `json:"failed"`
	// MTLS is the share of all answered calls (HTTP), or of the envoy.Connections
	// that the caller's sidecar opened (TCP), in mesh mTLS.
	MTLS       float64 `json:"mtls"`
	FirstError string  `json:"firstError,omitempty"`
	// Now is MTLS of the latest calls, and FailedNow how many of them failed.
	Now       float64 `json:"-"`
	FailedNow int     `json:"-"`
	lastError string
	latest    int // how many calls Now and FailedNow are about
	// Since is when the oldest of the latest calls was answered.
	Since time.Time `json:"-"`
	// PeerSerial is that of the caller's latest certificate that an answer told
	// of, and PeerLeaf its number; PeerChanges is how often there was a later one.
	PeerSerial  string `json:"peerSerial,omitempty"`
	PeerLeaf    int    `json:"peerLeaf,omitempty"`
	PeerChanges int    `json:"peerChanges,omitempty"`
	// Leaf is the number of the caller's certificate in its files.
	Leaf int `json:"leaf,omitempty"`
	// Mode is what policy wants of the callee's ports, Phase what is in force
	// there: MIXED if they differ.
	Mode  string `json:"mode"`
	Phase string `json:"phase"`
	way   string // both in few words
	// Age is how long ago the caller's Envoy took its latest configuration;
	// negative if the caller has none.
	Age time.Duration `json:"-"`
}

func (p *pair) row() Row {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := Row{
		Caller: callerName(p.caller), Sidecar: p.sidecar, Callee: p.target.host, Port: p.target.port,
		Protocol: p.target.protocol.String(), Requests: p.sum.requests, Failed: p.sum.failed, FirstError: p.firstError,
	}
	r.PeerSerial, r.PeerLeaf, r.PeerChanges = p.seen.Serial, p.seen.Number, p.changes
	if l := p.leaves(); l != nil {
		r.Leaf = l.Last().Number
	}
	recent := p.latest(time.Now())
	r.latest, r.lastError = len(recent), p.lastError
	mesh := 0
	for _, o := range recent {
		if o.failed {
			r.FailedNow++
		}
		if o.mesh {
			mesh++
		}
	}
	if len(recent) > 0 {
		r.Since = recent[0].at
	}
	if !p.target.protocol.IsHTTP() {
		r.Now, r.MTLS = p.share, ratio(p.conns.TLS, p.conns.All)
		return r
	}
	r.Now = ratio(uint64(mesh), uint64(len(recent)-r.FailedNow))
	r.MTLS = ratio(p.sum.mesh, p.sum.requests-p.sum.failed)
	return r
}

// latest are the outcomes that describe now.
func (p *pair) latest(now time.Time) []outcome {
	i := max(0, len(p.recent)-1)
	for i > 0 && now.Sub(p.recent[i-1].at) < recentTime {
		i--
	}
	return p.recent[i:]
}

func ratio(part, all uint64) float64 {
	if all == 0 {
		return 0
	}
	return min(1, float64(part)/float64(all))
}

// callerName is namespace/name; the lab's own client has no namespace.
func callerName(id model.WorkloadID) string { return strings.TrimPrefix(id.String(), "/") }

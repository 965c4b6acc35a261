// Package discovery is the shell: the loop that turns bundles into worlds,
// the store that sends them to proxies over ADS, and the record of what
// proxies answered. All goroutines and locks of the data path are here.
package discovery

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/discovery/feed"
	"github.com/meshpilot/pilot/pkg/discovery/replica"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/discovery/survey"
	"github.com/meshpilot/pilot/pkg/discovery/traffic"
	"github.com/meshpilot/pilot/pkg/identity/secrets"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

const (
	shownTime   = 50 * time.Millisecond  // pages may be so old, so that bursts of answers cost nothing
	quietTime   = 100 * time.Millisecond // a change waits for more of it
	connectTime = 10 * time.Millisecond  // proxies without configuration wait for others
	notedTime   = time.Second            // the history of plaintext peers is written no more often
	refusedTime = time.Minute            // after its last attempt, a refused node's problem is gone
)

// hub is the one loop: it turns bundles into worlds for the classes that are
// connected, and what proxies say into problems, evidence and edits that are
// done. Everything below the line is touched by run only.
type hub struct {
	domain  string
	log     *slog.Logger
	metrics *status.Metrics
	store   *ads.Store
	feed    *feed.Feed
	peers   peers
	mailbox chan delivery // holds one; the latest wins
	events  mailbag
	reports reports
	secrets *secrets.Controller // nil is none
	// accountObjects says that workloads do not tell of accounts.
	accountObjects bool
	// configured is closed when there is a snapshot.
	configured chan struct{}
	refusals   refusals
	versions   survey.Versions
	history    traffic.History
	// What others read, and run alone writes.
	snapshot  atomic.Pointer[model.Snapshot]
	world     atomic.Pointer[ads.World] // nil before the first
	published atomic.Pointer[status.State]
	unsound   atomic.Pointer[unsound]

	// ---
	problems   *status.Problems
	ledger     *ledger
	translator *translator
	rollouts   *rollouts // nil: modes are in force at once

	bundle    *meshconfig.Bundle // nil before the first
	fresh     bool               // the bundle is not compiled yet
	built     *meshconfig.Bundle // that inputs and snapshot come from
	inputs    model.Inputs
	mesh      status.Mesh
	revision  model.Revision                    // of inputs
	ground    string                            // of inputs; empty for who has no other replicas
	replicas  []replica.Member                  // as the pages show them
	held      map[string]bool                   // origins of problems of held targets
	evidence  map[model.WorkloadID]capturePorts // workloads whose sidecar was seen
	refused   map[string]time.Time              // nodes with bad paths: the last attempt
	firstEdit time.Time                         // of the changes that wait; zero if none does
	buildAt   time.Time                         // when they wait no longer; zero is never
	classesAt time.Time                         // when connected proxies get their classes
	expiresAt time.Time                         // when the first certificate of a stream expires
	moved     bool                              // somebody may be redirected to ports of an earlier mesh
	shownAt   time.Time                         // when the state was published last
	callsAt   time.Time                         // when plaintext peers are looked at again; zero is never
	podCalls  traffic.PodCalls
	notedAt   time.Time // when the history was written last
}

// delivery is a complete configuration as a source published it.
type delivery struct {
	bundle   meshconfig.Bundle
	problems []meshconfig.Problem
	at       time.Time
}

func newHub(domain string, log *slog.Logger, m *status.Metrics) *hub {
	h := &hub{
		domain: domain, log: log, metrics: m,
		mailbox:    make(chan delivery, 1),
		reports:    newReports(),
		configured: make(chan struct{}),
		problems:   status.NewProblems(log, m),
		translator: newTranslator(m),
		evidence:   map[model.WorkloadID]capturePorts{},
		refused:    map[string]time.Time{},
		held:       map[string]bool{},
	}
	h.events.ready = make(chan struct{}, 1)
	h.ledger = newLedger(m, h.problems)
	h.feed = feed.New(feed.Options{Identify: h.identifyTeller, Count: h.counted, Refused: h.plaintextRefused})
	m.EvidenceStreams(h.feed.Streams)
	h.store = ads.NewStore(ads.StoreOptions{Identify: h.identify, Notify: h.events.put})
	h.published.Store(&status.State{})
	return h
}

// publish is where sources put complete configurations. It never blocks.
func (h *hub) publish(b meshconfig.Bundle, problems []meshconfig.Problem) {
	next := delivery{b, problems, time.Now()}
	for {
		select {
		case h.mailbox <- next:
			return
		default:
		}
		select {
		case missed := <-h.mailbox:
			next.at = missed.at // the edit waits since then
		default:
		}
	}
}

// run is the loop; it ends with ctx.
func (h *hub) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-h.mailbox:
			h.receive(d)
		case <-h.events.ready:
			for _, e := range h.events.take() {
				h.hear(e)
			}
			h.ledger.forgive(h.store.Proxies)
			h.heard(time.Now())
		case <-h.feed.Changed():
			h.callsAt = earlier(h.callsAt, time.Now())
			h.heard(time.Now())
		case <-h.rollouts.changed():
			h.regroup(time.Now())
		case <-h.reports.ready:
			for origin, problems := range h.reports.take() {
				h.problems.Set(origin, problems...)
			}
		case <-timer.C:
		}
		timer.Stop()
		if next := h.turn(time.Now()); !next.IsZero() {
			timer.Reset(max(0, time.Until(next)))
		}
	}
}

// receive takes a bundle; it is compiled when it was quiet for a while.
func (h *hub) receive(d delivery) {
	h.problems.Set("source", d.problems...)
	h.ledger.edited(d.at)
	first := h.bundle == nil
	h.bundle, h.fresh = &d.bundle, true
	h.changed(d.at)
	if first {
		h.buildAt = d.at // proxies wait for it
		h.expect(h.bundle, d.at)
	}
}

// changed delays the build of a change until it is quiet, but not for ever.
func (h *hub) changed(at time.Time) {
	if h.firstEdit.IsZero() {
		h.firstEdit = at
	}
	h.buildAt = at.Add(quietTime)
	if s := h.snapshot.Load(); s != nil {
		h.buildAt = earlier(h.buildAt, h.firstEdit.Add(s.Mesh().RefreshDelay))
	}
}

// turn does what is due, publishes the state, and says when to come again.
func (h *hub) turn(now time.Time) (next time.Time) {
	switch {
	case !h.rollouts.ready(): // nothing is in force
	case !h.buildAt.IsZero() && !h.buildAt.After(now):
		h.build()
	case !h.classesAt.IsZero() && !h.classesAt.After(now):
		h.apply(h.snapshot.Load())
	}
	if !h.expiresAt.IsZero() && !h.expiresAt.After(now) {
		h.expel(h.snapshot.Load())
	}
	if !h.callsAt.IsZero() && !h.callsAt.After(now) {
		h.callsAt = h.lookForPodCalls(now)
	}
	ready := h.rollouts.ready()
	if due := h.rollouts.due(); ready && !due.IsZero() && !due.After(now) && h.buildAt.IsZero() {
		h.stepRollouts(now)
	}
	asked := h.ask(now) // which may build
	next = earlier(next, asked)
	if ready {
		next = earlier(next, earlier(h.buildAt, h.classesAt))
	}
	next = earlier(next, h.callsAt)
	if h.buildAt.IsZero() && ready { // else a build comes first
		next = earlier(next, h.rollouts.due())
	}
	next = earlier(next, h.expiresAt)
	next = earlier(next, h.ledger.overdue(now))
	next = earlier(next, h.ledger.settle(now))
	for node, last := range h.refused {
		if gone := last.Add(refusedTime); gone.After(now) {
			next = earlier(next, gone)
		} else {
			delete(h.refused, node)
			h.problems.Set("node " + node)
		}
	}
	if at := h.shownAt.Add(shownTime); at.After(now) {
		return earlier(next, at)
	}
	h.show(now)
	return next
}

// show publishes what the pages show.
func (h *hub) show(now time.Time) {
	h.shownAt = now
	if h.moved {
		h.problems.Set("capture", h.oldPorts(h.snapshot.Load())...)
	}
	h.published.Store(&status.State{
		Snapshot: h.snapshot.Load(), Bundle: h.built, Inputs: h.inputs, Mesh: h.mesh,
		Findings: h.problems.List(now), Edits: slices.Clone(h.ledger.edits), Rollouts: h.rollouts.report(), Replicas: h.replicas,
		Refusals: h.ledger.refusals(), Pending: h.fresh,
	})
}

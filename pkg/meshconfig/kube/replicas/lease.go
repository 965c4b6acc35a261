// Package replicas lets several control planes of one cluster act as one: a
// Lease says which of them writes, a ConfigMap keeps the phases that it
// decided, and one ConfigMap per replica says what that one knows of its
// proxies.
//
// It uses, in the control plane's namespace: leases.coordination.k8s.io get,
// create, update; configmaps get, list, watch, create, update, delete; pods
// get. Nothing else, and nothing in other namespaces.
package replicas

import (
	"context"
	"errors"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

const (
	// LeaseName is the Lease of the replica that writes.
	LeaseName = "pilot-leader"

	// A leader that cannot renew steps down after surrender; others take over
	// leaseTime after they saw the last renewal. Each measures by its own clock.
	leaseTime = 15 * time.Second
	surrender = 10 * time.Second
	retryTime = 2 * time.Second
	// finishTime is what the work of a leader may take to end when it stops.
	finishTime = 5 * time.Second
)

// Lease elects one replica. It leads while Leader says so, and at no moment
// two do, however their clocks are set.
type Lease struct {
	self string
	lock *renewals

	mu      sync.Mutex
	term    context.Context // of the leadership; nil while another leads
	end     context.CancelFunc
	terms   uint64
	leaving bool // it is over
	holder  string
	changed chan struct{}  // closed when term or holder change
	work    sync.WaitGroup // of While
}

// NewLease makes the Lease of the namespace for the replica of that name,
// which no other may have.
func NewLease(client kubernetes.Interface, namespace, self string) *Lease {
	return &Lease{
		self: self, changed: make(chan struct{}),
		lock: &renewals{Interface: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: namespace, Name: LeaseName},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: self},
			Labels:     map[string]string{"app.kubernetes.io/managed-by": "pilot"}, // by which an uninstall finds it
		}},
	}
}

// Self is the name of this replica.
func (l *Lease) Self() string { return l.self }

// Holder is who leads, as far as this replica knows; empty: nobody yet.
func (l *Lease) Holder() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.holder
}

// Leader says whether this replica leads now. It is false as soon as another
// might, also when this process was stopped for a while.
func (l *Lease) Leader() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.term != nil && l.term.Err() == nil && l.lock.fresh(time.Now())
}

// Term numbers this replica's leaderships; 0: it does not lead.
func (l *Lease) Term() uint64 {
	if !l.Leader() {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.terms
}

// Changed is closed when another replica leads, or none.
func (l *Lease) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Run campaigns until ctx ends: again and again, as the Lease may be lost and
// won. In the end it is released once the work of While has ended, so that
// another replica leads at once.
func (l *Lease) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := l.campaign(ctx); err != nil {
			return err
		}
	}
	return nil
}

// campaign runs for the Lease until it was lost.
func (l *Lease) campaign(ctx context.Context) error {
	campaign, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: l.lock, Name: LeaseName, ReleaseOnCancel: true,
		LeaseDuration: leaseTime, RenewDeadline: surrender, RetryPeriod: retryTime,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: l.won, OnStoppedLeading: l.lost, OnNewLeader: l.leads,
		},
	})
	if err != nil {
		return err
	}
	leave := context.AfterFunc(ctx, func() {
		l.mu.Lock()
		l.leaving = true
		l.mu.Unlock()
		l.lost()
		l.finished()
		stop()
	})
	defer leave()
	elector.Run(campaign)
	return nil
}

// won begins a term. The elector calls it beside its loop, so the term may be
// over.
func (l *Lease) won(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ctx.Err() == nil && l.term == nil && !l.leaving {
		l.term, l.end = context.WithCancel(ctx)
		l.terms++
		l.tell()
	}
}

func (l *Lease) lost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.term != nil {
		l.end()
		l.term, l.end = nil, nil
		l.tell()
	}
}

func (l *Lease) leads(holder string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holder = holder
	l.tell()
}

func (l *Lease) tell() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// finished waits for the work of While, but not for ever.
func (l *Lease) finished() {
	done := make(chan struct{})
	go func() { l.work.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(finishTime):
	}
}

// While runs work whenever this replica leads, until ctx ends. The context of
// work ends with the leadership; work that returns earlier is run in the next
// term.
func (l *Lease) While(ctx context.Context, work func(context.Context)) {
	for {
		l.mu.Lock()
		term, changed := l.term, l.changed
		if term != nil {
			l.work.Add(1)
		}
		l.mu.Unlock()
		if term != nil {
			l.during(ctx, term, work)
		}
		for over := false; !over; {
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
			l.mu.Lock()
			over, changed = l.term != term, l.changed
			l.mu.Unlock()
		}
	}
}

func (l *Lease) during(ctx, term context.Context, work func(context.Context)) {
	defer l.work.Done()
	both, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(term, stop)()
	if term.Err() == nil {
		work(both)
	}
}

// ErrNotLeader is the error of what only the leader may write.
var ErrNotLeader = errors.New("another replica leads")

// renewals is a lock that knows when this replica renewed it last.
type renewals struct {
	resourcelock.Interface
	mu sync.Mutex
	at time.Time // before the request
}

// Create implements resourcelock.Interface.
func (r *renewals) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return r.note(func() error { return r.Interface.Create(ctx, record) })
}

// Update implements resourcelock.Interface.
func (r *renewals) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return r.note(func() error { return r.Interface.Update(ctx, record) })
}

func (r *renewals) note(request func() error) error {
	at := time.Now()
	err := request()
	if err == nil {
		r.mu.Lock()
		r.at = at
		r.mu.Unlock()
	}
	return err
}

// fresh says whether the renewal is so young that nobody else can lead, by
// the clock of the process and, as that one stands still in a suspended
// machine, by the wall's.
func (r *renewals) fresh(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return now.Sub(r.at) < surrender && now.Round(0).Sub(r.at.Round(0)) < surrender
}

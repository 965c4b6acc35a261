package secrets

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/model"
)

const (
	defaultResync = time.Minute
	attempts      = 3 // of one write, before the next resync
	attemptTime   = time.Second
	writers       = 8 // at once: a write mostly waits for the store
)

// Options say whose Secrets a Controller keeps, where and how.
type Options struct {
	Store     Store
	CA        *identity.CA
	Renewal   identity.Renewal
	Namespace string               // whose accounts; empty is all
	DNSNames  map[Account][]string // further names of accounts
	Resync    time.Duration        // between looks at everything; 0 is 1 m
	// While works whenever this controller may write, of several that share a
	// Store, until ctx ends; the context that it gives ends when it may no
	// longer. Nil is always.
	While func(ctx context.Context, work func(context.Context))
	Log   *slog.Logger // nil is slog.Default
}

// Controller keeps the Secrets of all accounts. Run does all work; the other
// methods only leave word, and never block.
type Controller struct {
	options Options
	wake    chan struct{}
	stats   atomic.Pointer[Stats]

	mu          sync.Mutex
	known       bool // accounts were told
	trustDomain string
	accounts    []Account
	// ---- below only Run
	entries    map[Account]*entry
	failed     try // of listing
	last       []identity.Problem
	generation uint64
}

// Stats are a controller's numbers.
type Stats struct {
	Secrets     int       // that it keeps
	FirstExpiry time.Time // of their certificates; zero if there is none
}

// entry is what is known of one Secret.
type entry struct {
	situation
	account Account
	version string
	read    bool // facts are of this version and generation
	try     try
	did     action            // in this look
	problem *identity.Problem // in force
}

// try counts the attempts since the last resync.
type try struct {
	n    int
	next time.Time
}

func (t *try) failed(now time.Time) { t.n++; t.next = now.Add(attemptTime) }

// open says whether it may be tried now.
func (t *try) open(now time.Time) bool { return t.n < attempts && !now.Before(t.next) }

// New makes a controller that knows no accounts yet, and until then changes
// nothing.
func New(o Options) *Controller {
	o.Resync = cmp.Or(o.Resync, defaultResync)
	o.Log = cmp.Or(o.Log, slog.Default())
	c := &Controller{options: o, wake: make(chan struct{}, 1), entries: map[Account]*entry{}}
	c.stats.Store(&Stats{})
	return c
}

// Set tells which accounts exist; the first call ends the wait for them.
func (c *Controller) Set(trustDomain string, accounts []Account) {
	accounts = slices.DeleteFunc(slices.Clone(accounts), func(a Account) bool {
		return c.options.Namespace != "" && a.Namespace != c.options.Namespace
	})
	slices.SortFunc(accounts, Account.Compare)
	accounts = slices.Compact(accounts)
	c.mu.Lock()
	same := c.known && c.trustDomain == trustDomain && slices.Equal(c.accounts, accounts)
	c.known, c.trustDomain, c.accounts = true, trustDomain, accounts
	c.mu.Unlock()
	if !same {
		c.Wake()
	}
}

// Wake makes Run look at everything soon: the CA or the store changed.
func (c *Controller) Wake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Stats are the numbers after the last look.
func (c *Controller) Stats() Stats { return *c.stats.Load() }

// Run keeps the Secrets until ctx ends, and reports all problems in force
// after each look.
func (c *Controller) Run(ctx context.Context, report func([]identity.Problem)) {
	if c.options.While == nil {
		c.run(ctx, report)
		return
	}
	c.options.While(ctx, func(ctx context.Context) {
		c.run(ctx, report)
		c.stats.Store(&Stats{})
		report(nil)
	})
}

func (c *Controller) run(ctx context.Context, report func([]identity.Problem)) {
	var watch sync.WaitGroup
	watch.Go(func() { c.options.Store.Watch(ctx, c.options.Namespace, c.Wake) })
	defer watch.Wait()
	tick := time.NewTicker(c.options.Resync)
	defer tick.Stop()
	again := time.NewTimer(0)
	defer again.Stop()
	resync := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			resync = true
		case <-c.wake:
			c.failed = try{} // the store may have woken it because it works again
		case <-again.C:
		}
		c.mu.Lock()
		known, domain, accounts := c.known, c.trustDomain, c.accounts
		c.mu.Unlock()
		if !known {
			continue
		}
		problems := c.look(ctx, domain, accounts, resync)
		resync = false
		if ctx.Err() != nil {
			return
		}
		report(problems)
		if next, any := c.nextTry(); any {
			again.Reset(time.Until(next))
		}
	}
}

// look compares accounts and Secrets, does what is due, and says what is
// wrong.
func (c *Controller) look(ctx context.Context, domain string, accounts []Account, resync bool) []identity.Problem {
	now := time.Now()
	if resync {
		c.failed = try{}
	}
	if !c.failed.open(now) {
		return c.last
	}
	list, err := c.options.Store.List(ctx, c.options.Namespace)
	if err != nil {
		c.failed.failed(now)
		c.last = append(c.last[:0:0], identity.Problem{Code: "SECRETS_UNREADABLE", Error: true, On: model.Key{Kind: "Secret"},
			Message: fmt.Sprintf("the Secrets cannot be listed, so none is made or renewed: %v", err)})
		return c.last
	}
	c.failed = try{}
	c.merge(domain, accounts, list, now, resync)
	c.work(ctx)
	c.last = append(c.standing(), c.sum()...)
	return c.last
}

// sum drops what is gone, counts the rest, and gives its problems.
func (c *Controller) sum() (problems []identity.Problem) {
	var first time.Time
	kept := 0
	for _, a := range slices.SortedFunc(maps.Keys(c.entries), Account.Compare) {
		e := c.entries[a]
		if !e.present && !e.wanted {
			delete(c.entries, a)
			continue
		}
		if e.problem != nil {
			problems = append(problems, *e.problem)
		}
		if e.present && e.wanted && !e.foreign {
			kept++
			if ends := e.facts.ends; !ends.IsZero() && (first.IsZero() || ends.Before(first)) {
				first = ends
			}
		}
	}
	c.stats.Store(&Stats{Secrets: kept, FirstExpiry: first})
	return problems
}

// merge brings the entries up to what exists now.
func (c *Controller) merge(domain string, accounts []Account, list []Listed, now time.Time, resync bool) {
	generation := c.options.CA.Generation()
	roots := sha256.Sum256(c.options.CA.Roots())
	for _, e := range c.entries {
		e.wanted, e.present = false, false
		e.seen, e.now, e.roots, e.did = resync || e.try.n > 0, now, roots, nothing
		e.read = e.read && generation == c.generation
		if resync {
			e.try = try{}
		}
	}
	c.generation = generation
	at := func(a Account) *entry {
		e := c.entries[a]
		if e == nil {
			e = &entry{account: a, situation: situation{seen: true, now: now, roots: roots, resync: c.options.Resync}}
			c.entries[a] = e
		}
		return e
	}
	for _, a := range accounts {
		e := at(a)
		e.wanted = true
		e.uri = identity.URI(domain, a.Namespace, a.Name)
		e.dns = joined(c.options.DNSNames[a])
	}
	for _, l := range list {
		e := at(l.Account)
		e.present, e.foreign = true, l.Type != Type
		if e.version != l.Version || !e.read {
			e.seen = e.seen || e.version != l.Version
			e.version, e.read = l.Version, false
		}
	}
}

// standing are the problems of the settings.
func (c *Controller) standing() []identity.Problem {
	ttl, grace := c.options.CA.Lifetimes().Default, c.options.Renewal.MinGrace
	if ttl > grace {
		return nil
	}
	return []identity.Problem{{Code: "GRACE_ABOVE_TTL", Message: fmt.Sprintf(
		"--workload-cert-ttl %s is not above --workload-cert-min-grace-period %s: every certificate is renewed every %s", ttl, grace, c.options.Resync)}}
}

// nextTry is when the first of the writes that failed is tried again.
func (c *Controller) nextTry() (next time.Time, any bool) {
	tries := []*try{&c.failed}
	for _, e := range c.entries {
		tries = append(tries, &e.try)
	}
	for _, t := range tries {
		if t.n > 0 && t.n < attempts && (!any || t.next.Before(next)) {
			next, any = t.next, true
		}
	}
	return next, any
}

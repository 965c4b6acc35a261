package replicas

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// candidate is a replica that campaigns.
type candidate struct {
	*Lease
	cut     atomic.Bool // off from the API server
	working atomic.Int32
	terms   atomic.Int32
	stop    func() // as SIGTERM does
}

func campaign(t *testing.T, s *server, name string) *candidate {
	t.Helper()
	c := &candidate{}
	c.Lease = NewLease(s.client(c.cut.Load), "istio-system", name)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{}, 2)
	go func() {
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
		done <- struct{}{}
	}()
	go func() {
		c.While(ctx, func(ctx context.Context) {
			c.terms.Add(1)
			c.working.Add(1)
			<-ctx.Done()
			time.Sleep(100 * time.Millisecond) // its last write
			c.working.Add(-1)
		})
		done <- struct{}{}
	}()
	c.stop = func() { cancel(); <-done; <-done }
	t.Cleanup(cancel)
	return c
}

// never watches that no two of them lead at any moment.
func never(t *testing.T, all ...*candidate) {
	t.Helper()
	done := make(chan struct{})
	t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		for t.Context().Err() == nil {
			leading := 0
			for _, c := range all {
				if c.Leader() {
					leading++
				}
			}
			if leading > 1 {
				t.Errorf("%d lead at once", leading)
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
}

func leader(t *testing.T, within time.Duration, all ...*candidate) *candidate {
	t.Helper()
	for start := time.Now(); time.Since(start) < within; time.Sleep(50 * time.Millisecond) {
		for _, c := range all {
			if c.Leader() && c.working.Load() == 1 {
				return c
			}
		}
	}
	t.Fatalf("nobody leads after %s", within)
	return nil
}

func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a, b := campaign(t, s, "a"), campaign(t, s, "b")
		never(t, a, b)
		first := leader(t, time.Second, a, b)
		other := a
		if first == a {
			other = b
		}
		if time.Sleep(5 * time.Second); other.Holder() != first.Self() || other.Leader() || other.working.Load() != 0 {
			t.Errorf("%s leads, the other believes %q", first.Self(), other.Holder())
		}
		// Cut off from the API server, it ends its work before another begins.
		first.cut.Store(true)
		time.Sleep(surrender)
		if first.Leader() {
			t.Error("leads without a renewal")
		}
		// The other looks every 2 s and up to 120 % more, so it saw the last
		// renewal some 4 s late at worst, and sees the end as late.
		if got := leader(t, leaseTime, other); got.terms.Load() != 1 {
			t.Errorf("%d terms", got.terms.Load())
		}
		first.cut.Store(false)
		time.Sleep(time.Minute)
		if first.Leader() || first.working.Load() != 0 || first.Holder() != other.Self() {
			t.Errorf("leads again beside %s", other.Self())
		}
		// Who stops in order hands over at once.
		other.stop()
		if other.working.Load() != 0 {
			t.Error("works after it stopped")
		}
		if got := leader(t, 2*retryTime+time.Second, first); got.terms.Load() != 2 {
			t.Errorf("%d terms, want a second", got.terms.Load())
		}
		first.stop()
	})
}

package agent

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/meshpilot/pilot/pkg/identity"
)

const givenUp = "node agent can't get the CSR approved from Istio CA after max number of retries (5)"

// start runs the agent; the result is for when it has ended.
func start(ctx context.Context, a *agent) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx) }()
	return ended
}

// TestJoin: the token serves once, then certificates vouch for the next.
func TestJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCA(t, newSigner(t))
		a, log := machine(t, c, func(o *Options) { o.Org = "shop" })
		ctx, stop := context.WithCancel(t.Context())
		ended := start(ctx, a)
		time.Sleep(time.Second)
		first := fits(t, a)
		remove(t, a.Token)
		time.Sleep(3 * time.Hour)
		stop()
		if err := <-ended; err != nil {
			t.Errorf("stopped, yet: %v", err)
		}
		calls := c.called()
		if len(calls) < 6 || len(calls) > 8 { // every 27 to 30 minutes
			t.Fatalf("%d calls in 3 hours: %v", len(calls), calls)
		}
		for i, call := range calls {
			want := "certificate"
			if i == 0 {
				want = "token"
			}
			if call.by != want || call.seconds != 3600 || call.org != "shop" {
				t.Errorf("call %d: %+v, want by %s", i, call, want)
			}
			if i > 0 {
				if gap := call.at.Sub(calls[i-1].at); gap < 27*time.Minute-time.Second || gap > 30*time.Minute {
					t.Errorf("call %d after %s, want 27 to 30 minutes", i, gap)
				}
			}
		}
		last := fits(t, a)
		if last.leaf.Equal(first.leaf) || bytes.Equal(last.Key, first.Key) {
			t.Error("the pair is the first one")
		}
		if got := testutil.ToFloat64(a.metrics.expiry); got != float64(last.leaf.NotAfter.Unix()) {
			t.Errorf("expiry metric %v, want %v", got, last.leaf.NotAfter.Unix())
		}
		if got := testutil.ToFloat64(a.metrics.certificates); got != float64(len(calls)) {
			t.Errorf("certificates metric %v, want %d", got, len(calls))
		}
		if strings.Contains(log.String(), token) || strings.Contains(log.String(), "PRIVATE") {
			t.Errorf("a secret is in the log:\n%s", log)
		}
	})
}

// fits is the shown pair, which must be good for Envoy.
func fits(t *testing.T, a *agent) pair {
	t.Helper()
	p, err := a.present()
	if err != nil || p.uri() != vm {
		t.Fatalf("files: %v, identity %q", err, p.uri())
	}
	return p
}

func TestGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCA(t, newSigner(t))
		a, log := machine(t, c)
		c.set(func() { c.down = true })
		began := time.Now()
		err := a.run(t.Context())
		if err == nil || err.Error() != givenUp {
			t.Errorf("error %v", err)
		}
		if took := time.Since(began).Round(time.Second); took != 155*time.Second { // 5+10+20+40+80
			t.Errorf("gave up after %s, want 2m35s", took)
		}
		if got := testutil.ToFloat64(a.metrics.failures); got != 6 {
			t.Errorf("failures metric %v, want 6", got)
		}
		if !strings.Contains(log.String(), "nobody there") || !strings.Contains(log.String(), "retry_in=1m20s") {
			t.Errorf("log:\n%s", log)
		}
	})
}

// TestRecovers: the CA is away when a certificate is due.
func TestRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCA(t, newSigner(t))
		a, _ := machine(t, c, func(o *Options) { o.TTL = 3 * time.Minute })
		ctx, stop := context.WithCancel(t.Context())
		ended := start(ctx, a)
		time.Sleep(time.Second)
		remove(t, a.Token)
		c.set(func() { c.down = true })
		time.Sleep(2 * time.Minute) // due at 1m30s at the latest: 30 s of failures
		fits(t, a)
		c.set(func() { c.down = false })
		for range 60 {
			time.Sleep(time.Second)
			fits(t, a)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if calls := c.called(); len(calls) != 2 || calls[1].by != "certificate" {
			t.Errorf("calls %v", calls)
		}
	})
}

// TestNoCredential: nothing is sent.
func TestNoCredential(t *testing.T) {
	for name, spoil := range map[string]func(*testing.T, *agent){
		"no token":    func(t *testing.T, a *agent) { remove(t, a.Token) },
		"empty token": func(t *testing.T, a *agent) { write(t, a.Token, []byte(" \n"), 0o600) },
		"token gone and certificate expired": func(t *testing.T, a *agent) {
			if _, err := a.renew(t.Context()); err != nil {
				t.Fatal(err)
			}
			remove(t, a.Token)
			time.Sleep(61 * time.Minute)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startCA(t, newSigner(t))
				a, log := machine(t, c)
				spoil(t, a)
				before := len(c.called())
				a.dial = func(context.Context, string) (net.Conn, error) { t.Error("a call"); return nil, net.ErrClosed }
				if err := a.run(t.Context()); err == nil || err.Error() != givenUp {
					t.Errorf("error %v", err)
				}
				if !strings.Contains(log.String(), "agent credential is not available") {
					t.Errorf("log:\n%s", log)
				}
				if len(c.called()) != before {
					t.Error("the CA was called")
				}
			})
		})
	}
}

// TestRefused: what the CA says is in the log word for word.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCA(t, newSigner(t))
		a, log := machine(t, c, func(o *Options) { o.TTL = 200 * time.Hour })
		if err := a.run(t.Context()); err == nil || err.Error() != givenUp {
			t.Errorf("error %v", err)
		}
		if want := "requested TTL 200h0m0s is greater than the max allowed TTL 168h0m0s"; strings.Count(log.String(), want) != 6 {
			t.Errorf("not 6 times %q in\n%s", want, log)
		}
		if _, err := a.present(); err == nil {
			t.Error("files were written")
		}
	})
}

// TestReplacedCertificate: a certificate that the roots do not verify any more
// is none, and the token serves again.
func TestReplacedCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCA(t, newSigner(t))
		a, _ := machine(t, c)
		stray, err := newSigner(t).Issue(vm, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		stray.Roots = c.roots
		if err := (identity.Dir{Path: a.Files.dir()}).Publish(stray); err != nil {
			t.Fatal(err)
		}
		if _, err := a.renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		if calls := c.called(); len(calls) != 1 || calls[0].by != "token" {
			t.Errorf("calls %v", calls)
		}
		fits(t, a)
	})
}

func TestRenewal(t *testing.T) {
	now := time.Now()
	for _, ratio := range []float64{0, 0.2, 0.5, 1} {
		a := &agent{Options: Options{GraceRatio: ratio}}
		for range 100 {
			left := now.Add(time.Hour).Sub(a.renewal(now, now.Add(time.Hour))).Hours()
			if most := min(ratio+maxJitter, 1-minSleep.Hours()); left < min(ratio, most)-1e-9 || left > most+1e-9 {
				t.Errorf("ratio %v: renewed with %v of the lifetime left", ratio, left)
			}
		}
	}
}

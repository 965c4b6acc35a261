// Package agent is the node agent of a machine: it makes a key, has the CA
// sign a certificate for it, shows both to Envoy as files, and renews them.
// It joins with a token; from then on the certificate vouches for itself.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
)

const (
	firstWait  = 5 * time.Second // doubles
	maxRetries = 5
	// maxJitter spreads renewals, as a part of the lifetime.
	maxJitter = 0.05
	// minSleep keeps very short lifetimes and a ratio of 1 from a busy loop.
	minSleep = time.Second
)

// Options say what an agent asks for, of whom, and where it shows the answer.
type Options struct {
	CAAddress string // host:port
	// ControlPlaneNamespace is part of the identity that the CA must prove;
	// empty is istio-system.
	ControlPlaneNamespace string
	Files                 Files
	Token                 string        // path; read while there is no valid certificate
	TTL                   time.Duration // asked for, in whole seconds; 0 is the CA's default
	GraceRatio            float64       // renew when this part of the lifetime is left
	Org                   string        // in the subject of the request
	RSABits               int           // 0 is an ECDSA P-256 key
	Envoy                 Envoy         // runs with the files, if it has a binary
	MetricsAddress        string        // /metrics; empty is none

	Log *slog.Logger // nil is slog.Default
}

type agent struct {
	Options
	metrics *metrics
	envoy   *process // nil until it is started
	// dial reaches the CA; nil is TCP.
	dial func(context.Context, string) (net.Conn, error)
}

// Run keeps the files fresh until ctx ends, Envoy ends, or the CA has not
// answered well for a round of retries. With Envoy it goes on after such a
// round: ending would take traffic down long before the certificate expires.
func Run(ctx context.Context, o Options) error {
	a, err := newAgent(o)
	if err != nil {
		return err
	}
	stop, err := a.metrics.serve(a.MetricsAddress, a.Log)
	if err != nil {
		return err
	}
	defer stop()
	return a.run(ctx)
}

func newAgent(o Options) (*agent, error) {
	o.Log = cmp.Or(o.Log, slog.Default())
	o.ControlPlaneNamespace = cmp.Or(o.ControlPlaneNamespace, "istio-system")
	rule := identity.Renewal{Ratio: o.GraceRatio}
	if err := rule.Check(); err != nil {
		return nil, err
	}
	switch {
	case o.RSABits != 0 && (o.RSABits < 2048 || o.RSABits > 8192):
		return nil, fmt.Errorf("--key-size: an RSA key of %d bits: use 2048 to 8192", o.RSABits)
	case o.TTL < 0:
		return nil, fmt.Errorf("--workload-cert-ttl %s: give a lifetime above 0, or 0 for the CA's default", o.TTL)
	}
	if _, _, err := net.SplitHostPort(o.CAAddress); err != nil {
		return nil, fmt.Errorf("--ca-address: %w; give host:port", err)
	}
	if rule.Unusual() {
		o.Log.Warn("the grace period ratio is outside 0.2 to 0.8: renewals come late, or very often", "ratio", o.GraceRatio)
	}
	var err error
	if o.Files, err = o.Files.checked(); err != nil {
		return nil, err
	}
	if _, err := o.Files.roots(); err != nil {
		return nil, err
	}
	if o.Envoy, err = o.Envoy.checked(); err != nil {
		return nil, err
	}
	return &agent{Options: o, metrics: newMetrics()}, nil
}

func (a *agent) run(ctx context.Context) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer a.stopEnvoy()
	if p, err := a.present(); err == nil {
		a.metrics.expiry.Set(float64(p.leaf.NotAfter.Unix()))
	}
	for ctx.Err() == nil {
		renewal, err := a.round(ctx, end)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			if a.envoy == nil {
				return err
			}
			a.Log.Error(err.Error() + "; Envoy goes on with the certificate that it has")
			renewal = time.Now().Add(firstWait << maxRetries)
		}
		sleepUntil(ctx, renewal)
	}
	if ended := (*envoyEnd)(nil); errors.As(context.Cause(ctx), &ended) {
		return ended
	}
	return nil
}

// round gets one certificate, with retries, and says when to renew it. Envoy
// starts after the first attempt with which there are files for it: it should
// not read them while they change.
func (a *agent) round(ctx context.Context, end context.CancelCauseFunc) (time.Time, error) {
	wait := firstWait
	for retries := 0; ; retries++ {
		renewal, err := a.renew(ctx)
		if ctx.Err() != nil {
			return time.Time{}, ctx.Err()
		}
		if err := a.startEnvoy(end); err != nil {
			return time.Time{}, err
		}
		if err == nil {
			return renewal, nil
		}
		a.metrics.failures.Inc()
		if retries == maxRetries {
			a.Log.Error("no certificate", "error", err)
			return time.Time{}, fmt.Errorf("node agent can't get the CSR approved from Istio CA after max number of retries (%d)", maxRetries)
		}
		a.Log.Warn("no certificate", "error", err, "retry_in", wait)
		sleepUntil(ctx, time.Now().Add(wait))
		wait *= 2
	}
}

func (a *agent) renew(ctx context.Context) (time.Time, error) {
	next, err := a.request(ctx)
	if err != nil {
		return time.Time{}, err
	}
	now := time.Now()
	if err := a.install(ctx, next); err != nil {
		return time.Time{}, err
	}
	renewal := a.renewal(now, next.leaf.NotAfter)
	a.metrics.expiry.Set(float64(next.leaf.NotAfter.Unix()))
	a.metrics.certificates.Inc()
	a.Log.Info("certificate written", "identity", next.uri(), "serial", next.leaf.SerialNumber.Text(16),
		"expires", next.leaf.NotAfter, "renewal", renewal.UTC().Truncate(time.Second))
	return renewal, nil
}

// renewal is when the ratio of the lifetime is left, or a little earlier. The
// lifetime counts from now: the certificate's own beginning is backdated.
func (a *agent) renewal(now, expiry time.Time) time.Time {
	life := float64(expiry.Sub(now))
	left := life * (a.GraceRatio + maxJitter*rand.Float64())
	at := expiry.Add(-time.Duration(left))
	if soonest := now.Add(minSleep); at.Before(soonest) {
		return soonest
	}
	return at
}

// sleepUntil follows the wall clock, because the timers of a suspended
// machine stand still and its certificate does not.
func sleepUntil(ctx context.Context, at time.Time) {
	at = at.Round(0)
	for left := time.Until(at); left > 0 && ctx.Err() == nil; left = time.Until(at) {
		timer := time.NewTimer(min(left, time.Minute))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

package rotation

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"sync"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
)

const (
	// looksPerLife is how often in a leaf's life the lab looks whether it is
	// due; minLook and maxLook bound the time between.
	looksPerLife     = 50
	minLook, maxLook = 20 * time.Millisecond, time.Second
	// rootsSettle passes between the write of new roots to the last sidecar
	// and the first leaf that needs them: Envoy reads both on its own.
	rootsSettle = time.Second
)

// Renewer keeps the certificates of all sidecars fresh.
type Renewer struct {
	ca  *identity.CA
	say func(format string, args ...any)

	mu      sync.Mutex
	of      map[string]*Leaves // by directory
	settled time.Time          // when leaves may need the roots that were written last
	renewed int
}

// New renews what is added to it; it tells say what people should know.
func New(ca *identity.CA, say func(format string, args ...any)) *Renewer {
	return &Renewer{ca: ca, say: say, of: map[string]*Leaves{}}
}

// Add issues the first certificate of a sidecar, and renews it from then on.
func (r *Renewer) Add(dir identity.Dir, uri string) (*Leaves, error) {
	l := &Leaves{dir: dir, uri: uri}
	if err := l.issue(r.ca); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of[dir.Path] = l
	return l, nil
}

// Drop forgets the sidecar with this directory.
func (r *Renewer) Drop(dir string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.of, dir)
}

// Run renews until ctx ends.
func (r *Renewer) Run(ctx context.Context) {
	every := min(max(r.ca.Lifetimes().Default/looksPerLife, minLook), maxLook)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := r.turn(time.Now()); err != nil {
				r.say("certificates: %v", err)
			}
		}
	}
}

// turn writes roots where the CA has others, to all sidecars, and only then
// leaves that are due.
func (r *Renewer) turn(now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	roots := r.ca.Roots()
	written := 0
	var errs []error
	for _, l := range r.of {
		changed, err := l.trust(roots)
		errs = append(errs, err)
		if changed {
			written++
		}
	}
	if written > 0 {
		r.settled = now.Add(rootsSettle)
		r.say("roots: %d trusted now, published to %d sidecars", len(r.ca.RootCertificates()), written)
	}
	signer := 0
	for _, l := range r.of {
		settled := written == 0 && !now.Before(r.settled)
		if !l.due(r.ca, settled, now) {
			continue
		}
		before := l.latest
		if err := l.issue(r.ca); err != nil {
			errs = append(errs, err)
			continue
		}
		r.renewed++
		if !sameSigner(before, l.latest) {
			signer++
		}
	}
	if signer > 0 {
		r.say("the CA signs with another certificate: new leaves for %d sidecars", signer)
	}
	return errors.Join(errs...)
}

func sameSigner(a, b *x509.Certificate) bool { return bytes.Equal(a.AuthorityKeyId, b.AuthorityKeyId) }

// Count is how many leaves were renewed.
func (r *Renewer) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.renewed
}

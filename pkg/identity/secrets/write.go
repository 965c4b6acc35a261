package secrets

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/model"
)

// refusal is an error of the CA: another attempt has the same end.
type refusal struct{ error }

// errMoved ends a write because the CA changed under it.
var errMoved = errors.New("the CA changed meanwhile")

// work does what is due, for several entries at once, each by one goroutine.
func (c *Controller) work(ctx context.Context) {
	todo := make(chan *entry)
	var wg sync.WaitGroup
	for range min(writers, len(c.entries)) {
		wg.Go(func() {
			for e := range todo {
				c.keep(ctx, e)
			}
		})
	}
	for _, e := range c.entries {
		if ctx.Err() == nil && e.try.open(e.now) && (e.unread() || e.due()) {
			todo <- e
		} else if e.try.n == 0 {
			e.problem = nil
		}
	}
	close(todo)
	wg.Wait()
	done := map[action]int{}
	for _, e := range c.entries {
		done[e.did]++
	}
	if len(done) > 1 || done[nothing] < len(c.entries) {
		c.options.Log.Info("secrets of service accounts written", "made", done[create], "renewed", done[renew],
			"repaired", done[repair], "roots", done[writeRoots], "deleted", done[remove])
	}
}

func (e *entry) unread() bool { return e.present && !e.foreign && !e.read }

func (e *entry) due() bool {
	do, _ := e.next()
	return do != nothing
}

// keep does what is due for one Secret.
func (c *Controller) keep(ctx context.Context, e *entry) {
	e.problem = nil
	if err := c.step(ctx, e); err != nil {
		c.fail(e, err)
		return
	}
	e.try = try{}
}

// step writes once, or twice if new roots leave nothing of use.
func (c *Controller) step(ctx context.Context, e *entry) error {
	if e.unread() {
		s, version, err := c.options.Store.Get(ctx, e.account)
		if err != nil {
			return err
		}
		c.hold(e, s, version)
	}
	do, why := e.next()
	if do == leave {
		e.problem = &identity.Problem{Code: "FOREIGN_SECRET", On: e.key(), Message: fmt.Sprintf(
			"it is not of the type %s, so it is left alone, and service account %s gets no certificate", Type, e.account)}
		return nil
	}
	if err := c.do(ctx, e, do, why); err != nil {
		return err
	}
	if do != writeRoots || e.now.Before(e.facts.ends) {
		return nil
	}
	do, why = e.next()
	return c.do(ctx, e, do, why)
}

// do takes one action.
func (c *Controller) do(ctx context.Context, e *entry, do action, why string) error {
	var s Secret
	var version string
	var err error
	switch do {
	case create:
		if s, err = c.issue(e); err == nil {
			version, err = c.options.Store.Create(ctx, s)
		}
	case renew, repair:
		if s, err = c.issue(e); err == nil {
			version, err = c.options.Store.Update(ctx, s, e.version)
		}
	case writeRoots:
		if s, err = c.withRoots(ctx, e); err == nil {
			version, err = c.options.Store.Update(ctx, s, e.version)
		}
	case remove:
		err = c.options.Store.Delete(ctx, e.account, e.version)
	}
	if err != nil || do == nothing {
		return err
	}
	c.options.Log.Debug("secret written", "account", e.account, "why", why)
	e.did, e.present = do, do != remove
	if e.present {
		c.hold(e, s, version)
	}
	return nil
}

// issue makes a pair, if with the roots that were decided for.
func (c *Controller) issue(e *entry) (Secret, error) {
	p, err := c.options.CA.Pair(identity.Request{URI: e.uri, DNSNames: fields(e.dns)})
	if err != nil {
		return Secret{}, refusal{err}
	}
	if sha256.Sum256(p.Roots) != e.roots {
		return Secret{}, errMoved
	}
	return Secret{e.account, p.CertChain, p.Key, p.Roots}, nil
}

// withRoots is what the store has, with the roots of the CA.
func (c *Controller) withRoots(ctx context.Context, e *entry) (Secret, error) {
	s, version, err := c.options.Store.Get(ctx, e.account)
	if err != nil {
		return Secret{}, err
	}
	if version != e.version {
		return Secret{}, ErrConflict
	}
	if s.Roots = c.options.CA.Roots(); sha256.Sum256(s.Roots) != e.roots {
		return Secret{}, errMoved
	}
	return s, nil
}

// hold remembers the contents that the store has now.
func (c *Controller) hold(e *entry, s Secret, version string) {
	e.facts, e.version, e.read = inspect(s, c.options.CA, c.options.Renewal), version, true
	switch {
	case e.facts.roots != e.roots:
		e.rootsSince = time.Time{}
	case e.rootsSince.IsZero():
		e.rootsSince = e.now
	}
}

// fail notes an attempt; only the last of them is a problem.
func (c *Controller) fail(e *entry, err error) {
	var refused refusal
	if errors.As(err, &refused) {
		e.try.n = attempts // until the next resync
		e.problem = &identity.Problem{Code: "CERT_REFUSED", Error: true, On: model.Key{Kind: "ServiceAccount", Namespace: e.account.Namespace, Name: e.account.Name},
			Message: fmt.Sprintf("service account %s in namespace %s gets no certificate: %v", e.account.Name, e.account.Namespace, err)}
		return
	}
	e.read = false
	if errors.Is(err, ErrGone) {
		e.try.n = attempts // until the next resync
		return
	}
	if e.try.failed(e.now); e.try.n >= attempts {
		e.problem = &identity.Problem{Code: "SECRET_NOT_WRITTEN", Error: true, On: e.key(),
			Message: fmt.Sprintf("it could not be brought up to date in %d attempts: %v", attempts, err)}
	}
}

func (e *entry) key() model.Key {
	return model.Key{Kind: "Secret", Namespace: e.account.Namespace, Name: e.account.SecretName()}
}

func joined(names []string) string { return strings.Join(names, ",") }

func fields(names string) []string {
	if names == "" {
		return nil
	}
	return strings.Split(names, ",")
}

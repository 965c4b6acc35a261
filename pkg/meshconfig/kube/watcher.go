package kube

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/meshpilot/pilot/pkg/meshconfig"
)

// watcher is one run of a Source. Its fields are touched by the goroutine of
// Run only, but for the followers, which have their own.
type watcher struct {
	*Source
	log *slog.Logger

	wake    chan struct{} // objects changed
	alarm   chan struct{} // what goes wrong changed
	answers chan answer   // of looks at what is served
	look    chan struct{} // asks for one now
	looking sync.WaitGroup

	settings, services, slices, pods, namespaces, accounts, definitions *follower
	customs                                                             map[schema.GroupResource]*customFollower

	served  served // nil until it is known
	lookErr error  // of the last look
	link    *link
	since   time.Time // when the API could no longer be followed
	lost    error     // why, if that lasts

	told  []meshconfig.Problem // of following the API, last published
	last  meshconfig.Bundle    // the accepted objects that meshconfig decodes
	asked time.Time            // the last disappearance that a second list was asked for
}

// customFollower is a follower of a kind that may not be installed.
type customFollower struct {
	*follower
	version string
	misses  int // looks in a row that did not find it
}

// answer is what a look found.
type answer struct {
	served served
	err    error
}

func newWatcher(s *Source) (*watcher, error) {
	w := &watcher{
		log:  s.Log,
		wake: make(chan struct{}, 1), alarm: make(chan struct{}, 1), answers: make(chan answer), look: make(chan struct{}, 1),
		customs: map[schema.GroupResource]*customFollower{},
	}
	if w.log == nil {
		w.log = slog.Default()
	}
	w.link = &link{poke: w.attend}
	api, err := w.link.clients(s.Cluster)
	if err != nil {
		return nil, err
	}
	own := *s
	own.Cluster, w.Source = api, &own
	w.settings = newFollower(meshConfigMap(api, s.Namespace), w.changed, w.attend)
	w.services = newFollower(services(api), w.changed, w.attend)
	w.slices = newFollower(endpointSlices(api), w.changed, w.attend)
	w.pods = newFollower(pods(api), w.changed, w.attend)
	w.namespaces = newFollower(namespaces(api), w.changed, w.attend)
	w.accounts = newFollower(accounts(api), w.changed, w.attend)
	w.definitions = newFollower(definitions(api), func() { signal(w.look) }, w.attend)
	for _, f := range []*follower{w.services, w.slices, w.pods} {
		f.keep, f.confirm = w.hold(), cmp.Or(s.Confirm, 10*time.Second)
	}
	return w, nil
}

func (w *watcher) changed() { signal(w.wake) }
func (w *watcher) attend()  { signal(w.alarm) }

func (w *watcher) hold() time.Duration { return cmp.Or(w.Hold, time.Minute) }

func signal(to chan struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// core are the followers of kinds that every cluster has.
func (w *watcher) core() []*follower {
	return []*follower{w.settings, w.services, w.slices, w.pods, w.namespaces, w.accounts, w.definitions}
}

// all are the followers of all kinds that are followed now, in a fixed order.
func (w *watcher) all() []*follower {
	all := w.core()
	for _, c := range customKinds() {
		if f := w.customs[c.resource]; f != nil {
			all = append(all, f.follower)
		}
	}
	return all
}

func (w *watcher) start(ctx context.Context) {
	for _, f := range w.core() {
		f.start(ctx)
	}
	w.looking.Go(func() { w.lookAgain(ctx) })
}

// close waits for all goroutines; the context of start must have ended.
func (w *watcher) close() {
	for _, f := range w.all() {
		f.close()
	}
	w.looking.Wait()
}

// lookAgain asks what is served: often while a definition was made or removed
// of which the API does not know yet, and rarely else.
func (w *watcher) lookAgain(ctx context.Context) {
	hurry := 0
	for {
		found, err := lookServed(ctx, w.Cluster)
		select {
		case <-ctx.Done():
			return
		case w.answers <- answer{found, err}:
		}
		var pause time.Duration
		switch {
		case err != nil:
			pause = 2 * time.Second
		case w.expecting(found):
			pause = 500 * time.Millisecond
			if hurry++; hurry > 60 {
				pause = 10 * time.Second
			}
		case !w.definitions.isSynced():
			pause = 10 * time.Second
		default:
			hurry, pause = 0, time.Minute
		}
		select {
		case <-ctx.Done():
			return
		case <-w.look:
		case <-time.After(pause):
		}
	}
}

// expecting says whether a definition and what is served disagree.
func (w *watcher) expecting(found served) bool {
	return w.definitions.isSynced() && slices.ContainsFunc(customKinds(), func(c custom) bool {
		return w.definitions.has("/"+c.resource.String()) != (found.version(c) != "")
	})
}

// adopt starts and stops followers by what is served. A kind is given up only
// if a second look misses it too, and its definition is not there: an API
// server that starts does not know all at once.
func (w *watcher) adopt(ctx context.Context, a answer) {
	if textOf(w.lookErr) != textOf(a.err) {
		w.attend()
	}
	w.lookErr = a.err
	if a.err != nil {
		return
	}
	if w.served == nil {
		signal(w.wake)
	}
	w.served = a.served
	for _, c := range customKinds() {
		f, version := w.customs[c.resource], a.served.version(c)
		switch {
		case f == nil && version != "":
			w.follow(ctx, c, version, nil)
		case f == nil || a.served.has(c, f.version):
			if f != nil {
				f.misses = 0
			}
		case version != "":
			f.close()
			w.follow(ctx, c, version, f.mirror)
		case w.definitions.has("/" + c.resource.String()):
		case f.misses == 0:
			f.misses++
			time.AfterFunc(time.Second, func() { signal(w.look) })
		default:
			f.close()
			delete(w.customs, c.resource)
			w.log.Info("a kind is no longer installed", "kind", c.resource.String())
			signal(w.wake)
		}
	}
}

// follow starts to follow a kind; known is what is known of it from another
// version.
func (w *watcher) follow(ctx context.Context, c custom, version string, known *mirror) {
	f := &customFollower{follower: newFollower(c.kind(w.Cluster, version), w.changed, w.attend), version: version}
	if known != nil {
		f.mirror = known
	}
	w.customs[c.resource] = f
	w.log.Info("following a kind", "kind", c.resource.String(), "version", version)
	f.start(ctx)
}

// waiting names the kinds that the first bundle has to wait for.
func (w *watcher) waiting() []string {
	var out []string
	if w.served == nil && !apierrors.IsForbidden(w.lookErr) {
		out = append(out, "the list of kinds")
	}
	for _, f := range w.all() {
		if f != w.definitions && !f.settled() {
			out = append(out, f.kind.what)
		}
	}
	return out
}

// lasting is how long the API must fail before it is worth a word: a watch that
// is cut, or a request that is repeated, is not.
const lasting = 2 * time.Second

// noteOutage logs that the API cannot be followed, and that it can be again:
// once each.
func (w *watcher) noteOutage(now time.Time) {
	broken, _ := w.link.state()
	why := cmp.Or(outage(broken), outage(w.lookErr))
	for _, f := range w.all() {
		why = cmp.Or(why, outage(f.trouble()))
	}
	switch {
	case why == nil && w.lost != nil:
		w.log.Info("the Kubernetes API is followed again", "after", now.Sub(w.since).Round(time.Millisecond))
		w.lost, w.since = nil, time.Time{}
	case why == nil:
		w.since = time.Time{}
	case w.since.IsZero():
		w.since = now
		time.AfterFunc(lasting, w.attend)
	case w.lost == nil && now.Sub(w.since) >= lasting:
		w.log.Warn("the Kubernetes API cannot be followed; what was last read stays in force, and it is tried again and again",
			"server", w.Cluster.Config.Host, "error", why)
		w.lost = why
	}
}

package kube

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// The time between two attempts grows from the first to the last, and is
// short again after calm.
const (
	firstRetry = 300 * time.Millisecond
	lastRetry  = 3 * time.Second
	calm       = 10 * time.Second
)

var errNoAnswer = errors.New("the connection ended before an answer")

// follower keeps the mirror of one kind up to date: it lists, then watches,
// and lists again when events were lost. What goes wrong it notes for others.
type follower struct {
	*mirror
	kind   kind
	attend func() // called when what goes wrong changes

	mu       sync.Mutex
	listing  error // of the last attempt
	watching error
	stop     context.CancelFunc
	done     chan struct{}
	again    context.CancelFunc // of the attempt that runs
	fresh    bool               // the next one must not go on where this ended
}

// newFollower calls changed after each change of the mirror.
func newFollower(k kind, changed, attend func()) *follower {
	return &follower{mirror: newMirror(k.trim, changed), kind: k, attend: attend, done: make(chan struct{})}
}

// start follows until ctx ends or close is called.
func (f *follower) start(ctx context.Context) {
	ctx, f.stop = context.WithCancel(ctx)
	go func() {
		defer close(f.done)
		f.run(ctx)
	}()
}

// close stops following, and waits for it.
func (f *follower) close() {
	f.stop()
	<-f.done
}

func (f *follower) run(ctx context.Context) {
	backoff := wait.Backoff{Duration: firstRetry, Factor: 1.6, Jitter: 0.3, Steps: 20, Cap: lastRetry}
	delay := backoff
	reflector := f.reflector()
	for ctx.Err() == nil {
		attempt, cancel := context.WithCancel(ctx)
		f.mu.Lock()
		f.again = cancel
		f.mu.Unlock()
		began := time.Now()
		// Its error was noted by the call that failed.
		_ = reflector.ListAndWatchWithContext(attempt)
		asked := attempt.Err() != nil
		cancel()
		f.mu.Lock()
		if f.fresh {
			f.fresh, reflector = false, f.reflector()
		}
		f.mu.Unlock()
		if asked {
			continue
		}
		if time.Since(began) > calm {
			delay = backoff
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay.Step()):
		}
	}
}

func (f *follower) reflector() *cache.Reflector {
	return cache.NewReflectorWithOptions(f, nil, f.mirror, cache.ReflectorOptions{
		Name: f.kind.resource.String(), TypeDescription: f.kind.what,
		Backoff: &wait.Backoff{Duration: firstRetry, Factor: 1.6, Jitter: 0.3, Steps: 20, Cap: lastRetry},
	})
}

// relist asks for a full list now, of the state that the API server has now.
func (f *follower) relist() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fresh = true
	if f.again != nil {
		f.again()
	}
}

// ListWithContext is the reflector's way to list.
func (f *follower) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	list, err := f.kind.list(ctx, f.kind.options(o))
	if ctx.Err() == nil {
		f.note(func() { f.listing = err })
	}
	return list, err
}

// WatchWithContext is the reflector's way to watch.
func (f *follower) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	w, err := f.kind.watch(ctx, f.kind.options(o))
	if err == nil && reflect.TypeOf(w) == reflect.TypeOf(watch.NewEmptyWatch()) {
		w, err = nil, errNoAnswer // client-go makes nothing of it
	}
	switch {
	case ctx.Err() != nil:
	case apierrors.IsResourceExpired(err) || apierrors.IsGone(err): // a list follows
	case err == nil:
		f.note(func() { f.listing, f.watching = nil, nil })
	default:
		f.note(func() { f.watching = err })
	}
	return w, err
}

// List is ListWithContext, for the interface.
func (f *follower) List(o metav1.ListOptions) (runtime.Object, error) {
	return f.ListWithContext(context.Background(), o)
}

// Watch is WatchWithContext, for the interface.
func (f *follower) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return f.WatchWithContext(context.Background(), o)
}

func (f *follower) note(set func()) {
	f.mu.Lock()
	before := textOf(f.listing) + textOf(f.watching)
	set()
	after := textOf(f.listing) + textOf(f.watching)
	f.mu.Unlock()
	if before != after {
		f.attend()
	}
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// trouble is why the kind cannot be followed now; nil if it can.
func (f *follower) trouble() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listing != nil {
		return f.listing
	}
	return f.watching
}

// settled says whether there is nothing to wait for at the start: the kind was
// read, may not be read, or is not there.
func (f *follower) settled() bool {
	err := f.trouble()
	return f.isSynced() || apierrors.IsForbidden(err) || apierrors.IsNotFound(err)
}

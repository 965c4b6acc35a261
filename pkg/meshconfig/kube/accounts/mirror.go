package accounts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

const (
	// syncTime is how long one waits for the first list.
	syncTime = 10 * time.Second
	// requestTime is how long the API may take for one request.
	requestTime = 10 * time.Second
	// fieldManager is who writes, as managedFields and the audit log show it.
	fieldManager = "pilot"
)

// mirror is what a watch has shown of some objects, each trimmed to a T, with
// what was written meanwhile: an event that is older than a write of our own
// does not undo it.
type mirror[T any] struct {
	trim    func(runtime.Object) T
	changed func()

	mu     sync.Mutex
	held   map[types.NamespacedName]held[T]
	synced chan struct{} // closed with the first list
	err    error         // of the last list or watch
}

// held is one object.
type held[T any] struct {
	uid     types.UID
	version string
	value   T
}

func newMirror[T any](trim func(runtime.Object) T, changed func()) *mirror[T] {
	return &mirror[T]{trim: trim, changed: changed, held: map[types.NamespacedName]held[T]{}, synced: make(chan struct{})}
}

// lister and watcher are of a client for one kind.
type (
	lister  func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watcher func(context.Context, metav1.ListOptions) (watch.Interface, error)
)

// run follows what the field selector chooses until ctx ends, and then forgets
// it.
func (m *mirror[T]) run(ctx context.Context, kind runtime.Object, selector string, list lister, watch watcher) {
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			found, err := list(ctx, o)
			m.note(err)
			return found, err
		},
		WatchFuncWithContext: m.watch(selector, watch),
	}
	cache.NewReflectorWithOptions(source, kind, m, cache.ReflectorOptions{Name: "accounts"}).RunWithContext(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.held)
	m.err = nil
	select {
	case <-m.synced:
		m.synced = make(chan struct{})
	default:
	}
}

func (m *mirror[T]) watch(selector string, open watcher) cache.WatchFuncWithContext {
	return func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		o.FieldSelector = selector
		events, err := open(ctx, o)
		m.note(err)
		return events, err
	}
}

func (m *mirror[T]) note(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// wait returns when the first list is there.
func (m *mirror[T]) wait(ctx context.Context) error {
	m.mu.Lock()
	synced := m.synced
	m.mu.Unlock()
	late := time.NewTimer(syncTime)
	defer late.Stop()
	select {
	case <-synced:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-late.C:
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return cmp.Or(m.err, errors.New("the Kubernetes API has not answered yet"))
}

// newer says whether version a is of a later write than b.
func newer(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err != nil && a != b || order > 0
}

// put takes an object as it is now, unless it is known as it was later.
func (m *mirror[T]) put(object metav1.Object, value T) (news bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := nameOf(object)
	if h, ok := m.held[name]; ok && !newer(object.GetResourceVersion(), h.version) {
		return false
	}
	m.held[name] = held[T]{object.GetUID(), object.GetResourceVersion(), value}
	return true
}

// drop forgets what was deleted at the version, unless it is there again.
func (m *mirror[T]) drop(name types.NamespacedName, version string) (news bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h, ok := m.held[name]
	if !ok || newer(h.version, version) {
		return false
	}
	delete(m.held, name)
	return true
}

// get is what is known of one object.
func (m *mirror[T]) get(name types.NamespacedName) (held[T], bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h, ok := m.held[name]
	return h, ok
}

// replace takes a value in place of the one of the same version.
func (m *mirror[T]) replace(name types.NamespacedName, version string, value T) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h, ok := m.held[name]; ok && h.version == version {
		h.value = value
		m.held[name] = h
	}
}

// each calls f for all objects, in no order.
func (m *mirror[T]) each(f func(types.NamespacedName, held[T])) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, h := range m.held {
		f(name, h)
	}
}

func nameOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// Add implements cache.ReflectorStore.
func (m *mirror[T]) Add(object any) error { return m.Update(object) }

// Update implements cache.ReflectorStore.
func (m *mirror[T]) Update(object any) error {
	o, kind, err := both(object)
	if err != nil {
		return err
	}
	if m.put(o, m.trim(kind)) {
		m.changed()
	}
	return nil
}

// Delete implements cache.ReflectorStore.
func (m *mirror[T]) Delete(object any) error {
	o, _, err := both(object)
	if err != nil {
		return err
	}
	if m.drop(nameOf(o), o.GetResourceVersion()) {
		m.changed()
	}
	return nil
}

// Replace implements cache.ReflectorStore: what the list does not have is
// gone, unless it was written after the list.
func (m *mirror[T]) Replace(list []any, version string) error {
	there := make(map[types.NamespacedName]bool, len(list))
	for _, object := range list {
		o, kind, err := both(object)
		if err != nil {
			return err
		}
		there[nameOf(o)] = true
		m.put(o, m.trim(kind))
	}
	m.mu.Lock()
	for name, h := range m.held {
		if !there[name] && !newer(h.version, version) {
			delete(m.held, name)
		}
	}
	m.err = nil
	select {
	case <-m.synced:
	default:
		close(m.synced)
	}
	m.mu.Unlock()
	m.changed()
	return nil
}

// Resync implements cache.ReflectorStore.
func (m *mirror[T]) Resync() error { return nil }

func both(object any) (metav1.Object, runtime.Object, error) {
	o, ok := object.(metav1.Object)
	kind, also := object.(runtime.Object)
	if !ok || !also {
		return nil, nil, fmt.Errorf("%T is no object", object)
	}
	return o, kind, nil
}

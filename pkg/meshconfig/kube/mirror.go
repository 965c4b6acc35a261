package kube

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

// mirror is what the API has of one kind, trimmed. It is the store behind the
// kind's reflector, which fills it; everybody may read.
type mirror struct {
	trim    func(any) (metav1.Object, error)
	changed func() // called after a change that counts
	// keep says how long an object that a list no longer has, though no event
	// told of its end, stays in gone; 0 for kinds that the guard does not need.
	keep    time.Duration
	confirm time.Duration // a list so much later confirms the end

	mu      sync.Mutex
	objects map[string]metav1.Object // by namespace/name
	gone    map[string]vanished
	sorted  []metav1.Object // of objects; nil: to be made
	synced  bool
}

// vanished is an object that a list did not have.
type vanished struct {
	object metav1.Object
	since  time.Time
}

func newMirror(trim func(any) (metav1.Object, error), changed func()) *mirror {
	return &mirror{trim: trim, changed: changed, objects: map[string]metav1.Object{}, gone: map[string]vanished{}}
}

func keyOf(o metav1.Object) string { return o.GetNamespace() + "/" + o.GetName() }

// Transformer trims what the reflector holds until a list is complete.
func (m *mirror) Transformer() cache.TransformFunc {
	return func(o any) (any, error) { return m.trim(o) }
}

// Add is an object that the API has now.
func (m *mirror) Add(raw any) error {
	o, err := m.trim(raw)
	if err != nil {
		return err
	}
	key := keyOf(o)
	m.mu.Lock()
	delete(m.gone, key)
	same := equal(m.objects[key], o)
	if !same {
		m.objects[key], m.sorted = o, nil
	}
	m.mu.Unlock()
	if !same {
		m.changed()
	}
	return nil
}

// Update is Add.
func (m *mirror) Update(raw any) error { return m.Add(raw) }

// Delete is an object of whose end an event tells.
func (m *mirror) Delete(raw any) error {
	o, ok := raw.(metav1.Object)
	if !ok {
		return fmt.Errorf("deleted: %T is no object", raw)
	}
	key := keyOf(o)
	m.mu.Lock()
	delete(m.gone, key)
	_, had := m.objects[key]
	delete(m.objects, key)
	m.sorted = nil
	m.mu.Unlock()
	if had {
		m.changed()
	}
	return nil
}

// Replace is a full list: at the start, and when events may have been lost.
func (m *mirror) Replace(list []any, _ string) error {
	next := make(map[string]metav1.Object, len(list))
	for _, raw := range list {
		o, err := m.trim(raw)
		if err != nil {
			return err
		}
		next[keyOf(o)] = o
	}
	now := time.Now()
	m.mu.Lock()
	changed := m.replace(next, now)
	m.mu.Unlock()
	if changed {
		m.changed()
	}
	return nil
}

func (m *mirror) replace(next map[string]metav1.Object, now time.Time) (changed bool) {
	changed = !m.synced
	m.synced, m.sorted = true, nil
	for key, last := range m.gone {
		if _, back := next[key]; back || now.Sub(last.since) >= m.confirm {
			delete(m.gone, key)
			changed = true
		}
	}
	for key, last := range m.objects {
		o, there := next[key]
		switch {
		case there && equal(last, o):
			next[key] = last
		case there:
			changed = true
		default:
			changed = true
			if m.keep > 0 {
				m.gone[key] = vanished{last, now}
			}
		}
	}
	changed = changed || len(next) != len(m.objects)
	m.objects = next
	return changed
}

// Resync has nothing to do: nothing is derived that could get lost.
func (m *mirror) Resync() error { return nil }

// list is all objects, by namespace and name, and whether a full list was
// read. Neither the slice nor the objects may be changed.
func (m *mirror) list() ([]metav1.Object, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sorted == nil {
		m.sorted = make([]metav1.Object, 0, len(m.objects))
		for _, o := range m.objects {
			m.sorted = append(m.sorted, o)
		}
		slices.SortFunc(m.sorted, byName)
	}
	return m.sorted, m.synced
}

func byName(a, b metav1.Object) int {
	if c := strings.Compare(a.GetNamespace(), b.GetNamespace()); c != 0 {
		return c
	}
	return strings.Compare(a.GetName(), b.GetName())
}

// missing are the vanished objects, and since when the first and the last of
// them are; those whose time is up are forgotten.
func (m *mirror) missing(now time.Time) (list []metav1.Object, first, last time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, v := range m.gone {
		if now.Sub(v.since) >= m.keep {
			delete(m.gone, key)
			continue
		}
		list = append(list, v.object)
		if first.IsZero() || v.since.Before(first) {
			first = v.since
		}
		if v.since.After(last) {
			last = v.since
		}
	}
	slices.SortFunc(list, byName)
	return list, first, last
}

func (m *mirror) isSynced() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.synced
}

func (m *mirror) has(key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.objects[key] != nil
}

// equal compares what is left of two objects. Of decoded ones the metadata
// tells, in which a change of their status leaves no trace.
func equal(a, b metav1.Object) bool {
	if a, ok := a.(*decoded); ok {
		b, ok := b.(*decoded)
		return ok && reflect.DeepEqual(a.ObjectMeta, b.ObjectMeta)
	}
	return reflect.DeepEqual(a, b)
}

package ads

import (
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/mem"

	"github.com/meshpilot/pilot/pkg/discovery/ads/wire"
	"github.com/meshpilot/pilot/pkg/translate"
)

// holding is what a proxy holds of one half of a kind: the list, except
// where over says otherwise. Values are immutable and shared by pointer, so
// that streams in the same state find the same change.
type holding struct {
	base *list
	over *overlay
}

// overlay are differences to a list, sorted by name. A private overlay is one
// stream's own; changes from it are not kept for others.
type overlay struct {
	entries []entry
	private bool
}

// entry says which version of a resource is held: none if empty. unsure is
// held in a version that is not known.
type entry struct {
	id       uint32
	name     string
	version  string
	resource *translate.Resource // if it is known
}

const unsure = "?"

// merged is o with entries, sorted by name, in place of its own of that name.
func (o *overlay) merged(entries []entry) *overlay {
	if len(entries) == 0 {
		return o
	}
	all := slices.Clone(entries)
	if o != nil {
		for _, e := range o.entries {
			if _, replaced := slices.BinarySearchFunc(entries, e.name, compareEntry); !replaced {
				all = append(all, e)
			}
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return &overlay{entries: all, private: true}
}

func compareEntry(e entry, name string) int { return strings.Compare(e.name, name) }

// lookup is the version and resource held under a name.
func (h holding) lookup(name string) (string, *translate.Resource) {
	if h.over != nil {
		if i, ok := slices.BinarySearchFunc(h.over.entries, name, compareEntry); ok {
			return h.over.entries[i].version, h.over.entries[i].resource
		}
	}
	if r := h.base.get(name); r != nil {
		return r.Version, r
	}
	return "", nil
}

// settled says that only removals can differ from to.
func (h holding) settled(to *list) bool {
	if h.base != to {
		return false
	}
	if h.over != nil {
		for _, e := range h.over.entries {
			if to.get(e.name) != nil {
				return false
			}
		}
	}
	return true
}

// scope is which names of a kind a proxy subscribes to.
type scope struct {
	wildcard bool
	subset   subset
}

// changeKey is all that a change depends on.
type changeKey struct {
	from  holding
	to    *list
	scope scope
	force subset // sent even if held
	drop  bool   // removals too
}

// change is how a proxy gets from one holding to a list.
type change struct {
	updates []*translate.Resource
	removed []string
	after   holding
	touched subset // endpoints of the updated clusters

	once  sync.Once
	parts mem.BufferSlice // encoding for delta
}

// change finds or computes the way from key.from to key.to.
func (g *generation) change(key changeKey) *change {
	if key.from.base == key.to && key.from.over == nil && key.force == (subset{}) {
		return &change{after: key.from}
	}
	if key.from.over != nil && key.from.over.private {
		return g.compute(key)
	}
	g.mu.Lock()
	g.used = true
	c := g.changes[key]
	g.mu.Unlock()
	if c != nil {
		return c
	}
	// Two workers may compute the same; the first one's result is kept.
	c = g.compute(key)
	g.mu.Lock()
	defer g.mu.Unlock()
	if first := g.changes[key]; first != nil {
		return first
	}
	g.changes[key] = c
	return c
}

func (g *generation) compute(key changeKey) *change {
	w := walk{
		change: &change{after: holding{base: key.to}},
		key:    key, subset: key.scope.subset.raw(), force: key.force.raw(),
		silent: key.to != nil && key.to.kind == endpoints,
	}
	w.run()
	if len(w.kept) > 0 {
		w.change.after.over = &overlay{entries: w.kept, private: key.from.over != nil && key.from.over.private}
	}
	if key.to != nil && key.to.kind == clusters {
		var bits []byte
		for _, r := range w.change.updates {
			if id, ok := g.names.number[r.Endpoints()]; ok && g.endpoints.find(id) != nil {
				bits = mark(bits, id)
			}
		}
		w.change.touched = newSubset(bits)
	}
	return w.change
}

// walk goes over what is held and what is wanted, both sorted by name.
type walk struct {
	*change
	key           changeKey
	subset, force string
	silent        bool    // endpoints go with their cluster
	kept          []entry // removals put off
}

func (w *walk) run() {
	var base, to list
	var over []entry
	if w.key.from.base != nil {
		base = list{resources: w.key.from.base.resources, ids: w.key.from.base.ids}
	}
	if w.key.to != nil {
		to = list{resources: w.key.to.resources, ids: w.key.to.ids}
	}
	if w.key.from.over != nil {
		over = w.key.from.over.entries
	}
	for b, o, t := 0, 0, 0; b < len(base.resources) || o < len(over) || t < len(to.resources); {
		var held entry
		var want *translate.Resource
		name := smallest(base.resources[b:], over[o:], to.resources[t:])
		if b < len(base.resources) && base.resources[b].Name == name {
			r := base.resources[b]
			held = entry{base.ids[b], name, r.Version, r}
			b++
		}
		if o < len(over) && over[o].name == name {
			held = over[o]
			o++
		}
		if t < len(to.resources) && to.resources[t].Name == name {
			want = to.resources[t]
			held.id, held.name = to.ids[t], name
			t++
		}
		w.visit(held, want)
	}
}

func smallest(base []*translate.Resource, over []entry, to []*translate.Resource) string {
	name, found := "", false
	offer := func(s string) {
		if !found || s < name {
			name, found = s, true
		}
	}
	if len(base) > 0 {
		offer(base[0].Name)
	}
	if len(over) > 0 {
		offer(over[0].name)
	}
	if len(to) > 0 {
		offer(to[0].Name)
	}
	return name
}

func (w *walk) visit(held entry, want *translate.Resource) {
	if !w.key.scope.wildcard && !has(w.subset, held.id) {
		return
	}
	switch {
	case want != nil && (held.version != want.Version || has(w.force, held.id)):
		w.updates = append(w.updates, want)
	case want == nil && held.version != "" && w.key.drop:
		if !w.silent {
			w.removed = append(w.removed, held.name)
		}
	case want == nil && held.version != "":
		w.kept = append(w.kept, held)
	}
}

// encoded are the parts of a delta response with the change.
func (g *generation) encoded(k kind, c *change) mem.BufferSlice {
	c.once.Do(func() { c.parts = appendRemoved(g.encode(nil, k, true, c.updates), c.removed) })
	return c.parts
}

func appendRemoved(parts mem.BufferSlice, removed []string) mem.BufferSlice {
	var bytes []byte
	for _, name := range removed {
		bytes = wire.AppendRemoved(bytes, name)
	}
	if len(bytes) > 0 {
		parts = append(parts, mem.SliceBuffer(bytes))
	}
	return parts
}

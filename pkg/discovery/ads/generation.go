package ads

import (
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"unique"

	"google.golang.org/grpc/mem"

	"github.com/meshpilot/pilot/pkg/discovery/ads/wire"
	"github.com/meshpilot/pilot/pkg/translate"
)

// kind is a type of resources, in push order.
type kind uint8

const (
	secrets kind = iota
	clusters
	endpoints
	listeners
	routes
	kinds
)

func (k kind) url() string {
	return [kinds]string{
		translate.SecretType, translate.ClusterType, translate.EndpointType,
		translate.ListenerType, translate.RouteType,
	}[k]
}

// kindOf is the kind of a type URL; false for types that get no answer.
func kindOf(url []byte) (kind, bool) {
	for k := range kinds {
		if string(url) == k.url() {
			return k, true
		}
	}
	return 0, false
}

// full says that a state-of-the-world response of the kind is the whole
// state: what is missing in it is removed.
func (k kind) full() bool { return k == clusters || k == listeners }

// names numbers all resource names, so that a subscription is a bit a name.
// A number is never given to another name of its era. Immutable.
type names struct {
	era    int
	number map[string]uint32
	list   []string
}

// mostGone is how many names may be kept, besides thrice as many as there are
// resources, that no table has any more.
const mostGone = 10_000

// stale says that too many names are gone: a new era begins.
func (n *names) stale(live int) bool { return len(n.list) > 4*live+mostGone }

// with is n and the names of tables that n does not have yet.
func (n *names) with(lists []*list) *names {
	grown := n
	for _, l := range lists {
		for _, r := range l.resources {
			if _, ok := grown.number[r.Name]; ok {
				continue
			}
			if grown == n { // readers hold n: grow a copy
				grown = &names{era: n.era, number: make(map[string]uint32, len(n.list)+len(l.resources)), list: slices.Clip(n.list)}
				for id, name := range n.list {
					grown.number[name] = uint32(id)
				}
			}
			grown.number[r.Name] = uint32(len(grown.list))
			grown.list = append(grown.list, r.Name)
		}
	}
	return grown
}

// subset is a set of names. Equal subsets share their memory, and are equal
// by ==. The zero value is empty.
type subset struct{ bits unique.Handle[string] }

func newSubset(bits []byte) subset {
	for len(bits) > 0 && bits[len(bits)-1] == 0 {
		bits = bits[:len(bits)-1]
	}
	if len(bits) == 0 {
		return subset{}
	}
	return subset{unique.Make(string(bits))}
}

func (s subset) raw() string {
	if s == (subset{}) {
		return ""
	}
	return s.bits.Value()
}

func has(bits string, id uint32) bool {
	return int(id>>3) < len(bits) && bits[id>>3]&(1<<(id&7)) != 0
}

// with is s and o.
func (s subset) with(o subset) subset {
	if s == o || o == (subset{}) {
		return s
	}
	if s == (subset{}) {
		return o
	}
	long, short := s.raw(), o.raw()
	if len(long) < len(short) {
		long, short = short, long
	}
	bits := []byte(long)
	for i := range len(short) {
		bits[i] |= short[i]
	}
	return newSubset(bits)
}

// without is s less o.
func (s subset) without(o subset) subset {
	bits, less := []byte(s.raw()), o.raw()
	for i := range min(len(bits), len(less)) {
		bits[i] &^= less[i]
	}
	return newSubset(bits)
}

// mark sets the bit of id, growing bits as needed.
func mark(bits []byte, id uint32) []byte {
	for int(id>>3) >= len(bits) {
		bits = append(bits, make([]byte, max(64, len(bits)))...)
	}
	bits[id>>3] |= 1 << (id & 7)
	return bits
}

// list is a table as the store sees it: equal content is one list, whatever
// class or generation it comes from.
type list struct {
	kind      kind
	version   string
	resources []*translate.Resource
	ids       []uint32 // numbers of the names, parallel

	at func() []int32 // position by number, -1 for none; made when first asked for
}

// find is the resource whose name has the number id, or nil.
func (l *list) find(id uint32) *translate.Resource {
	if l == nil {
		return nil
	}
	if at := l.at(); int(id) < len(at) && at[id] >= 0 {
		return l.resources[at[id]]
	}
	return nil
}

// get is the resource of that name, or nil.
func (l *list) get(name string) *translate.Resource {
	if l == nil {
		return nil
	}
	i, ok := slices.BinarySearchFunc(l.resources, name, func(r *translate.Resource, name string) int { return strings.Compare(r.Name, name) })
	if !ok {
		return nil
	}
	return l.resources[i]
}

func (l *list) number(n *names) {
	l.ids = make([]uint32, len(l.resources))
	for i, r := range l.resources {
		l.ids[i] = n.number[r.Name]
	}
	l.at = sync.OnceValue(func() []int32 {
		size := uint32(0)
		for _, id := range l.ids {
			size = max(size, id+1)
		}
		at := make([]int32, size)
		for i := range at {
			at[i] = -1
		}
		for i, id := range l.ids {
			at[id] = int32(i)
		}
		return at
	})
}

// half is a translate.Half as the store sees it.
type half struct {
	lists               [kinds]*list // endpoints: nil
	respelled, resident *list
	needsSecrets        bool
}

// generation is a World with what is shared between all streams that go to it.
type generation struct {
	number    uint64 // one more than the one before
	world     *World
	names     *names
	halves    map[*translate.Half]*half
	lists     map[listKey]*list
	endpoints *list

	mu      sync.Mutex
	changes map[changeKey]*change
	chunks  map[uint64][]*chunk
	used    bool // since the last idle call
}

type listKey struct {
	kind    kind
	version string
}

// newGeneration takes from prev what is the same in w. It is of a new era if
// most names of prev's are gone.
func newGeneration(w *World, prev *generation) *generation {
	g := &generation{world: w, halves: make(map[*translate.Half]*half, len(w.Client)+len(w.Server)), lists: make(map[listKey]*list)}
	if prev == nil {
		prev = &generation{names: &names{number: map[string]uint32{}}}
	}
	var fresh []*list
	adopt := func(k kind, t *translate.Table) *list {
		if t == nil {
			return nil
		}
		key := listKey{k, t.Version}
		l := g.lists[key]
		if l == nil {
			if l = prev.lists[key]; l == nil {
				l = &list{kind: k, version: t.Version, resources: t.Resources}
				fresh = append(fresh, l)
			}
			g.lists[key] = l
		}
		return l
	}
	add := func(h *translate.Half) {
		if h == nil || g.halves[h] != nil {
			return
		}
		mine := &half{respelled: adopt(secrets, h.SecretsRespelled), resident: adopt(clusters, h.Resident), needsSecrets: h.NeedsSecrets}
		mine.lists[secrets] = adopt(secrets, h.Secrets)
		mine.lists[clusters] = adopt(clusters, h.Clusters)
		mine.lists[listeners] = adopt(listeners, h.Listeners)
		mine.lists[routes] = adopt(routes, h.Routes)
		g.halves[h] = mine
	}
	for _, h := range w.Client {
		add(h)
	}
	for _, h := range w.Server {
		add(h)
	}
	g.endpoints = adopt(endpoints, w.Endpoints)
	live := 0
	for _, l := range g.lists {
		live += len(l.resources)
	}
	if prev.names.stale(live) {
		return newGeneration(w, &generation{names: &names{era: prev.names.era + 1, number: map[string]uint32{}}})
	}
	g.names = prev.names.with(fresh)
	for _, l := range fresh {
		l.number(g.names)
	}
	g.drop()
	return g
}

// idle drops what was encoded for sharing, unless it was used since the last
// call; it then says false.
func (g *generation) idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.used {
		g.used = false
		return false
	}
	g.drop()
	return true
}

func (g *generation) drop() {
	g.changes = map[changeKey]*change{}
	g.chunks = map[uint64][]*chunk{}
}

// chunk is the encoding of a run of resources, shared by all responses with
// the same run: two classes that differ in one cluster share nearly all bytes.
type chunk struct {
	delta     bool
	resources []*translate.Resource
	bytes     mem.SliceBuffer
}

var pointerHash = maphash.MakeSeed()

// encode gives the resources as parts of a response, with shared bytes.
func (g *generation) encode(parts mem.BufferSlice, k kind, delta bool, resources []*translate.Resource) mem.BufferSlice {
	for len(resources) > 0 {
		n := 1
		for n < len(resources) && n < 256 && !boundary(resources[n]) {
			n++
		}
		parts = append(parts, g.chunk(k, delta, resources[:n]))
		resources = resources[n:]
	}
	return parts
}

// boundary cuts runs by content, so that equal neighbours give equal runs:
// one resource in 64 begins one.
func boundary(r *translate.Resource) bool {
	return strings.HasSuffix(r.Version, "0") && len(r.Version) > 1 && strings.IndexByte("048c", r.Version[len(r.Version)-2]) >= 0
}

func (g *generation) chunk(k kind, delta bool, resources []*translate.Resource) mem.SliceBuffer {
	hash := uint64(len(resources))
	for _, r := range resources {
		hash = hash*31 + maphash.Comparable(pointerHash, r)
	}
	g.mu.Lock()
	g.used = true
	for _, c := range g.chunks[hash] {
		if c.delta == delta && slices.Equal(c.resources, resources) {
			g.mu.Unlock()
			return c.bytes
		}
	}
	g.mu.Unlock()
	size := 0
	for _, r := range resources {
		size += encodable(k, r).Size(delta)
	}
	bytes := make([]byte, 0, size)
	for _, r := range resources {
		bytes = encodable(k, r).Append(bytes, delta)
	}
	c := &chunk{delta, resources, bytes}
	g.mu.Lock()
	g.chunks[hash] = append(g.chunks[hash], c)
	g.mu.Unlock()
	return c.bytes
}

func encodable(k kind, r *translate.Resource) wire.Resource {
	return wire.Resource{Name: r.Name, Version: r.Version, TypeURL: k.url(), Value: r.Body.GetValue()}
}

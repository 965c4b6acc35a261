package ads

import (
	"strconv"
	"time"

	"google.golang.org/grpc/mem"

	"github.com/meshpilot/pilot/pkg/discovery/ads/wire"
	"github.com/meshpilot/pilot/pkg/translate"
)

// patience is how long one kind waits for the acknowledgement of another: a
// proxy may never answer, and Envoy gives a warming cluster as long.
const patience = 15 * time.Second

// next is the next response to send, or nil; then the timer is armed for when
// to look again. It is the order of the protocol: a kind with a response in
// flight is passed over; listeners and routes wait for the clusters that they
// may refer to; removals come when nothing else is left to send.
func (s *stream) next(now time.Time) *wire.Message {
	s.sync()
	if s.client == nil {
		return nil
	}
	s.wakeAt = time.Time{}
	for k := range kinds {
		if m := s.update(k, now); m != nil {
			return m
		}
	}
	for _, k := range [...]kind{routes, clusters} {
		if m := s.remove(k, now); m != nil {
			return m
		}
	}
	s.schedule(now)
	s.mark()
	return nil
}

// update is what is new or changed of a kind.
func (s *stream) update(k kind, now time.Time) *wire.Message {
	sub := &s.kinds[k]
	switch {
	case !sub.asked || sub.flight != nil || s.later(sub.retryAt, now):
		return nil
	case k == secrets:
		return s.nextSecret(now)
	case s.gated():
		if k == clusters {
			return s.resident(now)
		}
		return nil
	case s.current(k): // as nearly always
		return nil
	case (k == listeners || k == routes) && s.warming(now):
		return nil
	}
	// Nothing refers to listeners; endpoints go silently, with their cluster;
	// a list that is not the full state cannot say that something is gone.
	drop := k == listeners || k == endpoints || k == routes && !s.delta
	return s.compose(k, drop, now)
}

// current says that the proxy has all that it should have of a kind, and
// asked for nothing.
func (s *stream) current(k kind) bool {
	sub, to := &s.kinds[k], s.targets(k)
	asks := sub.answer || sub.force != (subset{}) || len(sub.gone) > 0
	return !asks && sub.held == [2]holding{{base: to[0]}, {base: to[1]}}
}

// gated says that the proxy must prove its secrets first.
func (s *stream) gated() bool {
	return (s.client.needsSecrets || s.server.needsSecrets) && !s.proven()
}

// warming says that clusters which listeners or routes may refer to are not
// acknowledged yet; Envoy acknowledges them when they are warm.
func (s *stream) warming(now time.Time) bool {
	f := s.kinds[clusters].flight
	return f != nil && f.warms() && s.later(s.warmBy, now)
}

// remove is what is gone of a kind, once nothing refers to it any more.
func (s *stream) remove(k kind, now time.Time) *wire.Message {
	sub := &s.kinds[k]
	if !sub.asked || sub.flight != nil || s.gated() || s.later(sub.retryAt, now) {
		return nil
	}
	to := s.targets(k)
	gone := sub.held[0].over != nil || sub.held[1].over != nil
	if !gone || !sub.held[0].settled(to[0]) || !sub.held[1].settled(to[1]) {
		return nil
	}
	if !s.quiet(listeners, now) || k == clusters && !s.quiet(routes, now) {
		return nil
	}
	return s.compose(k, true, now)
}

// quiet says that the proxy acknowledged all of a kind that it should have.
func (s *stream) quiet(k kind, now time.Time) bool {
	sub := &s.kinds[k]
	if !sub.asked {
		// A proxy that reconnects asks for one kind after another.
		return !s.claims || !s.later(s.started.Add(patience), now)
	}
	if sub.flight != nil {
		return false
	}
	for refused := range sub.refused {
		if r := s.wanted(k, refused.name); r != nil && r.Version == refused.version {
			return false
		}
	}
	to := s.targets(k)
	return sub.held[0].settled(to[0]) && sub.held[1].settled(to[1])
}

// resident is sds-resident alone, for a proxy that has to prove its secrets.
// One that holds more keeps it; in state of the world, where a list is the
// whole state, it is then sent nothing.
func (s *stream) resident(now time.Time) *wire.Message {
	sub := &s.kinds[clusters]
	empty := !s.claims && sub.sent == "" || s.residentOnly
	if s.server.resident == nil || !empty && !s.delta {
		return nil
	}
	c := &change{after: sub.held[1]}
	var entries []entry
	bits := sub.scope.subset.raw()
	for i, r := range s.server.resident.resources {
		id := s.server.resident.ids[i]
		version, _ := sub.held[1].lookup(r.Name)
		if version != r.Version && (sub.scope.wildcard || has(bits, id)) {
			c.updates = append(c.updates, r)
			entries = append(entries, entry{id, r.Name, r.Version, r})
		}
	}
	if len(c.updates) == 0 {
		return nil
	}
	c.after.over = c.after.over.merged(entries)
	s.residentOnly = empty
	parts := s.gen.encode(newParts(), clusters, s.delta, c.updates)
	sub.answer = false
	return s.send(clusters, [2]*change{nil, c}, s.server.resident.version, parts, now)
}

// compose is the response that takes the proxy from what it holds to what it
// should have; nil if that is the same.
func (s *stream) compose(k kind, drop bool, now time.Time) *wire.Message {
	sub := &s.kinds[k]
	to := s.targets(k)
	var changes [2]*change
	var differs bool
	for i := range changes {
		c := s.gen.change(changeKey{from: sub.held[i], to: to[i], scope: sub.scope, force: sub.force, drop: drop})
		c = sub.permitted(sub.held[i], c)
		changes[i] = c
		differs = differs || len(c.updates) > 0 || len(c.removed) > 0 && (s.delta || k.full())
	}
	sub.force = subset{}
	if !differs && !sub.answer && len(sub.gone) == 0 {
		for i, c := range changes {
			sub.held[i] = c.after
		}
		return nil
	}
	parts := newParts()
	switch {
	case s.delta:
		for _, c := range changes {
			parts = append(parts, s.gen.encoded(k, c)...)
		}
		parts = appendRemoved(parts, sub.gone)
	case k.full():
		parts = s.full(parts, k, to, changes)
	default:
		for _, c := range changes {
			parts = s.gen.encode(parts, k, false, c.updates)
		}
	}
	sub.answer, sub.gone = false, nil
	if k == clusters {
		s.residentOnly = false
	}
	return s.send(k, changes, s.version(k, to, changes), parts, now)
}

// permitted is c without what the proxy refused; if it holds nothing of that
// name, with the last one that it did not refuse.
func (sub *subscription) permitted(from holding, c *change) *change {
	if len(sub.refused) == 0 {
		return c
	}
	less := &change{removed: c.removed, after: c.after, touched: c.touched}
	for _, r := range c.updates {
		if sub.refused[refusal{r.Name, r.Version}] {
			if r = sub.good[r.Name]; r == nil {
				continue
			}
			if version, _ := from.lookup(r.Name); version != "" {
				continue
			}
		}
		less.updates = append(less.updates, r)
	}
	return less
}

// full is the whole state: what the proxy should have, with what it holds in
// place of what it refused, and what is yet to be removed.
func (s *stream) full(parts mem.BufferSlice, k kind, to [2]*list, changes [2]*change) mem.BufferSlice {
	sub := &s.kinds[k]
	bits := sub.scope.subset.raw()
	for i, l := range to {
		var resources []*translate.Resource
		if l != nil && sub.scope.wildcard && len(sub.refused) == 0 {
			resources = l.resources
		} else if l != nil {
			for j, r := range l.resources {
				if sub.refused[refusal{r.Name, r.Version}] {
					r = sub.good[r.Name]
				}
				if r != nil && (sub.scope.wildcard || has(bits, l.ids[j])) {
					resources = append(resources, r)
				}
			}
		}
		parts = s.gen.encode(parts, k, false, resources)
		parts = s.gen.encode(parts, k, false, lingering(changes[i].after))
	}
	return parts
}

// lingering are the resources that wait for their removal.
func lingering(h holding) []*translate.Resource {
	var resources []*translate.Resource
	if h.over != nil {
		for _, e := range h.over.entries {
			if e.resource != nil && h.base.get(e.name) == nil {
				resources = append(resources, e.resource)
			}
		}
	}
	return resources
}

// version names the content that the proxy has after a response: a hash over
// all names and versions, the same on every replica.
func (s *stream) version(k kind, to [2]*list, changes [2]*change) string {
	var version string
	for i, l := range to {
		if l == nil {
			continue
		}
		if i > 0 && version != "" {
			version += "."
		}
		version += l.version
	}
	if k.full() {
		left := uint64(0)
		for _, c := range changes {
			for _, r := range lingering(c.after) {
				for _, b := range []byte(r.Name + r.Version) { // FNV-1a
					left = (left ^ uint64(b)) * 1099511628211
				}
			}
		}
		if left != 0 {
			version += "+" + strconv.FormatUint(left, 16)
		}
	}
	return version
}

// newParts are those of a response, with room for the head, which is the
// stream's own, as the first.
func newParts() mem.BufferSlice { return make(mem.BufferSlice, 1, 8) }

// send puts a response in flight.
func (s *stream) send(k kind, changes [2]*change, version string, parts mem.BufferSlice, now time.Time) *wire.Message {
	sub := &s.kinds[k]
	f := &flight{version: version, changes: changes, from: sub.held}
	count := 0
	for i, c := range changes {
		if c == nil {
			continue
		}
		sub.held[i] = c.after
		count += len(c.updates)
		if k == clusters {
			// Envoy warms a changed cluster until its endpoints come again.
			s.kinds[endpoints].force = s.kinds[endpoints].force.with(c.touched)
		}
	}
	s.nonces++
	sub.flight, sub.nonce = f, strconv.FormatUint(s.nonces, 10)
	sub.sent, sub.sentAt = version, now
	if k == clusters && f.warms() {
		s.warmBy = now.Add(patience)
	}
	parts[0] = mem.SliceBuffer(wire.Head(version, k.url(), sub.nonce))
	s.emit(Event{Kind: Sent, TypeURL: k.url(), Version: version, Nonce: sub.nonce, Resources: count, Bytes: parts.Len()})
	return &wire.Message{Parts: parts}
}

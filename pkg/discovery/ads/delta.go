package ads

import (
	"math"

	"github.com/meshpilot/pilot/pkg/discovery/ads/wire"
)

// noNumber is the number of names that no table ever had.
const noNumber = math.MaxUint32

// deltaRequest applies a delta request: acknowledgement, what is no longer
// wanted, and what is.
func (s *stream) deltaRequest(k kind, r *wire.Request) error {
	sub := &s.kinds[k]
	if !sub.asked {
		return s.deltaFirst(k, r)
	}
	if len(r.Nonce) > 0 || r.Refused {
		s.reply(k, r)
	}
	if err := s.subscribe(k, r); err != nil {
		return err
	}
	s.unsubscribe(k, r)
	return nil
}

// subscribe adds names. They are sent even if the proxy has them, because it
// asks for a reason, and told as removed if they do not exist.
func (s *stream) subscribe(k kind, r *wire.Request) error {
	sub := &s.kinds[k]
	var bits []byte
	for name := range r.Subscribe() {
		if k == secrets {
			s.askSecret(string(name), "")
			continue
		}
		if string(name) == "*" && k.full() {
			s.widen(k)
			continue
		}
		id, ok := s.gen.names.number[string(name)]
		if ok {
			bits = mark(bits, id)
		} else if err := sub.addStrange(string(name)); err != nil {
			return err
		}
		if !ok || s.wanted(k, string(name)) == nil {
			sub.gone = append(sub.gone, string(name))
		}
	}
	added := newSubset(bits)
	sub.scope.subset = sub.scope.subset.with(added)
	sub.force = sub.force.with(added)
	return nil
}

// widen makes the scope the wildcard; what was not in it is not held.
func (s *stream) widen(k kind) {
	sub := &s.kinds[k]
	if sub.scope.wildcard {
		return
	}
	sub.scope.wildcard, sub.answer = true, true
	var bits []byte
	for _, l := range s.targets(k) {
		if l != nil {
			for _, id := range l.ids {
				bits = mark(bits, id)
			}
		}
	}
	sub.force = sub.force.with(newSubset(bits).without(sub.scope.subset))
}

// unsubscribe takes names back. A name that the wildcard still covers is sent
// once more, as the protocol demands.
func (s *stream) unsubscribe(k kind, r *wire.Request) {
	sub := &s.kinds[k]
	var bits []byte
	for name := range r.Unsubscribe() {
		if k == secrets {
			s.dropSecret(string(name))
			continue
		}
		if string(name) == "*" && k.full() {
			sub.scope.wildcard = false
			continue
		}
		if id, ok := s.gen.names.number[string(name)]; ok {
			bits = mark(bits, id)
		} else {
			sub.dropStrange(string(name))
		}
	}
	if len(bits) == 0 {
		return
	}
	less := newSubset(bits)
	if sub.scope.wildcard {
		explicit := sub.scope.subset.without(sub.scope.subset.without(less))
		sub.force = sub.force.with(explicit)
	} else {
		sub.force = sub.force.without(less)
	}
	sub.scope.subset = sub.scope.subset.without(less)
}

func (sub *subscription) dropStrange(name string) {
	kept := sub.strange[:0]
	for _, other := range sub.strange {
		if other != name {
			kept = append(kept, other)
		}
	}
	sub.strange = kept
}

// deltaFirst begins a subscription: the proxy says what it holds from before.
func (s *stream) deltaFirst(k kind, r *wire.Request) error {
	sub := &s.kinds[k]
	sub.asked = true
	claims := false
	for range r.Versions() {
		claims = true
		break
	}
	s.claims = s.claims || claims
	if k == secrets {
		s.firstSecrets(r)
		return nil
	}
	named := false
	var bits []byte
	for name := range r.Subscribe() {
		named = true
		if string(name) == "*" && k.full() {
			sub.scope.wildcard = true
		} else if id, ok := s.gen.names.number[string(name)]; ok {
			bits = mark(bits, id)
		} else if err := sub.addStrange(string(name)); err != nil {
			return err
		}
	}
	sub.scope.subset = newSubset(bits)
	if k.full() {
		sub.scope.wildcard = sub.scope.wildcard || !named
		sub.answer = sub.scope.wildcard
	}
	if claims {
		s.claim(k, r)
	}
	return nil
}

func (s *stream) firstSecrets(r *wire.Request) {
	held := map[string]string{}
	for name, version := range r.Versions() {
		held[string(name)] = string(version)
	}
	for name := range r.Subscribe() {
		s.askSecret(string(name), held[string(name)])
	}
}

// claim takes what the proxy says it holds. It is kept as the difference to
// what the proxy should have: usually nothing.
func (s *stream) claim(k kind, r *wire.Request) {
	sub := &s.kinds[k]
	to := s.targets(k)
	var claimed []byte
	var differ [2][]entry
	for name, version := range r.Versions() {
		id, ok := s.gen.names.number[string(name)]
		if !ok {
			id = noNumber
		} else {
			claimed = mark(claimed, id)
		}
		half, want := 0, to[0].find(id)
		if want == nil {
			half, want = 1, to[1].find(id)
		}
		switch {
		case want != nil && want.Version == string(version):
		case want != nil || k.full():
			differ[half] = append(differ[half], entry{id: id, name: string(name), version: string(version)})
		default:
			sub.gone = append(sub.gone, string(name))
		}
	}
	bits, subscribed := string(claimed), sub.scope.subset.raw()
	for i, l := range to {
		if l == nil {
			continue
		}
		for j, id := range l.ids {
			if !has(bits, id) && (sub.scope.wildcard || has(subscribed, id)) {
				differ[i] = append(differ[i], entry{id: id, name: l.resources[j].Name})
			}
		}
		sub.held[i] = holding{base: l}
	}
	for i, entries := range differ {
		sub.held[i].over = sub.held[i].over.merged(sorted(entries))
	}
}

package ads

import (
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/discovery/ads/wire"
)

// sotwRequest applies a state-of-the-world request, row by row of the
// protocol's table: each one repeats all names that the proxy wants.
func (s *stream) sotwRequest(k kind, r *wire.Request) error {
	sub := &s.kinds[k]
	nameless := true
	for range r.Names() {
		nameless = false
		break
	}
	if nameless && !k.full() && !r.Refused {
		if sub.asked && len(r.Nonce) > 0 && sub.flight != nil {
			s.reply(k, r)
		}
		s.sotwEnd(k)
		return nil
	}
	first := !sub.asked || len(r.Nonce) == 0
	if first {
		sub.asked = true
		sub.flight = nil
		sub.held = [2]holding{}
		sub.answer = k != secrets
		s.claims = s.claims || len(r.Version) > 0
	} else if !s.reply(k, r) {
		return nil
	}
	if k == secrets {
		s.sotwSecrets(r, first)
		return nil
	}
	return s.sotwNames(k, r, nameless, first)
}

// sotwNames stores the names; those that are new are sent even if held.
func (s *stream) sotwNames(k kind, r *wire.Request, nameless, first bool) error {
	sub := &s.kinds[k]
	before, strange := sub.scope, sub.strange
	sub.strange = nil
	sub.scope = scope{wildcard: nameless && k.full()}
	var bits []byte
	for name := range r.Names() {
		if string(name) == "*" && k.full() {
			sub.scope.wildcard = true
			continue
		}
		if id, ok := s.gen.names.number[string(name)]; ok {
			bits = mark(bits, id)
			continue
		}
		if err := sub.addStrange(string(name)); err != nil {
			return err
		}
		sub.answer = sub.answer || !slices.Contains(strange, string(name))
	}
	sub.scope.subset = newSubset(bits)
	added := sub.scope.subset.without(before.subset)
	if first {
		added = sub.scope.subset
	}
	sub.answer = sub.answer || sub.scope.wildcard && !before.wildcard
	if added != (subset{}) {
		sub.answer = true
		sub.force = sub.force.with(added)
	}
	return nil
}

func (s *stream) sotwSecrets(r *wire.Request, first bool) {
	asked := map[string]bool{}
	for name := range r.Names() {
		asked[string(name)] = true
		if first || s.secret(string(name)) == nil {
			s.askSecret(string(name), "")
		}
	}
	s.secrets = slices.DeleteFunc(s.secrets, func(sec secret) bool { return !asked[sec.name] })
}

// sotwEnd ends a subscription.
func (s *stream) sotwEnd(k kind) {
	sub := &s.kinds[k]
	*sub = subscription{
		sent: sub.sent, acked: sub.acked, sentAt: sub.sentAt, ackedAt: sub.ackedAt,
		acks: sub.acks, nacks: sub.nacks, nack: sub.nack, nackedAt: sub.nackedAt,
		refusals: sub.refusals,
	}
	if k == secrets {
		s.secrets = nil
	}
}

// sorted are entries by name.
func sorted(entries []entry) []entry {
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return entries
}

package ads

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/ads/wire"
	"github.com/meshpilot/pilot/pkg/translate"
)

// secret is a subscribed secret on one stream. Envoy reads the files that a
// secret names only if its bytes differ from the last ones sent, so each
// resend spells the directory differently, and only the acknowledgement of
// bytes that are known to differ proves that the files were read.
type secret struct {
	name      string
	content   string // version as spelled first; a new one starts over
	respelled bool   // the spelling to send next, or that was sent last
	last      string // version of the bytes last sent, or that the proxy says it holds
	sends     int    // of this content on this stream
	truthful  bool
	retryAt   time.Time
	row       int // refusals in a row
}

// meshSecrets are the secrets that a proxy has to prove.
func meshSecrets() [2]string { return [2]string{"default", "ROOTCA"} }

// proven says that the proxy truthfully acknowledged both mesh secrets.
func (s *stream) proven() bool {
	for _, name := range meshSecrets() {
		if sec := s.secret(name); sec == nil || !sec.truthful {
			return false
		}
	}
	return true
}

func (s *stream) secret(name string) *secret {
	for i := range s.secrets {
		if s.secrets[i].name == name {
			return &s.secrets[i]
		}
	}
	return nil
}

// spellings are the two resources of a secret and the lists that they are
// in; nil if no part of the proxy's configuration has it.
func (s *stream) spellings(name string) (r [2]*translate.Resource, l [2]*list) {
	for _, h := range [...]*half{s.server, s.client} {
		if plain := h.lists[secrets].get(name); plain != nil {
			r, l = [2]*translate.Resource{plain, plain}, [2]*list{h.lists[secrets], h.lists[secrets]}
			if other := h.respelled.get(name); other != nil {
				r[1], l[1] = other, h.respelled
			}
			return r, l
		}
	}
	return r, l
}

// spellings are the secrets of a half, as spelled first and second.
type spellings [2]*list

func (h *half) spellings() spellings { return spellings{h.lists[secrets], h.respelled} }

// askSecret subscribes to a secret. claimed is the version that the proxy
// says it holds, or empty.
func (s *stream) askSecret(name, claimed string) {
	s.spelled = [2]spellings{}
	r, _ := s.spellings(name)
	if r[0] == nil {
		s.emit(Event{Kind: SecretUnknown, TypeURL: secrets.url(), Names: []string{name}})
	}
	if sec := s.secret(name); sec != nil { // asked again: it wants to be told, and to read the files
		sec.respelled, sec.last, sec.retryAt = !sec.respelled, "", time.Time{}
		return
	}
	sec := secret{name: name}
	if r[0] != nil {
		sec.content = r[0].Version
		for i, spelled := range r {
			if claimed == spelled.Version {
				sec.respelled, sec.last, sec.truthful = i == 1, claimed, true
				break
			}
		}
	}
	s.secrets = append(s.secrets, sec)
}

func (s *stream) dropSecret(name string) {
	s.secrets = slices.DeleteFunc(s.secrets, func(sec secret) bool { return sec.name == name })
}

// nextSecret is a response with one secret: Envoy refuses a response whole,
// so a bad file must not keep back another one.
func (s *stream) nextSecret(now time.Time) *wire.Message {
	lists := [2]spellings{s.client.spellings(), s.server.spellings()}
	if s.spelled == lists {
		return nil // looked at before, as nearly always
	}
	waits := false
	for i := range s.secrets {
		sec := &s.secrets[i]
		r, l := s.spellings(sec.name)
		if r[0] == nil {
			continue
		}
		if sec.content != r[0].Version {
			*sec = secret{name: sec.name, content: r[0].Version, last: sec.last}
		}
		spelling := 0
		if sec.respelled {
			spelling = 1
		}
		if sec.last == r[spelling].Version {
			continue
		}
		if s.later(sec.retryAt, now) {
			waits = true
			continue
		}
		sec.last = r[spelling].Version
		sec.sends++
		parts := s.gen.encode(newParts(), secrets, s.delta, r[spelling:spelling+1])
		c := &change{updates: r[spelling : spelling+1]}
		m := s.send(secrets, [2]*change{c, nil}, l[spelling].version, parts, now)
		s.kinds[secrets].flight.secret = sec.name
		return m
	}
	if !waits {
		s.spelled = lists
	}
	return nil
}

// proveSecret takes an acknowledgement. A proxy that was there before this
// stream may have been sent these bytes on another, so its first one proves
// nothing and the other spelling follows.
func (s *stream) proveSecret(name string) {
	sec := s.secret(name)
	s.spelled = [2]spellings{}
	if sec == nil {
		return
	}
	sec.row, sec.retryAt = 0, time.Time{}
	if s.claims && sec.sends < 2 && !sec.truthful {
		sec.respelled = !sec.respelled
		return
	}
	sec.truthful = true
}

// refuseSecret has the secret sent again with its other spelling.
func (s *stream) refuseSecret(name string, now time.Time) {
	sec := s.secret(name)
	s.spelled = [2]spellings{}
	if sec == nil {
		return
	}
	sec.row++
	sec.truthful = false
	sec.respelled = !sec.respelled
	wait := backoff(sec.row)
	sec.retryAt = now.Add(wait - time.Duration(rand.Int64N(int64(wait)/5)))
}

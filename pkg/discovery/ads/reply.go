package ads

import (
	"slices"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/ads/wire"
	"github.com/meshpilot/pilot/pkg/translate"
)

// The pace of sending again what may work the second time.
const (
	firstRetry = 250 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// backoff is how long to wait after so many refusals in a row.
func backoff(row int) time.Duration {
	return min(lastRetry, firstRetry<<min(max(row-1, 0), 10))
}

// reply takes a request's nonce as the answer to the response in flight. It
// says false for a nonce that is not the last one sent.
func (s *stream) reply(k kind, r *wire.Request) bool {
	sub := &s.kinds[k]
	if string(r.Nonce) != sub.nonce {
		s.emit(Event{Kind: Ignored, TypeURL: k.url(), Nonce: string(r.Nonce)})
		return false
	}
	f := sub.flight
	if f == nil {
		return true // answered before: only the subscription is news
	}
	sub.flight = nil
	if r.Refused {
		s.refuse(k, f, shorten(string(r.Error)))
		return true
	}
	sub.acked, sub.ackedAt = f.version, time.Now()
	sub.acks++
	sub.row = 0
	if k == secrets {
		s.proveSecret(f.secret)
	}
	s.emit(Event{Kind: Acked, TypeURL: k.url(), Version: f.version, Nonce: sub.nonce, Truthful: k == secrets && s.proven()})
	return true
}

// shorten keeps the start of Envoy's text, which may dump a whole resource.
func shorten(text string) string {
	const most = 4096
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// refuse records a NACK. What Envoy names is never sent to it again in that
// version; the rest may have been voided with it and goes again after a
// pause, so the set shrinks with each round. If Envoy names nothing, nothing
// goes again on this stream.
func (s *stream) refuse(k kind, f *flight, text string) {
	now := time.Now()
	sub := &s.kinds[k]
	sub.nack, sub.nackedAt = text, now
	sub.nacks++
	sub.row++
	var named []string
	if k == secrets {
		named = []string{f.secret}
		s.refuseSecret(f.secret, now)
	} else {
		named = s.quarantine(k, f, text, now)
	}
	s.emit(Event{Kind: Refused, TypeURL: k.url(), Version: f.version, Nonce: sub.nonce, Detail: text, Names: named})
}

func (s *stream) quarantine(k kind, f *flight, text string, now time.Time) []string {
	sub := &s.kinds[k]
	var sent, named []string
	for _, c := range f.changes {
		if c == nil {
			continue
		}
		for _, r := range c.updates {
			sent = append(sent, r.Name)
			if mentions(text, r.Name) {
				named = append(named, r.Name)
			}
		}
	}
	certain := len(named) > 0 || len(sent) == 1 // else most of them are innocent
	for i, c := range f.changes {
		if c == nil {
			continue
		}
		var again []entry
		for _, r := range c.updates {
			if len(named) == 0 || slices.Contains(named, r.Name) {
				sub.refuse(r, f.from[i])
				if certain {
					s.store.remember(s.key, k, refusal{r.Name, r.Version}, sub.good[r.Name])
				}
			} else {
				again = append(again, entry{s.gen.names.number[r.Name], r.Name, unsure, r})
			}
		}
		if len(again) > 0 {
			sub.held[i].over = sub.held[i].over.merged(again)
			sub.retryAt = now.Add(backoff(sub.row))
		}
	}
	return named
}

// refuse quarantines r on the stream and remembers what the proxy keeps in
// its place.
func (sub *subscription) refuse(r *translate.Resource, before holding) {
	good := sub.good[r.Name]
	if version, kept := before.lookup(r.Name); !sub.refused[refusal{r.Name, version}] {
		good = kept
	}
	sub.add(refusal{r.Name, r.Version}, good)
}

// mentions says whether text has name as a word of its own.
func mentions(text, name string) bool {
	for from := 0; ; {
		i := strings.Index(text[from:], name)
		if i < 0 || name == "" {
			return false
		}
		i += from
		end := i + len(name)
		if (i == 0 || !wordByte(text[i-1])) && (end == len(text) || !wordByte(text[end]) || sentenceEnd(text[end:])) {
			return true
		}
		from = i + 1
	}
}

// wordByte says whether c may be part of a resource's name. ':' ends a name
// in Envoy's texts.
func wordByte(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80 || strings.IndexByte("_-.|/*", c) >= 0
}

func sentenceEnd(rest string) bool {
	return rest[0] == '.' && (len(rest) == 1 || !wordByte(rest[1]))
}

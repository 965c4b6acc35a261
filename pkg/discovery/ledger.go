package discovery

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/discovery/replica"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

const (
	unknownGrace = 5 * time.Second // a workload may be known later than its proxy connects
	settleTime   = 500 * time.Millisecond
	patience     = time.Minute // an edit is not followed longer
	keptEdits    = 100
)

// ledger is what the proxies did with what they got, beside what the store
// knows of each stream: which edit reached everybody when, and what is wrong
// with whom. The hub owns it.
type ledger struct {
	metrics  *status.Metrics
	problems *status.Problems
	streams  map[uint64]*connection
	unknown  map[uint64]*connection // those of streams whose workload no source knows
	answers  int                    // responses that wait for an answer, of all streams
	lastACK  time.Time
	edits    []status.Edit // oldest first
	open     int           // how many of the last edits are not done
	recheck  bool          // a proxy that had refused something accepted something
}

// connection is one stream of one proxy.
type connection struct {
	node    string
	proxy   model.Proxy
	since   time.Time
	unknown time.Time                  // since when no source knows the workload; zero if one does
	sent    map[string]time.Time       // by type, of the response that is not answered
	refused map[string]replica.Refusal // by type, what has a problem
	secrets map[string]bool            // names asked for that are nobody's
}

func newLedger(m *status.Metrics, p *status.Problems) *ledger {
	return &ledger{metrics: m, problems: p, streams: map[uint64]*connection{}, unknown: map[uint64]*connection{}}
}

// connected enters a stream.
func (l *ledger) connected(e ads.Event) *connection {
	c := &connection{
		node: e.Node, proxy: e.Proxy, since: e.Time,
		sent: map[string]time.Time{}, refused: map[string]replica.Refusal{}, secrets: map[string]bool{},
	}
	l.streams[e.Stream] = c
	l.metrics.Proxies.Set(float64(len(l.streams)))
	return c
}

// disconnected forgets a stream, with its problems.
func (l *ledger) disconnected(e ads.Event) {
	c := l.streams[e.Stream]
	if c == nil {
		return
	}
	delete(l.streams, e.Stream)
	delete(l.unknown, e.Stream)
	l.metrics.Proxies.Set(float64(len(l.streams)))
	l.answers -= len(c.sent)
	for typeURL := range c.refused {
		l.problems.Set(origin(e.Stream, typeURL))
	}
	l.problems.Set(origin(e.Stream, "workload"))
	l.problems.Set(origin(e.Stream, "secrets"))
}

func origin(stream uint64, what string) string { return strconv.FormatUint(stream, 10) + " " + what }

func proxyKey(p model.Proxy) model.Key {
	return model.Key{Kind: "Proxy", Namespace: p.ID.Namespace, Name: p.ID.Name}
}

func (l *ledger) sent(e ads.Event) {
	kind := status.TypeName(e.TypeURL)
	l.metrics.Pushes.WithLabelValues(kind).Inc()
	l.metrics.Bytes.WithLabelValues(kind).Add(float64(e.Bytes))
	l.metrics.Resources.WithLabelValues(kind).Add(float64(e.Resources))
	c := l.streams[e.Stream]
	if c == nil {
		return
	}
	if _, waiting := c.sent[e.TypeURL]; !waiting {
		l.answers++
	}
	c.sent[e.TypeURL] = e.Time
}

// answered settles the response of a type; the edits that it may have carried
// are those that were applied before it was sent, after the proxy came.
func (l *ledger) answered(e ads.Event, count func(*status.Edit)) *connection {
	c := l.streams[e.Stream]
	if c == nil {
		return nil
	}
	at, waiting := c.sent[e.TypeURL]
	if !waiting {
		return c
	}
	delete(c.sent, e.TypeURL)
	l.answers--
	l.lastACK = e.Time
	for i := len(l.edits) - l.open; i < len(l.edits); i++ {
		edit := &l.edits[i]
		if !edit.Applied.IsZero() && !at.Before(edit.Applied) && !c.since.After(edit.Applied) {
			count(edit)
		}
	}
	return c
}

func (l *ledger) acked(e ads.Event) {
	l.metrics.ACKs.WithLabelValues(status.TypeName(e.TypeURL)).Inc()
	c := l.answered(e, func(edit *status.Edit) {
		edit.Pushes++
		edit.LastACK = e.Time
	})
	if c != nil && c.refuses(e.TypeURL) {
		l.recheck = true
	}
}

// refusedBy records a NACK; from are the objects behind what was refused.
func (l *ledger) refusedBy(e ads.Event, from []model.Key) {
	l.metrics.NACKs.WithLabelValues(status.TypeName(e.TypeURL)).Inc()
	c := l.answered(e, func(edit *status.Edit) { edit.Refused++ })
	if c == nil {
		return
	}
	text := strings.TrimSpace(e.Detail)
	c.refused[e.TypeURL] = replica.Refusal{Node: c.node, Type: status.TypeName(e.TypeURL), Text: text, From: from}
	p := meshconfig.Problem{Code: "NACK", Severity: meshconfig.Error, On: proxyKey(c.proxy)}
	if e.TypeURL == translate.SecretType {
		p.Code = "NO_CERTIFICATE"
		p.Message = "certificate files are missing or unfit, so it gets no TLS configuration: " + text
		if len(e.Names) > 0 && strings.HasPrefix(e.Names[0], "file-") {
			p.Message = "files that a DestinationRule names (" + strings.Join(e.Names, ", ") + ") are missing or unfit, so calls by it fail: " + text
		}
	} else {
		p.Message = fmt.Sprintf("proxy %s refused %s: %s", c.node, status.TypeName(e.TypeURL), text)
		if len(from) > 0 {
			names := make([]string, len(from))
			for i, key := range from {
				names[i] = key.String()
			}
			p.Message += " (made from " + strings.Join(names, ", ") + ")"
		}
	}
	l.problems.Set(origin(e.Stream, e.TypeURL), p)
}

func (c *connection) refuses(typeURL string) bool {
	_, ok := c.refused[typeURL]
	return ok
}

// refusals are those of all connected proxies.
func (l *ledger) refusals() []replica.Refusal {
	var out []replica.Refusal
	for _, c := range l.streams {
		for _, r := range c.refused {
			out = append(out, r)
		}
	}
	return out
}

// forgive withdraws the problems of what is not withheld any more, because a
// later version was accepted; proxies are asked for once per batch of events.
func (l *ledger) forgive(proxies func() []ads.ProxyState) {
	if !l.recheck {
		return
	}
	l.recheck = false
	for _, p := range proxies() {
		c := l.streams[p.Stream]
		if c == nil || len(c.refused) == 0 {
			continue
		}
		for _, t := range p.Types {
			if c.refuses(t.TypeURL) && len(t.Refused) == 0 && t.AckedAt.After(t.NackedAt) {
				delete(c.refused, t.TypeURL)
				l.problems.Set(origin(p.Stream, t.TypeURL))
			}
		}
	}
}

// secretUnknown records names that no part of the proxy's configuration has.
func (l *ledger) secretUnknown(e ads.Event) {
	c := l.streams[e.Stream]
	if c == nil {
		return
	}
	for _, name := range e.Names {
		c.secrets[name] = true
	}
	names := make([]string, 0, len(c.secrets))
	for name := range c.secrets {
		names = append(names, strconv.Quote(name))
	}
	slices.Sort(names)
	l.problems.Set(origin(e.Stream, "secrets"), meshconfig.Problem{
		Code: "UNKNOWN_SECRET", Severity: meshconfig.Warning, On: proxyKey(c.proxy),
		Message: "it asks for secrets that its configuration does not name, and gets no answer: " + strings.Join(names, ", "),
	})
}

// known states whether the sources know the stream's workload.
func (l *ledger) known(stream uint64, c *connection, known bool, now time.Time) {
	switch {
	case known && !c.unknown.IsZero():
		c.unknown = time.Time{}
		delete(l.unknown, stream)
		l.problems.Set(origin(stream, "workload"))
	case !known && c.unknown.IsZero():
		c.unknown = now
		l.unknown[stream] = c
	}
}

// overdue raises what has lasted too long by now, and says when to ask again;
// zero is never.
func (l *ledger) overdue(now time.Time) (next time.Time) {
	for stream, c := range l.unknown {
		if at := c.unknown.Add(unknownGrace); at.After(now) {
			next = earlier(next, at)
			continue
		}
		l.problems.Set(origin(stream, "workload"), meshconfig.Problem{
			Code: "UNKNOWN_WORKLOAD", Severity: meshconfig.Warning, On: proxyKey(c.proxy),
			Message: "no object describes the workload of proxy " + c.node + "; it gets no configuration until one does",
		})
	}
	return next
}

// earlier is the earlier time, where zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// edited enters an edit that was published at the given time.
func (l *ledger) edited(at time.Time) {
	l.metrics.Edits.Inc()
	l.edits = append(l.edits, status.Edit{At: at})
	l.open++
	if extra := len(l.edits) - keptEdits; extra > 0 {
		l.edits = slices.Delete(l.edits, 0, extra)
		l.open = min(l.open, keptEdits)
	}
}

// applied says that the store has the configuration of all edits so far.
func (l *ledger) applied(now time.Time) {
	for i := len(l.edits) - l.open; i < len(l.edits); i++ {
		if l.edits[i].Applied.IsZero() {
			l.edits[i].Applied = now
		}
	}
}

// settle closes the open edits once nobody owes an answer and nothing was
// sent or answered for a while, as one push often follows the answer to
// another. It says when to ask again; zero is never.
func (l *ledger) settle(now time.Time) (next time.Time) {
	for l.open > 0 {
		oldest := &l.edits[len(l.edits)-l.open]
		if oldest.Applied.IsZero() || now.Sub(oldest.Applied) < patience {
			break
		}
		l.open-- // somebody never answers; Done stays false
	}
	if l.open == 0 {
		return time.Time{}
	}
	quiet := l.edits[len(l.edits)-1].Applied
	if quiet.IsZero() {
		return time.Time{} // asked again when it is applied
	}
	if l.answers > 0 {
		return l.edits[len(l.edits)-l.open].Applied.Add(patience)
	}
	if l.lastACK.After(quiet) {
		quiet = l.lastACK
	}
	if at := quiet.Add(settleTime); at.After(now) {
		return at
	}
	l.finish()
	return time.Time{}
}

// finish closes the open edits.
func (l *ledger) finish() {
	for i := len(l.edits) - l.open; i < len(l.edits); i++ {
		edit := &l.edits[i]
		edit.Done = true
		if edit.Pushes > 0 {
			l.metrics.LastACK.WithLabelValues(edit.Change).Observe(edit.LastACK.Sub(edit.At).Seconds())
		}
	}
	l.open = 0
}

// revised names the configuration of the edits that were just applied.
func (l *ledger) revised(revision, change string, generation uint64) {
	for i := len(l.edits) - 1; i >= 0 && l.edits[i].Revision == ""; i-- {
		if e := &l.edits[i]; !e.Applied.IsZero() {
			e.Revision, e.Change, e.Generation = revision, change, generation
		}
	}
}

// stepped ends the edits that everybody answered: what a rollout sends from
// now on is no part of them.
func (l *ledger) stepped() {
	if l.open > 0 && l.answers == 0 && !l.edits[len(l.edits)-1].Applied.IsZero() {
		l.finish()
	}
}

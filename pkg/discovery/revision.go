package discovery

import (
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

// revise names the configuration that was just applied.
func (h *hub) revise() {
	var next model.Revision
	h.timed("revision", func() { next = h.inputs.Revision() })
	change := next.ChangeSince(h.revision)
	h.revision = next
	h.ledger.revised(next.String(), change, h.store.Generation())
	if change != model.ChangeNothing {
		h.log.Info("configuration in force", "revision", next.String(), "change", change)
	}
}

// unsound are the classes that keep a part of an earlier configuration, as
// Envoy would refuse the present one.
type unsound struct {
	client map[model.ClientClass]bool
	server map[model.ServerClass]bool
}

// keepsEarlier is said of a proxy whose configuration is withheld from it.
const keepsEarlier = "keeps an earlier configuration, as Envoy would refuse the present one"

func (t *translator) unsound() *unsound {
	out := &unsound{map[model.ClientClass]bool{}, map[model.ServerClass]bool{}}
	for c := range t.client {
		if t.client[c].bad != nil {
			out.client[c] = true
		}
	}
	for c := range t.server {
		if t.server[c].bad != nil {
			out.server[c] = true
		}
	}
	return out
}

func (u *unsound) has(p model.Proxy, s *model.Snapshot) bool {
	if u == nil || s == nil || len(u.client)+len(u.server) == 0 {
		return false
	}
	client, server, known := s.ClassOf(p)
	return known && (u.client[client] || u.server[server])
}

// lagOf is what the proxy of a stream is behind with; nil for one that no
// object describes.
func lagOf(p ads.ProxyState, s *model.Snapshot, u *unsound) *status.Lag {
	if s == nil {
		return nil
	}
	if _, _, known := s.ClassOf(p.Proxy); !known && !p.Known {
		return nil
	}
	lag := &status.Lag{Why: p.Lag.Why, Refused: p.Lag.Refused, Since: p.Lag.Since}
	if p.Lag.TypeURL != "" {
		lag.Type = status.TypeName(p.Lag.TypeURL)
	}
	switch {
	case p.Lag.Why != "":
		return lag
	case u.has(p.Proxy, s):
		return &status.Lag{Why: keepsEarlier, Since: p.Connected}
	default:
		return nil
	}
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

// timeline is since when another mode was wanted of targets that are under way.
type timeline map[model.Target]time.Time

// follow notes what began and what ended, and counts the steps in between.
func (t timeline) follow(before, after map[model.Target]rollout.State, m *status.Metrics, now time.Time) {
	for target, s := range after {
		was, known := before[target]
		switch {
		case !known:
			continue // it begins where its mode ends
		case was.Phase != s.Phase:
			m.RolloutSteps.WithLabelValues(s.Phase.String()).Inc()
		case was.Mode == s.Mode:
			continue
		}
		if was.Mode != s.Mode {
			t[target] = now
		}
		if since, open := t[target]; open && s.Settled() {
			m.RolloutTime.WithLabelValues(s.Mode.String()).Observe(now.Sub(since).Seconds())
			delete(t, target)
		}
	}
	for target := range t {
		if _, there := after[target]; !there {
			delete(t, target)
		}
	}
}

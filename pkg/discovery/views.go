package discovery

import (
	"errors"
	"maps"
	"runtime"
	"sync"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

// minRemembered is how many halves are remembered at least.
const minRemembered = 256

// translator turns snapshots into worlds. It keeps by pointer whatever did not
// change, and remembers halves that were in force lately, so that toggling
// back, or redrawing classes, costs nothing. The hub owns it.
type translator struct {
	metrics   *status.Metrics
	snapshot  *model.Snapshot
	shared    *translate.Shared
	endpoints *translate.Table
	before    *translate.Table // endpoints of the snapshot before
	bad       error            // of endpoints that are not sent
	client    map[model.ClientClass]side
	server    map[model.ServerClass]side
	recent    *lru.Cache[remembered, *translate.Half]
}

// side is the half of a class. Where a resource of it is bad, it has the one of
// an earlier view, or none, and says why.
type side struct {
	view model.Fingerprint
	half *translate.Half // nil: nobody has this class
	bad  error
}

type remembered struct {
	server bool
	view   model.Fingerprint
}

func newTranslator(m *status.Metrics) *translator {
	recent, _ := lru.New[remembered, *translate.Half](minRemembered) // fails only for a size below 1
	return &translator{metrics: m, recent: recent}
}

// classes are who the connected proxies are.
type classes struct {
	client map[model.ClientClass]bool
	server map[model.ServerClass]bool
}

// world is the configuration of the given classes. It is the same pointers
// as before wherever the content is the same.
func (t *translator) world(s *model.Snapshot, in classes) *ads.World {
	fresh := s != t.snapshot
	if fresh {
		t.snapshot = s
		t.shared = translate.Share(s, t.shared)
		t.before = t.endpoints
		t.endpoints, t.bad = translate.SoundEndpoints(translate.Endpoints(s.Endpoints(), t.before), t.before)
	}
	t.recent.Resize(max(minRemembered, 2*(len(in.client)+len(in.server))))
	t.client = sides(in.client, t.client, fresh, func(c model.ClientClass, last side) side {
		view := s.ClientView(c)
		return t.refresh(remembered{false, view.Fingerprint}, last, func(prev *translate.Half) *translate.Half {
			return translate.Outbound(view, t.shared, prev)
		})
	})
	t.server = sides(in.server, t.server, fresh, func(c model.ServerClass, last side) side {
		view := s.ServerView(c)
		if view == nil { // no workload has this class, so no proxy asks for it
			return last
		}
		return t.refresh(remembered{true, view.Fingerprint}, last, func(prev *translate.Half) *translate.Half {
			return translate.Inbound(view, prev)
		})
	})
	w := &ads.World{
		Snapshot: s, Endpoints: t.endpoints,
		Client: make(map[model.ClientClass]*translate.Half, len(t.client)),
		Server: make(map[model.ServerClass]*translate.Half, len(t.server)),
	}
	for c, side := range t.client {
		if side.half != nil {
			w.Client[c] = side.half
		}
	}
	for c, side := range t.server {
		if side.half != nil {
			w.Server[c] = side.half
		}
	}
	t.metrics.Halves.WithLabelValues("client").Set(float64(len(w.Client)))
	t.metrics.Halves.WithLabelValues("server").Set(float64(len(w.Server)))
	return w
}

// sides computes the side of each class on all processors; build is pure. A
// class that has one is only built again if the snapshot is fresh.
func sides[C comparable](in map[C]bool, last map[C]side, fresh bool, build func(C, side) side) map[C]side {
	todo := make([]C, 0, len(in))
	out := make(map[C]side, len(in))
	for c := range in {
		if known, ok := last[c]; ok && !fresh {
			out[c] = known
		} else {
			todo = append(todo, c)
		}
	}
	built := make([]side, len(todo))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(todo)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(todo)); i = next.Add(1) - 1 {
				built[i] = build(todo[i], last[todo[i]])
			}
		})
	}
	wg.Wait()
	for i, c := range todo {
		out[c] = built[i]
	}
	return out
}

// refresh is the side of a view, translated only if it is neither the last
// one nor remembered. What Envoy would refuse in a half is not taken.
func (t *translator) refresh(key remembered, last side, build func(prev *translate.Half) *translate.Half) side {
	if last.half != nil && last.view == key.view {
		return last
	}
	half, hit := t.recent.Get(key)
	if hit {
		t.metrics.Cache.WithLabelValues("hit").Inc()
		return side{view: key.view, half: half}
	}
	t.metrics.Cache.WithLabelValues("miss").Inc()
	half, err := translate.Sound(build(last.half), last.half, t.endpoints, t.before)
	if err == nil { // else it depends on what was before
		t.recent.Add(key, half)
	}
	return side{key.view, half, err}
}

// problems are the classes with a part that is bad.
func (t *translator) problems() []meshconfig.Problem {
	var out []meshconfig.Problem
	add := func(on model.Key, what string, bad error) {
		if bad == nil {
			return
		}
		out = append(out, meshconfig.Problem{
			Code: "INTERNAL", Severity: meshconfig.Error, On: on,
			Message: "a part of " + what + " is not sent, as Envoy would refuse it; proxies keep the last good one: " + firstLine(bad),
		})
	}
	add(model.Key{Kind: "Mesh", Name: "endpoints"}, "the mesh's endpoints", t.bad)
	for c, side := range t.client {
		add(model.Key{Kind: "Namespace", Name: c.Namespace}, "its proxies' outbound configuration", side.bad)
	}
	for c, side := range t.server {
		add(model.Key{Kind: "ServiceAccount", Namespace: c.Namespace, Name: c.Identity}, "its proxies' inbound configuration", side.bad)
	}
	return out
}

// firstLine keeps a joined error short: the rest has the same cause as a rule.
func firstLine(err error) string {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) && len(joined.Unwrap()) > 0 {
		return joined.Unwrap()[0].Error()
	}
	return err.Error()
}

// has says whether both halves of a proxy were computed, well or not.
func (t *translator) has(c model.ClientClass, s model.ServerClass) bool {
	_, client := t.client[c]
	_, server := t.server[s]
	return client && server
}

// equal says whether every pointer is the same, so that there is nothing to
// apply.
func equal(a, b *ads.World) bool {
	return b != nil && a.Snapshot == b.Snapshot && a.Endpoints == b.Endpoints &&
		maps.Equal(a.Client, b.Client) && maps.Equal(a.Server, b.Server)
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

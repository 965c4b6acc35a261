package discovery

import (
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

// mailbag takes events from any number of streams without blocking them.
type mailbag struct {
	ready       chan struct{}
	mu          sync.Mutex
	list, taken []ads.Event
}

func (m *mailbag) put(e ads.Event) {
	m.mu.Lock()
	m.list = append(m.list, e)
	m.mu.Unlock()
	select {
	case m.ready <- struct{}{}:
	default:
	}
}

// take gives what came; it is valid until the next call.
func (m *mailbag) take() []ads.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.taken)
	m.list, m.taken = m.taken[:0], m.list
	return m.taken
}

// hear takes one event of a stream.
func (h *hub) hear(e ads.Event) {
	switch e.Kind {
	case ads.Connected:
		delete(h.refused, e.Node)
		h.problems.Set("node " + e.Node)
		_, expiry := h.peers.of(e.Stream)
		h.expiresAt = earlier(h.expiresAt, expiry)
		h.join(e.Stream, h.ledger.connected(e), e.Time)
	case ads.Disconnected:
		h.peers.remove(e.Stream)
		h.ledger.disconnected(e)
	case ads.Sent:
		h.ledger.sent(e)
	case ads.Acked:
		h.ledger.acked(e)
	case ads.Refused:
		h.ledger.refusedBy(e, h.behind(e))
	case ads.Ignored:
		h.metrics.Ignored.WithLabelValues(status.TypeName(e.TypeURL)).Inc()
	case ads.SecretUnknown:
		h.ledger.secretUnknown(e)
	case badPaths:
		h.refused[e.Node] = e.Time
		h.problems.Set("node "+e.Node, meshconfig.Problem{
			Code: "UNKNOWN_SECRET", Severity: meshconfig.Warning, On: proxyKey(e.Proxy),
			Message: e.Detail + "; it gets no configuration",
		})
	}
}

// join gives a new proxy's classes a date, if there is no world for them yet.
func (h *hub) join(stream uint64, c *connection, now time.Time) {
	s := h.snapshot.Load()
	if s == nil {
		return
	}
	client, server, known := s.ClassOf(c.proxy)
	h.ledger.known(stream, c, known, now)
	if !known {
		return
	}
	if !h.translator.has(client, server) {
		h.classesAt = earlier(h.classesAt, now.Add(connectTime))
	}
	if h.seen(s, c.proxy) && !s.HasSidecar(c.proxy.ID) {
		h.changed(now)
	}
}

// capturePorts are where a workload's traffic is redirected to: the mesh's
// ports when its sidecar came, as redirection is not changed afterwards.
type capturePorts struct{ outbound, inbound uint16 }

func portsOf(m *model.Mesh) capturePorts { return capturePorts{m.ListenPort, m.InboundListenPort} }

// seen takes a connected sidecar as evidence that its workload has one.
func (h *hub) seen(s *model.Snapshot, p model.Proxy) bool {
	w := s.Workload(p.ID)
	if w == nil || p.Type != model.Sidecar || w.Address != p.Address {
		return false
	}
	if _, before := h.evidence[p.ID]; !before {
		h.evidence[p.ID] = portsOf(s.Mesh())
	}
	return true
}

// behind are the objects that the refused resources were made from.
func (h *hub) behind(e ads.Event) []model.Key {
	w := h.world.Load()
	if w == nil {
		return nil
	}
	client, server, _ := w.Snapshot.ClassOf(e.Proxy)
	var out []model.Key
	for _, half := range []*translate.Half{w.Client[client], w.Server[server]} {
		if half == nil {
			continue
		}
		var table *translate.Table
		switch e.TypeURL {
		case translate.ClusterType:
			table = half.Clusters
		case translate.ListenerType:
			table = half.Listeners
		case translate.RouteType:
			table = half.Routes
		case translate.EndpointType:
			table = w.Endpoints
		default:
			continue
		}
		for _, name := range e.Names {
			if r := table.Find(name); r != nil {
				out = append(out, r.From...)
			}
		}
	}
	slices.SortFunc(out, model.Key.Compare)
	return slices.Compact(out)
}

func (h *hub) counted(read, excess uint64) {
	h.metrics.Records.WithLabelValues("read").Add(float64(read))
	h.metrics.Records.WithLabelValues("excess").Add(float64(excess))
}

func (h *hub) plaintextRefused(id model.WorkloadID, port uint16, more uint64) {
	group := id.Name
	if s := h.snapshot.Load(); s != nil {
		if w := s.Workload(id); w != nil && w.Group != "" {
			group = w.Group
		}
	}
	h.metrics.PlaintextRefused.WithLabelValues(id.Namespace, group, strconv.Itoa(int(port))).Add(float64(more))
}

// lookForPodCalls says when to look again.
func (h *hub) lookForPodCalls(now time.Time) (again time.Time) {
	s := h.snapshot.Load()
	if s == nil {
		return time.Time{}
	}
	if now.Sub(h.notedAt) >= notedTime {
		h.notedAt = now
		h.history.Note(h.feed, s, now)
	}
	found, again := h.podCalls.Find(h.feed, s, now)
	h.problems.Set("traffic", found...)
	return again
}

// reports are the problems that other loops than the hub's state: each origin
// its whole list. The hub takes them when it is ready.
type reports struct {
	ready chan struct{}
	mu    sync.Mutex
	by    map[string][]meshconfig.Problem
}

func newReports() reports { return reports{ready: make(chan struct{}, 1)} }

func (r *reports) put(origin string, problems []meshconfig.Problem) {
	r.mu.Lock()
	if r.by == nil {
		r.by = map[string][]meshconfig.Problem{}
	}
	r.by[origin] = problems
	r.mu.Unlock()
	select {
	case r.ready <- struct{}{}:
	default:
	}
}

func (r *reports) take() map[string][]meshconfig.Problem {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.by
	r.by = nil
	return out
}

// identityProblems are problems of the CA and of certificates, as all others
// are shown.
func identityProblems(list []identity.Problem) []meshconfig.Problem {
	out := make([]meshconfig.Problem, len(list))
	for i, p := range list {
		out[i] = meshconfig.Problem{Code: p.Code, Severity: meshconfig.Warning, On: p.On, Message: p.Message}
		if p.Error {
			out[i].Severity = meshconfig.Error
		}
	}
	return out
}

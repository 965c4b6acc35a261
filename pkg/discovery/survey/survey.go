// Package survey gathers what is known of targets, for the judgement whether
// they can be made strict.
package survey

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/discovery/feed"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/discovery/traffic"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/readiness"
)

// The first Envoy that knows all that it is sent: access logs when a call
// begins, restricted by their type.
const oldestMajor, oldestMinor = 1, 27

// Versions are the Envoys of workloads, as their nodes say. Streams enter
// them. Safe for concurrent use; the zero value knows none.
type Versions struct {
	mu sync.Mutex
	by map[model.WorkloadID]string // too old ones only
}

// Note takes in what the node of a stream says.
func (v *Versions) Note(id model.WorkloadID, node *corev3.Node) {
	version := node.GetUserAgentBuildVersion().GetVersion()
	major, minor := version.GetMajorNumber(), version.GetMinorNumber()
	v.mu.Lock()
	defer v.mu.Unlock()
	if version == nil || major > oldestMajor || major == oldestMajor && minor >= oldestMinor {
		delete(v.by, id)
		return
	}
	if v.by == nil {
		v.by = map[model.WorkloadID]string{}
	}
	v.by[id] = fmt.Sprintf("runs Envoy %d.%d.%d, which does not know all that it is sent; %d.%d is the oldest that does",
		major, minor, version.GetPatch(), oldestMajor, oldestMinor)
}

// Retain forgets workloads that are gone.
func (v *Versions) Retain(s *model.Snapshot) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id := range v.by {
		if s.Workload(id) == nil {
			delete(v.by, id)
		}
	}
}

// TooOld is what is wrong with the version of a workload; empty: nothing.
func (v *Versions) TooOld(id model.WorkloadID) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.by[id]
}

// notConnected is a workload whose sidecar nobody hears of.
const notConnected = "has a sidecar that is not connected"

// Sources are where it is known from.
type Sources struct {
	Store    *ads.Store
	Feed     *feed.Feed
	History  *traffic.History
	Versions *Versions
}

// Facts are what is known of targets.
func (src Sources) Facts(s *model.Snapshot, of []status.Rollout, now time.Time) []readiness.Facts {
	src.History.Note(src.Feed, s, now)
	x := survey{Sources: src, snapshot: s, troubles: src.troubles(s), bare: bareEndpoints(s)}
	out := make([]readiness.Facts, len(of))
	for i := range of {
		out[i] = x.facts(&of[i])
	}
	return out
}

// survey is what all targets have in common.
type survey struct {
	Sources
	snapshot *model.Snapshot
	troubles map[model.WorkloadID]readiness.Obstacle // of workloads with a sidecar
	bare     map[model.Way][]readiness.Obstacle
}

// troubles are why sidecars could not follow, or why that is not known.
func (src Sources) troubles(s *model.Snapshot) map[model.WorkloadID]readiness.Obstacle {
	type stream struct {
		id       uint64
		progress string
		secrets  bool
	}
	newest := map[model.WorkloadID]stream{}
	for _, p := range src.Store.Progress() {
		if known, twice := newest[p.Proxy.ID]; !twice || known.id < p.Stream {
			why := p.Inbound
			if why == "" {
				why = p.Outbound
			}
			newest[p.Proxy.ID] = stream{id: p.Stream, progress: why}
		}
	}
	for _, p := range src.Store.Proxies() {
		if known, ok := newest[p.Proxy.ID]; ok && known.id == p.Stream {
			known.secrets = p.Secrets
			newest[p.Proxy.ID] = known
		}
	}
	out := map[model.WorkloadID]readiness.Obstacle{}
	for _, w := range s.Workloads() {
		if !s.HasSidecar(w.ID) {
			continue
		}
		stream, connected := newest[w.ID]
		o := readiness.Obstacle{Who: w.ID.String(), Effect: readiness.Breaks}
		switch old := src.Versions.TooOld(w.ID); {
		case !connected:
			o.Why, o.Effect = notConnected, readiness.Unknown
		case old != "":
			o.Why = old
		case !stream.secrets:
			o.Why = "did not prove that it has its certificates"
		case strings.HasPrefix(stream.progress, ads.Refuses):
			o.Why = stream.progress
		case stream.progress != "":
			o.Why, o.Effect = stream.progress, readiness.Unknown
		default:
			continue
		}
		out[w.ID] = o
	}
	return out
}

// bareEndpoints are those that no mode reaches, by the service port that
// leads there.
func bareEndpoints(s *model.Snapshot) map[model.Way][]readiness.Obstacle {
	at := map[string]*model.Workload{}
	for _, w := range s.Workloads() {
		at[w.Address] = w
	}
	out := map[model.Way][]readiness.Obstacle{}
	for _, g := range s.Endpoints() {
		if g.Subset != "" || g.Variant != "" {
			continue
		}
		way := model.Way{Host: g.Host, Port: g.Port}
		for i := range g.Endpoints {
			e := &g.Endpoints[i]
			o := readiness.Obstacle{Who: e.Address, Effect: readiness.Remark}
			w := at[e.Address]
			if w != nil {
				o.Who = w.ID.String()
			}
			switch {
			case w == nil:
				o.Why = "is an endpoint and no workload of the mesh, so it takes plaintext whatever the mode"
			case !s.HasSidecar(w.ID):
				o.Why = "is an endpoint without a sidecar, so it takes plaintext whatever the mode"
			case !w.Inbound.Has(e.Port):
				o.Why = "keeps the port from its sidecar, so it takes plaintext whatever the mode"
			default:
				continue
			}
			out[way] = append(out[way], o)
		}
	}
	return out
}

func (x *survey) facts(r *status.Rollout) readiness.Facts {
	w := r.Wanted
	f := readiness.Facts{Target: w.Target, Mode: w.Decision.Mode, Phase: w.Decision.Phase, Since: r.Since}
	serves := map[model.WorkloadID]bool{}
	for _, id := range w.Workloads {
		told, _ := x.Feed.Of(id)
		server := readiness.Server{Workload: id, Logs: told.Logs}
		if trouble, ok := x.troubles[id]; ok {
			server.Trouble = &trouble
		}
		f.Servers = append(f.Servers, server)
		serves[id] = true
	}
	for _, client := range x.snapshot.Workloads() { // in order
		if trouble, ok := x.troubles[client.ID]; ok && !serves[client.ID] && x.snapshot.Calls(client.ID.Namespace, w) {
			f.Others = append(f.Others, trouble)
		}
	}
	var rules []model.Fixed
	for _, fixed := range x.snapshot.Fixed(w) {
		if fixed.TLS != model.ClientMesh && fixed.TLS != model.ClientMixed {
			rules = append(rules, fixed)
			f.Others = append(f.Others, ruled(&fixed))
		}
	}
	for _, way := range x.snapshot.Ways(w) {
		f.Others = append(f.Others, x.bare[way]...)
	}
	f.Peers = x.peers(w, rules)
	return f
}

// ruled are clients that something tells to send no mesh mTLS.
func ruled(f *model.Fixed) readiness.Obstacle {
	o := readiness.Obstacle{Who: fmt.Sprintf("clients of %s:%d", f.Host, f.Port), Effect: readiness.Breaks}
	if len(f.Namespaces) > 0 {
		o.Who = fmt.Sprintf("clients of %s:%d in %s", f.Host, f.Port, strings.Join(f.Namespaces, ", "))
	}
	what := "plaintext"
	if f.TLS != model.ClientPlain {
		what = "TLS that is not the mesh's"
	}
	o.Why = "send " + what + " whatever the mode, by " + f.By
	return o
}

// peers are who was seen at a target without mesh mTLS.
func (x *survey) peers(w *model.Wanted, rules []model.Fixed) []readiness.Peer {
	group, _, split := strings.Cut(w.Group, "/")
	var only []model.WorkloadID
	if split {
		only = w.Workloads
	}
	var out []readiness.Peer
	for _, s := range x.History.Of(w.Namespace, group, w.Port, only...) {
		p := readiness.Peer{
			Address: s.Address, Sidecar: s.Sidecar, AppTLS: s.Kind == feed.AppTLS, Refused: s.Kind == feed.Refused,
			Port: s.Port, Count: s.Count, First: s.First, Last: s.Last,
		}
		if s.Workload != (model.WorkloadID{}) {
			p.Name, p.Known = s.Workload.String(), x.snapshot.Workload(s.Workload) != nil
			for _, r := range rules {
				if len(r.Namespaces) == 0 || slices.Contains(r.Namespaces, s.Workload.Namespace) {
					p.Rule = r.By
				}
			}
		}
		out = append(out, p)
	}
	return out
}

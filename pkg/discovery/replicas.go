package discovery

import (
	"slices"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/discovery/replica"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/discovery/tlsport"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

const (
	// openTime is how soon evidence is looked at again while a target is under
	// way: other replicas believe no more than what they are told in time.
	openTime = time.Second
	// mostWaits and mostSidecars bound what the others are told.
	mostWaits    = 500
	mostSidecars = 5_000
)

// alone says that there can be no other replica.
func (r *rollouts) alone() bool {
	_, alone := r.group.(replica.Alone)
	return alone
}

// ready says whether phases are known, so that there can be a world.
func (r *rollouts) ready() bool { return r == nil || r.known }

func (r *rollouts) changed() <-chan struct{} {
	if r == nil {
		return nil
	}
	return r.group.Changed()
}

// follow takes up phases that somebody else stored, or, at the beginning of a
// leadership, all that is stored. It says whether phases in force are others.
func (r *rollouts) follow(now time.Time) (other bool) {
	term := r.group.Term()
	switch {
	case term == r.term && term != 0:
		return false
	case term != 0:
		states, err := r.group.Load()
		if r.failed = err; err != nil {
			r.again = earlier(r.again, now.Add(retryTime))
			return false
		}
		r.engine, r.claim = rollout.NewEngine(states), true
	default:
		states, serial, known := r.group.Stored()
		if !known || r.known && r.term == 0 && r.serial == serial {
			return false
		}
		r.engine, r.serial, r.failed = rollout.NewEngine(states), serial, nil
	}
	r.term, r.known, r.shown = term, true, nil
	return true
}

// saved notes with which serial targets entered their phases.
func (r *rollouts) saved(before map[model.Target]rollout.State) {
	_, r.serial, _ = r.group.Stored()
	if r.claim {
		r.claimed, r.claim, r.entered = r.serial, false, map[model.Target]uint64{}
	}
	for t, s := range r.engine.States() {
		if was, ok := before[t]; !ok || was.Phase != s.Phase {
			r.entered[t] = r.serial
		}
	}
	for t := range r.entered {
		if _, there := r.engine.States()[t]; !there {
			delete(r.entered, t)
		}
	}
}

// hold shows what the leader waits for.
func (r *rollouts) hold() {
	others, _ := r.group.Known(time.Now())
	r.waits, r.shown = map[model.Target]rollout.Wait{}, nil
	for _, k := range others {
		if k.Leads {
			for _, w := range k.About.Waits {
				r.waits[w.Target] = rollout.Wait{For: w.For, Held: w.Held}
			}
		}
	}
}

// told is what the others are told of waits.
func (r *rollouts) told() []rollout.TargetWait {
	var out []rollout.TargetWait
	for i := range r.wanted {
		t := r.wanted[i].Target
		if wait, ok := r.waits[t]; ok && len(out) < mostWaits {
			const most = 25
			out = append(out, rollout.TargetWait{Target: t, For: wait.For[:min(most, len(wait.For))], Held: wait.Held})
		}
	}
	return out
}

// regroup takes up what became of the group: who leads, which phases are in
// force, which sidecars others have, what they know.
func (h *hub) regroup(now time.Time) {
	r := h.rollouts
	if r.follow(now) && h.bundle != nil {
		h.buildAt = now // the proxies here are to have it as soon as others
	}
	if s := h.snapshot.Load(); s != nil {
		others, _ := r.group.Known(now)
		for _, k := range others {
			for _, id := range k.About.Sidecars {
				if s.Workload(id) != nil && !s.HasSidecar(id) {
					if _, known := h.evidence[id]; !known {
						h.evidence[id] = portsOf(s.Mesh())
						h.changed(now)
					}
				}
			}
		}
		r.again = earlier(r.again, now.Add(quietTime))
	}
}

// observe is what all replicas know. The others are told this one's part.
func (h *hub) observe(s *model.Snapshot, now time.Time) *replica.Observation {
	r := h.rollouts
	own := replica.Sources{
		Snapshot: s, Ground: h.ground, Serial: r.world, Streams: h.store.Progress(), Traffic: h.feed.Of,
		Withheld: func(p *ads.Progress) { h.withheld(s, p) }, Wanted: r.wanted, States: r.engine.States(),
		Listed: !r.alone(),
	}
	report := own.Report(now)
	r.open = len(report.Phases) > 0
	others, lost := r.group.Known(now)
	heard := []rollout.Heard{{Replica: r.group.Self(), Report: report}}
	for _, k := range others {
		heard = append(heard, k.Heard)
	}
	h.tell(s, report, others)
	return replica.Observe(s, rollout.Merge(heard, h.ground, lost))
}

// tell tells the others of this replica, and looks whether they do the same.
func (h *hub) tell(s *model.Snapshot, report rollout.Report, others []rollout.Known) {
	r := h.rollouts
	if r.alone() {
		return
	}
	about := rollout.Replica{
		Revision: h.revision.String(), Proxies: len(h.ledger.streams), Open: r.open, Sidecars: h.undeclared(s),
	}
	should, current := status.State{Edits: h.ledger.edits, Proxies: h.proxies()}.Acknowledged()
	about.Current = about.Proxies - (should - current)
	if r.term != 0 {
		about.Waits = r.told()
	}
	about.Inputs = replica.Inputs(about.Revision, r.wanted, about.Sidecars)
	about.Content = replica.Content(h.world.Load(), about.Inputs, h.kept)
	r.group.Tell(about, report)
	if n := r.balance.Move(about, others, report.At); n > 0 {
		h.log.Info("proxies are to look for another replica", "proxies", n)
		h.store.Move(n, tlsport.Leave)
	}

	var problems []meshconfig.Problem
	add := func(code string, severity meshconfig.Severity, messages []string) {
		for _, text := range messages {
			problems = append(problems, meshconfig.Problem{Code: code, Severity: severity, On: model.Key{Kind: "Replica", Name: r.group.Self()}, Message: text})
		}
	}
	diverged := replica.Diverged(about, others)
	add("REPLICA_DIVERGED", meshconfig.Error, diverged)
	add("REPLICA", meshconfig.Warning, r.group.Trouble())
	var silent []string
	for _, k := range others {
		if k.Silent != "" && !k.Gone {
			silent = append(silent, "replica "+k.Replica+" "+k.Silent+": changes of modes wait until it answers, or its pod is gone")
		}
	}
	add("REPLICA_SILENT", meshconfig.Warning, silent)
	h.problems.Set("replicas", problems...)
	h.replicas = replica.Members(r.group, about, others)
	r.numbers.Set(h.replicas, about, len(diverged))
}

// kept says that a class, or without one the endpoints, keep what they had, as
// Envoy would refuse what they should have.
func (h *hub) kept(client *model.ClientClass, server *model.ServerClass) bool {
	switch {
	case client != nil:
		return h.translator.client[*client].bad != nil
	case server != nil:
		return h.translator.server[*server].bad != nil
	}
	return h.translator.bad != nil
}

// undeclared are the workloads whose sidecar is known by its connection only.
func (h *hub) undeclared(s *model.Snapshot) []model.WorkloadID {
	var out []model.WorkloadID
	for i := range h.inputs.Workloads {
		w := &h.inputs.Workloads[i]
		if _, seen := h.evidence[w.ID]; seen && !w.Sidecar && s.HasSidecar(w.ID) {
			out = append(out, w.ID)
		}
	}
	slices.SortFunc(out, model.WorkloadID.Compare)
	return out[:min(mostSidecars, len(out))]
}

// withheld takes back what looks proven only because the proxy keeps an
// earlier configuration.
func (h *hub) withheld(s *model.Snapshot, p *ads.Progress) {
	client, server, _ := s.ClassOf(p.Proxy)
	if h.translator.client[client].bad != nil {
		p.Outbound = keepsEarlier
	}
	if h.translator.server[server].bad != nil {
		p.Inbound = keepsEarlier
	}
}

// unready says why proxies are not served yet; none: they are.
func (h *hub) unready() []string {
	if h.published.Load().Snapshot != nil {
		return nil
	}
	out := []string{"no complete configuration was read yet"}
	if r := h.rollouts; r != nil && !r.alone() && r.group.Leader() == "" {
		out = append(out, "no replica leads yet, so the phases in force are not known")
	}
	return out
}

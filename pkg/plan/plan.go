// Package plan foretells what an edit does: which targets change mode, by
// which steps, who is sent what, which connections end, and which calls that
// work now will not. The steps are those of the rollout engine on perfect
// evidence, and all else is read from the configuration of each step, so a plan
// cannot disagree with what happens. It is pure.
package plan

import (
	"maps"
	"slices"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/readiness"
	"github.com/meshpilot/pilot/pkg/rollout"
	"github.com/meshpilot/pilot/pkg/translate"
)

// Plan is what an edit does.
type Plan struct {
	Targets []Target `json:"targets"` // whose mode changes
	Steps   []Step   `json:"steps"`   // the first is the edit itself
	Cuts    []Cut    `json:"cuts"`
	Breaks  []Break  `json:"breaks"`
	// Seen and Unknown are the evidence of a running mesh about targets that
	// become strict; Asked says that there was one.
	Asked   bool    `json:"evidence"`
	Seen    []Seen  `json:"seen"`
	Unknown []Doubt `json:"unknown"`
}

// stage is the mesh as it is after a step.
type stage struct {
	snapshot *model.Snapshot
	configs  map[model.WorkloadID]translate.Config
	rollouts map[model.WorkloadID]map[uint16]model.Rollout
}

func newStage(in model.Inputs) *stage {
	s := model.Build(in)
	out := &stage{s, translate.Sidecars(s), map[model.WorkloadID]map[uint16]model.Rollout{}}
	for _, w := range s.Targets() {
		for _, id := range w.Workloads {
			if out.rollouts[id] == nil {
				out.rollouts[id] = map[uint16]model.Rollout{}
			}
			out.rollouts[id][w.Port] = w.Rollout
		}
	}
	return out
}

// Make plans the change from one configuration to another. Phases of before
// are those in force; nil: all are where their mode ends. Place says where an
// object of after was written.
func Make(before, after model.Inputs, place func(model.Key) string) *Plan {
	if before.Phases == nil {
		before.Phases = map[model.Target]model.Phase{}
	}
	stages := []*stage{newStage(before)}
	for _, phases := range ladder(stages[0].snapshot, after) {
		after.Phases = phases
		stages = append(stages, newStage(after))
	}
	p := &Plan{Targets: []Target{}, Steps: []Step{}, Cuts: []Cut{}, Breaks: []Break{}, Seen: []Seen{}, Unknown: []Doubt{}}
	p.Targets = targets(stages, place)
	for i := 1; i < len(stages); i++ {
		p.Steps = append(p.Steps, step(i, stages[i-1], stages[i]))
		p.Cuts = append(p.Cuts, cuts(i, stages[i-1], stages[i])...)
	}
	p.Breaks = append(p.Breaks, breaks(stages)...)
	return p
}

// Changes says whether the edit changes anything for anybody.
func (p *Plan) Changes() bool {
	return len(p.Targets) > 0 || slices.ContainsFunc(p.Steps, func(s Step) bool { return len(s.Pushes) > 0 })
}

// Verdict is READY if nobody would break. Callers without a sidecar count if
// they were seen; without evidence, if they could.
func (p *Plan) Verdict() readiness.Verdict {
	broken := slices.ContainsFunc(p.Breaks, func(b Break) bool { return b.Sidecar || !p.Asked || !b.Plaintext })
	switch {
	case broken || len(p.Seen) > 0:
		return readiness.NotReady
	case len(p.Unknown) > 0:
		return readiness.Unclear
	default:
		return readiness.Ready
	}
}

// ladder are the phases of all targets after each step.
func ladder(old *model.Snapshot, after model.Inputs) []map[model.Target]model.Phase {
	now := time.Unix(0, 0)
	states := map[model.Target]rollout.State{}
	for _, w := range old.Targets() {
		states[w.Target] = rollout.State{Phase: w.Decision.Phase, Mode: w.Decision.Mode, Since: now}
	}
	engine := rollout.NewEngine(states)
	after.Phases = engine.Phases()
	wanted := model.Build(after).Targets()
	engine.Want(wanted, now)
	out := []map[model.Target]model.Phase{maps.Clone(engine.Phases())}
	for climb(engine, wanted, &now) {
		out = append(out, maps.Clone(engine.Phases()))
	}
	return out
}

// climb lets every target go one rung, if it has one to go. What the engine
// wants to see more than once it is shown often enough.
func climb(engine *rollout.Engine, wanted []model.Wanted, now *time.Time) (moved bool) {
	const often, forever = 8, 10_000 * time.Hour
	for i := range wanted {
		w := wanted[i]
		w.Rollout.Deadline = forever
		phase := engine.States()[w.Target].Phase
		for range often {
			*now = now.Add(w.Rollout.QuietPeriod + time.Second)
			engine.Step(&w, proof(&w, *now), *now)
			if engine.States()[w.Target].Phase != phase {
				moved = true
				break
			}
		}
	}
	return moved
}

// proof is evidence that nothing is in the way.
func proof(w *model.Wanted, now time.Time) rollout.Evidence {
	none := rollout.Connections{Known: true, At: now}
	var e rollout.Evidence
	for _, id := range w.Workloads {
		e.Servers = append(e.Servers, rollout.Server{Workload: id, Logs: time.Unix(0, 0).Add(-time.Hour), Stats: time.Unix(0, 0), Plain: none, Mesh: none})
	}
	return e
}

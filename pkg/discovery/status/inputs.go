package status

import (
	"net/http"

	"github.com/meshpilot/pilot/pkg/model"
)

// Inputs are what the mesh in force was built of, with the phases in force: a
// command builds the same snapshot of them.
type Inputs struct {
	model.Inputs
	Phases []TargetPhase // in place of the map, which JSON has no form for
}

// TargetPhase is the phase in force at a target.
type TargetPhase struct {
	Target model.Target
	Phase  model.Phase
}

// Model are the inputs as model.Build takes them.
func (in Inputs) Model() model.Inputs {
	out := in.Inputs
	out.Phases = make(map[model.Target]model.Phase, len(in.Phases))
	for _, p := range in.Phases {
		out.Phases[p.Target] = p.Phase
	}
	return out
}

func (p Pages) inputs(_ *http.Request, s State) (any, error) {
	if s.Snapshot == nil {
		return nil, notYet()
	}
	in := Inputs{Inputs: s.Inputs, Phases: []TargetPhase{}}
	for _, w := range s.Snapshot.Workloads() { // evidence that came after the inputs
		if s.Snapshot.HasSidecar(w.ID) && !w.Sidecar {
			in.Connected = append(in.Connected, w.ID)
		}
	}
	for _, w := range s.Snapshot.Targets() {
		in.Phases = append(in.Phases, TargetPhase{w.Target, w.Decision.Phase})
	}
	return in, nil
}

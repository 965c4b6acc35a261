package status

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/meshconfig"
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

const maxEdit = 8 << 20 // bytes of a request

// preview gives the inputs as they would be if the files, texts by name, were
// applied over what is in force. Nothing is changed.
func (p Pages) preview(r *http.Request, s State) (any, error) {
	if s.Snapshot == nil {
		return nil, notYet()
	}
	var files map[string]string
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxEdit)).Decode(&files); err != nil {
		return nil, refusal{http.StatusBadRequest, fmt.Sprintf("no files by their names: %v", err)}
	}
	var parts []meshconfig.Bundle
	var problems []meshconfig.Problem
	for _, name := range slices.Sorted(maps.Keys(files)) {
		part, found := meshconfig.Decode(strings.NewReader(files[name]), name)
		parts, problems = append(parts, part), append(problems, found...)
	}
	edit, found := meshconfig.Merge(parts, meshconfig.Bundle{})
	next, more := s.Bundle.Apply(edit)
	for _, problem := range append(append(problems, found...), more...) {
		if problem.Severity == meshconfig.Error {
			return nil, refusal{http.StatusUnprocessableEntity, problem.String()}
		}
	}
	inputs, _ := meshconfig.Inputs(next, s.Inputs.Mesh.Domain)
	inputs.Connected = s.Inputs.Connected
	return Inputs{Inputs: inputs, Phases: []TargetPhase{}}, nil
}

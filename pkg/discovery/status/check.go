package status

import (
	"net/http"

	"github.com/meshpilot/pilot/pkg/check"
	"github.com/meshpilot/pilot/pkg/meshconfig"
)

// check is the problems in force with what only the whole mesh shows.
func (p Pages) check(_ *http.Request, s State) (any, error) {
	type problem struct {
		Code      string `json:"code"`
		Severity  string `json:"severity"`
		Kind      string `json:"kind,omitempty"`
		Namespace string `json:"namespace,omitempty"`
		Name      string `json:"name,omitempty"`
		Field     string `json:"field,omitempty"`
		Message   string `json:"message"`
		File      string `json:"file,omitempty"`
		Line      int    `json:"line,omitempty"`
	}
	if s.Snapshot == nil || s.Bundle == nil {
		return nil, notYet()
	}
	inForce := make([]meshconfig.Problem, len(s.Findings))
	for i, f := range s.Findings {
		inForce[i] = f.Problem
	}
	out := []problem{}
	for _, f := range check.Problems(*s.Bundle, s.Inputs, s.Snapshot, inForce) {
		out = append(out, problem{f.Code, f.Severity.String(), f.On.Kind, f.On.Namespace, f.On.Name,
			f.Field, f.Message, f.At.File, f.At.Line})
	}
	return out, nil
}

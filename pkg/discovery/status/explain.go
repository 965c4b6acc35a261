package status

import (
	"net/http"

	"github.com/meshpilot/pilot/pkg/explain"
	"github.com/meshpilot/pilot/pkg/model"
)

// place is where an object was written; empty for sources without files.
func (s State) place(key model.Key) string {
	if s.Bundle == nil || s.Bundle.Positions[key].File == "" {
		return ""
	}
	return s.Bundle.Positions[key].String()
}

// explain answers for one call, or with all=true or plaintext=true for every
// class of callers and every service port.
func (p Pages) explain(r *http.Request, s State) (any, error) {
	if s.Snapshot == nil {
		return nil, notYet()
	}
	e := explain.New(s.Snapshot, s.place)
	from, to := r.FormValue("from"), r.FormValue("to")
	switch {
	case r.FormValue("all") == "true":
		return e.All(), nil
	case r.FormValue("plaintext") == "true":
		return e.Plaintext(), nil
	case from == "" || to == "":
		return nil, refusal{http.StatusBadRequest, "from is NAMESPACE/WORKLOAD or NAMESPACE, and to is HOST:PORT; or all=true, or plaintext=true"}
	}
	answer, err := e.Ask(from, to)
	if err != nil {
		return nil, refusal{http.StatusNotFound, err.Error()}
	}
	return answer, nil
}

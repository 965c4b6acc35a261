package status

import (
	"cmp"
	"net/http"
	"strconv"

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

const defaultCalls = 10_000

// explain answers for one call, or with all=true or plaintext=true for every
// class of callers and as many service ports as Calls reach; the answer says how
// many are left, and skip=N goes on after N.
func (p Pages) explain(r *http.Request, s State) (any, error) {
	if s.Snapshot == nil {
		return nil, notYet()
	}
	e := explain.New(s.Snapshot, s.place)
	from, to := r.FormValue("from"), r.FormValue("to")
	skip, err := strconv.Atoi(cmp.Or(r.FormValue("skip"), "0"))
	if err != nil || skip < 0 {
		return nil, refusal{http.StatusBadRequest, "skip is a number of service ports"}
	}
	window := explain.Window{Skip: skip, Calls: cmp.Or(p.Calls, defaultCalls)}
	switch {
	case r.FormValue("all") == "true":
		return e.All(window), nil
	case r.FormValue("plaintext") == "true":
		return e.Plaintext(window), nil
	case from == "" || to == "":
		return nil, refusal{http.StatusBadRequest, "from is NAMESPACE/WORKLOAD or NAMESPACE, and to is HOST:PORT; or all=true, or plaintext=true"}
	}
	answer, err := e.Ask(from, to)
	if err != nil {
		return nil, refusal{http.StatusNotFound, err.Error()}
	}
	return answer, nil
}

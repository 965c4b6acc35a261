package discovery

import (
	"sync"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/meshconfig"
)

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

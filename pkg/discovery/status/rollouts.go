package status

import (
	"net/http"
	"strconv"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

// Rollout is how far a target is on the way to its mode.
type Rollout struct {
	Wanted  *model.Wanted // with the phase in force
	Since   time.Time     // the phase was entered
	Settled bool          // the phase is where the mode ends
	Held    bool          // its deadline is missed, or failures stopped it
	Waits   []rollout.Blocker
}

// TargetName is a target as reports name it: "shop/cart:8080".
func TargetName(t model.Target) string {
	port := "other ports"
	if t.Port != 0 {
		port = strconv.Itoa(int(t.Port))
	}
	return t.Namespace + "/" + t.Group + ":" + port
}

// ClientsSend is what clients that follow a target send in a phase.
func ClientsSend(p model.Phase) string {
	if p >= model.PhaseMoved {
		return "mTLS"
	}
	return "plaintext"
}

// RolloutReport is a Rollout as /debug/rollouts shows it.
type RolloutReport struct {
	Target    string            `json:"target"`
	Namespace string            `json:"namespace"`
	Workload  string            `json:"workload"`
	Port      uint16            `json:"port"` // 0: all that no service names
	Mode      string            `json:"mode"`
	Source    string            `json:"source"` // who wants the mode
	Phase     string            `json:"phase"`
	Clients   string            `json:"clients"` // what those that follow send
	Since     time.Time         `json:"since"`
	Settled   bool              `json:"settled"`
	Held      bool              `json:"held"`
	Deadline  *time.Time        `json:"deadline,omitempty"` // of the step that is waited for
	Waits     []rollout.Blocker `json:"waitsFor"`
	Workloads []string          `json:"workloads"`
}

func (r Rollout) report() RolloutReport {
	w := r.Wanted
	out := RolloutReport{
		Target: TargetName(w.Target), Namespace: w.Namespace, Workload: w.Group, Port: w.Port,
		Mode: w.Decision.Mode.String(), Source: w.Decision.By(), Phase: w.Decision.Phase.String(), Clients: ClientsSend(w.Decision.Phase),
		Since: r.Since, Settled: r.Settled, Held: r.Held, Waits: append([]rollout.Blocker{}, r.Waits...),
	}
	if !r.Settled && !r.Held {
		deadline := r.Since.Add(w.Rollout.Deadline)
		out.Deadline = &deadline
	}
	for _, id := range w.Workloads {
		out.Workloads = append(out.Workloads, id.String())
	}
	return out
}

// rollouts shows all targets; those under way alone with ?open=true.
func (p Pages) rollouts(r *http.Request, s State) (any, error) {
	if s.Snapshot == nil {
		return nil, notYet()
	}
	namespace, open := r.FormValue("namespace"), r.FormValue("open") == "true"
	out := []RolloutReport{}
	for _, target := range s.Rollouts {
		if (namespace == "" || namespace == target.Wanted.Namespace) && (!open || !target.Settled) {
			out = append(out, target.report())
		}
	}
	return out, nil
}

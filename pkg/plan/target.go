package plan

import (
	"slices"
	"strconv"

	"github.com/meshpilot/pilot/pkg/model"
)

// Target is a port of a workload group whose mode or phase changes.
type Target struct {
	Target string `json:"target"`
	Before Mode   `json:"before"`
	After  Mode   `json:"after"`
	// Phases are those that it goes through, from the present one.
	Phases []string `json:"phases"`
	// ServerFirst ports change at once: what they serve cannot be told from TLS.
	ServerFirst bool `json:"serverFirst,omitempty"`
	Immediate   bool `json:"immediate,omitempty"`

	key    model.Target
	strict bool // it becomes so
}

// Mode is a mode with who decides.
type Mode struct {
	Mode string `json:"mode"`
	By   string `json:"by"`
	At   string `json:"at,omitempty"` // file:line
}

// Name is a target as reports name it: "shop/cart:8080".
func Name(t model.Target) string {
	port := "other ports"
	if t.Port != 0 {
		port = strconv.Itoa(int(t.Port))
	}
	return t.Namespace + "/" + t.Group + ":" + port
}

// rung names a phase so that both halves of PERMISSIVE can be told apart.
func rung(p model.Phase) string {
	switch p {
	case model.PhaseOpened:
		return "PERMISSIVE (servers)"
	case model.PhaseMoved:
		return "PERMISSIVE (clients)"
	default:
		return p.String()
	}
}

// targets are those that change; workloads that are new have nothing to change.
func targets(stages []*stage, place func(model.Key) string) []Target {
	old, last := stages[0].snapshot, stages[len(stages)-1].snapshot
	out := []Target{}
	add := func(t model.Target, id model.WorkloadID, serverFirst bool, r model.Rollout) {
		if !old.HasSidecar(id) {
			return
		}
		was, is := old.Decision(id, t.Port), last.Decision(id, t.Port)
		change := Target{
			Target: Name(t), Phases: []string{rung(was.Phase)}, ServerFirst: serverFirst, Immediate: r.Immediate,
			Before: Mode{Mode: was.Mode.String(), By: was.By()}, After: Mode{is.Mode.String(), is.By(), place(is.Source)},
		}
		change.key = t
		for i := 1; i < len(stages); i++ {
			if next := rung(stages[i].snapshot.Decision(id, t.Port).Phase); next != change.Phases[len(change.Phases)-1] {
				change.Phases = append(change.Phases, next)
			}
		}
		if was.Mode != is.Mode || len(change.Phases) > 1 {
			change.strict = was.Phase < model.PhaseStrict && is.Phase == model.PhaseStrict
			out = append(out, change)
		}
	}
	for _, w := range last.Targets() {
		add(w.Target, w.Workloads[0], false, w.Rollout)
	}
	for _, port := range serverFirst(last) {
		add(port.target, port.workload, true, model.Rollout{})
	}
	slices.SortStableFunc(out, func(a, b Target) int { return a.key.Compare(b.key) })
	return out
}

type serverFirstPort struct {
	target   model.Target
	workload model.WorkloadID
}

// serverFirst are the ports without phases, once for each group.
func serverFirst(s *model.Snapshot) []serverFirstPort {
	seen := map[model.Target]bool{}
	var out []serverFirstPort
	for _, w := range s.Workloads() {
		proxy, _ := s.ProxyOf(w.ID)
		_, class, ok := s.ClassOf(proxy)
		if !ok || !s.HasSidecar(w.ID) {
			continue
		}
		for _, p := range s.ServerView(class).Ports {
			t := model.Target{Namespace: w.ID.Namespace, Group: w.Group, Port: p.Port}
			if p.Protocol.ServerFirst() && !seen[t] {
				seen[t] = true
				out = append(out, serverFirstPort{t, w.ID})
			}
		}
	}
	return out
}

package adopt

import (
	"slices"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

// kinds are the phases that servers tell apart.
func kinds() []model.Phase {
	return []model.Phase{model.PhaseStrict, model.PhaseNone, model.PhaseOpened, model.PhaseGrace}
}

// matched are the phases, by port, in which the view has the listeners. One
// listener may serve all ports, so phases of ports are tried together.
func matched(view *model.ServerView, ports []model.Wanted, listeners map[string]string) map[uint16]model.Phase {
	out := map[uint16]model.Phase{}
	for _, phases := range guesses(ports) {
		for _, r := range translate.InboundListeners(inPhases(view, ports, phases)) {
			if listeners[r.Name] != r.Version {
				continue
			}
			for i := range ports {
				if translate.InboundListener(view, ports[i].Port) == r.Name {
					out[ports[i].Port] = phases[i]
				}
			}
		}
		if len(out) == len(ports) {
			break
		}
	}
	return out
}

// inPhases is the view with its ports in these phases.
func inPhases(view *model.ServerView, ports []model.Wanted, phases []model.Phase) *model.ServerView {
	v := *view
	v.Ports = slices.Clone(view.Ports)
	for i := range ports {
		if ports[i].Port == 0 {
			v.Other.Phase = phases[i]
		}
		for j := range v.Ports {
			if v.Ports[j].Port == ports[i].Port {
				v.Ports[j].Decision.Phase = phases[i]
			}
		}
	}
	return &v
}

// mostPorts is how many ports are tried in all phases that they may have
// together; of more, only one is in another phase than the rest.
const mostPorts = 3

// guesses are phases of the ports, the likely ones first: all where their
// modes end, all in one, all but those that stay NONE.
func guesses(ports []model.Wanted) [][]model.Phase {
	n := len(ports)
	ends := make([]model.Phase, n)
	for i := range ports {
		ends[i] = ports[i].Decision.Mode.Phase()
	}
	out := [][]model.Phase{ends}
	for _, p := range kinds() {
		all := slices.Repeat([]model.Phase{p}, n)
		some := slices.Clone(all)
		for i := range ends {
			if ends[i] == model.PhaseNone {
				some[i] = model.PhaseNone
			}
		}
		out = append(out, all, some)
	}
	if n <= mostPorts {
		return append(out, product(n)...)
	}
	for _, p := range kinds() {
		for _, other := range kinds() {
			for i := range n {
				guess := slices.Repeat([]model.Phase{p}, n)
				guess[i] = other
				out = append(out, guess)
			}
		}
	}
	return out
}

// product is every way to give n ports a phase.
func product(n int) [][]model.Phase {
	out := [][]model.Phase{nil}
	for range n {
		var longer [][]model.Phase
		for _, head := range out {
			for _, p := range kinds() {
				longer = append(longer, append(slices.Clone(head), p))
			}
		}
		out = longer
	}
	return out
}

package adopt

import (
	"fmt"
	"testing"

	"github.com/meshpilot/pilot/pkg/model"
)

// holding is one way to hold a target: two servers and two clients, each of which
// says what it holds, or does not.
type holding struct {
	servers [2]model.Phase // Opened stands for both PERMISSIVE
	mesh    [2]bool        // clients send mTLS
	seen    [4]bool        // servers, clients
}

func (h holding) found() Found {
	var f Found
	for i, p := range h.servers {
		switch {
		case !h.seen[i]:
			f.Unknown = true
		case p == model.PhaseNone:
			f.None = true
		case p == model.PhaseOpened:
			f.Both = true
		case p == model.PhaseGrace:
			f.Grace = true
		default:
			f.Strict = true
		}
	}
	for i, mesh := range h.mesh {
		if h.seen[2+i] {
			f.Mesh, f.Plain = f.Mesh || mesh, f.Plain || !mesh
		}
	}
	return f
}

func works(server model.Phase, mesh bool) bool {
	if mesh {
		return server > model.PhaseNone
	}
	return server < model.PhaseGrace
}

// told says whether enough is known to lose nothing: all servers, or one that
// does not take both, or a client; and that all calls work.
func (h holding) told() bool {
	for _, s := range h.servers {
		for _, mesh := range h.mesh {
			if !works(s, mesh) {
				return false
			}
		}
	}
	return h.seen[0] && h.seen[1] || h.seen[2] || h.seen[3] ||
		h.seen[0] && h.servers[0] != model.PhaseOpened || h.seen[1] && h.servers[1] != model.PhaseOpened
}

func allHeld(visit func(holding)) {
	phases := []model.Phase{model.PhaseNone, model.PhaseOpened, model.PhaseGrace, model.PhaseStrict}
	for _, a := range phases {
		for _, b := range phases {
			for bits := range 64 {
				bit := func(i int) bool { return bits>>i&1 == 1 }
				visit(holding{[2]model.Phase{a, b}, [2]bool{bit(0), bit(1)}, [4]bool{bit(2), bit(3), bit(4), bit(5)}})
			}
		}
	}
}

// From whatever is held, a call that works goes on working, in whatever order
// servers and clients get the phase.
func TestFoundLosesNothing(t *testing.T) {
	checked := 0
	allHeld(func(h holding) {
		if !h.told() {
			return
		}
		for end := model.PhaseNone; end <= model.PhaseStrict; end++ {
			p := h.found().Phase(end)
			checked++
			for _, server := range h.servers {
				for _, mesh := range h.mesh {
					for _, client := range []bool{mesh, p >= model.PhaseMoved} {
						if !works(server, client) || !works(p, client) {
							t.Fatalf("%+v, mode ends in %d: adopted in %d", h, end, p)
						}
					}
				}
			}
		}
	})
	if checked < 500 {
		t.Errorf("only %d were checked", checked)
	}
}

// A mesh at rest stays where it is; nothing held is the end of the mode.
func TestFoundAtRest(t *testing.T) {
	for end := model.PhaseNone; end <= model.PhaseStrict; end++ {
		if got := (Found{}).Phase(end); got != end {
			t.Errorf("nothing held: %d, want %d", got, end)
		}
	}
	for _, tc := range []struct {
		found     Found
		end, want model.Phase
	}{
		{Found{Strict: true, Mesh: true}, model.PhaseStrict, model.PhaseStrict},
		{Found{Strict: true}, model.PhaseNone, model.PhaseStrict},
		{Found{Strict: true, Plain: true}, model.PhaseStrict, model.PhaseStrict}, // refused already
		{Found{Strict: true, Unknown: true, Mesh: true}, model.PhaseStrict, model.PhaseMoved},
		{Found{Grace: true, Strict: true}, model.PhaseStrict, model.PhaseGrace},
		{Found{Both: true, Mesh: true}, model.PhaseMoved, model.PhaseMoved},
		{Found{Both: true}, model.PhaseStrict, model.PhaseMoved},
		{Found{Both: true}, model.PhaseNone, model.PhaseOpened},
		{Found{None: true, Plain: true}, model.PhaseStrict, model.PhaseNone},
		{Found{Unknown: true, Plain: true}, model.PhaseStrict, model.PhaseOpened},
		{Found{Unknown: true}, model.PhaseStrict, model.PhaseMoved},
		{Found{Unknown: true}, model.PhaseNone, model.PhaseOpened},
	} {
		if got := tc.found.Phase(tc.end); got != tc.want {
			t.Error(fmt.Sprintf("%+v, mode ends in %d:", tc.found, tc.end), got, "want", tc.want)
		}
	}
}

package adopt

import "github.com/meshpilot/pilot/pkg/model"

// Found is what the proxies of a running mesh say they hold of one target.
type Found struct {
	// Some server takes what it does in this phase; Both is either PERMISSIVE.
	None, Both, Grace, Strict bool
	// Unknown says that nothing is known of some server.
	Unknown bool
	// Some client sends plaintext, or mTLS.
	Plain, Mesh bool
}

// Phase is where the target is taken up: no call that works is lost on the
// way from what is held to that phase. If nothing is held, that is end, where
// its mode ends. Servers that are all the same stay so, as whoever they refuse
// is refused already; else PERMISSIVE, with clients as they are.
func (f Found) Phase(end model.Phase) model.Phase {
	refusing := f.Grace || f.Strict
	switch {
	case f == (Found{}):
		return end
	case f.Unknown || f.Both || f.None && refusing:
	case f.Grace:
		return model.PhaseGrace
	case f.Strict:
		return model.PhaseStrict
	case f.None:
		return model.PhaseNone
	}
	switch {
	case refusing && !f.None:
		return model.PhaseMoved
	case f.None && !refusing && !f.Mesh:
		return model.PhaseOpened
	case f.Mesh != f.Plain && f.Mesh:
		return model.PhaseMoved
	case f.Mesh != f.Plain:
		return model.PhaseOpened
	default:
		return max(model.PhaseOpened, min(end, model.PhaseMoved))
	}
}

package property

import (
	"testing"

	"github.com/meshpilot/pilot/internal/meshgen"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
	"github.com/meshpilot/pilot/pkg/translate/simulate"
)

// TestEveryMixOfPhases walks calls through every mix of old and new
// configuration that can exist at a step of a rollout: at a step of the
// servers, clients hold what they had, and some servers the new; at a step of
// the clients, all servers hold what they had.
func TestEveryMixOfPhases(t *testing.T) {
	in := meshgen.Inputs(3, 1)
	in.Mesh.MutualTLS = true
	at := func(phase model.Phase) map[model.WorkloadID]translate.Config {
		in.Phases = map[model.Target]model.Phase{}
		for i := range in.Workloads {
			w := &in.Workloads[i]
			for _, port := range []uint16{0, 8080} {
				in.Phases[model.Target{Namespace: w.ID.Namespace, Group: w.Group, Port: port}] = phase
			}
		}
		return translate.Sidecars(model.Build(in))
	}
	configs := map[model.Phase]map[model.WorkloadID]translate.Config{}
	for p := model.PhaseNone; p <= model.PhaseStrict; p++ {
		configs[p] = at(p)
	}
	type mix struct {
		client, server model.Phase
		works          bool
	}
	var mixes []mix
	for p := model.PhaseNone; p <= model.PhaseStrict; p++ {
		mixes = append(mixes, mix{p, p, true})
		if p < model.PhaseStrict { // both ways: up and down
			mixes = append(mixes, mix{p, p + 1, true}, mix{p + 1, p, true})
		}
	}
	// The order that phases forbid loses calls, so the rest means something.
	mixes = append(mixes, mix{model.PhaseMoved, model.PhaseNone, false}, mix{model.PhaseOpened, model.PhaseGrace, false}, mix{model.PhaseNone, model.PhaseStrict, false})
	from, to := in.Workloads[0].ID, in.Workloads[1].ID
	for _, m := range mixes {
		mesh := simulate.Of(model.Build(in))
		for _, peer := range mesh.Peers {
			config := configs[m.client][peer.ID]
			if peer.ID == to {
				config = configs[m.server][peer.ID]
			}
			peer.Config = &config
		}
		for _, outcome := range mesh.Call(simulate.Call{
			From: from, Host: in.Services[1].Host, Address: in.Services[1].VIPs[0], Port: 80, Protocol: simulate.HTTP,
		}) {
			if outcome.Works() != m.works {
				t.Errorf("client in phase %d, server %s in %d: %+v", m.client, to, m.server, outcome)
			}
		}
	}
}

// Package replica lets control planes that run beside each other act as one:
// which of them decides, what each knows of its proxies, and whether all give
// equal bytes for equal inputs.
package replica

import (
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/phases"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

// Group is the replicas of a control plane, as one of them sees and serves
// them. Safe for concurrent use.
type Group interface {
	// Load and Save are the leader's, Load first in each Term: it shuts out
	// whoever led before.
	phases.Store
	// Self is the name of this replica, Leader of who leads; empty: nobody yet.
	Self() string
	Leader() string
	// Term numbers this replica's leaderships; 0: another leads.
	Term() uint64
	// Stored are the phases in force, which who does not lead follows; false
	// until they are known. Serial grows with each change.
	Stored() (states map[model.Target]rollout.State, serial uint64, known bool)
	// Tell is what this replica says of itself from now on. It never blocks.
	Tell(about rollout.Replica, report rollout.Report)
	// Known are the others, and when one of them was lost last.
	Known(now time.Time) (others []rollout.Known, lost time.Time)
	// Trouble is what keeps the replicas from acting as one.
	Trouble() []string
	// Changed wakes one reader when any of this may be other than before.
	Changed() <-chan struct{}
}

// Alone is the group of a control plane without others.
type Alone struct{ phases.Store }

// Self implements Group.
func (Alone) Self() string { return "" }

// Leader implements Group.
func (Alone) Leader() string { return "" }

// Term implements Group.
func (Alone) Term() uint64 { return 1 }

// Stored implements Group: who leads from the beginning follows nobody.
func (Alone) Stored() (states map[model.Target]rollout.State, serial uint64, known bool) {
	return nil, 0, false
}

// Tell implements Group.
func (Alone) Tell(rollout.Replica, rollout.Report) {}

// Known implements Group.
func (Alone) Known(time.Time) (others []rollout.Known, lost time.Time) { return nil, time.Time{} }

// Trouble implements Group.
func (Alone) Trouble() []string { return nil }

// Changed implements Group.
func (Alone) Changed() <-chan struct{} { return nil }

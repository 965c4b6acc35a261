// Package rollout decides how far a target may go on its way to another mode:
// a ladder of phases, climbed one rung at a time and only on proof (spec
// xds.md 8). It is pure: evidence and time come in, phases and what they wait
// for come out.
package rollout

import (
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

// Evidence is what is known about one target, in the phase that is in force.
type Evidence struct {
	Servers []Server // every workload of the target
	// Clients are who may call the target and is not proven to have the
	// configuration of the phase.
	Clients []Blocker
	// Plaintext and Mesh are who sends the one or the other whatever the phase,
	// because a rule or an exclusion says so.
	Plaintext, Mesh []Blocker
	// Peers are who was seen without mesh mTLS, newest first.
	Peers []Peer
	// AsOf is until when all of this was seen; zero: until now.
	AsOf time.Time
}

// Server is one workload of a target.
type Server struct {
	Workload model.WorkloadID
	// Unproven says why it is not proven to serve the phase; empty: it is.
	Unproven string
	// Logs and Stats are since when its access logs and gauges were followed
	// without a gap; zero: they are not.
	Logs, Stats time.Time
	Plain, Mesh Connections
	// Failed counts TLS handshakes that failed at the whole workload.
	Failed uint64
}

// Connections are those of one kind at one port.
type Connections struct {
	Known bool // a series that was never seen is not zero
	Open  uint64
	Total uint64
	At    time.Time // of the values
}

// Peer is somebody who talked to a target without mesh mTLS.
type Peer struct {
	Name    string // workload, or address
	Sidecar bool   // a workload of the mesh with a sidecar
	Refused bool   // instead of served
	Count   uint64
	Last    time.Time
}

// Blocker is one thing that is not proven yet.
type Blocker struct {
	Who  string `json:"who"`  // workload, address, or rule
	What string `json:"what"` // why it blocks; the same as long as it does
	// Detail is what changes meanwhile: how many, when last.
	Detail string `json:"detail,omitempty"`
}

// String is "who what (detail)".
func (b Blocker) String() string {
	text := b.Who + " " + b.What
	if b.Detail != "" {
		text += " (" + b.Detail + ")"
	}
	return text
}

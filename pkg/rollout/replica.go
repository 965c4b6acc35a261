package rollout

import (
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

// Replica is what a control plane tells others of itself, beside its Report.
type Replica struct {
	Revision string `json:"revision,omitempty"` // of its configuration; empty: it has none yet
	// Inputs names all that its world is made of. Equal inputs must give equal
	// Content, by a part's name: of a part that both have.
	Inputs  string            `json:"inputs,omitempty"`
	Content map[string]string `json:"content,omitempty"`
	Proxies int               `json:"proxies"`
	Current int               `json:"current"` // of Proxies; they acknowledged Revision
	// Open says that a target is under way, so that evidence is waited for.
	Open bool `json:"open,omitempty"`
	// Sidecars are workloads whose sidecar is known by its connection only.
	Sidecars []model.WorkloadID `json:"sidecars,omitempty"`
	// Waits are what the leader waits for.
	Waits []TargetWait `json:"waits,omitempty"`
}

// TargetWait is what one target waits for.
type TargetWait struct {
	Target model.Target `json:"target"`
	For    []Blocker    `json:"for,omitempty"`
	Held   bool         `json:"held,omitempty"`
}

// Known is another replica as this one knows it.
type Known struct {
	Heard
	About Replica
	Leads bool
	Age   time.Duration // since it was heard last
}

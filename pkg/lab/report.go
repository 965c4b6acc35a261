package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/meshpilot/pilot/pkg/lab/rotation"
	"github.com/meshpilot/pilot/pkg/lab/toggle"
)

// Report is what a run leaves behind as JSON.
type Report struct {
	Started time.Time     `json:"started"`
	Seconds float64       `json:"seconds"`
	Capture bool          `json:"capture"`
	Envoys  int           `json:"envoys"`
	NACKs   int           `json:"nacks"` // updates that the Envoys refused
	Totals  Totals        `json:"totals"`
	Edits   []Edit        `json:"edits"`
	Phases  []toggle.Step `json:"phases"` // oldest first
	Pairs   []Row         `json:"pairs"`
	// Certificates are those of the sidecars, by workload.
	Certificates []Certificates `json:"certificates"`
}

// Certificates are the leaf in a sidecar's files, and the one that its Envoy
// was seen to use in all its TLS contexts.
type Certificates struct {
	Workload string        `json:"workload"`
	Latest   rotation.Leaf `json:"latest"`
	Loaded   rotation.Leaf `json:"loaded"`
}

// Totals add up all pairs.
type Totals = toggle.Calls

// Edit is one change of the configuration.
type Edit struct {
	At time.Time `json:"at"` // the file was written
	// NoticedMS is until the control plane had read it, LastACKMS until the
	// last Envoy had accepted what follows from it; both from At.
	NoticedMS float64 `json:"noticedMs"`
	LastACKMS float64 `json:"lastAckMs,omitempty"`
	Envoys    int     `json:"envoys"`    // that were connected
	Responses int     `json:"responses"` // that were accepted; 0: nothing changed for any Envoy
	Refused   int     `json:"refused"`
	Complete  bool    `json:"complete"` // every Envoy has answered
}

func total(rows []Row) Totals {
	var t Totals
	for _, r := range rows {
		t.Requests += r.Requests
		t.Failed += r.Failed
		if r.Sidecar {
			t.SidecarRequests += r.Requests
			t.SidecarFailed += r.Failed
		}
	}
	return t
}

// edits are those after the start.
func (l *Lab) edits() []Edit {
	var list []Edit
	envoys := l.envoys()
	for _, e := range l.control.server().Edits() {
		if !e.At.After(l.live) {
			continue
		}
		edit := Edit{At: l.control.written(e.At), Envoys: envoys, Responses: e.Pushes, Refused: e.Refused, Complete: e.Done}
		edit.NoticedMS = milliseconds(e.At.Sub(edit.At))
		if e.Pushes > 0 {
			edit.LastACKMS = milliseconds(e.LastACK.Sub(edit.At))
		}
		list = append(list, edit)
	}
	return list
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(100*time.Microsecond)) / float64(time.Millisecond)
}

// String is what the edit came to, for people.
func (e Edit) String() string {
	switch {
	case !e.Complete:
		return "not all Envoys have answered"
	case e.Refused > 0:
		return fmt.Sprintf("Envoys refused %d of %d updates", e.Refused, e.Refused+e.Responses)
	case e.Responses == 0:
		return "it changes nothing for any Envoy"
	}
	return fmt.Sprintf("all of %d Envoys acknowledged after %.0f ms (%d responses)", e.Envoys, e.LastACKMS, e.Responses)
}

// write puts the report in place in one step.
func (r Report) write(path string) error {
	body, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".report-*")
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	defer os.Remove(temp.Name())
	if _, err := temp.Write(append(body, '\n')); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := temp.Chmod(0o644); err != nil {
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}

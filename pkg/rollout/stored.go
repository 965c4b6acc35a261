package rollout

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

const (
	storedVersion = "pilot.meshpilot.io/v1"
	storedKind    = "RolloutState"
)

type storedStates struct {
	APIVersion string        `json:"apiVersion"`
	Kind       string        `json:"kind"`
	Targets    []storedState `json:"targets"`
}

type storedState struct {
	Namespace  string    `json:"namespace"`
	Group      string    `json:"group"`
	Port       uint16    `json:"port"`
	Phase      string    `json:"phase"`
	Mode       string    `json:"mode"`
	Since      time.Time `json:"since"`
	Stopped    string    `json:"stopped,omitempty"`
	Limit      string    `json:"limit,omitempty"`
	Halted     string    `json:"halted,omitempty"`
	HaltedAt   time.Time `json:"haltedAt,omitzero"`
	Failed     uint64    `json:"failed,omitempty"`
	Handshakes uint64    `json:"handshakes,omitempty"`
}

// Encode is the states as they are stored, a line each, sorted.
func Encode(states map[model.Target]State) ([]byte, error) {
	order := make([]model.Target, 0, len(states))
	for t := range states {
		order = append(order, t)
	}
	slices.SortFunc(order, model.Target.Compare)
	var out bytes.Buffer
	fmt.Fprintf(&out, "{\"apiVersion\": %q, \"kind\": %q, \"targets\": [", storedVersion, storedKind)
	for i, t := range order {
		s := states[t]
		stored := storedState{
			Namespace: t.Namespace, Group: t.Group, Port: t.Port, Phase: rung(s.Phase), Mode: s.Mode.String(), Since: s.Since,
			Stopped: s.Stopped, Halted: s.Halted, HaltedAt: s.HaltedAt, Failed: s.Failed, Handshakes: s.Handshakes,
		}
		if s.Stopped != "" {
			stored.Limit = rung(s.Limit)
		}
		line, err := json.Marshal(stored)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteByte('\n')
		out.Write(line)
	}
	out.WriteString("\n]}\n")
	return out.Bytes(), nil
}

// Decode is Encode backwards. An error means that data is torn, or another
// program's.
func Decode(data []byte) (map[model.Target]State, error) {
	var doc storedStates
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&doc); err != nil {
		return nil, fmt.Errorf("not the whole of a %s: %w", storedKind, err)
	}
	if decoder.More() {
		return nil, errors.New("something follows the state")
	}
	if doc.APIVersion != storedVersion || doc.Kind != storedKind {
		return nil, fmt.Errorf("it is %s %s, want %s %s", doc.APIVersion, doc.Kind, storedVersion, storedKind)
	}
	out := make(map[model.Target]State, len(doc.Targets))
	for _, stored := range doc.Targets {
		t := model.Target{Namespace: stored.Namespace, Group: stored.Group, Port: stored.Port}
		phase, ok := phaseOf(stored.Phase)
		limit, limitOK := phaseOf(stored.Limit)
		mode, modeOK := modeOf(stored.Mode)
		if !ok || !modeOK || stored.Limit != "" && !limitOK {
			return nil, fmt.Errorf("target %v: phase %q, limit %q or mode %q is unknown", t, stored.Phase, stored.Limit, stored.Mode)
		}
		if _, twice := out[t]; twice {
			return nil, fmt.Errorf("target %v is there twice", t)
		}
		out[t] = State{
			Phase: phase, Since: stored.Since, Mode: mode, Stopped: stored.Stopped, Limit: limit,
			Halted: stored.Halted, HaltedAt: stored.HaltedAt, Failed: stored.Failed, Handshakes: stored.Handshakes,
		}
	}
	return out, nil
}

// rung tells apart the two phases that reports call PERMISSIVE.
func rung(p model.Phase) string {
	switch p {
	case model.PhaseOpened:
		return "OPENED"
	case model.PhaseMoved:
		return "MOVED"
	default:
		return p.String()
	}
}

func phaseOf(text string) (model.Phase, bool) {
	for p := model.PhaseNone; p <= model.PhaseStrict; p++ {
		if rung(p) == text {
			return p, true
		}
	}
	return 0, false
}

func modeOf(text string) (model.Mode, bool) {
	for m := model.Disable; m <= model.TLSOnly; m++ {
		if m.String() == text {
			return m, true
		}
	}
	return 0, false
}

package rollout

import (
	"reflect"
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/model"
)

func TestStored(t *testing.T) {
	states := map[model.Target]State{
		{Namespace: "shop", Group: "cart", Port: 80}: {Phase: model.PhaseMoved, Mode: model.Strict, Since: at(1).UTC(), Failed: 3, Handshakes: 7},
		{Namespace: "shop", Group: "cart"}:           {Phase: model.PhaseOpened, Mode: model.TLSOnly, Since: at(2).UTC(), Stopped: "why", Limit: model.PhaseMoved},
		{Namespace: "a", Group: "b", Port: 1}:        {Phase: model.PhaseGrace, Mode: model.Strict, Since: at(3).UTC(), Halted: "x", HaltedAt: at(4).UTC()},
		{Namespace: "a", Group: "c", Port: 1}:        {Since: at(3).UTC()},
	}
	data, err := Encode(states)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(data)
	if err != nil || !reflect.DeepEqual(got, states) {
		t.Fatalf("%v\n%s\n%+v", err, data, got)
	}
	if again, _ := Encode(got); string(again) != string(data) {
		t.Error("the order of targets differs")
	}
	for cut := range len(data) - 2 {
		if _, err := Decode(data[:cut]); err == nil {
			t.Fatalf("took the first %d bytes of %d", cut, len(data))
		}
	}
	for name, foreign := range map[string]string{
		"another kind":  `{"apiVersion": "pilot.meshpilot.io/v1", "kind": "Other", "targets": []}`,
		"another phase": strings.Replace(string(data), "MOVED", "RUNNING", 1),
		"another field": strings.Replace(string(data), `"port"`, `"ports"`, 1),
		"twice":         strings.Replace(string(data), `"c"`, `"b"`, 1),
		"not JSON":      "phases:",
	} {
		if _, err := Decode([]byte(foreign)); err == nil {
			t.Errorf("took %s", name)
		}
	}
}

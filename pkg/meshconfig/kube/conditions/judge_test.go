package conditions

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

func key(kind, name string) model.Key { return model.Key{Kind: kind, Namespace: "shop", Name: name} }

func problem(code string, severity meshconfig.Severity, message string) meshconfig.Problem {
	return meshconfig.Problem{Code: code, Severity: severity, On: key("Policy", "a"), Field: "spec", Message: message}
}

// TestWanted: what each fact makes of the three conditions.
func TestWanted(t *testing.T) {
	warn, fail := meshconfig.Warning, meshconfig.Error
	mine, other := []model.Key{key("Policy", "a")}, []model.Key{key("Policy", "b")}
	for _, c := range []struct {
		name  string
		facts Facts
		acked bool
		want  string
	}{
		{"new", Facts{Proxies: 3, Current: 2}, false, "Accepted True Accepted | Conflicted False NoConflict | Programmed False Pending acknowledged by 2 of 3 proxies"},
		{"everywhere", Facts{Proxies: 3, Current: 2}, true, "Accepted True Accepted | Conflicted False NoConflict | Programmed True Programmed acknowledged by 2 of 3 proxies"},
		{"no proxy", Facts{}, false, "Accepted True Accepted | Conflicted False NoConflict | Programmed Unknown NoProxies no proxy is connected"},
		{"invalid", Facts{Proxies: 3, Current: 3, Problems: []meshconfig.Problem{problem("INVALID", fail, "wrong"), problem("FAIL_CLOSED", fail, "STRICT stands in")}}, true,
			"Accepted False Invalid spec: wrong; spec: STRICT stands in | Conflicted False NoConflict | Programmed False NotAccepted this version is not accepted, so no proxy gets it"},
		{"remark", Facts{Proxies: 1, Problems: []meshconfig.Problem{problem("NO_SERVICE", warn, "no service")}}, true,
			"Accepted True Accepted spec: no service | Conflicted False NoConflict | Programmed True Programmed acknowledged by 0 of 1 proxies"},
		{"conflict", Facts{Proxies: 1, Problems: []meshconfig.Problem{problem("HIDDEN_TLS", warn, "behind b")}}, true,
			"Accepted True Accepted | Conflicted True HiddenTls spec: behind b | Programmed True Programmed acknowledged by 0 of 1 proxies"},
		{"refused", Facts{Proxies: 5, Current: 1, Refusals: []Refusal{{"q", "no", mine}, {"p", "never", mine}, {"r", "no", mine}, {"s", "no", mine}}}, true,
			"Accepted True Accepted | Conflicted False NoConflict | Programmed False Refused acknowledged by 1 of 5 proxies; refused by proxy p: never; refused by proxy q: no; refused by proxy r: no; and by 1 more"},
		{"another is refused", Facts{Proxies: 2, Current: 1, Refusals: []Refusal{{"p", "no", other}}}, false,
			"Accepted True Accepted | Conflicted False NoConflict | Programmed False Pending acknowledged by 1 of 2 proxies; something else is refused by proxy p: no"},
	} {
		o := &object{generation: 7, programmed: c.acked}
		var got []string
		for _, d := range New(Options{}).wanted(o, mine[0], byObject(c.facts)[mine[0]], c.facts) {
			got = append(got, strings.TrimSpace(d.kind+" "+d.status+" "+d.reason+" "+d.text()))
			if d.generation != 7 {
				t.Errorf("%s: generation %d", c.name, d.generation)
			}
		}
		if got := strings.Join(got, " | "); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
}

// TestDue: an edit is written once, counts of proxies seldom, and what is
// there not at all.
func TestDue(t *testing.T) {
	now := time.Now()
	w := New(Options{})
	facts := func(proxies, current int) Facts { return Facts{Proxies: proxies, Current: current} }
	wanted := func(o *object, f Facts) []condition { return w.wanted(o, key("Policy", "a"), about{}, f) }
	pending, done := &object{generation: 1}, &object{generation: 1, programmed: true}
	for _, c := range []struct {
		name  string
		o     object
		facts Facts
		after time.Duration // since the edit, and since the last write
		want  bool
	}{
		{"not yet acknowledged", object{since: now}, facts(2, 1), time.Second, false},
		{"for long", object{since: now}, facts(2, 1), graceTime, true},
		{"acknowledged", object{since: now, programmed: true}, facts(2, 2), time.Second, true},
		{"written so", object{since: now, at: now, generation: 1, programmed: true, written: wanted(done, facts(2, 2))}, facts(2, 2), time.Minute, false},
		{"more proxies came", object{since: now, at: now, generation: 1, programmed: true, written: wanted(done, facts(2, 2))}, facts(9, 3), time.Minute, false},
		{"a count moved", object{since: now, at: now, generation: 1, written: wanted(pending, facts(9, 2))}, facts(9, 3), countTime - 1, false},
		{"long enough ago", object{since: now, at: now, generation: 1, written: wanted(pending, facts(9, 2))}, facts(9, 3), countTime, true},
		{"once in a while", object{since: now, at: now, generation: 1, programmed: true, written: wanted(done, facts(2, 2))}, facts(2, 2), againTime, true},
		{"after an attempt that failed", object{since: now, next: now.Add(time.Hour), programmed: true}, facts(2, 2), time.Minute, false},
	} {
		if got := c.o.due(wanted(&c.o, c.facts), now.Add(c.after)); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestMerged: conditions of others, and times of what does not change, stay.
func TestMerged(t *testing.T) {
	old := func(message string) map[string]any {
		return map[string]any{"type": Programmed, "status": "True", "reason": "Programmed", "message": message, "observedGeneration": int64(1), "lastTransitionTime": "2026-01-02T03:04:05Z"}
	}
	found := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"conditions": []any{
		map[string]any{"type": "Reconciled", "mine": "yes"}, old("acknowledged by 2 of 2 proxies"),
	}}}}
	is := condition{kind: Programmed, status: yes, reason: reasonProgrammed, count: "acknowledged by 7 of 9 proxies", generation: 1}
	if _, changed, err := merged(found, []condition{is}, time.Now()); changed || err != nil {
		t.Errorf("a count of proxies is written: %v", err)
	}
	is.generation = 2
	next, changed, err := merged(found, []condition{is}, time.Now())
	if !changed || err != nil || len(next) != 2 {
		t.Fatalf("%v, %v, %v", next, changed, err)
	}
	if theirs := next[0].(map[string]any); theirs["mine"] != "yes" || len(theirs) != 2 {
		t.Errorf("another's is %v", theirs)
	}
	if ours := next[1].(map[string]any); ours["message"] != is.count || ours["lastTransitionTime"] != "2026-01-02T03:04:05Z" || ours["observedGeneration"] != int64(2) {
		t.Errorf("ours is %v", ours)
	}
	is.status = no
	if next, _, _ = merged(found, []condition{is}, time.Now()); next[1].(map[string]any)["lastTransitionTime"] == "2026-01-02T03:04:05Z" {
		t.Error("the time of another status stays")
	}
	broken := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"conditions": "none"}}}
	if next, changed, err := merged(broken, []condition{is}, time.Now()); len(next) != 1 || !changed || err != nil {
		t.Errorf("no list: %v, %v, %v", next, changed, err)
	}
}

// TestAdopt: a leader takes over what the one before has seen.
func TestAdopt(t *testing.T) {
	found := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"conditions": []any{
		map[string]any{"type": Programmed, "status": "True", "reason": "Programmed", "message": "m", "observedGeneration": int64(1), "lastTransitionTime": "2026-01-02T03:04:05Z"},
	}}}}
	f := Facts{Proxies: 2, Current: 1}
	for generation, want := range map[int64]bool{1: true, 2: false} {
		o := &object{generation: generation}
		wanted := New(Options{}).wanted(o, key("Policy", "a"), about{}, f)
		if o.adopt(found, wanted); o.programmed != want || (wanted[programmed].status == yes) != want {
			t.Errorf("generation %d: %v", generation, wanted[programmed])
		}
	}
}

package main

import (
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/plan"
	"github.com/meshpilot/pilot/pkg/readiness"
)

var update = flag.Bool("update", false, "rewrite testdata/plan")

// wantText is the text of testdata/plan/<name>.txt, in which DIR stands for dir.
func wantText(t *testing.T, name, dir, got string) string {
	t.Helper()
	file := "testdata/plan/" + name + ".txt"
	if *update {
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(got, dir, "DIR")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "DIR", dir)
}

func TestPlan(t *testing.T) {
	policy := edited(t, map[string]string{"policy.yaml": strictCart})
	immediate := edited(t, map[string]string{"mesh.yaml": "authPolicy: MUTUAL_TLS\nmtlsRollout: {mode: IMMEDIATE}\n"})
	for _, c := range []struct {
		name, from, to string
		args           []string
		code           int
	}{
		{"policy", shop, policy, nil, exitFindings},
		{"policy-verbose", shop, policy, []string{"-v"}, exitFindings},
		{"off", mutual(t), shop, nil, exitOK},
		{"immediate", shop, immediate, nil, exitFindings},
		{"nothing", shop, edited(t, nil), nil, exitOK},
	} {
		code, stdout, stderr := run(t, append([]string{"plan", "--from", c.from, c.to}, c.args...)...)
		if want := wantText(t, c.name, c.to, stdout); code != c.code || stderr != "" || stdout != want {
			t.Errorf("%s: exit %d, stderr %q\n%s\nwant exit %d\n%s", c.name, code, stderr, stdout, c.code, want)
		}
	}
	var p plan.Plan
	if _, stdout, _ := run(t, "plan", "-o", "json", "--from", shop, policy); json.Unmarshal([]byte(stdout), &p) != nil ||
		len(p.Targets) != 1 || len(p.Steps) != 4 || len(p.Breaks) != 1 || p.Breaks[0].Step != 3 {
		t.Errorf("%+v", p)
	}
}

func TestPlanTrouble(t *testing.T) {
	for _, c := range []struct {
		args string
		want string
	}{
		{"--from testdata/none " + shop, "no such file"},
		{"--from " + shop + " " + broken(t), "has 2 errors"},
		{"--from " + broken(t) + " " + shop, "has 2 errors"},
		{"--server nowhere " + shop, `"nowhere" is no URL`},
		{"--server http://127.0.0.1:1 --from " + shop + " " + shop, "[from server]"},
	} {
		if code, stdout, stderr := run(t, append([]string{"plan"}, strings.Fields(c.args)...)...); code != exitTrouble || stdout != "" || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: exit %d, %s%s", c.args, code, stdout, stderr)
		}
	}
}

// Against a running mesh, a caller without a sidecar breaks if it was seen.
func TestPlanAgainstServer(t *testing.T) {
	policy := edited(t, map[string]string{"policy.yaml": strictCart})
	at := time.Now().Add(-2 * time.Hour)
	for _, c := range []struct {
		name string
		fact func(*model.Wanted, *readiness.Facts)
		code int
		want []string
		not  string
	}{
		{"nobody was seen", func(*model.Wanted, *readiness.Facts) {}, exitOK, []string{
			"  shop/cart:8080\n    DISABLE, set by mesh config authPolicy -> STRICT, set by Policy shop/cart (" + policy + "/policy.yaml:2)\n",
			"\nnobody would break\n",
		}, "Calls that work now"},
		{"batch was seen", func(w *model.Wanted, f *readiness.Facts) {
			f.Peers = []readiness.Peer{{Name: "shop/batch", Known: true, Address: "10.1.0.3", Port: 8080, Count: 12, First: at, Last: at}}
		}, exitFindings, []string{
			"Seen in plaintext, and would be refused\n  shop/cart:8080: shop/batch at 10.1.0.3 to port 8080, 12 times, last " + at.UTC().Format(time.DateTime) + ": has no sidecar\nsomebody would break\n",
		}, "Not known"},
		{"nothing is told", func(w *model.Wanted, f *readiness.Facts) { f.Servers[0].Logs = time.Time{} }, exitUnknown, []string{
			"Not known\n  shop/cart:8080: shop/cart tells nothing of its traffic, so plaintext would not be seen\nnobody is known who would break, but not all is known\n",
		}, "Calls that work now"},
	} {
		server := phased(t, shop, c.fact)
		code, stdout, stderr := run(t, "plan", "--server", server, policy)
		for _, want := range c.want {
			if code != c.code || stderr != "" || !strings.Contains(stdout, want) || strings.Contains(stdout, c.not) {
				t.Errorf("%s: exit %d, stderr %q, no %q, or %q, in\n%s", c.name, code, stderr, want, c.not, stdout)
			}
		}
	}
}

// What a control plane shows of its inputs builds the same mesh.
func TestInputsTravel(t *testing.T) {
	for _, dir := range []string{shop, "../../examples/bookinfo"} {
		d, err := (&directoryFlags{domain: defaultDomain}).read(dir)
		if err != nil {
			t.Fatal(err)
		}
		d.inputs.Phases = map[model.Target]model.Phase{}
		for _, w := range model.Build(d.inputs).Targets() {
			d.inputs.Phases[w.Target] = model.PhaseOpened
		}
		server := phasedInputs(t, d)
		var running status.Inputs
		if err := getPage(t.Context(), server, "/debug/inputs", nil, &running); err != nil {
			t.Fatal(err)
		}
		want, got := newConfigs(model.Build(d.inputs)), newConfigs(model.Build(running.Model()))
		for _, id := range d.sidecars() {
			a, _ := want.text(id)
			b, _ := got.text(id)
			if len(a) == 0 || string(a) != string(b) {
				t.Errorf("%s: the configuration of %s differs", dir, id)
			}
		}
	}
}

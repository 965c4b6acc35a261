package main

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/readiness"
)

// phasedInputs is a control plane that has the directory in the phases of its
// inputs.
func phasedInputs(t *testing.T, d *directory) string {
	pages := status.Pages{State: func(context.Context) (status.State, error) {
		return status.State{Snapshot: model.Build(d.inputs), Bundle: &d.bundle, Inputs: d.inputs}, nil
	}}
	server := httptest.NewServer(pages.Handler())
	t.Cleanup(server.Close)
	return server.URL
}

// phased is a control plane that has the directory and is told the facts of
// its targets by fact.
func phased(t *testing.T, dir string, fact func(*model.Wanted, *readiness.Facts)) string {
	t.Helper()
	d, err := (&directoryFlags{domain: defaultDomain}).read(dir)
	if err != nil {
		t.Fatal(err)
	}
	d.inputs.Phases = map[model.Target]model.Phase{}
	s := model.Build(d.inputs)
	targets := s.Targets()
	var rollouts []status.Rollout
	for i := range targets {
		rollouts = append(rollouts, status.Rollout{Wanted: &targets[i], Settled: true})
	}
	pages := status.Pages{
		State: func(context.Context) (status.State, error) {
			return status.State{Snapshot: s, Bundle: &d.bundle, Inputs: d.inputs, Rollouts: rollouts}, nil
		},
		Readiness: func(_ status.State, of []status.Rollout) []readiness.Facts {
			var out []readiness.Facts
			for _, r := range of {
				w := r.Wanted
				f := readiness.Facts{Target: w.Target, Mode: w.Decision.Mode, Phase: w.Decision.Phase}
				for _, id := range w.Workloads {
					f.Servers = append(f.Servers, readiness.Server{Workload: id, Logs: time.Now().Add(-5 * time.Hour)})
				}
				fact(w, &f)
				out = append(out, f)
			}
			return out
		},
	}
	server := httptest.NewServer(pages.Handler())
	t.Cleanup(server.Close)
	return server.URL
}

func TestReadiness(t *testing.T) {
	at := time.Now().Add(-2 * time.Hour)
	server := phased(t, shop, func(w *model.Wanted, f *readiness.Facts) {
		switch {
		case w.Group == "cart" && w.Port == 8080:
			f.Peers = []readiness.Peer{{Name: "shop/batch", Known: true, Address: "10.1.0.3", Port: 8080, Count: 12, First: at, Last: at}}
			f.Others = []readiness.Obstacle{{Who: "shop/batch", Why: "is an endpoint without a sidecar, so it takes plaintext whatever the mode", Effect: readiness.Remark}}
		case w.Group == "front":
			f.Servers[0].Logs = time.Time{}
		}
	})
	clock := func(t time.Time) string { return t.UTC().Format(time.DateTime) }
	cart := "NOT READY  shop/cart:8080 (cart.shop.svc.cluster.local:80): NONE now, set by mesh config authPolicy\n" +
		"  evidence without a gap since " + clock(at.Add(-3*time.Hour)) + "\n" +
		"  breaks  shop/batch at 10.1.0.3 to port 8080, 12 times, first " + clock(at) + ", last " + clock(at) + ": has no sidecar\n" +
		"  remark  shop/batch is an endpoint without a sidecar, so it takes plaintext whatever the mode\n"
	lines := strings.SplitAfter(cart, "\n")
	front := "UNKNOWN  shop/front:other ports: NONE now, set by mesh config authPolicy\n" +
		"  unknown shop/front tells nothing of its traffic, so plaintext would not be seen\n"
	other := "READY  shop/cart:other ports: NONE now, set by mesh config authPolicy\n" +
		"  evidence without a gap since " + clock(at.Add(-3*time.Hour)) + "\n"
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"", exitFindings, cart + front + other + "1 ready, 1 not ready, 1 unknown\n"},
		{"shop/front", exitUnknown, front + "0 ready, 0 not ready, 1 unknown\n"},
		{"cart.shop:80", exitFindings, cart + "0 ready, 1 not ready, 0 unknown\n"},
		{"shop/cart:0", exitOK, other + "1 ready, 0 not ready, 0 unknown\n"},
		{"shop/cart:8080 --within 1h", exitOK, lines[0][len("NOT "):] + lines[1] + lines[3] + "1 ready, 0 not ready, 0 unknown\n"},
		{"-n store", exitOK, "0 ready, 0 not ready, 0 unknown\n"},
	} {
		code, stdout, stderr := run(t, append([]string{"readiness", "--server", server}, strings.Fields(c.args)...)...)
		if code != c.code || stdout != c.want || stderr != "" {
			t.Errorf("%q: exit %d, stderr %q\n%s\nwant exit %d\n%s", c.args, code, stderr, stdout, c.code, c.want)
		}
	}
	var answer readiness.Answer
	if _, stdout, _ := run(t, "readiness", "--server", server, "-o", "json"); json.Unmarshal([]byte(stdout), &answer) != nil || len(answer.Targets) != 3 || answer.Targets[0].Peers[0].Count != 12 {
		t.Errorf("%+v", answer)
	}
}

func TestReadinessTrouble(t *testing.T) {
	strict := phased(t, mutual(t), func(*model.Wanted, *readiness.Facts) {})
	if code, stdout, stderr := run(t, "readiness", "--server", strict); code != exitOK || stderr != "" || stdout != "0 ready, 0 not ready, 0 unknown; 3 more are strict already\n" {
		t.Errorf("exit %d, %s%s", code, stdout, stderr)
	}
	for args, want := range map[string]string{
		"shop/cat":             `nothing that has phases is called "shop/cat"`,
		"cart.shop:8080":       `nothing that has phases is called "cart.shop:8080"`,
		"--evidence long":      "evidence is a duration",
		"--server nowhere":     `"nowhere" is no URL`,
		"shop/cart shop/front": "accepts at most 1 arg",
	} {
		if code, stdout, stderr := run(t, append([]string{"readiness", "--server", strict}, strings.Fields(args)...)...); code != exitTrouble || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d, %s%s", args, code, stdout, stderr)
		}
	}
}

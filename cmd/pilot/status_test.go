package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

// served is a control plane that shows a state, which a test may change.
func served(t *testing.T, state *atomic.Pointer[status.State]) string {
	t.Helper()
	pages := status.Pages{State: func(context.Context) (status.State, error) { return *state.Load(), nil }}
	server := httptest.NewServer(pages.Handler())
	t.Cleanup(server.Close)
	return server.URL
}

// busy is testdata/shop in the middle of an edit: one target held, one under
// way, one proxy that refused and one that is not connected.
func busy(t *testing.T) *atomic.Pointer[status.State] {
	t.Helper()
	d, err := (&directoryFlags{domain: defaultDomain}).read(shop)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	target := func(group string, phase model.Phase, held bool, waits ...rollout.Blocker) status.Rollout {
		return status.Rollout{
			Wanted: &model.Wanted{
				Target:   model.Target{Namespace: "shop", Group: group, Port: 8080},
				Decision: model.Decision{Mode: model.Strict, Phase: phase, Source: model.Key{Kind: "Policy", Namespace: "shop", Name: "strict"}},
				Rollout:  model.Rollout{Deadline: 10 * time.Minute},
			},
			Since: now.Add(-20 * time.Second), Held: held, Settled: phase == model.PhaseStrict, Waits: waits,
		}
	}
	var many []rollout.Blocker
	for _, ip := range []string{"1", "2", "3", "4", "5", "6", "7"} {
		many = append(many, rollout.Blocker{Who: "10.0.0." + ip, What: "sends plaintext", Detail: ip + " times, the last at 11:59:58"})
	}
	var out atomic.Pointer[status.State]
	out.Store(&status.State{
		Now: now, Snapshot: d.snapshot, Bundle: &d.bundle, Inputs: d.inputs,
		Edits: []status.Edit{
			{At: now.Add(-time.Hour), Applied: now.Add(-time.Hour), Revision: "0000000001", Change: "first", Generation: 1},
			{At: now.Add(-14 * time.Second), Applied: now.Add(-13 * time.Second), Revision: d.inputs.Revision().String(), Change: "policy", Generation: 2},
		},
		Rollouts: []status.Rollout{
			target("cart", model.PhaseOpened, false, rollout.Blocker{Who: "shop/front", What: "did not acknowledge its clusters yet"}),
			target("front", model.PhaseMoved, true, many...), target("stock", model.PhaseStrict, false),
		},
		Proxies: []status.Proxy{
			{Node: "a", Workload: "shop/cart", Known: true, Certificates: true, Reached: 3},
			{Node: "b", Workload: "shop/old", Known: true, Reached: 1, Behind: &status.Lag{
				Type: "LDS", Why: "refuses its listeners: no such thing", Refused: true, Since: now.Add(-12 * time.Second)}},
		},
		Findings: []status.Finding{{Problem: meshconfig.Problem{Severity: meshconfig.Warning}}},
	})
	return &out
}

func TestStatus(t *testing.T) {
	state := busy(t)
	server := served(t, state)
	revision := state.Load().Edits[1].Revision
	want := `revision  ` + revision + ` (policy), applied 13s ago: not acknowledged by all of 2 proxies yet
targets   2 PERMISSIVE, 1 STRICT; 2 under way, 1 held
proxies   2 connected: 1 up to date, 1 behind (1 refuse something), 1 without certificates, 1 sidecars not connected
problems  0 errors, 1 warning, 0 infos

HELD shop/front:8080  PERMISSIVE -> STRICT, set by Policy shop/strict, for 20s
  waits: 10.0.0.1 sends plaintext (1 times, the last at 11:59:58)
  waits: 10.0.0.2 sends plaintext (2 times, the last at 11:59:58)
  waits: 10.0.0.3 sends plaintext (3 times, the last at 11:59:58)
  waits: 10.0.0.4 sends plaintext (4 times, the last at 11:59:58)
  waits: 10.0.0.5 sends plaintext (5 times, the last at 11:59:58)
  and 2 more
shop/cart:8080  PERMISSIVE -> STRICT, set by Policy shop/strict, for 20s, deadline in 9m40s
  waits: shop/front did not acknowledge its clusters yet

proxies behind:
  shop/old  LDS  since 11:59:48 (12s)  refuses its listeners: no such thing

sidecars that are not connected:
  shop/front
`
	if code, stdout, stderr := run(t, "status", "--server", server); code != exitOK || stdout != want {
		t.Errorf("exit %d, stderr %q\n%s\nwant\n%s", code, stderr, stdout, want)
	}
	var o status.Overview
	if _, stdout, _ := run(t, "status", "--server", server, "-n", "pay", "-o", "json"); json.Unmarshal([]byte(stdout), &o) != nil ||
		len(o.Behind) != 0 || len(o.Newest.UnderWay) != 0 || o.Proxies.Connected != 0 || o.Newest.Revision != revision || o.Newest.Acknowledged {
		t.Errorf("of another namespace: %s", stdout)
	}
	if code, _, stderr := run(t, "status", "--server", "nowhere"); code != exitTrouble || !strings.Contains(stderr, "is no URL") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

// --watch prints again what changed, and not what only grew older.
func TestStatusWatch(t *testing.T) {
	state := busy(t)
	asked, ctx := 0, context.Background()
	ctx, stop := context.WithCancel(ctx)
	ask := func() (status.Overview, error) {
		asked++
		s := *state.Load()
		s.Now = s.Now.Add(time.Duration(asked) * time.Second)
		if asked == 3 {
			s.Proxies = s.Proxies[:1]
		}
		if asked > 3 {
			stop()
		}
		return s.Overview(""), nil
	}
	var out bytes.Buffer
	if err := watchStatus(ctx, &out, ask, formatText, time.Nanosecond); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "revision  "); n != 2 || !strings.Contains(out.String(), "\n\nrevision  ") {
		t.Errorf("printed %d times\n%s", n, out.String())
	}
}

func TestWait(t *testing.T) {
	state := busy(t)
	server := served(t, state)
	revision := state.Load().Edits[1].Revision
	wait := func(args ...string) (int, string) {
		t.Helper()
		code, stdout, stderr := run(t, append([]string{"wait", "--server", server, "--timeout", "1ms"}, args...)...)
		if stderr != "" {
			t.Errorf("%v: %s", args, stderr)
		}
		return code, stdout
	}
	check := func(wantCode int, want string, args ...string) {
		t.Helper()
		if code, stdout := wait(args...); code != wantCode || stdout != want {
			t.Errorf("%v: exit %d\n%s\nwant %d\n%s", args, code, stdout, wantCode, want)
		}
	}
	late := "revision " + revision + ": 1 of 2 proxies did not acknowledge it within 1ms\n" +
		"  shop/old  LDS  since 11:59:48  refuses its listeners: no such thing\n"
	check(exitFindings, late)
	check(exitFindings, late, shop)
	check(exitFindings, "revision cafe was not applied within 1ms; "+revision+" is in force\n", "--revision", "cafe")
	check(exitOK, "revision 0000000001: acknowledged by 2 proxies; 2 targets are under way\n  meanwhile "+revision+" is in force\n", "--revision", "0000000001")

	done := *state.Load()
	done.Proxies = done.Proxies[:1]
	state.Store(&done)
	check(exitOK, "revision "+revision+": acknowledged by 1 proxy; 2 targets are under way\n")
	if code, stdout := wait("--settled"); code != exitFindings || !strings.Contains(stdout, "but 2 targets are not settled within 1ms\nHELD shop/front:8080") {
		t.Errorf("--settled: exit %d\n%s", code, stdout)
	}
	settled := done
	settled.Rollouts = settled.Rollouts[2:]
	state.Store(&settled)
	check(exitOK, "revision "+revision+": acknowledged by 1 proxy, and all changes of modes are settled\n", "--settled")
	var r status.Revision
	if code, stdout := wait("-o", "json"); code != exitOK || json.Unmarshal([]byte(stdout), &r) != nil || r.Revision != revision {
		t.Errorf("exit %d, %s", code, stdout)
	}
}

// A wait ends when the last laggard follows.
func TestWaitEnds(t *testing.T) {
	state := busy(t)
	asked := atomic.Int32{}
	pages := status.Pages{State: func(context.Context) (status.State, error) {
		s := *state.Load()
		if asked.Add(1) > 1 {
			s.Proxies = s.Proxies[:1]
		}
		return s, nil
	}}
	server := httptest.NewServer(pages.Handler())
	defer server.Close()
	if code, stdout, stderr := run(t, "wait", "--server", server.URL); code != exitOK || asked.Load() != 2 {
		t.Errorf("exit %d after %d looks, %s%s", code, asked.Load(), stdout, stderr)
	}
}

// The revision of a directory is the one that a control plane has of it.
func TestWaitForDirectory(t *testing.T) {
	ports := serving(t, t.TempDir())
	server := "http://" + portOf(t, ports, "http")
	code, stdout, stderr := run(t, "wait", shop, "--server", server, "--timeout", "20s")
	if code != exitOK || !strings.Contains(stdout, "acknowledged by 0 proxies") {
		t.Errorf("exit %d, %s%s", code, stdout, stderr)
	}
}

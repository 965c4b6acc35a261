package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/lab"
	"github.com/meshpilot/pilot/pkg/model"
)

const shop = "../../../test/e2e/testdata/drill"

func workspaceOf(t *testing.T, from string) *workspace {
	t.Helper()
	w, err := newWorkspace(from, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// The same seed draws the same, every edit can be read, and the modes do move.
func TestPlan(t *testing.T) {
	draw := func(seed uint64) (texts []string, modes map[string]bool) {
		w := workspaceOf(t, shop)
		b, err := w.bundle()
		if err != nil {
			t.Fatal(err)
		}
		modes = map[string]bool{}
		for p := newPlanner(b, seed, Faults()); len(texts) < 60; {
			s := p.step()
			texts = append(texts, fmt.Sprint(s.change, s.mind, s.after, s.faults))
			if err := w.apply(s.change); err != nil {
				t.Fatal(err)
			}
			want, err := w.wanted(nil)
			if err != nil || len(want) == 0 {
				t.Fatalf("%s: %v, %v", s.change, want, err)
			}
			modes[fmt.Sprint(want)] = true
		}
		return texts, modes
	}
	a, modes := draw(1)
	if again, _ := draw(1); strings.Join(a, "\n") != strings.Join(again, "\n") {
		t.Error("the same seed draws something else")
	}
	if other, _ := draw(2); strings.Join(a, "\n") == strings.Join(other, "\n") {
		t.Error("another seed draws the same")
	}
	if len(modes) < 10 {
		t.Errorf("only %d different states of the mesh in 60 edits", len(modes))
	}
}

// The user's directory stays as it is, and its mode of rollouts counts.
func TestWorkspace(t *testing.T) {
	dir := t.TempDir()
	mesh := filepath.Join(dir, meshFile)
	const text = "authPolicy: MUTUAL_TLS\nmtlsRollout: {mode: IMMEDIATE, quietPeriod: 1h}\n"
	if err := os.WriteFile(mesh, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w := workspaceOf(t, dir)
	if !w.immediate() {
		t.Error("the mode of rollouts is lost")
	}
	if err := w.apply(change{slot: &slot{name: meshSlot}, value: "NONE"}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(mesh); err != nil || string(got) != text {
		t.Errorf("the user's file is %q, %v", got, err)
	}
	got, err := os.ReadFile(filepath.Join(w.dir, meshFile))
	if err != nil || !strings.Contains(string(got), "authPolicy: NONE") || !strings.Contains(string(got), "quietPeriod: 1s") {
		t.Errorf("the copy is %q, %v", got, err)
	}
}

func failedCall(caller, callee model.WorkloadID, begin, end time.Time, err error) lab.Call {
	return lab.Call{
		Caller: caller, Sidecar: true, Host: "cart", Port: 80, Endpoints: []lab.Endpoint{{Workload: callee, Port: 8080}},
		Kind: lab.SlowRequest, Begin: begin, End: end, Err: err,
	}
}

// A failed call is lost unless one of its Envoys was away; what never worked
// and who has no sidecar are left out.
func TestJournal(t *testing.T) {
	web, cart := model.WorkloadID{Namespace: "shop", Name: "web"}, model.WorkloadID{Namespace: "shop", Name: "cart"}
	j := newJournal(func(string, ...any) {})
	j.phases = func(lab.Endpoint) string { return "GRACE" }
	failed := func(begin, end time.Time) lab.Call { return failedCall(web, cart, begin, end, io.EOF) }
	now := time.Now()
	never := failed(now, now)
	never.Host = "broken"
	j.call(never)
	if got := j.begin(); len(got) != 1 {
		t.Errorf("left out: %v", got)
	}
	j.call(never)
	gone, live := j.outage(cart, false)
	gone()
	now = time.Now()
	live()
	j.note("an edit")
	j.call(failed(now, now.Add(time.Millisecond)))               // in the restart
	j.call(failed(now.Add(time.Minute), now.Add(2*time.Minute))) // long after it
	other := failed(now, now)
	other.Caller, other.Endpoints = model.WorkloadID{Name: "x"}, nil
	j.call(other) // elsewhere
	stranger := failed(now, now)
	stranger.Sidecar = false
	j.call(stranger)
	j.judge()
	if got := *j.counts[lab.SlowRequest]; got != (Count{Calls: 3, Lost: 2, Explained: 1}) {
		t.Errorf("%+v", got)
	}
	if o := j.outages[0]; j.strangers.Lost != 1 || len(j.losses) != 2 || o.Explained[ruleCallee] != 1 || o.Pairs["shop/web -> cart:80 (slow request)"] != 1 {
		t.Errorf("%+v, %v, %+v", j.strangers, j.losses, o)
	}
	if got := j.losses[0].String(); !strings.Contains(got, "shop/web -> cart:80") || !strings.Contains(got, "GRACE") || !strings.Contains(got, "an edit") {
		t.Errorf("the loss does not tell pair, phase and what was done: %s", got)
	}
}

// An outage explains calls of its Envoy only, in its time only, and only what
// fails for want of a process.
func TestOutageExplains(t *testing.T) {
	web, cart, stock := model.WorkloadID{Name: "web"}, model.WorkloadID{Name: "cart"}, model.WorkloadID{Name: "stock"}
	start := time.Unix(1_000_000, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	refused := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	upstream := errors.New("status 503: upstream connect error or disconnect/reset before headers. reset reason: remote connection failure")
	open := &Outage{id: cart, Begin: at(0)}
	over := &Outage{id: cart, Begin: at(0), Gone: at(100), Live: at(3000)}
	for _, c := range []struct {
		what           string
		outage         *Outage
		caller, callee model.WorkloadID
		begin, end     int
		err            error
		want           string
	}{
		{"own Envoy away", over, cart, web, 200, 201, refused, ruleCaller},
		{"own Envoy away still", open, cart, web, 200, 201, refused, ruleCaller},
		{"callee away", over, web, cart, 200, 201, upstream, ruleCallee},
		{"callee away, waits for it", over, web, cart, 2900, 3900, upstream, ruleCallee},
		{"under way", over, web, cart, -1900, 110, io.ErrUnexpectedEOF, ruleUnderWay},
		{"under way, while it stops", open, web, cart, -1900, 110, io.EOF, ruleUnderWay},
		{"under way, noticed late", over, web, cart, -1900, 2000, io.EOF, ruleUnderWay},
		{"under way, but it failed after all was well", over, web, cart, -1900, 4001, io.EOF, ""},
		{"a stream reset", over, web, cart, 200, 300, errors.New("stream error: stream ID 1; INTERNAL_ERROR; received from peer"), ruleCallee},
		{"over before", over, web, cart, -1900, -1, io.EOF, ""},
		{"after it was live", over, web, cart, 3001, 3002, upstream, ""},
		{"begun in time, failed too late", over, web, cart, 2900, 4001, upstream, ""},
		{"another pair", over, web, stock, 200, 201, upstream, ""},
		{"a stream without connection", over, web, cart, -100, 300, fmt.Errorf("the stream ended: %w", errors.New("http2: client conn is closed")), ruleUnderWay},
		{"refused for plaintext", over, web, cart, 200, 201, errors.New("status 403: plaintext refused"), ""},
		{"a failed handshake", over, web, cart, 200, 201, errors.New(upstream.Error() + ", transport failure reason: TLS_error:|268435581:SSL routines:"), ""},
		{"no endpoint", over, web, cart, 200, 201, errors.New("status 503: no healthy upstream"), ""},
		{"in vain", over, web, cart, 200, 2900, context.DeadlineExceeded, ""},
		{"somebody else answers", over, web, cart, 200, 201, errors.New("stock answered, which is not behind the service"), ""},
	} {
		call := failedCall(c.caller, c.callee, at(c.begin), at(c.end), c.err)
		if got := c.outage.explains(&call); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

func TestParseFaults(t *testing.T) {
	for text, want := range map[string]string{"all": fmt.Sprint(Faults()[:7]), "none": "[]", "late, pilot": "[late pilot]", "forget": "[forget]"} {
		if got, err := ParseFaults(text); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	if _, err := ParseFaults("late,flood"); err == nil {
		t.Error("takes an unknown fault")
	}
}

package lab

import (
	"bytes"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/lab/app"
	"github.com/meshpilot/pilot/pkg/lab/envoy"
	"github.com/meshpilot/pilot/pkg/lab/rotation"
	"github.com/meshpilot/pilot/pkg/model"
)

func testPair(p model.Protocol) *pair {
	return &pair{
		caller: model.WorkloadID{Namespace: "shop", Name: "web"}, sidecar: true, leaves: func() *rotation.Leaves { return nil },
		target: target{host: "cart.shop.svc.cluster.local", port: 80, protocol: p},
	}
}

func TestRowCountsCalls(t *testing.T) {
	p := testPair(model.HTTP)
	now := time.Now()
	for range 30 {
		p.record(outcome{at: now.Add(-time.Minute)}, nil)
	}
	reset := &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	p.record(outcome{at: now.Add(-30 * time.Second), failed: true}, reset)
	p.record(outcome{at: now.Add(-29 * time.Second), failed: true}, errors.New("a later error"))
	for range 8 {
		p.record(outcome{at: now, mesh: true}, nil)
	}
	r := p.row()
	if r.Requests != 40 || r.Failed != 2 || r.FirstError != "read: connection reset by peer" {
		t.Errorf("row %+v", r)
	}
	if r.Now != 1 || r.FailedNow != 0 || r.latest != 8 {
		t.Errorf("now %v, %d of %d failed; want only the latest calls", r.Now, r.FailedNow, r.latest)
	}
	if want := 8.0 / 38; r.MTLS != want {
		t.Errorf("share %v, want %v of the answered calls", r.MTLS, want)
	}
}

// Without fresh calls the latest one still says how things are.
func TestRowOfASlowPair(t *testing.T) {
	p := testPair(model.HTTP)
	p.record(outcome{at: time.Now().Add(-time.Minute)}, nil)
	p.record(outcome{at: time.Now().Add(-10 * time.Second), failed: true}, errors.New("timeout"))
	if r := p.row(); r.FailedNow != 1 || r.latest != 1 {
		t.Errorf("row %+v", r)
	}
}

func TestWrongAnswersFail(t *testing.T) {
	p := testPair(model.HTTP)
	p.uri = "spiffe://cluster.local/ns/shop/sa/web"
	p.target.endpoints = []endpoint{{workload: model.WorkloadID{Namespace: "shop", Name: "cart-1"}}}
	for answer, ok := range map[app.Echo]bool{
		{Name: "cart-1"}:              true,
		{Name: "cart-1", Peer: p.uri}: true,
		{Name: "cart-1", Peer: "spiffe://cluster.local/ns/shop/sa/other"}: false,
		{Name: "other"}: false,
	} {
		if err := p.check(answer); (err == nil) != ok {
			t.Errorf("%+v: %v", answer, err)
		}
	}
}

func TestConnectionShares(t *testing.T) {
	p := testPair(model.TCP)
	for _, step := range []struct {
		all, tls uint64
		now, sum float64
	}{
		{100, 0, 0, 0}, // what was before counts for nothing
		{110, 0, 0, 0},
		{120, 10, 1, 0.5},
		{120, 10, 1, 0.5}, // nothing new
		{130, 15, 0.5, 0.5},
		{5, 5, 0.5, 0.5}, // Envoy started again
		{15, 15, 1, 25.0 / 40},
	} {
		p.recordConnections(envoy.Connections{All: step.all, TLS: step.tls})
		if r := p.row(); r.Now != step.now || r.MTLS != step.sum {
			t.Errorf("at %d/%d: now %v, share %v; want %v, %v", step.tls, step.all, r.Now, r.MTLS, step.now, step.sum)
		}
	}
}

func TestPlainOutput(t *testing.T) {
	var out bytes.Buffer
	p := newPrinter(&out)
	row := Row{Caller: "shop/web", Sidecar: true, Callee: "cart.shop.svc.cluster.local", Port: 80, Requests: 7, Mode: "DISABLE", way: "DISABLE", Age: -1}
	strict := row
	strict.Now, strict.Mode, strict.way = 1, "STRICT", "GRACE>STRICT"
	strict.PeerLeaf, strict.Leaf, strict.PeerSerial = 2, 3, "9f3c1a7b00"
	refused := row
	refused.Sidecar, refused.FailedNow, refused.latest, refused.lastError, refused.Failed = false, 3, 3, "status 403: no", 3
	for _, rows := range [][]Row{{row, refused}, {row, refused}, {row, refused}, {strict, refused}, {row, refused}, {strict, refused}, {strict, refused}} {
		p.table(rows, []string{"only on a terminal"}, nil)
	}
	p.table(nil, nil, []string{"waits for: somebody"})
	p.close([]Row{strict, refused})
	if strings.Contains(out.String(), "\x1b") {
		t.Errorf("escape sequences: %q", out.String())
	}
	var got []string
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		if fields := strings.Fields(line); strings.Contains(fields[0], ":") {
			fields = fields[1:] // the time
			line = strings.Join(fields, " ")
		}
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"shop/web -> cart.shop:80 plaintext, mode DISABLE",
		"shop/web (no sidecar) -> cart.shop:80 fails, mode DISABLE: status 403: no",
		"shop/web -> cart.shop:80 mTLS, mode STRICT", // once it lasts
		"waits for: somebody",
		"CALLER CALLEE:PORT REQUESTS FAILED MTLS MODE CERT CONFIG AGE",
		"web cart:80 7 0 100 % GRACE>STRICT 2/3 9f3c1a7b -",
		"web (no sidecar) cart:80 7 3 0 % DISABLE - -",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestEditText(t *testing.T) {
	for want, e := range map[string]Edit{
		"all of 5 Envoys acknowledged after 203 ms (20 responses)": {Envoys: 5, LastACKMS: 202.6, Responses: 20, Complete: true},
		"it changes nothing for any Envoy":                         {Complete: true},
		"Envoys refused 5 of 15 updates":                           {Responses: 10, Refused: 5, Complete: true},
		"not all Envoys have answered":                             {Responses: 10},
	} {
		if got := e.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestMergedRows(t *testing.T) {
	row := Row{Caller: "shop/a", Sidecar: true, Callee: "cart.shop.svc.cluster.local", Port: 80, Requests: 10, Failed: 1, Now: 1, Age: time.Minute}
	other := row
	other.Caller, other.Now, other.Age = "front/b", 0, time.Second
	client := row
	client.Caller, client.Sidecar = "shop/client", false
	rows := merged([]Row{row, client, other})
	if len(rows) != 2 || rows[0].Caller != "2 sidecars" || rows[0].Requests != 20 || rows[0].Failed != 2 || rows[0].Now != 0.5 || rows[0].Age != time.Second {
		t.Errorf("rows %+v", rows)
	}
	if rows[1] != client {
		t.Errorf("the client became %+v", rows[1])
	}
	if lines := tableLines([]Row{row, other}); !strings.HasPrefix(lines[1], "shop/a  cart.shop:80 ") {
		t.Errorf("two namespaces, yet %q", lines[1])
	}
}

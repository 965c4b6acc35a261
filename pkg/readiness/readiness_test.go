package readiness

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

func now() time.Time { return time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC) }

func ago(d time.Duration) time.Time { return now().Add(-d) }

func question() Question { return Question{Within: 24 * time.Hour, Evidence: time.Hour} }

// facts are of a target in PERMISSIVE whose clients were moved two hours ago.
func facts(change func(*Facts)) Facts {
	f := Facts{
		Target: model.Target{Namespace: "shop", Group: "cart", Port: 8080}, Mode: model.Permissive, Phase: model.PhaseMoved, Since: ago(2 * time.Hour),
		Servers: []Server{{Workload: model.WorkloadID{Namespace: "shop", Name: "cart-1"}, Logs: ago(3 * time.Hour)}},
	}
	change(&f)
	return f
}

func peer(change func(*Peer)) func(*Facts) {
	return func(f *Facts) {
		p := Peer{Name: "shop/front", Address: "10.0.0.2", Known: true, Sidecar: true, Port: 8080, Count: 3, First: ago(6 * time.Hour), Last: ago(5 * time.Hour)}
		change(&p)
		f.Peers = append(f.Peers, p)
	}
}

type judgeCase struct {
	name    string
	facts   Facts
	verdict Verdict
	says    string // of the first peer or obstacle
}

func judgeCases() []judgeCase {
	none := func(f *Facts) { f.Phase, f.Mode = model.PhaseNone, 0 }
	trouble := func(effect Effect) func(*Facts) {
		return func(f *Facts) { f.Servers[0].Trouble = &Obstacle{"shop/cart-1", "runs Envoy 1.20.0", effect} }
	}
	return []judgeCase{
		{"nobody", facts(func(*Facts) {}), Ready, ""},
		{"no evidence", facts(func(f *Facts) { f.Servers[0].Logs = time.Time{} }), Unclear, "tells nothing of its traffic"},
		{"young evidence", facts(func(f *Facts) { f.Servers[0].Logs = ago(10 * time.Minute) }), Unclear, "since 2026-01-02 11:50:00 only, and 1h is asked for"},
		{"one of two is young", facts(func(f *Facts) { f.Servers = append(f.Servers, Server{Logs: ago(time.Minute)}) }), Unclear, "11:59:00 only"},
		{"an Envoy too old", facts(trouble(Breaks)), NotReady, "runs Envoy 1.20.0"},
		{"not connected", facts(trouble(Unknown)), Unclear, "runs Envoy"},
		{"a rule", facts(func(f *Facts) { f.Others = []Obstacle{{"clients of x", "send plaintext", Breaks}} }), NotReady, "send plaintext"},
		{"an endpoint without sidecar", facts(func(f *Facts) { f.Others = []Obstacle{{"shop/vm", "is an endpoint", Remark}} }), Ready, "is an endpoint"},
		{"no sidecar, hours ago", facts(peer(func(p *Peer) { p.Sidecar = false })), NotReady, "has no sidecar"},
		{"no sidecar, days ago", facts(peer(func(p *Peer) { p.Sidecar, p.Last = false, ago(25*time.Hour) })), Ready, ""},
		{"nobody's address", facts(peer(func(p *Peer) { p.Name, p.Known, p.Sidecar = "", false, false })), NotReady, "no workload's"},
		{"TLS of its own", facts(peer(func(p *Peer) { p.AppTLS = true })), NotReady, "TLS of its own"},
		{"refused in GRACE", facts(peer(func(p *Peer) { p.Refused = true })), NotReady, "refused already"},
		{"moved since", facts(peer(func(*Peer) {})), Ready, "sends mTLS since"},
		{"not moved", facts(peer(func(p *Peer) { p.Last = ago(time.Minute) })), NotReady, "all the same"},
		{"will move", facts(func(f *Facts) { none(f); peer(func(p *Peer) { p.Last = ago(time.Minute) })(f) }), Ready, "when the target takes it"},
		{"will move, but for a rule", facts(func(f *Facts) { none(f); peer(func(p *Peer) { p.Rule = "DestinationRule shop/x" })(f) }), Ready, "except where DestinationRule shop/x"},
		{"will not move", facts(func(f *Facts) {
			none(f)
			f.Others = []Obstacle{{"shop/front", "did not prove that it has its certificates", Breaks}}
			peer(func(*Peer) {})(f)
		}), NotReady, "certificates"},
		{"gone", facts(peer(func(p *Peer) { p.Known = false })), Ready, "is gone"},
		{"same machine", facts(func(f *Facts) {
			none(f)
			peer(func(p *Peer) { p.Name, p.Address = "", "127.0.0.1" })(f)
		}), Unclear, "same machine"},
		{"same machine, when clients moved", facts(peer(func(p *Peer) { p.Name, p.Address = "", "127.0.0.1" })), NotReady, "no workload's"},
	}
}

func TestJudge(t *testing.T) {
	for _, c := range judgeCases() {
		t.Run(c.name, func(t *testing.T) {
			r := Judge(c.facts, question(), now())
			says := ""
			if len(r.Peers) > 0 {
				says = r.Peers[0].Why
			} else if len(r.Obstacles) > 0 {
				says = r.Obstacles[0].Why
			}
			if r.Verdict != c.verdict || !strings.Contains(says, c.says) || c.says == "" && says != "" {
				t.Errorf("got %s, %q; want %s, %q", r.Verdict, says, c.verdict, c.says)
			}
		})
	}
}

// The report begins with what matters most, and evidence is as old as that of
// the youngest server.
func TestJudgeOrder(t *testing.T) {
	r := Judge(facts(func(f *Facts) {
		peer(func(*Peer) {})(f)
		peer(func(p *Peer) { p.Sidecar, p.Name = false, "shop/old" })(f)
		peer(func(p *Peer) { p.Sidecar, p.Name, p.Last = false, "shop/new", ago(time.Minute) })(f)
		f.Others = []Obstacle{{"a", "", Remark}, {"b", "", Unknown}, {"c", "", Breaks}}
		f.Servers = append(f.Servers, Server{Logs: ago(2 * time.Hour)})
	}), question(), now())
	var got []string
	for _, p := range r.Peers {
		got = append(got, p.Who)
	}
	for _, o := range r.Obstacles {
		got = append(got, o.Who)
	}
	want := []string{"shop/new at 10.0.0.2", "shop/old at 10.0.0.2", "shop/front at 10.0.0.2", "c", "b", "a"}
	if !slices.Equal(got, want) || !r.Since.Equal(ago(2*time.Hour)) {
		t.Errorf("got %v since %s", got, r.Since)
	}
	if r := Judge(facts(func(f *Facts) { f.Servers = append(f.Servers, Server{}) }), question(), now()); !r.Since.IsZero() {
		t.Errorf("evidence since %s, and one tells nothing", r.Since)
	}
}

func TestShort(t *testing.T) {
	for want, d := range map[string]time.Duration{"1h": time.Hour, "1h30m": 90 * time.Minute, "10m": 10 * time.Minute, "1m5s": 65 * time.Second, "10s": 10 * time.Second, "1h0m5s": time.Hour + 5*time.Second, "20m": 20 * time.Minute} {
		if got := Short(d); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

package discovery

import (
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

func testLedger() *ledger {
	m := status.NewMetrics()
	return newLedger(m, status.NewProblems(slog.New(slog.NewTextHandler(io.Discard, nil)), m))
}

func clock(seconds float64) time.Time {
	return time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC).Add(time.Duration(seconds * float64(time.Second)))
}

func cart() model.Proxy {
	return model.Proxy{ID: model.WorkloadID{Namespace: "shop", Name: "cart-1"}, Address: "127.0.0.1"}
}

// says gives the ledger one event of a stream.
func (l *ledger) says(kind ads.EventKind, stream uint64, typeURL string, at float64, detail string) {
	e := ads.Event{Kind: kind, Stream: stream, Node: "node", Proxy: cart(), TypeURL: typeURL, Time: clock(at), Detail: detail}
	switch kind {
	case ads.Connected:
		l.connected(e)
	case ads.Disconnected:
		l.disconnected(e)
	case ads.Sent:
		l.sent(e)
	case ads.Acked:
		l.acked(e)
	case ads.Refused:
		l.refusedBy(e, []model.Key{{Kind: "Policy", Namespace: "shop", Name: "p"}})
	}
}

func TestEditEndsWithTheLastACK(t *testing.T) {
	l := testLedger()
	l.says(ads.Connected, 1, "", 0, "")
	l.edited(clock(1))
	l.applied(clock(1.1))
	l.says(ads.Connected, 2, "", 1.15, "") // too late to be concerned
	l.says(ads.Sent, 2, translate.ClusterType, 1.16, "")
	l.says(ads.Sent, 1, translate.ClusterType, 1.2, "")
	l.says(ads.Acked, 1, translate.ClusterType, 1.3, "")
	l.says(ads.Acked, 2, translate.ClusterType, 1.35, "")
	if next := l.settle(clock(1.4)); next != clock(1.85) {
		t.Fatalf("asks again at %v, want half a second after the last answer", next)
	}
	l.says(ads.Sent, 1, translate.ListenerType, 1.5, "")
	if next := l.settle(clock(3)); next != clock(1.1).Add(patience) {
		t.Errorf("asks again at %v, want patience while an answer is owed", next)
	}
	l.says(ads.Acked, 1, translate.ListenerType, 3.1, "")
	if next := l.settle(clock(3.6)); !next.IsZero() {
		t.Errorf("asks again at %v, want never", next)
	}
	want := status.Edit{At: clock(1), Applied: clock(1.1), LastACK: clock(3.1), Pushes: 2, Done: true}
	if l.edits[0] != want {
		t.Errorf("got %+v, want %+v", l.edits[0], want)
	}
	if n := testutil.CollectAndCount(l.metrics.LastACK); n != 1 {
		t.Errorf("observed %d edits", n)
	}
}

func TestEditThatChangesNothingIsDone(t *testing.T) {
	l := testLedger()
	l.edited(clock(1))
	l.applied(clock(1.1))
	l.settle(clock(1.6))
	if want := (status.Edit{At: clock(1), Applied: clock(1.1), Done: true}); l.edits[0] != want {
		t.Errorf("got %+v, want %+v", l.edits[0], want)
	}
}

func TestEditIsGivenUp(t *testing.T) {
	l := testLedger()
	l.says(ads.Connected, 1, "", 0, "")
	l.edited(clock(1))
	l.applied(clock(1))
	l.says(ads.Sent, 1, translate.ClusterType, 1, "")
	next := l.settle(clock(2))
	if next != clock(1).Add(patience) || !l.settle(next).IsZero() || l.open != 0 || l.edits[0].Done {
		t.Errorf("next %v, open %d, edit %+v; want it neither done nor followed", next, l.open, l.edits[0])
	}
}

func TestAProxyThatLeavesOwesNothing(t *testing.T) {
	l := testLedger()
	l.says(ads.Connected, 1, "", 0, "")
	l.edited(clock(1))
	l.applied(clock(1))
	l.says(ads.Sent, 1, translate.ClusterType, 1, "")
	l.says(ads.Disconnected, 1, "", 2, "")
	l.says(ads.Acked, 1, translate.ClusterType, 2, "") // of no stream any more
	if !l.settle(clock(3)).IsZero() || !l.edits[0].Done || l.answers != 0 {
		t.Errorf("answers %d, edit %+v", l.answers, l.edits[0])
	}
}

func TestEditsAreBounded(t *testing.T) {
	l := testLedger()
	for i := range keptEdits + 7 {
		l.edited(clock(float64(i)))
	}
	l.applied(clock(500))
	if len(l.edits) != keptEdits || l.open != keptEdits || l.edits[0].At != clock(7) {
		t.Errorf("%d edits, %d open, the first at %v", len(l.edits), l.open, l.edits[0].At)
	}
}

func (l *ledger) texts(now float64) string {
	var out []string
	for _, f := range l.problems.List(clock(now)) {
		out = append(out, f.Severity.String()+" "+f.Code+" "+f.On.String()+": "+f.Message)
	}
	return strings.Join(out, "\n")
}

func TestNACKIsAProblemUntilAllIsTaken(t *testing.T) {
	l := testLedger()
	l.says(ads.Connected, 1, "", 0, "")
	l.says(ads.Sent, 1, translate.ClusterType, 1, "")
	l.says(ads.Refused, 1, translate.ClusterType, 1.1, "cluster x: bad")
	want := "error NACK Proxy shop/cart-1: proxy node refused CDS: cluster x: bad (made from Policy shop/p)"
	if got := l.texts(1.1); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	// The rest of the response is taken, the refused cluster still withheld.
	state := ads.ProxyState{Stream: 1, Types: []ads.TypeState{{TypeURL: translate.ClusterType, Refused: []string{"x"}, NackedAt: clock(1.1), AckedAt: clock(1.2)}}}
	asked := 0
	proxies := func() []ads.ProxyState { asked++; return []ads.ProxyState{state} }
	l.forgive(proxies)
	l.says(ads.Sent, 1, translate.ClusterType, 1.15, "")
	l.says(ads.Acked, 1, translate.ClusterType, 1.2, "")
	l.forgive(proxies)
	l.forgive(proxies)
	if got := l.texts(1.3); got != want || asked != 1 {
		t.Errorf("asked %d times, got %s", asked, got)
	}
	state.Types[0].Refused = nil
	l.says(ads.Sent, 1, translate.ClusterType, 2, "")
	l.says(ads.Acked, 1, translate.ClusterType, 2.1, "")
	l.forgive(proxies)
	if got := l.texts(2.1); got != "" {
		t.Errorf("got %s, want nothing", got)
	}
}

func TestRefusedSecretsAreMissingFiles(t *testing.T) {
	l := testLedger()
	l.says(ads.Connected, 1, "", 0, "")
	l.says(ads.Sent, 1, translate.SecretType, 1, "")
	l.says(ads.Refused, 1, translate.SecretType, 1, "no such file")
	if got := l.texts(1); !strings.HasPrefix(got, "error NO_CERTIFICATE Proxy shop/cart-1:") || !strings.HasSuffix(got, "no such file") {
		t.Errorf("got %s", got)
	}
	l.says(ads.Disconnected, 1, "", 2, "")
	if got := l.texts(2); got != "" {
		t.Errorf("after it left: %s", got)
	}
}

func TestUnknownWorkload(t *testing.T) {
	l := testLedger()
	c := l.connected(ads.Event{Stream: 1, Node: "node", Proxy: cart(), Time: clock(0)})
	l.known(1, c, false, clock(0))
	if next := l.overdue(clock(4.9)); next != clock(5) || l.texts(4.9) != "" {
		t.Errorf("next %v, problems %q", next, l.texts(4.9))
	}
	if next := l.overdue(clock(5)); !next.IsZero() {
		t.Errorf("next %v, want never", next)
	}
	if got := l.texts(5); !strings.HasPrefix(got, "warning UNKNOWN_WORKLOAD Proxy shop/cart-1: no object describes") {
		t.Errorf("got %s", got)
	}
	l.known(1, c, true, clock(6))
	if got := l.texts(6); got != "" || len(l.unknown) != 0 {
		t.Errorf("got %s", got)
	}
}

func TestUnknownSecrets(t *testing.T) {
	l := testLedger()
	l.says(ads.Connected, 1, "", 0, "")
	for _, name := range []string{"theirs", "mine"} {
		l.secretUnknown(ads.Event{Stream: 1, Names: []string{name}})
	}
	list := l.problems.List(clock(1))
	if len(list) != 1 || list[0].Code != "UNKNOWN_SECRET" || list[0].Severity != meshconfig.Warning ||
		!strings.HasSuffix(list[0].Message, `"mine", "theirs"`) {
		t.Errorf("got %v", list)
	}
}

package discovery

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshpilot/pilot/internal/fakeenvoy"
	pages "github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

// overview is what "pilot status" would show now.
func (m *mesh) overview() pages.Overview {
	state := *m.hub.published.Load()
	state.Now, state.Proxies = time.Now(), m.hub.proxies()
	return state.Overview("")
}

// behind says who did not acknowledge the newest revision, and why.
func (m *mesh) behind() string {
	var out []string
	for _, l := range m.overview().Newest.Laggards {
		out = append(out, l.Workload+" "+l.Type+" "+l.Why)
	}
	return strings.Join(out, "; ")
}

// A revision is acknowledged when every proxy took it; one that refuses is
// named with Envoy's text, one that comes later counts, and one that no
// object describes does not.
func TestRevisionIsAcknowledged(t *testing.T) {
	inPhases(t, func(m *mesh, _ *phasesInMemory) {
		refuse := false
		m.envoy(cartNode, refuses(translate.ListenerType, &refuse), insecure.NewCredentials())
		m.envoy(stockNode, fakeenvoy.Options{}, insecure.NewCredentials())
		m.envoy("sidecar~127.0.0.9~nobody-1.shop~shop.svc.cluster.local", fakeenvoy.Options{}, insecure.NewCredentials())
		first := m.overview()
		if r := first.Newest; !r.Acknowledged || r.Proxies != 2 || r.Revision == "" || r.Change != "first" {
			t.Errorf("at first: %+v", r)
		}
		if p := first.Proxies; p.Connected != 3 || p.Current != 2 || p.Unknown != 1 || len(p.Missing) != 0 {
			t.Errorf("proxies: %+v", p)
		}
		refuse = true
		m.edit(sidecars(), strictCart)
		r := m.overview().Newest
		if r.Acknowledged || r.Revision == first.Newest.Revision || r.Change != "policy" {
			t.Errorf("after the edit: %+v", r)
		}
		if got := m.behind(); got != "shop/cart-1 LDS refuses its listeners: not today" {
			t.Errorf("behind: %s", got)
		}
		if p := m.overview().Proxies; p.Behind != 1 || p.Refusing != 1 || p.Current != 1 {
			t.Errorf("proxies: %+v", p)
		}
		refuse = false
		m.edit(sidecars())
		back := m.overview().Newest
		if back.Revision != first.Newest.Revision {
			t.Errorf("back: %+v, want revision %s", back, first.Newest.Revision)
		}
	})
}

// The steps of a rollout that follow are no part of a revision: who refuses
// one is behind, and acknowledged the revision all the same.
func TestRevisionIsAcknowledgedBeforeItsSteps(t *testing.T) {
	inPhases(t, func(m *mesh, store *phasesInMemory) {
		refuse := false
		m.envoy(cartNode, fakeenvoy.Options{}, insecure.NewCredentials())
		m.envoy(stockNode, refuses(translate.ClusterType, &refuse), insecure.NewCredentials())
		refuse = true
		m.edit(sidecars(), strictCart)
		if got := store.of("cart", 8080); got != model.PhaseMoved {
			t.Fatalf("phase %d", got)
		}
		o := m.overview()
		if r := o.Newest; !r.Acknowledged || len(r.Laggards) != 0 || len(r.UnderWay) != 1 || len(r.UnderWay[0].Waits) == 0 {
			t.Errorf("%+v", r)
		}
		if len(o.Behind) != 1 || o.Behind[0].Workload != "store/stock-1" || o.Behind[0].Type != "CDS" || !o.Behind[0].Refused {
			t.Errorf("behind: %+v", o.Behind)
		}
	})
}

// The histogram tells kinds of changes apart, steps are counted, and targets
// are counted by phase.
func TestRolloutMetrics(t *testing.T) {
	inPhases(t, func(m *mesh, _ *phasesInMemory) {
		m.envoy(cartNode, fakeenvoy.Options{}, insecure.NewCredentials())
		m.envoy(stockNode, fakeenvoy.Options{}, insecure.NewCredentials())
		m.edit(sidecars(), permissiveCart)
		metrics := m.hub.metrics
		if n := testutil.CollectAndCount(metrics.LastACK, "pilot_edit_to_last_ack_seconds"); n != 1 {
			t.Errorf("%d kinds of edits were acknowledged, want 1", n)
		}
		if got := testutil.ToFloat64(metrics.RolloutSteps.WithLabelValues("PERMISSIVE")); got != 2 {
			t.Errorf("%v steps, want 2: opened and moved", got)
		}
		if n := testutil.CollectAndCount(metrics.RolloutTime); n != 1 {
			t.Errorf("%d modes came into force, want 1", n)
		}
		text := m.overview().Targets
		if text.Phases["PERMISSIVE"] != 1 || text.UnderWay != 0 || text.Held != 0 {
			t.Errorf("targets %+v", text)
		}
	})
}

package discovery

import (
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshpilot/pilot/internal/fakeenvoy"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/readiness"
)

// readiness asks the page as a command would.
func (m *mesh) readiness(query url.Values) (answer readiness.Answer) {
	m.t.Helper()
	server := &Server{hub: m.hub, options: Options{DebugRemote: true}}
	w := httptest.NewRecorder()
	server.pages().Handler().ServeHTTP(w, httptest.NewRequest("GET", "/debug/readiness?"+query.Encode(), nil))
	if w.Code != 200 {
		m.t.Fatalf("%s: %s", w.Result().Status, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		m.t.Fatal(err)
	}
	return answer
}

// cart is the report of the cart's port, as text.
func (m *mesh) cart() string {
	m.t.Helper()
	answer := m.readiness(url.Values{"target": {"cart.shop:80"}})
	var b strings.Builder
	if err := answer.Print(&b); err != nil {
		m.t.Fatal(err)
	}
	return b.String()
}

// Whoever called without a sidecar is named hours later, when the pod that it
// called is gone too; those with a sidecar are not, as they follow.
func TestReadiness(t *testing.T) {
	inPhases(t, func(m *mesh, _ *phasesInMemory) {
		say := func(verdict readiness.Verdict, want ...string) {
			t.Helper()
			got := m.cart()
			for _, text := range append(want, string(verdict)+"  shop/cart:8080 (cart.shop.svc.cluster.local:80): NONE now, set by mesh config authPolicy\n") {
				if !strings.Contains(got, text) {
					t.Errorf("no %q in\n%s", text, got)
				}
			}
		}
		say(readiness.Unclear, "  unknown shop/cart-1 has a sidecar that is not connected\n", "  unknown store/stock-1 has a sidecar that is not connected\n",
			"0 ready, 0 not ready, 1 unknown\n")
		m.envoy(cartNode, fakeenvoy.Options{}, insecure.NewCredentials())
		m.envoy(stockNode, fakeenvoy.Options{}, insecure.NewCredentials())
		tell := m.hub.teller(m.t)
		tell("127.0.0.2") // the stock
		say(readiness.Unclear, "  unknown shop/cart-1 tells of its traffic without a gap since 2000-01-01 00:00:", "and 1h is asked for",
			"  follows store/stock-1 at 127.0.0.2 to port 8080, once, ")
		time.Sleep(2 * time.Hour)
		say(readiness.Ready, "  follows store/stock-1 at 127.0.0.2 to port 8080, once, ", "1 ready, 0 not ready, 0 unknown\n")
		tell("9.9.9.9")
		tell("9.9.9.9")
		time.Sleep(3 * time.Hour)
		say(readiness.NotReady, "  breaks  9.9.9.9 to port 8080, 2 times, first 2000-01-01 02:00:", ": has an address that is no workload's, so it has no sidecar\n")
		if got := m.readiness(url.Values{"within": {"1h"}, "target": {"shop/cart:8080"}}); got.Targets[0].Verdict != readiness.Ready {
			t.Errorf("of the last hour: %+v", got)
		}
		time.Sleep(22 * time.Hour)
		say(readiness.Ready)
	})
}

// Rules that keep clients in plaintext, and proxies that could not follow, are
// named.
func TestReadinessObstacles(t *testing.T) {
	inPhases(t, func(m *mesh, _ *phasesInMemory) {
		m.edit(sidecars(), `---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: plain, namespace: shop}
spec: {host: cart, trafficPolicy: {tls: {mode: DISABLE}}}
`)
		old := &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: &corev3.BuildVersion{Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 20, Patch: 3}}}
		m.hub.versions.Note(model.WorkloadID{Namespace: "store", Name: "stock-1"}, &corev3.Node{UserAgentVersionType: old})
		m.envoy(cartNode, fakeenvoy.Options{}, insecure.NewCredentials())
		got := m.cart()
		for _, want := range []string{
			"NOT READY  shop/cart:8080",
			"  breaks  clients of cart.shop.svc.cluster.local:80 send plaintext whatever the mode, by DestinationRule shop/plain\n",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}
		if got := m.hub.versions.TooOld(model.WorkloadID{Namespace: "store", Name: "stock-1"}); got != "runs Envoy 1.20.3, which does not know all that it is sent; 1.27 is the oldest that does" {
			t.Errorf("got %q", got)
		}
		m.envoy(stockNode, fakeenvoy.Options{}, insecure.NewCredentials())
		if got := m.hub.versions.TooOld(model.WorkloadID{Namespace: "store", Name: "stock-1"}); got != "" {
			t.Errorf("a new stream without a version: %q", got)
		}
	})
}

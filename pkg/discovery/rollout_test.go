package discovery

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshpilot/pilot/internal/fakeenvoy"
	pages "github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
	"github.com/meshpilot/pilot/pkg/translate"
)

// phasesInMemory keeps phases as long as a test wants.
type phasesInMemory struct {
	mu     sync.Mutex
	states map[model.Target]rollout.State
	fail   error
}

func (m *phasesInMemory) Load() (map[model.Target]rollout.State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.states), nil
}

func (m *phasesInMemory) Save(states map[model.Target]rollout.State) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail == nil {
		m.states = maps.Clone(states)
	}
	return m.fail
}

// fails makes later saves fail, or succeed again with nil.
func (m *phasesInMemory) fails(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

func (m *phasesInMemory) of(group string, port uint16) model.Phase {
	m.mu.Lock()
	defer m.mu.Unlock()
	for t, s := range m.states {
		if t.Group == group && t.Port == port {
			return s.Phase
		}
	}
	return 255
}

// inPhases is inMesh with a store of phases, and a sidecar at each pod.
func inPhases(t *testing.T, test func(m *mesh, store *phasesInMemory)) {
	t.Helper()
	inMesh(t, nil, func(m *mesh) {
		store := &phasesInMemory{states: map[model.Target]rollout.State{}}
		m.stage(store)
		m.edit(sidecars())
		test(m, store)
	})
}

func (m *mesh) stage(store *phasesInMemory) {
	m.t.Helper()
	r, err := newRollouts(store, m.hub.metrics)
	if err != nil {
		m.t.Fatal(err)
	}
	m.hub.stage(r)
}

// sidecars is the shop with a known sidecar at each pod.
func sidecars() string {
	return strings.Replace(shop, "labels: {app: stock}", "labels: {app: stock, security.istio.io/tlsMode: istio}", 1)
}

// refuses is a proxy that refuses every later response of a type.
func refuses(typeURL string, when *bool) fakeenvoy.Options {
	return fakeenvoy.Options{Refuse: func(r fakeenvoy.Response) string {
		if *when && r.TypeURL == typeURL {
			return "not today"
		}
		return ""
	}}
}

// chains are the inbound chains of port 8080, as the proxy holds them.
func chains(t *testing.T, e *fakeenvoy.Envoy) string {
	t.Helper()
	var l listenerv3.Listener
	if err := e.Held()[translate.ListenerType]["virtualInbound"].Body.UnmarshalTo(&l); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, c := range l.FilterChains {
		if kind, ok := strings.CutPrefix(c.Name, "8080|"); ok {
			out = append(out, kind)
		}
	}
	return strings.Join(out, " ")
}

// sendsTLS says whether the proxy's cluster of cart has a transport socket.
func sendsTLS(e *fakeenvoy.Envoy) bool {
	return strings.Contains(string(e.Held()[translate.ClusterType][cartCluster].Body.Value), "envoy.transport_sockets.tls")
}

func (m *mesh) waits(group string) string {
	for _, r := range m.hub.published.Load().Rollouts {
		if r.Wanted.Group != group || r.Wanted.Port != 8080 {
			continue
		}
		var texts []string
		for _, b := range r.Waits {
			texts = append(texts, b.String())
		}
		return strings.Join(texts, "; ")
	}
	return "no such target"
}

// Servers open first, clients move when they did, and without access logs
// nobody closes.
func TestRolloutWaitsForProof(t *testing.T) {
	inPhases(t, func(m *mesh, store *phasesInMemory) {
		refuse := true
		cart := m.envoy(cartNode, fakeenvoy.Options{}, insecure.NewCredentials())
		m.envoy(stockNode, refuses(translate.ClusterType, &refuse), insecure.NewCredentials())
		refuse = false
		stock := m.envoy(stockNode, refuses(translate.ClusterType, &refuse), insecure.NewCredentials())
		if got := chains(t, cart); got != "app-tls plain" || sendsTLS(stock) {
			t.Fatalf("before the edit: chains %s, clients send TLS %v", got, sendsTLS(stock))
		}
		refuse = true
		m.edit(sidecars(), strictCart)
		if got := chains(t, cart); got != "mtls app-tls plain" || sendsTLS(stock) {
			t.Errorf("after the edit: chains %s, clients send TLS %v", got, sendsTLS(stock))
		}
		if got := store.of("cart", 8080); got != model.PhaseMoved {
			t.Errorf("stored phase %d", got)
		}
		if got := m.waits("cart"); !strings.Contains(got, "store/stock-1 refuses its clusters: not today") {
			t.Errorf("waits for %s", got)
		}
		if got := m.problem("ROLLOUT_HELD"); got != "" {
			t.Errorf("held before the deadline: %s", got)
		}
		time.Sleep(11 * time.Minute)
		want := "shop/cart:8080 stays PERMISSIVE on the way to STRICT, set by Policy shop/strict: store/stock-1 refuses its clusters: not today; " +
			"shop/cart-1 sends no access logs, so plaintext would not be seen"
		if got := m.problem("ROLLOUT_HELD"); got != want {
			t.Errorf("held: %q, want %q", got, want)
		}
		// A change of mind from here ends where it began.
		refuse = false
		m.edit(sidecars())
		time.Sleep(5 * time.Second)
		if got := store.of("cart", 8080); got != model.PhaseOpened || sendsTLS(stock) {
			t.Errorf("off: phase %d, clients send TLS %v; waits for %s", got, sendsTLS(stock), m.waits("cart"))
		}
		if got := m.problem("ROLLOUT_HELD"); got != "" {
			t.Errorf("still held: %s", got)
		}
	})
}

// A server that refuses its listeners keeps its clients in plaintext, also
// over a restart.
func TestRolloutServerRefuses(t *testing.T) {
	store := &phasesInMemory{}
	inPhases(t, func(m *mesh, s *phasesInMemory) {
		refuse := false
		cart := m.envoy(cartNode, refuses(translate.ListenerType, &refuse), insecure.NewCredentials())
		stock := m.envoy(stockNode, fakeenvoy.Options{}, insecure.NewCredentials())
		refuse = true
		m.edit(sidecars(), strictCart)
		if got := s.of("cart", 8080); got != model.PhaseOpened || sendsTLS(stock) || chains(t, cart) != "app-tls plain" {
			t.Errorf("phase %d, clients send TLS %v, chains %s", got, sendsTLS(stock), chains(t, cart))
		}
		if got := m.waits("cart"); got != "shop/cart-1 refuses its listeners: not today" {
			t.Errorf("waits for %s", got)
		}
		store.states, _ = s.Load()
	})
	inMesh(t, nil, func(m *mesh) {
		m.stage(store)
		m.edit(sidecars(), strictCart)
		stock := m.envoy(stockNode, fakeenvoy.Options{}, insecure.NewCredentials())
		if got := store.of("cart", 8080); got != model.PhaseOpened || sendsTLS(stock) {
			t.Errorf("after a restart: phase %d, clients send TLS %v", got, sendsTLS(stock))
		}
		if got := m.waits("cart"); got != "shop/cart-1 has a sidecar that is not connected" {
			t.Errorf("waits for %s", got)
		}
		m.envoy(cartNode, fakeenvoy.Options{}, insecure.NewCredentials())
		if got := store.of("cart", 8080); got != model.PhaseMoved || !sendsTLS(stock) {
			t.Errorf("when it is there: phase %d, clients send TLS %v", got, sendsTLS(stock))
		}
	})
}

// Nothing moves that cannot be stored.
func TestRolloutIsStoredFirst(t *testing.T) {
	inPhases(t, func(m *mesh, store *phasesInMemory) {
		cart := m.envoy(cartNode, fakeenvoy.Options{}, insecure.NewCredentials())
		store.fails(errors.New("disk full"))
		m.edit(sidecars(), strictCart)
		if got := chains(t, cart); got != "app-tls plain" {
			t.Errorf("chains %s although nothing is stored", got)
		}
		if got := m.problem("INTERNAL"); got != "no change of a mode goes on, as its phase cannot be stored: disk full" {
			t.Errorf("problem %q", got)
		}
		store.fails(nil)
		m.wait()
		if got := chains(t, cart); got != "mtls app-tls plain" {
			t.Errorf("chains %s when it is stored", got)
		}
		if got := m.problem("INTERNAL"); got != "" {
			t.Errorf("problem %q stays", got)
		}
	})
}

func TestRolloutImmediate(t *testing.T) {
	inPhases(t, func(m *mesh, store *phasesInMemory) {
		cart := m.envoy(cartNode, fakeenvoy.Options{}, insecure.NewCredentials())
		m.edit(sidecars(), strings.Replace(strictCart, "namespace: shop}", "namespace: shop, annotations: {pilot.meshpilot.io/mtls-rollout: '{mode: IMMEDIATE}'}}", 1))
		if got := chains(t, cart); got != "mtls mtls-any refuse" {
			t.Errorf("chains %s", got)
		}
		i := slices.IndexFunc(m.hub.published.Load().Rollouts, func(r pages.Rollout) bool { return !r.Settled })
		if i >= 0 {
			t.Errorf("%s is not settled", fmt.Sprint(m.hub.published.Load().Rollouts[i].Wanted.Target))
		}
	})
}

// A server that has its listener, but not the routes of its new chains, is
// not open.
func TestRolloutServerWithoutRoutes(t *testing.T) {
	inPhases(t, func(m *mesh, store *phasesInMemory) {
		probed := strings.Replace(sidecars(), "serviceAccountName: cart, containers: [{name: app, image: app}]",
			"serviceAccountName: cart, containers: [{name: app, image: app, readinessProbe: {httpGet: {path: /ready, port: 8080}}}]", 1)
		m.edit(probed)
		refuse := false
		m.envoy(cartNode, refuses(translate.RouteType, &refuse), insecure.NewCredentials())
		stock := m.envoy(stockNode, fakeenvoy.Options{}, insecure.NewCredentials())
		refuse = true
		m.edit(probed, strictCart)
		if got := store.of("cart", 8080); got != model.PhaseOpened || sendsTLS(stock) {
			t.Errorf("phase %d, clients send TLS %v", got, sendsTLS(stock))
		}
		if got := m.waits("cart"); got != "shop/cart-1 refuses its routes: not today" {
			t.Errorf("waits for %s", got)
		}
	})
}

// statesIn has the targets of the shop's pods in one phase.
func statesIn(phase model.Phase, mode model.Mode) map[model.Target]rollout.State {
	out := map[model.Target]rollout.State{}
	for namespace, group := range map[string]string{"shop": "cart", "store": "stock"} {
		for _, port := range []uint16{0, 8080} {
			out[model.Target{Namespace: namespace, Group: group, Port: port}] = rollout.State{Phase: phase, Mode: mode, Since: time.Now()}
		}
	}
	return out
}

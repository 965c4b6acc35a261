package discovery

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshpilot/pilot/internal/fakeenvoy"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

// heldBy is what cart's and stock's proxies hold in a phase of a way to STRICT
// that is as far as it gets.
func heldBy(t *testing.T, phase model.Phase, documents ...string) (cart, stock fakeenvoy.Held) {
	t.Helper()
	inMesh(t, nil, func(m *mesh) {
		store := &phasesInMemory{}
		store.states = statesIn(phase, model.Strict)
		m.stage(store)
		m.edit(append([]string{sidecars()}, documents...)...)
		c := m.envoy(cartNode, fakeenvoy.Options{}, insecure.NewCredentials())
		s := m.envoy(stockNode, fakeenvoy.Options{}, insecure.NewCredentials())
		cart, stock = c.Held(), s.Held()
	})
	return cart, stock
}

// A control plane without stored phases takes a running mesh up where it is:
// it neither skips a phase nor goes back.
func TestPhasesFromWhatProxiesHold(t *testing.T) {
	for phase, want := range map[model.Phase]struct {
		tls    bool
		chains string
	}{
		model.PhaseMoved:  {true, "mtls app-tls plain"},
		model.PhaseGrace:  {true, "mtls app-tls plain refuse"},
		model.PhaseStrict: {true, "mtls mtls-any refuse"},
	} {
		heldCart, heldStock := heldBy(t, phase, strictCart)
		inMesh(t, nil, func(m *mesh) {
			store := &phasesInMemory{}
			m.stage(store)
			m.hub.publish(bundle(t, sidecars(), strictCart), nil)
			m.wait()
			cart := m.envoy(cartNode, fakeenvoy.Options{Held: heldCart}, insecure.NewCredentials())
			if len(cart.Responses()) > 0 {
				t.Errorf("phase %d: cart is answered before stock is there", phase)
			}
			stock := m.envoy(stockNode, fakeenvoy.Options{Held: heldStock}, insecure.NewCredentials())
			if got := store.of("cart", 8080); got != phase {
				t.Errorf("taken up in phase %d, want %d", got, phase)
			}
			if got := chains(t, cart); got != want.chains || sendsTLS(stock) != want.tls {
				t.Errorf("phase %d: chains %s, clients send TLS %v", phase, got, sendsTLS(stock))
			}
			for _, e := range []*fakeenvoy.Envoy{cart, stock} {
				for _, r := range e.Responses() {
					for name := range r.Resources {
						if r.TypeURL == translate.ListenerType || name == cartCluster {
							t.Errorf("phase %d: %s was sent, though it is held", phase, name)
						}
					}
				}
			}
		})
	}
}

// An edit that comes with the first start is carried out in phases, too.
func TestEditWithTheFirstStart(t *testing.T) {
	heldCart, heldStock := heldBy(t, model.PhaseNone) // NONE is wanted, and in force
	inMesh(t, nil, func(m *mesh) {
		store := &phasesInMemory{}
		m.stage(store)
		m.hub.publish(bundle(t, sidecars(), strictCart), nil)
		cart := m.envoy(cartNode, fakeenvoy.Options{Held: heldCart}, insecure.NewCredentials())
		stock := m.envoy(stockNode, fakeenvoy.Options{Held: heldStock}, insecure.NewCredentials())
		if got := chains(t, cart); got != "mtls app-tls plain" {
			t.Errorf("chains %s", got)
		}
		var clients, servers time.Time
		for _, r := range cart.Responses() {
			if r.TypeURL == translate.ListenerType {
				servers = time.Now()
			}
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if sendsTLS(stock) {
			clients = time.Now()
		}
		if servers.IsZero() || clients.IsZero() || store.of("cart", 8080) != model.PhaseMoved {
			t.Errorf("servers opened %v, clients moved %v, phase %d: %s", servers, clients, store.of("cart", 8080), m.waits("cart"))
		}
	})
}

// A new mesh begins where its modes end, and waits for nobody for long.
func TestNewMeshBeginsAtOnce(t *testing.T) {
	inMesh(t, nil, func(m *mesh) {
		store := &phasesInMemory{}
		m.stage(store)
		m.hub.publish(bundle(t, sidecars(), strictCart), nil)
		begin := time.Now()
		cart := m.envoy(cartNode, fakeenvoy.Options{}, insecure.NewCredentials())
		for len(cart.Responses()) == 0 && time.Since(begin) < time.Minute {
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
		}
		if took := time.Since(begin); took > 3200*time.Millisecond {
			t.Errorf("a new proxy waited %s", took)
		}
		m.wait()
		if got := chains(t, cart); got != "mtls mtls-any refuse" || store.of("cart", 8080) != model.PhaseStrict {
			t.Errorf("chains %s, phase %d", got, store.of("cart", 8080))
		}
	})
}

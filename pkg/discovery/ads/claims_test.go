package ads

import (
	"testing"

	"github.com/meshpilot/pilot/internal/fakeenvoy"
	"github.com/meshpilot/pilot/pkg/translate"
)

// before is what a proxy of simple holds.
func before(t *testing.T, o fakeenvoy.Options) fakeenvoy.Held {
	t.Helper()
	var held fakeenvoy.Held
	inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
		b.apply(simple())
		held = b.envoy(o, "b/1").Close()
	})
	return held
}

// What proxies say they hold is known before there is a world, and is compared
// with the world when it is there.
func TestClaims(t *testing.T) {
	held := before(t, fakeenvoy.Options{})
	inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
		b.store.ReadAhead(1 << 20)
		e := b.envoy(fakeenvoy.Options{Held: held}, "b/1")
		b.envoy(fakeenvoy.Options{}, "a/1")
		found := map[string]Claim{}
		b.store.Claims(func(c Claim) {
			found[c.Proxy.ID.Namespace] = c
			if c.Proxy.ID.Namespace != "b" {
				return
			}
			got := map[string]string{}
			for name, version := range c.Listeners {
				got[string(name)] = string(version)
			}
			want := held[translate.ListenerType]
			if len(got) != len(want) || len(got) == 0 {
				t.Errorf("claims listeners %q, holds %d", got, len(want))
			}
			for name := range want {
				if got[name] != want[name].Version {
					t.Errorf("listener %s: claims %q, holds %q", name, got[name], want[name].Version)
				}
			}
		})
		if !found["b"].Holds || found["a"].Holds || found["b"].Silent || found["a"].Silent || found["b"].Bare {
			t.Errorf("claims %+v", found)
		}
		b.apply(simple())
		for _, r := range e.Responses() {
			if len(r.Resources) > 0 && r.TypeURL != translate.SecretType {
				t.Errorf("%s was sent although it is held", r.TypeURL)
			}
		}
		b.apply(simple().edited("b", translate.ClusterType, "out-1", "eds 2"))
		if got := e.Held()[translate.ClusterType]["out-1"]; got.Version == held[translate.ClusterType]["out-1"].Version {
			t.Error("a later change does not arrive")
		}
		b.store.Claims(func(c Claim) { t.Errorf("%v waits although it is served", c.Proxy.ID) })
	})
}

// In state of the world, the version of the whole says that there is something.
func TestClaimsSotW(t *testing.T) {
	held := before(t, fakeenvoy.Options{SotW: true})
	inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
		b.store.ReadAhead(1 << 20)
		b.envoy(fakeenvoy.Options{SotW: true, Held: held}, "b/1")
		b.envoy(fakeenvoy.Options{SotW: true}, "a/1")
		b.store.Claims(func(c Claim) {
			if c.Holds != (c.Proxy.ID.Namespace == "b") {
				t.Errorf("%v holds something: %v", c.Proxy.ID, c.Holds)
			}
			for range c.Listeners {
				t.Errorf("%v names listeners", c.Proxy.ID)
			}
		})
		b.apply(simple())
	})
}

// What does not fit is not read ahead, and comes all the same.
func TestReadAheadIsBounded(t *testing.T) {
	held := before(t, fakeenvoy.Options{})
	inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
		b.store.ReadAhead(10)
		e := b.envoy(fakeenvoy.Options{Held: held}, "b/1")
		b.store.Claims(func(c Claim) {
			if c.Holds || !c.Silent {
				t.Errorf("read ahead without leave: %+v", c)
			}
		})
		b.apply(simple().edited("b", translate.ClusterType, "out-1", "eds 2"))
		if got := e.Held()[translate.ClusterType]["out-1"]; got.Version == held[translate.ClusterType]["out-1"].Version {
			t.Error("the change does not arrive")
		}
	})
}

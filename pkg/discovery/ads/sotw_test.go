package ads

import (
	"testing"

	"github.com/meshpilot/pilot/pkg/translate"
)

// The rows of the protocol's table for state of the world.
func TestSotwRows(t *testing.T) {
	inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
		b.apply(simple())
		c := newTalk(t, b.conn(), "a/1", true)
		c.send(ask{kind: endpoints}) // 2: no names
		equal(t, "no names", c.lines(), nil)
		c.send(ask{kind: endpoints, add: []string{"out-1"}}) // 3
		first := c.one("EDS out-1")
		c.send(ask{kind: endpoints, add: []string{"out-1", "out-2"}, nonce: "stale"}) // 4
		equal(t, "stale nonce", c.lines(), nil)
		if b.count(Ignored, translate.EndpointType) != 1 {
			t.Error("not counted")
		}
		c.ack(first, "out-1", "out-2") // 5
		h := c.one("EDS out-2")
		if h.version != first.version {
			t.Error("one table, two versions")
		}
		c.ack(h, "out-1", "out-2") // 6
		c.ack(h, "out-2")
		equal(t, "acknowledged, and names removed", c.lines(), nil)
		b.apply(simple().edited("a", translate.EndpointType, "out-1", "v2"))
		equal(t, "not asked for any more", c.lines(), nil)
		b.apply(simple().edited("a", translate.EndpointType, "out-2", "v2"))
		h = c.one("EDS out-2")
		c.nack(h, "out-2: bad", "out-1", "out-2") // 1, and a name with it
		c.ack(c.one("EDS out-1"), "out-1", "out-2", "nowhere")
		c.ack(c.one("EDS"), "out-1", "out-2", "nowhere") // nothing known of it: an empty list
		c.send(ask{kind: endpoints, nonce: h.nonce})     // 2
		b.apply(simple().edited("a", translate.EndpointType, "out-1", "v3"))
		equal(t, "subscription ended", c.lines(), nil)
		c.send(ask{kind: endpoints, add: []string{"out-1"}, nonce: "any"}) // 3: first again
		c.one("EDS out-1")
		c.send(ask{kind: endpoints, add: []string{"out-2", "out-1"}}) // 3: no nonce
		c.one("EDS out-1 out-2")
	})
}

func TestSotwWildcard(t *testing.T) {
	inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
		b.apply(simple())
		c := newTalk(t, b.conn(), "b/1", true)
		c.send(ask{kind: clusters, add: []string{"only-b"}})
		h := c.one("CDS only-b")
		c.ack(h, "only-b", "*")
		h = c.one("CDS in-8080 only-b out-1 sds-resident")
		c.ack(h, "only-b", "*")
		b.apply(simple().edited("b", translate.ClusterType, "only-b", ""))
		h = c.one("CDS in-8080 out-1 sds-resident")
		c.ack(h, "*")
		equal(t, "acknowledged", c.lines(), nil)
		if state := b.store.Proxies()[0].Types[0]; state.Acked != h.version || state.InFlight || state.Acks != 3 {
			t.Errorf("state: %+v", state)
		}
	})
}

func TestSotwSecrets(t *testing.T) {
	inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
		b.apply(simple())
		c := newTalk(t, b.conn(), "a/1", true)
		c.send(ask{kind: secrets, add: []string{"ROOTCA", "default", "stranger"}})
		h := c.one("SDS ROOTCA")
		c.ack(h, "ROOTCA", "default", "stranger")
		h = c.one("SDS default")
		c.ack(h, "ROOTCA", "default", "stranger")
		equal(t, "unknown secret", c.lines(), nil)
		if !b.store.Proxies()[0].Secrets || b.count(SecretUnknown, translate.SecretType) != 1 {
			t.Error("not proven, or unknown secret not told once")
		}
	})
}

package ads

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshpilot/pilot/pkg/translate"
)

func TestDeltaNamedResources(t *testing.T) {
	inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
		b.apply(simple())
		c := newTalk(t, b.conn(), "a/1", false)
		c.send(ask{kind: endpoints, add: []string{"out-1", "nowhere"}})
		c.ack(c.one("EDS out-1"))

		c.send(ask{kind: endpoints, add: []string{"out-1", "out-2", "gone"}})
		c.ack(c.one("EDS out-1 out-2 -gone")) // held or not; one that does not exist is removed

		c.send(ask{kind: endpoints, drop: []string{"out-1"}})
		b.apply(simple().edited("a", translate.EndpointType, "out-1", "v2"))
		equal(t, "unsubscribed", c.lines(), nil)
		c.send(ask{kind: endpoints, add: []string{"out-1"}})
		c.ack(c.one("EDS out-1"))

		// A name that comes to exist is sent then; one that goes, goes silently.
		b.apply(simple().edited("a", translate.EndpointType, "nowhere", "v1").edited("a", translate.EndpointType, "out-1", "v2"))
		c.ack(c.one("EDS nowhere"))
		b.apply(simple().edited("a", translate.EndpointType, "out-2", "").edited("a", translate.EndpointType, "out-1", "v2"))
		equal(t, "removed endpoints", c.lines(), nil)
	})
}

func TestDeltaWildcard(t *testing.T) {
	inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
		b.apply(simple())
		c := newTalk(t, b.conn(), "b/1", false)
		c.send(ask{kind: clusters, add: []string{"only-b"}})
		c.ack(c.one("CDS only-b"))
		b.apply(simple().edited("b", translate.ClusterType, "out-1", "eds 2"))
		equal(t, "not asked for", c.lines(), nil)

		c.send(ask{kind: clusters, add: []string{"*"}})
		c.ack(c.one("CDS in-8080 out-1 sds-resident"))
		c.send(ask{kind: clusters, drop: []string{"only-b"}}) // the wildcard still covers it: sent once more
		c.ack(c.one("CDS only-b"))
		c.send(ask{kind: clusters, add: []string{"out-1"}, drop: []string{"*"}})
		c.ack(c.one("CDS out-1"))
		b.apply(simple().edited("b", translate.ClusterType, "only-b", "v2"))
		c.ack(c.one("CDS out-1")) // back to its first version
		equal(t, "not asked for any more", c.lines(), nil)

		// Wildcard types are answered even if there is nothing to say, named ones not.
		c = newTalk(t, b.conn(), "b/1", false)
		all := set{}
		for _, r := range append(b.store.generation.Load().world.Client[classOf("b")].Listeners.Resources, anyServer(b).Listeners.Resources...) {
			all[r.Name] = r.Version
		}
		c.send(ask{kind: listeners, has: all})
		c.ack(c.one("LDS"))
		c.send(ask{kind: routes, add: []string{"unheard-of"}})
		equal(t, "unknown route", c.lines(), nil)
	})
}

func TestDeltaClaims(t *testing.T) {
	inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
		b.apply(simple())
		c := newTalk(t, b.conn(), "a/1", false)
		good := b.store.generation.Load().endpoints
		c.send(ask{kind: endpoints, add: []string{"out-1", "out-2", "old"}, has: set{
			"out-1": good.get("out-1").Version, "out-2": "0123456789abcdef", "old": "0123456789abcdef",
		}})
		c.ack(c.one("EDS out-2 -old"))
		b.apply(simple().edited("a", translate.EndpointType, "out-1", "v2"))
		c.ack(c.one("EDS out-1"))
		c.send(ask{kind: clusters, has: set{"old": "x", "static": "y"}})
		got := c.take() // the endpoints go with their clusters
		if len(got) != 2 || got[0].line() != "CDS in-8080 out-1 out-2 sds-resident static" || got[1].line() != "EDS out-1 out-2" {
			t.Fatalf("got %v", got)
		}
		c.ack(got[1])
		c.ack(got[0])
		equal(t, "the removal waits for listeners", c.lines(), nil)
		pass(patience)
		if got := strings.Join(c.lines(), ", "); got != "CDS -old" {
			t.Errorf("after waiting for listeners: %s", got)
		}
	})
}

func TestDeltaNonces(t *testing.T) {
	inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
		b.apply(simple())
		c := newTalk(t, b.conn(), "a/1", false)
		c.send(ask{kind: clusters})
		h := c.one("CDS in-8080 out-1 out-2 sds-resident static")
		// One response in flight: later changes replace what waits.
		b.apply(simple().edited("a", translate.ClusterType, "static", "v2"))
		b.apply(simple().edited("a", translate.ClusterType, "static", "v3"))
		c.send(ask{kind: clusters, nonce: "stale"})
		equal(t, "before the answer", c.lines(), nil)
		if b.count(Ignored, translate.ClusterType) != 1 || b.count(Acked, translate.ClusterType) != 0 {
			t.Error("a stale nonce is an answer")
		}
		c.ack(h)
		h = c.one("CDS static")
		if want := b.store.generation.Load().halves[b.store.generation.Load().world.Client[classOf("a")]].lists[clusters].get("static"); h.digests["static"] != want.Version {
			t.Error("not the latest")
		}
		c.ack(h)
		seen := map[string]bool{}
		for _, nonce := range c.nonces {
			if seen[nonce] {
				t.Errorf("nonce %s twice", nonce)
			}
			seen[nonce] = true
		}
	})
}

func TestDeltaSecrets(t *testing.T) {
	inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
		b.apply(simple())
		c := newTalk(t, b.conn(), "a/1", false)
		c.send(ask{kind: secrets, add: []string{"stranger", "default", "ROOTCA"}})
		if e := b.last(SecretUnknown); e.Names[0] != "stranger" {
			t.Errorf("event: %+v", e)
		}
		h := c.one("SDS default")
		c.ack(h)
		if b.last(Acked).Truthful {
			t.Error("proven without ROOTCA")
		}
		c.ack(c.one("SDS ROOTCA"))
		if !b.last(Acked).Truthful {
			t.Error("not proven")
		}
		c.send(ask{kind: secrets, add: []string{"default"}}) // again: other bytes, so that files are read
		again := c.one("SDS default")
		if again.digests["default"] == h.digests["default"] {
			t.Error("equal bytes")
		}
		c.ack(again)
		c.send(ask{kind: secrets, drop: []string{"default", "ROOTCA"}})
		m := simple()
		m.dir = "/other"
		b.apply(m)
		equal(t, "unsubscribed", c.lines(), nil)
	})
}

// A proxy that was there before may ACK equal bytes blindly.
func TestClaimsNeedProof(t *testing.T) {
	for _, sotw := range []bool{false, true} {
		inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
			b.apply(simple())
			c := newTalk(t, b.conn(), "a/1", sotw)
			c.send(ask{kind: clusters, version: "old", has: set{"static": "old"}})
			c.take()
			c.send(ask{kind: secrets, version: "old", add: []string{"default"}})
			first := c.one("SDS default")
			c.ack(first, "default")
			second := c.one("SDS default")
			if first.digests["default"] == second.digests["default"] {
				t.Error("equal bytes")
			}
			c.ack(second, "default")
			equal(t, "after the proof", c.lines(), nil)
			if !b.store.Proxies()[0].Types[0].AckedAt.Equal(time.Now()) {
				t.Error("not acknowledged")
			}
		})
	}
}

func TestStreamErrors(t *testing.T) {
	inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
		b.apply(simple())
		c := newTalk(t, b.conn(), "nonsense", false)
		c.send(ask{kind: clusters})
		if err := c.ended(); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "missing parts in the service node") {
			t.Errorf("node: %v", err)
		}
		c = newTalk(t, b.conn(), "a/1", true)
		c.send(ask{url: "type.googleapis.com/unheard.Of"})
		if c.ended() != nil || len(c.take()) > 0 {
			t.Error("other types get no answer")
		}
		b.store.End(b.store.Proxies()[0].Stream, status.Error(codes.PermissionDenied, "expired"))
		if err := c.ended(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("ended: %v", err)
		}
		if e := b.last(Disconnected); e.Detail != "expired" || len(b.store.Proxies()) > 0 {
			t.Errorf("event: %+v", e)
		}
		c = newTalk(t, b.conn(), "a/1", false)
		c.send(ask{kind: clusters})
		if err := c.delta.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if err := c.ended(); !errors.Is(err, io.EOF) || len(b.store.Proxies()) > 0 {
			t.Errorf("client done: %v", err)
		}
		c = newTalk(t, b.conn(), "a/1", false)
		c.send(ask{kind: clusters})
		b.store.Close()
		if err := c.ended(); status.Code(err) != codes.Unavailable {
			t.Errorf("closed: %v", err)
		}
		c = newTalk(t, b.conn(), "a/1", false)
		c.send(ask{kind: clusters})
		if err := c.ended(); status.Code(err) != codes.Unavailable {
			t.Errorf("after close: %v", err)
		}
	})
}

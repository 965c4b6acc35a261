package ads

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/meshpilot/pilot/pkg/translate"
)

// A refused version is never sent again; what Envoy does not name is, once,
// after a pause; a new version of the refused one is.
func TestNackNamesOne(t *testing.T) {
	for _, test := range []struct {
		kind          kind
		bad, good     string
		text          string
		ask           ask
		full, without string
	}{
		{clusters, "out-1", "static", "Error adding/updating cluster(s) out-1: no such transport socket", ask{}, "CDS out-1 static", "CDS static"},
		{endpoints, "out-1", "out-2", "bad endpoints in out-1.", ask{add: []string{"out-1", "out-2"}}, "EDS out-1 out-2", "EDS out-2"},
		{listeners, "l-80", "l-tcp", "Error adding/updating listener(s) l-80: duplicate match", ask{}, "LDS l-80 l-tcp", "LDS l-tcp"},
		{routes, "80", "in|8080", "route '80' has no cluster", ask{add: []string{"80", "in|8080"}}, "RDS 80 in|8080", "RDS in|8080"},
	} {
		t.Run(test.kind.short(), func(t *testing.T) {
			inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
				edit := func(m mesh, name, variant string) mesh {
					if name == "in|8080" {
						m.server.routes = set{"in|8080": variant}
						return m
					}
					return m.edited("a", test.kind.url(), name, variant)
				}
				b.apply(simple())
				c := newTalk(t, b.conn(), "a/1", false)
				test.ask.kind = test.kind
				c.send(test.ask)
				for _, h := range c.take() {
					c.ack(h)
				}
				m := edit(edit(simple(), test.bad, "v2"), test.good, "v2")
				b.apply(m)
				c.nack(c.one(test.full), test.text)
				if e := b.last(Refused); e.Detail != test.text || !slices.Equal(e.Names, []string{test.bad}) || e.TypeURL != test.kind.url() {
					t.Errorf("event: %+v", e)
				}
				equal(t, "in answer", c.lines(), nil)
				pass(time.Second)
				c.ack(c.one(test.without))
				pass(time.Hour)
				b.apply(m)
				equal(t, "later", c.lines(), nil)
				if state := b.store.Proxies()[0].Types[0]; state.Nacks != 1 || state.Nack != test.text || !slices.Equal(state.Refused, []string{test.bad}) {
					t.Errorf("state: %+v", state)
				}
				m = edit(m, test.good, "v3")
				b.apply(m)
				c.ack(c.one(test.without))
				b.apply(edit(m, test.bad, "v3"))
				c.ack(c.one(test.kind.short() + " " + test.bad))
				b.apply(m)
				equal(t, "the refused version once more", c.lines(), nil)
			})
		})
	}
}

func TestNackThatNamesNothing(t *testing.T) {
	inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
		b.apply(simple())
		c := newTalk(t, b.conn(), "a/1", false)
		c.send(ask{kind: clusters})
		c.nack(c.one("CDS in-8080 out-1 out-2 sds-resident static"), "no")
		pass(time.Hour)
		equal(t, "after an hour", c.lines(), nil)
		b.apply(simple().edited("a", translate.ClusterType, "static", "v2"))
		c.ack(c.one("CDS static"))
	})
}

// In state of the world a list is the whole state, so the refused resource is
// sent as the proxy has it.
func TestNackSotW(t *testing.T) {
	inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
		b.apply(simple())
		c := newTalk(t, b.conn(), "a/1", true)
		c.send(ask{kind: clusters})
		first := c.one("CDS in-8080 out-1 out-2 sds-resident static")
		c.ack(first)
		m := simple().edited("a", translate.ClusterType, "out-1", "eds bad").edited("a", translate.ClusterType, "new", "bad").
			edited("a", translate.ClusterType, "static", "v2")
		b.apply(m)
		h := c.one("CDS in-8080 new out-1 out-2 sds-resident static")
		c.nack(h, "Error adding/updating cluster(s) out-1: bad, new: bad")
		equal(t, "in answer", c.lines(), nil)
		pass(time.Second)
		again := c.one("CDS in-8080 out-1 out-2 sds-resident static")
		if again.digests["out-1"] != first.digests["out-1"] || again.digests["static"] != h.digests["static"] {
			t.Error("not the last good out-1, or not the new static")
		}
		c.ack(again)
		pass(time.Hour)
		b.apply(m)
		equal(t, "later", c.lines(), nil)
		config, _ := b.store.Config("a/1")
		for _, r := range config[0].Resources {
			if r.Name == "new" || r.Name == "out-1" && r.Version != first.digests["out-1"] {
				t.Errorf("config has %s %s", r.Name, r.Version)
			}
		}
	})
}

// What a proxy refused it is not sent on another stream either, whether it
// kept its configuration or begins anew; another proxy is, and so is another
// Envoy in its place.
func TestNackOutlivesTheStream(t *testing.T) {
	for _, sotw := range []bool{false, true} {
		inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
			b.apply(simple())
			c := newTalk(t, b.conn(), "a/1", sotw)
			c.send(ask{kind: clusters})
			first := c.one("CDS in-8080 out-1 out-2 sds-resident static")
			c.ack(first)
			m := simple().edited("a", translate.ClusterType, "out-1", "eds bad")
			b.apply(m)
			bad := c.take()[0]
			c.nack(bad, "Error adding/updating cluster(s) out-1: bad")
			b.conns[len(b.conns)-1].Close()
			synctest.Wait()
			again := newTalk(t, b.conn(), "a/1", sotw)
			again.send(ask{kind: clusters})
			h := again.take()[0]
			if h.digests["out-1"] != first.digests["out-1"] || h.digests["static"] == "" {
				t.Errorf("state of the world %v: out-1 is %q, want the last good one %q", sotw, h.digests["out-1"], first.digests["out-1"])
			}
			other := newTalk(t, b.conn(), "a/2", sotw)
			other.send(ask{kind: clusters})
			if h := other.take()[0]; h.digests["out-1"] != bad.digests["out-1"] {
				t.Error("another proxy pays for it")
			}
		})
	}
}

// Without a name in Envoy's text nobody knows whose fault it was, so the next
// stream tries again.
func TestNackThatNamesNothingEndsWithTheStream(t *testing.T) {
	inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
		b.apply(simple())
		for range 2 {
			c := newTalk(t, b.conn(), "a/1", false)
			c.send(ask{kind: clusters})
			c.nack(c.one("CDS in-8080 out-1 out-2 sds-resident static"), "no")
		}
	})
}

func TestProxyKeyTellsEnvoysApart(t *testing.T) {
	node := func(minor uint32) *corev3.Node {
		return &corev3.Node{Id: "a/1", UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{
			UserAgentBuildVersion: &corev3.BuildVersion{Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: minor}},
		}}
	}
	if proxyKey(node(31)) != proxyKey(node(31)) || proxyKey(node(31)) == proxyKey(node(32)) {
		t.Error("the key does not follow Envoy's version")
	}
}

// Whatever a proxy refuses, it is not sent much.
func TestNackEverything(t *testing.T) {
	for _, sotw := range []bool{false, true} {
		inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
			b.apply(simple())
			c := newTalk(t, b.conn(), "a/1", sotw)
			ok := ask{kind: endpoints, add: []string{"out-1", "out-2"}}
			for _, a := range []ask{{kind: clusters}, ok, {kind: listeners}, {kind: routes, add: []string{"80"}}} {
				c.send(a)
			}
			sent := 0
			for range 1000 {
				heard := c.take()
				sent += len(heard)
				for _, h := range heard {
					text := ""
					for name := range h.digests {
						text = name // one at a time
					}
					c.nack(h, "bad: "+text+".", ok.add...)
				}
				pass(time.Minute)
			}
			if sent < 4 || sent > 30 {
				t.Errorf("%d responses in a thousand minutes", sent)
			}
		})
	}
}

func TestMentions(t *testing.T) {
	for _, test := range []struct {
		text, name string
		want       bool
	}{
		{"Error adding/updating cluster(s) outbound|80||a.b: bad", "outbound|80||a.b", true},
		{"outbound|80||a.b.c: bad", "outbound|80||a.b", false},
		{"route 80.", "80", true}, {"route 8080", "80", false}, {"0.0.0.0_80: x", "80", false}, {`name: "80"`, "80", true},
		{"x", "", false}, {"", "80", false},
	} {
		if got := mentions(test.text, test.name); got != test.want {
			t.Errorf("mentions(%q, %q) = %v", test.text, test.name, got)
		}
	}
}

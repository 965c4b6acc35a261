package ads

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/meshpilot/pilot/internal/fakeenvoy"
	"github.com/meshpilot/pilot/pkg/discovery/ads/wire"
	"github.com/meshpilot/pilot/pkg/translate"
)

// protocols runs a test in both protocols.
func protocols(t *testing.T, test func(t *testing.T, o fakeenvoy.Options)) {
	t.Run("delta", func(t *testing.T) { test(t, fakeenvoy.Options{}) })
	t.Run("sotw", func(t *testing.T) { test(t, fakeenvoy.Options{SotW: true}) })
}

func TestFirstConnect(t *testing.T) {
	protocols(t, func(t *testing.T, o fakeenvoy.Options) {
		inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
			e := b.envoy(o, "a/1")
			if n := len(e.Responses()); n > 0 {
				t.Fatalf("%d responses before the first world", n)
			}
			b.apply(simple())
			var order, secret []string
			for _, line := range trace(e.Responses()) {
				if name, ok := strings.CutPrefix(line, "SDS "); ok {
					secret = append(secret, name)
				} else {
					order = append(order, line)
				}
			}
			slices.Sort(secret)
			equal(t, "secrets", secret, []string{"ROOTCA", "default"})
			equal(t, "order", order, []string{
				"CDS in-8080 out-1 out-2 sds-resident static", "EDS out-1 out-2",
				"LDS l-80 l-tcp virtualInbound", "RDS 80 in|8080",
			})
			if b.count(Connected, "") != 1 || b.count(Acked, translate.ClusterType) != 1 {
				t.Errorf("events: %+v", b.events)
			}
			state := b.store.Proxies()[0]
			if !state.Known || !state.Secrets || len(state.Types) != 5 || state.Types[1].Acked != state.Types[1].Sent {
				t.Errorf("state: %+v", state)
			}
			config, ok := b.store.Config("a/1")
			if !ok || len(config) != 5 || len(config[1].Resources) != 5 || len(config[2].Resources) != 2 || len(config[0].Resources) != 2 {
				t.Errorf("config: %v", config)
			}
		})
	})
}

func TestOneServiceChanges(t *testing.T) {
	protocols(t, func(t *testing.T, o fakeenvoy.Options) {
		inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
			b.apply(simple())
			a, other := b.envoy(o, "a/1"), b.envoy(o, "b/1")
			next, nextOther := sinceThen(a), sinceThen(other)
			next()
			nextOther()

			// The endpoints go with their changed cluster, changed or not.
			m := simple().edited("a", translate.ClusterType, "out-1", "eds 2")
			b.apply(m)
			cds := "CDS out-1"
			if o.SotW {
				cds = "CDS in-8080 out-1 out-2 sds-resident static"
			}
			equal(t, "changed cluster", next(), []string{cds, "EDS out-1"})
			equal(t, "the other class", nextOther(), nil)

			m = m.edited("a", translate.EndpointType, "out-2", "v2")
			b.apply(m)
			equal(t, "changed endpoints", next(), []string{"EDS out-2"})
			equal(t, "the other class", nextOther(), nil)

			b.apply(m)
			b.apply(m.edited("a", translate.EndpointType, "other", "v2"))
			equal(t, "nothing it asked for changed", next(), nil)
		})
	})
}

func TestOrderOfAPush(t *testing.T) {
	protocols(t, func(t *testing.T, o fakeenvoy.Options) {
		inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
			b.apply(simple())
			e := b.envoy(o, "a/1")
			next := sinceThen(e)
			next()
			// out-2 goes, out-3 comes, a listener and a route follow.
			m := simple().edited("a", translate.ClusterType, "out-2", "").edited("a", translate.EndpointType, "out-2", "").
				edited("a", translate.ClusterType, "out-3", "eds").edited("a", translate.EndpointType, "out-3", "v1").
				edited("a", translate.ListenerType, "l-tcp", "v2").edited("a", translate.RouteType, "80", "v2")
			b.apply(m)
			want := []string{"CDS out-3", "EDS out-3", "LDS l-tcp", "RDS 80", "CDS -out-2"}
			if o.SotW {
				want = []string{
					"CDS in-8080 out-1 out-2 out-3 sds-resident static", "EDS out-3", "LDS l-80 l-tcp virtualInbound", "RDS 80",
					"CDS in-8080 out-1 out-3 sds-resident static",
				}
			}
			got := next()
			equal(t, "order", got, want)
			if o.SotW {
				var versions []string
				for _, r := range e.Responses() {
					if r.TypeURL == translate.ClusterType {
						versions = append(versions, r.Version)
					}
				}
				if n := len(versions); versions[n-1] == versions[n-2] {
					t.Errorf("the list with and without out-2 have one version")
				}
			}
		})
	})
}

func TestResume(t *testing.T) {
	inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
		m := simple()
		m.needs = true
		b.apply(m)
		held := b.envoy(fakeenvoy.Options{}, "a/1").Close()

		e := b.envoy(fakeenvoy.Options{Held: held}, "a/1")
		equal(t, "unchanged", trace(e.Responses()), []string{"CDS", "LDS"})
		if !b.store.Proxies()[len(b.store.Proxies())-1].Secrets {
			t.Error("secrets that it holds count as proven")
		}
		held = e.Close()

		b.apply(m.edited("a", translate.ClusterType, "out-1", "eds 2").edited("a", translate.ClusterType, "static", "").
			edited("a", translate.RouteType, "80", "v2"))
		e = b.envoy(fakeenvoy.Options{Held: held}, "a/1")
		equal(t, "changed while it was away", trace(e.Responses()), []string{"CDS out-1", "EDS out-1", "LDS", "RDS 80", "CDS -static"})
		if !maps.Equal(versions(e.Held()[translate.RouteType]), wantedVersions(b, translate.RouteType)) {
			t.Error("routes held are not those of the world")
		}
	})
}

func versions(resources map[string]fakeenvoy.Resource) set {
	v := set{}
	for name, r := range resources {
		v[name] = r.Version
	}
	return v
}

func wantedVersions(b *bed, url string) set {
	v := set{}
	config, _ := b.store.Config("a/1")
	for _, sent := range config {
		for _, r := range sent.Resources {
			if sent.TypeURL == url {
				v[r.Name] = r.Version
			}
		}
	}
	return v
}

func TestUnknownWorkloadWaits(t *testing.T) {
	protocols(t, func(t *testing.T, o fakeenvoy.Options) {
		inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
			m := simple()
			m.unknown = true
			b.apply(m)
			e := b.envoy(o, "a/1")
			m.unknown, m.noServer = false, true
			b.apply(m)
			if len(e.Responses()) > 0 || b.store.Proxies()[0].Known {
				t.Fatal("answered without a class")
			}
			m.noServer = false
			b.apply(m)
			if len(e.Names(translate.ClusterType)) != 5 {
				t.Errorf("holds %v", e.Held())
			}
			// A workload that goes leaves its proxy as it is.
			m.unknown = true
			before := len(e.Responses())
			b.apply(m)
			if len(e.Responses()) != before || len(e.Names(translate.ListenerType)) != 3 {
				t.Errorf("sent %v", trace(e.Responses()[before:]))
			}
		})
	})
}

func TestClassesRedrawn(t *testing.T) {
	protocols(t, func(t *testing.T, o fakeenvoy.Options) {
		inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
			b.apply(simple())
			e := b.envoy(o, "a/1")
			next := sinceThen(e)
			next()
			m := simple()
			m.client = map[string]content{"a": m.client["b"], "b": m.client["a"]}
			m.client["a"].clusters["out-1"] = "eds"
			b.apply(m)
			for _, url := range []string{translate.ClusterType, translate.ListenerType, translate.RouteType} {
				if want := wantedVersions(b, url); !o.SotW && !maps.Equal(versions(e.Held()[url]), want) {
					t.Errorf("holds %v, want %v", e.Names(url), want)
				}
			}
			if got := e.Names(translate.ClusterType); len(got) != 4 || got[1] != "only-b" {
				t.Errorf("clusters: %v", got)
			}
		})
	})
}

func TestSecretsFirst(t *testing.T) {
	protocols(t, func(t *testing.T, o fakeenvoy.Options) {
		inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
			var missing atomic.Bool
			missing.Store(true)
			o.Refuse = func(r fakeenvoy.Response) string {
				if _, ok := r.Resources["default"]; ok && missing.Load() {
					return "Invalid path: /etc/certs/cert-chain.pem"
				}
				return ""
			}
			m := simple()
			m.needs = true
			b.apply(m)
			e := b.envoy(o, "a/1")
			next := sinceThen(e)
			pass(10 * time.Second)
			got := next()
			resident := 0
			for _, line := range got {
				if strings.HasPrefix(line, "SDS ") {
					continue
				}
				if line != "CDS sds-resident" {
					t.Errorf("sent before the secrets: %s", line)
				}
				resident++
			}
			if resident != 1 {
				t.Errorf("%d times sds-resident", resident)
			}
			if refused := b.last(Refused); refused.Detail != "Invalid path: /etc/certs/cert-chain.pem" || refused.Names[0] != "default" {
				t.Errorf("event: %+v", refused)
			}
			missing.Store(false)
			pass(30 * time.Second)
			names := strings.Join(next(), "\n")
			if !strings.Contains(names, "CDS in-8080 out-1 out-2") || !strings.HasSuffix(names, "RDS 80 in|8080") {
				t.Errorf("after the secrets: %s", names)
			}
			if !b.last(Acked).Time.After(b.last(Refused).Time) || !b.store.Proxies()[0].Secrets {
				t.Error("secrets are not proven")
			}

			// A proxy that has its configuration keeps it while new secrets are not proven.
			missing.Store(true)
			changed := m.edited("a", translate.ClusterType, "static", "v2")
			changed.dir = "/elsewhere"
			b.apply(changed)
			for _, line := range next() {
				if !strings.HasPrefix(line, "SDS ") {
					t.Errorf("sent before the new secrets: %s", line)
				}
			}
			missing.Store(false)
			pass(30 * time.Second)
			if names := strings.Join(next(), "\n"); !strings.Contains(names, "CDS") {
				t.Errorf("after the new secrets: %s", names)
			}
		})
	})
}

func TestSecretsAreSpelledAnew(t *testing.T) {
	protocols(t, func(t *testing.T, o fakeenvoy.Options) {
		inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
			var bytes []string
			var times []time.Duration
			start := time.Now()
			o.Refuse = func(r fakeenvoy.Response) string {
				if len(r.Resources) > 1 && r.TypeURL == translate.SecretType {
					t.Error("two secrets in one response")
				}
				if secret, ok := r.Resources["default"]; ok {
					bytes = append(bytes, string(secret.Body.GetValue()))
					times = append(times, time.Since(start))
					return "Invalid path"
				}
				return ""
			}
			b.apply(simple())
			b.envoy(o, "a/1")
			pass(5 * time.Minute)
			for i := 1; i < len(bytes); i++ {
				if bytes[i] == bytes[i-1] {
					t.Fatalf("send %d repeats the bytes", i)
				}
				wait := times[i] - times[i-1]
				most := min(30*time.Second, 250*time.Millisecond<<(i-1))
				if wait > most || wait < most*8/10-time.Millisecond {
					t.Errorf("send %d came after %v, want about %v", i, wait, most)
				}
			}
			if len(bytes) < 14 || len(bytes) > 22 {
				t.Errorf("%d sends in 5 minutes", len(bytes))
			}
		})
	})
}

// TestApplyBeforeTheFirstRead: a world that comes between a stream's entry and
// its first read must not take the news of its connection.
func TestApplyBeforeTheFirstRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var heard []EventKind
		store := NewStore(StoreOptions{Identify: identify, Notify: func(e Event) {
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, e.Kind)
		}})
		node, err := proto.Marshal(&corev3.Node{Id: "shop/cart"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.open(entered{ctx: t.Context()}, true, &wire.Request{Node: node}); err != nil {
			t.Fatal(err)
		}
		store.Apply(mesh{}.world())
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(heard, []EventKind{Connected}) {
			t.Errorf("heard %v, want the connection", heard)
		}
	})
}

// entered is a gRPC stream of which nothing was read yet.
type entered struct {
	grpc.ServerStream
	ctx context.Context
}

func (e entered) Context() context.Context { return e.ctx }

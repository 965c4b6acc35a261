package ads

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshpilot/pilot/internal/fakeenvoy"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

// ruled is a world of real configuration: workload a/1 sends MUTUAL to a
// service of b, and has a subset of its own there. mode is that of all
// ports: DISABLE needs no certificate of the mesh.
func ruled(mode model.Mode, timeout time.Duration) *World {
	const host = "s.b.svc.cluster.local"
	var in model.Inputs
	in.Mesh = model.Mesh{AutoMTLS: true, TrustDomain: "cluster.local", Domain: "cluster.local", ListenPort: 15001, InboundListenPort: 15006, ConnectTimeout: timeout}
	for _, namespace := range []string{"a", "b"} {
		in.Workloads = append(in.Workloads, model.Workload{
			ID: model.WorkloadID{Namespace: namespace, Name: "1"}, ServiceAccount: "x", Sidecar: true, Labels: map[string]string{"in": namespace},
		})
	}
	in.Services = []model.Service{{Key: model.Key{Kind: "Service", Namespace: "b", Name: "s"}, Host: host, Namespace: "b", Name: "s", VIPs: []string{"10.0.0.1"}, Ports: []model.ServicePort{{
		Name: "http", Number: 80, Protocol: model.HTTP,
		Endpoints: []model.Endpoint{{Address: "10.1.0.1", Port: 80, Workload: model.WorkloadID{Namespace: "b", Name: "1"}, Ready: true}},
	}}}}
	in.Rules = []model.DestinationRule{{
		Key: model.Key{Kind: "DestinationRule", Namespace: "a", Name: "r"}, Host: host,
		Policy: &model.TrafficPolicy{Traffic: model.Traffic{TLS: &model.TLSSettings{
			Mode: model.ClientMutual, ClientCertificate: "/c/tls.crt", PrivateKey: "/c/tls.key", CACertificates: "/c/ca.crt",
		}}},
		Subsets: []model.Subset{{Name: "own", Labels: map[string]string{"in": "b"}}},
	}}
	in.Policies = []model.ServerPolicy{{Key: model.Key{Kind: "MeshPolicy", Name: "default"}, Rules: []model.PolicyRule{{Rank: model.RankMesh, Mode: mode}}}}
	w := &World{Snapshot: model.Build(in), Client: map[model.ClientClass]*translate.Half{}, Server: map[model.ServerClass]*translate.Half{}}
	shared := translate.Share(w.Snapshot, nil)
	w.Endpoints = translate.Endpoints(w.Snapshot.Endpoints(), nil)
	for _, workload := range in.Workloads {
		client, server, _ := w.Snapshot.ClassOf(model.Proxy{ID: workload.ID})
		w.Client[client] = translate.Outbound(w.Snapshot.ClientView(client), shared, nil)
		w.Server[server] = translate.Inbound(w.Snapshot.ServerView(server), nil)
	}
	return w
}

// The files of a rule are answered to those whose clusters name them, and hold
// back nothing when they are missing; only the mesh's own do.
func TestRuleSecrets(t *testing.T) {
	const cert = "file-cert:/c/tls.crt~/c/tls.key"
	missing := func(r fakeenvoy.Response) string {
		if _, ok := r.Resources[cert]; ok {
			return "Invalid path: /c/tls.crt"
		}
		return ""
	}
	for name, refuse := range map[string]func(fakeenvoy.Response) string{"files are there": nil, "files are missing": missing} {
		t.Run(name, func(t *testing.T) {
			protocols(t, func(t *testing.T, o fakeenvoy.Options) {
				inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
					o.Refuse = refuse
					b.store.Apply(ruled(model.Strict, time.Second))
					e, other := b.envoy(o, "a/1"), b.envoy(o, "b/1")
					want := []string{"ROOTCA", "default", cert, "file-root:/c/ca.crt"}
					if refuse != nil {
						want = slices.Delete(want, 2, 3)
					}
					equal(t, "secrets", e.Names(translate.SecretType), want)
					equal(t, "secrets of the other class", other.Names(translate.SecretType), []string{"ROOTCA", "default"})
					if n := len(e.Names(translate.ListenerType)); n == 0 || !b.store.Proxies()[0].Secrets {
						t.Errorf("%d listeners; a rule's files are no secrets of the mesh", n)
					}
					if n := b.count(SecretUnknown, translate.SecretType); n != 0 {
						t.Errorf("%d secrets are unknown", n)
					}
				})
			})
		})
	}
}

// Endpoints that are not called as their cluster go with it all the same.
func TestSubsetEndpoints(t *testing.T) {
	protocols(t, func(t *testing.T, o fakeenvoy.Options) {
		inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
			b.store.Apply(ruled(model.Disable, time.Second))
			e := b.envoy(o, "a/1")
			names := e.Names(translate.EndpointType)
			if len(names) != 2 || names[0] != "outbound|80|own|s.b.svc.cluster.local|"+names[0][strings.LastIndex(names[0], "|")+1:] {
				t.Fatalf("endpoints %q", names)
			}
			next := sinceThen(e)
			next()
			b.store.Apply(ruled(model.Disable, 2*time.Second)) // in every cluster
			synctest.Wait()
			if got := next(); !slices.Contains(got, "EDS "+names[0]+" "+names[1]) {
				t.Errorf("got %q", got)
			}
		})
	})
}

// TestNamesOfTheGoneAreForgotten: the index of names follows what there is,
// not what there ever was; proxies come again for it.
func TestNamesOfTheGoneAreForgotten(t *testing.T) {
	inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
		many := simple()
		many.client = maps.Clone(many.client)
		c := many.client["a"]
		c.clusters = maps.Clone(c.clusters)
		for i := range mostGone + 100 {
			c.clusters["renamed-"+strconv.Itoa(i)] = "v1"
		}
		many.client["a"] = c
		b.apply(many)
		first := newTalk(t, b.conn(), "a/1", false)
		first.send(ask{kind: clusters})
		first.ack(first.take()[0])
		b.apply(simple())
		first.mu.Lock()
		if status.Code(first.err) != codes.Unavailable {
			t.Errorf("the stream of the old index ended with %v", first.err)
		}
		first.mu.Unlock()
		if n := len(b.store.generation.Load().names.list); n > 50 {
			t.Errorf("%d names are kept", n)
		}
		again := newTalk(t, b.conn(), "a/1", false)
		again.send(ask{kind: clusters})
		again.ack(again.one("CDS in-8080 out-1 out-2 sds-resident static"))
		b.apply(simple().edited("a", translate.ClusterType, "static", "v2"))
		again.ack(again.one("CDS static"))
	})
}

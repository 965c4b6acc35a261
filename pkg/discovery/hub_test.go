package discovery

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

// shop is two workloads with a service each; stock's sidecar is not known
// from its pod.
const shop = `
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  clusterIP: 10.1.0.1
  selector: {app: cart}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: cart-1, namespace: shop, labels: {app: cart, security.istio.io/tlsMode: istio}}
spec: {serviceAccountName: cart, containers: [{name: app, image: app}]}
status: {podIP: 127.0.0.1}
---
apiVersion: v1
kind: Service
metadata: {name: stock, namespace: store}
spec:
  clusterIP: 10.1.0.2
  selector: {app: stock}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: stock-1, namespace: store, labels: {app: stock}}
spec: {serviceAccountName: stock, containers: [{name: app, image: app}]}
status: {podIP: 127.0.0.2}
`

const strictCart = `---
apiVersion: authentication.istio.io/v1alpha1
kind: Policy
metadata: {name: strict, namespace: shop}
spec: {targets: [{name: cart}], peers: [{mtls: {}}]}
`

func bundle(t *testing.T, documents ...string) meshconfig.Bundle {
	t.Helper()
	b, problems := meshconfig.Decode(strings.NewReader(strings.Join(documents, "\n---\n")), "test.yaml")
	for _, p := range problems {
		if p.Severity == meshconfig.Error {
			t.Fatal(p)
		}
	}
	return b
}

// loop runs a hub until the test's end.
func loop(t *testing.T) *hub { return loopWith(t, func(*hub) {}) }

func loopWith(t *testing.T, prepare func(*hub)) *hub {
	h := newHub("cluster.local", slog.New(slog.NewTextHandler(io.Discard, nil)), status.NewMetrics())
	prepare(h)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); h.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return h
}

// reads publishes documents and waits until they are in force.
func (h *hub) reads(t *testing.T, documents ...string) {
	t.Helper()
	h.publish(bundle(t, documents...), nil)
	h.settle()
}

// settle waits longer than edits and streams are collected.
func (h *hub) settle() {
	time.Sleep(time.Second)
	synctest.Wait()
}

// connects makes the hub hear of a stream.
func (h *hub) connects(stream uint64, namespace, name, address string) {
	proxy := model.Proxy{ID: model.WorkloadID{Namespace: namespace, Name: name}, Address: address}
	h.events.put(ads.Event{Kind: ads.Connected, Stream: stream, Node: "sidecar~" + address, Proxy: proxy, Time: time.Now()})
}

func problemCodes(h *hub) string {
	var out []string
	for _, f := range h.published.Load().Findings {
		out = append(out, f.Code)
	}
	return strings.Join(out, " ")
}

func TestEditsAreMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := loop(t)
		h.publish(bundle(t, shop), nil)
		synctest.Wait()
		first := h.world.Load()
		if first == nil {
			t.Fatal("the first bundle waited")
		}
		// Edits every 60 ms: never quiet, so the refresh delay of 1 s decides.
		start := time.Now()
		for time.Since(start) < 990*time.Millisecond {
			h.publish(bundle(t, shop, strictCart), nil)
			time.Sleep(60 * time.Millisecond)
			synctest.Wait()
			if time.Since(start) < time.Second && h.world.Load() != first {
				t.Fatalf("applied after %v without 100 ms of quiet", time.Since(start))
			}
		}
		if h.world.Load() == first {
			t.Fatalf("not applied after %v, the refresh delay is 1 s", time.Since(start))
		}
		second := h.world.Load()
		time.Sleep(time.Second)
		h.publish(bundle(t, shop), nil)
		time.Sleep(99 * time.Millisecond)
		synctest.Wait()
		if h.world.Load() != second {
			t.Fatal("applied before 100 ms of quiet")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if h.world.Load() == second {
			t.Fatal("not applied after 100 ms of quiet")
		}
	})
}

func TestWhatDidNotChangeKeepsItsPointer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := loop(t)
		h.publish(bundle(t, shop), nil)
		h.connects(1, "shop", "cart-1", "127.0.0.1")
		h.connects(2, "store", "stock-1", "127.0.0.2")
		apply := func(documents ...string) *ads.World {
			h.reads(t, documents...)
			return h.world.Load()
		}
		plain := apply(shop)
		if len(plain.Client) != 2 || len(plain.Server) != 2 {
			t.Fatalf("%d client and %d server halves, want 2 of each", len(plain.Client), len(plain.Server))
		}
		again := apply(shop)
		if !equal(again, &ads.World{Snapshot: again.Snapshot, Client: plain.Client, Server: plain.Server, Endpoints: plain.Endpoints}) {
			t.Error("the same configuration has other halves")
		}
		strict := apply(shop, strictCart)
		for class, half := range strict.Server {
			if same := half == plain.Server[class]; same != (class.Namespace == "store") {
				t.Errorf("server half of %s kept: %v", class.Namespace, same)
			}
		}
		for class, half := range strict.Client {
			if half == plain.Client[class] || half.Listeners != plain.Client[class].Listeners {
				t.Errorf("client half of %s: want other clusters and the same listeners", class.Namespace)
			}
		}
		misses := testutil.ToFloat64(h.metrics.Cache.WithLabelValues("miss"))
		back := apply(shop)
		for class, half := range back.Client {
			if half != plain.Client[class] {
				t.Errorf("toggling back made the client half of %s again", class.Namespace)
			}
		}
		for class, half := range back.Server {
			if half != plain.Server[class] {
				t.Errorf("toggling back made the server half of %s again", class.Namespace)
			}
		}
		if now := testutil.ToFloat64(h.metrics.Cache.WithLabelValues("miss")); now != misses {
			t.Errorf("toggling back translated %v halves", now-misses)
		}
	})
}

func TestANewClassIsServedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := loop(t)
		h.publish(bundle(t, shop), nil)
		synctest.Wait()
		h.connects(1, "shop", "cart-1", "127.0.0.1")
		synctest.Wait()
		if len(h.world.Load().Client) != 0 {
			t.Error("served without waiting for others")
		}
		time.Sleep(connectTime)
		synctest.Wait()
		if len(h.world.Load().Client) != 1 || len(h.world.Load().Server) != 1 {
			t.Errorf("%d client halves after %v", len(h.world.Load().Client), connectTime)
		}
		world := h.world.Load()
		h.connects(2, "shop", "cart-1", "127.0.0.1")
		time.Sleep(time.Minute)
		synctest.Wait()
		if h.world.Load() != world {
			t.Error("a proxy of a known class made a new world")
		}
	})
}

func TestAConnectedSidecarIsEvidence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := loop(t)
		stock := model.WorkloadID{Namespace: "store", Name: "stock-1"}
		has := func() bool {
			h.settle()
			return h.snapshot.Load().HasSidecar(stock)
		}
		h.publish(bundle(t, shop), nil)
		h.connects(1, "store", "stock-1", "127.0.0.9")
		if has() {
			t.Error("a proxy at another address is no evidence")
		}
		h.connects(2, "store", "stock-1", "127.0.0.2")
		if !has() {
			t.Error("the sidecar was not noticed")
		}
		h.events.put(ads.Event{Kind: ads.Disconnected, Stream: 2, Time: time.Now()})
		h.publish(bundle(t, shop), nil)
		if !has() {
			t.Error("forgotten during the workload's life")
		}
		h.publish(bundle(t, strings.Split(shop, "---")[0]), nil)
		time.Sleep(time.Second)
		h.publish(bundle(t, shop), nil)
		if has() {
			t.Error("evidence outlived the workload")
		}
		h.connects(3, "store", "stock-1", "127.0.0.2")
		h.publish(bundle(t, shop), nil) // the edit and the evidence are one build
		if !has() {
			t.Error("the new workload's sidecar was not noticed")
		}
	})
}

func TestOldCapturePortsAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := loop(t)
		ports := func(listen uint16, namespace string) string {
			b := bundle(t, shop)
			b.Mesh = meshconfig.DefaultMesh()
			b.Mesh.ListenPort = listen
			if namespace != "" {
				h.connects(1, namespace, "cart-1", "127.0.0.1")
			}
			h.publish(b, nil)
			h.settle()
			return problemCodes(h)
		}
		if got := ports(15001, "shop"); got != "" {
			t.Errorf("as it started: %s", got)
		}
		if got := ports(16001, ""); got != "CAPTURE_PORT" {
			t.Errorf("got %s", got)
		}
		if got := ports(16001, "shop"); got != "CAPTURE_PORT" {
			t.Errorf("after it connected again: %s", got)
		}
		h.events.put(ads.Event{Kind: ads.Disconnected, Stream: 1, Time: time.Now()})
		h.settle()
		if got := problemCodes(h); got != "" {
			t.Errorf("after it left: %s", got)
		}
		if got := ports(16001, "shop"); got != "CAPTURE_PORT" {
			t.Errorf("when it came back: %s", got)
		}
		if got := ports(15001, ""); got != "" {
			t.Errorf("with the old port again: %s", got)
		}
	})
}

func TestUnknownWorkloadIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := loop(t)
		h.publish(bundle(t, shop), nil)
		synctest.Wait()
		h.connects(1, "shop", "cart-7", "127.0.0.7")
		time.Sleep(unknownGrace - time.Millisecond)
		synctest.Wait()
		if got := problemCodes(h); strings.Contains(got, "UNKNOWN_WORKLOAD") {
			t.Errorf("too early: %s", got)
		}
		time.Sleep(shownTime + time.Millisecond)
		synctest.Wait()
		if got := problemCodes(h); !strings.Contains(got, "UNKNOWN_WORKLOAD") {
			t.Errorf("got %s", got)
		}
		h.reads(t, strings.ReplaceAll(shop, "cart-1", "cart-7"))
		if got := problemCodes(h); strings.Contains(got, "UNKNOWN_WORKLOAD") {
			t.Errorf("still reported: %s", got)
		}
	})
}

func TestProblemsOfTheSourceAndTheCompiler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := loop(t)
		stray := strings.ReplaceAll(strictCart, "name: cart", "name: card")
		h.publish(bundle(t, shop, stray), []meshconfig.Problem{{Code: "INVALID", Severity: meshconfig.Error, Message: "no"}})
		h.settle()
		if got := problemCodes(h); !strings.HasPrefix(got, "INVALID") || !strings.Contains(got, "NO_SERVICE") {
			t.Errorf("got %s", got)
		}
		h.reads(t, shop, strictCart)
		if got := problemCodes(h); strings.Contains(got, "INVALID") || strings.Contains(got, "NO_SERVICE") {
			t.Errorf("got %s, want both gone with their causes", got)
		}
	})
}

func TestRefusedPathsAreAProblemForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := loop(t)
		node := testNode(t, "sidecar~127.0.0.1~cart-1.shop~shop.svc.cluster.local", map[string]any{"TLS_SERVER_KEY": "key.pem"})
		if _, err := h.identify(t.Context(), node); err == nil {
			t.Fatal("let in")
		}
		h.settle()
		if got := problemCodes(h); got != "UNKNOWN_SECRET" {
			t.Errorf("got %s", got)
		}
		time.Sleep(refusedTime)
		synctest.Wait()
		if got := problemCodes(h); got != "" {
			t.Errorf("got %s, want nothing a minute after the last attempt", got)
		}
	})
}

func TestPublishNeverBlocks(t *testing.T) {
	h := newHub("cluster.local", slog.Default(), status.NewMetrics())
	b := bundle(t, shop)
	h.publish(meshconfig.Bundle{}, nil)
	first := time.Now()
	h.publish(meshconfig.Bundle{}, nil)
	h.publish(b, nil)
	d := <-h.mailbox
	if len(d.bundle.Services) != 2 || d.at.After(first) {
		t.Errorf("got %d services, published %v; want the last bundle and the time of the first", len(d.bundle.Services), d.at)
	}
}

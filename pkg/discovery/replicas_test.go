package discovery

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/meshpilot/pilot/internal/fakeenvoy"
	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
	"github.com/meshpilot/pilot/pkg/translate"
)

// fleet is what replicas share, in memory.
type fleet struct {
	t       *testing.T
	mu      sync.Mutex
	states  map[model.Target]rollout.State
	serial  uint64
	leader  string
	term    uint64
	owner   string // who loaded the states last
	history []model.Phase
	lost    time.Time
	all     []*one
}

// one is a replica: its hub behind a gRPC server.
type one struct {
	*mesh
	fleet   *fleet
	name    string
	changed chan struct{}
	about   rollout.Replica
	report  []byte
	at      time.Time // of report
	silent  string
	gone    bool
	frozen  bool // it says the same as before
}

// inFleet runs a test with replicas of which the first leads.
func inFleet(t *testing.T, names string, test func(f *fleet, by map[string]*one)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{t: t}
		by := map[string]*one{}
		var stops []func()
		defer func() {
			for _, stop := range stops {
				stop()
			}
		}()
		for _, name := range strings.Fields(names) {
			o := &one{fleet: f, name: name, changed: make(chan struct{}, 1)}
			o.mesh = &mesh{t: t, hub: loopWith(t, func(h *hub) { h.rollouts = newReplicated(o, h.metrics) }), listen: bufconn.Listen(64 << 10)}
			server := grpc.NewServer(ads.ServerOptions()...)
			o.hub.store.Register(server)
			o.hub.feed.Register(server)
			served := make(chan error)
			go func() { served <- server.Serve(o.listen) }()
			stops = append(stops, func() {
				o.hub.store.Close()
				o.hub.feed.Close()
				for _, conn := range o.conns {
					conn.Close()
				}
				server.Stop()
				<-served
			})
			f.all = append(f.all, o)
			by[name] = o
		}
		f.lead(strings.Fields(names)[0])
		f.edit(sidecars())
		test(f, by)
	})
}

// lead makes a replica the leader.
func (f *fleet) lead(name string) {
	f.mu.Lock()
	f.leader, f.lost = name, time.Now()
	f.term++
	f.mu.Unlock()
	f.wake()
}

func (f *fleet) wake() {
	for _, o := range f.all {
		select {
		case o.changed <- struct{}{}:
		default:
		}
	}
}

// edit gives all replicas the same configuration.
func (f *fleet) edit(documents ...string) {
	f.t.Helper()
	for _, o := range f.all {
		o.hub.publish(bundle(f.t, documents...), nil)
	}
	f.wait(3 * time.Second)
}

func (f *fleet) wait(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
		f.wake() // as the ticker does
	}
	synctest.Wait()
}

func (f *fleet) phase() model.Phase {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.states[model.Target{Namespace: "shop", Group: "cart", Port: 8080}].Phase
}

func (o *one) Self() string             { return o.name }
func (o *one) Changed() <-chan struct{} { return o.changed }
func (o *one) Trouble() []string        { return nil }
func (o *one) Leader() string           { o.fleet.mu.Lock(); defer o.fleet.mu.Unlock(); return o.fleet.leader }

func (o *one) Term() uint64 {
	o.fleet.mu.Lock()
	defer o.fleet.mu.Unlock()
	if o.fleet.leader == o.name {
		return o.fleet.term
	}
	return 0
}

func (o *one) Load() (map[model.Target]rollout.State, error) {
	o.fleet.mu.Lock()
	defer o.fleet.mu.Unlock()
	o.fleet.owner = o.name
	return maps.Clone(o.fleet.states), nil
}

func (o *one) Save(states map[model.Target]rollout.State) error {
	o.fleet.mu.Lock()
	if o.fleet.owner != o.name {
		o.fleet.mu.Unlock()
		return errors.New("another replica leads")
	}
	data, err := rollout.Encode(states)
	if err != nil {
		return err
	}
	o.fleet.states, _ = rollout.Decode(data)
	o.fleet.serial++
	o.fleet.history = append(o.fleet.history, states[model.Target{Namespace: "shop", Group: "cart", Port: 8080}].Phase)
	o.fleet.mu.Unlock()
	o.fleet.wake()
	return nil
}

func (o *one) Stored() (map[model.Target]rollout.State, uint64, bool) {
	o.fleet.mu.Lock()
	defer o.fleet.mu.Unlock()
	return o.fleet.states, o.fleet.serial, o.fleet.serial > 0
}

func (o *one) Tell(about rollout.Replica, report rollout.Report) {
	data, err := report.Encode(time.Now())
	if err != nil {
		panic(err)
	}
	o.fleet.mu.Lock()
	defer o.fleet.mu.Unlock()
	if o.silent == "" && !o.frozen {
		o.about, o.report, o.at = about, data, time.Now()
	}
}

func (o *one) Known(now time.Time) (out []rollout.Known, lost time.Time) {
	o.fleet.mu.Lock()
	defer o.fleet.mu.Unlock()
	for _, p := range o.fleet.all {
		if p == o || p.report == nil || p.gone && p.about.Proxies == 0 {
			continue
		}
		report, err := rollout.DecodeReport(p.report, p.at, p.at)
		if err != nil {
			panic(err)
		}
		k := rollout.Known{About: p.about, Leads: o.fleet.leader == p.name, Age: now.Sub(p.at)}
		k.Heard = rollout.Heard{Replica: p.name, Report: report, Silent: p.silent, Gone: p.gone}
		out = append(out, k)
	}
	return out, o.fleet.lost
}

// silence makes others hear nothing more of a replica; gone: as its pod is.
func (f *fleet) silence(o *one, why string, gone bool) {
	f.mu.Lock()
	o.silent, o.gone = why, gone
	if gone {
		f.lost = time.Now()
	}
	f.mu.Unlock()
	f.wait(2 * time.Second)
}

// A target moves when all have proven it, whichever replica they are at.
func TestReplicasProveTogether(t *testing.T) {
	inFleet(t, "a b c", func(f *fleet, by map[string]*one) {
		refuse := false
		cart := by["b"].envoy(cartNode, fakeenvoy.Options{}, insecure.NewCredentials())
		stock := by["c"].envoy(stockNode, refuses(translate.ClusterType, &refuse), insecure.NewCredentials())
		refuse = true
		f.edit(sidecars(), strictCart)
		f.wait(5 * time.Second)
		if f.phase() != model.PhaseMoved || chains(t, cart) != "mtls app-tls plain" || sendsTLS(stock) {
			t.Fatalf("phase %d, chains %s, clients send TLS %v", f.phase(), chains(t, cart), sendsTLS(stock))
		}
		for name, o := range by {
			if got := o.waits("cart"); !strings.Contains(got, "store/stock-1 refuses its clusters: not today") {
				t.Errorf("%s: waits for %s", name, got)
			}
		}
		// It tells of its traffic to a third one.
		tell := by["a"].hub.teller(f.t)
		tell("10.9.9.9")
		refuse = false
		again := by["b"].envoy(stockNode, fakeenvoy.Options{}, insecure.NewCredentials())
		f.wait(5 * time.Second)
		if !sendsTLS(again) || f.phase() != model.PhaseMoved {
			t.Errorf("a client at another replica sends TLS %v in phase %d", sendsTLS(again), f.phase())
		}
		if got := by["c"].waits("cart"); !strings.Contains(got, "10.9.9.9 sends plaintext") {
			t.Errorf("waits for %s", got)
		}
		f.wait(5 * time.Minute) // the client that refused is still at c
		if f.phase() != model.PhaseMoved {
			t.Errorf("phase %d, although one of two connections does not prove it", f.phase())
		}
		stock.Close()
		f.wait(20 * time.Second)
		if f.phase() != model.PhaseGrace || chains(t, cart) != "mtls app-tls plain refuse" {
			t.Errorf("phase %d, chains %s; waits for %s", f.phase(), chains(t, cart), by["a"].waits("cart"))
		}
	})
}

// What a silent replica had is not known, until its proxies are elsewhere.
func TestASilentReplicaProvesNothing(t *testing.T) {
	inFleet(t, "a b c", func(f *fleet, by map[string]*one) {
		by["b"].envoy(cartNode, fakeenvoy.Options{}, insecure.NewCredentials())
		by["c"].envoy(stockNode, fakeenvoy.Options{}, insecure.NewCredentials())
		tell := by["a"].hub.teller(f.t)
		f.edit(sidecars(), strictCart)
		tell("10.9.9.9")
		f.wait(2 * time.Second)
		f.silence(by["c"], "is silent", false)
		f.wait(2 * time.Minute)
		want := "replica c is silent; store/stock-1 was connected to replica c, which is silent"
		if got := by["b"].waits("cart"); f.phase() != model.PhaseMoved || got != want {
			t.Fatalf("phase %d, waits for %q, want %q", f.phase(), got, want)
		}
		if got := by["a"].problem("REPLICA_SILENT"); !strings.HasPrefix(got, "replica c is silent: ") {
			t.Errorf("problem %q", got)
		}
		f.silence(by["c"], "does not run any more, and its proxies may not be back yet", true)
		f.wait(time.Minute)
		if f.phase() != model.PhaseMoved {
			t.Fatalf("phase %d before its proxies are elsewhere", f.phase())
		}
		by["b"].envoy(stockNode, fakeenvoy.Options{}, insecure.NewCredentials())
		f.wait(15 * time.Second)
		if f.phase() != model.PhaseGrace {
			t.Errorf("phase %d, waits for %s", f.phase(), by["a"].waits("cart"))
		}
	})
}

// Another leader goes on where the one before was, and that one stores
// nothing more.
func TestAnotherLeaderGoesOn(t *testing.T) {
	inFleet(t, "a b", func(f *fleet, by map[string]*one) {
		stock := by["b"].envoy(stockNode, fakeenvoy.Options{}, insecure.NewCredentials())
		f.edit(sidecars(), strictCart)
		if f.phase() != model.PhaseOpened {
			t.Fatalf("phase %d", f.phase())
		}
		old := maps.Clone(f.states)
		f.silence(by["a"], "does not run any more, and its proxies may not be back yet", true)
		f.lead("b")
		f.wait(3 * time.Second)
		if err := by["a"].Save(old); err == nil {
			t.Error("the leader of before could store")
		}
		if got := by["b"].waits("cart"); f.phase() != model.PhaseOpened || sendsTLS(stock) || got != "shop/cart-1 has a sidecar that is not connected" {
			t.Errorf("phase %d, clients send TLS %v, waits for %s", f.phase(), sendsTLS(stock), got)
		}
		by["b"].hub.teller(f.t)("10.9.9.9")
		by["b"].envoy(cartNode, fakeenvoy.Options{}, insecure.NewCredentials())
		f.wait(30 * time.Second)
		if f.phase() != model.PhaseGrace || !sendsTLS(stock) {
			t.Errorf("phase %d, clients send TLS %v, waits for %s", f.phase(), sendsTLS(stock), by["b"].waits("cart"))
		}
		if steps := slices.Compact(f.history); !slices.Equal(steps, []model.Phase{model.PhaseNone, model.PhaseOpened, model.PhaseMoved, model.PhaseGrace}) {
			t.Errorf("stored %v", steps)
		}
	})
}

// A proxy that comes from another replica is sent nothing, and what all send
// is compared.
func TestAProxyMovesToAnotherReplica(t *testing.T) {
	inFleet(t, "a b", func(f *fleet, by map[string]*one) {
		f.edit(sidecars(), strictCart)
		cart := by["a"].envoy(cartNode, fakeenvoy.Options{}, insecure.NewCredentials())
		stock := by["b"].envoy(stockNode, fakeenvoy.Options{}, insecure.NewCredentials())
		f.wait(10 * time.Second)
		if len(cart.Held()[translate.ListenerType]) == 0 || len(stock.Held()[translate.ListenerType]) == 0 {
			t.Fatal("no listeners")
		}
		for i, from := range []*fakeenvoy.Envoy{cart, stock} {
			node, to := []string{cartNode, stockNode}[i], []string{"b", "a"}[i]
			next := by[to].envoy(node, fakeenvoy.Options{Held: from.Close()}, insecure.NewCredentials())
			for _, r := range next.Responses() {
				if len(r.Resources)+len(r.Removed) > 0 {
					t.Errorf("%s was sent %d resources of %s by %s", node, len(r.Resources), r.TypeURL, to)
				}
			}
		}
		f.wait(10 * time.Second)
		if a, b := by["a"].about, by["b"].about; a.Inputs != b.Inputs || a.Content["endpoints"] != b.Content["endpoints"] || len(a.Content) < 2 {
			t.Errorf("inputs %s and %s, content %v and %v", a.Inputs, b.Inputs, a.Content, b.Content)
		}
		if got := by["a"].problem("REPLICA_DIVERGED"); got != "" {
			t.Error(got)
		}
		f.mu.Lock()
		by["b"].frozen = true
		by["b"].about.Content = map[string]string{"endpoints": "other"}
		f.mu.Unlock()
		f.wait(2 * time.Second)
		want := fmt.Sprintf("replica b has equal inputs (revision %s), but sends others: endpoints", by["b"].about.Revision)
		if got := by["a"].problem("REPLICA_DIVERGED"); got != want {
			t.Errorf("problem %q, want %q", got, want)
		}
	})
}

// A sidecar that no object declares is known to all replicas once it is
// connected to one.
func TestReplicasShareSidecars(t *testing.T) {
	inFleet(t, "a b", func(f *fleet, by map[string]*one) {
		f.edit(shop)
		by["b"].envoy(stockNode, fakeenvoy.Options{}, insecure.NewCredentials())
		f.wait(10 * time.Second)
		for name, o := range by {
			if !o.hub.snapshot.Load().HasSidecar(model.WorkloadID{Namespace: "store", Name: "stock-1"}) {
				t.Errorf("%s does not know it", name)
			}
		}
		if a, b := by["a"].about.Inputs, by["b"].about.Inputs; a != b {
			t.Errorf("inputs %s and %s", a, b)
		}
	})
}

// A replica that has far more than its share lets some go, a few at a time.
func TestProxiesAreSpread(t *testing.T) {
	inFleet(t, "a b", func(f *fleet, by map[string]*one) {
		f.edit(shop)
		var all []*fakeenvoy.Envoy
		for i := range 40 {
			node := fmt.Sprintf("sidecar~127.0.1.%d~web-%d.shop~shop.svc.cluster.local", i, i)
			all = append(all, by["a"].envoy(node, fakeenvoy.Options{}, insecure.NewCredentials()))
		}
		ended := func() (n int) {
			for _, e := range all {
				if err := e.Err(); err != nil {
					n++
					if got := grpcstatus.Convert(err); got.Code() != codes.Unavailable || !strings.HasPrefix(got.Message(), "another replica") {
						t.Errorf("ended with %v", err)
					}
				}
			}
			return n
		}
		f.wait(2 * time.Minute)
		if n := ended(); n < 5 || n > 20 { // the fake ones do not come again
			t.Errorf("%d of 40 were sent away", n)
		}
	})
}

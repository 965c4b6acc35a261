package replicas

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

// member is a replica that runs.
type member struct {
	*Group
	cut  atomic.Bool
	stop func() // as SIGTERM does
	kill func() // as SIGKILL does
}

func join(t *testing.T, s *server, name string, pod bool) *member {
	t.Helper()
	m := &member{}
	client := s.client(m.cut.Load)
	lease := NewLease(client, "istio-system", name)
	m.Group = New(Options{Client: client, Namespace: "istio-system", Lease: lease, Pod: pod})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{}, 2)
	for _, run := range []func(context.Context) error{lease.Run, m.Run} {
		go func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
			done <- struct{}{}
		}()
	}
	over := false
	m.stop = func() {
		if !over {
			over = true
			cancel()
			<-done
			<-done
		}
	}
	m.kill = func() { m.cut.Store(true); m.stop() }
	t.Cleanup(m.stop)
	return m
}

func states(p model.Phase) map[model.Target]rollout.State {
	return map[model.Target]rollout.State{{Namespace: "shop", Group: "cart", Port: 80}: {Phase: p, Mode: model.Strict}}
}

func phaseOf(states map[model.Target]rollout.State) model.Phase {
	for _, s := range states {
		return s.Phase
	}
	return 255
}

// leads waits until one of them leads and has loaded.
func leads(t *testing.T, all ...*member) (leader, other *member) {
	t.Helper()
	for range 100 {
		time.Sleep(500 * time.Millisecond)
		for i, m := range all {
			if m.Term() != 0 {
				if _, err := m.Load(); err != nil {
					t.Fatal(err)
				}
				return m, all[(i+1)%len(all)]
			}
		}
	}
	t.Fatal("nobody leads")
	return nil, nil
}

// What the leader stores others follow; one that was leader stores nothing.
func TestPhases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a, b := join(t, s, "a", false), join(t, s, "b", false)
		first, second := leads(t, a, b)
		if err := second.Save(states(model.PhaseNone)); err != ErrNotLeader {
			t.Errorf("who does not lead stores: %v", err)
		}
		if _, _, known := second.Stored(); known {
			t.Error("phases are known before any were stored")
		}
		for _, p := range []model.Phase{model.PhaseNone, model.PhaseOpened, model.PhaseMoved} {
			if err := first.Save(states(p)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if got, _, known := second.Stored(); !known || phaseOf(got) != p {
				t.Errorf("follows %v, want %v", got, p)
			}
		}
		// Somebody edits metadata, or deletes it: nothing is lost.
		maps := s.all.CoreV1().ConfigMaps("istio-system")
		cm, err := maps.Get(t.Context(), PhasesName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		cm.Annotations["note"] = "mine"
		if _, err := maps.Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := first.Save(states(model.PhaseGrace)); err != nil {
			t.Error(err)
		}
		if err := maps.Delete(t.Context(), PhasesName, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := first.Save(states(model.PhaseStrict)); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if got, _, _ := second.Stored(); phaseOf(got) != model.PhaseStrict {
			t.Errorf("follows %v", got)
		}
		// Cut off, it is succeeded, and what it still wants to store is refused.
		first.cut.Store(true)
		leads(t, second)
		if err := second.Save(states(model.PhaseMoved)); err != nil {
			t.Fatal(err)
		}
		first.cut.Store(false)
		if _, err := first.write(t.Context(), []byte("late"), 99, first.phases.version); err == nil {
			t.Error("the leader of before overwrote the phases")
		}
		time.Sleep(time.Minute)
		if got, _, _ := first.Stored(); phaseOf(got) != model.PhaseMoved || first.Term() != 0 {
			t.Errorf("follows %v", got)
		}
	})
}

// More than a ConfigMap holds is an error that says so.
func TestPhasesAreTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := join(t, newServer(), "a", false)
		leads(t, a)
		many := map[model.Target]rollout.State{}
		random := rand.New(rand.NewPCG(1, 2))
		for i := range 10_000 {
			var why strings.Builder
			for range 16 {
				fmt.Fprintf(&why, "%x", random.Uint64())
			}
			many[model.Target{Namespace: "shop", Group: fmt.Sprint("cart-", i), Port: 80}] = rollout.State{Stopped: why.String()}
		}
		err := a.Save(many)
		if err == nil || !strings.Contains(err.Error(), "the phases of 10000 targets take ") || !strings.Contains(err.Error(), "ConfigMap pilot-rollout") {
			t.Errorf("got %v", err)
		}
	})
}

// Reports arrive, with times of the reader's clock; a replica that is silent
// counts for nothing, and as gone once its pod is.
func TestReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		pods := s.all.CoreV1().Pods("istio-system")
		for _, name := range []string{"a", "b"} {
			if _, err := pods.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		a := join(t, s, "a", true)
		leads(t, a)
		b := join(t, s, "b", true)
		id := model.WorkloadID{Namespace: "shop", Name: "cart-1"}
		seen := time.Now().Add(-3 * time.Second)
		tell := func() {
			b.Tell(rollout.Replica{Revision: "r1", Proxies: 1, Open: true}, rollout.Report{
				At: time.Now(), Ground: "g", Clients: map[model.WorkloadID]string{id: ""},
				Servers: map[model.WorkloadID]rollout.Told{id: {Connected: true, Logs: seen, Ports: map[uint16]rollout.Port{
					80: {Plain: rollout.Connections{Known: true, At: seen}, Peers: []rollout.Call{{Address: "10.0.0.1", Last: seen}}},
				}}},
			})
		}
		tell()
		time.Sleep(6 * time.Second) // they have heard each other
		tell()
		wrote := time.Now()
		time.Sleep(time.Second)
		known, _ := a.Known(time.Now())
		if len(known) != 1 || known[0].Replica != "b" || known[0].Silent != "" || known[0].About.Revision != "r1" {
			t.Fatalf("known: %+v", known)
		}
		r := known[0].Report
		told := r.Servers[id]
		if r.At.After(wrote) || wrote.Sub(r.At) > 2*time.Second || told.Ports[80].Plain.At.After(seen) || told.Ports[80].Peers[0].Last.Before(seen) || told.Logs.Before(seen) {
			t.Errorf("times: report %v, at %v; %+v, seen at %v", r.At, wrote, told, seen)
		}
		b.kill()
		time.Sleep(20 * time.Second)
		if known, _ = a.Known(time.Now()); len(known) != 1 || known[0].Silent != "is silent" || known[0].Gone {
			t.Fatalf("of a silent one: %+v", known)
		}
		time.Sleep(2 * time.Minute) // its pod is there
		if known, _ = a.Known(time.Now()); len(known) != 1 || known[0].Gone {
			t.Fatalf("of one whose pod is there: %+v", known)
		}
		if err := pods.Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * tickTime)
		known, lost := a.Known(time.Now())
		if len(known) != 1 || !known[0].Gone || time.Since(lost) > 2*tickTime {
			t.Fatalf("of one whose pod is gone: %+v", known)
		}
		time.Sleep(returnTime)
		if known, _ = a.Known(time.Now()); len(known) != 0 {
			t.Errorf("not forgotten: %+v", known)
		}
		if _, err := s.all.CoreV1().ConfigMaps("istio-system").Get(t.Context(), ReportPrefix+"b", metav1.GetOptions{}); err == nil {
			t.Error("its object stays")
		}
		// One that stops in order says so.
		c := join(t, s, "c", false)
		time.Sleep(6 * time.Second)
		if known, _ = a.Known(time.Now()); len(known) != 1 {
			t.Fatalf("known: %+v", known)
		}
		c.stop()
		time.Sleep(time.Second)
		if known, _ = a.Known(time.Now()); len(known) != 0 {
			t.Errorf("a replica without proxies that stopped is waited for: %+v", known)
		}
	})
}

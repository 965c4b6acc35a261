package discovery

import (
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/meshpilot/pilot/internal/meshgen"
	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

// BenchmarkHub is the hub's share of an edit, with a proxy of every workload
// and nothing to send to: from the bundle to the store's new world, problems
// included. "toggle" finds all halves remembered, "nothing" changes nothing.
func BenchmarkHub(b *testing.B) {
	for _, services := range []int{100, 1000, 5000} {
		const namespaces = 50
		plain := meshgen.Bundle(services, namespaces)
		policy := meshgen.Bundle(services, namespaces, meshgen.NamespacePolicy(model.Strict))
		strict := meshgen.Bundle(services, namespaces, meshgen.MutualTLS())
		for _, c := range []struct {
			name string
			a, b meshconfig.Bundle
			cold bool
		}{
			{"cold", plain, plain, true},
			{"nothing", plain, plain, false},
			{"toggle-policy", plain, policy, false},
			{"toggle-mesh", plain, strict, false},
		} {
			b.Run(fmt.Sprintf("%s/%d", c.name, services), func(b *testing.B) {
				b.ReportAllocs()
				h := benchHub(services, namespaces)
				h.edit(c.a)
				h.edit(c.b)
				for i := 0; b.Loop(); i++ {
					if c.cold {
						b.StopTimer()
						h = benchHub(services, namespaces)
						b.StartTimer()
					}
					if i%2 == 0 {
						h.edit(c.a)
					} else {
						h.edit(c.b)
					}
				}
			})
		}
	}
}

func benchHub(services, namespaces int) *hub {
	h := newHub("cluster.local", slog.New(slog.NewTextHandler(io.Discard, nil)), status.NewMetrics())
	for i := range services {
		h.ledger.connected(ads.Event{Stream: uint64(i + 1), Proxy: model.Proxy{
			ID: model.WorkloadID{Namespace: fmt.Sprintf("ns-%d", i%namespaces), Name: fmt.Sprintf("svc-%d-0", i)},
		}})
	}
	return h
}

// edit is one turn of the loop without its wait for quiet.
func (h *hub) edit(b meshconfig.Bundle) {
	h.receive(delivery{bundle: b, at: time.Now()})
	h.build()
}

// BenchmarkRolloutStep is one look at all targets of a mesh under way, none of
// which may move.
func BenchmarkRolloutStep(b *testing.B) {
	for _, services := range []int{100, 1000, 5000} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			b.ReportAllocs()
			h := benchHub(services, 50)
			h.rollouts, _ = newRollouts(&phasesInMemory{}, h.metrics)
			h.edit(meshgen.Bundle(services, 50))
			h.edit(meshgen.Bundle(services, 50, meshgen.MutualTLS()))
			if got := len(h.rollouts.wanted); got < services {
				b.Fatalf("%d targets", got)
			}
			for b.Loop() {
				if h.rollouts.step(h.observe(h.snapshot.Load(), time.Now()), time.Now()) {
					b.Fatal("moved without proof")
				}
			}
		})
	}
}

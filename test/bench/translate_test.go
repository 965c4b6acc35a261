// Package bench measures what an edit costs before anything is sent.
package bench

import (
	"fmt"
	"testing"

	"github.com/meshpilot/pilot/internal/meshgen"
	"github.com/meshpilot/pilot/pkg/explain"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

const namespaces = 50

// sizes are services, each its own workload and so its own server class.
func sizes(b *testing.B, run func(b *testing.B, services int)) {
	for _, services := range []int{100, 1000, 5000} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			b.ReportAllocs()
			run(b, services)
		})
	}
}

// world is all that a mesh with one proxy per workload holds.
type world struct {
	shared    *translate.Shared
	endpoints *translate.Table
	clients   map[model.ClientClass]*translate.Half
	servers   map[model.ServerClass]*translate.Half
	prints    map[model.ServerClass]model.Fingerprint
}

// translateAll does what the hub does, on one core: only views that differ
// from the last are translated, and each half is checked.
func translateAll(b *testing.B, s *model.Snapshot, prev *world) *world {
	next := &world{
		shared: translate.Share(s, prev.shared), endpoints: translate.Endpoints(s.Endpoints(), prev.endpoints),
		clients: map[model.ClientClass]*translate.Half{}, servers: map[model.ServerClass]*translate.Half{},
		prints: map[model.ServerClass]model.Fingerprint{},
	}
	sound := func(h, last *translate.Half) *translate.Half {
		h, err := translate.Sound(h, last, next.endpoints, prev.endpoints)
		if err != nil {
			b.Fatal(err)
		}
		return h
	}
	for _, w := range s.Workloads() {
		proxy, _ := s.ProxyOf(w.ID)
		client, server, _ := s.ClassOf(proxy)
		if next.clients[client] == nil {
			last := prev.clients[client]
			next.clients[client] = sound(translate.Outbound(s.ClientView(client), next.shared, last), last)
		}
		if next.servers[server] == nil {
			view := s.ServerView(server)
			next.prints[server] = view.Fingerprint
			last := prev.servers[server]
			next.servers[server] = last
			if prev.prints[server] != view.Fingerprint {
				next.servers[server] = sound(translate.Inbound(view, last), last)
			}
		}
	}
	return next
}

func BenchmarkCompile(b *testing.B) {
	sizes(b, func(b *testing.B, services int) {
		bundle := meshgen.Bundle(services, namespaces)
		for b.Loop() {
			meshconfig.Compile(bundle, "cluster.local")
		}
	})
}

func BenchmarkBuild(b *testing.B) {
	sizes(b, func(b *testing.B, services int) {
		in := meshgen.Inputs(services, namespaces)
		for b.Loop() {
			model.Build(in)
		}
	})
}

func BenchmarkTranslateCold(b *testing.B) {
	sizes(b, func(b *testing.B, services int) {
		s := model.Build(meshgen.Inputs(services, namespaces))
		for b.Loop() {
			translateAll(b, s, &world{})
		}
	})
}

// BenchmarkTranslatePolicyEdit is one namespace of 50 going to STRICT and back.
func BenchmarkTranslatePolicyEdit(b *testing.B) {
	benchmarkEdit(b, meshgen.NamespacePolicy(model.Strict))
}

// BenchmarkTranslateMeshEdit is authPolicy, there and back.
func BenchmarkTranslateMeshEdit(b *testing.B) {
	benchmarkEdit(b, meshgen.MutualTLS())
}

// BenchmarkTranslateRuleEdit is a DestinationRule of the root namespace for
// all hosts, there and gone.
func BenchmarkTranslateRuleEdit(b *testing.B) {
	benchmarkEdit(b, meshgen.Rule("istio-system", "*.local", model.ClientMesh))
}

// BenchmarkTranslateOwnRuleEdit is one namespace that sees one service in a
// form of its own, and back.
func BenchmarkTranslateOwnRuleEdit(b *testing.B) {
	benchmarkEdit(b, meshgen.Rule("ns-1", "svc-0.ns-0.svc.cluster.local", model.ClientMesh))
}

// BenchmarkBuildRules is the worst case: every namespace sees all services in
// a form of its own.
func BenchmarkBuildRules(b *testing.B) {
	sizes(b, func(b *testing.B, services int) {
		var rules []meshgen.Option
		for i := range namespaces {
			rules = append(rules, meshgen.Rule(fmt.Sprintf("ns-%d", i), "*", model.ClientMesh))
		}
		in := meshgen.Inputs(services, namespaces, rules...)
		for b.Loop() {
			model.Build(in)
		}
	})
}

func benchmarkEdit(b *testing.B, edit meshgen.Option) {
	sizes(b, func(b *testing.B, services int) {
		states := []*model.Snapshot{
			model.Build(meshgen.Inputs(services, namespaces)),
			model.Build(meshgen.Inputs(services, namespaces, edit)),
		}
		w := translateAll(b, states[0], &world{})
		for i := 1; b.Loop(); i++ {
			w = translateAll(b, states[i%2], w)
		}
	})
}

// BenchmarkExplainAll is the matrix of 20 client classes and 1,000 services.
func BenchmarkExplainAll(b *testing.B) {
	s := model.Build(meshgen.Inputs(1000, 20, meshgen.NamespacePolicy(model.Strict)))
	b.ReportAllocs()
	for b.Loop() {
		m := explain.New(s, nil).All(explain.Window{})
		if len(m.Classes) != 20 || len(m.Rows) != 1000 {
			b.Fatalf("%d classes, %d ports", len(m.Classes), len(m.Rows))
		}
	}
}

// Package property draws random meshes and asserts what holds in all of them.
package property

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "draw only the mesh of this seed")
	countFlag = flag.Int("meshes", 300, "how many meshes to draw")
)

// eachMesh runs a property on meshes of different seeds, for a few seconds at
// most; a failure names the seed to run again with -seed.
func eachMesh(t *testing.T, property func(t *testing.T, r *rand.Rand, in model.Inputs)) {
	t.Helper()
	first, last := uint64(1), uint64(*countFlag)
	if *seedFlag != 0 {
		first, last = *seedFlag, *seedFlag
	}
	start := time.Now()
	for seed := first; seed <= last && time.Since(start) < 5*time.Second; seed++ {
		r := rand.New(rand.NewPCG(seed, 4))
		in := draw(r, "east", "west")
		if ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { property(t, r, in) }); !ok {
			t.Fatalf("run again with -seed %d", seed)
		}
	}
}

// The protocol of a container port is fixed, so that services do not disagree
// about it: the port modulo 10 is an index here.
func protocols() []model.Protocol {
	return []model.Protocol{model.HTTP, model.TCP, model.HTTPS, model.MySQL, model.GRPC}
}

// draw makes a mesh of a few services in the namespaces.
func draw(r *rand.Rand, namespaces ...string) model.Inputs {
	in := model.Inputs{Mesh: model.Mesh{
		AutoMTLS: r.IntN(4) > 0, MutualTLS: r.IntN(3) == 0, RefusalReset: r.IntN(4) == 0, RootNamespace: "root",
		TrustDomain: "cluster.local", Domain: "cluster.local", ListenPort: 15001, InboundListenPort: 15006, ConnectTimeout: time.Second,
	}}
	for i, namespace := range namespaces {
		drawNamespace(r, &in, i, namespace)
	}
	for i := range r.IntN(5) {
		in.Rules = append(in.Rules, drawRule(r, &in, append(namespaces, in.Mesh.RootNamespace), i))
	}
	for i := range in.Services {
		if r.IntN(6) == 0 {
			in.Mesh.Excluded = append(in.Mesh.Excluded, in.Services[i].Host)
		}
	}
	return in
}

func drawNamespace(r *rand.Rand, in *model.Inputs, number int, namespace string) {
	var own []model.Workload
	for i := range 2 + r.IntN(3) {
		name := fmt.Sprintf("pod-%d", i)
		own = append(own, model.Workload{
			ID: model.WorkloadID{Namespace: namespace, Name: name}, Key: model.Key{Kind: "Pod", Namespace: namespace, Name: name},
			Address: fmt.Sprintf("10.%d.0.%d", number+1, i+1), ServiceAccount: fmt.Sprintf("account-%d", r.IntN(2)),
			Labels: map[string]string{"app": fmt.Sprintf("app-%d", r.IntN(2))}, Sidecar: r.IntN(3) > 0,
		})
	}
	for i := range 1 + r.IntN(3) {
		in.Services = append(in.Services, drawService(r, own, number, namespace, i))
	}
	for i := range r.IntN(6) {
		in.Policies = append(in.Policies, drawPolicy(r, namespace, i))
	}
	in.Workloads = append(in.Workloads, own...)
}

func drawService(r *rand.Rand, workloads []model.Workload, number int, namespace string, i int) model.Service {
	name := fmt.Sprintf("svc-%d", i)
	s := model.Service{
		Key:  model.Key{Kind: "Service", Namespace: namespace, Name: name},
		Host: name + "." + namespace + ".svc.cluster.local", Namespace: namespace, Name: name,
		Created: int64(r.IntN(3)), VIPs: []string{fmt.Sprintf("10.96.%d.%d", number, i+1)},
	}
	for j := range 1 + r.IntN(3) {
		kind := r.IntN(len(protocols()))
		p := model.ServicePort{Name: fmt.Sprintf("port-%d", j), Number: uint16(100*kind + j + 1), Protocol: protocols()[kind], Annotation: model.Annotation(r.IntN(3))}
		for _, w := range workloads {
			if r.IntN(2) == 0 {
				p.Endpoints = append(p.Endpoints, model.Endpoint{Address: w.Address, Port: uint16(8000 + 10*r.IntN(2) + kind), Workload: w.ID, Ready: true})
			}
		}
		s.Ports = append(s.Ports, p)
	}
	return s
}

func drawPolicy(r *rand.Rand, namespace string, i int) model.ServerPolicy {
	p := model.ServerPolicy{
		Key:     model.Key{Kind: "Policy", Namespace: namespace, Name: fmt.Sprintf("policy-%d", i)},
		Created: int64(r.IntN(3)), StandIn: r.IntN(8) == 0,
	}
	mode := model.Mode(r.IntN(4))
	for range 1 + r.IntN(2) {
		rule := model.PolicyRule{Rank: model.Rank(1 + r.IntN(4)), Mode: mode}
		bySelector := r.IntN(3) == 0
		switch {
		case rule.Rank > model.RankWorkload:
		case bySelector:
			p.Key.Kind = "PeerAuthentication"
			rule.Selector = map[string]string{"app": fmt.Sprintf("app-%d", r.IntN(2))}
			if rule.Rank == model.RankPort {
				rule.ContainerPort = uint16(8000 + 10*r.IntN(2) + r.IntN(len(protocols())))
			}
		default:
			rule.Service = fmt.Sprintf("svc-%d", r.IntN(3))
			if rule.Rank == model.RankPort && r.IntN(2) == 0 {
				rule.PortName = fmt.Sprintf("port-%d", r.IntN(3))
			} else if rule.Rank == model.RankPort {
				rule.PortNumber = uint16(100*r.IntN(len(protocols())) + 1 + r.IntN(3))
			}
		}
		p.Rules = append(p.Rules, rule)
	}
	return p
}

// drawRule makes a rule of one of the namespaces for a host that exists.
func drawRule(r *rand.Rand, in *model.Inputs, namespaces []string, i int) model.DestinationRule {
	rule := model.DestinationRule{
		Key:  model.Key{Kind: "DestinationRule", Namespace: namespaces[r.IntN(len(namespaces))], Name: fmt.Sprintf("rule-%d", i)},
		Host: in.Services[r.IntN(len(in.Services))].Host, Created: int64(r.IntN(3)),
	}
	if r.IntN(3) == 0 {
		rule.ExportTo = []string{namespaces[r.IntN(len(namespaces))]}
	}
	tls := func() *model.TLSSettings {
		mode := []model.ClientTLS{model.ClientPlain, model.ClientMesh, model.ClientMixed}[r.IntN(3)]
		if mode == model.ClientMixed { // stands for no tls at all
			return nil
		}
		return &model.TLSSettings{Mode: mode}
	}
	if r.IntN(5) > 0 {
		rule.Policy = &model.TrafficPolicy{Traffic: model.Traffic{TLS: tls()}}
		if r.IntN(3) == 0 {
			rule.Policy.Ports = []model.PortTraffic{{Name: fmt.Sprintf("port-%d", r.IntN(3)), Traffic: model.Traffic{TLS: tls()}}}
		}
	}
	return rule
}

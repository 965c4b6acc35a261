package property

import (
	"cmp"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/explain"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate/simulate"
)

// wantedMode is the ranks again, said in another way: sort all statements
// that hold for the port by rank and the tie rule, and take the first.
func wantedMode(in *model.Inputs, w *model.Workload, port uint16) model.Mode {
	type statement struct {
		rank    model.Rank
		standIn bool
		created int64
		key     model.Key
		mode    model.Mode
	}
	mode := model.Disable
	if in.Mesh.MutualTLS {
		mode = model.Strict
	}
	all := []statement{{rank: model.RankMeshConfig, mode: mode}}
	for _, p := range in.Policies {
		for _, rule := range p.Rules {
			if holds(in, &p, &rule, w, port) {
				all = append(all, statement{rule.Rank, p.StandIn, p.Created, p.Key, rule.Mode})
			}
		}
	}
	for _, pair := range leadingTo(in, w, port) {
		if a := pair.port.Annotation; a != model.AnnotationUnset {
			all = append(all, statement{model.RankAnnotation, false, pair.service.Created, pair.service.Key, map[model.Annotation]model.Mode{model.AnnotationMutualTLS: model.Strict}[a]})
		}
	}
	slices.SortStableFunc(all, func(a, b statement) int {
		younger := func(s statement) int { return map[bool]int{true: 1}[s.standIn] }
		return cmp.Or(int(a.rank)-int(b.rank), younger(a)-younger(b), int(a.created-b.created), a.key.Compare(b.key))
	})
	return all[0].mode
}

type pair struct {
	service *model.Service
	port    *model.ServicePort
}

func leadingTo(in *model.Inputs, w *model.Workload, port uint16) []pair {
	var out []pair
	for i := range in.Services {
		for j := range in.Services[i].Ports {
			p := &in.Services[i].Ports[j]
			if slices.ContainsFunc(p.Endpoints, func(e model.Endpoint) bool { return e.Workload == w.ID && e.Port == port }) {
				out = append(out, pair{&in.Services[i], p})
			}
		}
	}
	return out
}

func holds(in *model.Inputs, p *model.ServerPolicy, rule *model.PolicyRule, w *model.Workload, port uint16) bool {
	switch {
	case rule.Rank == model.RankMesh:
		return true
	case p.Key.Namespace != w.ID.Namespace:
		return false
	case rule.Rank == model.RankNamespace:
		return true
	case rule.Service == "":
		return w.Labels["app"] == rule.Selector["app"] && (rule.Rank == model.RankWorkload || rule.ContainerPort == port)
	}
	return slices.ContainsFunc(leadingTo(in, w, port), func(x pair) bool {
		return x.service.Name == rule.Service && (rule.Rank == model.RankWorkload ||
			rule.PortNumber == x.port.Number || rule.PortNumber == 0 && rule.PortName == x.port.Name)
	})
}

// wantedRule is the tls block in force for a client namespace: of the first of
// its own namespace, the service's and the root that has a rule for the host,
// the oldest with a policy.
func wantedRule(in *model.Inputs, client string, to pair) *model.TLSSettings {
	for i, namespace := range []string{client, to.service.Namespace, in.Mesh.RootNamespace} {
		rules := slices.DeleteFunc(slices.Clone(in.Rules), func(r model.DestinationRule) bool {
			return r.Host != to.service.Host || r.Key.Namespace != namespace || i > 0 && len(r.ExportTo) > 0 && !slices.Contains(r.ExportTo, client)
		})
		if len(rules) == 0 {
			continue
		}
		slices.SortFunc(rules, func(a, b model.DestinationRule) int { return cmp.Or(int(a.Created-b.Created), a.Key.Compare(b.Key)) })
		for _, r := range rules {
			if r.Policy == nil {
				continue
			}
			for _, p := range r.Policy.Ports {
				if p.Name == to.port.Name && p.TLS != nil {
					return p.TLS
				}
			}
			return r.Policy.TLS
		}
		return nil
	}
	return nil
}

// wantedCall is what a caller sends, and whether it is served, by the table of
// the specification.
func wantedCall(in *model.Inputs, from *model.Workload, to pair, w *model.Workload, mode model.Mode) (simulate.Sent, bool) {
	sent := simulate.Plaintext
	if to.port.Protocol == model.HTTPS {
		sent = simulate.AppTLS
	}
	serverFirst := to.port.Protocol == model.MySQL
	accepts := w.Sidecar && mode != model.Disable && !(serverFirst && mode == model.Permissive)
	mesh := !slices.Contains(in.Mesh.Excluded, to.service.Host) && (in.Mesh.AutoMTLS && accepts || !in.Mesh.AutoMTLS && in.Mesh.MutualTLS)
	if tls := wantedRule(in, from.ID.Namespace, to); tls != nil {
		mesh = tls.Mode == model.ClientMesh
	}
	if from.Sidecar && mesh {
		sent = simulate.MeshTLS
	}
	switch {
	case sent == simulate.MeshTLS:
		return sent, accepts
	case !w.Sidecar || mode == model.Disable || mode == model.Permissive:
		return sent, true
	default:
		return sent, sent == simulate.AppTLS && mode == model.TLSOnly
	}
}

// TestRanks: what simulate finds in the generated configuration is what the
// ranks and the table say, and explain gives reasons for it and not for
// something else.
func TestRanks(t *testing.T) {
	eachMesh(t, func(t *testing.T, _ *rand.Rand, in model.Inputs) {
		s := model.Build(in)
		explainer := explain.New(s, nil)
		explainer.All(explain.Window{}) // so that configurations are generated once
		for i := range in.Workloads {
			from := &in.Workloads[i]
			for j := range in.Services {
				svc := &in.Services[j]
				for k := range svc.Ports {
					to := pair{svc, &svc.Ports[k]}
					answer, err := explainer.Ask(from.ID.String(), net.JoinHostPort(svc.Host, strconv.Itoa(int(to.port.Number))))
					if err != nil {
						t.Fatal(err)
					}
					checkAnswer(t, &in, from, to, answer)
				}
			}
		}
	})
}

func checkAnswer(t *testing.T, in *model.Inputs, from *model.Workload, to pair, answer explain.Answer) {
	t.Helper()
	seen := 0
	for _, e := range answer.Endpoints {
		i := slices.IndexFunc(to.port.Endpoints, func(x model.Endpoint) bool {
			return net.JoinHostPort(x.Address, strconv.Itoa(int(x.Port))) == e.Address
		})
		if i < 0 {
			continue
		}
		seen++
		w := workload(in, to.port.Endpoints[i].Workload)
		mode := wantedMode(in, w, to.port.Endpoints[i].Port)
		sent, served := wantedCall(in, from, to, w, mode)
		works := e.Result == "200" || e.Result == "works"
		if e.Sends != string(sent) || works != served || w.Sidecar && e.Mode != mode.String() {
			t.Errorf("%s -> %s:%d at %s: want mode %s, %s, served %v; got %+v", from.ID, to.service.Host, to.port.Number, w.ID, mode, sent, served, e)
		}
		if works && e.Sends == string(simulate.Plaintext) && w.Sidecar && mode.Phase() >= model.PhaseGrace {
			t.Errorf("%s -> %s: plaintext arrives at a port that is %s", from.ID, e.Address, mode)
		}
		if strings.HasPrefix(e.Why, "AUTO") && strings.Contains(e.Why, "accepts") != (sent == simulate.MeshTLS) {
			t.Errorf("%s -> %s sends %s: %s", from.ID, e.Address, e.Sends, e.Why)
		}
	}
	if seen != len(to.port.Endpoints) {
		t.Errorf("%s -> %s:%d: %d endpoints, want %d: %+v", from.ID, to.service.Host, to.port.Number, seen, len(to.port.Endpoints), answer.Endpoints)
	}
}

// TestLosers: what Ranks lists is in the order of the ranks, each object once,
// and begins with what Decision says.
func TestLosers(t *testing.T) {
	eachMesh(t, func(t *testing.T, _ *rand.Rand, in model.Inputs) {
		s := model.Build(in)
		for _, w := range in.Workloads {
			for port := range uint16(20) {
				ranks := s.Ranks(w.ID, 8000+port)
				d := s.Decision(w.ID, 8000+port)
				d.Phase = ranks[0].Phase // what is in force is no rank's word
				if !reflect.DeepEqual(d, ranks[0]) {
					t.Errorf("%s:%d: %+v decides, but %+v is first", w.ID, 8000+port, d, ranks[0])
				}
				seen := map[model.Key]bool{}
				for i, d := range ranks {
					if i > 0 && d.Rank <= ranks[i-1].Rank {
						t.Errorf("%s:%d: rank %d after %d", w.ID, 8000+port, d.Rank, ranks[i-1].Rank)
					}
					for _, key := range append([]model.Key{d.Source}, d.Losers...) {
						if seen[key] && d.Rank != model.RankMeshConfig {
							t.Errorf("%s:%d: %s twice in %+v", w.ID, 8000+port, key, ranks)
						}
						seen[key] = true
					}
				}
			}
		}
	})
}

func workload(in *model.Inputs, id model.WorkloadID) *model.Workload {
	i := slices.IndexFunc(in.Workloads, func(w model.Workload) bool { return w.ID == id })
	return &in.Workloads[i]
}

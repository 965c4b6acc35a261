package replica

import (
	"cmp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

// Member is a control plane that serves the mesh, as the pages show it.
type Member struct {
	Name  string `json:"name"`
	Self  bool   `json:"self,omitempty"`
	Leads bool   `json:"leads,omitempty"`
	// Silent says why what it reported does not count any more.
	Silent   string  `json:"silent,omitempty"`
	Age      float64 `json:"age"` // seconds since it was heard
	Revision string  `json:"revision,omitempty"`
	Proxies  int     `json:"proxies"`
	Current  int     `json:"current"` // of Proxies; they acknowledged Revision
}

// Refusal is what a proxy of this replica does not take.
type Refusal struct {
	Node, Type string
	Text       string      // Envoy's
	From       []model.Key // the objects behind it
}

// Members are all replicas by name, the own one among them.
func Members(g Group, own rollout.Replica, others []rollout.Known) []Member {
	out := []Member{{Name: g.Self(), Self: true, Leads: g.Term() != 0, Revision: own.Revision, Proxies: own.Proxies, Current: own.Current}}
	for _, k := range others {
		out = append(out, Member{
			Name: k.Replica, Leads: k.Leads, Silent: k.Silent, Age: k.Age.Seconds(), Revision: k.About.Revision, Proxies: k.About.Proxies, Current: k.About.Current,
		})
	}
	slices.SortStableFunc(out, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Metrics are the numbers of the group.
type Metrics struct {
	leader, diverged, inputs, content, live, silent prometheus.Gauge
}

// NewMetrics registers them.
func NewMetrics(in prometheus.Registerer) *Metrics {
	gauge := func(name, help string, labels prometheus.Labels) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels})
		in.MustRegister(g)
		return g
	}
	const replicas = "Replicas that this one knows, itself included: live, or silent and perhaps still serving."
	return &Metrics{
		leader:   gauge("pilot_leader", "1 on the replica that decides and writes.", nil),
		live:     gauge("pilot_replicas", replicas, prometheus.Labels{"state": "live"}),
		silent:   gauge("pilot_replicas", replicas, prometheus.Labels{"state": "silent"}),
		diverged: gauge("pilot_replicas_diverged", "Other replicas that have equal inputs and send something else.", nil),
		inputs:   gauge("pilot_inputs_hash", "Hash of all that the configuration in force is made of.", nil),
		content:  gauge("pilot_content_hash", "Hash of the endpoints in force: equal on replicas with an equal pilot_inputs_hash.", nil),
	}
}

// Set states what is known of the group.
func (m *Metrics) Set(members []Member, own rollout.Replica, diverged int) {
	live, silent, leads := 0, 0, 0.0
	for _, k := range members {
		if k.Silent != "" {
			silent++
		} else {
			live++
		}
		if k.Self && k.Leads {
			leads = 1
		}
	}
	m.leader.Set(leads)
	m.live.Set(float64(live))
	m.silent.Set(float64(silent))
	m.diverged.Set(float64(diverged))
	m.inputs.Set(Number(own.Inputs))
	m.content.Set(Number(own.Content["endpoints"]))
}

package status

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/meshconfig"
)

// Overview is the whole mesh at a glance, or a namespace of it.
type Overview struct {
	Now      time.Time     `json:"now"`
	Newest   Revision      `json:"revision"` // of which the lists are the namespace's
	Proxies  ProxyCounts   `json:"proxies"`
	Targets  TargetCounts  `json:"targets"`
	Problems ProblemCounts `json:"problems"`
}

// ProxyCounts are of connected proxies, and of those that should be.
type ProxyCounts struct {
	Connected int `json:"connected"`
	Current   int `json:"current"` // have all that they should have now
	Behind    int `json:"behind"`  // of them Refusing
	Refusing  int `json:"refusing"`
	// WithoutCertificates did not prove to hold some; they may not need any.
	WithoutCertificates int      `json:"withoutCertificates"`
	Unknown             int      `json:"unknown"` // no object describes them
	Missing             []string `json:"missing"` // workloads with a sidecar that is not connected
}

// TargetCounts are of targets, by the phase in force.
type TargetCounts struct {
	Phases   map[string]int `json:"phases"`
	UnderWay int            `json:"underWay"`
	Held     int            `json:"held"`
}

// ProblemCounts are of problems in force, by severity.
type ProblemCounts struct {
	Errors   int `json:"errors"`
	Warnings int `json:"warnings"`
	Infos    int `json:"infos"`
}

func (p Pages) status(r *http.Request, s State) (any, error) {
	if s.Snapshot == nil {
		return nil, notYet()
	}
	return s.Overview(r.FormValue("namespace")), nil
}

// Overview is what "pilot status" shows, of one namespace or, empty, of all.
func (s State) Overview(namespace string) Overview {
	in := func(workload string) bool { return namespace == "" || strings.HasPrefix(workload, namespace+"/") }
	out := Overview{Now: s.Now, Newest: s.revision(""), Targets: TargetCounts{Phases: map[string]int{}}}
	out.Newest.UnderWay = s.underWay(namespace)
	out.Newest.Laggards = slices.DeleteFunc(out.Newest.Laggards, func(l Laggard) bool { return !in(l.Workload) })
	connected := map[string]bool{}
	for _, p := range s.newest() {
		if in(p.Workload) {
			connected[p.Workload] = true
			out.Proxies.count(p)
		}
	}
	out.Proxies.Missing = []string{}
	for _, w := range s.Snapshot.Workloads() {
		if id := w.ID.String(); in(id) && s.Snapshot.HasSidecar(w.ID) && !connected[id] {
			out.Proxies.Missing = append(out.Proxies.Missing, id)
		}
	}
	for _, r := range s.Rollouts {
		if namespace == "" || r.Wanted.Namespace == namespace {
			out.Targets.count(r)
		}
	}
	for _, f := range s.Findings {
		if namespace == "" || f.On.Namespace == namespace {
			out.Problems.count(f)
		}
	}
	return out
}

func (c *ProxyCounts) count(p Proxy) {
	c.Connected++
	if !p.Certificates {
		c.WithoutCertificates++
	}
	switch {
	case !p.expected():
		c.Unknown++
	case p.Behind == nil:
		c.Current++
	default:
		c.Behind++
		if p.Behind.Refused {
			c.Refusing++
		}
	}
}

func (c *TargetCounts) count(r Rollout) {
	c.Phases[r.Wanted.Decision.Phase.String()]++
	if !r.Settled {
		c.UnderWay++
	}
	if r.Held {
		c.Held++
	}
}

func (c *ProblemCounts) count(f Finding) {
	switch f.Severity {
	case meshconfig.Error:
		c.Errors++
	case meshconfig.Warning:
		c.Warnings++
	default:
		c.Infos++
	}
}

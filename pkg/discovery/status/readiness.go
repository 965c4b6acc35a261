package status

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/readiness"
)

// What a question that does not say asks for, and how much of an answer is
// listed.
const (
	readinessWithin   = 24 * time.Hour
	readinessEvidence = time.Hour
	mostObstacles     = 50
)

// readiness judges the targets that are not strict. Who asks for one by its
// name is told if nothing has that name.
func (p Pages) readiness(r *http.Request, s State) (any, error) {
	if s.Snapshot == nil {
		return nil, notYet()
	}
	q := readiness.Question{Within: readinessWithin, Evidence: readinessEvidence}
	for name, d := range map[string]*time.Duration{"within": &q.Within, "evidence": &q.Evidence} {
		if text := r.FormValue(name); text != "" {
			var err error
			if *d, err = time.ParseDuration(text); err != nil || *d < 0 {
				return nil, refusal{http.StatusBadRequest, name + " is a duration such as 1h"}
			}
		}
	}
	target, namespace := r.FormValue("target"), r.FormValue("namespace")
	answer := readiness.Answer{Targets: []readiness.Report{}}
	var asked []Rollout
	found := false
	for _, of := range s.Rollouts {
		w := of.Wanted
		if namespace != "" && namespace != w.Namespace || target != "" && !s.named(w, target) {
			continue
		}
		if found = true; w.Decision.Phase == model.PhaseStrict {
			answer.Strict++
			continue
		}
		asked = append(asked, of)
	}
	if target != "" && !found {
		return nil, refusal{http.StatusNotFound, fmt.Sprintf("nothing that has phases is called %q: write NAMESPACE/WORKLOAD or a service's HOST, with :PORT for one port; "+
			"ports of server-first protocols have no phases", target)}
	}
	now := time.Now()
	for i, facts := range p.Readiness(s, asked) {
		report := readiness.Judge(facts, q, now)
		w := asked[i].Wanted
		report.Target, report.Source = TargetName(w.Target), w.Decision.By()
		for _, way := range s.Snapshot.Ways(w) {
			report.Services = append(report.Services, way.Host+":"+strconv.Itoa(int(way.Port)))
		}
		if more := len(report.Obstacles) - mostObstacles; more > 0 {
			report.Obstacles, report.More = report.Obstacles[:mostObstacles], more
		}
		answer.Targets = append(answer.Targets, report)
	}
	slices.SortStableFunc(answer.Targets, func(a, b readiness.Report) int {
		return cmp.Compare(gravity(a.Verdict), gravity(b.Verdict))
	})
	return answer, nil
}

func gravity(v readiness.Verdict) int {
	return slices.Index([]readiness.Verdict{readiness.NotReady, readiness.Unclear, readiness.Ready}, v)
}

// named says whether a target is called so: by its workloads and container
// port, or by a service and its port.
func (s State) named(w *model.Wanted, name string) bool {
	host, port := name, ""
	if at := strings.LastIndexByte(name, ':'); at >= 0 {
		host, port = name[:at], name[at+1:]
	}
	is := func(number uint16) bool { return port == "" || port == strconv.Itoa(int(number)) }
	if namespace, workload, ok := strings.Cut(host, "/"); ok {
		return namespace == w.Namespace && is(w.Port) &&
			(workload == w.Group || slices.Contains(w.Workloads, model.WorkloadID{Namespace: namespace, Name: workload}))
	}
	return slices.ContainsFunc(s.Snapshot.Ways(w), func(way model.Way) bool {
		return (way.Host == host || strings.HasPrefix(way.Host, host+".")) && is(way.Port)
	})
}

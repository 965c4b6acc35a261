package status

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/replica"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

// Rollout is how far a target is on the way to its mode.
type Rollout struct {
	Wanted  *model.Wanted // with the phase in force
	Since   time.Time     // the phase was entered
	Settled bool          // the phase is where the mode ends
	Held    bool          // its deadline is missed, or failures stopped it
	Waits   []rollout.Blocker
}

// TargetName is a target as reports name it: "shop/cart:8080".
func TargetName(t model.Target) string {
	port := "other ports"
	if t.Port != 0 {
		port = strconv.Itoa(int(t.Port))
	}
	return t.Namespace + "/" + t.Group + ":" + port
}

// ClientsSend is what clients that follow a target send in a phase.
func ClientsSend(p model.Phase) string {
	if p >= model.PhaseMoved {
		return "mTLS"
	}
	return "plaintext"
}

// rolloutReport is a Rollout as /debug/rollouts shows it.
type rolloutReport struct {
	Target    string            `json:"target"`
	Namespace string            `json:"namespace"`
	Workload  string            `json:"workload"`
	Port      uint16            `json:"port"` // 0: all that no service names
	Mode      string            `json:"mode"`
	Source    string            `json:"source"` // who wants the mode
	Phase     string            `json:"phase"`
	Clients   string            `json:"clients"` // what those that follow send
	Since     time.Time         `json:"since"`
	Settled   bool              `json:"settled"`
	Held      bool              `json:"held"`
	Deadline  *time.Time        `json:"deadline,omitempty"` // of the step that is waited for
	Waits     []rollout.Blocker `json:"waitsFor"`
	Workloads []string          `json:"workloads"`
}

func (r Rollout) report() rolloutReport {
	w := r.Wanted
	out := rolloutReport{
		Target: TargetName(w.Target), Namespace: w.Namespace, Workload: w.Group, Port: w.Port,
		Mode: w.Decision.Mode.String(), Source: w.Decision.By(), Phase: w.Decision.Phase.String(), Clients: ClientsSend(w.Decision.Phase),
		Since: r.Since, Settled: r.Settled, Held: r.Held, Waits: append([]rollout.Blocker{}, r.Waits...),
	}
	if !r.Settled && !r.Held {
		deadline := r.Since.Add(w.Rollout.Deadline)
		out.Deadline = &deadline
	}
	for _, id := range w.Workloads {
		out.Workloads = append(out.Workloads, id.String())
	}
	return out
}

// rollouts shows all targets; those under way alone with ?open=true.
func (p Pages) rollouts(r *http.Request, s State) (any, error) {
	if s.Snapshot == nil {
		return nil, notYet()
	}
	namespace, open := r.FormValue("namespace"), r.FormValue("open") == "true"
	out := []rolloutReport{}
	for _, target := range s.Rollouts {
		if (namespace == "" || namespace == target.Wanted.Namespace) && (!open || !target.Settled) {
			out = append(out, target.report())
		}
	}
	return out, nil
}

// Lag is what a proxy should have and did not acknowledge.
type Lag struct {
	Type    string    `json:"type,omitempty"` // CDS and so on; empty: nothing was sent yet
	Why     string    `json:"why"`            // to be read after the proxy's name
	Refused bool      `json:"refused"`        // Why ends with Envoy's text
	Since   time.Time `json:"since"`
}

// laggard is a connected proxy that did not acknowledge a revision yet.
type laggard struct {
	Workload string `json:"workload"`
	Node     string `json:"node"`
	Lag
}

// Revision is how far a complete configuration has come.
type Revision struct {
	Revision string `json:"revision"`
	// Change is what kind of change it was, as in model.Revision.ChangeSince.
	Change  string    `json:"change,omitempty"`
	InForce string    `json:"inForce"` // the newest that is applied
	Found   bool      `json:"found"`   // it was applied, among the edits that are remembered
	At      time.Time `json:"at,omitzero"`
	Applied time.Time `json:"applied,omitzero"`
	// Acknowledged says that every connected proxy that should hold it
	// acknowledged it, or a later one.
	Acknowledged bool      `json:"acknowledged"`
	Proxies      int       `json:"proxies"` // that should hold it
	Laggards     []laggard `json:"laggards"`
	// UnderWay are the targets that are not where their mode ends.
	UnderWay []rolloutReport `json:"underWay"`
}

// revision finds the newest edit of a revision; empty is the newest of all.
func (s State) revision(wanted string) Revision {
	out := Revision{Revision: wanted, Laggards: []laggard{}, UnderWay: s.underWay("")}
	var edit Edit
	for _, e := range s.Edits {
		if e.Revision == "" {
			continue // not applied yet
		}
		out.InForce = e.Revision
		if wanted == "" || e.Revision == wanted {
			edit, out.Found = e, true
		}
	}
	if !out.Found {
		return out
	}
	out.Revision, out.Change, out.At, out.Applied = edit.Revision, edit.Change, edit.At, edit.Applied
	for _, p := range s.expected() {
		out.Proxies++
		if p.Reached < edit.Generation {
			out.Laggards = append(out.Laggards, p.laggard(edit.Applied))
		}
	}
	out.Acknowledged = len(out.Laggards) == 0
	sortLaggards(out.Laggards)
	return out
}

// Acknowledged is how many proxies should have the newest configuration, and
// how many of them acknowledged it, on all replicas.
func (s State) Acknowledged() (proxies, current int) {
	own := s.revision("")
	proxies, current = own.Proxies, own.Proxies-len(own.Laggards)
	for _, m := range s.Replicas {
		if m.Self || m.Silent != "" {
			continue
		}
		proxies += m.Proxies
		if m.Revision == own.InForce {
			current += min(m.Current, m.Proxies)
		}
	}
	return proxies, current
}

// sortLaggards puts first who refused, then who is behind for longest.
func sortLaggards(list []laggard) {
	slices.SortStableFunc(list, func(a, b laggard) int {
		return cmp.Or(trueFirst(a.Refused, b.Refused), a.Since.Compare(b.Since))
	})
}

func trueFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	default:
		return 1
	}
}

// expected are the proxies that should hold the configuration.
func (s State) expected() []Proxy {
	var out []Proxy
	for _, p := range s.newest() {
		if p.expected() {
			out = append(out, p)
		}
	}
	return out
}

// newest are the newest streams of each node.
func (s State) newest() []Proxy {
	var out []Proxy
	for i, p := range s.Proxies { // sorted by node, then stream
		if i+1 == len(s.Proxies) || s.Proxies[i+1].Node != p.Node {
			out = append(out, p)
		}
	}
	return out
}

func (p Proxy) expected() bool { return p.Known || p.Behind != nil }

func (p Proxy) laggard(applied time.Time) laggard {
	out := laggard{Workload: p.Workload, Node: p.Node}
	if p.Behind != nil {
		out.Lag = *p.Behind
	}
	if !out.Refused && out.Since.Before(applied) && !p.Connected.After(applied) {
		out.Since = applied
	}
	return out
}

// underWay are the targets that are not where their mode ends, the held first.
func (s State) underWay(namespace string) []rolloutReport {
	out := []rolloutReport{}
	for _, r := range s.Rollouts {
		if !r.Settled && (namespace == "" || r.Wanted.Namespace == namespace) {
			out = append(out, r.report())
		}
	}
	slices.SortStableFunc(out, func(a, b rolloutReport) int { return trueFirst(a.Held, b.Held) })
	return out
}

// revision answers for one revision; without a name, for the newest.
func (p Pages) revision(r *http.Request, s State) (any, error) {
	return s.revision(r.FormValue("revision")), nil
}

// Overview is the whole mesh at a glance, or a namespace of it.
type Overview struct {
	Now     time.Time   `json:"now"`
	Newest  Revision    `json:"revision"` // of which the lists are the namespace's
	Proxies proxyCounts `json:"proxies"`
	// Behind are the proxies that did not acknowledge what they should have now:
	// the revision, or a step of a rollout that came after it.
	Behind   []laggard        `json:"behind"`
	Targets  targetCounts     `json:"targets"`
	Problems problemCounts    `json:"problems"`
	Replicas []replica.Member `json:"replicas,omitempty"`
}

// proxyCounts are of connected proxies, and of those that should be.
type proxyCounts struct {
	Connected int `json:"connected"`
	Current   int `json:"current"` // have all that they should have now
	Behind    int `json:"behind"`  // of them Refusing
	Refusing  int `json:"refusing"`
	// WithoutCertificates did not prove to hold some; they may not need any.
	WithoutCertificates int      `json:"withoutCertificates"`
	Unknown             int      `json:"unknown"` // no object describes them
	Missing             []string `json:"missing"` // workloads with a sidecar that is not connected
}

// targetCounts are of targets, by the phase in force.
type targetCounts struct {
	Phases   map[string]int `json:"phases"`
	UnderWay int            `json:"underWay"`
	Held     int            `json:"held"`
}

// problemCounts are of problems in force, by severity.
type problemCounts struct {
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
	out := Overview{Now: s.Now, Newest: s.revision(""), Behind: []laggard{}, Targets: targetCounts{Phases: map[string]int{}}}
	out.Replicas = s.Replicas
	out.Newest.UnderWay = s.underWay(namespace)
	out.Newest.Laggards = slices.DeleteFunc(out.Newest.Laggards, func(l laggard) bool { return !in(l.Workload) })
	connected := map[string]bool{}
	for _, p := range s.newest() {
		if in(p.Workload) {
			connected[p.Workload] = true
			out.Proxies.count(p)
			if p.Behind != nil {
				out.Behind = append(out.Behind, p.laggard(time.Time{}))
			}
		}
	}
	sortLaggards(out.Behind)
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

func (c *proxyCounts) count(p Proxy) {
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

func (c *targetCounts) count(r Rollout) {
	c.Phases[r.Wanted.Decision.Phase.String()]++
	if !r.Settled {
		c.UnderWay++
	}
	if r.Held {
		c.Held++
	}
}

func (c *problemCounts) count(f Finding) {
	switch f.Severity {
	case meshconfig.Error:
		c.Errors++
	case meshconfig.Warning:
		c.Warnings++
	default:
		c.Infos++
	}
}

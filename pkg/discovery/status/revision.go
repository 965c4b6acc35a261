package status

import (
	"cmp"
	"net/http"
	"slices"
	"time"
)

// Lag is what a proxy should have and did not acknowledge.
type Lag struct {
	Type    string    `json:"type,omitempty"` // CDS and so on; empty: nothing was sent yet
	Why     string    `json:"why"`            // to be read after the proxy's name
	Refused bool      `json:"refused"`        // Why ends with Envoy's text
	Since   time.Time `json:"since"`
}

// Laggard is a connected proxy that did not acknowledge a revision yet.
type Laggard struct {
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
	Laggards     []Laggard `json:"laggards"`
	// UnderWay are the targets that are not where their mode ends.
	UnderWay []RolloutReport `json:"underWay"`
}

// revision finds the newest edit of a revision; empty is the newest of all.
func (s State) revision(wanted string) Revision {
	out := Revision{Revision: wanted, Laggards: []Laggard{}, UnderWay: s.underWay("")}
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
	slices.SortStableFunc(out.Laggards, func(a, b Laggard) int {
		return cmp.Or(trueFirst(a.Refused, b.Refused), a.Since.Compare(b.Since))
	})
	return out
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

func (p Proxy) laggard(applied time.Time) Laggard {
	out := Laggard{Workload: p.Workload, Node: p.Node}
	if p.Behind != nil {
		out.Lag = *p.Behind
	}
	if !out.Refused && out.Since.Before(applied) && !p.Connected.After(applied) {
		out.Since = applied
	}
	return out
}

// underWay are the targets that are not where their mode ends, the held first.
func (s State) underWay(namespace string) []RolloutReport {
	out := []RolloutReport{}
	for _, r := range s.Rollouts {
		if !r.Settled && (namespace == "" || r.Wanted.Namespace == namespace) {
			out = append(out, r.report())
		}
	}
	slices.SortStableFunc(out, func(a, b RolloutReport) int { return trueFirst(a.Held, b.Held) })
	return out
}

// revision answers for one revision; without a name, for the newest.
func (p Pages) revision(r *http.Request, s State) (any, error) {
	if s.Snapshot == nil {
		return nil, notYet()
	}
	return s.revision(r.FormValue("revision")), nil
}

package conditions

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

// The types of the conditions, and their places.
const (
	Accepted   = "Accepted"   // False: the object is refused
	Conflicted = "Conflicted" // True: another object decides, or contradicts
	Programmed = "Programmed" // on all proxies, or on how many

	programmed = 2

	yes, no, unknown = "True", "False", "Unknown"

	reasonPending, reasonProgrammed = "Pending", "Programmed"
	// longestMessage is less than the API allows.
	longestMessage = 4_000
)

// condition is one of an object, without its times.
type condition struct {
	kind, status, reason, message string
	generation                    int64
	// count is a part of the message that changes as proxies come and go.
	count string
}

// equal is without the count.
func (c condition) equal(d condition) bool {
	c.count, d.count = "", ""
	return c == d
}

func (c condition) text() string {
	text := strings.TrimPrefix(c.count+"; "+c.message, "; ")
	text = strings.TrimSuffix(text, "; ")
	if len(text) > longestMessage {
		text = strings.ToValidUTF8(text[:longestMessage], "") + " …"
	}
	return text
}

// kept says whether objects of the kind have conditions.
func kept(kind string) bool {
	switch kind {
	case "Policy", "MeshPolicy", "PeerAuthentication", "DestinationRule":
		return true
	}
	return false
}

// about is what concerns one object.
type about struct {
	refused, conflicts, remarks []meshconfig.Problem
	refusals                    []Refusal
}

func byObject(f Facts) map[model.Key]about {
	out := map[model.Key]about{}
	for _, p := range f.Problems {
		a := out[p.On]
		switch {
		case refuses(p):
			a.refused = append(a.refused, p)
		case conflicts(p.Code):
			a.conflicts = append(a.conflicts, p)
		default:
			a.remarks = append(a.remarks, p)
		}
		out[p.On] = a
	}
	for _, r := range f.Refusals {
		for _, key := range r.From {
			a := out[key]
			a.refusals = append(a.refusals, r)
			out[key] = a
		}
	}
	return out
}

// refuses says whether the problem keeps its object from being in force.
func refuses(p meshconfig.Problem) bool {
	switch p.Code {
	case "INVALID", "UNSUPPORTED", "DUPLICATE":
		return p.Severity == meshconfig.Error
	}
	return false
}

// conflicts says whether it is about another object, which it names.
func conflicts(code string) bool {
	switch code {
	case "CONFLICT", "TIE", "SHADOWED_ANNOTATION", "SHARED_PORT", "PORT_CLASH", "HIDDEN_TLS", "HOST_CLASH", "VIP_CLASH", "EXCLUDED_SIDECAR":
		return true
	}
	return false
}

// wanted are the conditions of an object, in the order of their places.
func (w *Writer) wanted(o *object, key model.Key, a about, f Facts) []condition {
	accept := condition{kind: Accepted, status: yes, reason: "Accepted", message: texts(a.remarks)}
	if len(a.refused) > 0 {
		accept.status, accept.reason = no, reason(a.refused[0].Code)
		accept.message = texts(slices.Concat(a.refused, a.remarks))
	}
	conflict := condition{kind: Conflicted, status: no, reason: "NoConflict"}
	if len(a.conflicts) > 0 {
		conflict.status, conflict.reason, conflict.message = yes, reason(a.conflicts[0].Code), texts(a.conflicts)
	}
	out := []condition{accept, conflict, program(o, a, f)}
	for i := range out {
		out[i].generation = o.generation
	}
	return out
}

// program says on how many proxies the object is. That all have acknowledged
// it once stays true: what comes later is of other objects.
func program(o *object, a about, f Facts) condition {
	c := condition{kind: Programmed, count: fmt.Sprintf("acknowledged by %d of %d proxies", f.Current, f.Proxies)}
	switch {
	case len(a.refused) > 0:
		c.status, c.reason, c.count, c.message = no, "NotAccepted", "", "this version is not accepted, so no proxy gets it"
	case len(a.refusals) > 0:
		c.status, c.reason, c.message = no, "Refused", refused("refused by proxy ", a.refusals)
	case o.programmed:
		c.status, c.reason = yes, reasonProgrammed
	case f.Proxies == 0:
		c.status, c.reason, c.count, c.message = unknown, "NoProxies", "", "no proxy is connected"
	default:
		c.status, c.reason, c.message = no, reasonPending, refused("something else is refused by proxy ", f.Refusals)
	}
	return c
}

// refused names the first proxies that refuse, with Envoy's text.
func refused(how string, list []Refusal) string {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b Refusal) int {
		return cmp.Or(strings.Compare(a.Proxy, b.Proxy), strings.Compare(a.Text, b.Text))
	})
	const most = 3
	var out []string
	for _, r := range list[:min(most, len(list))] {
		out = append(out, how+r.Proxy+": "+r.Text)
	}
	if more := len(list) - most; more > 0 {
		out = append(out, fmt.Sprintf("and by %d more", more))
	}
	return strings.Join(out, "; ")
}

func texts(list []meshconfig.Problem) string {
	out := make([]string, len(list))
	for i, p := range list {
		p.On = model.Key{} // whoever reads it has the object
		out[i] = p.String()
	}
	return strings.Join(out, "; ")
}

// reason is a code as Kubernetes writes them: HIDDEN_TLS is HiddenTls.
func reason(code string) string {
	var b strings.Builder
	for _, part := range strings.Split(strings.ToLower(code), "_") {
		if part != "" {
			b.WriteString(strings.ToUpper(part[:1]) + part[1:])
		}
	}
	return b.String()
}

package explain

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate/simulate"
)

// Rule is a DestinationRule for the destination's host, and what of it the
// caller's sidecar follows.
type Rule struct {
	Object  string   `json:"object"`
	At      string   `json:"at,omitempty"` // file:line
	Host    string   `json:"host"`         // as it names it
	Follows []string `json:"follows,omitempty"`
	Loses   string   `json:"loses,omitempty"` // why not the rest, or all of it
}

// Subset is a subset of the destination's endpoints, and what would be sent
// to it.
type Subset struct {
	Name   string `json:"name"`
	Labels string `json:"labels,omitempty"`
	Object string `json:"object"` // that defines it
	Sends  string `json:"sends"`
	Why    string `json:"why"`
}

// followed says whether DestinationRules have a say in the call.
func followed(a *Answer) bool {
	if a.To.port == nil || a.To.Hidden {
		return false
	}
	return slices.ContainsFunc(a.Endpoints, func(p Endpoint) bool { return p.reason != reasonNoProxy && p.reason != reasonPassedOn })
}

// rules are those that name the host: first those in force, as far as one can
// tell by the order of the lookup.
func (e *Explainer) rules(a *Answer) []Rule {
	if !followed(a) {
		return nil
	}
	var out []Rule
	for _, s := range e.snapshot.Standings(a.From.id.Namespace, a.To.svc) {
		r := Rule{Object: s.Rule.Key.String(), At: e.place(s.Rule.Key), Host: s.Rule.Host, Loses: lossWords(s, a.From.id.Namespace)}
		if s.Policy {
			r.Follows = policyParts(s.Rule, a.To.port)
		}
		for _, name := range s.Subsets {
			r.Follows = append(r.Follows, "subset "+name)
		}
		out = append(out, r)
	}
	return out
}

// policyParts are the parts of a rule's policy that the port follows.
func policyParts(r *model.DestinationRule, port *model.OutboundPort) []string {
	if r.StandIn {
		return []string{"mesh mTLS or nothing, because it is invalid"}
	}
	i := r.Policy.Entry(port.Number, port.Name)
	switch {
	case i < 0:
		return []string{"trafficPolicy"}
	case r.Policy.Ports[i].TLS != nil || r.Policy.TLS == nil:
		return []string{entryName(i)}
	default:
		return []string{entryName(i), "tls of trafficPolicy"}
	}
}

func entryName(i int) string { return fmt.Sprintf("portLevelSettings[%d]", i) }

func lossWords(s model.Standing, client string) string {
	switch s.Lost {
	case model.LostToOlder:
		return s.To.Key.String() + " has the same host, gives the same and is older or first by name"
	case model.LostToValid:
		return s.To.Key.String() + " has the same host and is valid, and this one is not"
	case model.LostToHost:
		return s.To.Key.String() + " is for a closer host, " + s.To.Host
	case model.LostToPool:
		return s.To.Key.String() + " is found first, in namespace " + s.To.Key.Namespace
	case model.NotExported:
		return "it is not exported to namespace " + client
	case model.NotLookedUp:
		return "rules of its namespace are for its own clients and services only"
	default:
		return ""
	}
}

// subsets are what clusters of subsets would send. No route leads to them.
func (e *Explainer) subsets(a *Answer) []Subset {
	if !followed(a) {
		return nil
	}
	var out []Subset
	for _, u := range a.To.port.Subsets {
		s := Subset{Name: u.Subset, Sends: subsetSends(u.TLS), Why: u.By()}
		if u.Step == model.StepRule {
			s.Why = e.ruleWords(a.From, a.To, u)
		}
		for _, standing := range e.snapshot.Standings(a.From.id.Namespace, a.To.svc) {
			i := slices.IndexFunc(standing.Rule.Subsets, func(o model.Subset) bool { return o.Name == u.Subset })
			if i >= 0 && slices.Contains(standing.Subsets, u.Subset) {
				s.Object, s.Labels = standing.Rule.Key.String(), labelWords(standing.Rule.Subsets[i].Labels)
			}
		}
		out = append(out, s)
	}
	return out
}

func subsetSends(t model.ClientTLS) string {
	switch t {
	case model.ClientMesh:
		return string(simulate.MeshTLS)
	case model.ClientMixed:
		return string(simulate.MeshTLS) + " or plaintext, by endpoint"
	case model.ClientSimple:
		return string(simulate.SimpleTLS)
	case model.ClientMutual:
		return string(simulate.MutualTLS)
	default:
		return string(simulate.Plaintext)
	}
}

func labelWords(labels map[string]string) string {
	list := make([]string, 0, len(labels))
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		list = append(list, key+"="+labels[key])
	}
	return strings.Join(list, ", ")
}

// block is the part of the rule that decided about TLS: empty for that of all
// ports.
func (e *Explainer) block(from Caller, to Target, u *model.Upstream) string {
	for _, s := range e.snapshot.Standings(from.id.Namespace, to.svc) {
		if s.Rule.Key != u.Source || s.Rule.StandIn {
			continue
		}
		if i := slices.IndexFunc(s.Rule.Subsets, func(o model.Subset) bool { return o.Name == u.Subset }); u.Subset != "" && i >= 0 {
			subset := s.Rule.Subsets[i]
			if entry := subset.Policy.Entry(to.port.Number, to.port.Name); entry >= 0 && subset.Policy.Ports[entry].TLS != nil {
				return "subset " + u.Subset + ", " + entryName(entry)
			} else if subset.Policy != nil && subset.Policy.TLS != nil {
				return "subset " + u.Subset
			}
		}
		if entry := s.Rule.Policy.Entry(to.port.Number, to.port.Name); entry >= 0 && s.Rule.Policy.Ports[entry].TLS != nil {
			return entryName(entry)
		}
	}
	return ""
}

// printRules writes what there is to say about rules.
func (a Answer) printRules(b *strings.Builder) {
	if len(a.Rules) > 0 {
		b.WriteString("\nDestinationRules for " + a.To.svc.Host + "\n")
	}
	for _, r := range a.Rules {
		text := "  " + r.Object + place(r.At)
		if r.Host != a.To.svc.Host {
			text += " for " + r.Host
		}
		parts := strings.Join(r.Follows, ", ")
		switch {
		case r.Loses == "" && parts == "":
			text += ": in force, and says nothing for this port"
		case r.Loses == "":
			text += ": in force: " + parts
		case parts == "":
			text += ": not in force: " + r.Loses
		default:
			text += ": in force: " + parts + "; not the rest: " + r.Loses
		}
		b.WriteString(text + "\n")
	}
	for _, s := range a.Subsets {
		labels := ""
		if s.Labels != "" {
			labels = " (" + s.Labels + ")"
		}
		fmt.Fprintf(b, "  subset %s%s of %s: %s: %s\n", s.Name, labels, s.Object, s.Sends, s.Why)
	}
	if len(a.Subsets) > 0 {
		b.WriteString("  No route leads to subsets yet.\n")
	}
}

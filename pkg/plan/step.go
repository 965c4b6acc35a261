package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/readiness"
	"github.com/meshpilot/pilot/pkg/translate"
)

// Step is one push: the edit itself, or a move of targets by a rung.
type Step struct {
	Number int    `json:"number"`
	Moves  []Move `json:"moves"`
	Pushes []Push `json:"pushes"`
}

// Move is what a step is for targets that move alike.
type Move struct {
	From    string   `json:"from"`
	To      string   `json:"to"`
	What    string   `json:"what"`
	When    string   `json:"when"` // it is made
	Targets []string `json:"targets"`
	// Held are rules that keep clients in plaintext, so that the step waits for
	// its deadline.
	Held []string `json:"held,omitempty"`
}

// Push is what proxies are sent that are sent the same. Names begin with + if
// the resource is new, - if it goes, ~ if it changes.
type Push struct {
	Proxies   []string            `json:"proxies"`
	Resources map[string][]string `json:"resources"` // by type
}

func step(number int, before, after *stage) Step {
	s := Step{Number: number, Moves: []Move{}, Pushes: pushes(before, after)}
	for _, w := range after.snapshot.Targets() {
		if id := w.Workloads[0]; before.snapshot.HasSidecar(id) {
			s.move(before.snapshot.Decision(id, w.Port).Phase, &w, after.snapshot)
		}
	}
	return s
}

func (s *Step) move(was model.Phase, w *model.Wanted, mesh *model.Snapshot) {
	is := w.Decision.Phase
	if was == is {
		return
	}
	m := Move{From: rung(was), To: rung(is), What: what(was, is, w.Decision.Mode), When: when(was, is, w.Rollout), Targets: []string{Name(w.Target)}}
	if is == model.PhaseGrace && !w.Rollout.Immediate {
		for _, f := range mesh.Fixed(w) {
			if f.TLS != model.ClientMesh && f.TLS != model.ClientMixed {
				m.Held = append(m.Held, fmt.Sprintf("clients of %s:%d send plaintext, by %s", f.Host, f.Port, f.By))
			}
		}
	}
	for i := range s.Moves {
		if o := &s.Moves[i]; o.From == m.From && o.What == m.What && o.When == m.When && slices.Equal(o.Held, m.Held) {
			o.Targets = append(o.Targets, m.Targets...)
			return
		}
	}
	s.Moves = append(s.Moves, m)
}

func what(was, is model.Phase, mode model.Mode) string {
	switch {
	case is == model.PhaseOpened && was < is:
		return "servers take mTLS besides plaintext"
	case is == model.PhaseMoved && was < is:
		return "clients send mTLS"
	case is == model.PhaseGrace:
		return "new plaintext is refused"
	case is == model.PhaseStrict:
		return "plaintext is refused, also on old connections (" + mode.String() + ")"
	case is == model.PhaseMoved:
		return "servers take plaintext again"
	case is == model.PhaseOpened:
		return "clients send plaintext"
	default:
		return "servers take no mTLS"
	}
}

// when is the proof that the engine waits for.
func when(was, is model.Phase, r model.Rollout) string {
	text := ""
	switch {
	case r.Immediate:
		return "at once (IMMEDIATE: calls fail while some proxies have it and others do not)"
	case is == model.PhaseOpened && was < is, is == model.PhaseMoved && was > is:
		return "at once"
	case is == model.PhaseMoved, is == model.PhaseOpened:
		text = "when every server acknowledged"
	case is == model.PhaseGrace:
		text = "when every client acknowledged, and no plaintext came for " + readiness.Short(r.QuietPeriod)
	case is == model.PhaseStrict:
		text = "when no plaintext connection is open"
	default:
		text = "when every client acknowledged, and no mTLS connection is open"
	}
	return fmt.Sprintf("%s (after %s: %s)", text, readiness.Short(r.Deadline), r.OnDeadline)
}

// pushes are the resources that differ, by proxy. Halves are compared once for
// all that share them.
func pushes(before, after *stage) []Push {
	out := []Push{}
	at := map[string]int{}
	seen := map[[2]*translate.Half]*halfDiff{}
	diff := func(was, is *translate.Half, old, new translate.Config) *halfDiff {
		pair := [2]*translate.Half{was, is}
		if seen[pair] == nil {
			old.Client, new.Client = was, is
			seen[pair] = diffHalves(old, new)
		}
		return seen[pair]
	}
	for _, w := range after.snapshot.Workloads() {
		was, is := before.configs[w.ID], after.configs[w.ID]
		if was.Client == nil || is.Client == nil {
			continue // it is new, and gets all of its own
		}
		client, server := diff(was.Client, is.Client, was, is), diff(was.Server, is.Server, was, is)
		key := client.key + server.key
		if key == "" {
			continue
		}
		i, ok := at[key]
		if !ok {
			i = len(out)
			at[key] = i
			out = append(out, Push{Resources: map[string][]string{}})
			for _, t := range types() {
				if names := slices.Concat(client.names[t.name], server.names[t.name]); len(names) > 0 {
					out[i].Resources[t.name] = names
				}
			}
		}
		out[i].Proxies = append(out[i].Proxies, w.ID.String())
	}
	return out
}

// halfDiff are the resources of a half that differ; the key is the same for
// the same ones, and empty for none.
type halfDiff struct {
	names map[string][]string // by type
	key   string
}

// diffHalves compares what is in Client, with the endpoints of its clusters.
func diffHalves(was, is translate.Config) *halfDiff {
	d := &halfDiff{names: map[string][]string{}}
	for _, t := range types() {
		old := map[string]string{}
		for _, r := range of(was, t.url) {
			old[r.Name] = r.Version
		}
		for _, r := range of(is, t.url) {
			version, had := old[r.Name]
			delete(old, r.Name)
			switch {
			case !had:
				d.names[t.name] = append(d.names[t.name], "+ "+r.Name)
			case version != r.Version:
				d.names[t.name] = append(d.names[t.name], "~ "+r.Name)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(old)) {
			d.names[t.name] = append(d.names[t.name], "- "+name)
		}
	}
	if len(d.names) > 0 {
		d.key = fmt.Sprint(d.names) // of a map, in the order of its keys
	}
	return d
}

// of are the resources of the half in Client.
func of(c translate.Config, typeURL string) []*translate.Resource {
	switch typeURL {
	case translate.ListenerType:
		return c.Client.Listeners.Resources
	case translate.RouteType:
		return c.Client.Routes.Resources
	case translate.ClusterType:
		return c.Client.Clusters.Resources
	case translate.SecretType:
		return c.Client.Secrets.Resources
	default:
		return c.Resources(typeURL)
	}
}

// types are those of resources in reading order.
func types() []struct{ name, url string } {
	return []struct{ name, url string }{
		{"listeners", translate.ListenerType}, {"routes", translate.RouteType}, {"clusters", translate.ClusterType},
		{"endpoints", translate.EndpointType}, {"secrets", translate.SecretType},
	}
}

// counts are "1 listeners, 2 clusters".
func (p *Push) counts() string {
	var parts []string
	for _, t := range types() {
		if n := len(p.Resources[t.name]); n == 1 {
			parts = append(parts, "1 "+strings.TrimSuffix(t.name, "s"))
		} else if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, t.name))
		}
	}
	return strings.Join(parts, ", ")
}

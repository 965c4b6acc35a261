package drill

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/meshconfig"
)

const meshSlot = "mesh"

// slot is one thing that the drill may set: authPolicy of the mesh, or one
// object of its own.
type slot struct {
	name, object string // the object is a text with a place for its spec
	ports        []int32
	values       []string
}

// change sets a slot.
type change struct {
	slot  *slot
	value string
	text  string // of the object; empty: there is none
}

func (c change) String() string { return c.slot.name + " = " + c.value }

// step is one edit, what follows on it, and what goes wrong meanwhile.
type step struct {
	change change
	mind   *change // another, before this one is carried out
	after  time.Duration
	faults []fault
}

// fault is one thing that goes wrong.
type fault struct {
	kind  string
	after time.Duration // after the edit
	lasts time.Duration
	which uint64 // of the sidecars, modulo how many there are
}

const absent = "absent"

// slots are what can be set in a configuration.
func slots(b meshconfig.Bundle) []*slot {
	const meta = "metadata: {name: %s, namespace: %s}\n"
	all := []*slot{{name: meshSlot, values: []string{"NONE", "MUTUAL_TLS"}}}
	add := func(name, kind, object, namespace, spec string, ports []int32, values ...string) {
		version := "security.istio.io/v1beta1"
		if kind == "Policy" {
			version = "authentication.istio.io/v1alpha1"
		}
		text := fmt.Sprintf("apiVersion: %s\nkind: %s\n"+meta+"spec:\n%s", version, kind, object, namespace, spec)
		if !slices.ContainsFunc(all, func(s *slot) bool { return s.name == name }) {
			all = append(all, &slot{name, text, ports, append(values, absent)})
		}
	}
	for _, s := range b.Services {
		if len(s.Spec.Selector) == 0 {
			continue
		}
		add("Policy "+s.Namespace+"/"+s.Name, "Policy", "drill-"+s.Name, s.Namespace, "  targets: [{name: "+s.Name+"}]\n", nil, "STRICT", "PERMISSIVE")
	}
	for _, p := range b.Pods {
		app := p.Labels["app"]
		if app == "" || p.Labels["security.istio.io/tlsMode"] != "istio" {
			continue
		}
		var ports []int32
		for _, c := range p.Spec.Containers {
			for _, port := range c.Ports {
				ports = append(ports, port.ContainerPort)
			}
		}
		add("PeerAuthentication "+p.Namespace+"/"+app, "PeerAuthentication", "drill-"+app, p.Namespace,
			"  selector: {matchLabels: {app: "+app+"}}\n", ports, "STRICT", "PERMISSIVE", "DISABLE")
	}
	slices.SortFunc(all, func(a, b *slot) int { return strings.Compare(a.name, b.name) })
	return all
}

// planner draws steps; the same seed draws the same.
type planner struct {
	random *rand.Rand
	slots  []*slot
	faults []string
	now    map[string]string // by slot
}

func newPlanner(b meshconfig.Bundle, seed uint64, faults []string) *planner {
	p := &planner{random: rand.New(rand.NewPCG(seed, 0)), slots: slots(b), faults: faults, now: map[string]string{}}
	for _, s := range p.slots {
		p.now[s.name] = absent
	}
	p.now[meshSlot] = ""
	return p
}

func (p *planner) step() step {
	s := step{change: p.change()}
	if p.random.IntN(4) == 0 {
		mind := p.change()
		if p.random.IntN(2) == 0 { // the same thing again
			mind = p.set(s.change.slot)
		}
		s.mind, s.after = &mind, p.upTo(4*time.Second)
	}
	for _, kind := range p.faults {
		// Alone, a fault is what the drill is about.
		if rare := min(4, len(p.faults)); p.random.IntN(rare) > 0 {
			continue
		}
		s.faults = append(s.faults, fault{kind, p.upTo(5 * time.Second), p.upTo(3 * time.Second), p.random.Uint64()})
	}
	return s
}

func (p *planner) upTo(d time.Duration) time.Duration {
	return time.Duration(p.random.Int64N(int64(d))).Truncate(time.Millisecond)
}

// change sets a random slot to another value; the mesh more often, as it moves
// most.
func (p *planner) change() change {
	if p.random.IntN(4) == 0 {
		for _, s := range p.slots {
			if s.name == meshSlot {
				return p.set(s)
			}
		}
	}
	return p.set(p.slots[p.random.IntN(len(p.slots))])
}

func (p *planner) set(s *slot) change {
	value := p.now[s.name]
	for value == p.now[s.name] {
		value = s.values[p.random.IntN(len(s.values))]
	}
	p.now[s.name] = value
	c := change{slot: s, value: value}
	if s.name == meshSlot || value == absent {
		return c
	}
	if strings.HasPrefix(s.name, "Policy") {
		c.text = s.object + "  peers: [{mtls: {mode: " + value + "}}]\n"
		return c
	}
	c.text = s.object + "  mtls: {mode: " + value + "}\n"
	if len(s.ports) > 0 && p.random.IntN(2) == 0 {
		modes := []string{"STRICT", "PERMISSIVE", "DISABLE"}
		port, mode := s.ports[p.random.IntN(len(s.ports))], modes[p.random.IntN(3)]
		c.text += fmt.Sprintf("  portLevelMtls: {%d: {mode: %s}}\n", port, mode)
		c.value += fmt.Sprintf(", port %d %s", port, mode)
	}
	return c
}

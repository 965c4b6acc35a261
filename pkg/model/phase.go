package model

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Phase is how far a port is on the way from plaintext to what its mode asks
// for (spec xds.md 8). The phases are one ladder: a change of mode climbs up
// or down, and may turn back at any rung. Opened and Moved are the spec's
// PERMISSIVE, before and after the clients send mTLS.
type Phase uint8

// The rungs, from plaintext up.
const (
	PhaseNone   Phase = iota // servers take plaintext, clients send it
	PhaseOpened              // servers take both, clients send plaintext
	PhaseMoved               // servers take both, clients send mTLS
	PhaseGrace               // servers take mTLS, and plaintext on old connections
	PhaseStrict              // servers take mTLS, or TLS for TLS_ONLY
)

// String is the phase as the spec spells it.
func (p Phase) String() string {
	switch p {
	case PhaseOpened, PhaseMoved:
		return "PERMISSIVE"
	case PhaseGrace:
		return "GRACE"
	case PhaseStrict:
		return "STRICT"
	default:
		return "NONE"
	}
}

// Phase is where a change to the mode ends.
func (m Mode) Phase() Phase {
	switch m {
	case Permissive:
		return PhaseMoved
	case Strict, TLSOnly:
		return PhaseStrict
	default:
		return PhaseNone
	}
}

// RefusesPlaintext says whether new plaintext is refused now.
func (d Decision) RefusesPlaintext() bool { return d.Phase >= PhaseGrace }

// Target is what a rollout moves: one port of a workload group. Port 0 is all
// ports that no service and no policy names.
type Target struct {
	Namespace string
	Group     string // Deployment; "group/workload" while its workloads differ in mode
	Port      uint16 // container port
}

// Compare orders by namespace, group, port.
func (t Target) Compare(o Target) int {
	return cmp.Or(strings.Compare(t.Namespace, o.Namespace), strings.Compare(t.Group, o.Group), int(t.Port)-int(o.Port))
}

// Rollout is how a change of mode is carried out (mtlsRollout).
type Rollout struct {
	Immediate   bool // mode: IMMEDIATE, all at once and not on proof
	QuietPeriod time.Duration
	Deadline    time.Duration
	OnDeadline  DeadlineAction
}

// DeadlineAction is what follows a missed deadline.
type DeadlineAction uint8

// HOLD, the default, waits on.
const (
	DeadlineHold DeadlineAction = iota
	DeadlineProceed
	DeadlineRollback
)

// String is the value of mtlsRollout.onDeadline.
func (a DeadlineAction) String() string {
	switch a {
	case DeadlineProceed:
		return "PROCEED"
	case DeadlineRollback:
		return "ROLLBACK"
	default:
		return "HOLD"
	}
}

// Wanted is a target with what policy wants of it.
type Wanted struct {
	Target
	Decision  Decision     // of all its workloads; Phase is the one in force
	Workloads []WorkloadID // with a sidecar that sees the port, sorted
	Rollout   Rollout
}

// phaseIndex gives ports their phase. Where nothing is stored, a port is
// where its mode ends.
type phaseIndex struct {
	stored map[Target]Phase
	split  map[Target]bool // groups whose workloads differ
	first  map[Target]rung // of the first workload of a group
}

// rung is where a workload is and where it goes.
type rung struct{ now, end Phase }

func indexPhases(stored map[Target]Phase) *phaseIndex {
	if stored == nil {
		return nil
	}
	return &phaseIndex{stored: stored, split: map[Target]bool{}, first: map[Target]rung{}}
}

// note finds the groups whose workloads differ in the mode of a port, or did
// and are not in one phase yet: only one by one they get there.
func (x *phaseIndex) note(h *hosted, port uint16, d Decision) {
	if x == nil || !h.sidecar {
		return
	}
	t := Target{h.ID.Namespace, h.Group, port}
	own := rung{now: d.Mode.Phase(), end: d.Mode.Phase()}
	if p, ok := x.stored[t]; ok {
		own.now = p
	}
	if p, ok := x.stored[Target{t.Namespace, t.Group + "/" + h.ID.Name, port}]; ok {
		own.now = p
	}
	if first, ok := x.first[t]; !ok {
		x.first[t] = own
	} else if first != own {
		x.split[t] = true
	}
}

// target is whom the port of a workload moves with.
func (x *phaseIndex) target(h *hosted, port uint16) Target {
	t := Target{h.ID.Namespace, h.Group, port}
	if x.split[t] {
		t.Group += "/" + h.ID.Name
	}
	return t
}

// of is the phase in force.
func (x *phaseIndex) of(h *hosted, port uint16, d Decision) Phase {
	if x == nil || !h.sidecar {
		return d.Mode.Phase()
	}
	t := x.target(h, port)
	if p, ok := x.stored[t]; ok {
		return p
	}
	t.Group = h.Group
	if p, ok := x.stored[t]; ok {
		return p
	}
	return d.Mode.Phase()
}

// shape tells apart the groups, which move apart.
func (x *phaseIndex) shape(h *hosted) string {
	if x == nil {
		return ""
	}
	group := h.Group
	for i := range h.containers {
		group = max(group, x.target(h, h.containers[i]).Group)
	}
	return "group=" + strconv.Quote(max(group, x.target(h, 0).Group)) + " "
}

// settlePhases settles the phase of every port of every workload. What server-first
// ports serve cannot be told from TLS, so they have no phase in between.
func (s *Snapshot) settlePhases() {
	for _, w := range s.workloads {
		h := s.byID[w.ID]
		for i, port := range h.containers {
			s.staged.note(h, port, h.modes[i])
		}
		s.staged.note(h, 0, h.other)
	}
	for _, w := range s.workloads {
		h := s.byID[w.ID]
		for i, port := range h.containers {
			h.modes[i].Phase = h.modes[i].Mode.Phase()
			if !h.serverFirst(port) {
				h.modes[i].Phase = s.staged.of(h, port, h.modes[i])
			}
		}
		h.other.Phase = s.staged.of(h, 0, h.other)
	}
}

func (h *hosted) serverFirst(port uint16) bool {
	pairs := h.pairs(port)
	return len(pairs) > 0 && servedProtocol(pairs).ServerFirst()
}

// Targets are all targets, sorted; none unless the snapshot was built with
// phases.
func (s *Snapshot) Targets() []Wanted {
	if s.staged == nil {
		return nil
	}
	at := map[Target]int{}
	var out []Wanted
	add := func(h *hosted, port uint16, d Decision) {
		t := s.staged.target(h, port)
		i, ok := at[t]
		if !ok {
			i = len(out)
			at[t] = i
			out = append(out, Wanted{Target: t, Decision: d, Rollout: s.rolloutOf(d)})
		}
		out[i].Workloads = append(out[i].Workloads, h.ID)
	}
	for _, w := range s.workloads {
		h := s.byID[w.ID]
		if !h.sidecar {
			continue
		}
		for i, port := range h.containers {
			if h.Inbound.Has(port) && !h.serverFirst(port) {
				add(h, port, h.modes[i])
			}
		}
		add(h, 0, h.other)
	}
	slices.SortFunc(out, func(a, b Wanted) int { return a.Target.Compare(b.Target) })
	return out
}

// rolloutOf is how the deciding object wants the change carried out.
func (s *Snapshot) rolloutOf(d Decision) Rollout {
	if own, ok := s.rollouts[d.Source]; ok {
		return own
	}
	return s.mesh.Rollout
}

// Fixed is what some clients send to a target whatever its phase, because a
// rule, an exclusion or the mesh configuration says so.
type Fixed struct {
	Host       string
	Port       uint16   // service port
	Namespaces []string // of the clients; empty: most
	TLS        ClientTLS
	By         string
}

// Fixed are the ways to a target that its phases do not decide.
func (s *Snapshot) Fixed(w *Wanted) []Fixed {
	var out []Fixed
	for _, way := range s.Ways(w) {
		add := func(svc *OutboundService, namespaces []string) {
			port := svc.At(way.Port)
			if port == nil {
				return
			}
			for _, u := range append([]*Upstream{&port.Upstream}, port.Subsets...) {
				f := Fixed{svc.Host, way.Port, namespaces, u.TLS, u.By()}
				known := slices.ContainsFunc(out, func(o Fixed) bool {
					return o.Host == f.Host && o.Port == f.Port && o.TLS == f.TLS && o.By == f.By
				})
				if u.Step != StepAuto && !known {
					out = append(out, f)
				}
			}
		}
		i, ok := slices.BinarySearchFunc(s.services, way.Host, func(o *OutboundService, host string) int { return strings.Compare(o.Host, host) })
		if !ok {
			continue
		}
		add(s.services[i], nil)
		for _, v := range s.variants {
			if v.Host == way.Host {
				add(v.OutboundService, v.Namespaces)
			}
		}
	}
	return out
}

// Scoped says whether not every namespace may call the target; every one may
// call ports that no service names.
func (s *Snapshot) Scoped(w *Wanted) bool { return s.scoped && w.Port != 0 }

// Calls says whether clients of a namespace see a service that leads to the
// target.
func (s *Snapshot) Calls(namespace string, w *Wanted) bool {
	if !s.Scoped(w) {
		return true
	}
	for _, way := range s.Ways(w) {
		i, ok := slices.BinarySearchFunc(s.services, way.Host, func(o *OutboundService, host string) int { return strings.Compare(o.Host, host) })
		if ok && s.services[i].ExportedTo(namespace) {
			return true
		}
	}
	return false
}

// Way is a service port that leads to a target.
type Way struct {
	Host string
	Port uint16
}

// Ways are the service ports that lead to a target.
func (s *Snapshot) Ways(w *Wanted) []Way {
	var out []Way
	for _, id := range w.Workloads {
		for _, pair := range s.byID[id].pairs(w.Port) {
			if next := (Way{pair.service.Host, pair.port.Number}); !slices.Contains(out, next) {
				out = append(out, next)
			}
		}
	}
	return out
}

// Package readiness judges whether a target can be made strict: who would
// break, who could not follow, and whether enough was seen to say so. It is
// pure: facts and time come in, a report comes out.
package readiness

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

// settles is how long after its phase was entered a client may still send
// plaintext that it has begun before.
const settles = 10 * time.Second

// Facts are what is known about one target that is not strict.
type Facts struct {
	Target model.Target
	Mode   model.Mode  // wanted
	Phase  model.Phase // in force
	Since  time.Time   // the phase was entered
	// Servers are the workloads of the target, and Others who could not follow
	// besides them: clients, rules, endpoints without a sidecar.
	Servers []Server
	Others  []Obstacle
	Peers   []Peer
}

// Server is a workload of the target.
type Server struct {
	Workload model.WorkloadID
	// Logs is since when no plaintext can have been missed; zero: it can.
	Logs time.Time
	// Trouble is why it could not follow; nil: it could.
	Trouble *Obstacle
}

// Peer is who was seen without mesh mTLS.
type Peer struct {
	Name        string // workload; empty if the address is nobody's
	Address     string
	Known       bool // the mesh has the workload
	Sidecar     bool
	AppTLS      bool   // it sends TLS of its own
	Refused     bool   // instead of served
	Rule        string // that may tell it to send plaintext; empty: none does
	Port        uint16
	Count       uint64
	First, Last time.Time
}

// Effect is what something means for the verdict.
type Effect string

// The effects, the gravest first.
const (
	Breaks  Effect = "breaks"  // calls fail, or the change is held
	Unknown Effect = "unknown" // it cannot be told
	Follows Effect = "follows" // sends mTLS when the target takes it
	Remark  Effect = "remark"  // stays as it is, and breaks nothing
)

// Obstacle is somebody who could not follow, or of whom it is not known.
type Obstacle struct {
	Who    string `json:"who"`
	Why    string `json:"why"`
	Effect Effect `json:"effect"`
}

// Question is how much one wants to know.
type Question struct {
	Within   time.Duration // peers that were seen so long ago count
	Evidence time.Duration // and so far back it must be without a gap
}

// Verdict is the answer in a word.
type Verdict string

// The verdicts.
const (
	Ready    Verdict = "READY"
	NotReady Verdict = "NOT READY"
	Unclear  Verdict = "UNKNOWN"
)

// Report is the judgement of one target.
type Report struct {
	Target    string   `json:"target"`
	Namespace string   `json:"namespace"`
	Workload  string   `json:"workload"`
	Port      uint16   `json:"port"` // 0: all that no service names
	Services  []string `json:"services"`
	Mode      string   `json:"mode"`
	Source    string   `json:"source"` // of the mode
	Phase     string   `json:"phase"`
	Settled   bool     `json:"settled"` // the phase is where the mode ends
	Verdict   Verdict  `json:"verdict"`
	// Since is since when there is evidence without a gap from all of its
	// workloads; absent: there is none.
	Since     time.Time  `json:"evidenceSince,omitzero"`
	Peers     []Seen     `json:"peers"`     // the gravest first, then the newest
	Obstacles []Obstacle `json:"obstacles"` // the gravest first
	More      int        `json:"more,omitempty"`
}

// Seen is a peer with what becomes of it.
type Seen struct {
	Who    string    `json:"who"` // workload and address, or address
	Port   uint16    `json:"port"`
	Count  uint64    `json:"count"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
	Why    string    `json:"why"`
	Effect Effect    `json:"effect"`
}

// Judge says what would become of everybody if the target were strict.
func Judge(f Facts, q Question, now time.Time) Report {
	r := Report{
		Namespace: f.Target.Namespace, Workload: f.Target.Group, Port: f.Target.Port,
		Mode: f.Mode.String(), Phase: f.Phase.String(), Settled: f.Phase == f.Mode.Phase(), Services: []string{}, Peers: []Seen{}, Obstacles: []Obstacle{},
	}
	for i := range f.Servers {
		r.server(&f.Servers[i], q, now)
	}
	if slices.ContainsFunc(f.Servers, func(s Server) bool { return s.Logs.IsZero() }) {
		r.Since = time.Time{}
	}
	r.Obstacles = append(r.Obstacles, f.Others...)
	for i := range f.Peers {
		if p := &f.Peers[i]; now.Sub(p.Last) <= q.Within {
			r.Peers = append(r.Peers, f.seen(p))
		}
	}
	slices.SortStableFunc(r.Obstacles, func(a, b Obstacle) int { return order(a.Effect) - order(b.Effect) })
	slices.SortStableFunc(r.Peers, func(a, b Seen) int {
		if n := order(a.Effect) - order(b.Effect); n != 0 {
			return n
		}
		return b.Last.Compare(a.Last)
	})
	r.Verdict = r.verdict()
	return r
}

// server says what is missing of a server, and since when there is evidence
// from all of them.
func (r *Report) server(s *Server, q Question, now time.Time) {
	add := func(why string) {
		r.Obstacles = append(r.Obstacles, Obstacle{s.Workload.String(), why, Unknown})
	}
	if s.Trouble != nil {
		r.Obstacles = append(r.Obstacles, *s.Trouble)
	}
	switch {
	case s.Logs.IsZero():
		if s.Trouble == nil || s.Trouble.Effect != Unknown {
			add("tells nothing of its traffic, so plaintext would not be seen")
		}
	case now.Sub(s.Logs) < q.Evidence:
		add(fmt.Sprintf("tells of its traffic without a gap since %s only, and %s is asked for", s.Logs.UTC().Format(time.DateTime), Short(q.Evidence)))
	}
	if s.Logs.After(r.Since) {
		r.Since = s.Logs
	}
}

// seen is what becomes of a peer.
func (f *Facts) seen(p *Peer) Seen {
	s := Seen{Who: p.Address, Port: p.Port, Count: p.Count, First: p.First, Last: p.Last, Effect: Breaks}
	if p.Name != "" {
		s.Who = p.Name + " at " + p.Address
	}
	switch {
	case p.AppTLS:
		s.Why = "sends TLS of its own, which the application ends"
	case p.Refused:
		s.Why = "is refused already"
	case p.Name == "" && f.Phase < model.PhaseMoved && loopback(p.Address):
		s.Why, s.Effect = "is whoever calls from the same machine; whether it has a sidecar shows when clients send mTLS", Unknown
	case p.Name == "":
		s.Why = "has an address that is no workload's, so it has no sidecar"
	case !p.Sidecar:
		s.Why = "has no sidecar"
	case !p.Known:
		s.Why, s.Effect = "had a sidecar and is gone", Follows
	case f.Phase < model.PhaseMoved:
		s.Why, s.Effect = "has a sidecar, which sends mTLS when the target takes it", Follows
		if p.Rule != "" {
			s.Why += ", except where " + p.Rule + " tells it otherwise"
		}
		if trouble := f.trouble(p.Name); trouble != nil {
			s.Why, s.Effect = trouble.Why, trouble.Effect
		}
	case p.Last.After(f.Since.Add(settles)):
		s.Why = "has a sidecar that is told to send mTLS, and sends plaintext all the same: it calls pods by their address, or keeps an old connection"
	default:
		s.Why, s.Effect = "has a sidecar, and sends mTLS since", Follows
	}
	return s
}

func (f *Facts) trouble(who string) *Obstacle {
	for i := range f.Others {
		if f.Others[i].Who == who {
			return &f.Others[i]
		}
	}
	return nil
}

func loopback(address string) bool {
	ip, err := netip.ParseAddr(address)
	return err == nil && ip.IsLoopback()
}

func (r *Report) verdict() Verdict {
	out := Ready
	note := func(e Effect) {
		switch {
		case e == Breaks:
			out = NotReady
		case e == Unknown && out == Ready:
			out = Unclear
		}
	}
	for i := range r.Obstacles {
		note(r.Obstacles[i].Effect)
	}
	for i := range r.Peers {
		note(r.Peers[i].Effect)
	}
	return out
}

func order(e Effect) int { return slices.Index([]Effect{Breaks, Unknown, Follows, Remark}, e) }

// Short is a duration without units that are zero: 1h, 1m30s.
func Short(d time.Duration) string {
	text := d.Truncate(time.Second).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

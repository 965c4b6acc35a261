package plan

import (
	"net"
	"strconv"
	"strings"

	"github.com/meshpilot/pilot/pkg/explain"
	"github.com/meshpilot/pilot/pkg/readiness"
)

// mostReasons bounds how many broken pairs get a sentence each.
const mostReasons = 100

// Break is a class of callers and a service port whose calls work now and
// will not.
type Break struct {
	From    string          `json:"from"`
	Sidecar bool            `json:"sidecar"` // the callers have one
	Host    string          `json:"host"`
	Port    uint16          `json:"port"`
	Was     explain.Verdict `json:"was"`
	Will    explain.Verdict `json:"will"`
	Step    int             `json:"step"` // from which on
	Why     string          `json:"why,omitempty"`
	// Plaintext says that the calls are refused for being plaintext, of which
	// evidence tells whether anybody makes them.
	Plaintext bool `json:"plaintext"`
}

// Seen is who was seen calling a target that becomes strict, and would break.
type Seen struct {
	Target string `json:"target"`
	readiness.Seen
}

// Doubt is what is not known about a target that becomes strict.
type Doubt struct {
	Target string `json:"target"`
	Why    string `json:"why"`
}

type pair struct {
	class, host string
	port        uint16
}

// breaks compares simulated calls of each stage with those of the first.
func breaks(stages []*stage) []Break {
	var out []Break
	broken := map[pair]bool{}
	first := explain.New(stages[0].snapshot, nil).All(explain.Window{})
	for i := 1; i < len(stages); i++ {
		e := explain.New(stages[i].snapshot, nil)
		m := e.All(explain.Window{})
		now := verdicts(m)
		for _, row := range first.Rows {
			for c, was := range row.Verdicts {
				class := first.Classes[c]
				p := pair{class.Name, row.Host, row.Port}
				will, there := now[p]
				if !there && hasClass(m, class.Name) {
					will = explain.VerdictNobody
				}
				if broken[p] || will == "" || works(will) >= works(was) {
					continue
				}
				broken[p] = true
				b := Break{From: class.Name, Sidecar: class.Sidecar, Host: row.Host, Port: row.Port, Was: was, Will: will, Step: i,
					Plaintext: will == explain.VerdictRefused}
				if len(out) < mostReasons {
					b.Why = why(e, m, p)
				}
				out = append(out, b)
			}
		}
	}
	return out
}

func verdicts(m explain.Matrix) map[pair]explain.Verdict {
	out := map[pair]explain.Verdict{}
	for _, row := range m.Rows {
		for c, v := range row.Verdicts {
			out[pair{m.Classes[c].Name, row.Host, row.Port}] = v
		}
	}
	return out
}

func hasClass(m explain.Matrix, name string) bool {
	for i := range m.Classes {
		if m.Classes[i].Name == name {
			return true
		}
	}
	return false
}

// works is how far calls work.
func works(v explain.Verdict) int {
	switch v {
	case explain.VerdictRefused, explain.VerdictFails, explain.VerdictNobody:
		return 0
	case explain.VerdictPartly:
		return 1
	default:
		return 2
	}
}

func why(e *explain.Explainer, m explain.Matrix, p pair) string {
	for i := range m.Classes {
		if c := &m.Classes[i]; c.Name == p.class {
			a, err := e.Ask(c.Workloads[0], net.JoinHostPort(p.host, strconv.Itoa(int(p.port))))
			if err != nil {
				return err.Error()
			}
			return a.Now
		}
	}
	return ""
}

// Witness adds what a running mesh knows about the targets that become strict.
func (p *Plan) Witness(reports []readiness.Report) {
	p.Asked = true
	for i := range p.Targets {
		t := &p.Targets[i]
		if !t.strict || t.ServerFirst {
			continue
		}
		group, _, _ := strings.Cut(t.key.Group, "/")
		found := false
		for j := range reports {
			r := &reports[j]
			base, _, _ := strings.Cut(r.Workload, "/")
			if r.Namespace != t.key.Namespace || base != group || r.Port != t.key.Port {
				continue
			}
			found = true
			p.witness(t, r)
		}
		if !found {
			p.Unknown = append(p.Unknown, Doubt{t.Target, "the control plane has no evidence about it"})
		}
	}
}

func (p *Plan) witness(t *Target, r *readiness.Report) {
	for _, s := range r.Peers {
		switch s.Effect {
		case readiness.Breaks:
			p.Seen = append(p.Seen, Seen{t.Target, s})
		case readiness.Unknown:
			p.Unknown = append(p.Unknown, Doubt{t.Target, s.Who + " " + s.Why})
		}
	}
	for _, o := range r.Obstacles {
		if o.Effect == readiness.Unknown {
			p.Unknown = append(p.Unknown, Doubt{t.Target, o.Who + " " + o.Why})
		}
	}
}

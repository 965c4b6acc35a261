package explain

import (
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate/simulate"
)

// Matrix is every client class against every service port.
type Matrix struct {
	Classes []Class `json:"classes"`
	Rows    []Row   `json:"ports"`
	Left    int     `json:"left,omitempty"` // service ports after these
}

// Window is which service ports one asks for: after Skip of them as many as
// Calls calls reach, one for each class of callers; 0 is all.
type Window struct{ Skip, Calls int }

// Class is callers that are alike: those of a namespace with the same kind of
// capture; those without a sidecar are one class of the whole mesh.
type Class struct {
	Name      string   `json:"name"`
	Sidecar   bool     `json:"sidecar"`
	Workloads []string `json:"workloads"`

	caller Caller // one of them
}

// Row is one service port.
type Row struct {
	Host     string    `json:"host"`
	Port     uint16    `json:"port"`
	Protocol string    `json:"protocol"`
	Verdicts []Verdict `json:"verdicts"` // in the order of the classes

	Service model.Key `json:"-"`
}

// Pair is a class and a service port that one should know about.
type Pair struct {
	From     []string  `json:"from"` // classes to which the same happens for the same reason
	Host     string    `json:"host"`
	Port     uint16    `json:"port"`
	Verdict  Verdict   `json:"verdict"`
	Why      string    `json:"why"`
	Change   []Change  `json:"change,omitempty"` // only of conflicts
	Endpoint *Endpoint `json:"-"`                // the first that it is about
	// Cause is the object that the client side goes by: a rule, the Service; of
	// kind MeshConfig and without a name, the mesh configuration.
	Cause model.Key `json:"-"`
}

// All is the matrix, as far as the window shows it.
func (e *Explainer) All(w Window) Matrix {
	m := Matrix{Classes: e.classes(), Rows: []Row{}}
	m.Left = e.each(m.Classes, w, func(class int, a *Answer) {
		if class == 0 {
			m.Rows = append(m.Rows, Row{Host: a.To.Host, Port: a.To.Port, Protocol: a.To.Protocol, Service: a.To.svc.Key})
		}
		row := &m.Rows[len(m.Rows)-1]
		row.Verdicts = append(row.Verdicts, a.Verdict)
	})
	return m
}

// Pairs are those that a window shows.
type Pairs struct {
	Pairs []Pair `json:"pairs"`
	Ports int    `json:"ports"`          // service ports that were looked at
	Left  int    `json:"left,omitempty"` // and that are after these
}

// Plaintext are the pairs of which some call goes in plaintext, would if it
// were not refused, or would if there were an endpoint.
func (e *Explainer) Plaintext(w Window) Pairs {
	return e.pairs(w, (*Endpoint).plain, func(*Answer) []Change { return nil })
}

// Conflicts are the pairs of a class with sidecars where the client side sends
// what the server side does not take.
func (e *Explainer) Conflicts() []Pair {
	return e.pairs(Window{}, func(p *Endpoint) bool {
		return p.reason != reasonNoProxy && !p.works() && p.Workload != "" &&
			(p.refusesPlaintext() || p.ownTLS())
	}, e.changes).Pairs
}

// pairs are those with an endpoint that is wanted; classes share one where
// they have the verdict and the reason in common.
func (e *Explainer) pairs(w Window, wanted func(*Endpoint) bool, change func(*Answer) []Change) Pairs {
	classes := e.classes()
	out, ports := []Pair{}, 0
	first := 0 // of the present port in out
	left := e.each(classes, w, func(class int, a *Answer) {
		if class == 0 {
			first = len(out)
			ports++
		}
		i := slices.IndexFunc(a.Endpoints, func(p Endpoint) bool { return wanted(&p) })
		if i < 0 {
			return
		}
		p := Pair{From: []string{classes[class].Name}, Host: a.To.Host, Port: a.To.Port, Verdict: a.Verdict,
			Why: because(a, wanted), Endpoint: &a.Endpoints[i], Cause: cause(a, &a.Endpoints[i])}
		for j := first; j < len(out); j++ {
			if out[j].Verdict == p.Verdict && out[j].Why == p.Why {
				out[j].From = append(out[j].From, p.From...)
				return
			}
		}
		p.Change = change(a)
		out = append(out, p)
	})
	return Pairs{out, ports, left}
}

func cause(a *Answer, p *Endpoint) model.Key {
	switch p.reason {
	case reasonRule:
		return a.To.port.Source
	case reasonExcluded, reasonMeshConfig:
		return model.Key{Kind: "MeshConfig"}
	default:
		return a.To.svc.Key
	}
}

// because are the reasons of the wanted endpoints, each once.
func because(a *Answer, wanted func(*Endpoint) bool) string {
	var out []string
	for i := range a.Endpoints {
		p := &a.Endpoints[i]
		if !wanted(p) {
			continue
		}
		why := p.Why
		if p.reason == reasonDisabled {
			why += ", set by " + p.Source
		}
		switch {
		case p.works() || p.Workload == "":
		case p.Sidecar:
			why += ", and " + label(p) + " is " + p.Mode + ", set by " + p.Source
		case p.outcome.Sent == simulate.MeshTLS:
			why += ", and " + label(p) + " has no sidecar"
		}
		if !slices.Contains(out, why) {
			out = append(out, why)
		}
	}
	return strings.Join(out, "; ")
}

// each asks for every service port of the window, and there for every class.
// It says how many ports are left.
func (e *Explainer) each(classes []Class, w Window, yield func(class int, a *Answer)) (left int) {
	if !e.whole {
		e.mesh, e.whole = simulate.Of(e.snapshot), true
	}
	most := max(1, w.Calls/max(1, len(classes)))
	at := 0
	for _, svc := range e.snapshot.Services() {
		for _, port := range svc.Ports {
			at++
			if w.Calls > 0 && at > w.Skip+most {
				left++
			}
			if left > 0 || at <= w.Skip {
				continue
			}
			for i := range classes {
				a := e.answer(classes[i].caller, e.known(svc, port, classes[i].caller))
				yield(i, &a)
			}
		}
	}
	return left
}

// known is a service port as a target of a caller, who may see it in a form
// of its own, or not at all.
func (e *Explainer) known(svc *model.OutboundService, port *model.OutboundPort, from Caller) Target {
	t := Target{Asked: join(svc.Host, port.Number), Kind: KindService, Host: svc.Host, Port: port.Number, Protocol: port.Protocol.String(),
		svc: svc, port: port, speaks: speaks(port.Protocol)}
	if own := e.services(from.id.Namespace)[svc.Host]; own == nil {
		t.Hidden = true
	} else {
		t.svc = own
		if i := slices.Index(svc.Ports, port); i < len(own.Ports) {
			t.port = own.Ports[i]
		}
	}
	switch {
	case svc.External:
		t.Kind = KindExternal
	case svc.Resolution == model.ResolveHeadless:
		t.Kind = KindHeadless
	}
	t.dial = e.dialed(t.svc, t.port)
	return t
}

// classes are those that some workload has; without a sidecar comes last.
func (e *Explainer) classes() []Class {
	index := map[model.ClientClass]int{}
	var out []Class
	bare := Class{Name: "no sidecar"}
	for _, w := range e.snapshot.Workloads() {
		c := e.callerOf(w)
		if !c.Sidecar {
			if bare.Workloads == nil {
				bare.caller = c
			}
			bare.Workloads = append(bare.Workloads, c.Workload)
			continue
		}
		i, ok := index[c.class]
		if !ok {
			i = len(out)
			index[c.class] = i
			name := w.ID.Namespace
			if c.class.Capture != e.snapshot.Mesh().Capture {
				name += " (" + c.Capture + ")"
			}
			out = append(out, Class{Name: name, Sidecar: true, caller: c})
		}
		out[i].Workloads = append(out[i].Workloads, c.Workload)
	}
	if bare.Workloads != nil {
		out = append(out, bare)
	}
	return out
}

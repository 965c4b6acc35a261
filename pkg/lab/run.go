package lab

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/lab/envoy"
	"github.com/meshpilot/pilot/pkg/lab/netns"
	"github.com/meshpilot/pilot/pkg/lab/toggle"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
	"github.com/meshpilot/pilot/pkg/translate/diff"
)

// Run starts the mesh and shows what happens in it until ctx ends, or for
// Options.For; then it stops everything.
func Run(ctx context.Context, o Options) error {
	if o.Capture && !netns.Privileged() {
		return netns.Reexec()
	}
	l, err := Start(ctx, o)
	if ctx.Err() != nil && l == nil {
		return nil // stopped by the user, who need not read how far it was
	}
	if err != nil {
		return err
	}
	l.introduce()
	err = l.show(ctx)
	if o.Report != "" {
		report := l.Report(context.WithoutCancel(ctx))
		if e := report.write(o.Report); err == nil {
			err = e
		}
	}
	l.say.close(l.Rows())
	envoys := l.envoys()
	if e := l.Close(); err == nil {
		err = e
	}
	if err == nil {
		l.say.event("stopped: all of %d Envoys have ended", envoys)
	}
	return err
}

func (l *Lab) introduce() {
	l.say.event("%d Envoys are live, %d pairs of caller and service port exchange traffic", l.envoys(), len(l.Rows()))
	l.say.event("certificates last %s, open connections keep theirs (docs/lab.md, Certificates); the CA is in %s", l.setting.ca.Lifetimes().Default, l.CA())
	l.say.event("edit %s, above all authPolicy in mesh.yaml; status: http://%s/debug/", l.options.Dir, l.control.server().Addresses().HTTP)
}

// show follows edits and traffic.
func (l *Lab) show(ctx context.Context) error {
	var over <-chan time.Time
	if l.options.For > 0 {
		timer := time.NewTimer(l.options.For)
		defer timer.Stop()
		over = timer.C
	}
	tick := time.NewTicker(statsEvery)
	defer tick.Stop()
	v := &viewer{lab: l, problems: map[string]bool{}}
	for i := 1; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-over:
			return nil
		case err := <-l.died:
			l.run.keep = true
			return err
		case <-l.control.done:
			return fmt.Errorf("the control plane ended: %w", l.control.err)
		case <-tick.C:
			v.refresh(i)
		}
	}
}

// viewer is what show remembers.
type viewer struct {
	lab      *Lab
	edits    int // printed
	problems map[string]bool
	waits    toggle.Waits
}

// newProblems prints what was not there before.
func (v *viewer) newProblems(found []status.Finding) {
	now := map[string]bool{}
	for _, f := range found {
		text := problemText(f.Problem)
		now[text] = true
		if !v.problems[text] && f.Severity > meshconfig.Info {
			v.lab.say.event("%s", text)
		}
	}
	v.problems = now
}

func problemText(p meshconfig.Problem) string {
	where := ""
	if p.At.File != "" {
		where = fmt.Sprintf("%s:%d: ", p.At.File, p.At.Line)
	}
	what := p.On.String()
	if p.Field != "" {
		what += " " + p.Field
	}
	return fmt.Sprintf("%s%s %s: %s: %s", where, p.Severity, p.Code, what, p.Message)
}

func (v *viewer) refresh(i int) {
	l := v.lab
	v.newProblems(l.control.server().State().Findings)
	edits := l.edits()
	for ; v.edits < len(edits) && edits[v.edits].Complete; v.edits++ {
		e := edits[v.edits]
		l.say.event("edit of %s: %s", clock(e.At), e)
	}
	rows := l.Rows()
	rollouts := l.control.server().Rollouts()
	l.say.table(rows, toggle.UnderWay(rollouts, time.Now()), v.waits.News(rollouts))
	if i%20 == 0 {
		l.say.summary(rows, l.setting.renewer.Count())
	}
}

func (l *Lab) envoys() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, c := range l.cells {
		if c.sidecar {
			n++
		}
	}
	return n
}

// Rows are all pairs, by caller, then callee and port.
func (l *Lab) Rows() []Row {
	l.mu.Lock()
	pairs, s := slices.Clone(l.pairs), l.state.snapshot
	ages := maps.Clone(l.acked)
	l.mu.Unlock()
	inForce := l.control.server().State().Snapshot
	rows := make([]Row, len(pairs))
	for i, p := range pairs {
		rows[i] = p.row()
		rows[i].Mode = p.target.each(s, func(d model.Decision) string { return d.Mode.String() })
		rows[i].Phase = p.target.each(inForce, func(d model.Decision) string { return d.Phase.String() })
		rows[i].way = p.target.each(inForce, wayText)
		rows[i].Age = -1
		if at, ok := ages[p.caller]; ok {
			rows[i].Age = time.Since(at)
		}
	}
	return rows
}

// each is what the target's endpoints have in common; nothing of a control
// plane that has only begun.
func (t target) each(s *model.Snapshot, of func(model.Decision) string) string {
	if s == nil {
		return ""
	}
	common := ""
	for _, e := range t.endpoints {
		one := "no sidecar"
		if s.HasSidecar(e.workload) {
			one = of(s.Decision(e.workload, e.port))
		}
		if common != "" && common != one {
			return "MIXED"
		}
		common = one
	}
	return common
}

// wayText is a mode, and the phase as long as it is not where the mode ends.
func wayText(d model.Decision) string {
	if d.Phase == d.Mode.Phase() {
		return d.Mode.String()
	}
	return d.Phase.String() + ">" + d.Mode.String()
}

// Report is the state of the run so far.
func (l *Lab) Report(ctx context.Context) Report {
	l.notePhases()
	rows := l.Rows()
	return Report{
		Started: l.started, Seconds: time.Since(l.started).Round(time.Millisecond).Seconds(),
		Capture: l.options.Capture, Envoys: l.envoys(), NACKs: l.nacks(ctx),
		Totals: total(rows), Edits: l.edits(), Phases: l.course.All(l.control.server().Rollouts(), l.callsTo), Pairs: rows, Certificates: l.certificates(),
	}
}

func (l *Lab) certificates() []Certificates {
	var all []Certificates
	for _, id := range l.Sidecars() {
		c := l.cell(id)
		if c == nil {
			continue // removed meanwhile
		}
		if held := c.leaves.Load(); held != nil {
			all = append(all, Certificates{id.String(), held.Last(), held.Loaded()})
		}
	}
	return all
}

// CA is the directory of the lab's CA: ca-cert.pem and ca-key.pem sign, and
// root-cert.pem is what is trusted. Edits take effect within seconds.
func (l *Lab) CA() string { return l.run.ca() }

// Sidecars are the workloads that have one.
func (l *Lab) Sidecars() []model.WorkloadID {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []model.WorkloadID
	for id, c := range l.cells {
		if c.sidecar {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, model.WorkloadID.Compare)
	return ids
}

// Render is the configuration that the workload's Envoy should have, as
// canonical YAML.
func (l *Lab) Render(id model.WorkloadID) ([]byte, error) {
	config, err := l.Config(id)
	if err != nil {
		return nil, err
	}
	return diff.Render(config), nil
}

// Config is the configuration that the workload's Envoy should have.
func (l *Lab) Config(id model.WorkloadID) (translate.Config, error) {
	node, ok := l.Proxy(id)
	if !ok {
		return translate.Config{}, fmt.Errorf("%s has no sidecar here", id)
	}
	config, ok := translate.For(l.Snapshot(), node)
	if !ok {
		return translate.Config{}, fmt.Errorf("no configuration describes %s", id)
	}
	return config, nil
}

// Snapshot is the mesh as the control plane has it, with all sidecars connected.
func (l *Lab) Snapshot() *model.Snapshot {
	l.mu.Lock()
	in := l.state.inputs
	l.mu.Unlock()
	in.Connected = l.Sidecars()
	return model.Build(in)
}

// Proxy is the workload's sidecar; false: it has none here.
func (l *Lab) Proxy(id model.WorkloadID) (model.Proxy, bool) {
	c := l.cell(id)
	if c == nil || !c.sidecar {
		return model.Proxy{}, false
	}
	return c.node, true
}

// Admin reads a path of the admin endpoint of the workload's Envoy.
func (l *Lab) Admin(ctx context.Context, id model.WorkloadID, path string) (string, error) {
	c := l.cell(id)
	if c == nil || !c.sidecar {
		return "", fmt.Errorf("%s has no sidecar here", id)
	}
	return c.admin.Get(ctx, path)
}

// Dial opens a TCP connection to an IP:port as an application would, the one
// of a workload here.
func (l *Lab) Dial(ctx context.Context, from model.WorkloadID, address string) (net.Conn, error) {
	c := l.cell(from)
	if c == nil {
		return nil, fmt.Errorf("%s does not run here", from)
	}
	return c.dial(ctx, address)
}

// Connections counts what the workload's sidecar opened, by outbound cluster.
func (l *Lab) Connections(ctx context.Context, id model.WorkloadID) (map[string]envoy.Connections, error) {
	c := l.cell(id)
	if c == nil || !c.sidecar {
		return nil, fmt.Errorf("%s has no sidecar here", id)
	}
	return c.admin.OutboundConnections(ctx)
}

// Issue makes a certificate for the workload, as its sidecar has one.
func (l *Lab) Issue(id model.WorkloadID) (identity.KeyPair, error) {
	c := l.cell(id)
	if c == nil {
		return identity.KeyPair{}, fmt.Errorf("%s does not run here", id)
	}
	return l.setting.ca.Issue(c.uri, 0)
}

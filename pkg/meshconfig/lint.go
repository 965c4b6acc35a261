package meshconfig

import (
	"slices"
	"strconv"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
)

// Lint is the second half of Compile: what does not do what its author may
// expect although each object is valid. s is built of in, by the caller's
// choice with evidence of connected sidecars added. The problems are sorted.
func Lint(b Bundle, in model.Inputs, s *model.Snapshot) []Problem {
	l := &linter{
		report:   report{positions: b.Positions},
		in:       in,
		snapshot: s,
		remarks:  map[remark]*places{},
		ties:     map[*model.Key]*tie{},
		views:    map[model.ServerClass]*model.ServerView{},
	}
	l.indexTargets(b.Policies)
	for _, p := range b.Policies {
		l.policyTargets(p)
	}
	l.selectors(b.PeerAuthentications)
	l.excludedSidecars(meshOf(b).Key)
	l.modes()
	l.destinationRules()
	l.conflicts(meshOf(b).Key)
	l.podProbes(b.Pods)
	l.conclude()
	SortProblems(l.problems)
	return l.problems
}

type linter struct {
	report
	in       model.Inputs
	snapshot *model.Snapshot
	targets  map[objectName][]*model.Service // of the names that policies target
	remarks  map[remark]*places
	ties     map[*model.Key]*tie // by the list of losers, which ports share
	views    map[model.ServerClass]*model.ServerView
}

// remark is a problem that may hold at many ports and is reported once.
type remark struct {
	code   string
	on     model.Key
	field  string
	before string // of the message, ahead of the places
	after  string
}

// places are the ports where a remark holds; the first few by name are named.
type places struct {
	named []string // sorted
	count int
}

const namedPlaces = 3

// found counts a remark at a port of a workload or, without one, an address.
// Port 0 is all ports.
func (l *linter) found(f remark, at string, port uint16) {
	l.placesOf(f).add(placeName(at, port))
}

func (l *linter) placesOf(f remark) *places {
	p := l.remarks[f]
	if p == nil {
		p = &places{}
		l.remarks[f] = p
	}
	return p
}

func placeName(at string, port uint16) string {
	if port == 0 {
		return at
	}
	return at + ":" + strconv.Itoa(int(port))
}

func (p *places) add(name string) {
	p.count++
	i, _ := slices.BinarySearch(p.named, name)
	if i < namedPlaces {
		p.named = slices.Insert(p.named, i, name)
		p.named = p.named[:min(len(p.named), namedPlaces)]
	}
}

func (p *places) addAll(o *places) {
	for _, name := range o.named {
		p.add(name)
	}
	p.count += o.count - len(o.named)
}

func (p *places) String() string {
	text := strings.Join(p.named, ", ")
	if more := p.count - len(p.named); more > 0 {
		text += " and " + strconv.Itoa(more) + " more"
	}
	return text
}

func (l *linter) conclude() {
	for f, at := range l.remarks {
		l.warn(f.code, f.on, f.field, "%s%s%s", f.before, at, f.after)
	}
}

// indexTargets finds the services that policies name, and only those.
func (l *linter) indexTargets(policies []*Policy) {
	l.targets = map[objectName][]*model.Service{}
	for _, p := range policies {
		for _, target := range p.Targets {
			l.targets[objectName{p.Namespace, target.Name}] = nil
		}
	}
	if len(l.targets) == 0 {
		return
	}
	for i := range l.in.Services {
		s := &l.in.Services[i]
		at := objectName{s.Namespace, s.Name}
		if list, wanted := l.targets[at]; wanted {
			l.targets[at] = append(list, s)
		}
	}
}

// policyTargets checks that each target names something.
func (l *linter) policyTargets(p *Policy) {
	key := policyKey(p)
	for i, target := range p.Targets {
		field := "spec.targets[" + strconv.Itoa(i) + "]"
		services := l.targets[objectName{p.Namespace, target.Name}]
		if len(services) == 0 {
			l.warn(codeNoService, key, field+".name",
				"no service %q in namespace %s, so this target has no effect: name a Service, or the one-word host of a ServiceEntry, of this namespace", target.Name, p.Namespace)
			continue
		}
		for j, port := range target.Ports {
			if !anyPort(services, port) {
				l.noMatch(key, field+".ports["+strconv.Itoa(j)+"]", services, port)
			}
		}
		if p.Mode != model.Disable {
			l.strangers(key, field, services, target)
		}
	}
}

func (s PortSelector) matches(p *model.ServicePort) bool {
	if s.Number != 0 {
		return s.Number == p.Number
	}
	return s.Name == p.Name
}

func anyPort(services []*model.Service, selector PortSelector) bool {
	for _, s := range services {
		for i := range s.Ports {
			if selector.matches(&s.Ports[i]) {
				return true
			}
		}
	}
	return false
}

func (l *linter) noMatch(on model.Key, field string, services []*model.Service, selector PortSelector) {
	s := services[0]
	if selector.Number == 0 {
		l.warn(codeNoMatch, on, field+".name",
			"%s has no port named %q, so this selector has no effect: its ports are %s", s.Key, selector.Name, portList(s.Ports))
		return
	}
	hint := ""
	for i := range s.Ports {
		for _, e := range s.Ports[i].Endpoints {
			if e.Port == selector.Number && hint == "" {
				hint = "; " + strconv.Itoa(int(selector.Number)) + " is a container port, of service port " + strconv.Itoa(int(s.Ports[i].Number))
			}
		}
	}
	l.warn(codeNoMatch, on, field+".number",
		"%s has no port %d, so this selector has no effect: its ports are %s%s", s.Key, selector.Number, portList(s.Ports), hint)
}

// strangers finds endpoints that no pod and no WorkloadEntry stands for:
// nothing at them can obey a policy.
func (l *linter) strangers(on model.Key, field string, services []*model.Service, target PolicyTarget) {
	for _, s := range services {
		for i := range s.Ports {
			p := &s.Ports[i]
			if !covers(target, p) {
				continue
			}
			for _, e := range p.Endpoints {
				if e.Workload == (model.WorkloadID{}) {
					l.found(remark{codeNoSidecar, on, field, "the policy asks for TLS where no pod or WorkloadEntry is known: ",
						" of " + s.Key.String() + "; nothing enforces it there"}, e.Address, e.Port)
				}
			}
		}
	}
}

func covers(target PolicyTarget, p *model.ServicePort) bool {
	for _, selector := range target.Ports {
		if selector.matches(p) {
			return true
		}
	}
	return len(target.Ports) == 0
}

// excludedSidecars finds exclusions that switch mTLS off where it would work.
func (l *linter) excludedSidecars(mesh model.Key) {
	for i, entry := range l.in.Mesh.Excluded {
		one := model.Mesh{Excluded: []string{entry}}
		for j := range l.in.Services {
			s := &l.in.Services[j]
			if one.Excludes(s.Host) && l.anySidecar(s) {
				l.warn(codeExcluded, mesh, "mtlsExcludedServices["+strconv.Itoa(i)+"]",
					"%s (%s) has a sidecar, and %q sends it plaintext from every client: use a Policy or the annotation instead", s.Key, s.Host, entry)
			}
		}
	}
}

func (l *linter) anySidecar(s *model.Service) bool {
	for i := range s.Ports {
		for _, e := range s.Ports[i].Endpoints {
			if l.snapshot.HasSidecar(e.Workload) {
				return true
			}
		}
	}
	return false
}

// selectors finds objects whose selector selects nobody.
func (l *linter) selectors(peers []*PeerAuthentication) {
	labels := map[string][]map[string]string{} // of workloads, by namespace
	for _, p := range peers {
		if len(p.Selector) > 0 {
			labels[p.Namespace] = nil
		}
	}
	if len(labels) == 0 {
		return
	}
	for i := range l.in.Workloads {
		w := &l.in.Workloads[i]
		if list, wanted := labels[w.ID.Namespace]; wanted {
			labels[w.ID.Namespace] = append(list, w.Labels)
		}
	}
	for _, p := range peers {
		if len(p.Selector) > 0 && !slices.ContainsFunc(labels[p.Namespace], func(of map[string]string) bool { return hasLabels(of, p.Selector) }) {
			l.warn(codeNoMatch, peerKey(p), "spec.selector.matchLabels",
				"no workload in namespace %s has the labels %s, so this object has no effect", p.Namespace, labelText(p.Selector))
		}
	}
}

func labelText(labels map[string]string) string {
	list := make([]string, 0, len(labels))
	for _, key := range sortedKeys(labels) {
		list = append(list, key+"="+labels[key])
	}
	return strings.Join(list, ", ")
}

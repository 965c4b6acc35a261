// Package check asks whether a valid configuration is meant: where clients
// and servers contradict each other, and which statements do nothing. What
// becomes of calls it learns from explain, and so from simulate. It is pure.
package check

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/explain"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

// The codes of what is found here, besides those of meshconfig.Lint.
const (
	codeConflict   = "CONFLICT"           // clients send what a server does not take
	codeNeedless   = "NEEDLESS_EXCLUSION" // an exclusion changes nothing, or names nobody
	codeNoEffect   = "NO_EFFECT"          // a policy decides nothing
	codeRuleOff    = "RULE_OFF"           // a rule switches off mTLS that would work
	codeUnnamed    = "UNNAMED_PORT"       // no Policy target can name the port
	codeUncaptured = "UNCAPTURED_PORT"    // traffic goes around the sidecar that should protect it
)

// Problems is what Lint found (lint), with what only the whole mesh shows. s
// is built of in, which is compiled of b.
func Problems(b meshconfig.Bundle, in model.Inputs, s *model.Snapshot, lint []meshconfig.Problem) []meshconfig.Problem {
	c := &checker{bundle: b, in: in, snapshot: s, lint: lint}
	// Lint knows conflicts by the statements; simulate knows what follows.
	c.problems = slices.DeleteFunc(slices.Clone(lint), func(p meshconfig.Problem) bool { return p.Code == codeConflict })
	c.conflicts()
	c.exclusions()
	c.policies()
	c.rules()
	c.unnamedPorts()
	c.uncapturedPorts()
	meshconfig.SortProblems(c.problems)
	return c.problems
}

type checker struct {
	bundle   meshconfig.Bundle
	in       model.Inputs
	snapshot *model.Snapshot
	lint     []meshconfig.Problem
	problems []meshconfig.Problem
}

func (c *checker) add(code string, severity meshconfig.Severity, on model.Key, field, format string, args ...any) {
	c.problems = append(c.problems, meshconfig.Problem{
		Code: code, Severity: severity, On: on, Field: field,
		Message: fmt.Sprintf(format, args...), At: c.bundle.Positions[on],
	})
}

// conflicts are calls that fail because of what the two sides say.
func (c *checker) conflicts() {
	place := func(key model.Key) string {
		if at := c.bundle.Positions[key]; at.File != "" {
			return at.String()
		}
		return ""
	}
	for _, p := range explain.New(c.snapshot, place).Conflicts() {
		all := ""
		if p.Verdict == explain.VerdictPartly {
			all = "all of "
		}
		text := fmt.Sprintf("calls of sidecars in %s do not reach %s%s:%d: they send %s, as %s",
			strings.Join(p.From, ", "), all, p.Host, p.Port, p.Endpoint.Sends, p.Why)
		var changes []string
		for _, change := range p.Change {
			changes = append(changes, change.String())
		}
		if len(changes) > 0 {
			text += "; write one of: " + strings.Join(changes, "; ")
		}
		on := p.Cause
		if on.Kind == "MeshConfig" {
			on = c.mesh().Key
		}
		c.add(codeConflict, meshconfig.Warning, on, "", "%s", text)
	}
}

func (c *checker) mesh() *meshconfig.MeshConfig {
	if c.bundle.Mesh != nil {
		return c.bundle.Mesh
	}
	return meshconfig.DefaultMesh()
}

// exclusions are entries of mtlsExcludedServices that name nobody, or change
// nothing; Lint has those that switch off what would work.
func (c *checker) exclusions() {
	mesh, builtIn := c.mesh(), meshconfig.DefaultMesh().Mesh.Excluded
	for i, entry := range c.in.Mesh.Excluded {
		if slices.Contains(builtIn, entry) {
			continue
		}
		field := fmt.Sprintf("mtlsExcludedServices[%d]", i)
		named, external, sidecar := c.excluded(entry)
		switch {
		case len(named) == 0:
			c.add(codeNeedless, meshconfig.Warning, mesh.Key, field,
				"no service has the host %q: leave the entry out, or write the fully qualified host of a service", entry)
		case sidecar:
		case external:
			c.add(codeNeedless, meshconfig.Info, mesh.Key, field,
				"%q is outside the mesh, so sidecars send it no mesh mTLS anyway: the entry can be left out", entry)
		case c.in.Mesh.AutoMTLS:
			c.add(codeNeedless, meshconfig.Info, mesh.Key, field,
				"nobody behind %q has a sidecar, so sidecars send it plaintext anyway (enableAutoMtls): the entry can be left out, unless one is to come", entry)
		}
	}
}

func (c *checker) excluded(entry string) (named []string, external, sidecar bool) {
	one := model.Mesh{Excluded: []string{entry}}
	external = true
	for i := range c.in.Services {
		svc := &c.in.Services[i]
		if !one.Excludes(svc.Host) {
			continue
		}
		named = append(named, svc.Host)
		external = external && svc.External
		for j := range svc.Ports {
			sidecar = sidecar || slices.ContainsFunc(svc.Ports[j].Endpoints, func(e model.Endpoint) bool { return c.snapshot.HasSidecar(e.Workload) })
		}
	}
	return named, external, sidecar
}

// policies are those that decide no port of a sidecar, though Lint has
// nothing against what they select.
func (c *checker) policies() {
	decides := c.deciders()
	for i := range c.in.Policies {
		p := &c.in.Policies[i]
		known := slices.ContainsFunc(c.lint, func(l meshconfig.Problem) bool {
			return l.On == p.Key && slices.Contains([]string{"NO_SERVICE", "NO_MATCH", "NO_SIDECAR", "TIE", "FAIL_CLOSED"}, l.Code)
		})
		if len(p.Rules) == 0 || decides[p.Key] || known {
			continue
		}
		where := "in namespace " + p.Key.Namespace
		if p.Rules[0].Rank == model.RankMesh {
			where = "in the mesh"
		}
		if !c.anySidecar(p) {
			c.add(codeNoEffect, meshconfig.Warning, p.Key, "",
				"it decides nothing: no workload %s has a sidecar; give one to those that it should protect, or delete it", where)
			continue
		}
		c.add(codeNoEffect, meshconfig.Warning, p.Key, "",
			"it decides nothing: wherever it applies, narrower objects decide; delete it, or those that should not win (pilot explain names them)")
	}
}

// deciders are the objects that decide some port of a sidecar, or its other
// ports.
func (c *checker) deciders() map[model.Key]bool {
	out := map[model.Key]bool{}
	for _, w := range c.snapshot.Workloads() {
		if c.snapshot.HasSidecar(w.ID) {
			out[c.snapshot.Decision(w.ID, 0).Source] = true
		}
	}
	for i := range c.in.Services {
		for j := range c.in.Services[i].Ports {
			for _, e := range c.in.Services[i].Ports[j].Endpoints {
				if c.snapshot.HasSidecar(e.Workload) {
					out[c.snapshot.Decision(e.Workload, e.Port).Source] = true
				}
			}
		}
	}
	c.portLevel(out)
	return out
}

// portLevel adds the objects that decide a port which no service names.
func (c *checker) portLevel(out map[model.Key]bool) {
	for i := range c.in.Policies {
		for _, rule := range c.in.Policies[i].Rules {
			if rule.ContainerPort == 0 {
				continue
			}
			for _, w := range c.snapshot.Workloads() {
				if w.ID.Namespace == c.in.Policies[i].Key.Namespace && c.snapshot.HasSidecar(w.ID) {
					out[c.snapshot.Decision(w.ID, rule.ContainerPort).Source] = true
				}
			}
		}
	}
}

func (c *checker) anySidecar(p *model.ServerPolicy) bool {
	return slices.ContainsFunc(c.snapshot.Workloads(), func(w *model.Workload) bool {
		return c.snapshot.HasSidecar(w.ID) && (p.Rules[0].Rank == model.RankMesh || w.ID.Namespace == p.Key.Namespace)
	})
}

package meshconfig

import (
	"fmt"

	"github.com/meshpilot/pilot/pkg/meshconfig/strict"
	"github.com/meshpilot/pilot/pkg/model"
	"go.yaml.in/yaml/v3"
)

// policySpec is authentication.istio.io/v1alpha1 as users write it.
type policySpec struct {
	Targets          []targetSpec `json:"targets"`
	Peers            []peerSpec   `json:"peers"`
	PeerIsOptional   bool         `json:"peerIsOptional"`
	Origins          []*yaml.Node `json:"origins"`
	OriginIsOptional bool         `json:"originIsOptional"`
	PrincipalBinding string       `json:"principalBinding"`
}

type targetSpec struct {
	Name   string                   `json:"name"`
	Subset strict.Given[*yaml.Node] `json:"subset"`
	Labels strict.Given[*yaml.Node] `json:"labels"`
	Ports  []portSpec               `json:"ports"`
}

type portSpec struct {
	Number *int64  `json:"number"`
	Name   *string `json:"name"`
}

type peerSpec struct {
	MTLS strict.Given[mtlsSpec]   `json:"mtls"`
	JWT  strict.Given[*yaml.Node] `json:"jwt"`
}

type mtlsSpec struct {
	Mode     *string `json:"mode"`
	AllowTLS bool    `json:"allowTls"`
}

func (d *decoder) policy(n *yaml.Node) {
	o := &istioObject[strict.Given[policySpec]]{}
	p := &Policy{}
	if d.single(n, "Policy", o, &o.ObjectMeta, func(c *check) {
		if !o.Spec.Set {
			c.errorf("spec", "spec must be set; spec: {} switches mTLS off in the namespace")
		}
		p.Targets = c.policyTargets(o.Spec.Value.Targets)
		p.Mode = c.policyMode(o.Spec.Value.Peers)
		c.policyRefused(o.Spec.Value)
	}) {
		p.ObjectMeta = o.ObjectMeta
		d.out.Policies = append(d.out.Policies, p)
	}
}

func (d *decoder) meshPolicy(n *yaml.Node) {
	o := &istioObject[strict.Given[policySpec]]{}
	p := &MeshPolicy{}
	if d.single(n, "MeshPolicy", o, &o.ObjectMeta, func(c *check) {
		if o.Name != "" && o.Name != "default" {
			c.errorf("metadata.name", `cluster-scoped authentication policy name must be "default"`)
		}
		if !o.Spec.Set {
			c.errorf("spec", "spec must be set; spec: {} switches mTLS off in the mesh")
		}
		if len(o.Spec.Value.Targets) > 0 {
			c.errorf("spec.targets", "cluster-scoped authentication policy must not have targets")
		}
		p.Mode = c.policyMode(o.Spec.Value.Peers)
		c.policyRefused(o.Spec.Value)
	}) {
		p.ObjectMeta = o.ObjectMeta
		d.out.MeshPolicies = append(d.out.MeshPolicies, p)
	}
}

// policyRefused finds what would weaken protection if it were ignored.
func (c *check) policyRefused(s policySpec) {
	const jwt = "JWT is not supported yet"
	if len(s.Origins) > 0 {
		c.unsupported("spec.origins", jwt)
	}
	if s.OriginIsOptional {
		c.unsupported("spec.originIsOptional", jwt)
	}
	switch s.PrincipalBinding {
	case "", "USE_PEER":
	case "USE_ORIGIN":
		c.unsupported("spec.principalBinding", jwt)
	default:
		c.oneOf("spec.principalBinding", "principal binding", s.PrincipalBinding, "USE_PEER", "USE_ORIGIN")
	}
	for i, p := range s.Peers {
		if p.JWT.Set {
			c.unsupported(fmt.Sprintf("spec.peers[%d].jwt", i), jwt)
		}
	}
	if s.PeerIsOptional {
		c.findings = append(c.findings, finding{codeUnusedField, Info, "spec.peerIsOptional", "has no effect here"})
	}
}

func (c *check) unsupported(path, text string) {
	c.findings = append(c.findings, finding{codeUnsupported, Error, path, text})
}

// policyTargets also notes the readable scope, for the case that the policy
// is refused: a target whose ports cannot be read counts without ports, and a
// target without readable name makes the scope the whole namespace.
func (c *check) policyTargets(specs []targetSpec) []PolicyTarget {
	targets := make([]PolicyTarget, 0, len(specs))
	scope, readable := make([]PolicyTarget, 0, len(specs)), !c.faultAt("spec.targets")
	for i, s := range specs {
		at := fmt.Sprintf("spec.targets[%d]", i)
		if !isLabel(s.Name) {
			c.errorf(at+".name", "target name %q must be a valid label", s.Name)
			readable = false
		}
		if s.Subset.Set {
			c.unsupported(at+".subset", "target subsets are not supported")
		}
		if s.Labels.Set {
			c.unsupported(at+".labels", "target subsets are not supported")
		}
		ports, ok := c.portSelectors(at+".ports", s.Ports)
		targets = append(targets, PolicyTarget{Name: s.Name, Ports: ports})
		if !ok {
			ports = nil
		}
		scope = append(scope, PolicyTarget{Name: s.Name, Ports: ports})
	}
	if readable {
		c.targets = scope
	}
	return targets
}

// faultAt says whether decoding found fault with exactly this field or what
// holds it.
func (c *check) faultAt(path string) bool {
	for _, f := range c.faults {
		if f.Path == path || f.Path == "spec" {
			return true
		}
	}
	return false
}

func (c *check) portSelectors(at string, specs []portSpec) (ports []PortSelector, ok bool) {
	before := len(c.findings)
	for i, s := range specs {
		at := fmt.Sprintf("%s[%d]", at, i)
		if (s.Number == nil) == (s.Name == nil) {
			c.errorf(at, "port selector must have exactly one of number and name")
			continue
		}
		if s.Name != nil {
			c.portName(at+".name", *s.Name)
			ports = append(ports, PortSelector{Name: *s.Name})
			continue
		}
		c.portNumber(at+".number", *s.Number)
		ports = append(ports, PortSelector{Number: uint16(*s.Number)})
	}
	ok = len(c.findings) == before
	for _, f := range c.faults {
		ok = ok && !within(f.Path, at)
	}
	return ports, ok
}

// policyMode is what peers says.
func (c *check) policyMode(peers []peerSpec) model.Mode {
	mode, entries := model.Disable, 0
	for i, p := range peers {
		at := fmt.Sprintf("spec.peers[%d]", i)
		switch {
		case !p.MTLS.Set && !p.JWT.Set:
			c.errorf(at, "peer method must be set")
		case p.MTLS.Set:
			if entries++; entries > 1 {
				c.errorf(at, "at most one mtls entry is allowed")
			}
			mode = c.mtlsMode(at+".mtls", p.MTLS.Value)
		}
	}
	return mode
}

func (c *check) mtlsMode(at string, s mtlsSpec) model.Mode {
	mode := "STRICT"
	if s.Mode != nil {
		mode = *s.Mode
	}
	switch {
	case mode == "PERMISSIVE" && s.AllowTLS:
		c.errorf(at+".allowTls", "allowTls cannot be combined with mode PERMISSIVE")
	case mode == "PERMISSIVE":
		return model.Permissive
	case mode == "DISABLE":
		c.errorf(at+".mode", "unknown mTLS mode %q; to switch mTLS off, leave peers empty", mode)
	case mode != "STRICT":
		c.errorf(at+".mode", "unknown mTLS mode %q%s", mode, strict.OneOf(mode, []string{"STRICT", "PERMISSIVE"}))
	}
	if s.AllowTLS {
		return model.TLSOnly
	}
	return model.Strict
}

package meshconfig

import (
	"strconv"
	"strings"

	"github.com/meshpilot/pilot/pkg/meshconfig/strict"
	"github.com/meshpilot/pilot/pkg/model"
	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PeerAuthentication is security.istio.io PeerAuthentication: the server side
// of mTLS for workloads by their labels (spec server-policy.md 3).
type PeerAuthentication struct {
	metav1.ObjectMeta
	// Selector is empty for all of the namespace or, in the root namespace, of
	// the mesh.
	Selector map[string]string
	Mode     *model.Mode           // nil: does not decide
	Ports    map[uint16]model.Mode // by container port; those that decide
}

// peerAuthenticationSpec is a PeerAuthentication as users write it.
type peerAuthenticationSpec struct {
	Selector struct {
		MatchLabels map[string]string `json:"matchLabels"`
	} `json:"selector"`
	MTLS          peerMode             `json:"mtls"`
	PortLevelMTLS *map[string]peerMode `json:"portLevelMtls"`
}

type peerMode struct {
	Mode *string `json:"mode"`
}

func (d *decoder) peerAuthentication(n *yaml.Node) {
	o := &istioObject[strict.Given[peerAuthenticationSpec]]{}
	p := &PeerAuthentication{}
	if d.single(n, "PeerAuthentication", o, &o.ObjectMeta, func(c *check) {
		if !o.Spec.Set {
			c.errorf("spec", "spec must be set; spec: {} decides nothing")
		}
		*p = c.peerAuthentication(o.Spec.Value)
	}) {
		p.ObjectMeta = o.ObjectMeta
		d.out.PeerAuthentications = append(d.out.PeerAuthentications, p)
	}
}

func (c *check) peerAuthentication(s peerAuthenticationSpec) PeerAuthentication {
	p := PeerAuthentication{Selector: s.Selector.MatchLabels, Mode: c.peerMode("spec.mtls", s.MTLS)}
	portsReadable := !c.faultAt("spec.portLevelMtls")
	if s.PortLevelMTLS != nil {
		switch {
		case len(*s.PortLevelMTLS) == 0:
			c.errorf("spec.portLevelMtls", "port level mTLS, if defined, must have at least one element")
		case len(p.Selector) == 0:
			c.errorf("spec.portLevelMtls", "mesh/namespace peer authentication cannot have port level mTLS")
		}
		p.Ports = make(map[uint16]model.Mode, len(*s.PortLevelMTLS))
		for _, key := range sortedKeys(*s.PortLevelMTLS) {
			at := "spec.portLevelMtls[" + key + "]"
			if !strings.ContainsAny(key, "./[]") {
				at = "spec.portLevelMtls." + key
			}
			number, err := strconv.ParseUint(key, 10, 16)
			if err != nil || number == 0 || strconv.Itoa(int(number)) != key {
				c.errorf(at, "port must be in range 1..65535")
				portsReadable = false
			}
			if mode := c.peerMode(at, (*s.PortLevelMTLS)[key]); mode != nil {
				p.Ports[uint16(number)] = *mode
			}
		}
	}
	c.peer = c.readablePeer(p, portsReadable)
	return p
}

// peerMode is nil for UNSET. What cannot be read is STRICT, for the stand-in.
func (c *check) peerMode(at string, s peerMode) *model.Mode {
	var mode model.Mode
	switch text := modeText(s); text {
	case "UNSET":
		for _, f := range c.faults {
			if !f.Unused && within(f.Path, at) {
				mode = model.Strict
				return &mode
			}
		}
		return nil
	case "DISABLE":
		mode = model.Disable
	case "PERMISSIVE":
		mode = model.Permissive
	case "STRICT":
		mode = model.Strict
	default:
		c.errorf(at+".mode", "unknown mTLS mode %q%s", text, strict.OneOf(text, []string{"UNSET", "DISABLE", "PERMISSIVE", "STRICT"}))
		mode = model.Strict
	}
	return &mode
}

func modeText(s peerMode) string {
	if s.Mode == nil {
		return "UNSET"
	}
	return *s.Mode
}

// readablePeer is what a stand-in speaks for: STRICT wherever the object
// decides or may be meant to. It is the whole selector, unless all that is
// wrong is in entries of readable ports.
func (c *check) readablePeer(p PeerAuthentication, portsReadable bool) *PeerAuthentication {
	mode := model.Strict
	out := &PeerAuthentication{Mode: &mode}
	if c.faultAt("spec.selector") || c.faultWithin("spec.selector") {
		return out
	}
	out.Selector = p.Selector
	if len(p.Selector) == 0 || !portsReadable || len(p.Ports) == 0 {
		return out
	}
	out.Ports = make(map[uint16]model.Mode, len(p.Ports))
	for port := range p.Ports {
		out.Ports[port] = model.Strict
	}
	if p.Mode == nil && c.onlyWithin("spec.portLevelMtls") {
		out.Mode = nil
	}
	return out
}

func (c *check) faultWithin(at string) bool {
	for _, f := range c.faults {
		if !f.Unused && within(f.Path, at) {
			return true
		}
	}
	return false
}

// onlyWithin says whether all errors are about this field.
func (c *check) onlyWithin(at string) bool {
	for _, f := range c.faults {
		if !f.Unused && !within(f.Path, at) {
			return false
		}
	}
	for _, f := range c.findings {
		if f.severity == Error && !within(f.path, at) {
			return false
		}
	}
	return true
}

// addPeers gives the objects their ranks (spec server-policy.md 5).
func (c *compiler) addPeers() {
	for _, p := range c.b.PeerAuthentications {
		key := peerKey(p)
		c.in.Policies = append(c.in.Policies, model.ServerPolicy{
			Key: key, Created: created(&p.ObjectMeta), Rules: c.peerRules(p, p.Namespace),
			Rollout: c.ownRollout(key, &p.ObjectMeta),
		})
		if len(p.Selector) > 0 && p.Namespace == c.in.Mesh.RootNamespace {
			c.add(codeRootSelector, Info, key, "spec.selector",
				"with a selector the object is about workloads of namespace %s only, although that is the root namespace; without one it is about the mesh", p.Namespace)
		}
	}
}

func peerKey(p *PeerAuthentication) model.Key {
	return model.Key{Kind: "PeerAuthentication", Namespace: p.Namespace, Name: p.Name}
}

// peerRules are none if the object decides nothing: then it neither wins nor
// ties.
func (c *compiler) peerRules(p *PeerAuthentication, namespace string) []model.PolicyRule {
	var rules []model.PolicyRule
	if p.Mode != nil {
		rule := model.PolicyRule{Rank: model.RankWorkload, Mode: *p.Mode, Selector: p.Selector}
		if len(p.Selector) == 0 {
			rule = model.PolicyRule{Rank: model.RankNamespace, Mode: *p.Mode}
			if namespace == c.in.Mesh.RootNamespace {
				rule.Rank = model.RankMesh
			}
		}
		rules = append(rules, rule)
	}
	for _, port := range sortedKeys(p.Ports) {
		rules = append(rules, model.PolicyRule{Rank: model.RankPort, Mode: p.Ports[port], Selector: p.Selector, ContainerPort: port})
	}
	return rules
}

package meshconfig

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/meshconfig/strict"
	"github.com/meshpilot/pilot/pkg/model"
	"go.yaml.in/yaml/v3"
	networkingv1 "istio.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DestinationRule is networking.istio.io DestinationRule: what clients send to
// a host (spec client-tls.md 2). Host and ExportTo are as written.
type DestinationRule struct {
	metav1.ObjectMeta
	Host     string
	ExportTo []string
	Policy   *model.TrafficPolicy
	Subsets  []model.Subset
}

// ruleSpec is the object as users write it. What Istio knows besides is
// accepted without effect.
type ruleSpec struct {
	Host             string      `json:"host"`
	ExportTo         []string    `json:"exportTo"`
	TrafficPolicy    *policyDoc  `json:"trafficPolicy"`
	Subsets          []subsetDoc `json:"subsets"`
	WorkloadSelector *yaml.Node  `json:"workloadSelector"`
}

type subsetDoc struct {
	Name          string            `json:"name"`
	Labels        map[string]string `json:"labels"`
	TrafficPolicy *policyDoc        `json:"trafficPolicy"`
}

type policyDoc struct {
	trafficDoc `json:",inline"`
	Ports      []portTrafficDoc `json:"portLevelSettings"`
}

type portTrafficDoc struct {
	Port       *portSpec `json:"port"`
	trafficDoc `json:",inline"`
}

func (d *decoder) destinationRule(n *yaml.Node) {
	o := &istioObject[ruleSpec]{}
	r := &DestinationRule{}
	d.strict.Unused = unusedRuleField
	defer func() { d.strict.Unused = nil }()
	if d.single(n, "DestinationRule", o, &o.ObjectMeta, func(c *check) { c.destinationRule(n, o.Spec, r) }) {
		r.ObjectMeta = o.ObjectMeta
		d.out.DestinationRules = append(d.out.DestinationRules, r)
	}
}

// unusedRuleField says whether Istio's schema has a field that is unknown here.
func unusedRuleField(path string) bool {
	path, ok := strings.CutPrefix(path, "spec.")
	if !ok {
		return false
	}
	at := (&networkingv1.DestinationRule{}).ProtoReflect().Descriptor()
	for name := range strings.SplitSeq(path, ".") {
		if at == nil {
			return false
		}
		name, _, _ = strings.Cut(name, "[")
		f := at.Fields().ByJSONName(name)
		if f == nil {
			return false
		}
		at = f.Message()
	}
	return true
}

// destinationRule fills r, and notes its readable part for the case that it
// is refused but asks for TLS.
func (c *check) destinationRule(n *yaml.Node, spec ruleSpec, r *DestinationRule) {
	r.Host, r.ExportTo = spec.Host, spec.ExportTo
	switch {
	case spec.Host == "":
		c.errorf("spec.host", "destination rule host must be set")
	case !isRuleHost(spec.Host):
		c.errorf("spec.host", "invalid host %q", spec.Host)
	}
	for i, ns := range spec.ExportTo {
		if ns != "." && ns != "*" && !isLabel(ns) {
			c.errorf(fmt.Sprintf("spec.exportTo[%d]", i), `%q must be a namespace, "." or "*"`, ns)
		}
	}
	if isSet(spec.WorkloadSelector) {
		c.unsupported("spec.workloadSelector", "workloadSelector is not supported: the rule would hold for clients that it is not meant for")
	}
	r.Policy = c.trafficPolicy("spec.trafficPolicy", spec.TrafficPolicy)
	first := map[string]bool{}
	for i, s := range spec.Subsets {
		at := fmt.Sprintf("spec.subsets[%d]", i)
		switch {
		case !isLabel(s.Name):
			c.errorf(at+".name", "subset name %q must be a valid label", s.Name)
		case first[s.Name]:
			c.errorf(at+".name", "duplicate subset %q", s.Name)
		}
		first[s.Name] = true
		r.Subsets = append(r.Subsets, model.Subset{
			Name: s.Name, Labels: s.Labels, Policy: c.trafficPolicy(at+".trafficPolicy", s.TrafficPolicy),
		})
	}
	if body := strict.Get(n, "spec"); body != nil && mentionsTLS(body, 0) && isRuleHost(spec.Host) {
		c.rule = &DestinationRule{Host: spec.Host, ExportTo: c.readableExport(spec.ExportTo)}
	}
}

// readableExport is where an invalid rule is seen: everywhere, if its list
// cannot be read.
func (c *check) readableExport(list []string) []string {
	bad := func(ns string) bool { return ns != "." && ns != "*" && !isLabel(ns) }
	if slices.ContainsFunc(list, bad) || slices.ContainsFunc(c.faults, func(f strict.Fault) bool { return within(f.Path, "spec.exportTo") }) {
		return nil
	}
	return list
}

// isSet says whether a field is there and not null.
func isSet(n *yaml.Node) bool { return n != nil && n.ShortTag() != "!!null" }

// maxRuleDepth is deeper than any rule.
const maxRuleDepth = 20

// mentionsTLS finds a tls block, also a misspelled one, outside of labels.
func mentionsTLS(n *yaml.Node, depth int) bool {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if depth > maxRuleDepth {
		return true
	}
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode {
			key := n.Content[i&^1].Value
			if i%2 == 0 || key == "labels" {
				continue
			}
			if isSet(child) && (strings.EqualFold(key, "tls") || child.Kind != yaml.ScalarNode && strict.Nearest(key, []string{"tls"}) != "") {
				return true
			}
		}
		if mentionsTLS(child, depth+1) {
			return true
		}
	}
	return false
}

// isRuleHost takes "*", "*." and a DNS name, and DNS names in lower case.
func isRuleHost(host string) bool {
	return host == "*" || isHost(strings.TrimPrefix(host, "*."))
}

// mentioned says whether something was found inside a field, so that it is
// not empty even if nothing of it has an effect. except is a field of it that
// does not count; empty is none.
func (c *check) mentioned(at, except string) bool {
	return slices.ContainsFunc(c.faults, func(f strict.Fault) bool {
		return f.Path != at && within(f.Path, at) && (except == "" || !within(f.Path, at+"."+except))
	})
}

func (c *check) trafficPolicy(at string, doc *policyDoc) *model.TrafficPolicy {
	if doc == nil {
		return nil
	}
	if doc.trafficDoc == (trafficDoc{}) && len(doc.Ports) == 0 && !c.mentioned(at, "") {
		c.errorf(at, "traffic policy must have at least one field")
	}
	p := &model.TrafficPolicy{Traffic: c.traffic(at, doc.trafficDoc)}
	for i, entry := range doc.Ports {
		at := fmt.Sprintf("%s.portLevelSettings[%d]", at, i)
		out := model.PortTraffic{Traffic: c.traffic(at, entry.trafficDoc)}
		switch port := entry.Port; {
		case port == nil || (port.Number == nil) == (port.Name == nil),
			port.Number != nil && (*port.Number < 1 || *port.Number > 65535),
			port.Name != nil && !isLabel(*port.Name):
			c.errorf(at+".port", "portTrafficPolicy must have valid port")
		case port.Number != nil:
			out.Number = uint16(*port.Number)
		default:
			out.Name = *port.Name
		}
		if entry.trafficDoc == (trafficDoc{}) && !c.mentioned(at, "port") {
			c.errorf(at, "port traffic policy must have at least one field")
		}
		p.Ports = append(p.Ports, out)
	}
	return p
}

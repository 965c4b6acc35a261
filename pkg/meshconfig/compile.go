package meshconfig

import (
	"cmp"
	"fmt"

	"github.com/meshpilot/pilot/pkg/model"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The codes of what compiling finds in valid objects.
const (
	codeFailClosed    = "FAIL_CLOSED"         // STRICT stands in for an invalid policy
	codeHostClash     = "HOST_CLASH"          // two services of one host
	codeVIPClash      = "VIP_CLASH"           // two services of one address and port
	codeWorkloadClash = "WORKLOAD_CLASH"      // a pod and a WorkloadEntry of one name
	codeBadAddress    = "BAD_ADDRESS"         // a DNS name where nothing resolves it
	codeBadAnnotation = "BAD_ANNOTATION"      // an annotation with a key or value that means nothing
	codeNoService     = "NO_SERVICE"          // a target names no service
	codeNoMatch       = "NO_MATCH"            // a port selector matches no port
	codeNoSidecar     = "NO_SIDECAR"          // TLS is asked of workloads that nothing serves it for
	codeTie           = "TIE"                 // an object loses against another of its rank
	codeShadowed      = "SHADOWED_ANNOTATION" // a policy overrules an annotation
	codeSharedPort    = "SHARED_PORT"         // a policy for one service port governs another
	codePortClash     = "PORT_CLASH"          // services disagree about the protocol of a port
	codeServerFirst   = "SERVER_FIRST"        // a protocol that cannot be told from TLS
	codeShortHost     = "SHORT_HOST"          // a rule's host was probably meant to be completed
	codeHiddenTLS     = "HIDDEN_TLS"          // a rule without tls goes before one with tls
	codeConflict      = "CONFLICT"            // clients send what an endpoint refuses
	codeRootSelector  = "ROOT_SELECTOR"       // a selector in the root namespace selects there only
	codeProbeFails    = "PROBE_FAILS"         // a health probe that the port's mode refuses
	codeProbeBlind    = "PROBE_BLIND"         // a health probe that a dead application passes
	codeProbePort     = "PROBE_PORT"          // a health probe of a port that does not exist
	codeHookFails     = "HOOK_FAILS"          // a lifecycle hook that the port's mode refuses
	codeExcluded      = "EXCLUDED_SIDECAR"    // an exclusion switches off mTLS that would work
)

// Compile turns a bundle into what a snapshot is built of, and reports what
// in it does not do what its author may expect. The problems are sorted.
func Compile(b Bundle, domain string) (model.Inputs, []Problem) {
	in, problems := Inputs(b, domain)
	problems = append(problems, Lint(b, in, model.Build(in))...)
	SortProblems(problems)
	return in, problems
}

// Inputs is the first half of Compile, for callers that build the snapshot
// themselves and give it to Lint. It neither changes nor copies what the
// bundle points to.
func Inputs(b Bundle, domain string) (model.Inputs, []Problem) {
	c := newCompiler(b, domain)
	c.addWorkloads()
	c.addServices()
	c.settleClashes()
	c.addPolicies()
	c.addRules()
	SortProblems(c.problems)
	return c.in, c.problems
}

// compiler holds the indexes that one run of Inputs needs.
type compiler struct {
	report
	b      Bundle
	in     model.Inputs
	suffix string // of the hosts of Services

	backends  []backend // parallel to in.Workloads
	byID      map[model.WorkloadID]int32
	byAddress map[string]int32 // made when first asked; ambiguous: several workloads
	byLabel   map[labelIn][]int32
	slices    map[objectName][]*discoveryv1.EndpointSlice
	matched   []int32 // reused by matching
}

type objectName struct{ namespace, name string }

// labelIn is one label in one namespace.
type labelIn struct{ namespace, key, value string }

func newCompiler(b Bundle, domain string) *compiler {
	c := &compiler{
		report: report{positions: b.Positions},
		b:      b,
		suffix: ".svc." + domain,
	}
	c.in.Mesh = meshOf(b).Mesh
	c.in.Mesh.Domain = domain
	if len(b.EndpointSlices) > 0 {
		c.slices = make(map[objectName][]*discoveryv1.EndpointSlice, len(b.EndpointSlices))
	}
	for _, slice := range b.EndpointSlices {
		if service := slice.Labels[discoveryv1.LabelServiceName]; service != "" {
			at := objectName{slice.Namespace, service}
			c.slices[at] = append(c.slices[at], slice)
		}
	}
	c.expectSelectors()
	return c
}

// expectSelectors makes an entry in byLabel for each label that a selector
// mentions; other labels of workloads need no index.
func (c *compiler) expectSelectors() {
	c.byLabel = make(map[labelIn][]int32, len(c.b.Services)+len(c.b.ServiceEntries))
	expect := func(namespace string, selector map[string]string) {
		for key, value := range selector {
			c.byLabel[labelIn{namespace, key, value}] = nil
		}
	}
	for _, s := range c.b.Services {
		if len(c.slices[objectName{s.Namespace, s.Name}]) == 0 && s.Spec.Type != corev1.ServiceTypeExternalName {
			expect(s.Namespace, s.Spec.Selector)
		}
	}
	for _, e := range c.b.ServiceEntries {
		expect(e.Namespace, e.Spec.GetWorkloadSelector().GetLabels())
	}
}

// matching are the workloads of a namespace with all labels of the selector,
// in the order of Inputs.Workloads, valid until the next call. An empty
// selector matches none.
func (c *compiler) matching(namespace string, selector map[string]string) []int32 {
	var fewest []int32
	first := true
	for key, value := range selector {
		if list := c.byLabel[labelIn{namespace, key, value}]; first || len(list) < len(fewest) {
			fewest, first = list, false
		}
	}
	c.matched = c.matched[:0]
	for _, w := range fewest {
		if hasLabels(c.in.Workloads[w].Labels, selector) {
			c.matched = append(c.matched, w)
		}
	}
	return c.matched
}

func hasLabels(labels, selector map[string]string) bool {
	for key, value := range selector {
		if got, ok := labels[key]; !ok || got != value {
			return false
		}
	}
	return true
}

func (c *compiler) addPolicies() {
	c.in.Policies = make([]model.ServerPolicy, 0, len(c.b.Policies)+len(c.b.MeshPolicies)+len(c.b.PeerAuthentications))
	for _, p := range c.b.Policies {
		c.in.Policies = append(c.in.Policies, model.ServerPolicy{
			Key:     policyKey(p),
			Created: created(&p.ObjectMeta),
			Rules:   policyRules(p.Targets, p.Mode),
			Rollout: c.ownRollout(policyKey(p), &p.ObjectMeta),
		})
	}
	for _, p := range c.b.MeshPolicies {
		c.in.Policies = append(c.in.Policies, model.ServerPolicy{
			Key:     model.Key{Kind: "MeshPolicy", Name: p.Name},
			Created: created(&p.ObjectMeta),
			Rules:   meshRules(p.Mode),
			Rollout: c.ownRollout(model.Key{Kind: "MeshPolicy", Name: p.Name}, &p.ObjectMeta),
		})
	}
	c.addPeers()
	for _, invalid := range c.b.Invalid {
		c.standIn(invalid)
	}
}

func meshRules(mode model.Mode) []model.PolicyRule {
	return []model.PolicyRule{{Rank: model.RankMesh, Mode: mode}}
}

func policyKey(p *Policy) model.Key {
	return model.Key{Kind: "Policy", Namespace: p.Namespace, Name: p.Name}
}

// policyRules makes one rule of each target and port; a policy without
// targets is one rule for its namespace (spec server-policy.md 5).
func policyRules(targets []PolicyTarget, mode model.Mode) []model.PolicyRule {
	if len(targets) == 0 {
		return []model.PolicyRule{{Rank: model.RankNamespace, Mode: mode}}
	}
	rules := make([]model.PolicyRule, 0, len(targets))
	for _, target := range targets {
		if len(target.Ports) == 0 {
			rules = append(rules, model.PolicyRule{Rank: model.RankWorkload, Mode: mode, Service: target.Name})
		}
		for _, port := range target.Ports {
			rules = append(rules, model.PolicyRule{
				Rank: model.RankPort, Mode: mode, Service: target.Name, PortNumber: port.Number, PortName: port.Name,
			})
		}
	}
	return rules
}

// standIn is the fail-closed effect of a policy that was never accepted: a
// mistake must not open what its author meant to close.
func (c *compiler) standIn(invalid Invalid) {
	scope := "all of namespace " + invalid.On.Namespace
	var rules []model.PolicyRule
	switch {
	case invalid.On.Kind == "MeshPolicy":
		rules, scope = meshRules(model.Strict), "the whole mesh"
	case invalid.On.Kind == "Policy":
		rules = policyRules(invalid.Targets, model.Strict)
		if len(invalid.Targets) > 0 {
			scope = "what it targets"
		}
	case invalid.On.Kind == "PeerAuthentication" && invalid.Peer != nil:
		rules = c.peerRules(invalid.Peer, invalid.On.Namespace)
		if len(invalid.Peer.Selector) > 0 {
			scope = "what it selects"
		} else if rules[0].Rank == model.RankMesh {
			scope = "the whole mesh"
		}
	default:
		return
	}
	c.in.Policies = append(c.in.Policies, model.ServerPolicy{Key: invalid.On, StandIn: true, Rules: rules})
	c.add(codeFailClosed, Error, invalid.On, "",
		"the object is invalid and no valid version of it is known: until it is corrected or deleted, mode STRICT applies to %s where no valid object of the same rank says otherwise", scope)
}

func meshOf(b Bundle) *MeshConfig {
	if b.Mesh != nil {
		return b.Mesh
	}
	return DefaultMesh()
}

// created is in seconds; objects of files have no time.
func created(o *metav1.ObjectMeta) int64 {
	if o.CreationTimestamp.IsZero() {
		return 0
	}
	return o.CreationTimestamp.Unix()
}

// compareAge orders oldest first, as ties are decided (spec server-policy.md 5).
func compareAge(aCreated int64, a model.Key, bCreated int64, b model.Key) int {
	return cmp.Or(cmp.Compare(aCreated, bCreated), a.Compare(b))
}

// report collects problems.
type report struct {
	positions map[model.Key]Position
	problems  []Problem
}

func (r *report) add(code string, severity Severity, on model.Key, field, format string, args ...any) {
	r.problems = append(r.problems, Problem{
		Code: code, Severity: severity, On: on, Field: field,
		Message: fmt.Sprintf(format, args...), At: r.positions[on],
	})
}

func (r *report) warn(code string, on model.Key, field, format string, args ...any) {
	r.add(code, Warning, on, field, format, args...)
}

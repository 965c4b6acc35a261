package meshconfig

import "github.com/meshpilot/pilot/pkg/model"

func (c *compiler) addPolicies() {
	c.in.Policies = make([]model.ServerPolicy, 0, len(c.b.Policies))
	for _, p := range c.b.Policies {
		c.in.Policies = append(c.in.Policies, model.ServerPolicy{
			Key:     policyKey(p),
			Created: created(&p.ObjectMeta),
			Rules:   policyRules(p.Targets, p.Mode),
		})
	}
	for _, invalid := range c.b.Invalid {
		if invalid.On.Kind == "Policy" {
			c.standIn(invalid)
		}
	}
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
	c.in.Policies = append(c.in.Policies, model.ServerPolicy{
		Key: invalid.On, StandIn: true, Rules: policyRules(invalid.Targets, model.Strict),
	})
	scope := "all of namespace " + invalid.On.Namespace
	if len(invalid.Targets) > 0 {
		scope = "what it targets"
	}
	c.add("FAIL_CLOSED", Error, invalid.On, "",
		"the object is invalid and no valid version of it is known: until it is corrected or deleted, mode STRICT applies to %s where no valid object of the same rank says otherwise", scope)
}

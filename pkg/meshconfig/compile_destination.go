package meshconfig

import (
	"slices"
	"strconv"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
)

func (c *compiler) addRules() {
	for _, r := range c.b.DestinationRules {
		c.in.Rules = append(c.in.Rules, model.DestinationRule{
			Key:      ruleKey(r),
			Created:  created(&r.ObjectMeta),
			Host:     c.ruleHost(r.Host, r.Namespace),
			ExportTo: exportTo(r.ExportTo, r.Namespace),
			Policy:   r.Policy,
			Subsets:  r.Subsets,
		})
	}
	for _, invalid := range c.b.Invalid {
		if invalid.Rule != nil {
			c.ruleStandIn(invalid)
		}
	}
}

func ruleKey(r *DestinationRule) model.Key {
	return model.Key{Kind: "DestinationRule", Namespace: r.Namespace, Name: r.Name}
}

// ruleHost completes a short name; everything with a dot is meant as it is.
func (c *compiler) ruleHost(host, namespace string) string {
	if strings.ContainsAny(host, ".*") {
		return host
	}
	return host + "." + namespace + c.suffix
}

// ruleStandIn is the fail-closed effect of a rule that was never accepted: a
// typing error must not send in plaintext what was meant to be protected.
func (c *compiler) ruleStandIn(invalid Invalid) {
	host := c.ruleHost(invalid.Rule.Host, invalid.On.Namespace)
	c.in.Rules = append(c.in.Rules, model.DestinationRule{
		Key: invalid.On, StandIn: true, Host: host, ExportTo: exportTo(invalid.Rule.ExportTo, invalid.On.Namespace),
	})
	c.add(codeFailClosed, Error, invalid.On, "",
		"the object is invalid and no valid version of it is known: until it is corrected or deleted, clients that see it send mesh mTLS to the endpoints of %s that accept it, and nothing to any other; services outside the mesh get nothing", host)
}

// destinationRules reports rules that do not do what they say.
func (l *linter) destinationRules() {
	if len(l.in.Rules) == 0 {
		return
	}
	hosts := make(map[string]*model.Service, len(l.in.Services))
	for i := range l.in.Services {
		hosts[l.in.Services[i].Host] = &l.in.Services[i]
	}
	type place struct{ namespace, host string }
	same := map[place][]*model.DestinationRule{}
	for i := range l.in.Rules {
		r := &l.in.Rules[i]
		l.ruleTarget(r, hosts)
		l.rulePorts(r, hosts[r.Host])
		if !r.StandIn {
			at := place{r.Key.Namespace, r.Host}
			same[at] = append(same[at], r)
		}
	}
	for _, rules := range same {
		if len(rules) > 1 {
			l.dropped(rules)
		}
	}
	for _, svc := range l.snapshot.Services() {
		l.hiddenTLS("", svc)
	}
	for _, form := range l.snapshot.Variants() {
		for _, client := range form.Namespaces {
			l.hiddenTLS(client, form.OutboundService)
		}
	}
}

// ruleTarget finds hosts that name nothing.
func (l *linter) ruleTarget(r *model.DestinationRule, hosts map[string]*model.Service) {
	if strings.HasPrefix(r.Host, "*") || hosts[r.Host] != nil {
		return
	}
	domain := l.in.Mesh.Domain
	for _, full := range []string{r.Host + ".svc." + domain, r.Host + "." + domain} {
		if hosts[full] != nil {
			l.warn(codeShortHost, r.Key, "spec.host",
				"a host with a dot is taken as it is, so this rule is not for %s: write that", full)
			return
		}
	}
	l.warn(codeNoService, r.Key, "spec.host", "no service has the host %s, so this rule has no effect", r.Host)
}

// rulePorts finds settings of ports that no service of the rule has; exact is
// the one that the rule names, if it does.
func (l *linter) rulePorts(r *model.DestinationRule, exact *model.Service) {
	entries := portEntries(r)
	if len(entries) == 0 {
		return
	}
	var services []*model.Service
	if exact != nil {
		services = []*model.Service{exact}
	} else if strings.HasPrefix(r.Host, "*") {
		for i := range l.in.Services {
			if r.Matches(l.in.Services[i].Host) {
				services = append(services, &l.in.Services[i])
			}
		}
	}
	for field, selector := range entries {
		switch {
		case len(services) == 0 || anyPort(services, selector): // the former is NO_SERVICE
		case len(services) == 1:
			l.noMatch(r.Key, field, services, selector)
		case selector.Number != 0:
			l.warn(codeNoMatch, r.Key, field+".number", "none of the %d services of %s has a port %d, so this entry has no effect", len(services), r.Host, selector.Number)
		default:
			l.warn(codeNoMatch, r.Key, field+".name", "none of the %d services of %s has a port named %q, so this entry has no effect", len(services), r.Host, selector.Name)
		}
	}
}

// portEntries are the port entries of a rule and its subsets, by their fields.
func portEntries(r *model.DestinationRule) map[string]PortSelector {
	out := map[string]PortSelector{}
	add := func(at string, p *model.TrafficPolicy) {
		if p == nil {
			return
		}
		for i := range p.Ports {
			out[at+".portLevelSettings["+strconv.Itoa(i)+"].port"] = PortSelector{Number: p.Ports[i].Number, Name: p.Ports[i].Name}
		}
	}
	add("spec.trafficPolicy", r.Policy)
	for i := range r.Subsets {
		add("spec.subsets["+strconv.Itoa(i)+"].trafficPolicy", r.Subsets[i].Policy)
	}
	return out
}

// dropped finds what is lost when rules of one host are merged.
func (l *linter) dropped(rules []*model.DestinationRule) {
	slices.SortFunc(rules, func(a, b *model.DestinationRule) int { return compareAge(a.Created, a.Key, b.Created, b.Key) })
	var policy *model.DestinationRule
	subsets := map[string]*model.DestinationRule{}
	tie := func(r, winner *model.DestinationRule, field, what string) {
		l.warn(codeTie, r.Key, field, "%s has no effect: %s has the same host and is older or first by name", what, winner.Key)
	}
	for _, r := range rules {
		switch {
		case r.Policy == nil:
		case policy == nil:
			policy = r
		default:
			tie(r, policy, "spec.trafficPolicy", "trafficPolicy")
		}
		for i := range r.Subsets {
			name := r.Subsets[i].Name
			if winner := subsets[name]; winner != nil {
				tie(r, winner, "spec.subsets["+strconv.Itoa(i)+"]", "subset "+strconv.Quote(name))
				continue
			}
			subsets[name] = r
		}
	}
}

// hiddenTLS finds rules with tls that are passed over for one without.
func (l *linter) hiddenTLS(client string, svc *model.OutboundService) {
	pools := l.snapshot.RulesFor(client, svc)
	if len(pools) < 2 || slices.ContainsFunc(pools[0], (*model.DestinationRule).HasTLS) {
		return
	}
	for _, rules := range pools[1:] {
		if i := slices.IndexFunc(rules, (*model.DestinationRule).HasTLS); i >= 0 {
			l.placesOf(remark{codeHiddenTLS, pools[0][0].Key, "spec.trafficPolicy", "has no tls and hides that of " + rules[i].Key.String() + " for ",
				": add tls to it"}).add(svc.Host)
			return
		}
	}
}

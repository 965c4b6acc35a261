package check

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

// rules are DestinationRules that keep clients from mesh mTLS to endpoints
// that would accept it. Lint has those that match no service.
func (c *checker) rules() {
	accepting := map[string]bool{} // by host:port
	for _, g := range c.snapshot.Endpoints() {
		at := fmt.Sprintf("%s:%d", g.Host, g.Port)
		accepting[at] = accepting[at] || slices.ContainsFunc(g.Endpoints, func(e model.OutboundEndpoint) bool { return e.MeshTLS })
	}
	off := map[model.Key][]string{}
	note := func(svc *model.OutboundService) {
		for _, p := range svc.Ports {
			at := fmt.Sprintf("%s:%d", svc.Host, p.Number)
			for _, u := range append([]*model.Upstream{&p.Upstream}, p.Subsets...) {
				if u.Step == model.StepRule && u.TLS != model.ClientMesh && accepting[at] && !slices.Contains(off[u.Source], at) {
					off[u.Source] = append(off[u.Source], at)
				}
			}
		}
	}
	for _, svc := range c.snapshot.Services() {
		note(svc)
	}
	for _, form := range c.snapshot.Variants() {
		note(form.OutboundService)
	}
	for i := range c.in.Rules {
		r := &c.in.Rules[i]
		if at := off[r.Key]; len(at) > 0 {
			more := ""
			if len(at) > 3 {
				more = fmt.Sprintf(" and %d more", len(at)-3)
			}
			c.add(codeRuleOff, meshconfig.Warning, r.Key, "spec.trafficPolicy.tls",
				"it keeps clients from mesh mTLS, which endpoints accept, to %s%s: leave tls out, or write mode ISTIO_MUTUAL", strings.Join(at[:min(3, len(at))], ", "), more)
		}
	}
}

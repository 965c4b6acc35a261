package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/readiness"
	"github.com/meshpilot/pilot/pkg/translate"
)

// Cut is connections that a step ends.
type Cut struct {
	Step    int      `json:"step"`
	Proxies []string `json:"proxies"`
	What    string   `json:"what"`
	When    string   `json:"when"`
	// Waits says that the step waits until none of them is open, so that it cuts
	// none unless its deadline makes it.
	Waits bool `json:"waits"`
}

// cuts are what Envoy does with its listeners: a chain that goes or changes
// ends its connections at drain time, a listener whose rest changes all.
func cuts(number int, before, after *stage) []Cut {
	var out []Cut
	add := func(c Cut, proxy model.WorkloadID) {
		for i := range out {
			if o := &out[i]; o.What == c.What && o.When == c.When {
				if !slices.Contains(o.Proxies, proxy.String()) {
					o.Proxies = append(o.Proxies, proxy.String())
				}
				return
			}
		}
		c.Proxies = []string{proxy.String()}
		out = append(out, c)
	}
	seen := map[[2]*translate.Half][]ending{}
	diff := func(was, is *translate.Half) []ending {
		pair := [2]*translate.Half{was, is}
		if _, known := seen[pair]; !known {
			seen[pair] = endings(was, is)
		}
		return seen[pair]
	}
	for _, w := range after.snapshot.Workloads() {
		was, is := before.configs[w.ID], after.configs[w.ID]
		if was.Client == nil || is.Client == nil {
			continue
		}
		for _, e := range diff(was.Client, is.Client) {
			e.chain = strings.TrimPrefix(e.chain, e.listener+"|")
			add(Cut{Step: number, What: "from the application, " + e.text(), When: drained(number, before)}, w.ID)
		}
		for _, e := range diff(was.Server, is.Server) {
			if c, ok := inboundCut(number, w.ID, e, before, after); ok {
				add(c, w.ID)
			}
		}
	}
	return out
}

func drained(number int, before *stage) string {
	return fmt.Sprintf("%s (drainDuration) after step %d", readiness.Short(before.snapshot.Mesh().DrainDuration), number)
}

// ending is a chain, or with an empty chain a listener, that ends connections.
type ending struct{ listener, chain, why string }

func (e ending) text() string {
	if e.chain == "" {
		return "all connections of listener " + e.listener + ", which " + e.why
	}
	return "connections of listener " + e.listener + ", chain " + e.chain + ", which " + e.why
}

func endings(was, is *translate.Half) []ending {
	var out []ending
	for _, old := range was.Listeners.Resources {
		next := is.Listeners.Find(old.Name)
		if next == nil {
			out = append(out, ending{old.Name, "", "is removed"})
			continue
		}
		var a, b listenerv3.Listener
		if old.Version == next.Version || old.Body.UnmarshalTo(&a) != nil || next.Body.UnmarshalTo(&b) != nil {
			continue
		}
		chains := b.FilterChains
		gone := slices.DeleteFunc(slices.Clone(a.FilterChains), func(c *listenerv3.FilterChain) bool {
			return slices.ContainsFunc(chains, func(o *listenerv3.FilterChain) bool { return proto.Equal(c, o) })
		})
		a.FilterChains, b.FilterChains = nil, nil
		if !proto.Equal(&a, &b) {
			out = append(out, ending{old.Name, "", "is replaced"})
			continue
		}
		for _, c := range gone {
			why := "is removed"
			if slices.ContainsFunc(chains, func(o *listenerv3.FilterChain) bool { return o.Name == c.Name }) {
				why = "changes"
			}
			out = append(out, ending{old.Name, c.Name, why})
		}
	}
	return out
}

// inboundCut is what an ending means for callers; false if nobody minds: a
// refusal, or a probe.
func inboundCut(number int, id model.WorkloadID, e ending, before, after *stage) (Cut, bool) {
	c := Cut{Step: number, When: drained(number, before), What: e.text()}
	scope, kind, ok := strings.Cut(e.chain, "|")
	if !ok {
		return c, true
	}
	number16, _ := strconv.ParseUint(scope, 10, 16) // else all other ports
	port := uint16(number16)
	was, is := before.snapshot.Decision(id, port), after.snapshot.Decision(id, port)
	where := "port " + scope
	if port == 0 {
		where = "ports that nothing names"
	}
	switch kind {
	case "plain":
		c.What = "plaintext connections to " + where
		c.Waits = was.Phase == model.PhaseGrace && is.Phase == model.PhaseStrict
	case "app-tls":
		c.What = "connections to " + where + " in TLS of the application"
		c.Waits = was.Phase == model.PhaseGrace && is.Phase == model.PhaseStrict
	case "mtls":
		c.What = "mTLS connections to " + where
		c.Waits = was.Phase == model.PhaseOpened && is.Phase == model.PhaseNone
	case "tls":
		c.What = "TLS connections to " + where
	default:
		return c, false
	}
	if c.Waits {
		c.When = "none, as the step waits until none is open"
		if after.rollouts[id][port].OnDeadline == model.DeadlineProceed {
			c.When += ", or " + drained(number, before) + " if its deadline passed (PROCEED)"
		}
	}
	return c, true
}

package model

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestStandings(t *testing.T) {
	mesh := withTLS(ClientMesh)
	subsets := func(policy *TrafficPolicy, names ...string) func(*DestinationRule) {
		return func(r *DestinationRule) {
			r.Policy = policy
			for _, name := range names {
				r.Subsets = append(r.Subsets, Subset{Name: name})
			}
		}
	}
	bad := func(r *DestinationRule) { r.StandIn = true }
	for _, c := range []struct {
		name, client string
		rules        []DestinationRule
		want         string // rule: what of it is followed, why not the rest
	}{
		{"one", "web", []DestinationRule{rule("pay/s", ledgerHost, mesh)}, "pay/s: policy"},
		{"merged", "web", []DestinationRule{
			rule("pay/c", ledgerHost, subsets(nil, "v1")), rule("pay/b", ledgerHost, subsets(tls(ClientMesh), "v2", "v1")), rule("pay/a", ledgerHost, subsets(tls(ClientPlain), "v3"))},
			"pay/c: v1; pay/b: policy v2, lost 1 to pay/c; pay/a: v3, lost 1 to pay/b"},
		{"hosts", "web", []DestinationRule{rule("pay/w", "*", mesh), rule("pay/s", ledgerHost, mesh), rule("pay/x", "*.pay.svc.cluster.local", mesh), rule("pay/other", "stock.pay.svc.cluster.local", mesh)},
			"pay/s: policy; pay/x: , lost 3 to pay/s; pay/w: , lost 3 to pay/s"},
		{"pools", "web", []DestinationRule{rule("root/r", ledgerHost, mesh), rule("pay/s", ledgerHost, mesh), rule("web/c", "*", mesh)},
			"web/c: policy; pay/s: , lost 4 to web/c; root/r: , lost 4 to web/c"},
		{"not exported", "web", []DestinationRule{rule("pay/s", ledgerHost, exported("pay")), rule("pay/w", "*", mesh)}, "pay/s: , lost 5; pay/w: policy"},
		{"nothing is exported", "web", []DestinationRule{rule("pay/s", ledgerHost, exported("pay"))}, "pay/s: , lost 5"},
		{"elsewhere", "web", []DestinationRule{rule("shop/s", ledgerHost, mesh), rule("shop/w", "*", mesh), rule("shop/h", ledgerHost, exported("shop"))}, "shop/s: , lost 6"},
		{"invalid", "web", []DestinationRule{rule("pay/bad", ledgerHost, bad), rule("pay/s", ledgerHost, mesh)}, "pay/s: policy; pay/bad: , lost 2 to pay/s"},
		{"invalid both", "web", []DestinationRule{rule("pay/bad", ledgerHost, bad), rule("pay/worse", ledgerHost, bad)}, "pay/bad: policy; pay/worse: , lost 1 to pay/bad"},
		{"client in root", "root", []DestinationRule{rule("root/all", ledgerHost, mesh), rule("pay/s", ledgerHost, mesh), rule("root/own", ledgerHost, exported("root"))},
			"root/all: , lost 4 to root/own; root/own: policy; pay/s: , lost 4 to root/own"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := ledger(ledgerHost, c.rules...)
			var got []string
			for _, st := range s.Standings(c.client, s.Services()[0]) {
				parts := slices.Clone(st.Subsets)
				if st.Policy {
					parts = slices.Insert(parts, 0, "policy")
				}
				text := st.Rule.Key.Namespace + "/" + st.Rule.Key.Name + ": " + strings.Join(parts, " ")
				if st.Lost != NotLost {
					text += fmt.Sprintf(", lost %d", st.Lost)
				}
				if st.To != nil {
					text += " to " + st.To.Key.Namespace + "/" + st.To.Key.Name
				}
				got = append(got, text)
			}
			if text := strings.Join(got, "; "); text != c.want {
				t.Errorf("got  %s\nwant %s", text, c.want)
			}
		})
	}
}

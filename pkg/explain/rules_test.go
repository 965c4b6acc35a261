package explain

import "github.com/meshpilot/pilot/pkg/model"

// rulesThatLose: of each DestinationRule for a host, what is in force and why
// the rest is not.
func rulesThatLose() sentence {
	return sentence{"rules that win and lose", "shop/web", "secure:80", func(in *model.Inputs) {
		named := func(namespace, name, host string, change func(*model.DestinationRule)) {
			r := model.DestinationRule{Key: model.Key{Kind: "DestinationRule", Namespace: namespace, Name: name}, Created: int64(len(in.Rules) + 1), Host: host,
				Policy: &model.TrafficPolicy{Traffic: model.Traffic{LoadBalancer: model.Random}}}
			if change != nil {
				change(&r)
			}
			in.Rules = append(in.Rules, r)
		}
		const host = "secure.shop.svc.cluster.local"
		named("shop", "first", host, func(r *model.DestinationRule) {
			r.Policy = &model.TrafficPolicy{Ports: []model.PortTraffic{{Name: "tcp"}, {Number: 80, Traffic: model.Traffic{TLS: &model.TLSSettings{Mode: model.ClientMesh}}}}}
			r.Subsets = []model.Subset{{Name: "v1", Labels: map[string]string{"app": "cart-1", "ver": "1"}}}
		})
		named("shop", "second", host, func(r *model.DestinationRule) {
			r.Subsets = []model.Subset{{Name: "v2", Policy: &model.TrafficPolicy{Traffic: model.Traffic{TLS: &model.TLSSettings{Mode: model.ClientPlain}}}}}
		})
		named("shop", "wide", "*.shop.svc.cluster.local", nil)
		named("pay", "theirs", host, nil)
		in.Mesh.RootNamespace = "root"
		named("root", "all", "*", nil)
	}, VerdictMTLS, []string{
		"client  mesh mTLS: DestinationRule shop/first says ISTIO_MUTUAL in portLevelSettings[1]\n", `
DestinationRules for secure.shop.svc.cluster.local
  DestinationRule shop/first: in force: portLevelSettings[1], subset v1
  DestinationRule shop/second: in force: subset v2; not the rest: DestinationRule shop/first has the same host, gives the same and is older or first by name
  DestinationRule shop/wide for *.shop.svc.cluster.local: not in force: DestinationRule shop/first is for a closer host, secure.shop.svc.cluster.local
  DestinationRule root/all for *: not in force: DestinationRule shop/first is found first, in namespace shop
  DestinationRule pay/theirs: not in force: rules of its namespace are for its own clients and services only
  subset v1 (app=cart-1, ver=1) of DestinationRule shop/first: mesh mTLS: DestinationRule shop/first says ISTIO_MUTUAL in portLevelSettings[1]
  subset v2 of DestinationRule shop/second: plaintext: DestinationRule shop/second says DISABLE in subset v2
  No route leads to subsets yet.
`}}
}

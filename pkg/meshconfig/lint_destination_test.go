package meshconfig

import "testing"

// Settings of ports that no service of the rule has do nothing.
func TestRulePortsThatMatchNothing(t *testing.T) {
	const ports = "portLevelSettings: [{port: {number: 7000}, loadBalancer: {}}, {port: {number: 9005}, loadBalancer: {}}, {port: {name: grpc}, loadBalancer: {}}]"
	for _, c := range []struct{ name, spec, want string }{
		{"of a service", "{host: cart, trafficPolicy: {" + ports + "}}",
			`warning NO_MATCH DestinationRule shop/r [spec.trafficPolicy.portLevelSettings[1].port.number] Service shop/cart has no port 9005, so this selector has no effect: its ports are 7000 (http), 7001 (tcp-sync); 9005 is a container port, of service port 7000
warning NO_MATCH DestinationRule shop/r [spec.trafficPolicy.portLevelSettings[2].port.name] Service shop/cart has no port named "grpc", so this selector has no effect: its ports are 7000 (http), 7001 (tcp-sync)`},
		{"of a subset", "{host: cart, subsets: [{name: v1}, {name: v2, trafficPolicy: {portLevelSettings: [{port: {number: 1}, loadBalancer: {}}]}}]}",
			`warning NO_MATCH DestinationRule shop/r [spec.subsets[1].trafficPolicy.portLevelSettings[0].port.number] Service shop/cart has no port 1, so this selector has no effect: its ports are 7000 (http), 7001 (tcp-sync)`},
		{"of many services", "{host: '*.svc.cluster.local', trafficPolicy: {portLevelSettings: [{port: {number: 81}, loadBalancer: {}}, {port: {number: 82}, loadBalancer: {}}, {port: {name: grpc}, loadBalancer: {}}]}}",
			`warning NO_MATCH DestinationRule shop/r [spec.trafficPolicy.portLevelSettings[1].port.number] none of the 2 services of *.svc.cluster.local has a port 82, so this entry has no effect
warning NO_MATCH DestinationRule shop/r [spec.trafficPolicy.portLevelSettings[2].port.name] none of the 2 services of *.svc.cluster.local has a port named "grpc", so this entry has no effect`},
		{"of no service", "{host: card, trafficPolicy: {" + ports + "}}",
			`warning NO_SERVICE DestinationRule shop/r [spec.host] no service has the host card.shop.svc.cluster.local, so this rule has no effect`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, problems := compile(t, workedMesh, rule("r", "shop", c.spec))
			equal(t, texts(problems), c.want)
		})
	}
}

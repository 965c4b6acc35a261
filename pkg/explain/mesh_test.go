package explain

import (
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

// shop is a mesh with a service of each kind. web has a sidecar, old has none.
func shop(change func(*model.Inputs)) *Explainer {
	in := model.Inputs{
		Mesh: model.Mesh{
			AutoMTLS: true, TrustDomain: "cluster.local", Domain: "cluster.local",
			ListenPort: 15001, InboundListenPort: 15006, ConnectTimeout: time.Second,
		},
		Workloads: []model.Workload{
			pod("web", "10.0.0.1", true), pod("old", "10.0.0.2", false),
			pod("cart-1", "10.0.0.11", true), pod("cart-2", "10.0.0.12", false),
			pod("db-0", "10.0.0.21", true), pod("db-1", "10.0.0.22", false), pod("mysql", "10.0.0.31", true),
		},
		Services: []model.Service{
			service("cart", "10.96.0.1", model.HTTP, 80, 8080, "cart-1", "cart-2"),
			service("secure", "10.96.0.2", model.HTTP, 80, 8081, "cart-1"),
			service("tcp", "10.96.0.3", model.TCP, 7000, 7000, "cart-1"),
			service("mysql", "10.96.0.4", model.MySQL, 3306, 3306, "mysql"),
			service("empty", "10.96.0.5", model.HTTP, 80, 8080),
			service("db", "", model.TCP, 5432, 5432, "db-0", "db-1"),
			{
				Key:  model.Key{Kind: "Service", Namespace: "shop", Name: "outside"},
				Host: "outside.shop.svc.cluster.local", Namespace: "shop", Name: "outside", External: true,
				Resolution: model.ResolveNone, DNSName: "www.example.com", Ports: []model.ServicePort{{Name: "http", Number: 80, Protocol: model.HTTP}},
			},
			{
				Key:  model.Key{Kind: "ServiceEntry", Namespace: "shop", Name: "partners"},
				Host: "*.partner.example.com", Namespace: "shop", External: true,
				Resolution: model.ResolveNone, Ports: []model.ServicePort{{Name: "https", Number: 443, Protocol: model.HTTPS}},
			},
		},
		Policies: []model.ServerPolicy{
			{Key: model.Key{Kind: "Policy", Namespace: "shop", Name: "secure"},
				Rules: []model.PolicyRule{{Rank: model.RankPort, Mode: model.Strict, Service: "secure", PortNumber: 80}, {Rank: model.RankPort, Mode: model.Strict, Service: "tcp", PortNumber: 7000}}},
			{Key: model.Key{Kind: "Policy", Namespace: "shop", Name: "secure-too"},
				Rules: []model.PolicyRule{{Rank: model.RankPort, Mode: model.Permissive, Service: "secure", PortNumber: 80}}},
			{Key: model.Key{Kind: "Policy", Namespace: "shop", Name: "all"},
				Rules: []model.PolicyRule{{Rank: model.RankNamespace, Mode: model.Permissive}}},
		},
	}
	in.Services[5].Resolution = model.ResolveHeadless
	if change != nil {
		change(&in)
	}
	return New(model.Build(in), func(key model.Key) string {
		if key.Name == "secure" && key.Kind == "Policy" {
			return "shop.yaml:7"
		}
		return ""
	})
}

func pod(name, address string, sidecar bool) model.Workload {
	id := model.WorkloadID{Namespace: "shop", Name: name}
	return model.Workload{
		ID: id, Key: model.Key{Kind: "Pod", Namespace: "shop", Name: name}, Address: address, Group: name + "-deployment",
		ServiceAccount: name, Labels: map[string]string{"app": name}, Sidecar: sidecar,
	}
}

func service(name, vip string, protocol model.Protocol, port, container uint16, pods ...string) model.Service {
	addresses := map[string]string{"cart-1": "10.0.0.11", "cart-2": "10.0.0.12", "db-0": "10.0.0.21", "db-1": "10.0.0.22", "mysql": "10.0.0.31"}
	s := model.Service{
		Key:  model.Key{Kind: "Service", Namespace: "shop", Name: name},
		Host: name + ".shop.svc.cluster.local", Namespace: "shop", Name: name,
		Ports: []model.ServicePort{{Name: protocol.String(), Number: port, Protocol: protocol}},
	}
	if vip != "" {
		s.VIPs = []string{vip}
	}
	for _, pod := range pods {
		s.Ports[0].Endpoints = append(s.Ports[0].Endpoints, model.Endpoint{
			Address: addresses[pod], Port: container, Workload: model.WorkloadID{Namespace: "shop", Name: pod}, Ready: true,
		})
	}
	return s
}

package model

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestClientTLS(t *testing.T) {
	strict := policy("Policy", "shop", "p", 1, PolicyRule{Rank: RankNamespace, Mode: Strict})
	for _, c := range []struct {
		name   string
		change func(*Inputs)
		want   ClientTLS
	}{
		{"no policy", func(in *Inputs) { in.Policies = nil }, ClientPlain},
		{"all accept", func(*Inputs) {}, ClientMesh},
		{"one has no sidecar", func(in *Inputs) { in.Workloads[0].Sidecar = false }, ClientMixed},
		{"none has a sidecar", func(in *Inputs) { in.Workloads[0].Sidecar, in.Workloads[1].Sidecar = false, false }, ClientPlain},
		{"a sidecar was seen", func(in *Inputs) {
			in.Workloads[0].Sidecar = false
			in.Connected = []WorkloadID{in.Workloads[0].ID}
		}, ClientMesh},
		{"excluded", func(in *Inputs) { in.Mesh.Excluded = []string{"cart.shop.svc.cluster.local"} }, ClientPlain},
		{"excluded by suffix", func(in *Inputs) { in.Mesh.Excluded = []string{"*.svc.cluster.local"} }, ClientPlain},
		{"the suffix alone is not excluded", func(in *Inputs) { in.Mesh.Excluded = []string{"*.cart.shop.svc.cluster.local"} }, ClientMesh},
		{"outside the mesh", func(in *Inputs) { in.Services[0].External = true }, ClientPlain},
		{"auto off", func(in *Inputs) { in.Mesh.AutoMTLS = false }, ClientPlain},
		{"auto off, authPolicy", func(in *Inputs) { in.Mesh.AutoMTLS, in.Mesh.MutualTLS = false, true }, ClientMesh},
		{"the one without a sidecar is not ready", func(in *Inputs) {
			in.Workloads[0].Sidecar = false
			in.Services[0].Ports[0].Endpoints[0].Ready = false
		}, ClientMesh},
		{"capture leaves the port out at one", func(in *Inputs) {
			in.Workloads[0].Inbound = &CapturedPorts{All: true, Except: []uint16{9000}}
		}, ClientMixed},
		{"capture takes another port only at one", func(in *Inputs) {
			in.Workloads[0].Inbound = &CapturedPorts{Only: []uint16{9000}}
		}, ClientMesh},
		{"nobody is ready", func(in *Inputs) {
			in.Services[0].Ports[0].Endpoints[0].Ready = false
			in.Services[0].Ports[0].Endpoints[1].Ready = false
		}, ClientMesh},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := shop(strict)
			c.change(&in)
			port := Build(in).Services()[0].Ports[0]
			if port.TLS != c.want {
				t.Errorf("client TLS is %s, want %s", port.TLS, c.want)
			}
			if (port.TLS == ClientMixed) != (port.ModesHash != "") {
				t.Errorf("modes hash %q with client TLS %s", port.ModesHash, port.TLS)
			}
		})
	}
}

// A port that services disagree about is served as the oldest one says, so
// what clients of the others may send goes by that too.
func TestClientTLSGoesByTheProtocolServed(t *testing.T) {
	for _, c := range []struct {
		oldest, called Protocol
		want           ClientTLS
	}{{MySQL, TCP, ClientPlain}, {TCP, MySQL, ClientMesh}} {
		in := shop(policy("Policy", "shop", "p", 1, PolicyRule{Rank: RankNamespace, Mode: Permissive}))
		in.Services[0].Created, in.Services[1].Created = 2, 1
		in.Services[0].Ports = in.Services[0].Ports[1:]
		in.Services[1].Ports[0].Endpoints = in.Services[0].Ports[0].Endpoints
		in.Services[0].Ports[0].Protocol, in.Services[1].Ports[0].Protocol = c.called, c.oldest
		if got := Build(in).Services()[0].Ports[0].TLS; got != c.want {
			t.Errorf("served as %s, called as %s: client TLS is %s, want %s", c.oldest, c.called, got, c.want)
		}
	}
}

// Views must not depend on the order in which a source lists its objects.
func TestViewsIgnoreOrder(t *testing.T) {
	p1 := policy("Policy", "shop", "p1", 1, PolicyRule{Rank: RankWorkload, Mode: Strict, Service: "cart"})
	p2 := policy("Policy", "shop", "p2", 1, PolicyRule{Rank: RankWorkload, Mode: Permissive, Service: "cart"})
	in := shop(p1, p2)
	want := fingerprints(Build(in))
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		random.Shuffle(len(in.Services), func(i, j int) { in.Services[i], in.Services[j] = in.Services[j], in.Services[i] })
		random.Shuffle(len(in.Workloads), func(i, j int) { in.Workloads[i], in.Workloads[j] = in.Workloads[j], in.Workloads[i] })
		random.Shuffle(len(in.Policies), func(i, j int) { in.Policies[i], in.Policies[j] = in.Policies[j], in.Policies[i] })
		ports := in.Services[0].Ports
		random.Shuffle(len(ports), func(i, j int) { ports[i], ports[j] = ports[j], ports[i] })
		if got := fingerprints(Build(in)); got != want {
			t.Fatal("fingerprints differ after a shuffle")
		}
	}
}

// Replicas list endpoints in different orders: nothing that tells two apart
// may be left out of the order in which proxies get them.
func TestEndpointsAreOrderedByAllOfThem(t *testing.T) {
	near, far := Locality{Region: "eu", Zone: "a"}, Locality{Region: "eu", Zone: "b"}
	endpoints := []Endpoint{
		{Address: "10.0.9.1", Port: 80, Ready: true, Locality: near},
		{Address: "10.0.9.1", Port: 80, Ready: true, Locality: near, Weight: 2},
		{Address: "10.0.9.1", Port: 80, Ready: true, Locality: far},
		{Address: "10.0.9.1", Port: 81, Ready: true, Locality: near},
		{Address: "10.0.9.2", Port: 80, Ready: true, Locality: near},
	}
	in := shop()
	group := func() []OutboundEndpoint {
		in.Services[0].Ports[0].Endpoints = endpoints
		s := Build(in)
		i := slices.IndexFunc(s.Endpoints(), func(g *EndpointGroup) bool {
			return g.Host == in.Services[0].Host && g.Port == in.Services[0].Ports[0].Number
		})
		return s.Endpoints()[i].Endpoints
	}
	want := make([]OutboundEndpoint, len(endpoints))
	for i, e := range endpoints {
		want[i] = OutboundEndpoint{Address: e.Address, Port: e.Port, Locality: e.Locality, Weight: e.Weight}
	}
	random := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		random.Shuffle(len(endpoints), func(i, j int) { endpoints[i], endpoints[j] = endpoints[j], endpoints[i] })
		if got := group(); !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}

func fingerprints(s *Snapshot) Fingerprint {
	var d digest
	for _, w := range s.Workloads() {
		p, _ := s.ProxyOf(w.ID)
		client, server, _ := s.ClassOf(p)
		d.sum(s.ClientView(client).Fingerprint, s.ServerView(server).Fingerprint)
	}
	for _, g := range s.Endpoints() {
		d.sum(g.Fingerprint)
	}
	return d.done()
}

// A label that no selector mentions (a pod-template hash) must not split a class.
func TestShapeHoldsOnlySelectedLabels(t *testing.T) {
	classes := func(in Inputs) int {
		s, seen := Build(in), map[ServerClass]bool{}
		for _, w := range s.Workloads()[1:3] { // cart-1, cart-2 with one port alike
			p, _ := s.ProxyOf(w.ID)
			_, server, ok := s.ClassOf(p)
			if !ok || s.ServerView(server) == nil {
				t.Fatalf("%s has no class", w.ID)
			}
			seen[server] = true
		}
		return len(seen)
	}
	in := shop()
	in.Services[0].Ports = in.Services[0].Ports[1:] // the port that both serve at 7701
	if got := classes(in); got != 1 {
		t.Errorf("%d classes, want 1", got)
	}
	in.Policies = []ServerPolicy{policy("PeerAuthentication", "shop", "v2", 1,
		PolicyRule{Rank: RankWorkload, Mode: Strict, Selector: map[string]string{"ver": "2"}})}
	if got := classes(in); got != 2 {
		t.Errorf("%d classes with a selector on ver, want 2", got)
	}
}

func TestExportTo(t *testing.T) {
	in := shop()
	in.Services[0].ExportTo = []string{"."}
	in.Services[1].ExportTo = []string{"pay", "ops"}
	s := Build(in)
	for ns, want := range map[string]int{"shop": 1, "pay": 1, "ops": 1, "other": 0} {
		if got := len(s.ClientView(ClientClass{Namespace: ns}).Services); got != want {
			t.Errorf("%s sees %d services, want %d", ns, got, want)
		}
	}
}

func TestOldestServiceDecidesProtocol(t *testing.T) {
	in := shop()
	clash := Service{
		Key: Key{"Service", "shop", "aaa"}, Host: "aaa.shop.svc.cluster.local", Namespace: "shop", Name: "aaa", Created: 9,
		Ports: []ServicePort{{Name: "tcp", Number: 5, Endpoints: []Endpoint{at("stock-1", 8081)}}},
	}
	in.Services = append(in.Services, clash)
	s := Build(in)
	p, _ := s.ProxyOf(WorkloadID{"shop", "stock-1"})
	_, server, _ := s.ClassOf(p)
	got := s.ServerView(server).Ports[0]
	if got.Protocol != HTTP || got.Host != "aaa.shop.svc.cluster.local" || got.ServicePort != 5 || len(got.From) != 2 {
		t.Errorf("got %+v, want protocol http of the older stock, named after aaa:5", got)
	}
}

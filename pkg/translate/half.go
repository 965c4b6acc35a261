package translate

import (
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
)

// Shared is what is the same for all client classes, marshaled once.
type Shared struct {
	clusters  map[model.Fingerprint]portClusters // by the port's fingerprint
	listeners map[model.Fingerprint][]*Resource  // by the service's topology
	hosts     *hosts
	accessLog string // listeners hold it too
}

// portClusters are a service port's clusters: captured classes may go to the
// original destination, those without capture (direct) have none.
type portClusters struct {
	captured, direct []*Resource
	secrets          []ruleFile // that they refer to, besides the mesh's own
	meshTLS          bool       // they use mesh certificates
}

// Share marshals the clusters and listeners that all client classes share.
// What is equal in prev, which may be nil, is kept by pointer.
func Share(s *model.Snapshot, prev *Shared) *Shared {
	mesh := s.OutboundMesh()
	if prev == nil {
		prev = &Shared{}
	}
	next := &Shared{
		clusters:  make(map[model.Fingerprint]portClusters, len(s.Services())),
		listeners: make(map[model.Fingerprint][]*Resource, len(s.Services())),
		accessLog: mesh.AccessLogFile,
		hosts:     newHosts(s.Services(), mesh.Domain, prev.hosts),
	}
	for _, svc := range s.Services() {
		next.add(&mesh, svc, prev)
	}
	for _, form := range s.Variants() {
		next.add(&mesh, form.OutboundService, prev)
	}
	return next
}

func (s *Shared) add(mesh *model.OutboundMesh, svc *model.OutboundService, prev *Shared) {
	for _, port := range svc.Ports {
		if _, ok := s.clusters[port.Fingerprint]; ok { // of another form of the service
			continue
		}
		clusters, ok := prev.clusters[port.Fingerprint]
		if !ok {
			clusters = outboundClusters(mesh, svc, port)
		}
		s.clusters[port.Fingerprint] = clusters
	}
	listeners, ok := prev.listeners[svc.Topology]
	if !ok || prev.accessLog != s.accessLog {
		listeners = addressListeners(mesh, svc)
	}
	s.listeners[svc.Topology] = listeners
}

// Outbound is the client half of a class. What is equal in prev, an earlier
// half of the class or nil, is taken from it by pointer.
func Outbound(v *model.ClientView, shared *Shared, prev *Half) *Half {
	if prev == nil {
		prev = &Half{}
	}
	next := &Half{topology: v.Topology}
	var plain, respelled []*Resource
	clusters := []*Resource{emptyCluster(blackHoleCluster)}
	if v.Class.Capture != model.CaptureNone {
		clusters = append(clusters, passthrough(passthroughCluster, &v.Mesh))
	}
	for _, svc := range v.Services {
		for _, port := range svc.Ports {
			made := shared.clusters[port.Fingerprint]
			next.NeedsSecrets = next.NeedsSecrets || made.meshTLS
			if v.Class.Capture == model.CaptureNone {
				clusters = append(clusters, made.direct...)
			} else {
				clusters = append(clusters, made.captured...)
			}
			for _, file := range made.secrets {
				plain, respelled = append(plain, file.plain), append(respelled, file.respelled)
			}
		}
	}
	next.Secrets = newTable(distinct(plain), prev.Secrets)
	next.SecretsRespelled = newTable(distinct(respelled), prev.SecretsRespelled)
	next.Clusters = newTable(clusters, prev.Clusters)
	if prev.Listeners != nil && prev.topology == v.Topology {
		next.Listeners, next.Routes = prev.Listeners, prev.Routes
		return next
	}
	var listeners []*Resource
	if v.Class.Capture != model.CaptureNone {
		listeners = outboundListeners(v, shared)
	}
	next.Listeners = newTable(listeners, prev.Listeners)
	next.Routes = newTable(outboundRoutes(v, shared), prev.Routes)
	return next
}

// distinct keeps one resource of each name: equal files make equal secrets.
func distinct(resources []*Resource) []*Resource {
	slices.SortFunc(resources, func(a, b *Resource) int { return strings.Compare(a.Name, b.Name) })
	return slices.CompactFunc(resources, func(a, b *Resource) bool { return a.Name == b.Name })
}

// Inbound is the server half of a class. What is equal in prev, an earlier
// half of the class or nil, is taken from it by pointer.
func Inbound(v *model.ServerView, prev *Half) *Half {
	if prev == nil {
		prev = &Half{}
	}
	next := &Half{
		Secrets:          newTable(secrets(v.Class.Local, false), prev.Secrets),
		SecretsRespelled: newTable(secrets(v.Class.Local, true), prev.SecretsRespelled),
		NeedsSecrets:     v.Class.Capture != model.CaptureNone && v.Other.Phase != model.PhaseNone,
	}
	keep := resident(v.Mesh.TrustDomains)
	clusters := []*Resource{keep}
	var listeners, routes []*Resource
	if v.Class.Type == model.Sidecar {
		for i := range v.Ports {
			next.NeedsSecrets = next.NeedsSecrets || v.Ports[i].Decision.Phase != model.PhaseNone
		}
		clusters = append(clusters, inboundClusters(v)...)
		listeners = inboundListeners(v)
		routes = inboundRoutes(v)
	}
	next.Clusters = newTable(clusters, prev.Clusters)
	next.Resident = newTable([]*Resource{next.Clusters.Find(residentCluster)}, prev.Resident)
	next.Listeners = newTable(listeners, prev.Listeners)
	next.Routes = newTable(routes, prev.Routes)
	return next
}

// Config is the whole configuration of one proxy.
type Config struct {
	Client, Server *Half
	Endpoints      *Table
}

// For is the configuration of one proxy, built from nothing; false if its
// workload is unknown.
func For(s *model.Snapshot, p model.Proxy) (Config, bool) {
	client, server, ok := s.ClassOf(p)
	if !ok {
		return Config{}, false
	}
	return Config{
		Client:    Outbound(s.ClientView(client), Share(s, nil), nil),
		Server:    Inbound(s.ServerView(server), nil),
		Endpoints: Endpoints(s.Endpoints(), nil),
	}, true
}

// Sidecars is the configuration of every workload that has a sidecar, built
// from nothing, once per class; if some workloads are given, of those.
func Sidecars(s *model.Snapshot, only ...model.WorkloadID) map[model.WorkloadID]Config {
	shared, endpoints := Share(s, nil), Endpoints(s.Endpoints(), nil)
	clients := map[model.ClientClass]*Half{}
	servers := map[model.ServerClass]*Half{}
	out := map[model.WorkloadID]Config{}
	for _, w := range s.Workloads() {
		proxy, _ := s.ProxyOf(w.ID)
		client, server, ok := s.ClassOf(proxy)
		if !ok || !s.HasSidecar(w.ID) || len(only) > 0 && !slices.Contains(only, w.ID) {
			continue
		}
		if clients[client] == nil {
			clients[client] = Outbound(s.ClientView(client), shared, nil)
		}
		if servers[server] == nil {
			servers[server] = Inbound(s.ServerView(server), nil)
		}
		out[w.ID] = Config{Client: clients[client], Server: servers[server], Endpoints: endpoints}
	}
	return out
}

// Resources are the proxy's resources of one type, of both halves, sorted by
// name; of the endpoints, those of its own clusters.
func (c Config) Resources(typeURL string) []*Resource {
	switch typeURL {
	case SecretType:
		return newTable(append(c.Client.Secrets.list(), c.Server.Secrets.list()...), nil).Resources
	case ClusterType:
		return newTable(append(c.Client.Clusters.list(), c.Server.Clusters.list()...), nil).Resources
	case ListenerType:
		return newTable(append(c.Client.Listeners.list(), c.Server.Listeners.list()...), nil).Resources
	case RouteType:
		return newTable(append(c.Client.Routes.list(), c.Server.Routes.list()...), nil).Resources
	case EndpointType:
		var own []*Resource
		for _, cluster := range c.Client.Clusters.Resources {
			if r := c.Endpoints.Find(cluster.eds); r != nil {
				own = append(own, r)
			}
		}
		return newTable(own, nil).Resources
	default:
		return nil
	}
}

func (t *Table) list() []*Resource { return append([]*Resource(nil), t.Resources...) }

package translate

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	"github.com/meshpilot/pilot/pkg/model"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// upstream is one outbound cluster to be: a service port, or a subset of it.
type upstream struct {
	*model.Upstream
	mesh *model.OutboundMesh
	svc  *model.OutboundService
	port *model.OutboundPort
}

// outboundClusters are the clusters of one service port with its subsets.
func outboundClusters(m *model.OutboundMesh, svc *model.OutboundService, port *model.OutboundPort) portClusters {
	var out portClusters
	for _, u := range append([]*model.Upstream{&port.Upstream}, port.Subsets...) {
		x := upstream{u, m, svc, port}
		captured, direct := x.clusters()
		out.captured = append(out.captured, captured...)
		out.direct = append(out.direct, direct...)
		out.secrets = append(out.secrets, x.files()...)
		out.meshTLS = out.meshTLS || u.TLS == model.ClientMesh || u.TLS == model.ClientMixed
	}
	return out
}

// clusters are those for captured classes, and for those without capture,
// which have no original destination.
func (x upstream) clusters() (captured, direct []*Resource) {
	switch x.svc.Resolution {
	case model.ResolveEndpoints, model.ResolveHeadless:
		direct = []*Resource{x.eds()}
	case model.ResolveDNS:
		direct = []*Resource{x.dns()}
	default:
		if x.svc.Host[0] != '*' { // else nothing to resolve
			direct = []*Resource{x.dns()}
		}
	}
	if x.StandIn && x.svc.External {
		closed := []*Resource{x.closed()}
		return closed, closed
	}
	if !x.Original(x.svc.Resolution) {
		return direct, direct
	}
	captured = []*Resource{x.original(false)}
	if x.TLS == model.ClientMixed && x.Subset == "" {
		captured = append(captured, x.original(true))
	}
	return captured, direct
}

func (x upstream) eds() *Resource {
	var b builder
	c := b.outbound(x, clusterv3.Cluster_EDS)
	name := endpointsName(x.port.Number, x.Subset, x.svc.Host, x.Variant)
	c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: adsSource(), ServiceName: name}
	b.secure(c, x, x.TLS)
	r := b.resource(c.Name, c, x.from()...)
	r.eds = name
	return r
}

func (x upstream) dns() *Resource {
	endpoints := x.Endpoints
	if len(endpoints) == 0 {
		if x.svc.Resolution == model.ResolveDNS && (x.StandIn || x.Subset != "") {
			return x.closed()
		}
		name := x.svc.DNSName
		if name == "" {
			name = x.svc.Host
		}
		endpoints = []model.OutboundEndpoint{{Address: name, Port: x.port.Number}}
	}
	var b builder
	c := b.outbound(x, clusterv3.Cluster_STRICT_DNS)
	c.DnsLookupFamily = clusterv3.Cluster_V4_ONLY
	c.LoadAssignment = assignment(c.Name, endpoints)
	b.secure(c, x, x.TLS)
	return b.resource(c.Name, c, x.from()...)
}

// original goes where the client was going. It knows no endpoint metadata, so
// endpoints without mesh mTLS of a mixed service go by listeners, to plain.
func (x upstream) original(plain bool) *Resource {
	var b builder
	c := b.outbound(x, clusterv3.Cluster_ORIGINAL_DST)
	c.LbPolicy = clusterv3.Cluster_CLUSTER_PROVIDED
	tls := x.TLS
	switch {
	case plain:
		c.Name, tls = outboundName(x.port.Number, plainSubset, x.svc.Host), model.ClientPlain
	case tls == model.ClientMixed:
		tls = model.ClientMesh
	}
	b.secure(c, x, tls)
	return b.resource(c.Name, c, x.from()...)
}

// closed has no endpoints.
func (x upstream) closed() *Resource {
	var b builder
	c := staticCluster(outboundName(x.port.Number, x.Subset, x.svc.Host), nil)
	return b.resource(c.Name, c, x.from()...)
}

func (x upstream) from() []model.Key {
	return append([]model.Key{x.svc.Key}, x.From...)
}

func (b *builder) outbound(x upstream, kind clusterv3.Cluster_DiscoveryType) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:                 outboundName(x.port.Number, x.Subset, x.svc.Host),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: kind},
		ConnectTimeout:       durationpb.New(x.mesh.ConnectTimeout),
		LbPolicy:             lbPolicy(x.Traffic.LoadBalancer),
		OutlierDetection:     outliers(x.Traffic.Outliers),
	}
	limit(c, x.Traffic.Pool)
	b.speak(c, x.port.Protocol, x.Traffic.Pool)
	return c
}

// secure puts TLS into the cluster itself where all endpoints take it, so that
// a change re-creates the cluster: pooled connections do not follow endpoint
// metadata. Only mixed endpoints are told apart by it.
func (b *builder) secure(c *clusterv3.Cluster, x upstream, tls model.ClientTLS) {
	switch tls {
	case model.ClientPlain:
	case model.ClientMixed:
		c.TransportSocketMatches = []*clusterv3.Cluster_TransportSocketMatch{
			{Name: "tlsMode-istio", Match: fields("tlsMode", "istio"), TransportSocket: b.meshSocket(x)},
			{Name: "tlsMode-disabled", Match: &structpb.Struct{}, TransportSocket: rawSocket(b.marshal(&rawv3.RawBuffer{}))},
		}
		c.Metadata = metadata("pilot.meshpilot.io", "modes", x.ModesHash)
	case model.ClientMesh:
		c.TransportSocket = b.meshSocket(x)
	default:
		c.TransportSocket = b.originSocket(x)
	}
}

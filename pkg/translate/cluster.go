package translate

import (
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"github.com/meshpilot/pilot/pkg/model"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func fields(key, value string) *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{key: structpb.NewStringValue(value)}}
}

func metadata(filter, key, value string) *corev3.Metadata {
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{filter: fields(key, value)}}
}

// passthrough forwards to where the client was going.
func passthrough(name string, m *model.OutboundMesh) *Resource {
	var b builder
	return b.resource(name, originalDestination(name, durationpb.New(m.ConnectTimeout)))
}

func originalDestination(name string, timeout *durationpb.Duration) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST},
		LbPolicy:             clusterv3.Cluster_CLUSTER_PROVIDED,
		ConnectTimeout:       timeout,
	}
}

// emptyCluster has no endpoints: connections to it close without a byte.
func emptyCluster(name string) *Resource {
	var b builder
	return b.resource(name, staticCluster(name, nil))
}

func staticCluster(name string, endpoints []model.OutboundEndpoint) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		LoadAssignment:       assignment(name, endpoints),
	}
}

// resident is never routed to: it keeps the secrets loaded, so that a change
// to mTLS waits for no secret.
func resident(trustDomains []string) *Resource {
	var b builder
	c := staticCluster(residentCluster, nil)
	c.TransportSocket = b.meshClientTLS(meshSANs(trustDomains), "", false)
	return b.resource(c.Name, c)
}

// inboundClusters lead to the application. What a TCP proxy takes outside the
// mesh's mTLS has clusters of its own, whose gauge shows what is still open:
// tcp_proxy has none.
func inboundClusters(v *model.ServerView) []*Resource {
	out := []*Resource{emptyCluster(refuseCluster)}
	timeout := durationpb.New(v.Mesh.ConnectTimeout)
	if v.Class.Capture != model.CaptureNone {
		for _, name := range []string{inboundPassthroughCluster, openPassthroughCluster} {
			var b builder
			c := originalDestination(name, timeout)
			// The address that capture leaves alone, so that nothing loops.
			c.UpstreamBindConfig = &corev3.BindConfig{SourceAddress: socketAddress("127.0.0.6", 0).GetSocketAddress()}
			out = append(out, b.resource(c.Name, c))
		}
	}
	for i := range v.Ports {
		p := &v.Ports[i]
		uses := []string{"", plainUse}
		if probesBeside(p) {
			uses = append(uses, grpcProbeUse)
		}
		for _, use := range uses {
			var b builder
			c := staticCluster(inboundName(p.Port, use), []model.OutboundEndpoint{{Address: v.Class.Local.App(), Port: p.Port}})
			c.ConnectTimeout = timeout
			protocol := p.Protocol
			switch use {
			case plainUse:
				protocol = model.TCP
			case grpcProbeUse:
				protocol = model.GRPC
			}
			b.speak(c, protocol, p.Pool)
			limit(c, p.Pool)
			out = append(out, b.resource(c.Name, c, p.From...))
		}
	}
	return out
}

// probesBeside says whether a gRPC probe needs a cluster of its own, as the
// port's speaks no HTTP/2.
func probesBeside(p *model.InboundPort) bool {
	return !p.Protocol.IsHTTP2() && slices.ContainsFunc(p.Probes, func(probe model.Probe) bool { return probe.GRPC })
}

const (
	plainUse     = "plain"
	grpcProbeUse = "grpc-probe"
)

func assignment(name string, endpoints []model.OutboundEndpoint) *endpointv3.ClusterLoadAssignment {
	cla := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	for i := range endpoints {
		e := &endpoints[i]
		group := localityOf(cla, e.Locality)
		group.LbEndpoints = append(group.LbEndpoints, lbEndpoint(e))
	}
	return cla
}

func localityOf(cla *endpointv3.ClusterLoadAssignment, l model.Locality) *endpointv3.LocalityLbEndpoints {
	for _, group := range cla.Endpoints {
		if group.Locality.GetRegion() == l.Region && group.Locality.GetZone() == l.Zone && group.Locality.GetSubZone() == l.SubZone {
			return group
		}
	}
	group := &endpointv3.LocalityLbEndpoints{}
	if l != (model.Locality{}) {
		group.Locality = &corev3.Locality{Region: l.Region, Zone: l.Zone, SubZone: l.SubZone}
	}
	cla.Endpoints = append(cla.Endpoints, group)
	return group
}

func lbEndpoint(e *model.OutboundEndpoint) *endpointv3.LbEndpoint {
	lb := &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
		Endpoint: &endpointv3.Endpoint{Address: socketAddress(e.Address, e.Port)},
	}}
	if e.Weight > 0 {
		lb.LoadBalancingWeight = wrapperspb.UInt32(e.Weight)
	}
	if e.MeshTLS {
		lb.Metadata = metadata("envoy.transport_socket_match", "tlsMode", "istio")
	}
	return lb
}

func socketAddress(address string, port uint16) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: address, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}

// Endpoints is the EDS table of the mesh: what EDS clusters name. What is
// equal in prev, which may be nil, is kept by pointer.
func Endpoints(groups []*model.EndpointGroup, prev *Table) *Table {
	known := map[model.Fingerprint]*Resource{}
	if prev != nil {
		for _, r := range prev.Resources {
			known[r.print] = r
		}
	}
	resources := make([]*Resource, len(groups))
	for i, g := range groups {
		if r := known[g.Fingerprint]; r != nil {
			resources[i] = r
			continue
		}
		var b builder
		name := endpointsName(g.Port, g.Subset, g.Host, g.Variant)
		resources[i] = b.resource(name, assignment(name, g.Endpoints), g.Key)
		resources[i].print = g.Fingerprint
	}
	return newTable(resources, prev)
}

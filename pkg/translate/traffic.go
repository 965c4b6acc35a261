package translate

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"github.com/meshpilot/pilot/pkg/model"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// maxStreams is what Envoy allows; its own default would split busy gRPC
// clients over connections.
const maxStreams = 1073741824

// speak makes connections of the cluster HTTP/2 where the protocol says so,
// and ends them after as many requests as the pool says.
func (b *builder) speak(c *clusterv3.Cluster, protocol model.Protocol, pool *model.ConnectionPool) {
	perConnection := pool != nil && pool.MaxRequestsPerConnection > 0 && protocol.IsHTTP()
	if !protocol.IsHTTP2() && !perConnection {
		return
	}
	explicit := &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
		ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}},
	}
	if protocol.IsHTTP2() {
		explicit.ProtocolConfig = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
			Http2ProtocolOptions: &corev3.Http2ProtocolOptions{MaxConcurrentStreams: wrapperspb.UInt32(maxStreams)},
		}
	}
	options := &httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: explicit},
	}
	if perConnection {
		options.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{MaxRequestsPerConnection: wrapperspb.UInt32(pool.MaxRequestsPerConnection)}
	}
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": b.marshal(options)}
}

// limit sets the limits that a pool gives.
func limit(c *clusterv3.Cluster, pool *model.ConnectionPool) {
	if pool == nil {
		return
	}
	if pool.ConnectTimeout > 0 {
		c.ConnectTimeout = durationpb.New(pool.ConnectTimeout)
	}
	t := &clusterv3.CircuitBreakers_Thresholds{
		MaxConnections:     given(pool.MaxConnections),
		MaxPendingRequests: given(pool.MaxPendingRequests),
		MaxRequests:        given(pool.MaxRequests),
		MaxRetries:         given(pool.MaxRetries),
	}
	if t.MaxConnections != nil || t.MaxPendingRequests != nil || t.MaxRequests != nil || t.MaxRetries != nil {
		c.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{t}}
	}
}

func given(n uint32) *wrapperspb.UInt32Value {
	if n == 0 {
		return nil
	}
	return wrapperspb.UInt32(n)
}

func lbPolicy(lb model.LoadBalancer) clusterv3.Cluster_LbPolicy {
	switch lb {
	case model.LeastRequest:
		return clusterv3.Cluster_LEAST_REQUEST
	case model.Random:
		return clusterv3.Cluster_RANDOM
	default:
		return clusterv3.Cluster_ROUND_ROBIN
	}
}

// outliers counts errors in a row only: nobody asked for success rates, which
// Envoy would count as well.
func outliers(o *model.OutlierDetection) *clusterv3.OutlierDetection {
	if o == nil {
		return nil
	}
	out := &clusterv3.OutlierDetection{
		Consecutive_5Xx:      given(o.ConsecutiveErrors),
		MaxEjectionPercent:   given(o.MaxEjectionPercent),
		EnforcingSuccessRate: wrapperspb.UInt32(0),
	}
	if o.ErrorsOff {
		out.EnforcingConsecutive_5Xx = wrapperspb.UInt32(0)
	}
	if o.Interval > 0 {
		out.Interval = durationpb.New(o.Interval)
	}
	if o.BaseEjectionTime > 0 {
		out.BaseEjectionTime = durationpb.New(o.BaseEjectionTime)
	}
	return out
}

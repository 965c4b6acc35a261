package bootstrap

import (
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	// ReadyPath answers 200 at the status port as soon as Envoy serves what the
	// control plane sent.
	ReadyPath = "/healthz/ready"

	adminCluster = "admin"
)

// statusListener shows others than this host the one page of Envoy's admin
// that is harmless.
func statusListener(o Options) *listenerv3.Listener {
	router := &hcmv3.HttpFilter{
		Name:       "envoy.filters.http.router",
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: bootAny(&routerv3.Router{})},
	}
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix: "status",
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			Name: "status",
			VirtualHosts: []*routev3.VirtualHost{{
				Name:    "status",
				Domains: []string{"*"},
				Routes: []*routev3.Route{{
					Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: ReadyPath}},
					Action: &routev3.Route_Route{Route: &routev3.RouteAction{
						ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: adminCluster},
						PrefixRewrite:    "/ready",
					}},
				}},
			}},
		}},
		HttpFilters: []*hcmv3.HttpFilter{router},
	}
	return &listenerv3.Listener{
		Name:    "status",
		Address: bootAddress("0.0.0.0", o.StatusPort),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: bootAny(manager)},
		}}}},
	}
}

func statusCluster(o Options) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 adminCluster,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:       durationpb.New(time.Second),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: adminCluster,
			Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
					Address: bootAddress(o.AdminAddress, o.AdminPort),
				}},
			}}}},
		},
	}
}

// staticResources are what Envoy has before the control plane sends anything.
func staticResources(o Options) ([]*clusterv3.Cluster, []*listenerv3.Listener) {
	clusters := []*clusterv3.Cluster{xdsCluster(o)}
	if o.StatusPort == 0 {
		return clusters, nil
	}
	return append(clusters, statusCluster(o)), []*listenerv3.Listener{statusListener(o)}
}

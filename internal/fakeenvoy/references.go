package fakeenvoy

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	// Types that configuration holds in Any, to be walked through.
	_ "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/meshpilot/pilot/pkg/translate"
)

// references are the names of endpoints, secrets and routes that the held
// clusters and listeners refer to.
func references(held Held) map[string]map[string]bool {
	found := map[string]map[string]bool{translate.EndpointType: {}, translate.SecretType: {}, translate.RouteType: {}}
	for _, url := range []string{translate.ClusterType, translate.ListenerType} {
		for _, resource := range held[url] {
			if m, err := resource.Body.UnmarshalNew(); err == nil {
				walk(m.ProtoReflect(), found)
			}
		}
	}
	return found
}

// walk visits m and all messages in it, also those packed in Any.
func walk(m protoreflect.Message, found map[string]map[string]bool) {
	switch m := m.Interface().(type) {
	case *clusterv3.Cluster:
		if m.GetType() == clusterv3.Cluster_EDS {
			name := m.GetEdsClusterConfig().GetServiceName()
			if name == "" {
				name = m.GetName()
			}
			found[translate.EndpointType][name] = true
		}
	case *hcmv3.Rds:
		found[translate.RouteType][m.GetRouteConfigName()] = true
	case *tlsv3.SdsSecretConfig:
		found[translate.SecretType][m.GetName()] = true
	case *anypb.Any:
		if inner, err := m.UnmarshalNew(); err == nil {
			walk(inner.ProtoReflect(), found)
		}
		return
	}
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.Message() == nil:
		case field.IsList():
			for i := range value.List().Len() {
				walk(value.List().Get(i).Message(), found)
			}
		case field.IsMap():
			if field.MapValue().Message() != nil {
				value.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					walk(v.Message(), found)
					return true
				})
			}
		default:
			walk(value.Message(), found)
		}
		return true
	})
}

// nameOf is the name inside a resource.
func nameOf(body *anypb.Any) string {
	m, err := body.UnmarshalNew()
	if err != nil {
		return ""
	}
	switch m := m.(type) {
	case *listenerv3.Listener:
		return m.GetName()
	case *routev3.RouteConfiguration:
		return m.GetName()
	case *tlsv3.Secret:
		return m.GetName()
	case *clusterv3.Cluster:
		return m.GetName()
	}
	// ClusterLoadAssignment calls it cluster_name.
	if field := m.ProtoReflect().Descriptor().Fields().ByName("cluster_name"); field != nil {
		return m.ProtoReflect().Get(field).String()
	}
	return ""
}

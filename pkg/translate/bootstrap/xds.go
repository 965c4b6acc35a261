package bootstrap

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"path"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func xdsCluster(o Options) *clusterv3.Cluster {
	host, port := o.discovery()
	kind := clusterv3.Cluster_STRICT_DNS
	if _, err := netip.ParseAddr(host); err == nil {
		kind = clusterv3.Cluster_STATIC
	}
	c := &clusterv3.Cluster{
		Name:                 bootCluster,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: kind},
		ConnectTimeout:       durationpb.New(time.Second),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: bootCluster,
			Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: bootAddress(host, port)}},
			}}}},
		},
		UpstreamConnectionOptions: &clusterv3.UpstreamConnectionOptions{TcpKeepalive: &corev3.TcpKeepalive{
			KeepaliveTime: wrapperspb.UInt32(300),
		}},
		TypedExtensionProtocolOptions: map[string]*anypb.Any{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": bootAny(xdsProtocol()),
		},
	}
	if !o.plaintext() {
		c.TransportSocket = &corev3.TransportSocket{
			Name:       "envoy.transport_sockets.tls",
			ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: bootAny(xdsTLS(o))},
		}
	}
	return c
}

func xdsProtocol() *httpv3.HttpProtocolOptions {
	return &httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
						InitialStreamWindowSize:     wrapperspb.UInt32(xdsStreamWindow),
						InitialConnectionWindowSize: wrapperspb.UInt32(xdsConnectionWindow),
						ConnectionKeepalive: &corev3.KeepaliveSettings{
							Interval: durationpb.New(30 * time.Second),
							Timeout:  durationpb.New(5 * time.Second),
						},
					},
				},
			},
		},
	}
}

func xdsTLS(o Options) *tlsv3.UpstreamTlsContext {
	identity := "spiffe://" + o.Mesh.TrustDomain + "/ns/" + o.ControlPlaneNamespace + "/sa/istio-pilot-service-account"
	return &tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{fileSecret("default", o.ConfigPath+"/default.json")},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext: &tlsv3.CertificateValidationContext{
					MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
						SanType: tlsv3.SubjectAltNameMatcher_URI,
						Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: identity}},
					}},
				},
				ValidationContextSdsSecretConfig: fileSecret("ROOTCA", o.ConfigPath+"/rootca.json"),
			},
		},
	}}
}

func fileSecret(name, path string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_PathConfigSource{
			PathConfigSource: &corev3.PathConfigSource{Path: path},
		},
		ResourceApiVersion: corev3.ApiVersion_V3,
	}}
}

// bootSecretFile is a DiscoveryResponse, written without its type because
// that type's package needs gRPC.
func bootSecretFile(secret *tlsv3.Secret) []byte {
	body, _ := protojson.MarshalOptions{UseProtoNames: true}.Marshal(bootAny(secret))
	return indented([]byte(`{"resources":[` + string(body) + `]}`))
}

// bootFile goes through the link that a rotation renames, so that the pair is
// always read from one version.
func bootFile(file string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{
		Filename: path.Join(path.Dir(file), "..data", path.Base(file)),
	}}
}

func bootAddress(host string, port uint16) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       host,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}

// bootAny and bootJSON do not fail on valid UTF-8, which is all that
// meshconfig lets through.
func bootAny(m proto.Message) *anypb.Any {
	body, _ := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: body}
}

func bootJSON(m proto.Message) []byte {
	compact, _ := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	return indented(compact)
}

// indented undoes protojson's deliberately unstable white space.
func indented(compact []byte) []byte {
	var out bytes.Buffer
	_ = json.Indent(&out, compact, "", "  ")
	out.WriteByte('\n')
	return out.Bytes()
}

func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }

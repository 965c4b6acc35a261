// Package bootstrap makes the file that one workload's Envoy starts with: who
// it is, and how it reaches the control plane, from which it gets all else.
package bootstrap

import (
	"fmt"
	"net"
	"path"
	"strconv"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	connlimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meshpilot/pilot/pkg/model"
)

const (
	// bootCluster is the static cluster to the control plane.
	bootCluster      = "xds-grpc"
	plaintextXDSPort = 15010

	// A mesh-wide push is megabytes: with Envoy's default windows of 64 kB it
	// would crawl over any link with latency.
	xdsStreamWindow     = 16 << 20
	xdsConnectionWindow = 24 << 20
	maxDownstream       = 50_000
)

// Options is all that one workload's Envoy bootstrap depends on.
type Options struct {
	Proxy model.Proxy
	Mesh  *model.Mesh
	// AdminAddress and AdminPort default to 127.0.0.1 and proxyAdminPort;
	// several Envoys on one host need their own.
	AdminAddress string
	AdminPort    uint16
	// StatusPort shows ReadyPath on all addresses; 0 is none.
	StatusPort uint16
	// DiscoveryAddress is host:port; empty is the mesh's. Port 15010 is
	// plaintext, any other mutual TLS.
	DiscoveryAddress string
	// ControlPlaneNamespace is part of the identity that the control plane must
	// prove; empty is istio-system.
	ControlPlaneNamespace string
	// ConfigPath is the directory of SecretFiles; empty is the mesh's.
	ConfigPath string
	// StatsInterval is how often the control plane is told which connections
	// are open; zero is 5 s.
	StatsInterval time.Duration
	// AllStats keeps every stat of Envoy, and sends all that are in use.
	AllStats bool
}

// NodeID is the node id of a sidecar, "sidecar~<ip>~<pod>.<ns>~<ns>.svc.<domain>".
func NodeID(p model.Proxy, domain string) string {
	kind := "sidecar"
	if p.Type == model.Router {
		kind = "router"
	}
	return fmt.Sprintf("%s~%s~%s.%s~%s.svc.%s", kind, p.Address, p.ID.Name, p.ID.Namespace, p.ID.Namespace, domain)
}

// Config is the Envoy bootstrap of one workload, as JSON.
func Config(o Options) []byte {
	o = o.withDefaults()
	clusters, listeners := staticResources(o)
	return bootJSON(&bootstrapv3.Bootstrap{
		StatsSinks:         []*metricsv3.StatsSink{statsSink()},
		StatsConfig:        statsConfig(o.AllStats),
		StatsFlushInterval: durationpb.New(o.StatsInterval),
		Node: &corev3.Node{
			Id:       NodeID(o.Proxy, o.Mesh.Domain),
			Cluster:  o.Mesh.ServiceCluster,
			Metadata: nodeMetadata(o.Proxy),
		},
		Admin: &bootstrapv3.Admin{Address: bootAddress(o.AdminAddress, o.AdminPort)},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			AdsConfig: &corev3.ApiConfigSource{
				ApiType:                   corev3.ApiConfigSource_DELTA_GRPC,
				TransportApiVersion:       corev3.ApiVersion_V3,
				SetNodeOnFirstMessageOnly: true,
				GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
					EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: bootCluster},
				}}},
			},
			CdsConfig: adsForever(),
			LdsConfig: adsForever(),
		},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{
			Clusters: clusters, Listeners: listeners,
		},
		LayeredRuntime: &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
			Name:           "admin",
			LayerSpecifier: &bootstrapv3.RuntimeLayer_AdminLayer_{AdminLayer: &bootstrapv3.RuntimeLayer_AdminLayer{}},
		}}},
		OverloadManager: &overloadv3.OverloadManager{ResourceMonitors: []*overloadv3.ResourceMonitor{{
			Name: "envoy.resource_monitors.global_downstream_max_connections",
			ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: bootAny(&connlimitv3.DownstreamConnectionsConfig{
				MaxActiveDownstreamConnections: maxDownstream,
			})},
		}}},
	})
}

// SecretFiles are the files that the bootstrap's own connection to the
// control plane reads its secrets from, by path; none if it is plaintext.
// Envoy watches the key pair through them and takes a rotated one.
func SecretFiles(o Options) map[string][]byte {
	o = o.withDefaults()
	if o.plaintext() {
		return nil
	}
	chain, key, root := o.certificatePaths()
	return map[string][]byte{
		o.ConfigPath + "/default.json": bootSecretFile(&tlsv3.Secret{
			Name: "default",
			Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
				CertificateChain: bootFile(chain),
				PrivateKey:       bootFile(key),
				WatchedDirectory: &corev3.WatchedDirectory{Path: path.Dir(chain)},
			}},
		}),
		o.ConfigPath + "/rootca.json": bootSecretFile(&tlsv3.Secret{
			Name: "ROOTCA",
			Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa:        bootFile(root),
				WatchedDirectory: &corev3.WatchedDirectory{Path: path.Dir(root)},
			}},
		}),
	}
}

// EnvoyArgs are the command-line flags that the mesh configuration decides.
// Connections of removed filter chains live exactly the drain time.
func EnvoyArgs(m *model.Mesh) []string {
	args := []string{
		"--drain-strategy", "immediate",
		"--drain-time-s", seconds(m.DrainDuration),
		"--parent-shutdown-time-s", seconds(m.ParentShutdown),
	}
	if m.Concurrency > 0 {
		args = append(args, "--concurrency", strconv.Itoa(m.Concurrency))
	}
	return args
}

func (o Options) withDefaults() Options {
	if o.AdminAddress == "" {
		o.AdminAddress = "127.0.0.1"
	}
	if o.AdminPort == 0 {
		o.AdminPort = o.Mesh.AdminPort
	}
	if o.DiscoveryAddress == "" {
		o.DiscoveryAddress = o.Mesh.DiscoveryAddress
	}
	if o.ControlPlaneNamespace == "" {
		o.ControlPlaneNamespace = "istio-system"
	}
	if o.ConfigPath == "" {
		o.ConfigPath = o.Mesh.ConfigPath
	}
	if o.StatsInterval == 0 {
		o.StatsInterval = statsInterval
	}
	return o
}

func (o Options) discovery() (host string, port uint16) {
	host, text, err := net.SplitHostPort(o.DiscoveryAddress)
	n, portErr := strconv.ParseUint(text, 10, 16)
	if err != nil || portErr != nil {
		return o.DiscoveryAddress, 0 // refused by meshconfig; Envoy names it
	}
	return host, uint16(n)
}

func (o Options) plaintext() bool {
	_, port := o.discovery()
	return port == plaintextXDSPort
}

func (o Options) certificatePaths() (chain, key, root string) {
	l := o.Proxy.Local
	chain, key, root = l.CertChain, l.Key, l.RootCert
	if chain == "" {
		chain = "/etc/certs/cert-chain.pem"
	}
	if key == "" {
		key = "/etc/certs/key.pem"
	}
	if root == "" {
		root = "/etc/certs/root-cert.pem"
	}
	return chain, key, root
}

func nodeMetadata(p model.Proxy) *structpb.Struct {
	fields := map[string]*structpb.Value{}
	set := func(name, value string) {
		if value != "" {
			fields[name] = structpb.NewStringValue(value)
		}
	}
	if p.Capture != nil {
		set("INTERCEPTION_MODE", p.Capture.String())
	}
	set("TLS_SERVER_CERT_CHAIN", p.Local.CertChain)
	set("TLS_SERVER_KEY", p.Local.Key)
	set("TLS_SERVER_ROOT_CERT", p.Local.RootCert)
	set("APP_ADDRESS", p.Local.AppAddress)
	fields["TRAFFIC_STATS"] = structpb.NewBoolValue(true) // statsConfig leaves none out
	return &structpb.Struct{Fields: fields}
}

// adsForever waits for the control plane without a limit: an Envoy that gave
// up would report ready with no listener.
func adsForever() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
		InitialFetchTimeout:   durationpb.New(0),
	}
}

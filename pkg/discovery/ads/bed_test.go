package ads

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshpilot/pilot/internal/fakeenvoy"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

// bed is a store behind a real gRPC server, in a bubble of fake time.
type bed struct {
	t      *testing.T
	store  *Store
	listen *bufconn.Listener
	conns  []*grpc.ClientConn

	mu     sync.Mutex
	events []Event
}

// inBed runs a test with a bed and takes it down.
func inBed(t *testing.T, o StoreOptions, test func(t *testing.T, b *bed)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bed{t: t, listen: bufconn.Listen(64 << 10)}
		o.Identify = identify
		o.Notify = func(e Event) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.events = append(b.events, e)
		}
		b.store = NewStore(o)
		server := grpc.NewServer(ServerOptions()...)
		b.store.Register(server)
		served := make(chan error)
		go func() { served <- server.Serve(b.listen) }()
		defer func() {
			b.store.Close()
			for _, conn := range b.conns {
				conn.Close()
			}
			server.Stop()
			<-served
			synctest.Wait()
			if len(b.store.streams) > 0 || b.store.workers > 0 {
				t.Errorf("%d streams and %d workers are left", len(b.store.streams), b.store.workers)
			}
		}()
		test(t, b)
	})
}

// identify reads nodes called "namespace/name".
func identify(_ context.Context, node *corev3.Node) (model.Proxy, error) {
	namespace, name, ok := strings.Cut(node.GetId(), "/")
	if !ok {
		return model.Proxy{}, status.Error(codes.InvalidArgument, "missing parts in the service node")
	}
	return model.Proxy{ID: model.WorkloadID{Namespace: namespace, Name: name}}, nil
}

func (b *bed) conn(options ...grpc.DialOption) *grpc.ClientConn {
	b.t.Helper()
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return b.listen.DialContext(ctx) }))
	conn, err := grpc.NewClient("passthrough:bed", options...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.conns = append(b.conns, conn)
	return conn
}

// envoy connects a well-behaved proxy and waits until all is quiet.
func (b *bed) envoy(o fakeenvoy.Options, node string) *fakeenvoy.Envoy {
	b.t.Helper()
	o.Node = &corev3.Node{Id: node}
	e, err := fakeenvoy.Connect(b.t.Context(), b.conn(), o)
	if err != nil {
		b.t.Fatal(err)
	}
	synctest.Wait()
	return e
}

func (b *bed) apply(m mesh) {
	b.store.Apply(m.world())
	synctest.Wait()
}

// count is the number of events of a kind about a type.
func (b *bed) count(kind EventKind, url string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, e := range b.events {
		if e.Kind == kind && e.TypeURL == url {
			n++
		}
	}
	return n
}

// last is the last event of a kind.
func (b *bed) last(kind EventKind) Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range slices.Backward(b.events) {
		if e.Kind == kind {
			return e
		}
	}
	b.t.Helper()
	b.t.Fatalf("no event of kind %d", kind)
	return Event{}
}

// mesh is a World in short: names and, for each, the content's variant.
type mesh struct {
	client   map[string]content // by namespace
	server   content            // of every workload
	needs    bool
	dir      string // of the secrets' files
	unknown  bool   // no workload is known
	noServer bool   // its class is not computed
}

// content are resources by name, with what tells their versions apart.
type content struct{ clusters, endpoints, listeners, routes map[string]string }

type set = map[string]string

func simple() mesh {
	return mesh{
		client: map[string]content{
			"a": {
				clusters: set{"out-1": "eds", "out-2": "eds", "static": "v1"}, endpoints: set{"out-1": "v1", "out-2": "v1", "other": "v1"},
				listeners: set{"l-80": "rds 80", "l-tcp": "v1"}, routes: set{"80": "v1"},
			},
			"b": {clusters: set{"out-1": "eds", "only-b": "v1"}, listeners: set{"l-80": "rds 80"}, routes: set{"80": "b"}},
		},
		server: content{
			clusters: set{"in-8080": "v1", "sds-resident": "tls"}, listeners: set{"virtualInbound": "rds in|8080"}, routes: set{"in|8080": "v1"},
		},
	}
}

// edited is m with one resource of a client half changed; an empty variant
// removes it.
func (m mesh) edited(namespace string, url, name, variant string) mesh {
	m.client = maps.Clone(m.client)
	c := m.client[namespace]
	field := map[string]*map[string]string{
		translate.ClusterType: &c.clusters, translate.EndpointType: &c.endpoints,
		translate.ListenerType: &c.listeners, translate.RouteType: &c.routes,
	}[url]
	*field = maps.Clone(*field)
	if variant == "" {
		delete(*field, name)
	} else {
		(*field)[name] = variant
	}
	m.client[namespace] = c
	return m
}

func (m mesh) world() *World {
	w := &World{Client: map[model.ClientClass]*translate.Half{}, Server: map[model.ServerClass]*translate.Half{}}
	var in model.Inputs
	for _, id := range []model.WorkloadID{{Namespace: "a", Name: "1"}, {Namespace: "a", Name: "2"}, {Namespace: "b", Name: "1"}} {
		if !m.unknown {
			in.Workloads = append(in.Workloads, model.Workload{ID: id, ServiceAccount: id.Name, Sidecar: true})
		}
	}
	w.Snapshot = model.Build(in)
	all := set{}
	for _, workload := range in.Workloads {
		client, server, _ := w.Snapshot.ClassOf(model.Proxy{ID: workload.ID})
		c := m.client[workload.ID.Namespace]
		maps.Copy(all, c.endpoints)
		w.Client[client] = &translate.Half{
			Secrets: table(secrets, nil), SecretsRespelled: table(secrets, nil), Clusters: table(clusters, c.clusters),
			Listeners: table(listeners, c.listeners), Routes: table(routes, c.routes), NeedsSecrets: m.needs,
		}
		if m.noServer {
			continue
		}
		w.Server[server] = &translate.Half{
			Secrets:          table(secrets, set{"default": m.dir, "ROOTCA": m.dir}),
			SecretsRespelled: table(secrets, set{"default": m.dir + "/.", "ROOTCA": m.dir + "/."}),
			Clusters:         table(clusters, m.server.clusters), Listeners: table(listeners, m.server.listeners),
			Routes: table(routes, m.server.routes), Resident: table(clusters, set{"sds-resident": "tls"}),
		}
	}
	w.Endpoints = table(endpoints, all)
	return w
}

func table(k kind, content set) *translate.Table {
	t := &translate.Table{}
	hash := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(content)) {
		body, err := anypb.New(message(k, name, content[name]))
		if err != nil {
			panic(err)
		}
		if body.Value, err = (proto.MarshalOptions{Deterministic: true}).Marshal(message(k, name, content[name])); err != nil {
			panic(err)
		}
		r := &translate.Resource{Name: name, Version: digest(body.Value), Body: body}
		fmt.Fprintln(hash, name, r.Version)
		t.Resources = append(t.Resources, r)
	}
	t.Version = hex.EncodeToString(hash.Sum(nil)[:8])
	return t
}

func digest(bytes []byte) string {
	sum := sha256.Sum256(bytes)
	return hex.EncodeToString(sum[:8])
}

// message is a resource of which only references and name are real.
func message(k kind, name, variant string) proto.Message {
	switch k {
	case clusters:
		c := &clusterv3.Cluster{Name: name, AltStatName: variant}
		if strings.HasPrefix(variant, "eds") {
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
		}
		if strings.HasPrefix(variant, "tls") {
			c.TransportSocket = &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(&tlsv3.UpstreamTlsContext{
				CommonTlsContext: &tlsv3.CommonTlsContext{TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: "default"}, {Name: "ROOTCA"}}},
			})}}
		}
		return c
	case endpoints:
		return &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{Locality: &corev3.Locality{Region: variant}}}}
	case listeners:
		l := &listenerv3.Listener{Name: name, StatPrefix: variant}
		if route, ok := strings.CutPrefix(variant, "rds "); ok {
			l.FilterChains = []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{Name: "hcm", ConfigType: &listenerv3.Filter_TypedConfig{
				TypedConfig: pack(&hcmv3.HttpConnectionManager{RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: strings.Fields(route)[0]}}}),
			}}}}}
		}
		return l
	case routes:
		return &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{{Name: variant}}}
	default:
		return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			WatchedDirectory: &corev3.WatchedDirectory{Path: "dir" + variant},
		}}}
	}
}

func pack(m proto.Message) *anypb.Any {
	packed, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return packed
}

// pass lets fake time go by.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// trace is what responses said, one line each: "CDS out-1 out-2 -gone".
func trace(responses []fakeenvoy.Response) []string {
	short := map[string]string{
		translate.SecretType: "SDS", translate.ClusterType: "CDS", translate.EndpointType: "EDS",
		translate.ListenerType: "LDS", translate.RouteType: "RDS",
	}
	var lines []string
	for _, r := range responses {
		line := short[r.TypeURL]
		for _, name := range slices.Sorted(maps.Keys(r.Resources)) {
			line += " " + name
		}
		for _, name := range slices.Sorted(slices.Values(r.Removed)) {
			line += " -" + name
		}
		lines = append(lines, line)
	}
	return lines
}

// sinceThen gives what a proxy was sent since its last call.
func sinceThen(e *fakeenvoy.Envoy) func() []string {
	seen := 0
	return func() []string {
		synctest.Wait()
		responses := e.Responses()
		defer func() { seen = len(responses) }()
		return trace(responses[seen:])
	}
}

func equal(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got  %s\n want %s", what, strings.Join(got, "\n      "), strings.Join(want, "\n      "))
	}
}

// classOf is the client class of a namespace.
func classOf(namespace string) model.ClientClass { return model.ClientClass{Namespace: namespace} }

// anyServer is a server half; in a bed all are alike.
func anyServer(b *bed) *translate.Half {
	for _, half := range b.store.generation.Load().world.Server {
		return half
	}
	b.t.Fatal("no server half")
	return nil
}

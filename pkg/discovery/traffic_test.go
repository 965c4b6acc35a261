package discovery

import (
	"context"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/discovery/traffic"
)

// teller is a sidecar of the cart that tells of plaintext.
func (h *hub) teller(t *testing.T) func(peer string) {
	t.Helper()
	listen := bufconn.Listen(1 << 16)
	server := grpc.NewServer(ads.ServerOptions()...)
	h.feed.Register(server)
	served := make(chan error)
	go func() { served <- server.Serve(listen) }()
	conn, err := grpc.NewClient("passthrough:bed", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listen.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); server.Stop(); <-served })
	stream, err := alsv3.NewAccessLogServiceClient(conn).StreamAccessLogs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	address := func(ip string, port uint32) *corev3.Address {
		return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
		}}}
	}
	return func(peer string) {
		t.Helper()
		if err := stream.Send(&alsv3.StreamAccessLogsMessage{
			Identifier: &alsv3.StreamAccessLogsMessage_Identifier{
				Node: &corev3.Node{Id: "sidecar~127.0.0.1~cart-1.shop~shop.svc.cluster.local"}, LogName: "plain",
			},
			LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{
				LogEntry: []*datav3.HTTPAccessLogEntry{{CommonProperties: &datav3.AccessLogCommon{
					DownstreamDirectRemoteAddress: address(peer, 1234), DownstreamLocalAddress: address("127.0.0.1", 8080),
					AccessLogType: datav3.AccessLogType_DownstreamStart,
				}}},
			}},
		}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
	}
}

const permissiveCart = `---
apiVersion: authentication.istio.io/v1alpha1
kind: Policy
metadata: {name: permissive, namespace: shop}
spec: {targets: [{name: cart}], peers: [{mtls: {mode: PERMISSIVE}}]}
`

// A client that is told to send mTLS, and sends plaintext all the same, calls
// pods by their addresses; one without a sidecar does not, nor one that has
// not followed yet.
func TestPodCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := loop(t)
		h.publish(bundle(t, shop, permissiveCart), nil)
		synctest.Wait()
		tell := h.teller(t)
		at := func(wait time.Duration, want string) {
			t.Helper()
			time.Sleep(wait)
			synctest.Wait()
			if got := problemCodes(h); strings.Contains(got, "POD_IP_CALL") != (want != "") {
				t.Errorf("problems: %s, want %q", got, want)
			}
		}
		tell("127.0.0.2")
		at(20*time.Second, "")
		tell("127.0.0.2")
		at(20*time.Second, "") // no sidecar
		h.connects(7, "store", "stock-1", "127.0.0.2")
		at(time.Second, "")
		tell("127.0.0.2")
		at(15*time.Second, "") // it may not have followed
		tell("127.0.0.2")
		at(15*time.Second, "POD_IP_CALL")
		for _, f := range h.published.Load().Findings {
			const want = "it calls port 8080 of shop/cart-1 by the pod's address, so in plaintext, which is served there as long as the port takes plaintext; " +
				"by the name cart.shop.svc.cluster.local:80 it would use mutual TLS"
			if f.Code == "POD_IP_CALL" && (f.Message != want || f.On.String() != "Proxy store/stock-1") {
				t.Errorf("got %s: %s", f.On, f.Message)
			}
		}
		at(11*time.Minute, "") // it stopped
		tell("127.0.0.2")
		h.publish(bundle(t, shop), nil)
		at(30*time.Second, "") // nobody is told to send mTLS
		tell("127.0.0.2")
		at(30*time.Second, "")
	})
}

func TestTrafficPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := loop(t)
		h.publish(bundle(t, shop), nil)
		synctest.Wait()
		tell := h.teller(t)
		tell("127.0.0.2")
		tell("9.9.9.9")
		got := traffic.Page(h.feed, h.snapshot.Load())
		if len(got) != 1 || got[0].Workload != "cart-1" || len(got[0].Ports) != 1 || got[0].Complete || got[0].Ports[0].Plain.Known {
			t.Fatalf("got %+v", got)
		}
		peers := got[0].Ports[0].Peers
		if len(peers) != 2 || peers[0].Workload != "" || peers[1].Workload != "store/stock-1" || peers[1].Kind != "plain" || peers[1].Count != 1 {
			t.Errorf("got %+v", peers)
		}
	})
}

// Evidence of a workload comes from whom its configuration goes to, and from
// nobody else.
func TestCertificatesDecideWhoTells(t *testing.T) {
	c := newCallers(t)
	inMesh(t, c.server, func(m *mesh) {
		m.edit(shop)
		// told is how the stream stands after a record of 10.0.0.9.
		told := func(creds credentials.TransportCredentials, wait time.Duration) error {
			t.Helper()
			conn, err := grpc.NewClient("passthrough:pilot", grpc.WithTransportCredentials(creds),
				grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return m.listen.DialContext(ctx) }))
			if err != nil {
				t.Fatal(err)
			}
			m.conns = append(m.conns, conn)
			stream, err := alsv3.NewAccessLogServiceClient(conn).StreamAccessLogs(m.t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- stream.RecvMsg(&alsv3.StreamAccessLogsResponse{}) }()
			for range 2 {
				if err := stream.Send(&alsv3.StreamAccessLogsMessage{Identifier: &alsv3.StreamAccessLogsMessage_Identifier{
					Node: &corev3.Node{Id: cartNode}, LogName: "plain",
				}}); err != nil {
					break // RecvMsg says why
				}
				time.Sleep(wait)
				synctest.Wait()
			}
			synctest.Wait() // a refused Send came before what RecvMsg says
			select {
			case err := <-ended:
				return err
			default:
				return nil
			}
		}
		if err := told(c.as("shop", "cart", time.Hour), time.Second); err != nil {
			t.Errorf("its own identity: %v", err)
		}
		for _, account := range []string{"stock", "default"} {
			want := "identity spiffe://cluster.local/ns/shop/sa/" + account + " may not act for node " + cartNode
			if got := status.Convert(told(c.as("shop", account, time.Hour), time.Second)); got.Code() != codes.PermissionDenied || got.Message() != want {
				t.Errorf("%s: got %v", account, got)
			}
		}
		if err := told(c.as("shop", "cart", time.Minute), 2*time.Minute); status.Code(err) != codes.PermissionDenied {
			t.Errorf("with an expired certificate: %v", err)
		}
		if err := told(c.stranger(), time.Second); status.Code(err) != codes.Unauthenticated {
			t.Errorf("without a certificate: %v", err)
		}
	})
}

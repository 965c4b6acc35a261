package discovery

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/meshpilot/pilot/internal/fakeenvoy"
	"github.com/meshpilot/pilot/pkg/discovery/ads"
	pages "github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/discovery/tlsport"
	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/identity/csr"
	"github.com/meshpilot/pilot/pkg/identity/inspect"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/translate"
)

const (
	cartNode  = "sidecar~127.0.0.1~cart-1.shop~shop.svc.cluster.local"
	stockNode = "sidecar~127.0.0.2~stock-1.store~store.svc.cluster.local"

	cartCluster = "outbound|80||cart.shop.svc.cluster.local"
)

// mesh is a hub behind a real gRPC server, in a bubble of fake time.
type mesh struct {
	t      *testing.T
	hub    *hub
	ca     *identity.CA  // nil in plaintext
	port   *tlsport.Port // nil in plaintext
	listen *bufconn.Listener
	conns  []*grpc.ClientConn
}

// inMesh runs a test and takes the mesh down. With a CA it serves TLS, and
// certificate requests.
func inMesh(t *testing.T, ca func() *identity.CA, test func(m *mesh)) {
	t.Helper()
	inMeshWithTokens(t, ca, nil, test)
}

func inMeshWithTokens(t *testing.T, ca func() *identity.CA, tokens *csr.TokenFile, test func(m *mesh)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := &mesh{t: t, hub: loop(t), listen: bufconn.Listen(64 << 10)}
		options := ads.ServerOptions()
		if ca != nil {
			m.ca = ca()
			m.port = newPort(m.ca, "istio-system", identity.DefaultGraceRatio, m.hub)
			options = append(options, m.port.ServerOptions()...)
		}
		server := grpc.NewServer(options...)
		m.hub.store.Register(server)
		m.hub.feed.Register(server)
		if ca != nil {
			csr.New(signerOptions(m.ca, m.port, tokens, m.hub)).Register(server)
		}
		served := make(chan error)
		go func() { served <- server.Serve(m.listen) }()
		test(m)
		m.hub.store.Close()
		m.hub.feed.Close()
		for _, conn := range m.conns {
			conn.Close()
		}
		server.Stop()
		<-served
	})
}

// envoy connects a proxy and waits until it has what it gets at once.
func (m *mesh) envoy(node string, o fakeenvoy.Options, creds credentials.TransportCredentials) *fakeenvoy.Envoy {
	m.t.Helper()
	conn, err := grpc.NewClient("passthrough:pilot", grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return m.listen.DialContext(ctx) }))
	if err != nil {
		m.t.Fatal(err)
	}
	m.conns = append(m.conns, conn)
	o.Node = &corev3.Node{Id: node}
	e, err := fakeenvoy.Connect(m.t.Context(), conn, o)
	if err != nil {
		m.t.Fatal(err)
	}
	m.wait()
	return e
}

// wait lets everything that an edit or a connect sets off come to its end.
func (m *mesh) wait() {
	time.Sleep(2 * time.Second)
	synctest.Wait()
}

func (m *mesh) edit(documents ...string) {
	m.t.Helper()
	m.hub.publish(bundle(m.t, documents...), nil)
	m.wait()
}

func (m *mesh) problem(code string) string {
	for _, f := range m.hub.published.Load().Findings {
		if f.Code == code {
			return f.Message
		}
	}
	return ""
}

// since is what a proxy was sent after its first n responses: type and names.
func since(e *fakeenvoy.Envoy, n int) []string {
	var out []string
	for _, r := range e.Responses()[n:] {
		for name := range r.Resources {
			out = append(out, pages.TypeName(r.TypeURL)+" "+name)
		}
		for _, name := range r.Removed {
			out = append(out, pages.TypeName(r.TypeURL)+" -"+name)
		}
	}
	slices.Sort(out)
	return out
}

func TestAnEditPushesOnlyWhatItChanges(t *testing.T) {
	inMesh(t, nil, func(m *mesh) {
		m.edit(shop)
		cart := m.envoy(cartNode, fakeenvoy.Options{}, insecure.NewCredentials())
		stock := m.envoy(stockNode, fakeenvoy.Options{SotW: true}, insecure.NewCredentials())
		if len(cart.Names(translate.ListenerType)) == 0 || len(stock.Names(translate.ListenerType)) == 0 {
			t.Fatal("no listeners")
		}
		atCart, atStock := len(cart.Responses()), len(stock.Responses())
		m.edit(shop)
		if more := len(cart.Responses()) + len(stock.Responses()) - atCart - atStock; more != 0 {
			t.Errorf("the same configuration was sent in %d responses", more)
		}
		m.edit(shop, strictCart)
		want := []string{"CDS " + cartCluster, "EDS " + cartCluster, "LDS virtualInbound", "RDS inbound|8080|refuse|"}
		if got := since(cart, atCart); !slices.Equal(got, want) {
			t.Errorf("the server was sent %q, want %q", got, want)
		}
		for _, sent := range since(stock, atStock) {
			if strings.HasPrefix(sent, "LDS") || strings.HasPrefix(sent, "RDS") || strings.HasPrefix(sent, "SDS") {
				t.Errorf("the client was sent %s", sent)
			}
		}
		edits := m.hub.published.Load().Edits
		last := edits[len(edits)-1]
		if !last.Done || last.Pushes < 5 || last.LastACK.Before(last.Applied) || last.Refused != 0 {
			t.Errorf("got %+v, want it done after both proxies' answers", last)
		}
		if same := edits[len(edits)-2]; !same.Done || same.Pushes != 0 {
			t.Errorf("got %+v, want an edit without pushes", same)
		}
	})
}

func TestAWorkloadThatBecomesKnownIsServed(t *testing.T) {
	inMesh(t, nil, func(m *mesh) {
		early := m.envoy(cartNode, fakeenvoy.Options{}, insecure.NewCredentials())
		if n := len(early.Responses()); n != 0 {
			t.Fatalf("%d responses before any configuration", n)
		}
		m.edit(strings.ReplaceAll(shop, "cart-1", "cart-9"))
		time.Sleep(unknownGrace)
		m.wait()
		if n := len(early.Responses()); n != 0 || m.problem("UNKNOWN_WORKLOAD") == "" {
			t.Errorf("%d responses, problems %q", n, problemCodes(m.hub))
		}
		m.edit(shop)
		if len(early.Names(translate.ListenerType)) == 0 || m.problem("UNKNOWN_WORKLOAD") != "" {
			t.Errorf("listeners %q, problems %q", early.Names(translate.ListenerType), problemCodes(m.hub))
		}
	})
}

func TestABadObjectDoesNotStopTheRest(t *testing.T) {
	inMesh(t, nil, func(m *mesh) {
		m.edit(shop)
		cart := m.envoy(cartNode, fakeenvoy.Options{}, insecure.NewCredentials())
		before := len(cart.Responses())
		broken := strings.ReplaceAll(strings.ReplaceAll(strictCart, "strict", "broken"), "peers", "piers")
		b, problems := meshconfig.Decode(strings.NewReader(shop+strictCart+broken), "test.yaml")
		m.hub.publish(b, problems)
		m.wait()
		if !slices.Contains(since(cart, before), "LDS virtualInbound") || m.problem("INVALID") == "" {
			t.Errorf("sent %q, problems %s", since(cart, before), problemCodes(m.hub))
		}
	})
}

func TestANACKIsReportedUntilItIsMended(t *testing.T) {
	inMesh(t, nil, func(m *mesh) {
		m.edit(shop)
		refuse := false
		cart := m.envoy(cartNode, fakeenvoy.Options{Refuse: func(r fakeenvoy.Response) string {
			if _, ok := r.Resources["virtualInbound"]; ok && refuse {
				return "Error adding/updating listener(s) virtualInbound: no\n"
			}
			return ""
		}}, insecure.NewCredentials())
		refuse = true
		m.edit(shop, strictCart)
		text := m.problem("NACK")
		if !strings.Contains(text, "refused LDS") || !strings.HasSuffix(text, "virtualInbound: no (made from Service shop/cart, Policy shop/strict)") {
			t.Errorf("got %q", text)
		}
		refused := len(cart.Responses())
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(cart.Responses()); n != refused {
			t.Errorf("%d responses after the refusal", n-refused)
		}
		refuse = false
		m.edit(shop)
		m.edit(shop, strings.ReplaceAll(strictCart, "mtls: {}", "mtls: {mode: PERMISSIVE}"))
		if text := m.problem("NACK"); text != "" {
			t.Errorf("still reported: %s", text)
		}
	})
}

// callers are the TLS sides of proxies with certificates of one CA.
type callers struct {
	t  *testing.T
	ca *identity.CA
}

func newCallers(t *testing.T) *callers { return &callers{t: t} }

func (c *callers) server() *identity.CA {
	var err error
	if c.ca, err = identity.NewCA(identity.DefaultOrg, identity.DefaultRootTTL); err != nil {
		c.t.Fatal(err)
	}
	return c.ca
}

func (c *callers) leaf(namespace, account string, ttl time.Duration) tls.Certificate {
	pair, err := c.ca.Issue(identity.URI("cluster.local", namespace, account), ttl)
	if err != nil {
		c.t.Fatal(err)
	}
	leaf, err := tls.X509KeyPair(pair.CertChain, pair.Key)
	if err != nil {
		c.t.Fatal(err)
	}
	return leaf
}

func (c *callers) as(namespace, account string, ttl time.Duration) credentials.TransportCredentials {
	leaf := c.leaf(namespace, account, ttl)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.ca.Roots())
	return credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{leaf}, RootCAs: roots, ServerName: "istio-pilot.istio-system.svc"})
}

func TestCertificatesDecideWhoGetsIn(t *testing.T) {
	c := newCallers(t)
	inMesh(t, c.server, func(m *mesh) {
		m.edit(shop)
		if own := m.envoy(cartNode, fakeenvoy.Options{}, c.as("shop", "cart", time.Hour)); len(own.Names(translate.ListenerType)) == 0 {
			t.Fatalf("the own identity got nothing: %v", own.Err())
		}
		for _, account := range []string{"stock", "default"} {
			other := m.envoy(cartNode, fakeenvoy.Options{}, c.as("shop", account, time.Hour))
			want := "identity spiffe://cluster.local/ns/shop/sa/" + account + " may not act for node " + cartNode
			if got := status.Convert(other.Err()); got.Code() != codes.PermissionDenied || got.Message() != want || len(other.Responses()) > 0 {
				t.Errorf("got %v", got)
			}
		}
		proxies := m.hub.proxies()
		if len(proxies) != 1 || proxies[0].Identity != "spiffe://cluster.local/ns/shop/sa/cart" || proxies[0].Workload != "shop/cart-1" {
			t.Errorf("got %+v", proxies)
		}
	})
}

// The page shows who holds which certificate, and no key.
func TestCertificatesAreShown(t *testing.T) {
	c := newCallers(t)
	inMesh(t, c.server, func(m *mesh) {
		m.edit(shop)
		m.envoy(cartNode, fakeenvoy.Options{}, c.as("shop", "cart", time.Hour))
		shown := (&Server{hub: m.hub, port: m.port, options: Options{CA: m.ca}}).certificates()
		if len(shown) != 2 || shown[1].Name != "proxy shop/cart-1" || shown[1].Identity != "spiffe://cluster.local/ns/shop/sa/cart" || shown[1].Serial == "" {
			t.Fatalf("got %+v", shown)
		}
		report := inspect.Judge(inspect.Sets(shown), inspect.Rules{Now: time.Now(), Ratio: 0.5})
		for _, h := range report.Holders {
			if len(h.Problems) > 0 {
				t.Errorf("%s: %+v", h.Name, h.Problems)
			}
		}
		if text := fmt.Sprintf("%+v", shown); strings.Contains(text, "PRIVATE") || strings.Count(text, "BEGIN CERTIFICATE") != 3 {
			t.Errorf("want two leaves and a root, got %s", text)
		}
		if plain := (&Server{hub: m.hub}).certificates(); plain != nil {
			t.Errorf("without TLS: %+v", plain)
		}
	})
}

func TestAnExpiredCertificateEndsTheStream(t *testing.T) {
	c := newCallers(t)
	inMesh(t, c.server, func(m *mesh) {
		var log strings.Builder
		m.hub.log = slog.New(slog.NewTextHandler(&log, nil))
		m.edit(shop)
		e := m.envoy(cartNode, fakeenvoy.Options{}, c.as("shop", "cart", time.Minute))
		time.Sleep(50 * time.Second)
		synctest.Wait()
		if e.Err() != nil {
			t.Fatalf("too early: %v", e.Err())
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := status.Convert(e.Err()); got.Code() != codes.PermissionDenied || !strings.Contains(got.Message(), "its certificate has expired at ") {
			t.Errorf("got %v", got)
		}
		if got := log.String(); !strings.Contains(got, "level=INFO msg=\"stream ended, as its certificate did\"") || strings.Contains(got, "WARN") {
			t.Errorf("an expiry is normal, but the log says\n%s", got)
		}
		refused := m.hub.metrics.Refused
		if denied, expired := testutil.ToFloat64(refused.WithLabelValues("PermissionDenied")), testutil.ToFloat64(refused.WithLabelValues(expiredCode)); denied != 0 || expired != 1 {
			t.Errorf("counted %v as denied and %v as expired, want 0 and 1", denied, expired)
		}
	})
}

// Envoy opens its next stream on the connection that it has. One whose
// certificate is over must go, or Envoy never shows the new one.
func TestAConnectionWithAnExpiredCertificateIsClosed(t *testing.T) {
	c := newCallers(t)
	inMesh(t, c.server, func(m *mesh) {
		m.edit(shop)
		present := c.leaf("shop", "cart", time.Minute)
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(c.ca.Roots())
		first := m.envoy(cartNode, fakeenvoy.Options{}, credentials.NewTLS(&tls.Config{
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &present, nil },
			RootCAs:              roots, ServerName: "istio-pilot.istio-system.svc",
		}))
		conn := m.conns[len(m.conns)-1]
		present = c.leaf("shop", "cart", time.Hour)
		time.Sleep(time.Minute)
		synctest.Wait()
		if status.Code(first.Err()) != codes.PermissionDenied {
			t.Fatalf("the stream goes on: %v", first.Err())
		}
		for range 2 {
			next, err := fakeenvoy.Connect(m.t.Context(), conn, fakeenvoy.Options{Node: &corev3.Node{Id: cartNode}})
			if err != nil {
				t.Fatal(err)
			}
			m.wait()
			if err := next.Err(); err == nil {
				if len(next.Names(translate.ListenerType)) == 0 {
					t.Error("no listeners")
				}
				return
			}
		}
		t.Error("the connection with the expired certificate is still in use")
	})
}

func TestAWorkloadWithAnotherAccountIsAnother(t *testing.T) {
	c := newCallers(t)
	inMesh(t, c.server, func(m *mesh) {
		m.edit(strings.NewReplacer("cart-1", "cart-9", "stock-1", "stock-9").Replace(shop))
		early := m.envoy(stockNode, fakeenvoy.Options{}, c.as("store", "other", time.Hour))
		e := m.envoy(cartNode, fakeenvoy.Options{}, c.as("shop", "cart", time.Hour))
		m.edit(shop)
		if got := status.Code(early.Err()); got != codes.PermissionDenied || len(early.Responses()) > 0 {
			t.Errorf("an account that proved wrong: %v after %d responses", got, len(early.Responses()))
		}
		if e.Err() != nil || len(e.Responses()) == 0 {
			t.Fatalf("%d responses, %v", len(e.Responses()), e.Err())
		}
		before := len(e.Responses())
		m.edit(strings.ReplaceAll(shop, "serviceAccountName: cart", "serviceAccountName: trolley"))
		if got := status.Code(e.Err()); got != codes.PermissionDenied || len(e.Responses()) != before {
			t.Errorf("got %v after %d more responses", got, len(e.Responses())-before)
		}
	})
}

package discovery

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"net"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	security "istio.io/api/security/v1alpha1"

	"github.com/meshpilot/pilot/internal/fakeenvoy"
	"github.com/meshpilot/pilot/pkg/identity"
)

const cartURI = "spiffe://cluster.local/ns/shop/sa/cart"

// stranger is the TLS side of a caller that has no certificate.
func (c *callers) stranger() credentials.TransportCredentials {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.ca.Roots())
	return credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "istiod.istio-system.svc"})
}

// with is the TLS side of a caller that shows a certificate of any CA.
func (c *callers) with(ca *identity.CA, uri string, ttl time.Duration) credentials.TransportCredentials {
	c.t.Helper()
	pair, err := ca.Issue(uri, ttl)
	if err != nil {
		c.t.Fatal(err)
	}
	leaf, err := tls.X509KeyPair(pair.CertChain, pair.Key)
	if err != nil {
		c.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.ca.Roots())
	return credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{leaf}, RootCAs: roots, ServerName: "istiod.istio-system.svc"})
}

// caller asks the mesh's port for certificates over a connection of its own.
func (m *mesh) caller(creds credentials.TransportCredentials) security.IstioCertificateServiceClient {
	m.t.Helper()
	conn, err := grpc.NewClient("passthrough:pilot", grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return m.listen.DialContext(ctx) }))
	if err != nil {
		m.t.Fatal(err)
	}
	m.conns = append(m.conns, conn)
	return security.NewIstioCertificateServiceClient(conn)
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

func newKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newRSA(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// request is a CSR as PEM; change, if not nil, edits its template.
func request(t testing.TB, key crypto.Signer, change func(*x509.CertificateRequest)) string {
	t.Helper()
	var template x509.CertificateRequest
	if change != nil {
		change(&template)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return requestPEM(der)
}

func requestPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func uris(list ...string) func(*x509.CertificateRequest) {
	return func(r *x509.CertificateRequest) {
		for _, u := range list {
			parsed, _ := url.Parse(u)
			r.URIs = append(r.URIs, parsed)
		}
	}
}

func extension(t testing.TB, id asn1.ObjectIdentifier, value any) func(*x509.CertificateRequest) {
	t.Helper()
	der, err := asn1.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return func(r *x509.CertificateRequest) {
		r.ExtraExtensions = append(r.ExtraExtensions, pkix.Extension{Id: id, Value: der})
	}
}

// mismatched is a CSR for one key that another has signed.
func mismatched(t testing.TB) string {
	own, other := newKey(t, elliptic.P256()), newKey(t, elliptic.P256())
	block, _ := pem.Decode([]byte(request(t, own, nil)))
	point := func(k *ecdsa.PrivateKey) string {
		b, err := k.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	return requestPEM([]byte(strings.Replace(string(block.Bytes), point(own), point(other), 1)))
}

// TestAttacksOnTheConnection: who shows no certificate of this mesh that holds
// gets neither configuration nor a certificate.
func TestAttacksOnTheConnection(t *testing.T) {
	c := newCallers(t)
	good := request(t, newKey(t, elliptic.P256()), nil)
	inMesh(t, c.server, func(m *mesh) {
		m.edit(shop)
		other, err := identity.NewCA("other", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		expired := c.with(c.ca, cartURI, time.Minute)
		end := time.Now().Add(time.Minute)
		time.Sleep(2 * time.Minute)
		const noToken = "" // no authenticator for tokens is configured
		cases := []struct {
			name       string
			creds      credentials.TransportCredentials
			xds        codes.Code
			text, sign string // of xDS and CSR
		}{
			{"no certificate", c.stranger(), codes.Unauthenticated, "no client certificate is presented", ""},
			{"of another CA", c.with(other, cartURI, time.Hour), codes.Unauthenticated, "no verified chain is found", ""},
			{"expired", expired, codes.Unauthenticated,
				"no verified chain is found: the client certificate has expired at " + end.UTC().Format(time.RFC3339), ""},
			{"of another trust domain", c.with(c.ca, "spiffe://evil.example/ns/shop/sa/cart", time.Hour), codes.PermissionDenied,
				"identity spiffe://evil.example/ns/shop/sa/cart may not act for node " + cartNode,
				"spiffe://evil.example/ns/shop/sa/cart is no identity of this mesh"},
		}
		for i, tc := range cases {
			streams := testutil.ToFloat64(m.hub.metrics.Refused.WithLabelValues(tc.xds.String()))
			e := m.envoy(cartNode, fakeenvoy.Options{}, tc.creds)
			if got := status.Convert(e.Err()); got.Code() != tc.xds || got.Message() != tc.text || len(e.Responses()) > 0 {
				t.Errorf("%s, xDS: %v after %d responses", tc.name, got, len(e.Responses()))
			}
			if got := testutil.ToFloat64(m.hub.metrics.Refused.WithLabelValues(tc.xds.String())); got != streams+1 {
				t.Errorf("%s: the refused streams went from %v to %v", tc.name, streams, got)
			}
			want := tc.sign
			if want == "" {
				want = tc.text
			}
			_, err := m.caller(tc.creds).CreateCertificate(m.t.Context(), &security.IstioCertificateRequest{Csr: good})
			if got := status.Convert(err); got.Code() != codes.Unauthenticated || got.Message() != want+noToken {
				t.Errorf("%s, CSR: %v", tc.name, got)
			}
			if got := testutil.ToFloat64(m.hub.metrics.CertificateRequests.WithLabelValues("Unauthenticated")); got != float64(i+1) {
				t.Errorf("%s: %v refused requests counted", tc.name, got)
			}
		}
	})
}

// TestAttacksWithRequests: a workload asks for what it may not have.
func TestAttacksWithRequests(t *testing.T) {
	c := newCallers(t)
	key := newKey(t, elliptic.P256())
	edwards, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true})
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	san, constraints, usage := asn1.ObjectIdentifier{2, 5, 29, 17}, asn1.ObjectIdentifier{2, 5, 29, 19}, asn1.ObjectIdentifier{2, 5, 29, 15}
	denied := func(name string) string {
		return "the requested identity (\"" + name + "\") does not match the caller's identities"
	}
	const other = "spiffe://cluster.local/ns/shop/sa/stock"
	cases := []struct {
		name string
		csr  string
		ttl  int64
		code codes.Code
		text string // begins so
	}{
		{"another identity", request(t, key, uris(other)), 0, codes.PermissionDenied, denied(other)},
		{"its own and another", request(t, key, uris(cartURI, other)), 0, codes.PermissionDenied, denied(other)},
		{"of another trust domain", request(t, key, uris("spiffe://evil.example/ns/shop/sa/cart")), 0, codes.PermissionDenied, denied("spiffe://evil.example/ns/shop/sa/cart")},
		{"a DNS name", request(t, key, func(r *x509.CertificateRequest) { r.DNSNames = []string{"istiod.istio-system.svc"} }), 0, codes.PermissionDenied, denied("istiod.istio-system.svc")},
		{"an address", request(t, key, func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }), 0, codes.PermissionDenied, denied("127.0.0.1")},
		{"an email address", request(t, key, func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@b.example"} }), 0, codes.PermissionDenied, denied("a@b.example")},
		{"a name that x509 does not read", request(t, key, extension(t, san, []asn1.RawValue{{FullBytes: edwards}})), 0, codes.PermissionDenied, denied("name of type 4")},
		{"a broken name list", request(t, key, func(r *x509.CertificateRequest) {
			r.ExtraExtensions = []pkix.Extension{{Id: san, Value: []byte{0x30, 0x05, 0x86}}}
		}), 0, codes.InvalidArgument, "invalid CSR: "},
		{"a CA", request(t, key, extension(t, constraints, struct{ CA bool }{true})), 0, codes.InvalidArgument, "invalid CSR: it asks for a CA certificate"},
		{"to sign", request(t, key, extension(t, usage, asn1.BitString{Bytes: []byte{0x04}, BitLength: 6})), 0, codes.InvalidArgument, "invalid CSR: it asks for a CA certificate"},
		{"RSA 1024", request(t, newRSA(t, 1024), nil), 0, codes.InvalidArgument, "invalid CSR: the RSA key has 1024 bits"},
		{"P-224", request(t, newKey(t, elliptic.P224()), nil), 0, codes.InvalidArgument, "invalid CSR: the ECDSA key is on P-224"},
		{"Ed25519", request(t, ed, nil), 0, codes.InvalidArgument, "invalid CSR: the key is ed25519"},
		{"another's key", mismatched(t), 0, codes.InvalidArgument, "invalid CSR: the signature is not of its key"},
		{"nothing", "", 0, codes.InvalidArgument, "invalid CSR: it has no PEM block"},
		{"a certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0, codes.InvalidArgument, "invalid CSR: it has no PEM block"},
		{"rubbish", requestPEM([]byte("rubbish")), 0, codes.InvalidArgument, "invalid CSR: "},
		{"10 MB", strings.Repeat("x", 10<<20), 0, codes.InvalidArgument, "invalid CSR: it is longer than 65536 bytes"},
		{"20 MB", strings.Repeat("x", 20<<20), 0, codes.InvalidArgument, "invalid CSR: it is longer than 65536 bytes"},
		{"200 hours", request(t, key, nil), 200 * 3600, codes.InvalidArgument, "requested TTL 200h0m0s is greater than the max allowed TTL 168h0m0s"},
		{"for ever", request(t, key, nil), 1 << 62, codes.InvalidArgument, "requested TTL 2562047h47m16.854775807s is greater than the max allowed TTL 168h0m0s"},
	}
	inMesh(t, c.server, func(m *mesh) {
		m.edit(shop)
		client := m.caller(c.as("shop", "cart", time.Hour))
		for _, tc := range cases {
			counted := m.hub.metrics.CertificateRequests.WithLabelValues(tc.code.String())
			before := testutil.ToFloat64(counted)
			_, err := client.CreateCertificate(m.t.Context(), &security.IstioCertificateRequest{Csr: tc.csr, ValidityDuration: tc.ttl})
			if got := status.Convert(err); got.Code() != tc.code || !strings.HasPrefix(got.Message(), tc.text) {
				t.Errorf("%s: %v", tc.name, got)
			}
			if got := testutil.ToFloat64(counted); got != before+1 {
				t.Errorf("%s: the requests that ended with %s went from %v to %v", tc.name, tc.code, before, got)
			}
		}
		if issued, _, _ := c.ca.Counts(); issued != 2 { // the caller's, and the server's
			t.Errorf("%d certificates were issued", issued)
		}
	})
}

// TestARequestGetsTheCallersIdentity whatever else it says.
func TestARequestGetsTheCallersIdentity(t *testing.T) {
	c := newCallers(t)
	inMesh(t, c.server, func(m *mesh) {
		m.edit(shop, meshOf("new.example", "cluster.local"))
		client := m.caller(c.with(c.ca, cartURI, time.Hour))
		const want = "spiffe://new.example/ns/shop/sa/cart"
		for name, change := range map[string]func(*x509.CertificateRequest){
			"no name": nil, "its own": uris(want), "its own of an alias": uris(cartURI),
			"a subject": func(r *x509.CertificateRequest) {
				r.Subject = pkix.Name{CommonName: "admin", Organization: []string{"org"}}
			},
		} {
			for kind, key := range map[string]crypto.Signer{"P-256": newKey(t, elliptic.P256()), "P-384": newKey(t, elliptic.P384()), "RSA": newRSA(t, 2048)} {
				response, err := client.CreateCertificate(m.t.Context(), &security.IstioCertificateRequest{Csr: request(t, key, change), ValidityDuration: 3600})
				if err != nil {
					t.Fatalf("%s, %s: %v", name, kind, err)
				}
				if n := len(response.CertChain); n != 2 || response.CertChain[n-1] != string(c.ca.Roots()) {
					t.Fatalf("%s, %s: %d elements", name, kind, n)
				}
				chain, err := identity.ParseCertificates([]byte(response.CertChain[0]))
				if err != nil || len(chain) != 1 {
					t.Fatalf("%s, %s: %d certificates, %v", name, kind, len(chain), err)
				}
				leaf := chain[0]
				names := len(leaf.DNSNames) + len(leaf.IPAddresses) + len(leaf.EmailAddresses)
				if len(leaf.URIs) != 1 || leaf.URIs[0].String() != want || names > 0 || leaf.IsCA || leaf.Subject.String() != "" {
					t.Errorf("%s, %s: URIs %v, %d other names, CA %v, subject %q", name, kind, leaf.URIs, names, leaf.IsCA, leaf.Subject)
				}
				if err := c.ca.Verify(chain); err != nil || !leaf.NotAfter.Equal(time.Now().Add(time.Hour).Truncate(time.Second)) {
					t.Errorf("%s, %s: %v, ends %v", name, kind, err, leaf.NotAfter)
				}
			}
		}
	})
}

func meshOf(domain string, aliases ...string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    trustDomain: " +
		domain + "\n    trustDomainAliases: [" + strings.Join(aliases, ", ") + "]\n"
}

// TestManyRequestsOfOneIdentity do not slow another's, and are bounded.
func TestManyRequestsOfOneIdentity(t *testing.T) {
	c := newCallers(t)
	csr := request(t, newKey(t, elliptic.P256()), nil)
	inMesh(t, c.server, func(m *mesh) {
		m.edit(shop)
		const all, each = 10_000, 500
		greedy, modest := m.caller(c.as("shop", "cart", time.Hour)), m.caller(c.as("store", "stock", time.Hour))
		got := map[codes.Code]int{}
		text := ""
		for i := range all {
			_, err := greedy.CreateCertificate(m.t.Context(), &security.IstioCertificateRequest{Csr: csr})
			got[status.Code(err)]++
			if err != nil {
				text = status.Convert(err).Message()
			}
			if i%each == 0 {
				if _, err := modest.CreateCertificate(m.t.Context(), &security.IstioCertificateRequest{Csr: csr}); err != nil {
					t.Errorf("another identity, after %d requests: %v", i, err)
				}
			}
		}
		// Time stands still here: the burst, and not one more.
		if got[codes.OK] != 100 || got[codes.ResourceExhausted] != all-100 || text != "too many certificate requests, retry in 100ms" {
			t.Errorf("got %v, last %q", got, text)
		}
		if n := testutil.ToFloat64(m.hub.metrics.CertificateRequests.WithLabelValues("ResourceExhausted")); n != all-100 {
			t.Errorf("%v limited requests counted", n)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for range 10 {
			if _, err := greedy.CreateCertificate(m.t.Context(), &security.IstioCertificateRequest{Csr: csr}); err != nil {
				t.Errorf("after a second: %v", err)
			}
		}
	})
}

package discovery

import (
	"bytes"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	security "istio.io/api/security/v1alpha1"

	"github.com/meshpilot/pilot/internal/fakeenvoy"
	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/identity/csr"
	"github.com/meshpilot/pilot/pkg/translate"
)

const cartToken = "0123456789abcdef0123456789abcdef"

// tokenFile is a file of tokens with the mode.
func tokenFile(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTokensGetCertificates(t *testing.T) {
	tokens, err := csr.OpenTokens(tokenFile(t, cartToken+" shop/cart\n", 0o600))
	if err != nil {
		t.Fatal(err)
	}
	c := newCallers(t)
	key := newKey(t, elliptic.P256())
	own, other := request(t, key, nil), request(t, key, uris("spiffe://cluster.local/ns/shop/sa/stock"))
	inMeshWithTokens(t, c.server, tokens, func(m *mesh) {
		m.edit(shop)
		expired := c.with(c.ca, "spiffe://cluster.local/ns/shop/sa/stock", time.Minute)
		time.Sleep(time.Hour)
		for name, creds := range map[string]credentials.TransportCredentials{"no certificate": c.stranger(), "an expired one": expired} {
			client := m.caller(creds)
			response, err := client.CreateCertificate(withToken(m.t.Context(), cartToken), &security.IstioCertificateRequest{Csr: own})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			leaf, err := identity.ParseCertificates([]byte(response.CertChain[0]))
			if err != nil || leaf[0].URIs[0].String() != cartURI {
				t.Errorf("%s: got %v, %v", name, leaf[0].URIs, err)
			}
			_, err = client.CreateCertificate(withToken(m.t.Context(), cartToken), &security.IstioCertificateRequest{Csr: other})
			if status.Code(err) != codes.PermissionDenied {
				t.Errorf("%s: another's identity: %v", name, err)
			}
		}
		// A token is no way to the configuration.
		e := m.envoy(cartNode, fakeenvoy.Options{}, c.stranger())
		if status.Code(e.Err()) != codes.Unauthenticated {
			t.Errorf("xDS: %v", e.Err())
		}
	})
}

// TestStrangersAreLimited: who guesses tokens is soon not listened to, and
// comes in no one's way who has a certificate.
func TestStrangersAreLimited(t *testing.T) {
	tokens, err := csr.OpenTokens(tokenFile(t, cartToken+" shop/cart\n", 0o600))
	if err != nil {
		t.Fatal(err)
	}
	c := newCallers(t)
	good := &security.IstioCertificateRequest{Csr: request(t, newKey(t, elliptic.P256()), nil)}
	inMeshWithTokens(t, c.server, tokens, func(m *mesh) {
		m.edit(shop)
		client, member := m.caller(c.stranger()), m.caller(c.as("shop", "cart", time.Hour))
		const unknown = "no client certificate is presented; the bearer token is not known"
		for i := range 20 {
			_, err := client.CreateCertificate(withToken(m.t.Context(), strings.Repeat("x", 16+i)), good)
			if got := status.Convert(err); got.Code() != codes.Unauthenticated || got.Message() != unknown {
				t.Fatalf("guess %d: %v", i, got)
			}
		}
		_, err := client.CreateCertificate(withToken(m.t.Context(), cartToken), good)
		if got := status.Convert(err); got.Code() != codes.ResourceExhausted || got.Message() != "too many certificate requests, retry in 1s" {
			t.Errorf("after 20 guesses: %v", got)
		}
		if _, err := member.CreateCertificate(m.t.Context(), good); err != nil {
			t.Errorf("with a certificate: %v", err)
		}
		time.Sleep(time.Second)
		if _, err := client.CreateCertificate(withToken(m.t.Context(), cartToken), good); err != nil {
			t.Errorf("a second later: %v", err)
		}
		_, err = client.CreateCertificate(m.t.Context(), good)
		if got := status.Convert(err); got.Message() != "no client certificate is presented; no bearer token exists in HTTP authorization header" {
			t.Errorf("without a token: %v", got)
		}
	})
}

// TestDefaultLifetimeAboveTheMaximum: every request that asks for none is refused.
func TestDefaultLifetimeAboveTheMaximum(t *testing.T) {
	ca := func() *identity.CA {
		ca, err := identity.New(identity.Options{Lifetimes: identity.Lifetimes{Default: 24 * time.Hour, Max: 2 * time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	good := request(t, newKey(t, elliptic.P256()), nil)
	inMesh(t, ca, func(m *mesh) {
		m.edit(shop)
		client := m.caller((&callers{t, m.ca}).as("shop", "cart", time.Hour))
		for seconds, want := range map[int64]string{
			0:         "requested TTL 24h0m0s is greater than the max allowed TTL 2h0m0s",
			-1:        "requested TTL 24h0m0s is greater than the max allowed TTL 2h0m0s",
			24 * 3600: "requested TTL 24h0m0s is greater than the max allowed TTL 2h0m0s",
			7201:      "requested TTL 2h0m1s is greater than the max allowed TTL 2h0m0s",
			7200:      "",
		} {
			_, err := client.CreateCertificate(m.t.Context(), &security.IstioCertificateRequest{Csr: good, ValidityDuration: seconds})
			if got := status.Convert(err); got.Message() != want || (got.Code() == codes.InvalidArgument) != (want != "") {
				t.Errorf("%d s: %v", seconds, got)
			}
		}
	})
}

// TestARequestThatDoesNotCome is ended, and so is one that stops midway.
func TestARequestThatDoesNotCome(t *testing.T) {
	c := newCallers(t)
	inMesh(t, c.server, func(m *mesh) {
		m.edit(shop)
		m.caller(c.as("shop", "cart", time.Hour))
		conn := m.conns[len(m.conns)-1]
		s, err := conn.NewStream(m.t.Context(), &grpc.StreamDesc{ClientStreams: true}, security.IstioCertificateService_CreateCertificate_FullMethodName)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		err = s.RecvMsg(&security.IstioCertificateResponse{})
		if status.Code(err) != codes.DeadlineExceeded || time.Since(start) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		synctest.Wait()
		s, err = conn.NewStream(m.t.Context(), &grpc.StreamDesc{ClientStreams: true}, security.IstioCertificateService_CreateCertificate_FullMethodName)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if err := s.RecvMsg(&security.IstioCertificateResponse{}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("a call without a request: %v", err)
		}
	})
}

// TestATrustDomainChanges under open streams: they stay, and who comes again
// finds the server's name of before and of now.
func TestATrustDomainChanges(t *testing.T) {
	c := newCallers(t)
	inMesh(t, c.server, func(m *mesh) {
		m.edit(shop)
		e := m.envoy(cartNode, fakeenvoy.Options{}, c.as("shop", "cart", time.Hour))
		shows := func() (names []string) {
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(c.ca.Roots())
			conn, err := m.listen.DialContext(m.t.Context())
			if err != nil {
				t.Fatal(err)
			}
			secure := tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: "istio-pilot.istio-system.svc", NextProtos: []string{"h2"}})
			defer secure.Close()
			if err := secure.HandshakeContext(m.t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, uri := range secure.ConnectionState().PeerCertificates[0].URIs {
				names = append(names, uri.Host)
			}
			return names
		}
		if got := shows(); !slices.Equal(got, []string{"cluster.local"}) {
			t.Errorf("before: %v", got)
		}
		m.edit(shop, meshOf("new.example", "cluster.local"))
		if got := shows(); !slices.Equal(got, []string{"new.example", "cluster.local"}) {
			t.Errorf("after: %v", got)
		}
		if e.Err() != nil {
			t.Errorf("the stream ended: %v", e.Err())
		}
		again := m.envoy(cartNode, fakeenvoy.Options{}, c.as("shop", "cart", time.Hour))
		if len(again.Names(translate.ListenerType)) == 0 {
			t.Errorf("with a certificate of the alias: %v", again.Err())
		}
	})
}

// transcript is a log that the test reads while it is written.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *transcript) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *transcript) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestSecretsAreNowhere: no token, no key in what the server logs, shows or answers.
func TestSecretsAreNowhere(t *testing.T) {
	ca, err := identity.New(identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := &callers{t, ca}
	const guess, orphan = "guessed-token-000000000", "orphan-token-0000000000"
	var log transcript
	o := local(memory{bundle: bundle(t, shop)})
	o.CA, o.TLSAddress, o.Log = ca, "127.0.0.1:0", slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o.BootstrapTokens = tokenFile(t, cartToken+" shop/cart\n"+orphan+"\n", 0o644)
	s := running(t, o)
	conn, err := grpc.NewClient(s.Addresses().TLS, grpc.WithTransportCredentials(c.stranger()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := security.NewIstioCertificateServiceClient(conn)
	good := request(t, newKey(t, elliptic.P256()), nil)
	var said strings.Builder
	for _, call := range []struct {
		token, csr string
		code       codes.Code
	}{
		{cartToken, good, codes.OK}, {guess, good, codes.Unauthenticated}, {orphan, good, codes.Unauthenticated},
		{cartToken, cartToken, codes.InvalidArgument}, {cartToken, request(t, newKey(t, elliptic.P256()), uris("spiffe://x/y")), codes.PermissionDenied},
	} {
		response, err := client.CreateCertificate(withToken(t.Context(), call.token), &security.IstioCertificateRequest{Csr: call.csr})
		if status.Code(err) != call.code {
			t.Fatalf("%v, want %v", err, call.code)
		}
		said.WriteString(response.String() + status.Convert(err).Message() + "\n")
	}
	pages := "http://" + s.Addresses().HTTP
	eventually(t, "reported", func() bool { _, body := fetch(t, pages+"/debug/problems"); return strings.Contains(body, "TOKEN_FILE") })
	for _, page := range []string{pages + "/debug/problems", pages + "/debug/mesh", pages + "/debug/proxies", pages + "/readyz", "http://" + s.Addresses().Metrics + "/metrics"} {
		code, body := fetch(t, page)
		if code != http.StatusOK {
			t.Errorf("%s: %d", page, code)
		}
		said.WriteString(body)
	}
	all := said.String() + log.String()
	for _, want := range []string{"line 2 is not", "it has mode 0644", `pilot_problems{code="TOKEN_FILE",severity="warning"} 2`,
		`pilot_certificate_requests_total{code="Unauthenticated"} 2`, `pilot_certificate_requests_total{code="OK"} 1`,
		"certificate issued", "certificate request refused"} {
		if !strings.Contains(all, want) {
			t.Errorf("nowhere: %s", want)
		}
	}
	for _, secret := range []string{cartToken, guess, orphan, "PRIVATE KEY", "Bearer"} {
		if i := strings.Index(all, secret); i >= 0 {
			t.Errorf("%s in %s", secret, all[max(0, i-100):min(len(all), i+100)])
		}
	}
}

package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func testCA(t *testing.T) *CA {
	t.Helper()
	ca, err := NewCA(DefaultOrg, DefaultRootTTL)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t *testing.T, ca *CA, uri string, ttl time.Duration) KeyPair {
	t.Helper()
	pair, err := ca.Issue(uri, ttl)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func leaf(t *testing.T, pair KeyPair) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(pair.CertChain)
	if block == nil {
		t.Fatal("no PEM in the chain")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

const cart = "spiffe://cluster.local/ns/shop/sa/cart"

func TestLeaf(t *testing.T) {
	ca := testCA(t)
	cert := leaf(t, issue(t, ca, cart, DefaultLeafTTL))
	if len(cert.URIs) != 1 || cert.URIs[0].String() != cart {
		t.Errorf("URIs = %v, want only %s", cert.URIs, cart)
	}
	if got := cert.Subject.String(); got != "" {
		t.Errorf("subject = %q, want none", got)
	}
	for _, ext := range cert.Extensions {
		if ext.Id.String() == "2.5.29.17" && !ext.Critical {
			t.Error("the SAN is not critical although the subject is empty")
		}
	}
	if want := x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment; cert.KeyUsage != want {
		t.Errorf("key usage = %b, want %b", cert.KeyUsage, want)
	}
	if key, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		t.Errorf("key is %T, want ECDSA P-256", cert.PublicKey)
	}
	if got, want := cert.NotAfter.Sub(cert.NotBefore), DefaultLeafTTL+2*time.Minute; got != want {
		t.Errorf("lifetime = %s, want %s", got, want)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Roots())
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Errorf("usage %d: %v", usage, err)
		}
	}
}

func TestLeafNeverOutlivesRoot(t *testing.T) {
	ca, err := NewCA(DefaultOrg, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if cert := leaf(t, issue(t, ca, cart, DefaultLeafTTL)); !cert.NotAfter.Equal(ca.RootCertificates()[0].NotAfter) {
		t.Errorf("leaf ends %s, root %s", cert.NotAfter, ca.RootCertificates()[0].NotAfter)
	}
}

func TestIssueRefuses(t *testing.T) {
	ca := testCA(t)
	for uri, ttl := range map[string]time.Duration{
		"https://cluster.local/ns/a/sa/b": time.Hour,
		"spiffe:///ns/a/sa/b":             time.Hour,
		"":                                time.Hour,
		cart:                              200 * time.Hour,
	} {
		if _, err := ca.Issue(uri, ttl); err == nil {
			t.Errorf("issued %q for %s", uri, ttl)
		}
	}
	_, err := ca.Issue(cart, 200*time.Hour)
	if want := "requested TTL 200h0m0s is greater than the max allowed TTL 168h0m0s"; err == nil || err.Error() != want {
		t.Errorf("error = %v, want %s", err, want)
	}
}

func TestServerTLS(t *testing.T) {
	ca := testCA(t)
	server, err := ca.ServerTLS("cluster.local", "istio-system")
	if err != nil {
		t.Fatal(err)
	}
	stranger := testCA(t)
	for name, tc := range map[string]struct {
		client *CA
		ok     bool
	}{"of this mesh": {ca, true}, "of another root": {stranger, false}, "none": {nil, false}} {
		t.Run(name, func(t *testing.T) {
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(ca.Roots())
			config := &tls.Config{RootCAs: roots, ServerName: "istiod.istio-system.svc"}
			if tc.client != nil {
				pair := issue(t, tc.client, cart, time.Hour)
				cert, err := tls.X509KeyPair(pair.CertChain, pair.Key)
				if err != nil {
					t.Fatal(err)
				}
				// A getter, for Certificates would not be sent to a server that
				// names another issuer.
				config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
			}
			near, far := net.Pipe()
			defer near.Close()
			go func() {
				defer far.Close()
				_ = tls.Client(far, config).Handshake()
			}()
			conn := tls.Server(near, server)
			err := conn.Handshake()
			if (err == nil) != tc.ok {
				t.Fatalf("handshake: %v, want ok %v", err, tc.ok)
			}
			if tc.ok && conn.ConnectionState().PeerCertificates[0].URIs[0].String() != cart {
				t.Error("the server does not see the client's identity")
			}
		})
	}
}

func TestKeysAreNeverPrinted(t *testing.T) {
	ca := testCA(t)
	pair := issue(t, ca, cart, time.Hour)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("issued", "pair", pair)
	asJSON, err := json.Marshal(map[string]any{"pair": pair})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	notADir := Dir{Path: file}.Publish(pair)
	if notADir == nil {
		t.Fatal("published into a file")
	}
	// A damaged key must not come back in the error.
	dir := t.TempDir()
	half := pair.Key[:len(pair.Key)/2]
	for name, content := range map[string][]byte{caCertFile: ca.Roots(), caKeyFile: half} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, damaged := OpenCA(dir, Options{RootTTL: time.Hour})
	if damaged == nil {
		t.Fatal("opened half a key")
	}
	all := log.String() + string(asJSON) + notADir.Error() + damaged.Error() +
		fmt.Sprintf("%v %+v %#v %s", pair, pair, pair, pair)
	for _, line := range strings.Split(strings.TrimSpace(string(pair.Key)), "\n") {
		if strings.Contains(all, line) {
			t.Fatalf("key material in %s", all)
		}
	}
	if !strings.Contains(all, cart) {
		t.Error("the identity is not printed either")
	}
}

func TestOpenCA(t *testing.T) {
	dir := t.TempDir()
	first, err := OpenCA(dir, Options{RootTTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenCA(dir, Options{RootTTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Roots(), again.Roots()) {
		t.Error("the root changed")
	}
	if info, err := os.Stat(filepath.Join(dir, caKeyFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info, err)
	}
	if err := os.WriteFile(filepath.Join(dir, caCertFile), testCA(t).Roots(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCA(dir, Options{RootTTL: time.Hour}); err == nil || !strings.Contains(err.Error(), "does not fit") {
		t.Errorf("foreign certificate: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, caCertFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCA(dir, Options{RootTTL: time.Hour}); err == nil || !strings.Contains(err.Error(), caCertFile) {
		t.Errorf("missing certificate: %v", err)
	}
}

// TestOpenCATogether: whoever comes second reads what the first made.
func TestOpenCATogether(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	roots := make([]string, 8)
	var wg sync.WaitGroup
	for i := range roots {
		wg.Go(func() {
			ca, err := OpenCA(dir, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			roots[i] = string(ca.Roots())
		})
	}
	wg.Wait()
	for _, root := range roots[1:] {
		if root != roots[0] {
			t.Fatal("two roots")
		}
	}
}

func TestLifeIsWhatWasAskedFor(t *testing.T) {
	if got := Life(leaf(t, issue(t, testCA(t), cart, 15*time.Minute))); got != 15*time.Minute {
		t.Errorf("life of %s, want 15m", got)
	}
}

package csr

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/meshpilot/pilot/pkg/identity"
)

func newCA(t *testing.T) *identity.CA {
	t.Helper()
	ca, err := identity.New(identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t *testing.T, ca *identity.CA, uri string) []*x509.Certificate {
	t.Helper()
	pair, err := ca.Issue(uri, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := identity.ParseCertificates(pair.CertChain)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

// over is a call on a connection with the state.
func over(t *testing.T, state tls.ConnectionState) context.Context {
	return peer.NewContext(t.Context(), &peer.Peer{AuthInfo: credentials.TLSInfo{State: state}})
}

func TestARootThatIsTakenAway(t *testing.T) {
	old, next := newCA(t), newCA(t)
	roots := old.Roots()
	peers := &Peers{Roots: func() []byte { return roots }}
	leaf := issue(t, old, "spiffe://a.example/ns/shop/sa/cart")
	call := over(t, tls.ConnectionState{PeerCertificates: leaf, VerifiedChains: peers.Verify(leaf)})
	check := func(when string, good bool) {
		t.Helper()
		if _, err := peers.Certificate(call); (err == nil) != good {
			t.Errorf("%s: %v", when, err)
		}
		if n := len(peers.Verify(leaf)); n > 0 != good {
			t.Errorf("%s: %d chains for a new connection", when, n)
		}
	}
	check("the old root", true)
	roots = slices.Concat(old.Roots(), next.Roots())
	check("both", true)
	roots = next.Roots()
	check("the next root", false)
	roots = nil
	check("none", false)
}

func TestACertificateThatExpiresOnItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newCA(t)
		peers := &Peers{Roots: ca.Roots}
		leaf := issue(t, ca, "spiffe://a.example/ns/shop/sa/cart")
		call := over(t, tls.ConnectionState{PeerCertificates: leaf, VerifiedChains: peers.Verify(leaf)})
		time.Sleep(59 * time.Minute)
		if _, err := peers.Certificate(call); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Minute)
		if _, err := peers.Certificate(call); err == nil || !strings.HasPrefix(err.Error(), "no verified chain is found: the client certificate has expired at ") {
			t.Errorf("got %v", err)
		}
	})
}

func TestCertificateAuthenticates(t *testing.T) {
	ca := newCA(t)
	peers := &Peers{Roots: ca.Roots}
	c := Certificate{Peers: peers, Domains: func() []string { return []string{"a.example", "old.example"} }}
	with := func(uris ...string) context.Context {
		chain := issue(t, ca, "spiffe://a.example/ns/shop/sa/cart")
		verified := peers.Verify(chain)
		leaf := *chain[0]
		leaf.URIs = nil
		for _, uri := range uris {
			u, err := url.Parse(uri)
			if err != nil {
				t.Fatal(err)
			}
			leaf.URIs = append(leaf.URIs, u)
		}
		return over(t, tls.ConnectionState{PeerCertificates: []*x509.Certificate{&leaf}, VerifiedChains: verified})
	}
	for _, tc := range []struct {
		name string
		call context.Context
		want Account
		text string
	}{
		{"its identity", with("spiffe://a.example/ns/shop/sa/cart"), Account{"shop", "cart"}, ""},
		{"of an alias", with("spiffe://old.example/ns/shop/sa/cart"), Account{"shop", "cart"}, ""},
		{"plaintext", t.Context(), Account{}, "no client certificate is presented"},
		{"no certificate", over(t, tls.ConnectionState{}), Account{}, "no client certificate is presented"},
		{"no URI", with(), Account{}, "the SAN extension does not exist"},
		{"two URIs", with("spiffe://a.example/ns/shop/sa/cart", "spiffe://a.example/ns/shop/sa/cart"), Account{}, "the client certificate has 2 URIs, not one"},
		{"another domain", with("spiffe://a.example.evil/ns/shop/sa/cart"), Account{}, "spiffe://a.example.evil/ns/shop/sa/cart is no identity of this mesh"},
		{"a longer path", with("spiffe://a.example/ns/shop/sa/cart/x"), Account{}, "spiffe://a.example/ns/shop/sa/cart/x is no identity of this mesh"},
		{"two accounts", with("spiffe://a.example/ns/shop/sa/cart/sa/x"), Account{}, "spiffe://a.example/ns/shop/sa/cart/sa/x is no identity of this mesh"},
		{"no account", with("spiffe://a.example/ns/shop/sa/"), Account{}, "spiffe://a.example/ns/shop/sa/ is no identity of this mesh"},
		{"no namespace", with("spiffe://a.example/ns//sa/cart"), Account{}, "spiffe://a.example/ns//sa/cart is no identity of this mesh"},
		{"another scheme", with("https://a.example/ns/shop/sa/cart"), Account{}, "https://a.example/ns/shop/sa/cart is no identity of this mesh"},
		{"a query", with("spiffe://a.example/ns/shop/sa/cart?x"), Account{}, "spiffe://a.example/ns/shop/sa/cart?x is no identity of this mesh"},
	} {
		account, err := c.Authenticate(tc.call)
		if account != tc.want || (err == nil) != (tc.text == "") || err != nil && err.Error() != tc.text {
			t.Errorf("%s: %v, %v", tc.name, account, err)
		}
	}
}

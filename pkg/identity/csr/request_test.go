package csr

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/identity"
)

func FuzzParse(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	uri, _ := url.Parse("spiffe://a.example/ns/shop/sa/cart")
	for _, template := range []*x509.CertificateRequest{
		{}, {URIs: []*url.URL{uri}}, {DNSNames: []string{"a.example"}, EmailAddresses: []string{"a@b"}, IPAddresses: []net.IP{net.IPv6loopback}},
	} {
		der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		r, err := parse(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})))
		if err != nil {
			return
		}
		if err := identity.CheckKey(r.PublicKey); err != nil {
			t.Errorf("taken: %v", err)
		}
		all, err := names(r)
		if err != nil {
			return
		}
		if known := len(r.URIs) + len(r.DNSNames) + len(r.EmailAddresses) + len(r.IPAddresses); len(all) < known {
			t.Errorf("%q are %d names; x509 knows %d", all, len(all), known)
		}
		for _, name := range all {
			if strings.ContainsAny(name, "\n\r\x00\"") && !strings.Contains(name, `\"`) {
				t.Errorf("%q would break a line", name)
			}
		}
	})
}

func TestStranger(t *testing.T) {
	allowed := []string{"a", strings.Repeat("b", 300)}
	for _, tc := range []struct {
		names []string
		want  string
	}{
		{nil, ""}, {[]string{"a"}, ""}, {[]string{"a", allowed[1]}, ""},
		{[]string{"a", "c"}, "c"}, {[]string{strings.Repeat("b", 301)}, strings.Repeat("b", 256)}, {[]string{""}, ""},
	} {
		got, found := stranger(tc.names, allowed)
		if got != tc.want || found != (tc.want != "" || len(tc.names) == 1 && tc.names[0] == "") {
			t.Errorf("%q: %q, %v", tc.names, got, found)
		}
	}
}

func TestRemote(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1:1000": "192.0.2.1", "[2001:db8::1]:1000": "2001:db8::/64", "[2001:db8::ffff:0:1]:2000": "2001:db8::/64",
		"[::ffff:192.0.2.1]:1000": "192.0.2.1", "[fe80::1%eth0]:1000": "fe80::/64",
	} {
		if got := Remote(endpoint{address}); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}

type endpoint struct{ text string }

func (endpoint) Network() string  { return "tcp" }
func (a endpoint) String() string { return a.text }

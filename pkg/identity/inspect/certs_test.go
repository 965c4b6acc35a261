package inspect

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"
)

// noon is the time of everything in these tests.
func noon() time.Time { return time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC) }

// backdate is how much earlier than it was issued a certificate begins.
const backdate = 2 * time.Minute

const cart = "spiffe://cluster.local/ns/shop/sa/cart"

// made is a certificate with its key.
type made struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

func (m made) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.Raw})
}

func (m made) keyPEM(t *testing.T) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(m.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func chain(all ...made) []byte {
	var text []byte
	for _, m := range all {
		text = append(text, m.pem()...)
	}
	return text
}

// sign makes a certificate; nil signs itself.
func sign(t *testing.T, template x509.Certificate, by *made) made {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m := made{key: key}
	parent := &made{&template, key}
	if by != nil {
		parent = by
	}
	if template.SerialNumber == nil {
		template.SerialNumber = big.NewInt(0xabc)
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent.Certificate, key.Public(), parent.key)
	if err != nil {
		t.Fatal(err)
	}
	if m.Certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return m
}

// authority is a template of a CA whose life began a while ago.
func authority(name string, age, left time.Duration) x509.Certificate {
	return x509.Certificate{
		Subject: pkix.Name{Organization: []string{name}}, NotBefore: noon().Add(-age), NotAfter: noon().Add(left),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
}

// leafFor is a template of a workload's certificate, issued a while ago.
func leafFor(age, left time.Duration, uris ...string) x509.Certificate {
	t := x509.Certificate{
		NotBefore: noon().Add(-age - backdate), NotAfter: noon().Add(left), BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, uri := range uris {
		u, err := url.Parse(uri)
		if err != nil {
			panic(err)
		}
		t.URIs = append(t.URIs, u)
	}
	return t
}

const year = 365 * 24 * time.Hour

// world is what most cases need.
type world struct {
	root, other, between made
	leaf                 made // by between
}

func newWorld(t *testing.T) world {
	var w world
	w.root = sign(t, authority("root", year, 9*year), nil)
	w.other = sign(t, authority("root", year, 9*year), nil) // the same name, another key
	w.between = sign(t, authority("issuing", year, year), &w.root)
	w.leaf = sign(t, leafFor(9*time.Hour, 10*time.Hour, cart), &w.between)
	return w
}

func (w world) good(t *testing.T) Set {
	return Set{Name: "certs/cart", Chain: chain(w.leaf, w.between), Key: w.leaf.keyPEM(t), Roots: w.root.pem()}
}

package csr

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// Account is who a certificate is for.
type Account struct{ Namespace, Name string }

// Authenticator tells who calls, by one kind of credential. The caller reads
// the text of its error, which so holds no credential. An error with a gRPC
// status is the answer; after another one, the next authenticator is asked.
type Authenticator interface {
	Authenticate(ctx context.Context) (Account, error)
}

// Peers verifies client certificates against the roots of this moment.
type Peers struct {
	Roots func() []byte // PEM

	mu   sync.Mutex
	pem  []byte // that pool and raw are of
	pool *x509.CertPool
	raw  map[string]bool
}

// Verify gives the chains from the first certificate to a root, or none. It
// costs signature work, so it is done once a connection.
func (p *Peers) Verify(certs []*x509.Certificate) [][]*x509.Certificate {
	if len(certs) == 0 {
		return nil
	}
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	roots, _ := p.current()
	chains, err := certs[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil
	}
	return chains
}

// Certificate is the client certificate of a call whose connection's chains
// Verify has given, if it still holds: it has not expired, and its root was
// not taken away. It costs no signature work.
func (p *Peers) Certificate(ctx context.Context) (*x509.Certificate, error) {
	if caller, ok := peer.FromContext(ctx); ok {
		if info, ok := caller.AuthInfo.(credentials.TLSInfo); ok {
			return p.leaf(&info.State, time.Now())
		}
	}
	return nil, errors.New("no client certificate is presented")
}

func (p *Peers) leaf(s *tls.ConnectionState, now time.Time) (*x509.Certificate, error) {
	if len(s.PeerCertificates) == 0 {
		return nil, errors.New("no client certificate is presented")
	}
	leaf := s.PeerCertificates[0]
	if now.After(leaf.NotAfter) {
		return nil, fmt.Errorf("no verified chain is found: the client certificate has expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	_, trusted := p.current()
	for _, chain := range s.VerifiedChains {
		if trusted[string(chain[len(chain)-1].Raw)] && !expired(chain, now) {
			return leaf, nil
		}
	}
	return nil, errors.New("no verified chain is found")
}

func expired(chain []*x509.Certificate, now time.Time) bool {
	for _, c := range chain {
		if now.After(c.NotAfter) {
			return true
		}
	}
	return false
}

// current are the roots, parsed again only when they have changed.
func (p *Peers) current() (*x509.CertPool, map[string]bool) {
	now := p.Roots()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pool == nil || !bytes.Equal(now, p.pem) {
		p.pem, p.pool, p.raw = now, x509.NewCertPool(), map[string]bool{}
		for _, block := range blocks(now) {
			if c, err := x509.ParseCertificate(block.Bytes); err == nil {
				p.pool.AddCert(c)
				p.raw[string(c.Raw)] = true
			}
		}
	}
	return p.pool, p.raw
}

// Certificate authenticates by the client certificate of the connection.
type Certificate struct {
	Peers *Peers
	// Domains are the trust domain and its aliases.
	Domains func() []string
}

// Authenticate takes a certificate with exactly one URI, an identity of one of
// the trust domains.
func (c Certificate) Authenticate(ctx context.Context) (Account, error) {
	leaf, err := c.Peers.Certificate(ctx)
	if err != nil {
		return Account{}, err
	}
	switch len(leaf.URIs) {
	case 0:
		return Account{}, errors.New("the SAN extension does not exist")
	case 1:
	default:
		return Account{}, fmt.Errorf("the client certificate has %d URIs, not one", len(leaf.URIs))
	}
	uri := leaf.URIs[0].String()
	account, ok := accountOf(uri, c.Domains())
	if !ok {
		return Account{}, fmt.Errorf("%s is no identity of this mesh", uri)
	}
	return account, nil
}

// accountOf reads a SPIFFE identity of one of the trust domains.
func accountOf(uri string, domains []string) (Account, bool) {
	for _, domain := range domains {
		rest, ok := strings.CutPrefix(uri, "spiffe://"+domain+"/ns/")
		if !ok {
			continue
		}
		namespace, name, ok := strings.Cut(rest, "/sa/")
		if ok && namespaceName.MatchString(namespace) && accountName.MatchString(name) {
			return Account{namespace, name}, true
		}
	}
	return Account{}, false
}

// Package identity is the mesh's certificate authority: it keeps or is given a
// root, signs one short-lived certificate per workload identity, and publishes
// key pairs as files the way Kubernetes mounts Secrets, for Envoy to read.
//
// Key material leaves the package only in files and in tls.Config: a KeyPair
// prints as its identity, and no error contains key bytes.
package identity

import (
	"cmp"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync/atomic"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

const (
	// DefaultOrg is the organisation of a self-signed root.
	DefaultOrg = "k8s.cluster.local"
	// DefaultRootTTL is long because an expired root stops the mesh.
	DefaultRootTTL = 87600 * time.Hour
	// DefaultLeafTTL is the lifetime of a workload certificate.
	DefaultLeafTTL = 19 * time.Hour
	// MaxLeafTTL is the longest lifetime of any leaf, unless Lifetimes say
	// otherwise.
	MaxLeafTTL = 168 * time.Hour

	// backdate lets a certificate work on machines whose clock is behind.
	backdate = 2 * time.Minute
)

// Lifetimes bound the leaves of a CA. What is 0 is DefaultLeafTTL and
// MaxLeafTTL.
type Lifetimes struct {
	Default time.Duration // of who asks for none
	Max     time.Duration
}

// Options say what a CA is like; the zero value is the default of everything.
type Options struct {
	Org       string        // of a self-signed root
	RootTTL   time.Duration // of a self-signed root
	KeyType   KeyType       // of the keys that the CA makes
	Lifetimes Lifetimes
}

func (o Options) withDefaults() Options {
	o.Org = cmp.Or(o.Org, DefaultOrg)
	o.RootTTL = cmp.Or(o.RootTTL, DefaultRootTTL)
	o.Lifetimes.Default = cmp.Or(o.Lifetimes.Default, DefaultLeafTTL)
	o.Lifetimes.Max = cmp.Or(o.Lifetimes.Max, MaxLeafTTL)
	return o
}

// origin is where a CA comes from.
type origin struct {
	names          Files           // of its parts, in errors
	read           func() contents // nil if it is not followed
	signing, roots model.Key       // what problems are on
}

// CA signs the certificates of one mesh. It is safe for concurrent use.
type CA struct {
	options Options
	origin  origin
	current atomic.Pointer[authority]
	trouble atomic.Pointer[string] // why its origin as it is now is not in force
	counts  struct{ issued, refused, failed atomic.Uint64 }
}

// authority is what a CA signs with, and what it trusts: replaced as a whole.
type authority struct {
	cert  *x509.Certificate
	key   crypto.Signer
	chain []*x509.Certificate // what peers need between a leaf and a root
	roots []*x509.Certificate

	chainPEM, rootsPEM []byte
	pool               *x509.CertPool
	ends               time.Time // no leaf lives longer
	generation         uint64
}

func newAuthority(cert *x509.Certificate, key crypto.Signer, chain, roots []*x509.Certificate) *authority {
	a := &authority{
		cert: cert, key: key, chain: chain, roots: roots,
		chainPEM: encodeCertificates(chain), rootsPEM: encodeCertificates(roots),
		pool: x509.NewCertPool(), ends: cert.NotAfter,
	}
	for _, root := range roots {
		a.pool.AddCert(root)
	}
	return a
}

// NewCA makes a self-signed root that is valid from now for ttl, and is the
// default in all else.
func NewCA(org string, ttl time.Duration) (*CA, error) {
	return New(Options{Org: org, RootTTL: ttl})
}

// New makes a CA with a new self-signed root.
func New(o Options) (*CA, error) {
	o = o.withDefaults()
	key, err := o.KeyType.generate()
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{o.Org}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(o.RootTTL),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign root certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse root certificate: %w", err)
	}
	return newCA(o, newAuthority(cert, key, nil, []*x509.Certificate{cert})), nil
}

func newCA(o Options, a *authority) *CA {
	ca := &CA{options: o.withDefaults()}
	ca.current.Store(a)
	return ca
}

// Lifetimes are the bounds of what the CA issues.
func (c *CA) Lifetimes() Lifetimes { return c.options.Lifetimes }

// Roots are all roots that are trusted now, as PEM.
func (c *CA) Roots() []byte { return c.current.Load().rootsPEM }

// RootCertificates are all roots that are trusted now.
func (c *CA) RootCertificates() []*x509.Certificate { return slices.Clone(c.current.Load().roots) }

// Signed says whether the certificate is of the CA's present signing
// certificate, and so not of one that was replaced.
func (c *CA) Signed(leaf *x509.Certificate) bool {
	return leaf.CheckSignatureFrom(c.current.Load().cert) == nil
}

// Current says whether a chain, its leaf first, is what the CA would give out
// now: its leaf signed, and the same intermediates below it.
func (c *CA) Current(chain []*x509.Certificate) bool {
	a := c.current.Load()
	return len(chain) > 0 && chain[0].CheckSignatureFrom(a.cert) == nil && slices.EqualFunc(chain[1:], a.chain, (*x509.Certificate).Equal)
}

// Generation is another number after each change of the CA.
func (c *CA) Generation() uint64 { return c.current.Load().generation }

// Verify says why a peer's chain, its leaf first, does not lead to a root that
// is trusted now.
func (c *CA) Verify(chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return errors.New("no certificate is presented")
	}
	between := x509.NewCertPool()
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: c.current.Load().pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
}

// Counts are how many certificates were issued, refused for what was asked,
// and not issued for a failure of the CA.
func (c *CA) Counts() (issued, refused, failed uint64) {
	return c.counts.issued.Load(), c.counts.refused.Load(), c.counts.failed.Load()
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	return serial, nil
}

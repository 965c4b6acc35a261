// Package identity is the mesh's certificate authority: it makes the root,
// issues one short-lived certificate per workload identity, and publishes key
// pairs as files the way Kubernetes mounts Secrets, for Envoy to read.
//
// Key material leaves the package only in files and in tls.Config: a KeyPair
// prints as its identity, and no error contains key bytes.
package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"time"
)

const (
	// DefaultOrg is the organisation of a self-signed root.
	DefaultOrg = "k8s.cluster.local"
	// DefaultRootTTL is long because an expired root stops the mesh.
	DefaultRootTTL = 87600 * time.Hour
	// DefaultLeafTTL is the lifetime of a workload certificate.
	DefaultLeafTTL = 19 * time.Hour
	// MaxLeafTTL is the longest lifetime of any leaf, and the control plane's.
	MaxLeafTTL = 168 * time.Hour

	// backdate lets a certificate work on machines whose clock is behind.
	backdate = 2 * time.Minute
)

// CA signs the certificates of one mesh. It is safe for concurrent use.
type CA struct {
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	rootPEM []byte
}

// KeyPair is a leaf with its key and the roots that verify its peers, as PEM.
type KeyPair struct {
	URI       string // the identity
	CertChain []byte
	Key       []byte
	Roots     []byte
}

// String is the identity alone, so that printing a pair never shows its key.
func (p KeyPair) String() string { return "key pair of " + p.URI }

// GoString is String: %#v shows no key either.
func (p KeyPair) GoString() string { return p.String() }

// LogValue is String for log/slog.
func (p KeyPair) LogValue() slog.Value { return slog.StringValue(p.String()) }

// MarshalText is String, for JSON and everything else that asks for text.
func (p KeyPair) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// URI is the SPIFFE identity of a service account.
func URI(trustDomain, namespace, account string) string {
	return "spiffe://" + trustDomain + "/ns/" + namespace + "/sa/" + account
}

// ControlPlaneURI is the identity that the control plane shows on port 15012.
func ControlPlaneURI(trustDomain, namespace string) string {
	return URI(trustDomain, namespace, "istio-pilot-service-account")
}

// NewCA makes a self-signed root that is valid from now for ttl.
func NewCA(org string, ttl time.Duration) (*CA, error) {
	key, err := newKey()
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
		Subject:               pkix.Name{Organization: []string{org}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(ttl),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign root certificate: %w", err)
	}
	return newCA(der, key)
}

func newCA(der []byte, key *ecdsa.PrivateKey) (*CA, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse root certificate: %w", err)
	}
	return &CA{cert: cert, key: key, rootPEM: encodePEM("CERTIFICATE", der)}, nil
}

// RootPEM is the root certificate.
func (c *CA) RootPEM() []byte { return c.rootPEM }

// Issue makes a new key and its certificate for a workload's SPIFFE URI. It
// never outlives the root.
func (c *CA) Issue(uri string, ttl time.Duration) (KeyPair, error) {
	return c.issue(uri, nil, ttl)
}

// IssueControlPlane makes the control plane's pair for port 15012: its URI
// and the DNS names under which proxies reach it.
func (c *CA) IssueControlPlane(trustDomain, namespace string) (KeyPair, error) {
	var names []string
	for _, name := range []string{"istio-pilot", "istiod", "istio-citadel"} {
		names = append(names, name+"."+namespace+".svc", name+"."+namespace)
	}
	return c.issue(ControlPlaneURI(trustDomain, namespace), names, MaxLeafTTL)
}

func (c *CA) issue(uri string, names []string, ttl time.Duration) (KeyPair, error) {
	san, err := url.Parse(uri)
	if err != nil || san.Scheme != "spiffe" || san.Host == "" {
		return KeyPair{}, fmt.Errorf("%q is not a SPIFFE identity", uri)
	}
	if ttl > MaxLeafTTL {
		return KeyPair{}, fmt.Errorf("requested TTL %s is greater than the max allowed TTL %s", ttl, MaxLeafTTL)
	}
	key, err := newKey()
	if err != nil {
		return KeyPair{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return KeyPair{}, err
	}
	now := time.Now()
	end := now.Add(ttl)
	if end.After(c.cert.NotAfter) {
		end = c.cert.NotAfter
	}
	// The subject is empty, so x509 marks the SAN critical.
	template := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             now.Add(-backdate),
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{san},
		DNSNames:              names,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, key.Public(), c.key)
	if err != nil {
		return KeyPair{}, fmt.Errorf("sign certificate of %s: %w", uri, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return KeyPair{}, fmt.Errorf("encode key of %s: %w", uri, err)
	}
	return KeyPair{URI: uri, CertChain: encodePEM("CERTIFICATE", der), Key: keyPEM, Roots: c.rootPEM}, nil
}

// ServerTLS is the TLS side of port 15012: it shows the control plane's
// certificate and takes only clients with a certificate of this CA.
func (c *CA) ServerTLS(trustDomain, namespace string) (*tls.Config, error) {
	pair, err := c.IssueControlPlane(trustDomain, namespace)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(pair.CertChain, pair.Key)
	if err != nil {
		return nil, fmt.Errorf("load certificate of %s: %w", pair.URI, err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(c.cert)
	return &tls.Config{
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    roots,
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2"},
	}, nil
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return key, nil
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	return serial, nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return encodePEM("PRIVATE KEY", der), nil
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

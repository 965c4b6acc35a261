package identity

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"
	"time"
)

// Request is what a leaf certificate is to say.
type Request struct {
	URI string // the identity
	// Aliases are further URIs: the control plane's, of its trust domain's aliases.
	Aliases  []string
	DNSNames []string
	Key      crypto.PublicKey
	TTL      time.Duration // 0 or less: the default
}

// TTLError refuses a lifetime above the maximum.
type TTLError struct{ Requested, Max time.Duration }

// Error is the text that operators of Istio know.
func (e *TTLError) Error() string {
	return fmt.Sprintf("requested TTL %s is greater than the max allowed TTL %s", e.Requested, e.Max)
}

// URI is the SPIFFE identity of a service account.
func URI(trustDomain, namespace, account string) string {
	return "spiffe://" + trustDomain + "/ns/" + namespace + "/sa/" + account
}

// ControlPlaneURI is the identity that the control plane shows on port 15012.
func ControlPlaneURI(trustDomain, namespace string) string {
	return URI(trustDomain, namespace, "istio-pilot-service-account")
}

// Sign makes a leaf certificate for a key, and gives it with the intermediates
// as PEM. It never outlives its issuer. A lifetime above the maximum is a
// *TTLError.
func (c *CA) Sign(r Request) (chain []byte, err error) {
	return c.signBy(c.current.Load(), r)
}

func (c *CA) signBy(a *authority, r Request) (chain []byte, err error) {
	template, err := c.template(r)
	if err == nil {
		err = CheckKey(r.Key)
	}
	if err != nil {
		c.counts.refused.Add(1)
		return nil, err
	}
	if chain, err = a.sign(template, r.Key); err != nil {
		c.counts.failed.Add(1)
		return nil, fmt.Errorf("sign certificate of %s: %w", r.URI, err)
	}
	c.counts.issued.Add(1)
	return chain, nil
}

// template is the leaf without key and what its issuer adds, if it may be issued.
func (c *CA) template(r Request) (*x509.Certificate, error) {
	var uris []*url.URL
	for _, uri := range append([]string{r.URI}, r.Aliases...) {
		san, err := url.Parse(uri)
		if err != nil || san.Scheme != "spiffe" || san.Host == "" {
			return nil, fmt.Errorf("%q is not a SPIFFE identity", uri)
		}
		uris = append(uris, san)
	}
	ttl := r.TTL
	if ttl <= 0 {
		ttl = c.options.Lifetimes.Default
	}
	if most := c.options.Lifetimes.Max; ttl > most {
		return nil, &TTLError{ttl, most}
	}
	template := leafTemplate(time.Now(), ttl)
	template.URIs, template.DNSNames = uris, r.DNSNames
	return template, nil
}

// leafTemplate has an empty subject, so x509 marks the SAN critical.
func leafTemplate(now time.Time, ttl time.Duration) *x509.Certificate {
	return &x509.Certificate{
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(ttl),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
}

func (a *authority) sign(template *x509.Certificate, key crypto.PublicKey) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	if !time.Now().Before(a.ends) {
		return nil, fmt.Errorf("the CA's own certificate has expired at %s", a.ends.UTC().Format(time.RFC3339))
	}
	if template.NotAfter.After(a.ends) {
		template.NotAfter = a.ends
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
	if err != nil {
		return nil, err
	}
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return append(leaf, a.chainPEM...), nil
}

// Issue makes a new key and its certificate for a workload's SPIFFE URI; ttl
// as in Request.
func (c *CA) Issue(uri string, ttl time.Duration) (KeyPair, error) {
	return c.Pair(Request{URI: uri, TTL: ttl})
}

// IssueControlPlane makes the control plane's pair for port 15012: its URI
// and the DNS names under which proxies reach it, for the longest lifetime, so
// that it is never refused. It has the URI of each alias of the trust domain
// too: a proxy knows the URI of the trust domain that it was started with.
func (c *CA) IssueControlPlane(trustDomain, namespace string, aliases ...string) (KeyPair, error) {
	var names []string
	for _, name := range []string{"istio-pilot", "istiod", "istio-citadel"} {
		names = append(names, name+"."+namespace+".svc", name+"."+namespace)
	}
	r := Request{URI: ControlPlaneURI(trustDomain, namespace), DNSNames: names, TTL: c.options.Lifetimes.Max}
	for _, alias := range aliases {
		r.Aliases = append(r.Aliases, ControlPlaneURI(alias, namespace))
	}
	return c.Pair(r)
}

// Pair makes a new key, in place of the request's, and its certificate.
func (c *CA) Pair(r Request) (KeyPair, error) {
	// A key costs more than a refusal.
	if _, err := c.template(r); err != nil {
		c.counts.refused.Add(1)
		return KeyPair{}, err
	}
	key, err := c.options.KeyType.generate()
	if err != nil {
		return KeyPair{}, err
	}
	r.Key = key.Public()
	a := c.current.Load() // of chain and roots alike
	chain, err := c.signBy(a, r)
	if err != nil {
		return KeyPair{}, err
	}
	keyPEM, err := EncodeKey(key)
	if err != nil {
		return KeyPair{}, err
	}
	return KeyPair{URI: r.URI, CertChain: chain, Key: keyPEM, Roots: a.rootsPEM}, nil
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
	return &tls.Config{
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    c.current.Load().pool,
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2"},
	}, nil
}

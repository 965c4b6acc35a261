package inspect

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// fits says in plain words why the key is not that of the certificate. What a
// parser says of a key is not repeated: it could tell of its bytes.
func fits(key []byte, c *x509.Certificate) error {
	block, _ := pem.Decode(key)
	if block == nil {
		return errors.New("the key is not PEM")
	}
	parsed, err := parseKey(block.Bytes)
	if err != nil {
		return err
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return errors.New("the key cannot sign")
	}
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(c.PublicKey) {
		return errors.New("the key does not fit: it belongs to another certificate")
	}
	return nil
}

func parseKey(der []byte) (any, error) {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	return nil, errors.New("the key cannot be parsed as PKCS #8, SEC 1 or PKCS #1")
}

func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) && signedBy(c, c)
}

// signedBy looks at the signature alone; what else stands against an issuer is
// said apart.
func signedBy(c, issuer *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, issuer.RawSubject) &&
		issuer.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// path is from a certificate up to a root, both included: the one that works
// longest, or nil.
func path(c *x509.Certificate, between, roots []*x509.Certificate) []*x509.Certificate {
	var best []*x509.Certificate
	longer := func(p []*x509.Certificate) {
		if best == nil || end(p).NotAfter.After(end(best).NotAfter) {
			best = p
		}
	}
	for _, root := range roots {
		switch {
		case c.Equal(root):
			longer([]*x509.Certificate{c})
		case signedBy(c, root):
			longer([]*x509.Certificate{c, root})
		}
	}
	for i, issuer := range between {
		if c.Equal(issuer) || !signedBy(c, issuer) {
			continue
		}
		others := slices.Delete(slices.Clone(between), i, i+1)
		if rest := path(issuer, others, roots); rest != nil {
			longer(append([]*x509.Certificate{c}, rest...))
		}
	}
	return best
}

// end is the certificate of a path that ends first.
func end(path []*x509.Certificate) *x509.Certificate {
	return slices.MinFunc(path, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
}

// last follows the issuers within the chain as far as they go.
func last(c *x509.Certificate, between []*x509.Certificate) *x509.Certificate {
	for i, issuer := range between {
		if !c.Equal(issuer) && signedBy(c, issuer) {
			return last(issuer, slices.Delete(slices.Clone(between), i, i+1))
		}
	}
	return c
}

// whyNoPath says in plain words why no root vouches for the certificate.
func whyNoPath(c *x509.Certificate, between, roots []*x509.Certificate) string {
	top := last(c, between)
	what := "it"
	if top != c {
		what = "its issuer " + nameOf(top)
	}
	for _, root := range roots {
		if bytes.Equal(root.RawSubject, top.RawIssuer) && !top.Equal(root) {
			return fmt.Sprintf("no given root has signed %s: there is a root of the issuer's name, %s, but with another key", what, nameOf(root))
		}
	}
	if selfSigned(top) {
		return fmt.Sprintf("no given root has signed %s: it is signed by itself, and not among the roots", what)
	}
	return fmt.Sprintf("no given root has signed %s: it is issued by %s, which is neither in the chain nor among the roots", what, issuerOf(top))
}

// verify is what a peer does; the words above come first, for they say more.
func verify(path []*x509.Certificate, now time.Time) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(path[len(path)-1])
	for _, c := range path[1:] {
		between.AddCert(c)
	}
	for _, usage := range []struct {
		name string
		of   x509.ExtKeyUsage
	}{{"server", x509.ExtKeyUsageServerAuth}, {"client", x509.ExtKeyUsageClientAuth}} {
		_, err := path[0].Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage.of},
		})
		if err != nil {
			return fmt.Errorf("peers refuse it as a %s: %w", usage.name, err)
		}
	}
	return nil
}

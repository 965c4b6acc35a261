package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// KeyType is the kind of keys that a CA makes, for itself and for leaves.
type KeyType uint8

const (
	// ECDSA keys are on the curve P-256.
	ECDSA KeyType = iota
	// RSA keys have 2048 bits.
	RSA
)

const (
	rsaBits    = 2048
	maxRSABits = 8192 // whoever verifies pays for more
)

// String is the type as flags say it.
func (k KeyType) String() string {
	if k == RSA {
		return "rsa"
	}
	return "ecdsa"
}

// ParseKeyType reads ecdsa or rsa.
func ParseKeyType(s string) (KeyType, error) {
	switch s {
	case "ecdsa":
		return ECDSA, nil
	case "rsa":
		return RSA, nil
	}
	return ECDSA, fmt.Errorf("key type %q is neither ecdsa nor rsa", s)
}

func (k KeyType) generate() (crypto.Signer, error) {
	var key crypto.Signer
	var err error
	if k == RSA {
		key, err = rsa.GenerateKey(rand.Reader, rsaBits)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return key, nil
}

// CheckKey says why a CA does not certify a public key: it must be RSA of at
// least 2048 bits, or ECDSA on P-256 or P-384.
func CheckKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < rsaBits || bits > maxRSABits {
			return fmt.Errorf("the RSA key has %d bits, want %d to %d", bits, rsaBits, maxRSABits)
		}
		return nil
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return fmt.Errorf("the ECDSA key is on %s, want P-256 or P-384", k.Curve.Params().Name)
		}
		return nil
	}
	return fmt.Errorf("the key is %T, want RSA or ECDSA", key)
}

// ParseKey reads a private key, RSA or ECDSA, from PEM: PKCS #8, PKCS #1 or
// SEC 1. It keeps the parser's own text out of its error: only the reason in
// our words, so that no key byte can leak.
func ParseKey(keyPEM []byte) (crypto.Signer, error) {
	for {
		var block *pem.Block
		block, keyPEM = pem.Decode(keyPEM)
		if block == nil {
			return nil, errors.New("no PEM key in it")
		}
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return nil, errors.New("the key is encrypted")
		default:
			continue // "EC PARAMETERS", or a certificate
		}
		if err != nil {
			return nil, errors.New("the key cannot be parsed")
		}
		switch k := key.(type) {
		case *rsa.PrivateKey:
			return k, nil
		case *ecdsa.PrivateKey:
			return k, nil
		}
		return nil, errors.New("the key is neither RSA nor ECDSA")
	}
}

// EncodeKey is a private key as PEM of PKCS #8.
func EncodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, errors.New("the key cannot be encoded")
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseCertificates reads all certificates of a PEM file, at least one. Other
// blocks are skipped. With an error come those that stand before it.
func ParseCertificates(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return out, fmt.Errorf("certificate %d cannot be parsed: %w", len(out)+1, err)
		}
		out = append(out, cert)
	}
	if len(out) == 0 {
		return nil, errors.New("no PEM certificate in it")
	}
	return out, nil
}

func encodeCertificates(certs []*x509.Certificate) []byte {
	var out []byte
	for _, cert := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return out
}

// fits says whether a private key is of a certificate.
func fits(key crypto.Signer, cert *x509.Certificate) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(cert.PublicKey)
}

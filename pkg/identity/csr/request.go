package csr

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/meshpilot/pilot/pkg/identity"
)

// The tags of the names in a SAN extension, RFC 5280 section 4.2.1.6.
const (
	tagEmail = 1
	tagDNS   = 2
	tagURI   = 6
	tagIP    = 7
)

// parse reads a request that is worth a certificate: well formed, signed with
// a key that is strong enough, and for no CA.
func parse(text string) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
		return nil, errors.New("it has no PEM block of type CERTIFICATE REQUEST")
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := identity.CheckKey(r.PublicKey); err != nil {
		return nil, err
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the signature is not of its key: %w", err)
	}
	if wantsCA(r) {
		return nil, errors.New("it asks for a CA certificate")
	}
	return r, nil
}

// wantsCA looks at the extensions that make a CA: the basic constraint, and
// the key usage of signing certificates.
func wantsCA(r *x509.CertificateRequest) bool {
	for _, e := range r.Extensions {
		switch {
		case e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 19}):
			var constraints struct {
				CA  bool `asn1:"optional"`
				Len int  `asn1:"optional,default:-1"`
			}
			if rest, err := asn1.Unmarshal(e.Value, &constraints); err != nil || len(rest) > 0 || constraints.CA {
				return true
			}
		case e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 15}):
			const signCertificates = 5
			var usage asn1.BitString
			if rest, err := asn1.Unmarshal(e.Value, &usage); err != nil || len(rest) > 0 || usage.At(signCertificates) == 1 {
				return true
			}
		}
	}
	return false
}

// names are all names that the request wants in its certificate, also those
// that package x509 does not read.
func names(r *x509.CertificateRequest) ([]string, error) {
	var out []string
	for _, e := range r.Extensions {
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		var all []asn1.RawValue
		if rest, err := asn1.Unmarshal(e.Value, &all); err != nil || len(rest) > 0 {
			return nil, errors.New("the SAN extension is malformed")
		}
		for _, name := range all {
			out = append(out, nameOf(name))
		}
	}
	return out, nil
}

func nameOf(v asn1.RawValue) string {
	if v.Class == asn1.ClassContextSpecific {
		switch v.Tag {
		case tagEmail, tagDNS, tagURI:
			return printable(v.Bytes)
		case tagIP:
			if len(v.Bytes) == net.IPv4len || len(v.Bytes) == net.IPv6len {
				return net.IP(v.Bytes).String()
			}
		}
	}
	return "name of type " + strconv.Itoa(v.Tag)
}

// printable keeps what a caller wrote from breaking a log line or an answer.
func printable(b []byte) string {
	quoted := strconv.QuoteToASCII(string(b))
	return quoted[1 : len(quoted)-1]
}

// stranger is the first name that is not allowed, short enough for an answer.
func stranger(names, allowed []string) (string, bool) {
	i := slices.IndexFunc(names, func(n string) bool { return !slices.Contains(allowed, n) })
	if i < 0 {
		return "", false
	}
	const most = 256
	return names[i][:min(len(names[i]), most)], true
}

func blocks(chain []byte) (out []*pem.Block) {
	for {
		var block *pem.Block
		if block, chain = pem.Decode(bytes.TrimSpace(chain)); block == nil {
			return out
		}
		out = append(out, block)
	}
}

// Package inspect reads certificates as people keep them, and judges them: who
// they are for, when they end, when they are renewed, and what is wrong with
// them, in plain words. No private key leaves it.
package inspect

import (
	"crypto/x509"
	"strings"
	"time"
)

// Set is the certificates of one holder, as PEM.
type Set struct {
	Name  string // of the holder: a directory, a Secret, a proxy
	Chain []byte // the leaf, then intermediates; of an Authority its own certificate, then its issuers
	Key   []byte
	Roots []byte
	// NoKey says why there is no key although there should be one; without it
	// and without Key nobody looks at keys.
	NoKey string
	// Authority says that the chain is that of a CA and has no leaf.
	Authority bool
	// Namespace and Account are whose identity the leaf must have; empty if
	// that is not known.
	Namespace, Account string
	// Presented says that a proxy showed the chain when its connection began:
	// its files may have a later one by now. The roots are those of another
	// holder that is shown too.
	Presented bool
}

// Rules are what certificates are judged by.
type Rules struct {
	Now      time.Time
	Ratio    float64       // a leaf is renewed when less than this share of its life is left,
	MinGrace time.Duration // or less than this
	// TrustDomains are those that identities may be of; empty: any.
	TrustDomains []string
}

// Report is what became of all sets.
type Report struct {
	Holders []Holder `json:"holders"`
	// FirstOutage is what ends first if nothing is renewed; nil without
	// certificates.
	FirstOutage *Outage `json:"firstOutage,omitempty"`
}

// Holder is one set, judged.
type Holder struct {
	Name         string        `json:"name"`
	Certificates []Certificate `json:"certificates"`
	Problems     []Problem     `json:"problems"`
	Outage       *Outage       `json:"outage,omitempty"`
}

// Outage is the moment from which peers refuse a holder, and why.
type Outage struct {
	At     time.Time `json:"at"`
	Holder string    `json:"holder"`
	Reason string    `json:"reason"`
	// Presented is the set's: the holder may have been renewed.
	Presented bool `json:"presented,omitempty"`
}

// Role is what a certificate is in its set.
type Role string

// The roles.
const (
	Leaf         Role = "leaf"
	Intermediate Role = "intermediate"
	Root         Role = "root"
	Authority    Role = "ca"
)

// Certificate is what one certificate says.
type Certificate struct {
	Role      Role      `json:"role"`
	Identity  string    `json:"identity,omitempty"` // URI names, with a comma between several
	Subject   string    `json:"subject,omitempty"`
	Issuer    string    `json:"issuer"` // "itself" if it is self-signed
	Serial    string    `json:"serial"` // hexadecimal
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	// Renewal is when a leaf is renewed at the latest.
	Renewal time.Time `json:"renewal,omitzero"`
}

// Severity says whether peers refuse the holder.
type Severity string

// The severities.
const (
	Error   Severity = "error"   // refused, now or as soon as somebody looks
	Warning Severity = "warning" // it works now
)

// Problem is one thing that is wrong with a set.
type Problem struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`
}

// Failed says whether a problem is an error, or something ends within the
// time. What was only presented does not count for that.
func (r Report) Failed(now time.Time, within time.Duration) bool {
	for _, h := range r.Holders {
		for _, p := range h.Problems {
			if p.Severity == Error {
				return true
			}
		}
		if o := h.Outage; within > 0 && o != nil && !o.Presented && !o.At.After(now.Add(within)) {
			return true
		}
	}
	return false
}

func describe(role Role, c *x509.Certificate) Certificate {
	d := Certificate{
		Role: role, Identity: identityOf(c), Subject: c.Subject.String(), Issuer: issuerOf(c),
		Serial: c.SerialNumber.Text(16), NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(),
	}
	return d
}

func identityOf(c *x509.Certificate) string {
	uris := make([]string, len(c.URIs))
	for i, u := range c.URIs {
		uris[i] = u.String()
	}
	return strings.Join(uris, ",")
}

func issuerOf(c *x509.Certificate) string {
	if selfSigned(c) {
		return "itself"
	}
	if c.Issuer.String() == "" {
		return "a CA without a name"
	}
	return c.Issuer.String()
}

// nameOf is what problems call a certificate.
func nameOf(c *x509.Certificate) string {
	switch {
	case c.Subject.String() != "":
		return c.Subject.String()
	case len(c.URIs) > 0:
		return identityOf(c)
	case len(c.DNSNames) > 0:
		return c.DNSNames[0]
	}
	return "serial " + c.SerialNumber.Text(16)
}

package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"time"
)

const (
	// DefaultGraceRatio is the part of a life that is left at renewal.
	DefaultGraceRatio = 0.5
	// DefaultMinGrace is the least that is left at renewal.
	DefaultMinGrace = 10 * time.Minute

	jitterPart = 0.05 // of a life; renewals spread over so much
)

// Renewal says when a certificate is replaced.
type Renewal struct {
	Ratio    float64       // of the life that must be left
	MinGrace time.Duration // what must be left at least
}

// Check says why the ratio cannot be one.
func (r Renewal) Check() error {
	if !(r.Ratio >= 0 && r.Ratio <= 1) {
		return fmt.Errorf("workload cert grace period ratio %v should be within [0, 1]", r.Ratio)
	}
	return nil
}

// Unusual says whether the ratio leaves little time to renew, or little of
// the life to use.
func (r Renewal) Unusual() bool { return r.Ratio < 0.2 || r.Ratio > 0.8 }

// Life is how long a certificate is valid after it was issued, without what
// it is dated back.
func Life(cert *x509.Certificate) time.Duration {
	life := cert.NotAfter.Sub(cert.NotBefore)
	if life > backdate {
		life -= backdate
	}
	return life
}

// At is when a certificate is due for renewal: earlier by up to 5 % of its
// life, always the same for the same name, so that those that were issued
// together are not renewed together.
func (r Renewal) At(cert *x509.Certificate, name string) time.Time {
	life := Life(cert)
	grace := max(time.Duration(r.Ratio*float64(life)), r.MinGrace)
	sum := sha256.Sum256([]byte(name))
	part := float64(binary.BigEndian.Uint32(sum[:])) / (1 << 32)
	return cert.NotAfter.Add(-grace - time.Duration(part*jitterPart*float64(life)))
}

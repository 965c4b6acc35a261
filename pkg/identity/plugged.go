package identity

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// Files are a CA that was made elsewhere: PEM files.
type Files struct {
	SigningCert, SigningKey string
	RootCert                string // one root or several
	CertChain               string // between signing certificate and root; may be empty
}

// pollTime is how often the files are looked at: they are on volumes where
// watches miss changes.
const pollTime = 5 * time.Second

// LoadCA reads and checks a CA that was made elsewhere. An error names the
// file that is wrong, or says what is missing.
func LoadCA(f Files, o Options) (*CA, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	a, err := f.read().authority(f)
	if err != nil {
		return nil, err
	}
	ca := newCA(o, a)
	ca.origin = origin{names: f, read: f.read, signing: fileKey(f.SigningCert), roots: fileKey(f.RootCert)}
	return ca, nil
}

func (f Files) check() error {
	switch {
	case f.SigningCert == "":
		return errors.New("no signing cert has been specified")
	case f.SigningKey == "":
		return errors.New("no signing key has been specified")
	case f.RootCert == "":
		return errors.New("no root cert has been specified")
	}
	return nil
}

// contents are the files as they were read, in the order of Files.
type contents struct {
	cert, key, roots, chain []byte
	err                     error
}

func (f Files) read() contents {
	var c contents
	for _, file := range []struct {
		path string
		into *[]byte
	}{{f.SigningCert, &c.cert}, {f.SigningKey, &c.key}, {f.RootCert, &c.roots}, {f.CertChain, &c.chain}} {
		if file.path == "" {
			continue
		}
		text, err := os.ReadFile(file.path)
		*file.into, c.err = text, errors.Join(c.err, err)
	}
	return c
}

// sum tells contents apart without keeping keys around.
func (c contents) sum() [sha256.Size]byte {
	h := sha256.New()
	for _, text := range [][]byte{c.cert, c.key, c.roots, c.chain} {
		fmt.Fprintf(h, "%d ", len(text))
		h.Write(text)
	}
	fmt.Fprint(h, c.err)
	return [sha256.Size]byte(h.Sum(nil))
}

// authority is what the files make, if all of it holds together.
func (c contents) authority(f Files) (*authority, error) {
	if c.err != nil {
		return nil, c.err
	}
	certs, err := ParseCertificates(c.cert)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.SigningCert, err)
	}
	cert := certs[0]
	key, err := ParseKey(c.key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.SigningKey, err)
	}
	roots, err := ParseCertificates(c.roots)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.RootCert, err)
	}
	between := certs[1:]
	if f.CertChain != "" {
		more, err := ParseCertificates(c.chain)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.CertChain, err)
		}
		between = slices.Concat(between, more)
	}
	if err := f.checkCerts(cert, key, roots, between, time.Now()); err != nil {
		return nil, err
	}
	a := newAuthority(cert, key, intermediates(cert, between, roots), roots)
	if a.ends, err = a.path(time.Now()); err != nil {
		return nil, f.noPath(between, err)
	}
	return a, nil
}

func (f Files) checkCerts(cert *x509.Certificate, key crypto.Signer, roots, between []*x509.Certificate, now time.Time) error {
	if err := usableCA(cert, now); err != nil {
		return fmt.Errorf("%s: %w", f.SigningCert, err)
	}
	if !fits(key, cert) {
		return fmt.Errorf("%s does not fit %s: it is another certificate's key", f.SigningKey, f.SigningCert)
	}
	for i, root := range roots {
		if !root.IsCA {
			return fmt.Errorf("%s: certificate %d (%s) is not a CA", f.RootCert, i+1, root.Subject)
		}
	}
	for i, c := range between {
		if err := usableCA(c, now); err != nil {
			return fmt.Errorf("%s: certificate %d (%s): %w", f.chainFile(), i+1, c.Subject, err)
		}
	}
	return nil
}

func usableCA(cert *x509.Certificate, now time.Time) error {
	switch {
	case !cert.IsCA:
		return errors.New("the certificate is not a CA")
	case cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("the certificate may not sign certificates: its key usage says so")
	case now.After(cert.NotAfter):
		return fmt.Errorf("the certificate has expired at %s", cert.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(cert.NotBefore):
		return fmt.Errorf("the certificate is not valid before %s", cert.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

func (f Files) chainFile() string {
	if f.CertChain != "" {
		return f.CertChain
	}
	return f.SigningCert
}

// noPath says in which file the link from signing certificate to root is
// missing, as far as that can be known.
func (f Files) noPath(between []*x509.Certificate, err error) error {
	files := f.SigningCert
	if len(between) > 0 {
		files += " with " + f.chainFile()
	}
	return fmt.Errorf("%s does not lead to a root in %s: %w", files, f.RootCert, err)
}

// intermediates are what peers need besides a leaf and a root: no root, and
// nothing twice.
func intermediates(cert *x509.Certificate, between, roots []*x509.Certificate) []*x509.Certificate {
	var out []*x509.Certificate
	for _, c := range append([]*x509.Certificate{cert}, between...) {
		if !slices.ContainsFunc(roots, c.Equal) && !slices.ContainsFunc(out, c.Equal) {
			out = append(out, c)
		}
	}
	return out
}

// path signs a leaf for nobody and verifies it as peers would, so that limits
// on the length of the chain or on usages show here and not at the peers. It
// gives the end of the path that lasts longest.
func (a *authority) path(now time.Time) (ends time.Time, err error) {
	template := leafTemplate(now, time.Minute)
	chain, err := a.sign(template, a.key.Public())
	if err != nil {
		return ends, err
	}
	certs, err := ParseCertificates(chain)
	if err != nil {
		return ends, err
	}
	between := x509.NewCertPool()
	for _, c := range a.chain {
		between.AddCert(c)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		paths, err := certs[0].Verify(x509.VerifyOptions{
			Roots: a.pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
		})
		if err != nil {
			return ends, err
		}
		for _, path := range paths {
			end := path[1].NotAfter
			for _, c := range path[1:] {
				end = earliest(end, c.NotAfter)
			}
			if end.After(ends) {
				ends = end
			}
		}
	}
	return ends, nil
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// Follow looks at where the CA came from until ctx ends, and takes a change
// that holds together; else what was accepted stays in force, and Problems
// says so. changed is called after either. For a CA that nobody else changes,
// of a state directory or in memory, it returns at once.
func (c *CA) Follow(ctx context.Context, changed func()) {
	if c.origin.read == nil {
		return
	}
	tick := time.NewTicker(pollTime)
	defer tick.Stop()
	accepted := c.origin.read().sum()
	last, doubtful := accepted, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		found := c.origin.read()
		sum := found.sum()
		if sum == last && !doubtful {
			continue
		}
		a, err := found.authority(c.origin.names)
		// Files change one after the other: what does not fit is looked at
		// twice before anybody hears of it.
		doubtful = err != nil && sum != last
		last = sum
		switch {
		case err == nil && sum == accepted: // as it was, after trouble
			c.trouble.Store(nil)
			changed()
		case err == nil:
			accepted = sum
			a.generation = c.current.Load().generation + 1
			c.current.Store(a)
			c.trouble.Store(nil)
			changed()
		case !doubtful:
			text := err.Error()
			c.trouble.Store(&text)
			changed()
		}
	}
}

package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
)

// settle is how long Envoy gets to read changed roots before the leaf
// changes: it takes milliseconds, and checks each against the other.
const settle = 2 * time.Second

// Files are the paths of what Envoy reads, in one directory. They are links
// into its directory ..data, as in a Secret volume.
type Files struct{ CertChain, Key, RootCert string }

// checked are the absolute paths.
func (f Files) checked() (Files, error) {
	for _, path := range []*string{&f.CertChain, &f.Key, &f.RootCert} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return f, err
		}
		*path = abs
	}
	if f.dir() != filepath.Dir(f.Key) || f.dir() != filepath.Dir(f.RootCert) {
		return f, fmt.Errorf("%s, %s and %s are in different directories; "+
			"they must be in one, because it is replaced in one step", f.CertChain, f.Key, f.RootCert)
	}
	if f.CertChain == f.Key || f.CertChain == f.RootCert || f.Key == f.RootCert {
		return f, fmt.Errorf("%s, %s and %s must be three files", f.CertChain, f.Key, f.RootCert)
	}
	return f, nil
}

func (f Files) dir() string { return filepath.Dir(f.CertChain) }

// roots are what the CA is verified against. An operator may have put a new
// file in place of the link.
func (f Files) roots() ([]byte, error) {
	roots, err := os.ReadFile(f.RootCert)
	if err != nil {
		return nil, fmt.Errorf("the root certificates: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(roots) {
		return nil, fmt.Errorf("the root certificates: %s has none", f.RootCert)
	}
	return roots, nil
}

// pair is a key pair that fits.
type pair struct {
	identity.KeyPair
	leaf *x509.Certificate
	tls  tls.Certificate
}

func (p pair) uri() string { return p.KeyPair.URI }

// newPair checks that key and leaf fit.
func newPair(chain, key, roots []byte) (pair, error) {
	cert, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return pair{}, errors.New("certificate and key do not parse, or do not fit") // its own text may quote the files
	}
	p := pair{KeyPair: identity.KeyPair{CertChain: chain, Key: key, Roots: roots}, leaf: cert.Leaf, tls: cert}
	if len(cert.Leaf.URIs) == 1 {
		p.URI = cert.Leaf.URIs[0].String()
	}
	return p, nil
}

// verify says why the roots do not verify the leaf now.
func (p pair) verify(roots []byte) error {
	return verify(p.leaf, p.tls.Certificate[1:], roots, time.Now())
}

func verify(leaf *x509.Certificate, intermediates [][]byte, roots []byte, now time.Time) error {
	o := x509.VerifyOptions{
		Roots:         x509.NewCertPool(),
		Intermediates: x509.NewCertPool(),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	o.Roots.AppendCertsFromPEM(roots)
	for _, der := range intermediates {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("an intermediate certificate: %w", err)
		}
		o.Intermediates.AddCert(c)
	}
	_, err := leaf.Verify(o)
	return err
}

// shown is what Envoy reads now, with the roots beside it. The names that
// people open come after ..data, and a killed agent may not have made them.
func (f Files) shown() (pair, error) {
	var content [3][]byte
	for i, path := range []string{f.CertChain, f.Key, f.RootCert} {
		var err error
		content[i], err = os.ReadFile(filepath.Join(f.dir(), "..data", filepath.Base(path)))
		if errors.Is(err, fs.ErrNotExist) {
			content[i], err = os.ReadFile(path)
		}
		if err != nil {
			return pair{}, err
		}
	}
	return newPair(content[0], content[1], content[2])
}

// present is the pair that is shown, if it is good for Envoy and the CA.
func (a *agent) present() (pair, error) {
	p, err := a.Files.shown()
	if err != nil {
		return pair{}, err
	}
	roots, err := a.Files.roots()
	if err != nil {
		return pair{}, err
	}
	return p, p.verify(roots)
}

// install shows the next pair. Roots change first and alone, and keep those of
// the present leaf until the renewal after: Envoy checks leaf and roots
// against each other, and each must have a partner at any time.
func (a *agent) install(ctx context.Context, next pair) error {
	dir := identity.Dir{
		Path:      a.Files.dir(),
		CertChain: filepath.Base(a.Files.CertChain),
		Key:       filepath.Base(a.Files.Key),
		RootCert:  filepath.Base(a.Files.RootCert),
	}
	now, err := a.Files.shown()
	if err == nil && !bytes.Equal(now.Roots, next.Roots) {
		if now.verify(next.Roots) != nil {
			next.Roots = append(lines(next.Roots), now.Roots...)
		}
		now.Roots = next.Roots
		if err := dir.Publish(now.KeyPair); err != nil {
			return err
		}
		a.Log.Info("root certificates changed")
		sleepUntil(ctx, time.Now().Add(settle))
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return dir.Publish(next.KeyPair)
}

// lines are the PEM, complete to the end of its last line.
func lines(pem []byte) []byte {
	if !bytes.HasSuffix(pem, []byte("\n")) {
		return append(bytes.Clone(pem), '\n')
	}
	return bytes.Clone(pem)
}

// warnIfLoose tells of a secret that other users can read.
func (a *agent) warnIfLoose(path, what string) {
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		a.Log.Warn("other users can read the "+what+"; chmod 600 it, and replace it", "file", path, "mode", info.Mode().Perm().String())
	}
}

package secrets

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
)

// TestReplaceRoot goes the way of operators: both roots, the next signing
// certificate, only its root. No write changes leaf and roots together.
func TestReplaceRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, next := caFiles(t), caFiles(t)
		files := caFiles(t) // only for its names
		put := func(path string, parts ...string) {
			t.Helper()
			var text []byte
			for _, part := range parts {
				more, err := os.ReadFile(part)
				if err != nil {
					t.Fatal(err)
				}
				text = append(text, more...)
			}
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		put(files.SigningCert, old.SigningCert)
		put(files.SigningKey, old.SigningKey)
		files.RootCert = filepath.Join(t.TempDir(), "root-cert.pem")
		put(files.RootCert, old.RootCert)
		ca, err := identity.LoadCA(files, identity.Options{})
		if err != nil {
			t.Fatal(err)
		}
		b := start(t, ca, nil)
		go ca.Follow(t.Context(), b.c.Wake)
		b.accounts(cart())
		last, _ := b.read(cart())
		step := func(what string, wait time.Duration, leaf, roots bool) {
			t.Helper()
			b.after(wait)
			now, _ := b.read(cart())
			if got := !bytes.Equal(now.CertChain, last.CertChain); got != leaf || got == bytes.Equal(now.Key, last.Key) {
				t.Errorf("%s: new leaf %v, want %v", what, got, leaf)
			}
			if got := !bytes.Equal(now.Roots, last.Roots); got != roots {
				t.Errorf("%s: new roots %v, want %v", what, got, roots)
			}
			last = now
		}
		step("nothing", 5*time.Minute, false, false)
		put(files.RootCert, old.RootCert, next.RootCert)
		step("both roots", 10*time.Second, false, true)
		step("both roots, later", 5*time.Minute, false, false)
		put(files.SigningCert, next.SigningCert)
		put(files.SigningKey, next.SigningKey)
		step("next signing certificate, at once", 10*time.Second, false, false)
		step("next signing certificate, at the resync", time.Minute, true, false)
		put(files.RootCert, next.RootCert)
		step("only the next root", 10*time.Second, false, true)
		step("only the next root, later", 5*time.Minute, false, false)
		b.want("no problems", b.codes() == "")
	})
}

// TestReplaceRootInHaste: without the step in between the leaf is of no use
// with the new roots, so it is new at once.
func TestReplaceRootInHaste(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := Directory{t.TempDir()}
		old := newCA(t)
		p := issue(t, old, cart())
		if _, err := dir.Create(t.Context(), Secret{cart(), p.CertChain, p.Key, p.Roots}); err != nil {
			t.Fatal(err)
		}
		b := start(t, newCA(t), func(o *Options) { o.Store = dir })
		b.dir = dir
		b.accounts(cart())
		s, _ := b.read(cart())
		if f := inspect(s, b.ca, identity.Renewal{}); f.unusable != "" || !f.current || !bytes.Equal(s.Roots, b.ca.Roots()) {
			t.Errorf("%+v", f)
		}
	})
}

// caFiles are the files of a new self-signed CA.
func caFiles(t *testing.T) identity.Files {
	t.Helper()
	dir := t.TempDir()
	if _, err := identity.OpenCA(dir, identity.Options{}); err != nil {
		t.Fatal(err)
	}
	cert := filepath.Join(dir, "ca-cert.pem")
	return identity.Files{SigningCert: cert, SigningKey: filepath.Join(dir, "ca-key.pem"), RootCert: cert}
}

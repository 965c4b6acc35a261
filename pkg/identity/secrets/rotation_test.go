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

// changing is a mesh whose CA is in files, under one controller.
type changing struct {
	*bed
	files, old, next identity.Files
	last             Secret
}

func startChanging(t *testing.T) *changing {
	c := &changing{files: caFiles(t), old: caFiles(t), next: caFiles(t)}
	c.files.RootCert = filepath.Join(t.TempDir(), "root-cert.pem")
	c.sign(t, c.old)
	c.trust(t, c.old)
	ca, err := identity.LoadCA(c.files, identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c.bed = start(t, ca, nil)
	go ca.Follow(t.Context(), c.c.Wake)
	c.accounts(cart())
	c.last, _ = c.read(cart())
	return c
}

// sign makes another CA the one that signs.
func (c *changing) sign(t *testing.T, by identity.Files) {
	put(t, c.files.SigningCert, by.SigningCert)
	put(t, c.files.SigningKey, by.SigningKey)
}

// trust makes the roots of these CAs the mesh's.
func (c *changing) trust(t *testing.T, cas ...identity.Files) {
	var roots []string
	for _, ca := range cas {
		roots = append(roots, ca.RootCert)
	}
	put(t, c.files.RootCert, roots...)
}

func put(t *testing.T, path string, parts ...string) {
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

// step waits, and says whether leaf and roots should have changed by then.
func (c *changing) step(what string, wait time.Duration, leaf, roots bool) {
	c.t.Helper()
	c.after(wait)
	now, _ := c.read(cart())
	if got := !bytes.Equal(now.CertChain, c.last.CertChain); got != leaf || got == bytes.Equal(now.Key, c.last.Key) {
		c.t.Errorf("%s: new leaf %v, want %v", what, got, leaf)
	}
	if got := !bytes.Equal(now.Roots, c.last.Roots); got != roots {
		c.t.Errorf("%s: new roots %v, want %v", what, got, roots)
	}
	c.last = now
}

// TestReplaceRoot goes the way of operators: both roots, the next signing
// certificate, only its root. No write changes leaf and roots together.
func TestReplaceRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startChanging(t)
		c.step("nothing", 5*time.Minute, false, false)
		c.trust(t, c.old, c.next)
		c.step("both roots", 10*time.Second, false, true)
		c.step("both roots, later", 5*time.Minute, false, false)
		c.sign(t, c.next)
		c.step("next signing certificate, at once", 10*time.Second, false, false)
		c.step("next signing certificate, at the resync", time.Minute, true, false)
		c.trust(t, c.next)
		c.step("only the next root", 10*time.Second, false, true)
		c.step("only the next root, later", 5*time.Minute, false, false)
		c.want("no problems", c.codes() == "")
	})
}

// TestTwoStepsAtOnce: the leaf waits until the roots were there for a resync.
func TestTwoStepsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startChanging(t)
		c.step("nothing", 5*time.Minute, false, false)
		c.trust(t, c.old, c.next)
		c.sign(t, c.next)
		c.step("at once", 10*time.Second, false, true)
		c.step("the first resync is too early", 70*time.Second, false, false)
		c.step("the second", time.Minute, true, false)
	})
}

// TestReplaceRootInHaste: without the step in between the leaf is of no use
// with the new roots, so it is new at once.
func TestReplaceRootInHaste(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := Directory{Path: t.TempDir()}
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

package agent

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
)

// state is what Envoy sees at one time, in letters: whose leaf, which roots.
func state(t *testing.T, a *agent, old, next *identity.CA) string {
	t.Helper()
	p, err := a.Files.shown()
	if err != nil {
		return "nothing"
	}
	leaf := "old leaf"
	if p.verify(old.Roots()) != nil {
		leaf = "new leaf"
	}
	var roots []string
	for name, ca := range map[string]*identity.CA{"new root": next, "old root": old} {
		if bytes.Contains(p.Roots, ca.Roots()) {
			roots = append(roots, name)
		}
	}
	if len(roots) == 2 {
		roots = []string{"both roots"}
	}
	if err := p.verify(p.Roots); err != nil {
		t.Errorf("%s with %v: %v", leaf, roots, err)
	}
	return leaf + ", " + strings.Join(roots, "")
}

// TestRootChange: roots change alone, and the leaf at least a moment later,
// however the CA goes about it.
func TestRootChange(t *testing.T) {
	const want = "old leaf, old root\nold leaf, both roots\nnew leaf, both roots\nnew leaf, new root"
	type step struct {
		signer *identity.CA
		roots  []byte
	}
	for name, steps := range map[string]func(old, next *identity.CA, both []byte) []step{
		"in order": func(old, next *identity.CA, both []byte) []step {
			return []step{{old, old.Roots()}, {old, both}, {next, both}, {next, next.Roots()}}
		},
		"all at once": func(old, next *identity.CA, _ []byte) []step {
			return []step{{old, old.Roots()}, {next, next.Roots()}, {next, next.Roots()}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				old, next := newSigner(t), newSigner(t)
				server := startCA(t, old)
				server.olds = old.Roots()
				a, _ := machine(t, server)
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				var seen []string
				for _, s := range steps(old, next, append(bytes.Clone(old.Roots()), next.Roots()...)) {
					server.set(func() { server.signer, server.roots = s.signer, s.roots })
					write(t, a.Token, []byte(token), 0o600)
					done := make(chan error, 1)
					go func() { _, err := a.renew(ctx); done <- err }()
					for range 10 {
						time.Sleep(settle / 4)
						if now := state(t, a, old, next); len(seen) == 0 || seen[len(seen)-1] != now {
							seen = append(seen, now)
						}
					}
					if err := <-done; err != nil {
						t.Fatal(err)
					}
				}
				if got := strings.Join(seen, "\n"); got != want {
					t.Errorf("Envoy saw\n%s\nwant\n%s", got, want)
				}
			})
		})
	}
}

// TestFirstRootFile: the operator's file becomes a link that follows the CA,
// also if it is put there again.
func TestFirstRootFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCA(t, newSigner(t))
		a, _ := machine(t, c)
		for range 2 {
			if _, err := a.renew(t.Context()); err != nil {
				t.Fatal(err)
			}
			if to, err := os.Readlink(a.Files.RootCert); err != nil || to != "..data/root-cert.pem" {
				t.Errorf("the root file links to %q, %v", to, err)
			}
			remove(t, a.Files.RootCert)
			write(t, a.Files.RootCert, c.roots, 0o644)
		}
	})
}

// TestKilledBeforeLinks: the names of a first publication are missing.
func TestKilledBeforeLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCA(t, newSigner(t))
		a, _ := machine(t, c)
		if _, err := a.renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		remove(t, a.Files.CertChain)
		remove(t, a.Files.Key)
		remove(t, a.Token)
		fits(t, a)
		if _, err := a.renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{a.Files.CertChain, a.Files.Key} {
			if _, err := os.Stat(path); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestLooseModes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCA(t, newSigner(t))
		a, log := machine(t, c)
		for _, step := range []struct{ path, warning string }{
			{a.Token, "other users can read the token"},
			{a.Files.Key, "other users can read the private key"},
		} {
			if _, err := a.renew(t.Context()); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(log.String(), step.warning) {
				t.Errorf("warned of mode 0600:\n%s", log)
			}
			if step.path == a.Token {
				write(t, a.Files.CertChain, nil, 0o644) // so it is the token again
			}
			if err := os.Chmod(step.path, 0o640); err != nil {
				t.Fatal(err)
			}
			if _, err := a.renew(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(log.String(), step.warning) {
				t.Errorf("no %q in\n%s", step.warning, log)
			}
		}
	})
}

func TestOptions(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "root-cert.pem"), newSigner(t).Roots(), 0o644)
	write(t, filepath.Join(dir, "garbage.pem"), []byte("garbage"), 0o644)
	fine := Options{
		CAAddress: "127.0.0.1:15012", GraceRatio: 0.5,
		Files: Files{dir + "/cert-chain.pem", dir + "/key.pem", dir + "/root-cert.pem"},
	}
	if _, err := newAgent(fine); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		text   string
		change func(*Options)
	}{
		{"are in different directories", func(o *Options) { o.Files.Key = dir + "/keys/key.pem" }},
		{"must be three files", func(o *Options) { o.Files.Key = o.Files.CertChain }},
		{"the root certificates: open " + dir + "/none.pem: no such file", func(o *Options) { o.Files.RootCert = dir + "/none.pem" }},
		{"the root certificates: " + dir + "/garbage.pem has none", func(o *Options) { o.Files.RootCert = dir + "/garbage.pem" }},
		{"workload cert grace period ratio 1.5 should be within [0, 1]", func(o *Options) { o.GraceRatio = 1.5 }},
		{"--key-size: an RSA key of 1024 bits: use 2048 to 8192", func(o *Options) { o.RSABits = 1024 }},
		{"--workload-cert-ttl -1h0m0s: give a lifetime above 0", func(o *Options) { o.TTL = -time.Hour }},
		{"--ca-address: address istiod: missing port in address; give host:port", func(o *Options) { o.CAAddress = "istiod" }},
		{"the Envoy binary: ", func(o *Options) { o.Envoy.Binary = dir + "/none" }},
		{"(--metrics-address)", func(o *Options) { o.MetricsAddress = "127.0.0.1:nowhere" }},
	} {
		o := fine
		c.change(&o)
		if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("error %v, want %q in it", err, c.text)
		}
	}
}

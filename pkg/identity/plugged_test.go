package identity

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// made is a CA certificate as another program would have made it.
type made struct {
	cert *x509.Certificate
	key  []byte
	sign func(template *x509.Certificate, public any) *x509.Certificate
}

// madeBy makes a CA certificate that parent signed; nil is itself. change
// makes it an unusual one.
func madeBy(t *testing.T, parent *made, name string, change func(*x509.Certificate)) *made {
	t.Helper()
	key, err := ECDSA.generate()
	if err != nil {
		t.Fatal(err)
	}
	serial, err := newSerial()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	if change != nil {
		change(template)
	}
	m := &made{}
	if m.key, err = EncodeKey(key); err != nil {
		t.Fatal(err)
	}
	m.sign = func(template *x509.Certificate, public any) *x509.Certificate {
		issuer := m.cert
		if issuer == nil {
			issuer = template
		}
		der, err := x509.CreateCertificate(rand.Reader, template, issuer, public, key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	if parent == nil {
		parent = m
	}
	m.cert = parent.sign(template, key.Public())
	return m
}

func pemOf(list ...*made) []byte {
	var certs []*x509.Certificate
	for _, m := range list {
		certs = append(certs, m.cert)
	}
	return encodeCertificates(certs)
}

// pluggedFiles writes a CA; nil content is no file.
func pluggedFiles(t *testing.T, cert, key, root, chain []byte) Files {
	t.Helper()
	dir := t.TempDir()
	f := Files{filepath.Join(dir, "ca-cert.pem"), filepath.Join(dir, "ca-key.pem"), filepath.Join(dir, "root-cert.pem"), ""}
	if chain != nil {
		f.CertChain = filepath.Join(dir, "cert-chain.pem")
	}
	rewrite(t, map[string][]byte{f.SigningCert: cert, f.SigningKey: key, f.RootCert: root, f.CertChain: chain})
	return f
}

func rewrite(t *testing.T, files map[string][]byte) {
	t.Helper()
	for name, text := range files {
		if text == nil {
			continue
		}
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLoadCA(t *testing.T) {
	root := madeBy(t, nil, "root", nil)
	middle := madeBy(t, root, "middle", nil)
	signing := madeBy(t, middle, "signing", nil)
	expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	other := madeBy(t, nil, "other root", nil)
	leafOnly := madeBy(t, root, "leaf", func(c *x509.Certificate) { c.IsCA = false; c.KeyUsage = 0 })
	old := madeBy(t, root, "old", expired)
	noSign := madeBy(t, root, "no sign", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
	tight := madeBy(t, root, "tight", func(c *x509.Certificate) { c.MaxPathLenZero = true })
	below := madeBy(t, tight, "below", nil)
	later := madeBy(t, root, "later", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })
	short := madeBy(t, middle, "short", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Hour) })

	for _, tc := range []struct {
		name                   string
		cert, key, root, chain []byte
		file, refused          string // file of Files, and what is said of it
		between                int
	}{
		{name: "the root itself", cert: pemOf(root), key: root.key, root: pemOf(root)},
		{name: "below the root", cert: pemOf(middle), key: middle.key, root: pemOf(root), between: 1},
		{name: "with a chain", cert: pemOf(signing), key: signing.key, root: pemOf(root), chain: pemOf(middle), between: 2},
		{name: "chain with root and itself", cert: pemOf(signing), key: signing.key, root: pemOf(root), chain: pemOf(signing, middle, root), between: 2},
		{name: "chain in the signing file", cert: pemOf(signing, middle), key: signing.key, root: pemOf(root), between: 2},
		{name: "several roots", cert: pemOf(middle), key: middle.key, root: pemOf(other, root), between: 1},
		{name: "no chain", cert: pemOf(signing), key: signing.key, root: pemOf(root), file: "ca-cert.pem", refused: " does not lead to a root in "},
		{name: "another root", cert: pemOf(signing), key: signing.key, root: pemOf(other), chain: pemOf(middle), file: "ca-cert.pem", refused: " with "},
		{name: "another key", cert: pemOf(middle), key: root.key, root: pemOf(root), file: "ca-key.pem", refused: " does not fit "},
		{name: "no CA", cert: pemOf(leafOnly), key: leafOnly.key, root: pemOf(root), file: "ca-cert.pem", refused: ": the certificate is not a CA"},
		{name: "may not sign", cert: pemOf(noSign), key: noSign.key, root: pemOf(root), file: "ca-cert.pem", refused: ": the certificate may not sign certificates: its key usage says so"},
		{name: "expired", cert: pemOf(old), key: old.key, root: pemOf(root), file: "ca-cert.pem", refused: ": the certificate has expired at "},
		{name: "not yet", cert: pemOf(later), key: later.key, root: pemOf(root), file: "ca-cert.pem", refused: ": the certificate is not valid before "},
		{name: "path too long", cert: pemOf(below), key: below.key, root: pemOf(root), chain: pemOf(tight), file: "ca-cert.pem", refused: " does not lead to a root in "},
		{name: "root no CA", cert: pemOf(middle), key: middle.key, root: pemOf(root, leafOnly), file: "root-cert.pem", refused: ": certificate 2 (CN=leaf) is not a CA"},
		{name: "expired in the chain", cert: pemOf(signing), key: signing.key, root: pemOf(root), chain: pemOf(middle, old), file: "cert-chain.pem", refused: ": certificate 2 (CN=old): the certificate has expired at "},
		{name: "no certificate", cert: []byte("x"), key: middle.key, root: pemOf(root), file: "ca-cert.pem", refused: ": no PEM certificate in it"},
		{name: "no key", cert: pemOf(middle), key: []byte("x"), root: pemOf(root), file: "ca-key.pem", refused: ": no PEM key in it"},
		{name: "a chain of nothing", cert: pemOf(middle), key: middle.key, root: pemOf(root), chain: []byte{}, file: "cert-chain.pem", refused: ": no PEM certificate in it"},
		{name: "no root file", cert: pemOf(middle), key: middle.key, file: "root-cert.pem", refused: ": no such file"},
		{name: "short-lived", cert: pemOf(short), key: short.key, root: pemOf(root), chain: pemOf(middle), between: 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := pluggedFiles(t, tc.cert, tc.key, tc.root, tc.chain)
			ca, err := LoadCA(f, Options{})
			if tc.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tc.refused) || !strings.Contains(err.Error(), filepath.Join(filepath.Dir(f.RootCert), tc.file)) {
					t.Errorf("error %v, want %s of %s", err, tc.refused, tc.file)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			pair := issue(t, ca, cart, 0)
			certs, err := ParseCertificates(pair.CertChain)
			if err != nil || len(certs) != 1+tc.between || ca.Verify(certs) != nil {
				t.Errorf("%d certificates, %v, %v, want %d between", len(certs), err, ca.Verify(certs), tc.between)
			}
			if !bytes.Equal(pair.Roots, tc.root) {
				t.Error("other roots than in the file")
			}
			if tc.name == "short-lived" && !certs[0].NotAfter.Equal(short.cert.NotAfter) {
				t.Errorf("leaf ends %s, its issuer %s", certs[0].NotAfter, short.cert.NotAfter)
			}
		})
	}
}

func TestMissingFiles(t *testing.T) {
	for want, f := range map[string]Files{
		"no signing cert has been specified": {},
		"no signing key has been specified":  {SigningCert: "a"},
		"no root cert has been specified":    {SigningCert: "a", SigningKey: "b"},
	} {
		if _, err := LoadCA(f, Options{}); err == nil || err.Error() != want {
			t.Errorf("%v: %v, want %s", f, err, want)
		}
	}
}

// TestFollow replaces a root as operators do, and in between does it wrong.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, next := madeBy(t, nil, "old", nil), madeBy(t, nil, "new", nil)
		f := pluggedFiles(t, pemOf(old), old.key, pemOf(old), nil)
		ca, err := LoadCA(f, Options{})
		if err != nil {
			t.Fatal(err)
		}
		changes := 0
		go ca.Follow(t.Context(), func() { changes++ })
		step := func(files map[string][]byte, wait time.Duration) {
			rewrite(t, files)
			time.Sleep(wait)
			synctest.Wait()
		}
		want := func(what string, n int, signer *made, roots []byte, problem string) {
			t.Helper()
			cert := leaf(t, issue(t, ca, cart, 0))
			if changes != n || cert.CheckSignatureFrom(signer.cert) != nil || !bytes.Equal(ca.Roots(), roots) {
				t.Errorf("%s: %d changes, want %d; signer or roots are others", what, changes, n)
			}
			problems := ca.Problems(time.Now())
			switch {
			case problem == "" && len(problems) > 0:
				t.Errorf("%s: %v", what, problems)
			case problem != "" && (len(problems) != 1 || problems[0].Code != "CA_INVALID" || !strings.Contains(problems[0].Message, problem)):
				t.Errorf("%s: %v, want %s", what, problems, problem)
			}
		}
		const a, b = pollTime + time.Second, 2*pollTime + time.Second
		step(nil, b)
		want("nothing changed", 0, old, pemOf(old), "")
		step(map[string][]byte{f.RootCert: pemOf(old, next)}, a)
		want("both roots", 1, old, pemOf(old, next), "")
		step(map[string][]byte{f.SigningCert: pemOf(next)}, pollTime)
		want("half of the next pair, just now", 1, old, pemOf(old, next), "")
		step(map[string][]byte{f.SigningKey: next.key}, a)
		want("next pair", 2, next, pemOf(old, next), "")
		step(map[string][]byte{f.RootCert: pemOf(old)}, b)
		want("the wrong root is gone", 3, next, pemOf(old, next), "does not lead to a root")
		step(nil, b)
		want("still", 3, next, pemOf(old, next), "does not lead to a root")
		step(map[string][]byte{f.RootCert: pemOf(next)}, a)
		want("the old root is gone", 4, next, pemOf(next), "")
	})
}

func TestProblems(t *testing.T) {
	ca, err := New(Options{RootTTL: 100 * time.Hour, Lifetimes: Lifetimes{Default: 24 * time.Hour, Max: 2 * time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	for after, want := range map[time.Duration]string{0: "", 79 * time.Hour: "", 81 * time.Hour: "expires at", 101 * time.Hour: "has expired at"} {
		problems := ca.Problems(time.Now().Add(after))
		if len(problems) == 0 || problems[0].Code != "TTL_ABOVE_MAX" || !problems[0].Error {
			t.Fatalf("%v, want TTL_ABOVE_MAX", problems)
		}
		switch rest := problems[1:]; {
		case want == "" && len(rest) > 0:
			t.Errorf("after %s: %v", after, rest)
		case want != "" && (len(rest) != 1 || rest[0].Code != "ROOT_EXPIRES" || !strings.Contains(rest[0].Message, want)):
			t.Errorf("after %s: %v, want ROOT_EXPIRES, %s", after, rest, want)
		}
	}
}

func TestRenewal(t *testing.T) {
	const h = time.Hour
	for _, tc := range []struct {
		life time.Duration
		r    Renewal
		left time.Duration // without jitter
	}{
		{19 * h, Renewal{0.5, 10 * time.Minute}, 9*h + 30*time.Minute},
		{15 * time.Minute, Renewal{0.5, 10 * time.Minute}, 10 * time.Minute},
		{19 * h, Renewal{0, 10 * time.Minute}, 10 * time.Minute},
		{19 * h, Renewal{1, 0}, 19 * h},
		{5 * time.Minute, Renewal{0.5, 10 * time.Minute}, 10 * time.Minute},
	} {
		now := time.Now()
		cert := leafTemplate(now, tc.life)
		seen := map[time.Time]bool{}
		for _, name := range []string{"a/istio.a", "a/istio.b", "b/istio.a", "c/istio.a"} {
			at := tc.r.At(cert, name)
			latest := cert.NotAfter.Add(-tc.left)
			if at.After(latest) || at.Before(latest.Add(-tc.life/20)) {
				t.Errorf("%s with %v: %s before the end, want %s and up to 5 %% more", tc.life, tc.r, cert.NotAfter.Sub(at), tc.left)
			}
			if seen[at] || at != tc.r.At(cert, name) {
				t.Errorf("%s: not spread, or not always the same", name)
			}
			seen[at] = true
		}
	}
	for ratio, want := range map[float64]string{
		0: "", 1: "", 1.5: "workload cert grace period ratio 1.5 should be within [0, 1]", -0.1: "workload cert grace period ratio -0.1 should be within [0, 1]",
	} {
		if err := (Renewal{Ratio: ratio}).Check(); (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("%v: %v, want %q", ratio, err, want)
		}
	}
}

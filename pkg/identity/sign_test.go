package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"testing"
	"time"
)

// TestTTL has a row for each of the rule's.
func TestTTL(t *testing.T) {
	const h = time.Hour
	for name, tc := range map[string]struct {
		limits          Lifetimes
		root, ask, want time.Duration
		refused         string
	}{
		"none asked for":            {root: 1000 * h, want: 19 * h},
		"less than nothing":         {root: 1000 * h, ask: -5, want: 19 * h},
		"none, another default":     {limits: Lifetimes{Default: 2 * h}, root: 1000 * h, want: 2 * h},
		"below the maximum":         {root: 1000 * h, ask: 100 * h, want: 100 * h},
		"the maximum":               {root: 1000 * h, ask: 168 * h, want: 168 * h},
		"above the maximum":         {root: 1000 * h, ask: 200 * h, refused: "requested TTL 200h0m0s is greater than the max allowed TTL 168h0m0s"},
		"a little above":            {root: 1000 * h, ask: 168*h + time.Millisecond, refused: "requested TTL 168h0m0.001s is greater than the max allowed TTL 168h0m0s"},
		"another maximum":           {limits: Lifetimes{Max: 2 * h}, root: 1000 * h, ask: 3 * h, refused: "requested TTL 3h0m0s is greater than the max allowed TTL 2h0m0s"},
		"default above the maximum": {limits: Lifetimes{Default: 24 * h, Max: 2 * h}, root: 1000 * h, refused: "requested TTL 24h0m0s is greater than the max allowed TTL 2h0m0s"},
		"less, then":                {limits: Lifetimes{Default: 24 * h, Max: 2 * h}, root: 1000 * h, ask: h, want: h},
		"longer than the root":      {root: h, ask: 19 * h, want: h},
		"above, with a short root":  {root: h, ask: 169 * h, refused: "requested TTL 169h0m0s is greater than the max allowed TTL 168h0m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			ca, err := New(Options{RootTTL: tc.root, Lifetimes: tc.limits})
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			pair, err := ca.Issue(cart, tc.ask)
			if tc.refused != "" {
				var ttl *TTLError
				if !errors.As(err, &ttl) || err.Error() != tc.refused || pair.CertChain != nil {
					t.Errorf("error %v, want %s", err, tc.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			cert := leaf(t, pair)
			early, late := start.Add(tc.want).Truncate(time.Second), time.Now().Add(tc.want)
			if tc.want == tc.root {
				early = ca.RootCertificates()[0].NotAfter
				late = early
			}
			if cert.NotAfter.Before(early) || cert.NotAfter.After(late) {
				t.Errorf("ends %s, want %s to %s", cert.NotAfter, early, late)
			}
		})
	}
}

func TestSignKeys(t *testing.T) {
	rsaKey := func(bits int) crypto.PublicKey {
		k, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return k.Public()
	}
	onCurve := func(c elliptic.Curve) crypto.PublicKey {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k.Public()
	}
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := testCA(t)
	for _, tc := range []struct {
		name    string
		key     crypto.PublicKey
		refused string
	}{
		{"P-256", onCurve(elliptic.P256()), ""},
		{"P-384", onCurve(elliptic.P384()), ""},
		{"P-224", onCurve(elliptic.P224()), "the ECDSA key is on P-224, want P-256 or P-384"},
		{"P-521", onCurve(elliptic.P521()), "the ECDSA key is on P-521, want P-256 or P-384"},
		{"RSA 2048", rsaKey(2048), ""},
		{"RSA 1024", rsaKey(1024), "the RSA key has 1024 bits, want 2048 to 8192"},
		{"Ed25519", edwards, "the key is ed25519.PublicKey, want RSA or ECDSA"},
		{"none", nil, "the key is <nil>, want RSA or ECDSA"},
	} {
		chain, err := ca.Sign(Request{URI: cart, Key: tc.key})
		switch {
		case tc.refused != "" && (err == nil || err.Error() != tc.refused):
			t.Errorf("%s: %v, want %s", tc.name, err, tc.refused)
		case tc.refused == "" && err != nil:
			t.Errorf("%s: %v", tc.name, err)
		case tc.refused == "":
			certs, err := ParseCertificates(chain)
			if err != nil || len(certs) != 1 || !ca.Signed(certs[0]) || ca.Verify(certs) != nil {
				t.Errorf("%s: %d certificates, %v", tc.name, len(certs), err)
			}
		}
	}
	if issued, refused, failed := ca.Counts(); issued != 3 || refused != 5 || failed != 0 {
		t.Errorf("counted %d issued, %d refused, %d failed", issued, refused, failed)
	}
}

func TestRSAKeys(t *testing.T) {
	ca, err := New(Options{KeyType: RSA})
	if err != nil {
		t.Fatal(err)
	}
	cert := leaf(t, issue(t, ca, cart, 0))
	if key, ok := cert.PublicKey.(*rsa.PublicKey); !ok || key.N.BitLen() != 2048 {
		t.Errorf("key is %T, want RSA 2048", cert.PublicKey)
	}
	if err := ca.Verify([]*x509.Certificate{cert}); err != nil {
		t.Error(err)
	}
	if other := testCA(t); other.Signed(cert) || other.Verify([]*x509.Certificate{cert}) == nil {
		t.Error("another CA takes it for its own")
	}
}

// TestExpiredCA signs nothing that could never be valid.
func TestExpiredCA(t *testing.T) {
	ca, err := New(Options{RootTTL: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Issue(cart, time.Hour); err == nil {
		t.Error("an expired CA issued")
	}
	if _, _, failed := ca.Counts(); failed != 1 {
		t.Errorf("%d failures counted, want 1", failed)
	}
}

func TestSerialsDiffer(t *testing.T) {
	ca := testCA(t)
	seen := map[string]bool{}
	for range 50 {
		serial := leaf(t, issue(t, ca, cart, 0)).SerialNumber
		if seen[serial.String()] || serial.BitLen() < 64 {
			t.Fatalf("serial %s", serial)
		}
		seen[serial.String()] = true
	}
}

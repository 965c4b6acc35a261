package agent

import (
	"crypto/rsa"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
)

// TestVerifyCA: the token goes to the control plane only, and not to whoever
// has a certificate of the mesh.
func TestVerifyCA(t *testing.T) {
	custom := func(uri string, names ...string) func(*testing.T, *ca) identity.KeyPair {
		return func(t *testing.T, c *ca) identity.KeyPair {
			key, _, err := (&agent{}).newRequest()
			if err != nil {
				t.Fatal(err)
			}
			signer, err := identity.ParseKey(key)
			if err != nil {
				t.Fatal(err)
			}
			chain, err := c.signer.Sign(identity.Request{URI: uri, DNSNames: names, Key: signer.Public(), TTL: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			return identity.KeyPair{CertChain: chain, Key: key}
		}
	}
	for name, c := range map[string]struct {
		shown   func(*testing.T, *ca) identity.KeyPair
		refused string
	}{
		"identity":       {custom(identity.ControlPlaneURI("any.domain", "istio-system")), ""},
		"name":           {custom(vm, "istiod.istio-system.svc"), ""},
		"workload":       {custom("spiffe://cluster.local/ns/shop/sa/cart"), "is not the CA: its certificate has the identity [spiffe://cluster.local/ns/shop/sa/cart]"},
		"account":        {custom(identity.ControlPlaneURI("cluster.local", "shop")), "is not the CA"},
		"other name":     {custom(vm, "cart.shop.svc"), "is not the CA"},
		"longer account": {custom("spiffe://cluster.local/x/ns/istio-system/sa/istio-pilot-service-account"), "is not the CA"},
		"other mesh": {func(t *testing.T, _ *ca) identity.KeyPair {
			shown, err := newSigner(t).IssueControlPlane("cluster.local", "istio-system")
			if err != nil {
				t.Fatal(err)
			}
			return shown
		}, "root-cert.pem does not verify the CA's certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := startCA(t, newSigner(t))
				server.show(t, c.shown(t, server), nil)
				a, _ := machine(t, server)
				_, err := a.request(t.Context())
				if c.refused == "" {
					if err != nil {
						t.Error(err)
					}
					return
				}
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("error %v, want %q in it", err, c.refused)
				}
				if n := len(server.called()); n != 0 {
					t.Errorf("%d calls arrived", n)
				}
			})
		})
	}
}

// TestExpiredCA: a server whose certificate is over is not the CA.
func TestExpiredCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCA(t, newSigner(t))
		a, _ := machine(t, c)
		time.Sleep(identity.MaxLeafTTL + time.Minute)
		if _, err := a.request(t.Context()); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("error %v", err)
		}
	})
}

func TestRSAKey(t *testing.T) {
	keyPEM, _, err := (&agent{Options: Options{RSABits: 3072}}).newRequest()
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.ParseKey(keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	if k, ok := key.(*rsa.PrivateKey); !ok || k.N.BitLen() != 3072 {
		t.Errorf("a %T", key)
	}
}

// TestAccept: an answer that Envoy could not use is a failure, and not written.
func TestAccept(t *testing.T) {
	signer := newSigner(t)
	issue := func(uri string, ttl time.Duration) identity.KeyPair {
		p, err := signer.Issue(uri, ttl)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	good, other := issue(vm, time.Hour), issue(vm, time.Hour)
	chain, roots := string(good.CertChain), string(good.Roots)
	for _, c := range []struct {
		name, want string
		chain      []string
		key        []byte
	}{
		{"good", "", []string{chain, roots}, good.Key},
		{"no newline", "", []string{strings.TrimSpace(chain), strings.TrimSpace(roots)}, good.Key},
		{"empty", "has 0 certificates", nil, good.Key},
		{"no root", "has 1 certificates", []string{chain}, good.Key},
		{"another key", "do not fit", []string{chain, roots}, other.Key},
		{"another root", "not usable: x509", []string{chain, string(newSigner(t).Roots())}, good.Key},
		{"root is text", "not usable: x509", []string{chain, "root"}, good.Key},
		{"leaf is text", "do not parse", []string{"leaf", roots}, good.Key},
		{"broken intermediate", "an intermediate certificate", []string{chain, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", roots}, good.Key},
	} {
		_, err := accept(c.chain, c.key)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(100 * 365 * 24 * time.Hour)
		if _, err := accept([]string{chain, roots}, good.Key); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("expired: %v", err)
		}
	})
}

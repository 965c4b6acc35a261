package secrets

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
)

// TestNext has the rows of the table of what becomes of a Secret.
func TestNext(t *testing.T) {
	now := time.Now()
	fresh := situation{
		wanted: true, present: true, seen: true, uri: "spiffe://a/ns/shop/sa/cart",
		facts: facts{
			uri: "spiffe://a/ns/shop/sa/cart", ends: now.Add(10 * time.Hour), renewAt: now.Add(time.Hour),
			roots: sha256.Sum256([]byte("roots")), current: true,
		},
		roots: sha256.Sum256([]byte("roots")), rootsSince: now.Add(-time.Minute), now: now, resync: time.Minute,
	}
	for _, tc := range []struct {
		name   string
		change func(*situation)
		want   action
	}{
		{"all is well", func(*situation) {}, nothing},
		{"account added, no Secret", func(s *situation) { s.present = false }, create},
		{"neither account nor Secret", func(s *situation) { s.present, s.wanted = false, false }, nothing},
		{"account deleted", func(s *situation) { s.wanted = false }, remove},
		{"account deleted, foreign Secret", func(s *situation) { s.wanted, s.foreign = false, true }, nothing},
		{"foreign Secret", func(s *situation) { s.foreign = true }, leave},
		{"foreign and unreadable", func(s *situation) { s.foreign, s.facts = true, facts{} }, leave},
		{"unusable", func(s *situation) { s.facts = facts{unusable: "its key cannot be parsed"} }, repair},
		{"unusable, between resyncs", func(s *situation) { s.facts, s.seen = facts{unusable: "x"}, false }, repair},
		{"unusable, and the account is gone", func(s *situation) { s.facts, s.wanted = facts{unusable: "x"}, false }, remove},
		{"other roots", func(s *situation) { s.roots[0]++ }, writeRoots},
		{"other roots, between resyncs", func(s *situation) { s.roots[0]++; s.seen = false }, writeRoots},
		{"other roots, and due: the roots first", func(s *situation) { s.roots[0]++; s.facts.renewAt = now }, writeRoots},
		{"other roots, and another CA: the roots first", func(s *situation) { s.roots[0]++; s.facts.current = false }, writeRoots},
		{"another identity", func(s *situation) { s.uri = "spiffe://b/ns/shop/sa/cart" }, renew},
		{"another identity, between resyncs", func(s *situation) { s.uri, s.seen = "spiffe://b/ns/shop/sa/cart", false }, renew},
		{"another DNS name", func(s *situation) { s.dns = "cart.example" }, renew},
		{"due", func(s *situation) { s.facts.renewAt = now }, renew},
		{"almost due", func(s *situation) { s.facts.renewAt = now.Add(1) }, nothing},
		{"due, between resyncs", func(s *situation) { s.facts.renewAt, s.seen = now, false }, nothing},
		{"expired", func(s *situation) { s.facts.ends = now }, renew},
		{"another CA, its roots long there", func(s *situation) { s.facts.current = false }, renew},
		{"another CA, its roots just there", func(s *situation) { s.facts.current = false; s.rootsSince = now.Add(-59 * time.Second) }, nothing},
		{"another CA, between resyncs", func(s *situation) { s.facts.current, s.seen = false, false }, nothing},
	} {
		s := fresh
		tc.change(&s)
		if got, why := s.next(); got != tc.want {
			t.Errorf("%s: action %d (%s), want %d", tc.name, got, why, tc.want)
		}
	}
}

func TestInspect(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	cart := Account{"shop", "cart"}
	good, foreign := issue(t, ca, cart), issue(t, other, cart)
	for _, tc := range []struct {
		name             string
		chain, key, root []byte
		unusable         string
	}{
		{"good", good.CertChain, good.Key, good.Roots, ""},
		{"several roots", good.CertChain, good.Key, append(bytes.Clone(foreign.Roots), good.Roots...), ""},
		{"of another CA, but whole", foreign.CertChain, foreign.Key, foreign.Roots, ""},
		{"empty", nil, nil, nil, "its certificate cannot be parsed"},
		{"no chain", []byte("x"), good.Key, good.Roots, "its certificate cannot be parsed"},
		{"half a key", good.CertChain, good.Key[:80], good.Roots, "its key cannot be parsed"},
		{"another key", good.CertChain, foreign.Key, good.Roots, "its key is not its certificate's"},
		{"no roots", good.CertChain, good.Key, nil, "its roots cannot be parsed"},
		{"other roots", good.CertChain, good.Key, foreign.Roots, "its roots do not vouch for its certificate"},
	} {
		f := inspect(Secret{cart, tc.chain, tc.key, tc.root}, ca, identity.Renewal{Ratio: 0.5})
		if f.unusable != tc.unusable {
			t.Errorf("%s: %q, want %q", tc.name, f.unusable, tc.unusable)
		}
		if tc.unusable == "" && (f.uri != uri(cart) || f.current != (tc.name != "of another CA, but whole")) {
			t.Errorf("%s: %+v", tc.name, f)
		}
	}
}

// TestAnExpiredLeafIsNotUnusable: it is renewed, not repaired.
func TestAnExpiredLeafIsNotUnusable(t *testing.T) {
	ca := newCA(t)
	p, err := ca.Issue(uri(Account{"shop", "cart"}), time.Nanosecond)
	if err != nil {
		t.Fatal(err)
	}
	f := inspect(Secret{Account{"shop", "cart"}, p.CertChain, p.Key, p.Roots}, ca, identity.Renewal{})
	if f.unusable != "" || f.ends.After(time.Now()) {
		t.Errorf("%+v", f)
	}
}

func newCA(t testing.TB) *identity.CA {
	t.Helper()
	ca, err := identity.NewCA(identity.DefaultOrg, identity.DefaultRootTTL)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func uri(a Account) string { return identity.URI("cluster.local", a.Namespace, a.Name) }

func issue(t *testing.T, ca *identity.CA, a Account) identity.KeyPair {
	t.Helper()
	p, err := ca.Issue(uri(a), 0)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// keyLines are what must appear nowhere.
func keyLines(key []byte) []string {
	var out []string
	for _, line := range strings.Split(string(key), "\n") {
		if line != "" && !strings.HasPrefix(line, "-----") {
			out = append(out, line)
		}
	}
	return out
}

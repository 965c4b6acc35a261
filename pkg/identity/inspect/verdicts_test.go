package inspect

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// verdict is what must be said of a changed set.
type verdict struct {
	name   string
	change func(*Set)
	want   []string // severity CODE text
	outage time.Duration
}

// direct replaces the leaf by one of the root's.
func (w world) direct(t *testing.T, template x509.Certificate) func(*Set) {
	return func(s *Set) {
		leaf := sign(t, template, &w.root)
		s.Chain, s.Key = leaf.pem(), leaf.keyPEM(t)
	}
}

// byCA replaces the root, and the leaf by one of that.
func byCA(t *testing.T, template x509.Certificate) func(*Set) {
	return func(s *Set) {
		ca := sign(t, template, nil)
		leaf := sign(t, leafFor(0, 19*time.Hour, cart), &ca)
		s.Chain, s.Key, s.Roots = leaf.pem(), leaf.keyPEM(t), ca.pem()
	}
}

func (w world) chains(t *testing.T) []verdict {
	return []verdict{
		{"good", func(*Set) {}, nil, 10 * time.Hour},
		{"old and new root", func(s *Set) { s.Roots = chain(w.other, w.root) }, nil, 10 * time.Hour},
		{"issuer's root is another", func(s *Set) { s.Roots = w.other.pem() },
			[]string{"error NOT_SIGNED_BY_ROOTS no given root has signed its issuer O=issuing: there is a root of the issuer's name, O=root, but with another key"}, 0},
		{"intermediate is missing", func(s *Set) { s.Chain = w.leaf.pem() },
			[]string{"error NOT_SIGNED_BY_ROOTS no given root has signed it: it is issued by O=issuing, which is neither in the chain nor among the roots"}, 0},
		{"self-signed", func(s *Set) {
			leaf := sign(t, leafFor(0, 19*time.Hour, cart), nil)
			s.Chain, s.Key = leaf.pem(), leaf.keyPEM(t)
		}, []string{"error NOT_SIGNED_BY_ROOTS no given root has signed it: it is signed by itself, and not among the roots"}, 0},
		{"no roots", func(s *Set) { s.Roots = nil }, []string{"warning NO_ROOTS there are no roots to check the chain against"}, 10 * time.Hour},
		{"key of another", func(s *Set) { s.Key = w.root.keyPEM(t) },
			[]string{"error KEY_MISMATCH the key does not fit: it belongs to another certificate"}, 0},
		{"key is garbage", func(s *Set) { s.Key = []byte("garbage") }, []string{"error KEY_MISMATCH the key is not PEM"}, 0},
		{"key of no known kind", func(s *Set) { s.Key = w.leaf.pem() },
			[]string{"error KEY_MISMATCH the key cannot be parsed as PKCS #8, SEC 1 or PKCS #1"}, 0},
		{"key not there", func(s *Set) { s.Key, s.NoKey = nil, "key.pem is not there" },
			[]string{"warning NO_KEY whether the key fits is not known: key.pem is not there"}, 10 * time.Hour},
		{"chain is garbage", func(s *Set) { s.Chain = []byte("x") }, []string{"error UNREADABLE certificate chain: no PEM certificate in it"}, 0},
		{"roots are empty and no chain", func(s *Set) { s.Chain, s.Roots = nil, nil },
			[]string{"error UNREADABLE certificate chain: no PEM certificate in it"}, 0},
		{"roots alone", func(s *Set) { *s = Set{Roots: chain(w.root, w.other)} }, nil, 9 * year},
		{"a CA", func(s *Set) { *s = Set{Authority: true, Chain: w.root.pem(), Key: w.root.keyPEM(t)} }, nil, 9 * year},
		{"a plugged-in CA", func(s *Set) {
			*s = Set{Authority: true, Chain: w.between.pem(), Key: w.between.keyPEM(t), Roots: w.root.pem()}
		}, nil, year},
		{"a CA that is none", func(s *Set) { *s = Set{Authority: true, Chain: w.leaf.pem(), Roots: w.between.pem()} },
			[]string{"error NO_CA_BIT " + cart + " signs others but is no CA: the CA bit is missing"}, 0},
	}
}

func (w world) certificates(t *testing.T) []verdict {
	noCA := authority("weak", year, year)
	noCA.IsCA = false
	noSign := authority("weak", year, year)
	noSign.KeyUsage = x509.KeyUsageDigitalSignature
	clientOnly := leafFor(0, 19*time.Hour, cart)
	clientOnly.ExtKeyUsage = clientOnly.ExtKeyUsage[1:]
	leafCA := leafFor(0, 19*time.Hour, cart)
	leafCA.IsCA = true
	return []verdict{
		{"expired", w.direct(t, leafFor(20*time.Hour, -time.Hour, cart)),
			[]string{"error EXPIRED " + cart + " has expired at 2026-01-02T11:00:00Z"}, 0},
		{"not yet valid", w.direct(t, leafFor(-time.Hour, 20*time.Hour, cart)),
			[]string{"error NOT_YET_VALID " + cart + " is valid only from 2026-01-02T12:58:00Z: is a clock wrong?"}, 0},
		{"overdue", w.direct(t, leafFor(16*time.Hour, 3*time.Hour, cart)),
			[]string{"warning RENEWAL_OVERDUE it should have been renewed 6h30m ago"}, 3 * time.Hour},
		{"shorter than the grace", w.direct(t, leafFor(0, 5*time.Minute, cart)),
			[]string{"warning GRACE_ABOVE_TTL its life of 5m is not longer than the grace period of 10m: it is renewed at every look"}, 5 * time.Minute},
		{"no CA bit", byCA(t, noCA), []string{
			"error NO_CA_BIT O=weak signs others but is no CA: the CA bit is missing",
			"error NO_CA_BIT root O=weak is no CA: the CA bit is missing"}, 0},
		{"CA may not sign", byCA(t, noSign), []string{"error NO_CA_BIT O=weak signs others but its key usage does not allow it"}, 0},
		{"no server", w.direct(t, clientOnly),
			[]string{"error REFUSED peers refuse it as a server: x509: certificate specifies an incompatible key usage"}, 0},
		{"no identity", w.direct(t, leafFor(0, 19*time.Hour)), []string{"error IDENTITY it has 0 URI names, and an identity is exactly one"}, 0},
		{"two identities", w.direct(t, leafFor(0, 19*time.Hour, cart, cart+"2")),
			[]string{"error IDENTITY it has 2 URI names, and an identity is exactly one"}, 0},
		{"not SPIFFE", w.direct(t, leafFor(0, 19*time.Hour, "https://cart")),
			[]string{"error IDENTITY https://cart is no identity: that is spiffe://<trust domain>/ns/<namespace>/sa/<service account>"}, 0},
		{"other trust domain", w.direct(t, leafFor(0, 19*time.Hour, "spiffe://evil/ns/shop/sa/cart")),
			[]string{"error TRUST_DOMAIN its trust domain is evil, not cluster.local or old.local"}, 0},
		{"other account", func(s *Set) { s.Namespace, s.Account = "shop", "web" },
			[]string{"error IDENTITY it is for " + cart + ", but must be for service account shop/web"}, 0},
		{"leaf is a CA", w.direct(t, leafCA), []string{"warning LEAF_IS_CA the leaf is a CA: whoever has its key can issue certificates"}, 19 * time.Hour},
		{"issuer ends first", byCA(t, authority("root", year, 12*time.Hour)), []string{
			"warning ISSUER_ENDS_FIRST O=root, which vouches for it, ends before it, at 2026-01-03T00:00:00Z",
			"warning ROOT_EXPIRES root O=root expires in 12h: replace it before (old, both, new)"}, 12 * time.Hour},
		{"a root that nobody needs has expired", func(s *Set) {
			old := sign(t, authority("old", year, -time.Hour), nil)
			s.Roots = chain(w.root, old)
		}, []string{"warning ROOT_EXPIRES root O=old has expired at 2026-01-02T11:00:00Z"}, 10 * time.Hour},
		{"its root has expired", byCA(t, authority("root", year, -time.Hour)), []string{
			"error EXPIRED O=root has expired at 2026-01-02T11:00:00Z",
			"warning ISSUER_ENDS_FIRST O=root, which vouches for it, ends before it, at 2026-01-02T11:00:00Z"}, 0},
	}
}

func TestJudge(t *testing.T) {
	w := newWorld(t)
	for _, c := range append(w.chains(t), w.certificates(t)...) {
		t.Run(c.name, func(t *testing.T) {
			set, r := w.good(t), rules()
			r.TrustDomains = []string{"cluster.local", "old.local"}
			c.change(&set)
			report := Judge([]Set{set}, r)
			var got []string
			failed := false
			for _, p := range report.Holders[0].Problems {
				got = append(got, fmt.Sprintf("%s %s %s", p.Severity, p.Code, p.Text))
				failed = failed || p.Severity == Error
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			if at := report.FirstOutage; at == nil || !at.At.Equal(noon().Add(c.outage)) {
				t.Errorf("outage %+v, want in %s", at, c.outage)
			}
			if report.Failed(noon(), 0) != failed {
				t.Errorf("failed %v, want %v", !failed, failed)
			}
		})
	}
}

package secrets

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
)

// facts are what is remembered of a Secret's contents.
type facts struct {
	unusable string    // why no proxy can use it; empty if one can
	uri, dns string    // of its leaf
	ends     time.Time // zero if it is unusable
	renewAt  time.Time
	roots    [sha256.Size]byte // all of them as they stand
	current  bool              // the CA of now would give out the same chain
}

// inspect reads contents. The reasons hold no byte of them.
func inspect(s Secret, ca *identity.CA, renewal identity.Renewal) facts {
	f := facts{roots: sha256.Sum256(s.Roots)}
	chain, err := identity.ParseCertificates(s.CertChain)
	if err != nil {
		f.unusable = "its certificate cannot be parsed"
		return f
	}
	if _, err := identity.ParseKey(s.Key); err != nil {
		f.unusable = "its key cannot be parsed"
		return f
	}
	if _, err := tls.X509KeyPair(s.CertChain, s.Key); err != nil {
		f.unusable = "its key is not its certificate's"
		return f
	}
	roots, err := identity.ParseCertificates(s.Roots)
	if err != nil {
		f.unusable = "its roots cannot be parsed"
		return f
	}
	if !vouch(roots, chain) {
		f.unusable = "its roots do not vouch for its certificate"
		return f
	}
	leaf := chain[0]
	var uris []string
	for _, uri := range leaf.URIs {
		uris = append(uris, uri.String())
	}
	f.uri, f.dns = strings.Join(uris, ","), strings.Join(leaf.DNSNames, ",")
	f.ends = leaf.NotAfter
	f.renewAt = renewal.At(leaf, s.Account.Namespace+"/"+s.Account.SecretName())
	f.current = ca.Current(chain)
	return f
}

// vouch says whether a chain leads to one of the roots, without asking
// whether it has expired meanwhile.
func vouch(roots, chain []*x509.Certificate) bool {
	trusted, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range roots {
		trusted.AddCert(c)
	}
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: trusted, Intermediates: between, CurrentTime: chain[0].NotAfter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err == nil
}

// situation is all that decides what becomes of one Secret.
type situation struct {
	wanted  bool // the account exists
	present bool
	foreign bool // another type
	// seen is whether this is a look at all Secrets, as each resync is, or at
	// one that somebody edited.
	seen       bool
	uri, dns   string // that its leaf must have
	facts      facts
	roots      [sha256.Size]byte // of the CA
	rootsSince time.Time         // since when the Secret is known to have them
	now        time.Time
	resync     time.Duration
}

// action is what is done about a Secret.
type action uint8

const (
	nothing    action = iota
	create            // it is not there
	renew             // a new key and certificate; the roots stay as they are
	repair            // a new key, certificate and roots: nobody could use the old
	writeRoots        // the roots alone
	remove            // its account is gone
	leave             // it is somebody else's
)

// next is the table of what becomes of a Secret, and why. Leaf and roots never
// change in one write, as proxies check each against the other; unless neither
// was of use.
func (s situation) next() (do action, why string) {
	switch {
	case !s.present && s.wanted:
		return create, "there is none"
	case !s.present:
		return nothing, ""
	case s.foreign && s.wanted:
		return leave, ""
	case s.foreign:
		return nothing, ""
	case !s.wanted:
		return remove, "the account is gone"
	case s.facts.unusable != "":
		return repair, s.facts.unusable
	case s.facts.roots != s.roots:
		return writeRoots, "the CA's roots changed"
	case s.facts.uri != s.uri:
		return renew, "its identity is not the account's"
	case s.facts.dns != s.dns:
		return renew, "its DNS names are not the account's"
	case !s.seen:
		return nothing, ""
	case !s.now.Before(s.facts.ends):
		return renew, "it has expired"
	case !s.now.Before(s.facts.renewAt):
		return renew, "it is due"
	case !s.facts.current && s.now.Sub(s.rootsSince) >= s.resync:
		return renew, "it is of the CA before"
	}
	return nothing, ""
}

package inspect

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
)

const (
	// late is how much later than planned a renewal may be: renewers look once
	// in a while.
	late = 2 * time.Minute
	// A root with less than this share of its life left is about to expire.
	rootShare = 0.2
)

// Judge says of all sets what they are, what is wrong with them, and what ends
// first. It asks nothing but its arguments.
func Judge(sets []Set, r Rules) Report {
	report := Report{Holders: make([]Holder, len(sets))}
	for i, s := range sets {
		j := judge{Set: s, Rules: r, holder: Holder{Name: s.Name, Certificates: []Certificate{}, Problems: []Problem{}}}
		j.judge()
		h := j.holder
		report.Holders[i] = h
		if h.Outage != nil && (report.FirstOutage == nil || h.Outage.At.Before(report.FirstOutage.At)) {
			report.FirstOutage = h.Outage
		}
	}
	return report
}

// judge is one set on its way to a holder.
type judge struct {
	Set
	Rules
	holder Holder
	roots  []*x509.Certificate
}

func (j *judge) problem(severity Severity, code, format string, args ...any) {
	j.holder.Problems = append(j.holder.Problems, Problem{code, severity, fmt.Sprintf(format, args...)})
}

// outage holds if it is earlier than another.
func (j *judge) outage(at time.Time, reason string) {
	if j.holder.Outage == nil || at.Before(j.holder.Outage.At) {
		j.holder.Outage = &Outage{At: at.UTC(), Holder: j.Name, Reason: reason, Presented: j.Presented}
	}
}

func (j *judge) judge() {
	var err error
	if len(j.Roots) > 0 {
		if j.roots, err = identity.ParseCertificates(j.Roots); err != nil {
			j.problem(Error, "UNREADABLE", "roots: %v", err)
		}
	}
	switch chain, err := identity.ParseCertificates(j.Chain); {
	case err != nil && (len(j.Chain) > 0 || len(j.roots) == 0):
		j.problem(Error, "UNREADABLE", "certificate chain: %v", err)
	case err == nil:
		j.chain(chain)
	default: // roots alone
		first := end(j.roots)
		j.outage(first.NotAfter, "root "+nameOf(first)+" ends")
	}
	if !j.Presented {
		for _, root := range j.roots {
			j.holder.Certificates = append(j.holder.Certificates, describe(Root, root))
			j.root(root)
		}
	}
	for _, p := range j.holder.Problems {
		if p.Severity == Error {
			j.holder.Outage = &Outage{At: j.Now.UTC(), Holder: j.Name, Reason: p.Text}
			break
		}
	}
}

// chain judges the first certificate and those that vouch for it.
func (j *judge) chain(chain []*x509.Certificate) {
	first, between := chain[0], chain[1:]
	shown := describe(Leaf, first)
	if j.Authority {
		shown.Role = Authority
	} else {
		j.identity(first)
		if !j.Presented {
			shown.Renewal = j.renewal(first)
		}
	}
	j.holder.Certificates = append(j.holder.Certificates, shown)
	for _, c := range between {
		j.holder.Certificates = append(j.holder.Certificates, describe(Intermediate, c))
	}
	switch {
	case j.Key != nil:
		if err := fits(j.Key, first); err != nil {
			j.problem(Error, "KEY_MISMATCH", "%v", err)
		}
	case j.NoKey != "":
		j.problem(Warning, "NO_KEY", "whether the key fits is not known: %s", j.NoKey)
	}
	roots := j.roots
	if len(roots) == 0 && j.Authority {
		roots = []*x509.Certificate{last(first, between)}
	}
	if len(roots) == 0 {
		j.problem(Warning, "NO_ROOTS", "there are no roots to check the chain against")
		roots = []*x509.Certificate{last(first, between)}
	}
	j.path(first, path(first, between, roots), whyNoPath(first, between, roots))
}

// path judges the certificates from the first to its root.
func (j *judge) path(first *x509.Certificate, path []*x509.Certificate, why string) {
	if path == nil {
		j.problem(Error, "NOT_SIGNED_BY_ROOTS", "%s", why)
		path = []*x509.Certificate{first}
	}
	sound := len(path) > 1
	for i, c := range path {
		sound = j.dates(c) && sound
		issues := i > 0 || j.Authority
		if issues && !c.IsCA {
			j.problem(Error, "NO_CA_BIT", "%s signs others but is no CA: the CA bit is missing", nameOf(c))
			sound = false
		} else if issues && c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0 {
			j.problem(Error, "NO_CA_BIT", "%s signs others but its key usage does not allow it", nameOf(c))
			sound = false
		}
	}
	if sound && !j.Authority {
		if err := verify(path, j.Now); err != nil {
			j.problem(Error, "REFUSED", "%v", err)
		}
	}
	ends := end(path)
	reason := nameOf(ends) + " ends"
	if j.Presented {
		reason += ", if its files are as old as its connection"
	}
	j.outage(ends.NotAfter, reason)
	if ends != first && ends.NotAfter.Before(first.NotAfter) {
		j.problem(Warning, "ISSUER_ENDS_FIRST", "%s, which vouches for it, ends before it, at %s", nameOf(ends), stamp(ends.NotAfter))
	}
}

// dates says whether the certificate is valid now.
func (j *judge) dates(c *x509.Certificate) bool {
	switch {
	case !j.Now.Before(c.NotAfter):
		j.problem(Error, "EXPIRED", "%s has expired at %s", nameOf(c), stamp(c.NotAfter))
	case j.Now.Before(c.NotBefore):
		j.problem(Error, "NOT_YET_VALID", "%s is valid only from %s: is a clock wrong?", nameOf(c), stamp(c.NotBefore))
	default:
		return true
	}
	return false
}

func (j *judge) root(root *x509.Certificate) {
	if !root.IsCA {
		j.problem(Error, "NO_CA_BIT", "root %s is no CA: the CA bit is missing", nameOf(root))
	}
	left, life := root.NotAfter.Sub(j.Now), root.NotAfter.Sub(root.NotBefore)
	switch {
	case left <= 0:
		// Of a root that vouches for the chain, dates has said more.
		if !slices.ContainsFunc(j.holder.Problems, func(p Problem) bool { return p.Code == "EXPIRED" }) {
			j.problem(Warning, "ROOT_EXPIRES", "root %s has expired at %s", nameOf(root), stamp(root.NotAfter))
		}
	case float64(left) < rootShare*float64(life):
		j.problem(Warning, "ROOT_EXPIRES", "root %s expires in %s: replace it before (old, both, new)", nameOf(root), duration(left))
	}
}

// identity judges whom a leaf is for.
func (j *judge) identity(c *x509.Certificate) {
	if len(c.URIs) != 1 {
		j.problem(Error, "IDENTITY", "it has %s, and an identity is exactly one", count(len(c.URIs), "URI name"))
		return
	}
	id := identityOf(c)
	domain, rest, _ := strings.Cut(strings.TrimPrefix(id, "spiffe://"), "/")
	parts := strings.Split(rest, "/")
	switch {
	case c.URIs[0].Scheme != "spiffe" || len(parts) != 4 || parts[0] != "ns" || parts[2] != "sa" || domain == "":
		j.problem(Error, "IDENTITY", "%s is no identity: that is spiffe://<trust domain>/ns/<namespace>/sa/<service account>", id)
	case len(j.TrustDomains) > 0 && !slices.Contains(j.TrustDomains, domain):
		j.problem(Error, "TRUST_DOMAIN", "its trust domain is %s, not %s", domain, strings.Join(j.TrustDomains, " or "))
	case j.Account != "" && id != identity.URI(domain, j.Namespace, j.Account):
		j.problem(Error, "IDENTITY", "it is for %s, but must be for service account %s/%s", id, j.Namespace, j.Account)
	}
	if c.IsCA {
		j.problem(Warning, "LEAF_IS_CA", "the leaf is a CA: whoever has its key can issue certificates")
	}
}

// renewal is when the leaf is renewed at the latest, and says if that is over.
func (j *judge) renewal(c *x509.Certificate) time.Time {
	life := identity.Life(c)
	grace := max(time.Duration(j.Ratio*float64(life)), j.MinGrace)
	if grace >= life {
		j.problem(Warning, "GRACE_ABOVE_TTL", "its life of %s is not longer than the grace period of %s: it is renewed at every look", duration(life), duration(grace))
		return c.NotAfter.Add(-life).UTC()
	}
	renewal := c.NotAfter.Add(-grace).UTC()
	if over := j.Now.Sub(renewal); over > min(late, life/20) && j.Now.Before(c.NotAfter) {
		j.problem(Warning, "RENEWAL_OVERDUE", "it should have been renewed %s ago", duration(over))
	}
	return renewal
}

package identity

import (
	"fmt"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

// Problem is what an operator should know of the CA or of a certificate.
type Problem struct {
	Code    string // as the spec names it
	Error   bool   // else it is a warning
	On      model.Key
	Message string
}

// Problems are those of the CA at a time: what keeps it from issuing, and
// what will.
func (c *CA) Problems(now time.Time) []Problem {
	var out []Problem
	limits := c.options.Lifetimes
	if limits.Default > limits.Max {
		out = append(out, Problem{Code: "TTL_ABOVE_MAX", Error: true, Message: fmt.Sprintf(
			"--workload-cert-ttl %s is greater than --max-workload-cert-ttl %s: no certificate can be issued to who asks for no other lifetime; lower the first, or raise the second", limits.Default, limits.Max)})
	}
	if text := c.trouble.Load(); text != nil {
		out = append(out, Problem{Code: "CA_INVALID", Error: true, On: c.origin.signing,
			Message: *text + "; the CA that was accepted before stays in force"})
	}
	a := c.current.Load()
	for _, root := range a.roots {
		if left(root.NotBefore, root.NotAfter, now) {
			out = append(out, Problem{Code: "ROOT_EXPIRES", On: c.origin.roots, Message: fmt.Sprintf(
				"root %s, serial %x, %s: less than 20 %% of its life is left", root.Subject, root.SerialNumber, expiry(root.NotAfter, now))})
		}
	}
	for _, cert := range a.chain {
		if left(cert.NotBefore, cert.NotAfter, now) {
			out = append(out, Problem{Code: "CA_EXPIRES", On: c.origin.signing, Message: fmt.Sprintf(
				"CA certificate %s, serial %x, %s: less than 20 %% of its life is left", cert.Subject, cert.SerialNumber, expiry(cert.NotAfter, now))})
		}
	}
	return out
}

func left(from, to, now time.Time) bool { return to.Sub(now) < to.Sub(from)/5 }

func expiry(at, now time.Time) string {
	verb := "expires"
	if now.After(at) {
		verb = "has expired"
	}
	return verb + " at " + at.UTC().Format(time.RFC3339)
}

func fileKey(path string) model.Key {
	if path == "" {
		return model.Key{}
	}
	return model.Key{Kind: "File", Name: path}
}

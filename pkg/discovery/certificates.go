package discovery

import (
	"crypto"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshpilot/pilot/pkg/discovery/tlsport"
	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/identity/csr"
	"github.com/meshpilot/pilot/pkg/identity/inspect"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

// newPort is the TLS side of port 15012.
func newPort(ca *identity.CA, namespace string, grace float64, h *hub) *tlsport.Port {
	return tlsport.New(tlsport.Options{
		CA: ca, Namespace: namespace, Grace: grace, Configured: h.configured, Domains: h.trustDomains,
		Refused:       func(reason string) { h.metrics.RefusedConnections.WithLabelValues(reason).Inc() },
		NoCertificate: h.noCertificate, Expires: h.metrics.CertificateExpires, Log: h.log,
	})
}

// signerOptions are of the service of certificate requests on port 15012.
func signerOptions(ca *identity.CA, port *tlsport.Port, tokens *csr.TokenFile, h *hub, more ...csr.Authenticator) csr.Options {
	o := csr.Options{
		Sign: func(uri string, key crypto.PublicKey, ttl time.Duration) ([]byte, error) {
			return ca.Sign(identity.Request{URI: uri, Key: key, TTL: ttl})
		},
		Peers: port.Peers(), Domains: h.trustDomains, Report: h.signed,
		PerAccount: csr.PerAccount(), PerAddress: csr.PerAddress(),
	}
	if tokens != nil {
		o.More = append(o.More, tokens)
	}
	o.More = append(o.More, more...)
	return o
}

// openTokens is nil if no file is named.
func openTokens(path string) (*csr.TokenFile, error) {
	if path == "" {
		return nil, nil
	}
	tokens, err := csr.OpenTokens(path)
	if err != nil {
		return nil, fmt.Errorf("--bootstrap-tokens: %w", err)
	}
	return tokens, nil
}

// tokenProblems are what is wrong with the file of tokens now.
func tokenProblems(tokens *csr.TokenFile) []meshconfig.Problem {
	if tokens == nil {
		return nil
	}
	path, faults := tokens.Faults()
	out := make([]meshconfig.Problem, len(faults))
	for i, fault := range faults {
		out[i] = meshconfig.Problem{Code: "TOKEN_FILE", Severity: meshconfig.Warning, On: model.Key{Kind: "File", Name: path}, Message: fault}
	}
	return out
}

// signed hears how a certificate request ended.
func (h *hub) signed(r csr.Result) {
	h.metrics.CertificateRequests.WithLabelValues(r.Code.String()).Inc()
	who := r.Account.Namespace + "/" + r.Account.Name
	if r.Account == (csr.Account{}) {
		who = ""
	}
	if r.Code == codes.OK {
		h.log.Info("certificate issued", "account", who, "remote", r.Remote)
		return
	}
	h.refusals.warn(h.log, r.Code.String(), "certificate request refused", "account", who, "remote", r.Remote, "error", r.Text)
}

// noCertificate refuses a stream whose connection has no certificate of the mesh.
func (h *hub) noCertificate(why error) error {
	err := status.Error(codes.Unauthenticated, why.Error())
	h.metrics.Refused.WithLabelValues(codes.Unauthenticated.String()).Inc()
	h.refusals.warn(h.log, codes.Unauthenticated.String(), "stream refused", "error", why.Error())
	return err
}

// trustDomains are the trust domain and its aliases; nil before the first
// configuration.
func (h *hub) trustDomains() []string {
	s := h.snapshot.Load()
	if s == nil {
		return nil
	}
	mesh := s.Mesh()
	return append([]string{mesh.TrustDomain}, mesh.TrustDomainAliases...)
}

// refusals logs what anybody can cause at any rate: one line a second for
// each code, which says how many it stands for.
type refusals struct {
	mu     sync.Mutex
	last   map[string]time.Time
	silent map[string]int
}

func (r *refusals) warn(log *slog.Logger, code, text string, more ...any) {
	r.mu.Lock()
	now := time.Now()
	if last, ok := r.last[code]; ok && now.Sub(last) < time.Second {
		r.silent[code]++
		r.mu.Unlock()
		return
	}
	if r.last == nil {
		r.last, r.silent = map[string]time.Time{}, map[string]int{}
	}
	r.last[code] = now
	silent := r.silent[code]
	delete(r.silent, code)
	r.mu.Unlock()
	log.Warn(text, append([]any{"code", code, "notLogged", silent}, more...)...)
}

// certificates are those of the control plane and of the proxies that are
// connected over TLS; nil without TLS. Private keys have no way into them.
func (s *Server) certificates() []inspect.Public {
	if s.port == nil {
		return nil
	}
	out := []inspect.Public{inspect.Show("control plane", s.port.Shown(), s.options.CA.RootCertificates())}
	for _, p := range s.hub.store.Proxies() {
		if chain := s.hub.peers.chain(p.Stream); chain != nil {
			out = append(out, inspect.Show("proxy "+p.Proxy.ID.String(), chain, nil))
		}
	}
	slices.SortStableFunc(out[1:], func(a, b inspect.Public) int { return strings.Compare(a.Name, b.Name) })
	return out
}

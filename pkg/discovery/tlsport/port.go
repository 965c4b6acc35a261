// Package tlsport is the TLS side of port 15012: the server's certificate,
// which follows the trust domain, the CA and its own lifetime, and who callers
// are.
package tlsport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/identity/csr"
)

const (
	// issueRetry is the time between attempts to issue a certificate.
	issueRetry = 10 * time.Second
	// lookTime is how late a new signing certificate of the CA may be noticed.
	lookTime = time.Second
	// largestHeader has room for any bearer token.
	largestHeader = 64 << 10
	// watchTime is how often the port looks after itself.
	watchTime = time.Minute
)

// Options are what a Port needs from its surroundings.
type Options struct {
	CA        *identity.CA
	Namespace string // in the control plane's identity
	Grace     float64
	// Configured is closed when Domains, the trust domain and its aliases, are
	// known. Handshakes wait for it.
	Configured <-chan struct{}
	Domains    func() []string
	// Refused hears of connections that were refused: handshake, strangers.
	Refused func(reason string)
	// NoCertificate makes the status of a stream that is refused because the
	// connection has no certificate of the mesh.
	NoCertificate func(why error) error
	Expires       func(time.Time) // hears when the certificate that is shown expires
	Log           *slog.Logger
}

// Port is the TLS side of a server. A client certificate is optional in the
// handshake, because callers without one may ask for one; whoever shows one
// that does not verify counts as a caller without.
type Port struct {
	options   Options
	renewal   identity.Renewal
	peers     csr.Peers
	strangers strangers

	mu      sync.Mutex
	shown   *tls.Certificate // nil before the first
	domains []string         // that shown is for
	renewAt time.Time
	looked  time.Time // when shown was last compared with the CA
	failure error     // of the last attempt to issue
	retryAt time.Time // after failure
}

// New makes a port.
func New(o Options) *Port {
	return &Port{options: o, renewal: identity.Renewal{Ratio: o.Grace}, peers: csr.Peers{Roots: o.CA.Roots}}
}

// Peers know whose connection a call has come on.
func (p *Port) Peers() *csr.Peers { return &p.peers }

// Shown is the chain that the port shows, its leaf first; nil before the first
// handshake.
func (p *Port) Shown() []*x509.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown == nil {
		return nil
	}
	chain := make([]*x509.Certificate, 0, len(p.shown.Certificate))
	for _, der := range p.shown.Certificate {
		if c, err := x509.ParseCertificate(der); err == nil { // the CA made it
			chain = append(chain, c)
		}
	}
	return chain
}

// ServerOptions are for a server of this port: who has no certificate of the
// mesh may not stream, so that nothing of its requests is read.
func (p *Port) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(p.credentials()),
		grpc.MaxHeaderListSize(largestHeader), // grpc would take 16 MB of a stranger
		grpc.StreamInterceptor(func(server any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			if _, err := p.peers.Certificate(s.Context()); err != nil {
				Leave(s.Context())
				return p.options.NoCertificate(err)
			}
			return handler(server, s)
		}),
	}
}

func (p *Port) credentials() credentials.TransportCredentials {
	return verifying{credentials.NewTLS(&tls.Config{
		GetCertificate: p.Certificate,
		// The chain is verified after the handshake, so that the refusal has a
		// text. crypto/tls has checked that the caller has the key.
		ClientAuth: tls.RequestClientCert,
		MinVersion: tls.VersionTLS12,
		// A resumed session would not show what is trusted now.
		SessionTicketsDisabled: true,
	}), p}
}

// Certificate is what the server shows, for a tls.Config: for the trust domain of this moment,
// and not in the last part of its life. The first handshakes wait for the
// first configuration.
func (p *Port) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	select {
	case <-p.options.Configured:
	case <-hello.Context().Done():
		return nil, errors.New("no configuration was read yet")
	}
	return p.current(time.Now())
}

// current is the certificate to show; Domains must be known.
func (p *Port) current(now time.Time) (*tls.Certificate, error) {
	domains := p.options.Domains()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.shown != nil && slices.Equal(p.domains, domains) && now.Before(p.renewAt) && p.ours(now):
		return p.shown, nil
	case now.Before(p.retryAt):
		return p.old(now)
	}
	next, err := p.issue(domains)
	if err != nil {
		p.failure, p.retryAt = err, now.Add(issueRetry)
		p.options.Log.Error("the certificate of the port cannot be renewed", "error", err)
		return p.old(now)
	}
	p.shown, p.domains, p.looked, p.renewAt = next, domains, now, p.renewal.At(next.Leaf, "")
	if soon := now.Add(lookTime); p.renewAt.Before(soon) {
		p.renewAt = soon // not at every handshake
	}
	p.options.Expires(next.Leaf.NotAfter)
	return next, nil
}

// old is what there is while no new certificate is to be had.
func (p *Port) old(now time.Time) (*tls.Certificate, error) {
	if p.shown == nil || now.After(p.shown.Leaf.NotAfter) {
		return nil, p.failure
	}
	return p.shown, nil
}

// ours says whether the CA would still sign what is shown with the same key.
// To ask is signature work, so it is done once in a while.
func (p *Port) ours(now time.Time) bool {
	if now.Sub(p.looked) < lookTime {
		return true
	}
	p.looked = now
	return p.options.CA.Signed(p.shown.Leaf)
}

func (p *Port) issue(domains []string) (*tls.Certificate, error) {
	pair, err := p.options.CA.IssueControlPlane(domains[0], p.options.Namespace, domains[1:]...)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(pair.CertChain, pair.Key)
	if err != nil {
		return nil, fmt.Errorf("load certificate of %s: %w", pair.URI, err)
	}
	return &cert, nil
}

// Watch renews the certificate also when nobody connects, so that its metric
// does not cry wolf, and calls also as often.
func (p *Port) Watch(ctx context.Context, also func()) {
	select {
	case <-p.options.Configured:
	case <-ctx.Done():
		return
	}
	tick := time.NewTicker(watchTime)
	defer tick.Stop()
	for {
		_, _ = p.current(time.Now()) // logs its error
		also()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// verifying gives each connection the chains of its client certificate.
type verifying struct {
	credentials.TransportCredentials
	port *Port
}

func (v verifying) Clone() credentials.TransportCredentials {
	return verifying{v.TransportCredentials.Clone(), v.port}
}

func (v verifying) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, auth, err := v.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		v.port.options.Refused("handshake")
		return nil, nil, err
	}
	info, ok := auth.(credentials.TLSInfo)
	if !ok {
		return nil, nil, errors.Join(errors.New("the connection has no TLS state"), conn.Close())
	}
	info.State.VerifiedChains = v.port.peers.Verify(info.State.PeerCertificates)
	if len(info.State.VerifiedChains) > 0 {
		return addressed{conn}, info, nil
	}
	conn, err = v.port.strangers.admit(conn)
	if err != nil {
		v.port.options.Refused("strangers")
		return nil, nil, err
	}
	return addressed{conn}, info, nil
}

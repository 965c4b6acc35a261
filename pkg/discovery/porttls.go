package discovery

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/identity/csr"
)

const (
	// issueRetry is how long a certificate that could not be renewed is shown
	// before the next attempt.
	issueRetry = 10 * time.Second
	// lookTime is how late a new signing certificate of the CA may be noticed.
	lookTime = time.Second
	// watchTime is how often the port looks after itself.
	watchTime = time.Minute
)

// portTLS is the TLS side of port 15012. A client certificate is optional in
// the handshake, because callers without one may ask for one; whoever shows
// one that does not verify counts as a caller without.
type portTLS struct {
	ca        *identity.CA
	namespace string
	renewal   identity.Renewal
	hub       *hub
	peers     csr.Peers
	strangers strangers

	mu      sync.Mutex
	shown   *tls.Certificate // nil before the first
	domain  string           // that shown is for
	renewAt time.Time
	looked  time.Time // when shown was last compared with the CA
}

func newPortTLS(ca *identity.CA, namespace string, grace float64, h *hub) *portTLS {
	return &portTLS{ca: ca, namespace: namespace, renewal: identity.Renewal{Ratio: grace}, hub: h, peers: csr.Peers{Roots: ca.Roots}}
}

// serverOptions are for a server of this port: who has no certificate of the
// mesh may not stream, so that nothing of its requests is read.
func (p *portTLS) serverOptions() []grpc.ServerOption {
	config := &tls.Config{
		GetCertificate: p.certificate,
		// The chain is verified after the handshake, so that the refusal has a
		// text. crypto/tls has checked that the caller has the key.
		ClientAuth: tls.RequestClientCert,
		MinVersion: tls.VersionTLS12,
		// A resumed session would not show what is trusted now.
		SessionTicketsDisabled: true,
	}
	return []grpc.ServerOption{
		grpc.Creds(verifying{credentials.NewTLS(config), p}),
		grpc.StreamInterceptor(func(server any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			if _, err := p.peers.Certificate(s.Context()); err != nil {
				return p.hub.noStranger(err)
			}
			return handler(server, s)
		}),
	}
}

// certificate is what the server shows: for the trust domain of this moment,
// and not in the last part of its life. The first handshakes wait for the
// first configuration.
func (p *portTLS) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	select {
	case <-p.hub.configured:
	case <-hello.Context().Done():
		return nil, errors.New("no configuration was read yet")
	}
	return p.current(time.Now())
}

// current is the certificate to show; the hub must be configured.
func (p *portTLS) current(now time.Time) (*tls.Certificate, error) {
	domain := p.hub.trustDomains()[0]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown != nil && p.domain == domain && now.Before(p.renewAt) && p.ours(now) {
		return p.shown, nil
	}
	next, err := p.issue(domain)
	if err == nil {
		p.shown, p.domain, p.looked, p.renewAt = next, domain, now, p.renewal.At(next.Leaf, "")
		if soon := now.Add(lookTime); p.renewAt.Before(soon) {
			p.renewAt = soon // not at every handshake
		}
		p.hub.metrics.CertificateExpires(next.Leaf.NotAfter)
		return next, nil
	}
	p.hub.log.Error("the certificate of the xDS port cannot be renewed", "error", err)
	if p.shown == nil || !now.Before(p.shown.Leaf.NotAfter) {
		return nil, err
	}
	p.domain, p.looked, p.renewAt = domain, now.Add(issueRetry), now.Add(issueRetry)
	return p.shown, nil
}

// ours says whether the CA would still sign what is shown with the same key.
// To ask is signature work, so it is done once in a while.
func (p *portTLS) ours(now time.Time) bool {
	if now.Sub(p.looked) < lookTime {
		return true
	}
	p.looked = now
	return p.ca.Signed(p.shown.Leaf)
}

func (p *portTLS) issue(domain string) (*tls.Certificate, error) {
	pair, err := p.ca.IssueControlPlane(domain, p.namespace)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(pair.CertChain, pair.Key)
	if err != nil {
		return nil, fmt.Errorf("load certificate of %s: %w", pair.URI, err)
	}
	return &cert, nil
}

// watch renews the certificate also when nobody connects, so that its metric
// does not cry wolf, and reports what is wrong with the file of tokens.
func (p *portTLS) watch(ctx context.Context, tokens *csr.TokenFile) {
	select {
	case <-p.hub.configured:
	case <-ctx.Done():
		return
	}
	tick := time.NewTicker(watchTime)
	defer tick.Stop()
	for {
		_, _ = p.current(time.Now()) // logs its error
		p.hub.reports.put("tokens", tokenProblems(tokens))
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
	port *portTLS
}

func (v verifying) Clone() credentials.TransportCredentials {
	return verifying{v.TransportCredentials.Clone(), v.port}
}

func (v verifying) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	refused := v.port.hub.metrics.RefusedConnections
	conn, auth, err := v.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		refused.WithLabelValues("handshake").Inc()
		return nil, nil, err
	}
	info, ok := auth.(credentials.TLSInfo)
	if !ok {
		return nil, nil, errors.Join(errors.New("the connection has no TLS state"), conn.Close())
	}
	info.State.VerifiedChains = v.port.peers.Verify(info.State.PeerCertificates)
	if len(info.State.VerifiedChains) > 0 {
		return conn, info, nil
	}
	conn, err = v.port.strangers.admit(conn)
	if err != nil {
		refused.WithLabelValues("strangers").Inc()
		return nil, nil, err
	}
	return conn, info, nil
}

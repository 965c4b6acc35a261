package discovery

import (
	"context"
	"crypto/x509"
	"errors"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/meshpilot/pilot/pkg/discovery/ads"
	"github.com/meshpilot/pilot/pkg/model"
)

// certified is the other end of a TLS stream and the workload it acts for.
type certified struct {
	uri     string
	chain   []*x509.Certificate // as presented, the leaf first
	expires time.Time
	node    string
	id      model.WorkloadID
}

// certifiedPeer is nil on a plaintext connection.
func certifiedPeer(ctx context.Context, node string, id model.WorkloadID) (*certified, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return nil, nil
	}
	if len(info.State.VerifiedChains) == 0 {
		return nil, status.Error(codes.Unauthenticated, "no client certificate is presented")
	}
	leaf := info.State.VerifiedChains[0][0]
	c := &certified{chain: info.State.PeerCertificates, expires: leaf.NotAfter, node: node, id: id}
	uris := make([]string, len(leaf.URIs))
	for i, uri := range leaf.URIs {
		uris[i] = uri.String()
	}
	c.uri = strings.Join(uris, ",")
	if len(uris) != 1 {
		return nil, c.denied()
	}
	return c, nil
}

// check says whether the certificate is one of the workload's. Before the
// sources know the workload, its namespace must do; it is checked again then.
func (c *certified) check(s *model.Snapshot, now time.Time) error {
	if !now.Before(c.expires) {
		return expiredError{status.Newf(codes.PermissionDenied, "%s: its certificate has expired at %s",
			status.Convert(c.denied()).Message(), c.expires.UTC().Format(time.RFC3339))}
	}
	if s == nil {
		return nil
	}
	mesh, w := s.Mesh(), s.Workload(c.id)
	for _, domain := range append([]string{mesh.TrustDomain}, mesh.TrustDomainAliases...) {
		account, ok := strings.CutPrefix(c.uri, "spiffe://"+domain+"/ns/"+c.id.Namespace+"/sa/")
		if ok && (w == nil || account == w.ServiceAccount) {
			return nil
		}
	}
	return c.denied()
}

// expiredError ends a stream whose certificate is over. That is how a proxy
// comes back with its next one, and nothing is wrong.
type expiredError struct{ status *status.Status }

func (e expiredError) Error() string              { return e.status.Err().Error() }
func (e expiredError) GRPCStatus() *status.Status { return e.status }

func (c *certified) denied() error {
	return status.Errorf(codes.PermissionDenied, "identity %s may not act for node %s", c.uri, c.node)
}

// peers are the TLS streams by id. Streams enter themselves, the hub checks
// them again as time and configuration go on.
type peers struct {
	mu sync.Mutex
	by map[uint64]*certified
}

func (p *peers) add(stream uint64, c *certified) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by == nil {
		p.by = map[uint64]*certified{}
	}
	p.by[stream] = c
}

func (p *peers) remove(stream uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.by, stream)
}

// of is a stream's identity and the end of its certificate; both are zero
// for plaintext streams.
func (p *peers) of(stream uint64) (uri string, expiry time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.by[stream]; c != nil {
		return c.uri, c.expires
	}
	return "", time.Time{}
}

// chain is what a stream's other end presented; nil for plaintext streams.
func (p *peers) chain(stream uint64) []*x509.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.by[stream]; c != nil {
		return c.chain
	}
	return nil
}

// refused are the streams that may not go on, with the reason; next is when
// the first certificate of the others expires, zero if there is none.
func (p *peers) refused(s *model.Snapshot, now time.Time) (out map[uint64]error, next time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out = map[uint64]error{}
	for stream, c := range p.by {
		if err := c.check(s, now); err != nil {
			out[stream] = err
			delete(p.by, stream)
		} else {
			next = earlier(next, c.expires)
		}
	}
	return out, next
}

// identify says which proxy the node of a stream is, and lets it in.
func (h *hub) identify(ctx context.Context, node *corev3.Node) (model.Proxy, error) {
	proxy, err := parseNode(node, h.domain)
	var who *certified
	if err == nil {
		who, err = certifiedPeer(ctx, node.GetId(), proxy.ID)
	}
	if err == nil && who != nil {
		// Enter before looking: a snapshot that comes meanwhile checks it again.
		h.peers.add(ads.StreamID(ctx), who)
		if err = who.check(h.snapshot.Load(), time.Now()); err != nil {
			h.peers.remove(ads.StreamID(ctx))
		}
	}
	if err != nil {
		h.turnedAway(node.GetId(), err)
		var paths secretPathError
		if errors.As(err, &paths) {
			h.events.put(ads.Event{Kind: badPaths, Node: node.GetId(), Proxy: proxy, Detail: paths.text, Time: time.Now()})
		}
	} else {
		h.versions.Note(proxy.ID, node)
	}
	return proxy, err
}

// identifyTeller says whose evidence of traffic a stream brings. The same
// certificates as for xDS may; check is asked at every message.
func (h *hub) identifyTeller(ctx context.Context, node *corev3.Node) (id model.WorkloadID, check func() error, err error) {
	proxy, err := parseNodeID(node.GetId(), h.domain)
	var who *certified
	if err == nil {
		who, err = certifiedPeer(ctx, node.GetId(), proxy.ID)
	}
	if err == nil && who != nil {
		check = func() error { return who.check(h.snapshot.Load(), time.Now()) }
		err = check()
	}
	if err != nil {
		h.turnedAway(node.GetId(), err)
	}
	return proxy.ID, check, err
}

// expiredCode is what ends by expiry is counted under: alerts on
// PermissionDenied should not tell of each renewal.
const expiredCode = "CertificateExpired"

func (h *hub) turnedAway(node string, err error) {
	s := status.Convert(err)
	if errors.As(err, new(expiredError)) {
		h.metrics.Refused.WithLabelValues(expiredCode).Inc()
		h.log.Info("stream ended, as its certificate did", "node", node, "error", s.Message())
		return
	}
	h.metrics.Refused.WithLabelValues(s.Code().String()).Inc()
	h.log.Warn("stream refused", "node", node, "code", s.Code().String(), "error", s.Message())
}

// badPaths is an event of the hub's own: the node was refused for the paths
// of its certificate.
const badPaths = ads.EventKind(200)

// expel ends the streams whose certificate does not allow them any more.
func (h *hub) expel(s *model.Snapshot) {
	var bad map[uint64]error
	bad, h.expiresAt = h.peers.refused(s, time.Now())
	for stream, err := range bad {
		node := ""
		if c := h.ledger.streams[stream]; c != nil {
			node = c.node
		}
		h.turnedAway(node, err)
		h.store.End(stream, err)
	}
}

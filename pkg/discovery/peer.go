package discovery

import (
	"context"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/meshpilot/pilot/pkg/model"
)

type streamKey struct{}

// withStream marks the context of a stream with its id.
func withStream(ctx context.Context, stream uint64) context.Context {
	return context.WithValue(ctx, streamKey{}, stream)
}

// streamOf is the id that withStream gave; 0 without one.
func streamOf(ctx context.Context) uint64 {
	id, _ := ctx.Value(streamKey{}).(uint64)
	return id
}

// certified is the other end of a TLS stream and the workload it acts for.
type certified struct {
	uri     string
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
	c := &certified{expires: leaf.NotAfter, node: node, id: id}
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
		return status.Errorf(codes.PermissionDenied, "%s: its certificate has expired at %s",
			status.Convert(c.denied()).Message(), c.expires.UTC().Format(time.RFC3339))
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

// uri is empty for plaintext streams.
func (p *peers) uri(stream uint64) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.by[stream]; c != nil {
		return c.uri
	}
	return ""
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
		} else if next.IsZero() || c.expires.Before(next) {
			next = c.expires
		}
	}
	return out, next
}

package ads

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// talk is a client that says exactly what a test tells it to.
type talk struct {
	t     *testing.T
	node  string
	delta discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	sotw  discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesClient

	mu       sync.Mutex
	heard    []heard
	err      error
	resource map[kind]map[string]string // name to digest of what it would hold
	nonces   []string
}

// heard is one response.
type heard struct {
	kind           kind
	nonce, version string
	digests        map[string]string
	removed        []string
}

// line is "CDS name name -name", names sorted.
func (h heard) line() string {
	var names []string
	for name := range h.digests {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range slices.Sorted(slices.Values(h.removed)) {
		names = append(names, "-"+name)
	}
	return strings.Join(append([]string{h.kind.short()}, names...), " ")
}

func (k kind) short() string { return [kinds]string{"SDS", "CDS", "EDS", "LDS", "RDS"}[k] }

// ask is one request.
type ask struct {
	kind      kind
	url       string // instead of kind
	add, drop []string
	has       map[string]string // initial_resource_versions
	nonce     string
	version   string
	refuse    string
}

func newTalk(t *testing.T, conn *grpc.ClientConn, node string, sotw bool) *talk {
	t.Helper()
	c := &talk{t: t, node: node, resource: map[kind]map[string]string{}}
	client := discoveryv3.NewAggregatedDiscoveryServiceClient(conn)
	var err error
	if sotw {
		c.sotw, err = client.StreamAggregatedResources(t.Context())
	} else {
		c.delta, err = client.DeltaAggregatedResources(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	go c.listen()
	return c
}

func (c *talk) listen() {
	for {
		var h heard
		var err error
		if c.delta != nil {
			h, err = c.hearDelta()
		} else {
			h, err = c.hearSotw()
		}
		c.mu.Lock()
		if err != nil {
			c.err = err
			c.mu.Unlock()
			return
		}
		c.heard = append(c.heard, h)
		c.nonces = append(c.nonces, h.nonce)
		held := c.resource[h.kind]
		if held == nil || c.sotw != nil && h.kind.full() {
			held = map[string]string{}
			c.resource[h.kind] = held
		}
		for name, digest := range h.digests {
			held[name] = digest
		}
		for _, name := range h.removed {
			delete(held, name)
		}
		c.mu.Unlock()
	}
}

func (c *talk) hearDelta() (heard, error) {
	m, err := c.delta.Recv()
	if err != nil {
		return heard{}, err
	}
	k, _ := kindOf([]byte(m.GetTypeUrl()))
	h := heard{kind: k, nonce: m.GetNonce(), version: m.GetSystemVersionInfo(), digests: map[string]string{}, removed: m.GetRemovedResources()}
	for _, r := range m.GetResources() {
		h.digests[r.GetName()] = digest(r.GetResource().GetValue())
	}
	return h, nil
}

func (c *talk) hearSotw() (heard, error) {
	m, err := c.sotw.Recv()
	if err != nil {
		return heard{}, err
	}
	k, _ := kindOf([]byte(m.GetTypeUrl()))
	h := heard{kind: k, nonce: m.GetNonce(), version: m.GetVersionInfo(), digests: map[string]string{}}
	for _, body := range m.GetResources() {
		h.digests[nameIn(body)] = digest(body.GetValue())
	}
	return h, nil
}

// nameIn is the name in a resource: field 1 of all five kinds.
func nameIn(body *anypb.Any) string {
	m, err := body.UnmarshalNew()
	if err != nil {
		return err.Error()
	}
	r := m.ProtoReflect()
	return r.Get(r.Descriptor().Fields().ByNumber(1)).String()
}

// send sends a request and waits until all is quiet.
func (c *talk) send(a ask) {
	c.t.Helper()
	url := a.url
	if url == "" {
		url = a.kind.url()
	}
	var refusal *status.Status
	if a.refuse != "" {
		refusal = status.New(codes.InvalidArgument, a.refuse)
	}
	var err error
	if c.delta != nil {
		err = c.delta.Send(&discoveryv3.DeltaDiscoveryRequest{
			Node: &corev3.Node{Id: c.node}, TypeUrl: url, ResourceNamesSubscribe: a.add, ResourceNamesUnsubscribe: a.drop,
			InitialResourceVersions: a.has, ResponseNonce: a.nonce, ErrorDetail: refusal.Proto(),
		})
	} else {
		err = c.sotw.Send(&discoveryv3.DiscoveryRequest{
			Node: &corev3.Node{Id: c.node}, TypeUrl: url, ResourceNames: a.add, VersionInfo: a.version,
			ResponseNonce: a.nonce, ErrorDetail: refusal.Proto(),
		})
	}
	if err != nil {
		c.t.Fatal(err)
	}
	synctest.Wait()
}

// take is what was heard since the last call.
func (c *talk) take() []heard {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.heard
	c.heard = nil
	return h
}

// lines is take, as text.
func (c *talk) lines() []string {
	var lines []string
	for _, h := range c.take() {
		lines = append(lines, h.line())
	}
	return lines
}

// one is take where exactly one response is expected.
func (c *talk) one(want string) heard {
	c.t.Helper()
	h := c.take()
	if len(h) != 1 || h[0].line() != want {
		var got []string
		for _, h := range h {
			got = append(got, h.line())
		}
		c.t.Fatalf("got %q, want %q", got, want)
	}
	return h[0]
}

// ack accepts a response; names are what a state-of-the-world client repeats.
func (c *talk) ack(h heard, names ...string) {
	c.t.Helper()
	if c.delta != nil {
		names = nil
	}
	c.send(ask{kind: h.kind, nonce: h.nonce, version: h.version, add: names})
}

func (c *talk) nack(h heard, text string, names ...string) {
	c.t.Helper()
	if c.delta != nil {
		names = nil
	}
	c.send(ask{kind: h.kind, nonce: h.nonce, refuse: text, add: names})
}

func (c *talk) ended() error {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

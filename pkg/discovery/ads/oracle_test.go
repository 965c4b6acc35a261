package ads

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/meshpilot/pilot/pkg/translate"
)

// oracle is go-control-plane's server with its snapshot cache.
type oracle struct {
	t       *testing.T
	cache   cachev3.SnapshotCache
	version int
	conn    *grpc.ClientConn
}

func newOracle(t *testing.T) (*oracle, func()) {
	o := &oracle{t: t, cache: cachev3.NewSnapshotCache(true, cachev3.IDHash{}, nil)}
	listen := bufconn.Listen(64 << 10)
	server := grpc.NewServer()
	ctx, cancel := context.WithCancel(context.Background())
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, serverv3.NewServer(ctx, o.cache, nil))
	served := make(chan error)
	go func() { served <- server.Serve(listen) }()
	var err error
	o.conn, err = grpc.NewClient("passthrough:oracle", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listen.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	return o, func() {
		cancel()
		o.conn.Close()
		server.Stop()
		<-served
	}
}

// apply gives the node what our store would give it.
func (o *oracle) apply(m mesh, node string) {
	namespace, _, _ := strings.Cut(node, "/")
	resources := map[string][]types.Resource{}
	add := func(k kind, content set) {
		for _, name := range slices.Sorted(maps.Keys(content)) {
			resources[k.url()] = append(resources[k.url()], message(k, name, content[name]))
		}
	}
	for _, c := range []content{m.client[namespace], m.server} {
		add(clusters, c.clusters)
		add(listeners, c.listeners)
		add(routes, c.routes)
	}
	// In state of the world it answers only who asks for all that there is.
	own := maps.Clone(m.client[namespace].endpoints)
	maps.DeleteFunc(own, func(name, _ string) bool { return !strings.HasPrefix(m.client[namespace].clusters[name], "eds") })
	add(endpoints, own)
	o.version++
	snapshot, err := cachev3.NewSnapshot(fmt.Sprint(o.version), resources)
	if err != nil {
		o.t.Fatal(err)
	}
	if err := o.cache.SetSnapshot(o.t.Context(), node, snapshot); err != nil {
		o.t.Fatal(err)
	}
}

// step is one thing that happens: a new world, or a request. Responses to it
// are acknowledged until nothing comes any more.
type step struct {
	apply *mesh
	ask   ask
	// ours and theirs is what only one of the two sends, and why.
	ours, theirs []string
	why          string
}

func TestOracleDelta(t *testing.T) {
	edited := simple().edited("a", translate.ClusterType, "static", "v2").edited("a", translate.RouteType, "80", "v2")
	flipped := edited.edited("a", translate.ClusterType, "out-1", "eds 2")
	less := flipped.edited("a", translate.ClusterType, "static", "").edited("a", translate.ListenerType, "l-tcp", "")
	script(t, false, []step{
		{ask: ask{kind: clusters}},
		{ask: ask{kind: endpoints, add: []string{"out-1", "out-2"}}},
		{ask: ask{kind: listeners}},
		{ask: ask{kind: routes, add: []string{"80"}}},
		{ask: ask{kind: routes, add: []string{"in|8080"}}},
		{apply: &edited},
		{apply: &flipped, ours: []string{"EDS out-1"}, why: "rule 11: the endpoints go with their changed cluster"},
		{ask: ask{kind: endpoints, drop: []string{"out-1"}}},
		{ask: ask{kind: endpoints, add: []string{"out-1"}}},
		{ask: ask{kind: endpoints, add: []string{"out-1"}}, ours: []string{"EDS out-1"}, why: "a name that is subscribed again is sent again"},
		{ask: ask{kind: endpoints, add: []string{"nowhere"}}, ours: []string{"EDS -nowhere"}, why: "what does not exist is told, or its cluster warms for 15 s"},
		{apply: &less},
		{ask: ask{kind: clusters, add: []string{"out-2"}}, ours: []string{"CDS out-2", "EDS out-2"}, why: "subscribed by name: sent, held or not"},
		{ask: ask{kind: clusters, drop: []string{"out-2"}}, ours: []string{"EDS out-2"}, why: "rule 11"},
		{ask: ask{kind: clusters, nonce: "stale"}},
		{ask: ask{kind: clusters, drop: []string{"*"}}},
	})
}

// The oracle makes its own versions; what is held in the right one is for
// TestResume.
func TestOracleDeltaResume(t *testing.T) {
	script(t, false, []step{
		{ask: ask{kind: endpoints, add: []string{"out-1", "out-2", "never"}, has: set{"out-1": "x", "out-2": "y", "never": "z"}}},
		{ask: ask{kind: listeners, has: set{"l-80": "x", "bygone": "y"}}},
		{
			ask:  ask{kind: clusters, has: set{"bygone": "x"}},
			ours: []string{"EDS out-1", "EDS out-2"}, theirs: []string{"CDS -bygone"}, why: "rule 11, and routes may still refer to bygone",
		},
		{ask: ask{kind: routes, add: []string{"80"}, has: set{"80": "x"}}, ours: []string{"CDS -bygone"}, why: "now they do not"},
	})
}

func TestOracleSotw(t *testing.T) {
	edited := simple().edited("a", translate.ClusterType, "static", "v2").edited("a", translate.RouteType, "80", "v2")
	flipped := edited.edited("a", translate.ClusterType, "out-1", "eds 2").edited("a", translate.EndpointType, "out-1", "v2")
	less := flipped.edited("a", translate.ClusterType, "static", "").edited("a", translate.ListenerType, "l-tcp", "")
	script(t, true, []step{
		{ask: ask{kind: clusters}},
		{ask: ask{kind: endpoints, add: []string{"out-1", "out-2"}}},
		{ask: ask{kind: listeners}},
		{ask: ask{kind: routes, add: []string{"80", "in|8080"}}},
		{apply: &edited},
		{apply: &flipped},
		{apply: &less},
		{ask: ask{kind: clusters, nonce: "stale"}},
	})
}

// script plays steps to both servers. In delta the same names and contents
// must be sent at each step; in state of the world, where the oracle repeats
// what has not changed, the client must hold the same.
func script(t *testing.T, sotw bool, steps []step) {
	const node = "a/1"
	inBed(t, StoreOptions{}, func(t *testing.T, b *bed) {
		o, stop := newOracle(t)
		defer stop()
		b.apply(simple())
		o.apply(simple(), node)
		ours, theirs := newTalk(t, b.conn(), node, sotw), newTalk(t, o.conn, node, sotw)
		names := map[kind][]string{}
		for i, s := range steps {
			if s.apply != nil {
				b.apply(*s.apply)
				o.apply(*s.apply, node)
			} else {
				names[s.ask.kind] = s.ask.add
				ours.send(s.ask)
				theirs.send(s.ask)
			}
			got, want := settle(ours, names), settle(theirs, names)
			if !sotw {
				got, want = less(got, s.ours), less(want, s.theirs)
				equal(t, fmt.Sprintf("step %d (%s)", i, s.why), got, want)
			}
			for k := range kinds {
				if !maps.Equal(ours.resource[k], theirs.resource[k]) {
					t.Errorf("step %d: %s held: %v, the oracle's client holds %v", i, k.short(), ours.resource[k], theirs.resource[k])
				}
			}
		}
	})
}

// settle acknowledges until nothing comes, and gives what came, sorted, one
// resource with its content a line.
func settle(c *talk, names map[kind][]string) []string {
	var lines []string
	for {
		synctest.Wait()
		responses := c.take()
		if len(responses) == 0 {
			slices.Sort(lines)
			return slices.Compact(lines)
		}
		for _, h := range responses {
			for name, digest := range h.digests {
				lines = append(lines, h.kind.short()+" "+name+" "+digest)
			}
			for _, name := range h.removed {
				lines = append(lines, h.kind.short()+" -"+name)
			}
			c.ack(h, names[h.kind]...)
		}
	}
}

// less is lines without those that begin with one of known, each of which
// must be there.
func less(lines, known []string) []string {
	for _, k := range known {
		before := len(lines)
		lines = slices.DeleteFunc(lines, func(line string) bool { return line == k || strings.HasPrefix(line, k+" ") })
		if len(lines) == before {
			lines = append(lines, "missing: "+k)
		}
	}
	return lines
}

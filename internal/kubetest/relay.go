package kubetest

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
)

// Relay stands between clients and the API server, so that a test can cut
// their connections while both live.
type Relay struct {
	cluster *Cluster
	ln      net.Listener

	mu      sync.Mutex
	refuse  bool
	conns   map[net.Conn]bool
	ended   bool
	running sync.WaitGroup
}

// Relay listens where the cluster does, at a port of its own, until the test
// ends.
func (c *Cluster) Relay(t testing.TB) *Relay {
	t.Helper()
	r := &Relay{cluster: c, conns: map[net.Conn]bool{}}
	err := c.inside(func() (err error) {
		r.ln, err = net.Listen("tcp", c.at(0))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	r.running.Go(r.accept)
	t.Cleanup(func() {
		r.ln.Close()
		r.mu.Lock()
		r.ended = true
		r.mu.Unlock()
		r.Cut()
		r.running.Wait()
	})
	return r
}

// Config is config, through the relay.
func (r *Relay) Config(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.Host = "https://" + r.ln.Addr().String()
	return config
}

// Cut ends all connections; new ones are let through, unless Refuse said
// otherwise.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for conn := range r.conns {
		conn.Close()
	}
}

// Refuse says whether new connections are closed at once.
func (r *Relay) Refuse(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse = on
}

func (r *Relay) accept() {
	for {
		client, err := r.ln.Accept()
		if err != nil {
			return // the listener is closed
		}
		r.running.Go(func() { r.serve(client) })
	}
}

func (r *Relay) serve(client net.Conn) {
	defer client.Close()
	if !r.hold(client) {
		return
	}
	defer r.drop(client)
	server, err := r.cluster.dial(context.Background(), "tcp", r.cluster.at(Port))
	if err != nil {
		return
	}
	defer server.Close()
	if !r.hold(server) {
		return
	}
	defer r.drop(server)
	var both sync.WaitGroup
	both.Go(func() { pipe(server, client) })
	both.Go(func() { pipe(client, server) })
	both.Wait()
}

// pipe hands on what is read, and the end of one direction ends both: API
// clients do not half-close.
func pipe(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	to.Close()
	from.Close()
}

func (r *Relay) hold(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse || r.ended {
		return false
	}
	r.conns[conn] = true
	return true
}

func (r *Relay) drop(conn net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, conn)
}

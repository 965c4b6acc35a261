package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/phases"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/lab/relay"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

// Probes are what a drill hears of. Both are called from many goroutines.
type Probes struct {
	Call   func(Call)                           // every call, when it is over
	Phases func(map[model.Target]rollout.State) // how far all targets are, before a proxy hears of it
}

func (p *Probes) phases() func(map[model.Target]rollout.State) {
	if p == nil {
		return nil
	}
	return p.Phases
}

// Kind is how a call is made.
type Kind string

// The kinds: the first two are those of every lab.
const (
	KeptConnection Kind = "kept connection"
	NewConnection  Kind = "new connection"
	SlowRequest    Kind = "slow request"
	LongConnection Kind = "long connection" // or stream of HTTP/2 or gRPC
)

// Call is one call and what became of it.
type Call struct {
	Caller    model.WorkloadID
	Sidecar   bool // the caller has one
	Host      string
	Port      uint16
	Protocol  model.Protocol
	Endpoints []Endpoint // any of them may have been called
	Kind      Kind
	// Begin is when it began or, on something long that was cut, the last sign of life.
	Begin, End time.Time
	Cut        bool  // something long that was open, and ended
	Err        error // nil: it was answered
}

// Endpoint is one place that a target leads to.
type Endpoint struct {
	Workload model.WorkloadID
	Port     uint16 // container port
}

// report tells a drill of one call.
func (p *pair) report(kind Kind, begin time.Time, cut bool, err error) {
	if p.probe == nil {
		return
	}
	c := Call{
		Caller: p.caller, Sidecar: p.sidecar, Host: p.target.host, Port: p.target.port, Protocol: p.target.protocol,
		Kind: kind, Begin: begin, End: time.Now(), Cut: cut, Err: err,
	}
	for _, e := range p.target.endpoints {
		c.Endpoints = append(c.Endpoints, Endpoint{e.workload, e.port})
	}
	p.probe(c)
}

// guarded is a file of phases that nothing is written to once it is sealed: a
// control plane that is killed does not write any more either.
type guarded struct {
	file  *phases.File
	watch func(map[model.Target]rollout.State)

	mu     sync.Mutex
	sealed bool
}

// Load implements phases.Store.
func (g *guarded) Load() (map[model.Target]rollout.State, error) { return g.file.Load() }

// Save implements phases.Store.
func (g *guarded) Save(states map[model.Target]rollout.State) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sealed {
		return errors.New("the control plane is killed")
	}
	err := g.file.Save(states)
	if err == nil && g.watch != nil {
		g.watch(maps.Clone(states))
	}
	return err
}

func (g *guarded) seal() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sealed = true
}

// close lets another control plane have the file; more than once is once.
func (g *guarded) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sealed && g.file == nil {
		return nil
	}
	err := g.file.Close()
	g.sealed, g.file = true, nil
	return err
}

// liveTime is how long an Envoy that missed its certificate at the start may
// take once that is there, before it is started again as a node agent does. One
// that read its files too early never gets over it.
const liveTime = time.Second

// newRelay stands between a sidecar and the control plane; the sidecar is to
// connect to the address.
func (s *setting) newRelay(c *cell, mesh *model.Mesh) (*relay.Relay, string, error) {
	listen := func(address string) (net.Listener, error) { return net.Listen("tcp", address) }
	var d net.Dialer
	dial := func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", s.discovery) }
	if s.network != nil {
		listen = s.network.Listen
		dial = func(ctx context.Context) (net.Conn, error) { return s.network.Dial(ctx, s.discovery) }
	}
	host, _, err := net.SplitHostPort(s.discovery)
	if err != nil {
		return nil, "", err
	}
	ln, err := listen(join(host, 0))
	if err != nil {
		return nil, "", err
	}
	r, err := relay.New(relay.Options{
		Listener: ln, Name: "istiod.istio-system.svc",
		Server: func() (*tls.Certificate, error) {
			pair, err := s.ca.IssueControlPlane(mesh.TrustDomain, "istio-system")
			if err != nil {
				return nil, err
			}
			cert, err := tls.X509KeyPair(pair.CertChain, pair.Key)
			return &cert, err
		},
		Client: func() (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(c.node.Local.CertChain, c.node.Local.Key)
			return &cert, err
		},
		Roots: func() *x509.CertPool {
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(s.ca.Roots())
			return roots
		},
		Dial: dial,
	})
	if err != nil {
		return nil, "", errors.Join(err, ln.Close())
	}
	return r, ln.Addr().String(), nil
}

// Relay is what stands between the workload's sidecar and the control plane,
// in a drill; nil: nothing does.
func (l *Lab) Relay(id model.WorkloadID) *relay.Relay {
	c := l.cell(id)
	if c == nil {
		return nil
	}
	return c.relay
}

// KillControl ends the control plane as a crash does: nothing more reaches a
// sidecar, and nothing more is stored.
func (l *Lab) KillControl() error {
	for _, id := range l.Sidecars() {
		if r := l.Relay(id); r != nil {
			r.Cut(true)
		}
	}
	return l.control.kill()
}

// ForgetPhases deletes what a killed control plane stored.
func (l *Lab) ForgetPhases() error { return os.RemoveAll(l.control.path) }

// StartControl starts the control plane again, with what the one before stored.
func (l *Lab) StartControl() error {
	err := l.control.begin()
	for _, id := range l.Sidecars() {
		if r := l.Relay(id); r != nil {
			r.Cut(false)
		}
	}
	return err
}

// RestartSidecar replaces the workload's Envoy, and returns when the new one is
// live; stopped is called when the old one is gone. If late is not 0, its
// certificate is gone when it starts, and comes so much later.
func (l *Lab) RestartSidecar(ctx context.Context, id model.WorkloadID, late time.Duration, stopped func()) error {
	c := l.cell(id)
	if c == nil || c.envoy == nil {
		return fmt.Errorf("%s has no sidecar here", id)
	}
	mesh := l.Snapshot().Mesh()
	c.envoy.Stop()
	stopped()
	certs := filepath.Dir(c.node.Local.Key)
	if late > 0 {
		l.setting.renewer.Drop(certs)
		if err := os.RemoveAll(certs); err != nil {
			return err
		}
	}
	if err := l.setting.startEnvoy(c, mesh); err != nil {
		return err
	}
	if late == 0 {
		go l.watch(c.envoy)
		return c.envoy.WaitLive(ctx, c.admin)
	}
	select {
	case <-time.After(late):
	case <-ctx.Done():
	}
	if err := l.setting.certify(c); err != nil {
		return err
	}
	soon, cancel := context.WithTimeout(ctx, liveTime)
	err := c.envoy.WaitLive(soon, c.admin)
	cancel()
	if err == nil || ctx.Err() != nil {
		go l.watch(c.envoy)
		return ctx.Err()
	}
	return l.RestartSidecar(ctx, id, 0, func() {})
}

// Strangers lets the callers without a sidecar call, in a drill, or not.
func (l *Lab) Strangers(on bool) { l.strangers.Store(on) }

// RenewLong makes the applications give up what they keep open, in a drill,
// and open it again.
func (l *Lab) RenewLong() { l.renewals.Add(1) }

// Rollouts are how far the targets are on the way to their modes.
func (l *Lab) Rollouts() []status.Rollout { return l.control.server().State().Rollouts }

// Died tells of an Envoy that ended by itself.
func (l *Lab) Died() <-chan error { return l.died }

// Ended is closed when the control plane ended by itself.
func (l *Lab) Ended() <-chan struct{} { return l.control.done }

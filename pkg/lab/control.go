package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery"
	"github.com/meshpilot/pilot/pkg/discovery/phases"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/meshconfig/file"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

const (
	xdsPort     = 15012
	metricsPort = 15014
	httpPort    = 8080
)

// control is the control plane in this process, on the lab's directory. It can
// be killed and started again.
type control struct {
	dir     string
	capture bool
	options discovery.Options
	path    string // of the stored phases
	watch   func(map[model.Target]rollout.State)
	log     *os.File
	states  chan state    // holds one; the latest wins
	done    chan struct{} // closed when it ended by itself, or by stop
	err     error         // why; set before done is closed

	mu    sync.Mutex
	now   *life
	times []editTime
}

// life is one control plane, from its start to its end.
type life struct {
	server *discovery.Server
	phases *guarded
	cancel context.CancelFunc
	killed atomic.Bool
	over   chan struct{}
}

// editTime is when a configuration was published, and when its newest file was
// written.
type editTime struct{ published, written time.Time }

// startControl opens the ports and begins to serve the directory.
func startControl(o Options, s *setting, log string) (*control, error) {
	var err error
	c := &control{
		dir: o.Dir, capture: o.Capture, states: make(chan state, 1), done: make(chan struct{}),
		path: filepath.Join(filepath.Dir(log), "rollout.json"), watch: o.Drill.phases(),
	}
	if c.log, err = os.Create(log); err != nil {
		return nil, err
	}
	c.options = discovery.Options{
		Source: c, Domain: domain, CA: s.ca,
		TLSAddress:     join(o.Address, xdsPort),
		MetricsAddress: join(o.Address, metricsPort),
		HTTPAddress:    join(o.Address, httpPort),
		Log:            slog.New(slog.NewTextHandler(c.log, nil)),
	}
	if s.network != nil {
		// Proxies reach the control plane on their own network.
		c.options.TLSAddress = join(controlPlaneAddress().String(), xdsPort)
		c.options.ListenTLS = s.network.Listen
	}
	err = freeForControl(c.options.MetricsAddress, c.options.HTTPAddress)
	if err == nil && s.network == nil {
		err = freeForControl(c.options.TLSAddress)
	}
	if err == nil {
		err = c.begin()
	}
	if err != nil {
		return nil, errors.Join(err, c.log.Close())
	}
	s.discovery = c.server().Addresses().TLS
	return c, nil
}

// begin starts a control plane with what the one before stored.
func (c *control) begin() error {
	stored, err := phases.Open(c.path)
	if err != nil {
		return err
	}
	l := &life{phases: &guarded{file: stored, watch: c.watch}, over: make(chan struct{})}
	o := c.options
	o.Phases = l.phases
	if l.server, err = discovery.Listen(o); err != nil {
		return errors.Join(err, stored.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	c.mu.Lock()
	c.now = l
	c.mu.Unlock()
	go func() {
		err := l.server.Run(ctx)
		if !l.killed.Load() {
			c.err = err
			close(c.done)
		}
		close(l.over)
	}()
	return nil
}

// kill ends the control plane so that nothing of it is stored any more, and
// waits until its ports are free.
func (c *control) kill() error {
	c.mu.Lock()
	l := c.now
	c.mu.Unlock()
	l.killed.Store(true)
	l.phases.seal()
	l.cancel()
	<-l.over
	return l.phases.close()
}

// server is the control plane of now.
func (c *control) server() *discovery.Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now.server
}

// freeForControl names the flag of the lab, which discovery does not know.
func freeForControl(addresses ...string) error {
	for _, address := range addresses {
		if err := free(address); err != nil {
			return fmt.Errorf("%w; --addr 127.0.0.2 puts the control plane elsewhere", inUse(err, "control plane"))
		}
	}
	return nil
}

// Run is the control plane's source: the directory, with the addresses of the
// lab's network, and a copy of each configuration for the lab itself.
func (c *control) Run(ctx context.Context, publish func(meshconfig.Bundle, []meshconfig.Problem)) error {
	source := file.Source{Dir: c.dir, Log: slog.New(slog.NewTextHandler(c.log, nil))}
	return source.Run(ctx, func(b meshconfig.Bundle, problems []meshconfig.Problem) {
		if c.capture {
			b = capturedBundle(b)
		}
		now := time.Now()
		c.mu.Lock()
		c.times = append(c.times, editTime{now, lastWritten(c.dir, now)})
		c.mu.Unlock()
		publish(b, problems)
		in, _ := meshconfig.Inputs(b, domain) // the control plane reports problems
		c.put(state{bundle: b, inputs: in, snapshot: model.Build(in), at: now})
	})
}

func (c *control) put(s state) {
	select {
	case <-c.states:
	default:
	}
	c.states <- s
}

// next waits for a configuration; the error is the control plane's end.
func (c *control) next(ctx context.Context) (state, error) {
	select {
	case s := <-c.states:
		return s, nil
	case <-c.done:
		if c.err == nil {
			return state{}, errors.New("the control plane ended")
		}
		return state{}, c.err
	case <-ctx.Done():
		return state{}, ctx.Err()
	}
}

// stop ends the control plane and waits for it.
func (c *control) stop() error {
	c.mu.Lock()
	l := c.now
	c.mu.Unlock()
	if l == nil {
		return c.log.Close()
	}
	l.cancel()
	<-l.over
	return errors.Join(c.err, l.phases.close(), c.log.Close())
}

// written is when the edit that was published at the time was written.
func (c *control) written(published time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := published
	for _, t := range c.times {
		if !t.published.After(published) {
			at = t.written
		}
	}
	return at
}

// lastWritten is the newest modification in the directory, if it is recent
// enough to be what was noticed now.
func lastWritten(dir string, now time.Time) time.Time {
	var newest time.Time
	paths, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, path := range append(paths, dir) {
		if info, err := os.Stat(path); err == nil && info.ModTime().After(newest) {
			newest = info.ModTime()
		}
	}
	if now.Sub(newest) > 5*time.Second || newest.After(now) {
		return now
	}
	return newest
}

// acked are when each workload's Envoy last took a configuration.
func acked(s status.State) map[string]time.Time {
	last := map[string]time.Time{}
	for _, p := range s.Proxies {
		for _, t := range p.Types {
			if t.AckedAt.After(last[p.Workload]) {
				last[p.Workload] = t.AckedAt
			}
		}
	}
	return last
}

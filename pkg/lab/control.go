package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery"
	"github.com/meshpilot/pilot/pkg/discovery/phases"
	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/meshconfig/file"
	"github.com/meshpilot/pilot/pkg/model"
)

const (
	xdsPort     = 15012
	metricsPort = 15014
	httpPort    = 8080
)

// control is the control plane in this process, on the lab's directory.
type control struct {
	dir     string
	capture bool
	server  *discovery.Server
	log     *os.File
	states  chan state // holds one; the latest wins
	cancel  context.CancelFunc
	done    chan struct{}
	stored  *phases.File // how far changes of modes are
	err     error        // why the server ended; set before done is closed

	mu    sync.Mutex
	times []editTime
}

// editTime is when a configuration was published, and when its newest file was
// written.
type editTime struct{ published, written time.Time }

// startControl opens the ports and begins to serve the directory.
func startControl(o Options, s *setting, log string) (*control, error) {
	var err error
	c := &control{dir: o.Dir, capture: o.Capture, states: make(chan state, 1), done: make(chan struct{})}
	if c.log, err = os.Create(log); err != nil {
		return nil, err
	}
	stored, err := phases.Open(filepath.Join(filepath.Dir(log), "rollout.json"))
	if err != nil {
		return nil, errors.Join(err, c.log.Close())
	}
	c.stored = stored
	options := discovery.Options{
		Phases: stored,
		Source: c, Domain: domain, CA: s.ca,
		TLSAddress:     join(o.Address, xdsPort),
		MetricsAddress: join(o.Address, metricsPort),
		HTTPAddress:    join(o.Address, httpPort),
		Log:            slog.New(slog.NewTextHandler(c.log, nil)),
	}
	if s.network != nil {
		// Proxies reach the control plane on their own network.
		options.TLSAddress = join(controlPlaneAddress().String(), xdsPort)
		options.ListenTLS = s.network.Listen
	}
	if err := freeForControl(options.MetricsAddress, options.HTTPAddress); err != nil {
		return nil, errors.Join(err, stored.Close(), c.log.Close())
	}
	if s.network == nil {
		err = freeForControl(options.TLSAddress)
	}
	if err == nil {
		c.server, err = discovery.Listen(options)
	}
	if err != nil {
		return nil, errors.Join(err, stored.Close(), c.log.Close())
	}
	s.discovery = c.server.Addresses().TLS
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	go func() {
		defer close(c.done)
		c.err = c.server.Run(ctx)
	}()
	return c, nil
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
	c.cancel()
	<-c.done
	return errors.Join(c.err, c.stored.Close(), c.log.Close())
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

// Package lab runs a directory of configuration on this machine: one real
// Envoy per workload, fed by a control plane in this process, an application
// behind each, and steady traffic between all of them. It shows what a change
// of the configuration does to calls.
package lab

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshpilot/pilot/pkg/lab/envoy"
	"github.com/meshpilot/pilot/pkg/lab/netns"
	"github.com/meshpilot/pilot/pkg/lab/rotation"
	"github.com/meshpilot/pilot/pkg/lab/toggle"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

const domain = "cluster.local"

// Options say what to run. Only Dir is required.
type Options struct {
	Dir     string // of configuration; edits take effect
	Envoy   string // binary; empty: the one on PATH
	Capture bool   // network namespaces and transparent redirect
	Quiet   bool   // no traffic
	// OnlySidecars leaves out the calls of workloads without a sidecar: they
	// hold every change of a mode that refuses them.
	OnlySidecars bool
	// LeafTTL is how long the sidecars' certificates last; 0 is the default of
	// a mesh. Each is renewed when half of its life is over.
	LeafTTL time.Duration
	// Address is where the control plane listens, on ports 15012, 15014 and
	// 8080; empty is 127.0.0.1. With Capture proxies reach it from inside.
	Address string
	For     time.Duration // how long Run runs; 0: until its context ends
	Report  string        // file that Run writes at the end; empty: none
	Out     io.Writer     // for people; nil: nowhere
	// AppCert is what applications present in TLS of their own; nil: each
	// signs its own.
	AppCert *tls.Certificate
	// Drill, if not nil, adds load that lasts, and lets faults be made.
	Drill *Probes
}

// Lab is a running mesh.
type Lab struct {
	options Options
	setting setting
	control *control
	run     *runDir
	started time.Time
	live    time.Time // all Envoys were live
	say     *printer
	course  toggle.Course

	strangers atomic.Bool   // callers without a sidecar call, in a drill
	renewals  atomic.Uint64 // how often long connections were given up

	mu    sync.Mutex
	state state // the configuration in force
	cells map[model.WorkloadID]*cell
	pairs []*runningPair
	acked map[model.WorkloadID]time.Time // when its Envoy took a configuration last

	died    chan error // an Envoy ended by itself
	traffic sync.WaitGroup

	background     sync.WaitGroup
	stopBackground context.CancelFunc
}

// state is one published configuration.
type state struct {
	bundle   meshconfig.Bundle
	inputs   model.Inputs
	snapshot *model.Snapshot
	at       time.Time // published
}

type runningPair struct {
	*pair
	stop context.CancelFunc
}

// Start starts everything and returns when all Envoys are live and calls have
// begun, unless it is to be quiet. ctx bounds the start only; the lab runs until Close.
func Start(ctx context.Context, o Options) (*Lab, error) {
	o.Address = cmp.Or(o.Address, "127.0.0.1")
	binary, err := exec.LookPath(cmp.Or(o.Envoy, "envoy"))
	if err != nil {
		return nil, fmt.Errorf("no Envoy: %w; `make run` installs one, and --envoy names one", err)
	}
	if binary, err = filepath.Abs(binary); err != nil {
		return nil, err
	}
	run, err := newRunDir()
	if err != nil {
		return nil, err
	}
	l := &Lab{
		options: o, run: run, setting: setting{dir: run.path, binary: binary, appCert: o.AppCert, relays: o.Drill != nil},
		say: newPrinter(o.Out), cells: map[model.WorkloadID]*cell{}, died: make(chan error, 1),
	}
	if err := l.start(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) start(ctx context.Context) (err error) {
	if l.setting.ca, err = rotation.OpenCA(l.run.ca(), l.options.LeafTTL); err != nil {
		return err
	}
	l.setting.renewer = rotation.New(l.setting.ca, l.say.event)
	if l.options.Capture {
		if err := l.run.openToOthers(); err != nil {
			return err
		}
		if l.setting.network, err = netns.NewNetwork(controlPlaneAddress()); err != nil {
			return fmt.Errorf("capture: %w", err)
		}
	}
	if l.control, err = startControl(l.options, &l.setting, filepath.Join(l.run.path, "pilot.log")); err != nil {
		return err
	}
	first, err := l.control.next(ctx)
	if err != nil {
		return err
	}
	l.started = time.Now()
	background, cancel := context.WithCancel(context.Background())
	l.stopBackground = cancel
	// Short lives may be over before the last Envoy is live.
	l.background.Go(func() { l.setting.renewer.Run(background) })
	if err := l.adopt(ctx, first); err != nil {
		return err
	}
	l.live = time.Now()
	l.background.Go(func() { l.pollStats(background) })
	l.background.Go(func() { l.follow(background) })
	l.background.Go(func() { l.watchPhases(background) })
	return nil
}

// follow makes the lab run what each new configuration asks for.
func (l *Lab) follow(ctx context.Context) {
	for {
		s, err := l.control.next(ctx)
		if err != nil {
			return // stopping, or show reports the control plane's end
		}
		l.say.event("edit of %s noticed", clock(l.control.written(s.at)))
		if err := l.adopt(ctx, s); err != nil && ctx.Err() == nil {
			l.say.event("the lab cannot follow this edit: %v", err)
		}
	}
}

// adopt starts what a configuration adds, stops what it removes, and sends
// traffic by it. An error leaves what ran before.
func (l *Lab) adopt(ctx context.Context, s state) error {
	p, err := makePlan(s.bundle, s.inputs, l.options.Capture)
	if err != nil {
		return err
	}
	if len(p.workloads) > manyWorkloads {
		l.say.event("%d workloads are many for one machine; expect slow starts", len(p.workloads))
	}
	p.addClient(l.options.Capture)
	l.mu.Lock()
	l.state = s
	l.mu.Unlock()
	if err := l.adoptCells(ctx, p.workloads, s.snapshot.Mesh()); err != nil {
		return err
	}
	if !l.options.Quiet {
		l.adoptPairs(p.targets)
	}
	return nil
}

// adoptCells makes the running workloads those of the plan.
func (l *Lab) adoptCells(ctx context.Context, wanted []workload, mesh *model.Mesh) error {
	for id, c := range l.cells {
		if !slices.ContainsFunc(wanted, c.is) {
			l.stopPairs(func(p *pair) bool { return p.caller == id })
			l.drop(id)
			l.setting.renewer.Drop(filepath.Dir(c.node.Local.Key))
			if err := c.stop(); err != nil {
				return err
			}
		}
	}
	var added []*cell
	for _, w := range wanted {
		if c := l.cell(w.id); c != nil {
			if err := c.serve(w.ports); err != nil {
				return err
			}
			continue
		}
		c, err := l.setting.newCell(w, mesh)
		if err != nil {
			return err
		}
		l.mu.Lock()
		l.cells[w.id] = c
		l.mu.Unlock()
		added = append(added, c)
	}
	if err := l.startSidecars(ctx, added, mesh); err != nil {
		l.run.keep = true // for the logs that the error names
		return err
	}
	return nil
}

func (l *Lab) startSidecars(ctx context.Context, cells []*cell, mesh *model.Mesh) error {
	errs := make([]error, len(cells))
	var all sync.WaitGroup
	for i, c := range cells {
		if c.sidecar {
			all.Go(func() { errs[i] = l.setting.startSidecar(ctx, c, mesh) })
		}
	}
	all.Wait()
	for i, c := range cells {
		if c.envoy != nil && errs[i] == nil {
			go l.watch(c.envoy)
		}
	}
	return errors.Join(errs...)
}

// watch reports an Envoy that ends by itself.
func (l *Lab) watch(e *envoy.Process) {
	if err := e.Died(); err != nil {
		select {
		case l.died <- err:
		default: // one is enough
		}
	}
}

// adoptPairs makes traffic go from every workload to every target. A pair whose
// target is as before goes on undisturbed.
func (l *Lab) adoptPairs(targets []target) {
	var next []*runningPair
	l.mu.Lock()
	old := l.pairs
	for _, id := range slices.SortedFunc(maps.Keys(l.cells), model.WorkloadID.Compare) {
		c := l.cells[id]
		if l.options.OnlySidecars && !c.sidecar {
			continue
		}
		for _, t := range targets {
			at := slices.IndexFunc(old, func(p *runningPair) bool { return p.caller == id && reflect.DeepEqual(p.target, t) })
			if at >= 0 {
				next, old = append(next, old[at]), slices.Delete(slices.Clone(old), at, at+1)
				continue
			}
			next = append(next, &runningPair{pair: l.pair(c, t)})
		}
	}
	l.pairs = next
	l.mu.Unlock()
	for _, p := range old {
		p.stop()
	}
	interval := max(time.Second/pairRate, time.Duration(len(next))*time.Second/maxRate)
	for i, p := range next {
		if p.stop == nil {
			ctx, stop := context.WithCancel(context.Background())
			p.stop = stop
			l.traffic.Go(func() { p.run(ctx, interval*time.Duration(i)/time.Duration(len(next)), interval) })
			l.lasting(ctx, p.pair)
		}
	}
}

func (l *Lab) stopPairs(which func(*pair) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pairs = slices.DeleteFunc(l.pairs, func(p *runningPair) bool {
		if !which(p.pair) {
			return false
		}
		p.stop()
		return true
	})
}

func (l *Lab) cell(id model.WorkloadID) *cell {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cells[id]
}

func (l *Lab) drop(id model.WorkloadID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.cells, id)
}

// Close stops everything that was started, and waits for it.
func (l *Lab) Close() error {
	if l.stopBackground != nil {
		l.stopBackground()
		l.background.Wait()
	}
	l.stopPairs(func(*pair) bool { return true })
	l.traffic.Wait()
	var errs []error
	var all sync.WaitGroup
	var mu sync.Mutex
	for _, c := range l.cells {
		all.Go(func() {
			err := c.stop()
			mu.Lock()
			errs = append(errs, err)
			mu.Unlock()
		})
	}
	all.Wait()
	if l.control != nil {
		errs = append(errs, l.control.stop())
	}
	if l.setting.network != nil {
		errs = append(errs, l.setting.network.Close())
	}
	return errors.Join(append(errs, l.run.close())...)
}

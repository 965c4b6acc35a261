// Package drill changes the modes of a lab's mesh at random, under load that
// lasts and with faults, and counts every call: between sidecars none may be
// lost and nothing cut that a rule does not explain.
package drill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/lab"
	"github.com/meshpilot/pilot/pkg/lab/netns"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

const (
	warmTime  = 3 * time.Second // calls before the first edit
	restTime  = 500 * time.Millisecond
	lookTime  = 100 * time.Millisecond
	renewTime = 2 * time.Second // least time between two renewals of what is long
	// atOnceTime is watched after an edit whose mode is in force at once.
	atOnceTime = 2 * time.Second
	// patience is how long an edit may take, without and again with healing,
	// and refusedTime until it is healed if an Envoy refused an update.
	patience    = 45 * time.Second
	refusedTime = 10 * time.Second
)

// Options say what to drill. Lab.Dir is copied, and never changed.
type Options struct {
	Lab    lab.Options
	N      int
	Seed   uint64
	Faults []string
}

// ErrLost says that calls were lost, or cut, or that an edit was never carried
// out.
var ErrLost = errors.New("the drill found losses")

// Run drills, and writes what came of it to Lab.Out and Lab.Report. ErrLost is
// its verdict, other errors are of the lab.
func Run(ctx context.Context, o Options) error {
	if o.Lab.Capture && !netns.Privileged() {
		return netns.Reexec()
	}
	r, err := Drill(ctx, o)
	if err != nil && !errors.Is(err, ErrLost) {
		return err
	}
	if e := r.write(o.Lab.Report); e != nil {
		return e
	}
	return err
}

// run is a drill under way.
type run struct {
	options Options
	lab     *lab.Lab
	work    *workspace
	journal *journal
	trouble *trouble
	failed  chan error
	renewed time.Time
	report  Report
}

// Drill starts a lab, makes the edits and stops the lab.
func Drill(ctx context.Context, o Options) (Report, error) {
	dir, err := os.MkdirTemp("", "pilot-drill-")
	if err != nil {
		return Report{}, err
	}
	defer os.RemoveAll(dir)
	w, err := newWorkspace(o.Lab.Dir, dir)
	if err != nil {
		return Report{}, err
	}
	out := newLines(o.Lab.Out)
	r := &run{options: o, work: w, journal: newJournal(out.event), failed: make(chan error, 1)}
	o.Lab.Dir, o.Lab.Out = dir, nil
	o.Lab.Drill = &lab.Probes{Call: r.journal.call, Phases: r.journal.moved}
	r.journal.phases = r.phaseOf
	if r.lab, err = lab.Start(ctx, o.Lab); err != nil {
		return Report{}, err
	}
	err = r.drill(ctx)
	r.finish(out)
	if e := r.lab.Close(); e != nil && (err == nil || errors.Is(err, ErrLost)) {
		err = e
	}
	return r.report, err
}

func (r *run) drill(ctx context.Context) error {
	b, err := r.work.bundle()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	r.trouble = &trouble{lab: r.lab, journal: r.journal, counts: map[string]int{}, failed: func(err error) {
		select {
		case r.failed <- err:
		default: // one is enough
		}
	}}
	defer r.trouble.running.Wait()
	defer stop()
	p := newPlanner(b, r.options.Seed, r.options.Faults)
	r.report.Started = time.Now()
	r.journal.say("%d sidecars; %d things to set; %d edits by seed %d; faults: %s", len(r.lab.Sidecars()), len(p.slots), r.options.N,
		r.options.Seed, strings.Join(append([]string{}, r.options.Faults...), ", "))
	sleep(ctx, warmTime)
	r.report.Never = r.journal.begin()
	for _, name := range r.report.Never {
		r.journal.say("%s fails without any edit, and is left out", name)
	}
	for i := range r.options.N {
		if err := r.step(ctx, i, p.step()); err != nil {
			return err
		}
		if ctx.Err() != nil {
			break
		}
		r.report.Edits++
	}
	sleep(ctx, restTime)
	r.trouble.running.Wait()
	r.journal.judge()
	return r.verdict()
}

// step makes one edit and waits until it is carried out.
func (r *run) step(ctx context.Context, i int, s step) error {
	if err := r.edit(i, s.change); err != nil {
		return err
	}
	begin := time.Now()
	r.trouble.start(ctx, s.faults)
	if s.mind != nil {
		if err := r.watch(ctx, s.after); err != nil {
			return err
		}
		if err := r.edit(i, *s.mind); err != nil {
			return err
		}
	}
	want, err := r.work.wanted(r.lab.Sidecars())
	if err != nil {
		return err
	}
	done, err := r.settle(ctx, want)
	if err == nil && !done && ctx.Err() == nil {
		r.journal.note("not carried out after %s: %s", time.Since(begin).Round(time.Second), r.waits())
		r.trouble.running.Wait()
		if err := r.trouble.heal(ctx); err != nil {
			return err
		}
		r.report.Healed++
		done, err = r.settle(ctx, want)
	}
	r.report.took = append(r.report.took, time.Since(begin))
	if err == nil && !done && ctx.Err() == nil {
		r.journal.note("STUCK, never carried out: %s", r.waits())
		r.report.Stuck = append(r.report.Stuck, fmt.Sprintf("edit %d, %s: %s", i+1, s.change, r.waits()))
	}
	return err
}

func (r *run) edit(i int, c change) error {
	r.journal.note("edit %d: %s", i+1, c)
	return r.work.apply(c)
}

// settle waits until every target is where the modes end.
func (r *run) settle(ctx context.Context, want map[model.Target]model.Mode) (bool, error) {
	start := time.Now()
	for refused := start; time.Since(start) < patience && ctx.Err() == nil; {
		if r.settled(want) {
			rest := restTime
			if r.work.immediate() {
				rest = atOnceTime
			}
			return true, r.watch(ctx, rest)
		}
		if !r.refused() {
			refused = time.Now()
		} else if time.Since(refused) > refusedTime {
			return false, nil
		}
		r.renew()
		if err := r.watch(ctx, lookTime); err != nil {
			return false, err
		}
	}
	return false, nil
}

func (r *run) settled(want map[model.Target]model.Mode) bool {
	now := r.lab.Rollouts()
	for i := range now {
		mode, ok := want[now[i].Wanted.Target]
		if !ok || mode != now[i].Wanted.Decision.Mode || !now[i].Settled {
			return false
		}
	}
	return len(now) == len(want)
}

// refused says that an Envoy's refusal of an update is waited for.
func (r *run) refused() bool {
	return slices.ContainsFunc(r.lab.Rollouts(), func(o status.Rollout) bool {
		return slices.ContainsFunc(o.Waits, func(b rollout.Blocker) bool { return strings.HasPrefix(b.What, "refuses its ") })
	})
}

// renew lets the applications end what is long when that is waited for,
// as they do in a mesh, sooner or later.
func (r *run) renew() {
	if time.Since(r.renewed) < renewTime {
		return
	}
	for _, o := range r.lab.Rollouts() {
		open := slices.IndexFunc(o.Waits, func(b rollout.Blocker) bool { return strings.HasPrefix(b.What, "has open ") })
		if open >= 0 && time.Since(o.Since) > renewTime/2 {
			r.renewed = time.Now()
			r.journal.note("applications end what is long, as %s", o.Waits[open])
			r.lab.RenewLong()
			return
		}
	}
}

// watch waits, and judges what fails meanwhile.
func (r *run) watch(ctx context.Context, d time.Duration) error {
	for end := time.Now().Add(d); ; {
		r.journal.judge()
		select {
		case err := <-r.failed:
			return err
		case err := <-r.lab.Died():
			return err
		case <-r.lab.Ended():
			return errors.New("the control plane ended by itself")
		case <-ctx.Done():
			return nil
		case <-time.After(min(lookTime, time.Until(end))):
		}
		if !time.Now().Before(end) {
			return nil
		}
	}
}

// waits is what targets that are under way wait for.
func (r *run) waits() string {
	var texts []string
	for _, o := range r.lab.Rollouts() {
		if !o.Settled {
			texts = append(texts, fmt.Sprintf("%s/%s:%d is %s on the way to %s and waits for %v", o.Wanted.Namespace, o.Wanted.Group, o.Wanted.Port,
				rung(o.Wanted.Decision.Phase), o.Wanted.Decision.Mode, o.Waits))
		}
	}
	return strings.Join(texts, "; ")
}

func (r *run) phaseOf(e lab.Endpoint) string {
	for _, o := range r.lab.Rollouts() {
		if o.Wanted.Port == e.Port && slices.Contains(o.Wanted.Workloads, e.Workload) {
			return fmt.Sprintf("%s since %s", rung(o.Wanted.Decision.Phase), time.Since(o.Since).Round(time.Millisecond))
		}
	}
	return "no phase"
}

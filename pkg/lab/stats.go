package lab

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

const (
	statsEvery = 500 * time.Millisecond
	// Each phase lasts for half a second at least, if anything needs proof.
	phasesEvery = 100 * time.Millisecond
	maxLog      = 16 << 20
)

// pollStats reads what only the Envoys and the control plane know, until ctx
// ends: connections of TCP pairs, and when each Envoy took its configuration.
func (l *Lab) pollStats(ctx context.Context) {
	tick := time.NewTicker(statsEvery)
	defer tick.Stop()
	for {
		l.readStats(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (l *Lab) readStats(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	l.mu.Lock()
	cells, pairs := slices.Collect(maps.Values(l.cells)), slices.Clone(l.pairs)
	l.mu.Unlock()
	var all sync.WaitGroup
	for _, c := range cells {
		if !c.sidecar {
			continue
		}
		all.Go(func() {
			l.setting.trimLogs(c)
			if held := c.leaves.Load(); held != nil && held.Loaded() != held.Last() {
				if serials, err := c.admin.Leaves(ctx); err == nil {
					held.Record(serials)
				}
			}
			found, err := c.admin.OutboundConnections(ctx)
			if err != nil {
				return // an Envoy that ended is reported by watch
			}
			for _, p := range pairs {
				if p.caller == c.id && !p.target.protocol.IsHTTP() {
					p.recordConnections(found[translate.OutboundCluster(p.target.port, p.target.host)])
				}
			}
		})
	}
	all.Wait()
	times := acked(l.control.server().State())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked = map[model.WorkloadID]time.Time{}
	for _, c := range cells {
		if at, ok := times[c.id.String()]; ok {
			l.acked[c.id] = at
		}
	}
}

// watchPhases notes and tells each step of a target, until ctx ends.
func (l *Lab) watchPhases(ctx context.Context) {
	tick := time.NewTicker(phasesEvery)
	defer tick.Stop()
	for {
		l.notePhases()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (l *Lab) notePhases() {
	for _, text := range l.course.Note(l.control.server().Rollouts(), l.callsTo) {
		l.say.event("%s", text)
	}
}

// callsTo are the calls so far to services that lead to a target.
func (l *Lab) callsTo(w *model.Wanted) Totals {
	l.mu.Lock()
	pairs := slices.Clone(l.pairs)
	l.mu.Unlock()
	var rows []Row
	for _, p := range pairs {
		if slices.ContainsFunc(p.target.endpoints, func(e endpoint) bool { return e.port == w.Port && slices.Contains(w.Workloads, e.workload) }) {
			rows = append(rows, p.row())
		}
	}
	return total(rows)
}

// trimLogs empties logs that grew large: a lab may run for days.
func (s *setting) trimLogs(c *cell) {
	for _, name := range []string{"access.log", "envoy.log"} {
		path := filepath.Join(s.cellDir(c), name)
		if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
			_ = os.Truncate(path, 0) // Envoy appends, so it goes on at the start
		}
	}
}

// nacks are the updates that the Envoys refused, by their own count; -1 if one
// of them does not say.
func (l *Lab) nacks(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	sum := 0
	for _, id := range l.Sidecars() {
		c := l.cell(id)
		if c == nil {
			continue // removed meanwhile
		}
		rejected, err := c.admin.Rejected(ctx)
		if err != nil {
			return -1
		}
		sum += rejected
	}
	return sum
}

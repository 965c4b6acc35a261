// Package conditions tells in the objects' own status what became of them,
// and in Events of the ConfigMap istio what is wrong with the mesh settings.
//
// Verbs: policies, meshpolicies, peerauthentications, destinationrules get,
// and patch of their status; in the control plane's namespace configmaps get
// (istio) and events create, patch.
package conditions

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"k8s.io/client-go/util/flowcontrol"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/cluster"
	"github.com/meshpilot/pilot/pkg/model"
)

const (
	period = time.Second // between looks at the facts
	// graceTime is how long an edit may take before it is called unfinished:
	// most are acknowledged sooner, and are written once.
	graceTime = 3 * time.Second
	// countTime is how often a count of proxies is written that alone changed.
	countTime = 15 * time.Second
	// againTime is when an object is compared though nothing is new: others
	// may have changed its status.
	againTime = 10 * time.Minute
	// rate and burst bound requests a second, however many objects change.
	rate, burst = 10, 20
)

// Facts are what is known at one moment.
type Facts struct {
	// Generations are those of the objects that were read, valid or not.
	Generations map[model.Key]int64
	Problems    []meshconfig.Problem
	// Proxies should have the newest configuration; Current acknowledged it.
	Proxies, Current int
	Refusals         []Refusal
}

// Refusal is what a proxy does not take, and which objects it was made from.
type Refusal struct {
	Proxy, Text string
	From        []model.Key
}

// Options are what a Writer needs from its surroundings.
type Options struct {
	Cluster *cluster.Cluster
	// Namespace has the ConfigMap istio.
	Namespace string
	// Facts gives what is known now; false while it is about to change.
	Facts func() (Facts, bool)
	// While works while this replica may write; nil is always.
	While func(ctx context.Context, work func(context.Context))
	Log   *slog.Logger // nil is slog.Default
}

// Writer keeps conditions and Events.
type Writer struct {
	options Options
	limit   flowcontrol.RateLimiter
	// ---- below only run
	objects map[model.Key]*object
	apis    map[string]api // by kind
	looked  time.Time      // when apis were
}

// object is what is known of one object's status.
type object struct {
	generation int64
	since      time.Time // generation was seen first
	programmed bool      // all proxies acknowledged it
	written    []condition
	at         time.Time // of written; zero: not compared yet
	failed     int       // attempts in a row
	next       time.Time // of the next
}

// New makes a writer that writes nothing before Run.
func New(o Options) *Writer {
	o.Log = cmp.Or(o.Log, slog.Default())
	return &Writer{options: o, limit: flowcontrol.NewTokenBucketRateLimiter(rate, burst)}
}

// Run writes what changed until ctx ends.
func (w *Writer) Run(ctx context.Context) {
	if w.options.While == nil {
		w.run(ctx)
		return
	}
	w.options.While(ctx, w.run)
}

func (w *Writer) run(ctx context.Context) {
	w.objects, w.apis, w.looked = map[model.Key]*object{}, nil, time.Time{}
	news := w.openEvents(ctx)
	defer news.close()
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		if facts, settled := w.options.Facts(); settled {
			w.look(ctx, facts)
			news.look(ctx, facts.Problems)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look writes the conditions of all objects that changed.
func (w *Writer) look(ctx context.Context, facts Facts) {
	now := time.Now()
	known := byObject(facts)
	var due []model.Key
	for key, generation := range facts.Generations {
		if !kept(key.Kind) {
			continue
		}
		o := w.objects[key]
		if o == nil || o.generation != generation {
			next := &object{generation: generation, since: now}
			if o != nil {
				next.written, next.at = o.written, o.at
			}
			o = next
			w.objects[key] = o
		}
		o.programmed = o.programmed || facts.Proxies > 0 && facts.Current == facts.Proxies
		if o.due(w.wanted(o, key, known[key], facts), now) {
			due = append(due, key)
		}
	}
	for key := range w.objects {
		if _, there := facts.Generations[key]; !there {
			delete(w.objects, key)
		}
	}
	if len(due) == 0 || !w.open(ctx, now) {
		return
	}
	slices.SortFunc(due, model.Key.Compare)
	for _, key := range due {
		if w.limit.Wait(ctx) != nil {
			return
		}
		w.write(ctx, key, w.objects[key], w.wanted(w.objects[key], key, known[key], facts))
	}
}

// due says whether the object's status may be another than wanted, and now is
// the time to write it.
func (o *object) due(wanted []condition, now time.Time) bool {
	switch {
	case now.Before(o.next):
		return false
	case o.at.IsZero(), !slices.EqualFunc(o.written, wanted, condition.equal):
		unfinished := wanted[programmed].reason == reasonPending && now.Sub(o.since) < graceTime
		return !unfinished
	case !slices.Equal(o.written, wanted): // the count alone
		return wanted[programmed].status != yes && now.Sub(o.at) >= countTime
	}
	return now.Sub(o.at) >= againTime
}

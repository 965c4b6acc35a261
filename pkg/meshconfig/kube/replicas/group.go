package replicas

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/rollout"
)

const (
	// PhasesName is the ConfigMap of the stored phases.
	PhasesName = "pilot-rollout"
	// ReportPrefix begins the names of the replicas' ConfigMaps.
	ReportPrefix = "pilot-replica-"
	// partLabel is on all of them; its value is the part.
	partLabel  = "pilot.meshpilot.io/replicas"
	partPhases = "phases"
	partReport = "report"

	requestTime = 3 * time.Second // the longest that a request may take
	tickTime    = 5 * time.Second // how often it is looked who is silent
)

// Options say which replica of which cluster this is.
type Options struct {
	Client    kubernetes.Interface
	Namespace string // of the control plane
	Lease     *Lease // whose name is the replica's
	// Pod says that the replica's name is its pod's. Whether another one runs
	// is then asked of its pod.
	Pod bool
	Log *slog.Logger // nil is slog.Default
}

// Group is the replicas of a control plane as one of them sees and serves
// them. Safe for concurrent use.
type Group struct {
	options Options
	self    string
	boot    string // tells this process from an earlier one of the name
	changed chan struct{}
	told    chan struct{} // wakes who writes the report

	mu      sync.Mutex
	phases  stored
	others  map[string]*other // by name
	gone    []departed
	lost    time.Time // when a replica was lost last, or this one began to lead
	own     *telling  // nil before the first Tell
	seq     uint64
	beats   map[uint64]time.Time // when own reports were begun, by seq
	trouble map[string]string    // by what it is about
	// announced says that the others can know of this replica.
	announced bool
}

// New makes a group; nothing is asked before Run.
func New(o Options) *Group {
	o.Log = cmp.Or(o.Log, slog.Default())
	return &Group{
		options: o, self: o.Lease.Self(), boot: strconv.FormatInt(time.Now().UnixNano(), 36),
		changed: make(chan struct{}, 1), told: make(chan struct{}, 1),
		others: map[string]*other{}, beats: map[uint64]time.Time{}, trouble: map[string]string{},
	}
}

// Self is the name of this replica.
func (g *Group) Self() string { return g.self }

// Leader is who leads, as far as this replica knows; empty: nobody yet.
func (g *Group) Leader() string { return g.options.Lease.Holder() }

// Changed wakes one reader when another replica leads, when phases were
// stored, and when a replica was heard or is silent.
func (g *Group) Changed() <-chan struct{} { return g.changed }

func (g *Group) signal() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// Trouble is what keeps the replicas from acting as one; none: nothing does.
func (g *Group) Trouble() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []string
	for _, about := range []string{"name", "phases", "report", "watch"} {
		if text := g.trouble[about]; text != "" {
			out = append(out, text)
		}
	}
	return out
}

// troubled notes what is wrong with a part; nil: nothing.
func (g *Group) troubled(about, what string, err error) {
	g.mu.Lock()
	before := g.trouble[about]
	g.trouble[about] = ""
	if err != nil {
		g.trouble[about] = what + ": " + err.Error()
	}
	now := g.trouble[about]
	g.mu.Unlock()
	if now != "" && now != before {
		g.options.Log.Warn("replicas", "problem", now)
	}
}

// Run follows the others and reports to them, until ctx ends. The Lease runs
// apart, as more than this depends on it. In the end this replica says that
// it is gone.
func (g *Group) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { g.report(ctx) })
	wg.Go(func() { g.follow(ctx) })
	wg.Go(func() { g.tick(ctx) })
	wg.Go(func() { g.options.Lease.While(ctx, g.keep) })
	wg.Wait()
	g.leave()
	return nil
}

// follow watches the objects of all replicas.
func (g *Group) follow(ctx context.Context) {
	factory := informers.NewSharedInformerFactoryWithOptions(g.options.Client, 0, informers.WithNamespace(g.options.Namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = partLabel }))
	informer := factory.Core().V1().ConfigMaps().Informer()
	see := func(object any) {
		if cm, ok := object.(*corev1.ConfigMap); ok {
			g.see(cm, time.Now())
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: see, UpdateFunc: func(_, object any) { see(object) },
		DeleteFunc: func(object any) {
			if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = last.Obj
			}
			if cm, ok := object.(*corev1.ConfigMap); ok {
				g.missed(cm, time.Now())
			}
		},
	})
	if err == nil {
		err = informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
			g.troubled("watch", "other replicas and stored phases cannot be followed", err)
		})
	}
	if err != nil {
		g.troubled("watch", "other replicas and stored phases cannot be followed", err)
		return
	}
	informer.RunWithContext(ctx)
}

// see takes an object as it is now.
func (g *Group) see(cm *corev1.ConfigMap, now time.Time) {
	g.troubled("watch", "", nil)
	switch cm.Labels[partLabel] {
	case partPhases:
		if cm.Name == PhasesName {
			g.troubled("phases", "the ConfigMap "+PhasesName+" is not what pilot stored there", g.phasesSeen(cm))
		}
	case partReport:
		name := cm.Name[min(len(ReportPrefix), len(cm.Name)):]
		switch {
		case cm.Name != ReportPrefix+name:
		case name == g.self:
			g.troubled("name", "each replica needs a name of its own (POD_NAME)", g.ownSeen(cm))
		default:
			if err := g.reportSeen(name, cm, now); err != nil {
				g.options.Log.Warn("replicas: a report cannot be read", "replica", name, "error", err)
			}
		}
	}
	g.signal()
}

// missed takes that an object is gone. Phases in force stay.
func (g *Group) missed(cm *corev1.ConfigMap, now time.Time) {
	if cm.Labels[partLabel] == partReport {
		g.depart(cm.Name[min(len(ReportPrefix), len(cm.Name)):], now)
	}
	g.signal()
}

// tick wakes the reader for what time alone changes, and when another leads.
func (g *Group) tick(ctx context.Context) {
	tick := time.NewTicker(tickTime)
	defer tick.Stop()
	for term := uint64(0); ; {
		changed := g.options.Lease.Changed()
		if now := g.options.Lease.Term(); now != term {
			term = now
			g.mu.Lock()
			g.lost = time.Now() // what was lost before is not known
			g.mu.Unlock()
			g.options.Log.Info("replicas", "replica", g.self, "leads", term > 0, "leader", g.Leader())
		}
		g.signal()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-changed:
		}
	}
}

// keep is the leader's: it asks whether silent replicas run, and takes away
// what those that do not have left.
func (g *Group) keep(ctx context.Context) {
	tick := time.NewTicker(tickTime)
	defer tick.Stop()
	for {
		for _, name := range g.departedNames(time.Now()) {
			if err := g.remove(ctx, name); err != nil {
				g.options.Log.Warn("replicas: a replica that is gone cannot be taken away", "replica", name, "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (g *Group) object(name, part string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Name: name, Namespace: g.options.Namespace,
		Labels:      map[string]string{partLabel: part, "app.kubernetes.io/managed-by": "pilot"},
		Annotations: map[string]string{},
	}}
}

// Stored are the phases in force; false until they are known. Serial grows
// with every change.
func (g *Group) Stored() (states map[model.Target]rollout.State, serial uint64, known bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.phases.states, g.phases.serial, g.phases.states != nil && g.announced
}

// errStored says in which object something is wrong.
func errStored(err error) error {
	return fmt.Errorf("the ConfigMap %s: %w", PhasesName, err)
}

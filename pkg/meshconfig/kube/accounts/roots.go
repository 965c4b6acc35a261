package accounts

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/cluster"
	"github.com/meshpilot/pilot/pkg/model"
)

const (
	// RootsConfigMap is the name of the ConfigMap with the mesh's roots.
	RootsConfigMap = "istio-ca-root-cert"

	rootsWriters = 4 // at once
	shortestWait = time.Second
	longestWait  = time.Minute
	// calmTime without a change by others ends what was counted against them.
	calmTime = 5 * time.Minute
	// contested is how many writes in a row are more than repairs.
	contested = 5
)

// RootsOptions say what Roots publishes, and where.
type RootsOptions struct {
	Cluster   *cluster.Cluster
	CA        *identity.CA
	Namespace string // the only one; empty is all
	// While is as in secrets.Options.
	While func(ctx context.Context, work func(context.Context))
}

// Roots keeps the CA's roots as a ConfigMap in every namespace.
type Roots struct {
	options    RootsOptions
	wake       chan struct{}
	namespaces *mirror[bool]   // whether it is being deleted
	maps       *mirror[string] // the roots
	// ---- below only run
	tries map[string]*rootsTry // by namespace
}

// rootsTry is what was written to one namespace lately.
type rootsTry struct {
	roots string
	n     int // writes in a row
	last  time.Time
	err   error
}

// next is when it may be written again: at once, unless others change it as
// often.
func (t *rootsTry) next() time.Time {
	if t.n == 0 {
		return time.Time{}
	}
	wait := shortestWait
	for range min(t.n-1, 6) {
		wait *= 2
	}
	return t.last.Add(min(wait, longestWait))
}

// NewRoots asks the API nothing until Run.
func NewRoots(o RootsOptions) *Roots {
	r := &Roots{options: o, wake: make(chan struct{}, 1), tries: map[string]*rootsTry{}}
	r.namespaces = newMirror(func(o runtime.Object) bool { return o.(*metav1.PartialObjectMetadata).DeletionTimestamp != nil }, r.Wake)
	r.maps = newMirror(func(o runtime.Object) string { return o.(*corev1.ConfigMap).Data[identity.RootCertFile] }, r.Wake)
	return r
}

// Wake makes Run look at everything soon: the CA changed.
func (r *Roots) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run publishes until ctx ends, and reports all problems in force whenever
// they may have changed.
func (r *Roots) Run(ctx context.Context, report func([]identity.Problem)) {
	if r.options.While == nil {
		r.run(ctx, report)
		return
	}
	r.options.While(ctx, func(ctx context.Context) {
		r.run(ctx, report)
		report(nil)
	})
}

func (r *Roots) run(ctx context.Context, report func([]identity.Problem)) {
	var watches sync.WaitGroup
	r.follow(ctx, &watches)
	defer watches.Wait()
	clear(r.tries)
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-again.C:
		}
		next, problems := r.look(ctx)
		if ctx.Err() != nil {
			return
		}
		report(problems)
		again.Reset(next)
	}
}

// follow starts the watches.
func (r *Roots) follow(ctx context.Context, watches *sync.WaitGroup) {
	maps := r.options.Cluster.Client.CoreV1().ConfigMaps(r.options.Namespace)
	watches.Go(func() {
		r.maps.run(ctx, &corev1.ConfigMap{}, "metadata.name="+RootsConfigMap,
			func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return maps.List(ctx, o) },
			func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return maps.Watch(ctx, o) })
	})
	if r.options.Namespace != "" {
		return
	}
	namespaces := r.options.Cluster.Metadata.Resource(corev1.SchemeGroupVersion.WithResource("namespaces"))
	watches.Go(func() {
		r.namespaces.run(ctx, &metav1.PartialObjectMetadata{}, "",
			func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return namespaces.List(ctx, o)
			},
			func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return namespaces.Watch(ctx, o)
			})
	})
}

// look writes what is due, and says when to look again at the latest.
func (r *Roots) look(ctx context.Context) (again time.Duration, problems []identity.Problem) {
	places, err := r.places(ctx)
	if err != nil {
		return shortestWait, []identity.Problem{{Code: "ROOTS_NOT_PUBLISHED", Error: true, On: model.Key{Kind: "ConfigMap", Name: RootsConfigMap},
			Message: fmt.Sprintf("it cannot be seen where the roots are published, so they are written nowhere: %v", err)}}
	}
	roots, now := string(r.options.CA.Roots()), time.Now()
	again = longestWait
	var due []string
	for _, ns := range places {
		t := r.tries[ns]
		if t == nil || t.roots != roots {
			t = &rootsTry{roots: roots}
			r.tries[ns] = t
		}
		if h, ok := r.maps.get(rootsIn(ns)); ok && h.value == roots {
			if now.Sub(t.last) > calmTime {
				t.n = 0
			}
			t.err = nil
			continue
		}
		if next := t.next(); next.After(now) {
			again = min(again, next.Sub(now))
			continue
		}
		due = append(due, ns)
	}
	r.write(ctx, due, roots)
	for _, ns := range due {
		if t := r.tries[ns]; t.err != nil {
			again = min(again, time.Until(t.next()))
		}
	}
	return max(again, 0), r.problems(places)
}

// places are the namespaces that have or get the ConfigMap.
func (r *Roots) places(ctx context.Context) ([]string, error) {
	if err := r.maps.wait(ctx); err != nil {
		return nil, err
	}
	if ns := r.options.Namespace; ns != "" {
		return []string{ns}, nil
	}
	if err := r.namespaces.wait(ctx); err != nil {
		return nil, err
	}
	var out []string
	there := map[string]bool{}
	r.namespaces.each(func(name types.NamespacedName, h held[bool]) {
		if there[name.Name] = !h.value; !h.value {
			out = append(out, name.Name)
		}
	})
	for ns := range r.tries {
		if !there[ns] {
			delete(r.tries, ns)
		}
	}
	slices.Sort(out)
	return out, nil
}

// write brings namespaces up to date, some at once.
func (r *Roots) write(ctx context.Context, namespaces []string, roots string) {
	todo := make(chan string)
	var writers sync.WaitGroup
	for range min(rootsWriters, len(namespaces)) {
		writers.Go(func() {
			for ns := range todo {
				t := r.tries[ns] // of this writer alone
				before := t.err
				if t.err = r.publish(ctx, ns, roots); t.err == nil && before != nil {
					t.n = 0 // nobody undid anything
				}
				t.n, t.last = t.n+1, time.Now()
			}
		})
	}
	for _, ns := range namespaces {
		if ctx.Err() == nil {
			todo <- ns
		}
	}
	close(todo)
	writers.Wait()
}

// publish makes the ConfigMap of a namespace, or corrects its key.
func (r *Roots) publish(ctx context.Context, namespace, roots string) error {
	ctx, done := context.WithTimeout(ctx, requestTime)
	defer done()
	api := r.options.Cluster.Client.CoreV1().ConfigMaps(namespace)
	data := map[string]string{identity.RootCertFile: roots}
	var now *corev1.ConfigMap
	var err error
	if _, there := r.maps.get(rootsIn(namespace)); !there {
		now, err = api.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: RootsConfigMap, Labels: madeBy()}, Data: data},
			metav1.CreateOptions{FieldManager: fieldManager})
	} else {
		var patch []byte
		if patch, err = json.Marshal(map[string]any{"data": data}); err == nil {
			now, err = api.Patch(ctx, RootsConfigMap, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
		}
	}
	switch {
	case apierrors.IsNotFound(err), apierrors.IsAlreadyExists(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // the watches have not shown it yet
	case err != nil:
		return err
	}
	r.maps.put(now, now.Data[identity.RootCertFile])
	return nil
}

// problems are one for what failed and one for what others undo, however many
// the namespaces.
func (r *Roots) problems(namespaces []string) (out []identity.Problem) {
	var failed, fought []string
	for _, ns := range namespaces {
		switch t := r.tries[ns]; {
		case t.err != nil:
			failed = append(failed, ns)
		case t.n >= contested:
			fought = append(fought, ns)
		}
	}
	on := func(in []string) model.Key {
		return model.Key{Kind: "ConfigMap", Namespace: in[0], Name: RootsConfigMap}
	}
	if len(failed) > 0 {
		out = append(out, identity.Problem{Code: "ROOTS_NOT_PUBLISHED", Error: true, On: on(failed), Message: fmt.Sprintf(
			"the roots of the mesh cannot be written in %s: %v", others(failed), r.tries[failed[0]].err)})
	}
	if len(fought) > 0 {
		out = append(out, identity.Problem{Code: "ROOTS_CONTESTED", On: on(fought), Message: fmt.Sprintf(
			"somebody else keeps changing it in %s; another control plane with another CA? It is corrected once a minute", others(fought))})
	}
	return out
}

func others(namespaces []string) string {
	if len(namespaces) == 1 {
		return "namespace " + namespaces[0]
	}
	return fmt.Sprintf("%d namespaces, such as %s", len(namespaces), namespaces[0])
}

func rootsIn(namespace string) types.NamespacedName {
	return types.NamespacedName{Namespace: namespace, Name: RootsConfigMap}
}

package conditions

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/meshpilot/pilot/pkg/model"
)

const (
	// fieldManager is who writes status, apart from pilot's other writes.
	fieldManager = "pilot-conditions"
	requestTime  = 10 * time.Second
	// discoverTime is how often kinds are looked for that are not there.
	discoverTime = time.Minute

	shortestWait = time.Second // after an attempt that failed; doubles
	longestWait  = 5 * time.Minute
)

// api is where the objects of a kind are.
type api struct {
	resource schema.GroupVersionResource
	mute     bool // its definition has no status
}

// resources are those of the kinds that have conditions.
func resources() map[string]schema.GroupResource {
	return map[string]schema.GroupResource{
		"Policy":             {Group: "authentication.istio.io", Resource: "policies"},
		"MeshPolicy":         {Group: "authentication.istio.io", Resource: "meshpolicies"},
		"PeerAuthentication": {Group: "security.istio.io", Resource: "peerauthentications"},
		"DestinationRule":    {Group: "networking.istio.io", Resource: "destinationrules"},
	}
}

// open finds in which versions the kinds are served.
func (w *Writer) open(ctx context.Context, now time.Time) bool {
	if now.Sub(w.looked) < discoverTime {
		return w.apis != nil
	}
	w.looked = now
	groups, err := w.options.Cluster.Client.Discovery().ServerGroups()
	if err != nil || ctx.Err() != nil {
		w.options.Log.Warn("conditions cannot be written yet", "error", err)
		return w.apis != nil
	}
	next := map[string]api{}
	for kind, r := range resources() {
		for _, g := range groups.Groups {
			if g.Name == r.Group {
				next[kind] = api{resource: r.WithVersion(g.PreferredVersion.Version)}
			}
		}
	}
	w.apis = next
	return true
}

// write makes the object's conditions what they should be, if they are not.
func (w *Writer) write(ctx context.Context, key model.Key, o *object, wanted []condition) {
	at, known := w.apis[key.Kind]
	if !known || at.mute {
		o.next = time.Now().Add(longestWait)
		return
	}
	ctx, done := context.WithTimeout(ctx, requestTime)
	defer done()
	err := w.update(ctx, at, key, o, wanted)
	now := time.Now()
	switch {
	case err == nil:
		o.written, o.at, o.failed = wanted, now, 0
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		o.next = now.Add(shortestWait) // another version is about to be read
	default:
		wait := shortestWait << min(o.failed, 10)
		o.failed++
		o.next = now.Add(min(wait, longestWait))
		if ctx.Err() != context.Canceled {
			w.options.Log.Warn("conditions cannot be written", "object", key.String(), "error", err)
		}
	}
}

// update reads the object, keeps the conditions of others, and writes nothing
// that is there.
func (w *Writer) update(ctx context.Context, at api, key model.Key, o *object, wanted []condition) error {
	var client dynamic.ResourceInterface = w.options.Cluster.Dynamic.Resource(at.resource)
	if key.Namespace != "" {
		client = w.options.Cluster.Dynamic.Resource(at.resource).Namespace(key.Namespace)
	}
	found, err := client.Get(ctx, key.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if found.GetGeneration() != o.generation {
		return apierrors.NewConflict(at.resource.GroupResource(), key.Name, nil)
	}
	o.adopt(found, wanted)
	next, changed, err := merged(found, wanted, time.Now())
	if err != nil || !changed {
		return err
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": found.GetUID(), "resourceVersion": found.GetResourceVersion()},
		"status":   map[string]any{"conditions": next},
	})
	if err != nil {
		return err
	}
	_, err = client.Patch(ctx, key.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}, "status")
	if apierrors.IsNotFound(err) {
		// It was there: its definition has no status.
		at.mute = true
		w.apis[key.Kind] = at
	}
	return err
}

// adopt takes from the object that all proxies acknowledged this version, as
// the leader before has seen: that some do not know a later one is not news.
func (o *object) adopt(found *unstructured.Unstructured, wanted []condition) {
	old, ok := conditionOf(found, Programmed)
	if ok && wanted[programmed].reason == reasonPending && old.Status == yes && old.ObservedGeneration == o.generation {
		o.programmed = true
		wanted[programmed].status, wanted[programmed].reason = yes, reasonProgrammed
	}
}

func conditionOf(found *unstructured.Unstructured, kind string) (c metav1.Condition, ok bool) {
	list, _, _ := unstructured.NestedSlice(found.Object, "status", "conditions") // no list is none
	for _, o := range list {
		if fields, is := o.(map[string]any); is && fields["type"] == kind {
			return c, runtime.DefaultUnstructuredConverter.FromUnstructured(fields, &c) == nil
		}
	}
	return c, false
}

// merged are the object's conditions with ours as wanted; those of others, and
// what others know of a condition, stay as they are.
func merged(found *unstructured.Unstructured, wanted []condition, now time.Time) (next []any, changed bool, err error) {
	list, _, err := unstructured.NestedSlice(found.Object, "status", "conditions")
	if err != nil {
		list = nil // no list: it is nobody's
	}
	for _, c := range wanted {
		ours := metav1.Condition{
			Type: c.kind, Status: metav1.ConditionStatus(c.status), Reason: c.reason, Message: c.text(),
			ObservedGeneration: c.generation, LastTransitionTime: metav1.NewTime(now.UTC().Truncate(time.Second)),
		}
		i := slices.IndexFunc(list, func(o any) bool {
			old, ok := o.(map[string]any)
			return ok && old["type"] == c.kind
		})
		if old, there := conditionOf(found, c.kind); there && old.Status == ours.Status && !old.LastTransitionTime.IsZero() {
			ours.LastTransitionTime = old.LastTransitionTime
			if c.status == yes && c.count != "" && old.Reason == ours.Reason && old.ObservedGeneration == ours.ObservedGeneration {
				ours.Message = old.Message // the count of then
			}
			if old == ours {
				continue
			}
		}
		fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&ours)
		if err != nil {
			return nil, false, err
		}
		changed = true
		if i >= 0 {
			list[i] = fields
		} else {
			list = append(list, fields)
		}
	}
	return list, changed, nil
}

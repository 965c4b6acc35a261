package kube

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// bundle is all that is known, as far as it is accepted, what is wrong, and
// when to come again though nothing changes; zero is never.
func (w *watcher) bundle(now time.Time) (meshconfig.Bundle, []meshconfig.Problem, time.Time) {
	parts, problems := w.decoded()
	merged, more := meshconfig.Merge(parts, meshconfig.Bundle{})
	merged.Positions = nil // there are no files
	next, problems := merged.Accept(w.last, append(problems, more...))
	w.last = next
	for i := range problems {
		if problems[i].On.Kind == "MeshConfig" { // absent
			problems[i].On = w.settingsKey()
		}
	}
	next.Generations = map[model.Key]int64{}
	for i := range parts {
		maps.Copy(next.Generations, parts[i].Generations)
	}
	next.Namespaces = listOf[*corev1.Namespace](w.namespaces)
	next.ServiceAccounts = listOf[*corev1.ServiceAccount](w.accounts)
	next.Services = listOf[*corev1.Service](w.services)
	next.EndpointSlices = listOf[*discoveryv1.EndpointSlice](w.slices)
	next.Pods = listOf[*corev1.Pod](w.pods)
	held, again := w.guard(&next, now)
	problems = append(problems, held...)
	w.told = w.troubles()
	problems = append(problems, w.told...)
	meshconfig.SortProblems(problems)
	return next, problems, again
}

// troubles are what goes wrong with following the API.
func (w *watcher) troubles() []meshconfig.Problem {
	var out []meshconfig.Problem
	for _, f := range w.all() {
		if err := f.trouble(); apierrors.IsForbidden(err) {
			out = append(out, denied(f, err))
		}
	}
	if w.lost != nil {
		out = append(out, unreachable(w.Cluster.Config.Host, w.lost))
	}
	if _, skew := w.link.state(); skew != 0 {
		out = append(out, clockSkew(w.Cluster.Config.Host, skew))
	}
	return out
}

func (w *watcher) settingsKey() model.Key {
	return model.Key{Kind: "ConfigMap", Namespace: w.Namespace, Name: meshName}
}

// decoded are the parts that meshconfig decoded, and what is wrong in them.
func (w *watcher) decoded() ([]meshconfig.Bundle, []meshconfig.Problem) {
	var parts []meshconfig.Bundle
	var problems []meshconfig.Problem
	for _, f := range w.all() {
		list, _ := f.list()
		for _, o := range list {
			d, ok := o.(*decoded)
			if !ok {
				break // a list has one kind
			}
			parts = append(parts, d.part)
			problems = append(problems, d.problems...)
		}
	}
	return parts, problems
}

func listOf[T metav1.Object](f *follower) []T {
	list, _ := f.list()
	return cast[T](list)
}

func cast[T metav1.Object](list []metav1.Object) []T {
	out := make([]T, 0, len(list))
	for _, o := range list {
		out = append(out, o.(T))
	}
	return out
}

// guard puts back what vanished of services that would lose all endpoints.
func (w *watcher) guard(b *meshconfig.Bundle, now time.Time) ([]meshconfig.Problem, time.Time) {
	slicesGone, a, lastA := w.slices.missing(now)
	podsGone, c, lastC := w.pods.missing(now)
	servicesGone, d, lastD := w.services.missing(now)
	since := first(first(a, c), d)
	if since.IsZero() {
		return nil, since
	}
	// Kinds are listed one after another: a second list confirms only what was
	// missing for long enough by then.
	last := slices.MaxFunc([]time.Time{lastA, lastC, lastD}, time.Time.Compare)
	gone := cast[*discoveryv1.EndpointSlice](slicesGone)
	emptied := disappearance{
		slices: b.EndpointSlices, goneSlices: gone, pods: names(podsGone), services: names(servicesGone),
	}.emptied()
	again := since.Add(w.hold())
	if len(emptied) == 0 {
		return nil, again
	}
	if confirm := last.Add(w.slices.confirm); now.Before(confirm) {
		again = first(again, confirm)
	} else if !w.asked.Equal(last) {
		w.asked = last
		for _, f := range []*follower{w.services, w.slices, w.pods} {
			f.relist()
		}
	}
	restore(b, emptied, gone, cast[*corev1.Pod](podsGone), cast[*corev1.Service](servicesGone))
	var problems []meshconfig.Problem
	for service, count := range emptied {
		namespace, name, _ := strings.Cut(service, "/")
		problems = append(problems, massRemovalProblem(namespace, name, count, w.hold()))
	}
	return problems, again
}

// restore puts the vanished objects of the emptied services back.
func restore(b *meshconfig.Bundle, emptied map[string]int, gone []*discoveryv1.EndpointSlice, pods []*corev1.Pod, services []*corev1.Service) {
	for _, slice := range gone {
		if emptied[serviceOf(slice)] > 0 {
			b.EndpointSlices = append(b.EndpointSlices, slice)
		}
	}
	behind := map[string]bool{}
	for _, slice := range b.EndpointSlices {
		for i := range slice.Endpoints {
			if emptied[serviceOf(slice)] > 0 {
				behind[podBehind(slice, &slice.Endpoints[i])] = true
			}
		}
	}
	for _, pod := range pods {
		if behind[keyOf(pod)] {
			b.Pods = append(b.Pods, pod)
		}
	}
	for _, s := range services {
		if emptied[keyOf(s)] > 0 {
			b.Services = append(b.Services, s)
		}
	}
}

func first(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func names(list []metav1.Object) map[string]bool {
	out := make(map[string]bool, len(list))
	for _, o := range list {
		out[keyOf(o)] = true
	}
	return out
}

// refusal is why pilot must not start: the mesh settings cannot be read.
func (w *watcher) refusal(problems []meshconfig.Problem) error {
	if err := w.settings.trouble(); !w.settings.isSynced() && apierrors.IsForbidden(err) {
		return errors.New(denied(w.settings, err).String())
	}
	var lines []string
	for _, p := range problems {
		if p.On == w.settingsKey() && p.Severity == meshconfig.Error {
			lines = append(lines, p.String())
		}
	}
	if len(lines) == 0 {
		return nil
	}
	count := "an error"
	if lines = slices.Compact(lines); len(lines) > 1 {
		count = fmt.Sprintf("%d errors", len(lines))
	}
	return fmt.Errorf("the mesh settings in %s have %s:\n%s", w.settingsKey(), count, strings.Join(lines, "\n"))
}

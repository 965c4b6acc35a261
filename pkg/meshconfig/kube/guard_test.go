package kube

import (
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpilot/pilot/pkg/meshconfig"
)

// slice has n ready endpoints, at pods and addresses that start with name.
func slice(service, name string, n int) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service},
	}}
	for i := range n {
		at := fmt.Sprintf("%s-%d", name, i)
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{at}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: at},
		})
	}
	return s
}

func unready(s *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	for i := range s.Endpoints {
		s.Endpoints[i].Conditions.Ready = new(false)
	}
	return s
}

// podsOf are the pods behind the endpoints from-to of a slice.
func podsOf(name string, from, to int) map[string]bool {
	out := map[string]bool{}
	for i := from; i < to; i++ {
		out[fmt.Sprintf("shop/%s-%d", name, i)] = true
	}
	return out
}

func TestEmptied(t *testing.T) {
	type list = []*discoveryv1.EndpointSlice
	cart := map[string]bool{"shop/cart": true}
	for name, c := range map[string]struct {
		in   disappearance
		want map[string]int
	}{
		"nothing vanished":                    {disappearance{slices: list{slice("cart", "a", 12)}}, nil},
		"all slices":                          {disappearance{goneSlices: list{slice("cart", "a", 6), slice("cart", "b", 6)}}, map[string]int{"shop/cart": 12}},
		"exactly ten":                         {disappearance{goneSlices: list{slice("cart", "a", 10)}}, map[string]int{"shop/cart": 10}},
		"nine are not many":                   {disappearance{goneSlices: list{slice("cart", "a", 9)}}, nil},
		"one address twice counts once":       {disappearance{goneSlices: list{slice("cart", "a", 9), slice("cart", "a", 9)}}, nil},
		"one slice is left":                   {disappearance{slices: list{slice("cart", "b", 1)}, goneSlices: list{slice("cart", "a", 12)}}, nil},
		"what is left is not ready":           {disappearance{slices: list{unready(slice("cart", "b", 3))}, goneSlices: list{slice("cart", "a", 12)}}, map[string]int{"shop/cart": 12}},
		"what vanished was not ready":         {disappearance{goneSlices: list{unready(slice("cart", "a", 12))}}, nil},
		"a slice of another service is no ..": {disappearance{slices: list{slice("stock", "b", 3)}, goneSlices: list{slice("cart", "a", 12)}}, map[string]int{"shop/cart": 12}},
		"all pods":                            {disappearance{slices: list{slice("cart", "a", 12)}, pods: podsOf("a", 0, 12)}, map[string]int{"shop/cart": 12}},
		"all pods but one":                    {disappearance{slices: list{slice("cart", "a", 12)}, pods: podsOf("a", 1, 12)}, nil},
		"a rolling restart":                   {disappearance{slices: list{slice("cart", "new", 12)}, pods: podsOf("a", 0, 12)}, nil},
		"slices and pods, each a part":        {disappearance{slices: list{slice("cart", "a", 6)}, goneSlices: list{slice("cart", "b", 6)}, pods: podsOf("a", 0, 6)}, map[string]int{"shop/cart": 12}},
		"the service":                         {disappearance{slices: list{slice("cart", "a", 12)}, services: cart}, map[string]int{"shop/cart": 12}},
		"a small service":                     {disappearance{slices: list{slice("cart", "a", 2)}, services: cart}, nil},
	} {
		if got := c.in.emptied(); !maps.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

// Kinds are listed one after another, so their objects are not missing since
// the same moment: the second list comes when it can confirm all of them.
func TestGuardAsksWhenAllCanBeConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watcher{Source: &Source{}}
		for _, f := range []struct {
			to   **follower
			kind kind
		}{{&w.services, kind{trim: trimService}}, {&w.slices, kind{trim: trimSlice}}, {&w.pods, kind{trim: trimPod}}} {
			*f.to = newFollower(f.kind, func() {}, func() {})
			(*f.to).keep, (*f.to).confirm = w.hold(), 10*time.Second
		}
		list := func(f *follower, objects ...any) {
			t.Helper()
			if err := f.Replace(objects, ""); err != nil {
				t.Fatal(err)
			}
		}
		cart := slice("cart", "a", 12)
		list(w.slices, cart)
		list(w.pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a-0"}})
		list(w.pods)
		time.Sleep(3 * time.Second)
		list(w.slices)
		check := func(what string, problems int, next time.Duration, asked bool) {
			t.Helper()
			found, again := w.guard(&meshconfig.Bundle{}, time.Now())
			if got := time.Until(again); len(found) != problems || problems > 0 && got != next || w.slices.fresh != asked {
				t.Errorf("%s: %d problems, again in %s, asked %v", what, len(found), got, w.slices.fresh)
			}
		}
		check("vanished", 1, 10*time.Second, false)
		time.Sleep(8 * time.Second)
		check("10 s after the pods only", 1, 2*time.Second, false)
		time.Sleep(2 * time.Second)
		check("10 s after the slices", 1, 47*time.Second, true)
		list(w.pods)
		list(w.slices)
		check("confirmed", 0, 0, true)
	})
}

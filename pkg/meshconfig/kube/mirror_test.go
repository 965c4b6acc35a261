package kube

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func namesIn(list []metav1.Object) string {
	var out []string
	for _, o := range list {
		out = append(out, o.GetName())
	}
	return strings.Join(out, " ")
}

// An object that a list lacks is remembered; one that an event deleted is not.
func TestMirrorVanished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		changes := 0
		m := newMirror(trimSlice, func() { changes++ })
		m.keep, m.confirm = time.Minute, 10*time.Second
		check := func(what, objects, gone string, count int) {
			t.Helper()
			list, synced := m.list()
			missing, _, _ := m.missing(time.Now())
			if !synced || namesIn(list) != objects || namesIn(missing) != gone || changes != count {
				t.Errorf("%s: %q, gone %q, %d changes; want %q, %q, %d", what, namesIn(list), namesIn(missing), changes, objects, gone, count)
			}
		}
		do := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		a, b, c := slice("cart", "a", 3), slice("cart", "b", 3), slice("cart", "c", 3)
		if _, synced := m.list(); synced {
			t.Error("synced before a list")
		}
		do(m.Replace([]any{a, b, c}, "1"))
		check("first list", "a b c", "", 1)
		do(m.Update(slice("cart", "b", 3)))
		check("nothing new", "a b c", "", 1)
		do(m.Update(slice("cart", "b", 4)))
		check("changed", "a b c", "", 2)
		do(m.Delete(a))
		check("deleted", "b c", "", 3)
		do(m.Replace([]any{b}, "2"))
		check("vanished", "b", "c", 4)
		do(m.Add(c))
		check("came back", "b c", "", 5)
		do(m.Replace(nil, "3"))
		check("all vanished", "", "b c", 6)
		do(m.Delete(c))
		check("an event after all", "", "b", 6)
		time.Sleep(5 * time.Second)
		do(m.Replace(nil, "4"))
		check("a second list, too early", "", "b", 6)
		time.Sleep(5 * time.Second)
		do(m.Replace(nil, "5"))
		check("confirmed", "", "", 7)
		do(m.Add(b))
		do(m.Replace(nil, "6"))
		time.Sleep(time.Minute)
		check("too long ago", "", "", 9)
	})
}

// What the status of a custom resource says is no change.
func TestMirrorStatus(t *testing.T) {
	changes := 0
	m := newMirror(trimCustom, func() { changes++ })
	for _, step := range []struct {
		generation int64
		status     string
		want       int
	}{{1, "", 1}, {1, "accepted", 1}, {2, "accepted", 2}, {2, "", 2}} {
		if err := m.Add(peer(step.generation, step.status)); err != nil {
			t.Fatal(err)
		}
		if changes != step.want {
			t.Errorf("%+v: %d changes", step, changes)
		}
	}
	if err := m.Add(&discoveryv1.EndpointSlice{}); err == nil {
		t.Error("an object of another kind is taken")
	}
}

package accounts

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

func object(name, version, text string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, ResourceVersion: version}, Data: map[string]string{"text": text}}
}

// TestMirror: whichever of a watch and our own writes comes first, the later
// version stands.
func TestMirror(t *testing.T) {
	changes := 0
	m := newMirror(func(o runtime.Object) string { return o.(*corev1.ConfigMap).Data["text"] }, func() { changes++ })
	name := func(n string) types.NamespacedName { return types.NamespacedName{Namespace: "a", Name: n} }
	want := func(what, object, text string, n int) {
		t.Helper()
		h, ok := m.get(name(object))
		if ok != (text != "") || h.value != text || changes != n {
			t.Errorf("%s: %q, %d changes; want %q, %d", what, h.value, changes, text, n)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	m.put(object("x", "9", "ours"), "ours") // written before the first list is there
	must(m.Replace([]any{object("x", "5", "old"), object("y", "5", "seen")}, "8"))
	want("a list from before the write", "x", "ours", 1)
	want("the rest of it", "y", "seen", 1)
	must(m.wait(t.Context()))
	must(m.Add(object("x", "9", "ours")))
	want("the event of our own write is no news", "x", "ours", 1)
	must(m.Update(object("x", "10", "theirs")))
	want("a later version, of more digits", "x", "theirs", 2)
	m.put(object("x", "12", "ours again"), "ours again")
	must(m.Delete(object("x", "11", "theirs")))
	want("a deletion from before it was made again", "x", "ours again", 2)
	must(m.Delete(object("x", "13", "ours again")))
	want("a deletion", "x", "", 3)
	must(m.Replace([]any{object("z", "14", "new")}, "15"))
	want("what a list does not have", "y", "", 4)
	m.replace(name("z"), "13", "other")
	want("of another version", "z", "new", 4)
	if err := m.Add("text"); err == nil {
		t.Error("a string is taken for an object")
	}
}

func TestVersion(t *testing.T) {
	if uid, version := parts(versionOf("u-1", "42")); uid != "u-1" || version != "42" {
		t.Error(uid, version)
	}
}

// TestRootsTry: the first writes are at once, and those that somebody undoes
// come ever more rarely.
func TestRootsTry(t *testing.T) {
	began := time.Now()
	var waits []time.Duration
	for n := range 9 {
		try := rootsTry{n: n, last: began}
		if n == 0 && !try.next().IsZero() {
			t.Error("the first write waits")
		}
		if n > 0 {
			waits = append(waits, try.next().Sub(began)/time.Second)
		}
	}
	if !slices.Equal(waits, []time.Duration{1, 2, 4, 8, 16, 32, 60, 60}) {
		t.Errorf("waits, in seconds: %d", waits)
	}
}

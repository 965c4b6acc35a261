package identity

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

// TestReadCA: a CA of a place is what was encoded, follows it, and keeps what
// it has while the place has nothing of use.
func TestReadCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := selfSigned(t), selfSigned(t)
		cert, key, err := first.Encode()
		if err != nil {
			t.Fatal(err)
		}
		var trouble error
		place := Place{On: model.Key{Kind: "Secret", Namespace: "istio-system", Name: "ca"}, Read: func() ([]byte, []byte, error) { return cert, key, trouble }}
		ca, err := ReadCA(place, Options{})
		if err != nil {
			t.Fatal(err)
		}
		changes := 0
		go ca.Follow(t.Context(), func() { changes++ })
		want := func(what string, n int, generation uint64, of *CA, problem string) {
			t.Helper()
			time.Sleep(2*pollTime + time.Second)
			synctest.Wait()
			if changes != n || ca.Generation() != generation || !bytes.Equal(ca.Roots(), of.Roots()) {
				t.Errorf("%s: %d changes, want %d; generation %d, want %d", what, changes, n, ca.Generation(), generation)
			}
			p := ca.Problems(time.Now())
			if problem == "" && len(p) > 0 || problem != "" && (len(p) != 1 || p[0].On != place.On || !strings.Contains(p[0].Message, problem)) {
				t.Errorf("%s: %v, want %s", what, p, problem)
			}
		}
		want("nothing changed", 0, 0, first, "")
		trouble = errors.New("it is gone")
		want("the place has trouble", 1, 0, first, "it is gone; the CA that was accepted before stays in force")
		trouble = nil
		want("it is as it was, so nobody need act", 2, 0, first, "")
		if cert, _, err = second.Encode(); err != nil {
			t.Fatal(err)
		}
		want("half of another CA", 3, 0, first, "Secret istio-system/ca: ca-key.pem does not fit Secret istio-system/ca: ca-cert.pem")
		if _, key, err = second.Encode(); err != nil {
			t.Fatal(err)
		}
		want("another CA", 4, 1, second, "")
		if _, err := ReadCA(Place{On: place.On, Read: func() ([]byte, []byte, error) { return cert, nil, nil }}, Options{}); err == nil ||
			!strings.HasPrefix(err.Error(), "Secret istio-system/ca: ca-key.pem: ") {
			t.Errorf("without a key: %v", err)
		}
	})
}

func selfSigned(t *testing.T) *CA {
	t.Helper()
	ca, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

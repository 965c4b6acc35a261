package rotation

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
)

const cart = "spiffe://cluster.local/ns/shop/sa/cart"

// sidecar is a directory of a sidecar, and what it showed before.
type sidecar struct {
	*Leaves
	t     *testing.T
	chain string
	roots string
}

// wrote says what is other than at the last call.
func (s *sidecar) wrote() string {
	read := func(name string) string {
		content, err := os.ReadFile(filepath.Join(s.dir.Path, name))
		if err != nil {
			s.t.Fatal(err)
		}
		return string(content)
	}
	chain, roots := read(identity.CertChainFile), read(identity.RootCertFile)
	text := ""
	if chain != s.chain {
		text = "leaf"
	}
	if roots != s.roots {
		text += "roots"
	}
	s.chain, s.roots = chain, roots
	return text
}

func start(t *testing.T, ca *identity.CA) (*Renewer, *sidecar) {
	t.Helper()
	r := New(ca, t.Logf)
	l, err := r.Add(identity.Dir{Path: filepath.Join(t.TempDir(), "certs")}, cart)
	if err != nil {
		t.Fatal(err)
	}
	s := &sidecar{Leaves: l, t: t}
	s.wrote()
	return r, s
}

func TestLeavesAreRenewedInTime(t *testing.T) {
	ca, err := OpenCA(t.TempDir(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	r, s := start(t, ca)
	begin := time.Now()
	for _, c := range []struct {
		after time.Duration
		want  string
	}{{0, ""}, {20 * time.Second, ""}, {31 * time.Second, "leaf"}} {
		if err := r.turn(begin.Add(c.after)); err != nil {
			t.Fatal(err)
		}
		if got := s.wrote(); got != c.want {
			t.Errorf("after %s: wrote %q, want %q", c.after, got, c.want)
		}
	}
	if last := s.Last(); last.Number != 2 || s.ByHash(last.hash) != last || r.Count() != 1 {
		t.Errorf("last %+v after %d renewals", last, r.Count())
	}
}

// A change of the root writes roots alone to all, waits, and only then leaves.
func TestRootsComeFirst(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	ca, err := OpenCA(dir, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCA(other, time.Hour); err != nil {
		t.Fatal(err)
	}
	r, s := start(t, ca)
	read := func(dir, name string) []byte {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	put := func(name string, content []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	step := func(what string, after time.Duration, want string) {
		t.Helper()
		if r.ca, err = loadCA(dir, time.Hour); err != nil {
			t.Fatal(err)
		}
		now = now.Add(after)
		if err := r.turn(now); err != nil {
			t.Fatal(err)
		}
		if got := s.wrote(); got != want {
			t.Errorf("%s: wrote %q, want %q", what, got, want)
		}
	}
	old, fresh := read(dir, "ca-cert.pem"), read(other, "ca-cert.pem")
	put("root-cert.pem", append(bytes.Clone(old), fresh...))
	step("both roots", 0, "roots")
	put("ca-cert.pem", fresh)
	put("ca-key.pem", read(other, "ca-key.pem"))
	step("signer, at once", 0, "")
	step("signer, settled", rootsSettle, "leaf")
	put("root-cert.pem", fresh)
	step("new root alone", 0, "roots")
	step("nothing more", time.Minute, "")
}

func TestTheOldestLeafInUseCounts(t *testing.T) {
	ca, err := OpenCA(t.TempDir(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	_, s := start(t, ca)
	first := s.Last()
	for range keptLeaves {
		if err := s.issue(ca); err != nil {
			t.Fatal(err)
		}
	}
	last := s.Last()
	before := s.find(func(k Leaf) bool { return k.Number == last.Number-1 })
	for _, c := range []struct {
		serials []string
		want    Leaf
	}{
		{nil, Leaf{}},
		{[]string{last.Serial, before.Serial, last.Serial}, before},
		{[]string{last.Serial, "someone's"}, last},
		{[]string{first.Serial}, Leaf{}}, // too long ago
	} {
		if s.Record(c.serials); s.Loaded() != c.want {
			t.Errorf("%d serials: loaded %+v, want %+v", len(c.serials), s.Loaded(), c.want)
		}
	}
	if text := fmt.Sprintf("%+v", s.pair); text != "key pair of "+cart {
		t.Errorf("printed %s", text)
	}
}

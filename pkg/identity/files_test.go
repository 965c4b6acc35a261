package identity

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestPublishSwapsOneLink(t *testing.T) {
	ca := testCA(t)
	dir := Dir{Path: filepath.Join(t.TempDir(), "certs")}
	var targets []string
	for range 3 {
		pair := issue(t, ca, cart, time.Hour)
		if err := dir.Publish(pair); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string][]byte{
			CertChainFile: pair.CertChain, KeyFile: pair.Key, RootCertFile: pair.Roots,
		} {
			got, err := os.ReadFile(filepath.Join(dir.Path, name))
			if err != nil || string(got) != string(want) {
				t.Errorf("%s: old content or %v", name, err)
			}
			if link, err := os.Readlink(filepath.Join(dir.Path, name)); err != nil || link != "..data/"+name {
				t.Errorf("%s links to %q, %v", name, link, err)
			}
		}
		target, err := os.Readlink(filepath.Join(dir.Path, dataLink))
		if err != nil {
			t.Fatal(err)
		}
		targets = append(targets, target)
	}
	if targets[0] == targets[1] || targets[1] == targets[2] {
		t.Errorf("a directory was used twice: %v", targets)
	}
	info, err := os.Stat(filepath.Join(dir.Path, KeyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v, want mode 0600", info.Mode(), err)
	}
	entries, err := os.ReadDir(dir.Path)
	if err != nil || len(entries) != 5 { // ..data, one version, three names
		t.Errorf("%d entries left, want 5: %v %v", len(entries), entries, err)
	}
}

// A machine's operator puts a root file there; killed writers leave versions.
func TestPublishTidiesUp(t *testing.T) {
	dir := Dir{Path: t.TempDir(), CertChain: "chain.crt", Key: "tls.key", RootCert: "ca.crt"}
	root := filepath.Join(dir.Path, "ca.crt")
	if err := os.WriteFile(root, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir.Path, "..2020_01_01_00_00_00.1")
	if err := os.Mkdir(left, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir.Path, "..link_tmp")); err != nil {
		t.Fatal(err)
	}
	pair := issue(t, testCA(t), cart, time.Hour)
	if err := dir.Publish(pair); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{"chain.crt": pair.CertChain, "tls.key": pair.Key, "ca.crt": pair.Roots} {
		got, err := os.ReadFile(filepath.Join(dir.Path, name))
		if err != nil || string(got) != string(want) {
			t.Errorf("%s: old content or %v", name, err)
		}
	}
	if target, err := os.Readlink(root); err != nil || target != "..data/ca.crt" {
		t.Errorf("ca.crt links to %q, %v", target, err)
	}
	entries, err := os.ReadDir(dir.Path)
	if err != nil || len(entries) != 5 {
		t.Errorf("%d entries left, want 5: %v %v", len(entries), entries, err)
	}
}

func TestPublishSetsOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root may give files away")
	}
	dir := Dir{Path: t.TempDir(), UID: 1337}
	if err := dir.Publish(issue(t, testCA(t), cart, time.Hour)); err != nil {
		t.Fatal(err)
	}
	if uid := ownerOf(t, filepath.Join(dir.Path, KeyFile)); uid != 1337 {
		t.Errorf("key belongs to %d, want 1337", uid)
	}
}

func ownerOf(t *testing.T, path string) int {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatalf("%T", info.Sys())
	}
	return int(stat.Uid)
}

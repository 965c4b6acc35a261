package secrets

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
)

// watchTime is how often a directory is looked at.
const watchTime = 10 * time.Second

// Directory keeps Secrets as files, as Kubernetes would mount them:
// DIR/<namespace>/istio.<account>/{cert-chain,key,root-cert}.pem.
type Directory struct {
	Path string
	UID  int // owns the files if it is not 0: the user of the proxies
}

// List implements Store. What does not look like a mounted Secret has no type.
func (d Directory) List(ctx context.Context, namespace string) ([]Listed, error) {
	namespaces := []string{namespace}
	if namespace == "" {
		entries, err := os.ReadDir(d.Path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		namespaces = nil
		for _, e := range entries {
			if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
				namespaces = append(namespaces, e.Name())
			}
		}
	}
	var out []Listed
	for _, ns := range namespaces {
		entries, err := os.ReadDir(filepath.Join(d.Path, ns))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			a, ok := AccountOf(ns, e.Name())
			if !ok {
				continue
			}
			l := Listed{Account: a}
			if l.Version, ok = d.version(a); ok {
				l.Type = Type
			}
			out = append(out, l)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// version names the files that are shown, also if they are edited in place. ok
// is false for what is no mounted Secret.
func (d Directory) version(a Account) (version string, ok bool) {
	dir := d.dir(a).Path
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return "", false
	}
	var b strings.Builder
	shown, err := os.Readlink(filepath.Join(dir, "..data"))
	if err != nil {
		// Empty is what is left of a writer that was killed, or was told to
		// make it: ours. Anything else is not.
		entries, err := os.ReadDir(dir)
		return "", err == nil && len(entries) == 0
	}
	b.WriteString(shown)
	for _, name := range []string{identity.CertChainFile, identity.KeyFile, identity.RootCertFile} {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil {
			fmt.Fprintf(&b, " %x-%x", info.ModTime().UnixNano(), info.Size())
		} else {
			b.WriteString(" none")
		}
	}
	return b.String(), true
}

func (d Directory) dir(a Account) identity.Dir {
	return identity.Dir{Path: filepath.Join(d.Path, a.Namespace, a.SecretName()), UID: d.UID}
}

// Get implements Store. A file that is missing is empty.
func (d Directory) Get(_ context.Context, a Account) (Secret, string, error) {
	version, ok := d.version(a)
	if !ok {
		return Secret{}, "", ErrNotFound
	}
	s := Secret{Account: a}
	for _, f := range []struct {
		name string
		into *[]byte
	}{{identity.CertChainFile, &s.CertChain}, {identity.KeyFile, &s.Key}, {identity.RootCertFile, &s.Roots}} {
		text, err := os.ReadFile(filepath.Join(d.dir(a).Path, f.name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Secret{}, "", err
		}
		*f.into = text
	}
	if again, _ := d.version(a); again != version {
		return Secret{}, "", ErrConflict
	}
	return s, version, nil
}

// Create implements Store.
func (d Directory) Create(_ context.Context, s Secret) (string, error) {
	for _, part := range []string{s.Account.Namespace, s.Account.Name} {
		if part == "" || part != filepath.Base(part) || strings.HasPrefix(part, ".") {
			return "", fmt.Errorf("%q is no name of a directory", part)
		}
	}
	if err := os.MkdirAll(filepath.Dir(d.dir(s.Account).Path), 0o755); err != nil {
		return "", err
	}
	if err := os.Mkdir(d.dir(s.Account).Path, 0o755); errors.Is(err, fs.ErrExist) {
		return "", ErrExists
	} else if err != nil {
		return "", err
	}
	return d.write(s)
}

// Update implements Store.
func (d Directory) Update(_ context.Context, s Secret, version string) (string, error) {
	if err := d.is(s.Account, version); err != nil {
		return "", err
	}
	return d.write(s)
}

// Delete implements Store. The namespace's directory goes with its last.
func (d Directory) Delete(_ context.Context, a Account, version string) error {
	if err := d.is(a, version); errors.Is(err, ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	dir := d.dir(a).Path
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(dir)) // fails if there are others
	return nil
}

func (d Directory) is(a Account, version string) error {
	now, ok := d.version(a)
	switch {
	case !ok:
		return ErrNotFound
	case now != version:
		return ErrConflict
	}
	return nil
}

func (d Directory) write(s Secret) (string, error) {
	err := d.dir(s.Account).Publish(identity.KeyPair{URI: s.Account.String(), CertChain: s.CertChain, Key: s.Key, Roots: s.Roots})
	if err != nil {
		return "", err
	}
	version, _ := d.version(s.Account)
	return version, nil
}

// Watch implements Store.
func (d Directory) Watch(ctx context.Context, namespace string, changed func()) {
	tick := time.NewTicker(watchTime)
	defer tick.Stop()
	known := d.state(ctx, namespace)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := d.state(ctx, namespace); now != known {
			known = now
			changed()
		}
	}
}

// state tells the directory from itself at another time.
func (d Directory) state(ctx context.Context, namespace string) [sha256.Size]byte {
	list, err := d.List(ctx, namespace)
	h := sha256.New()
	for _, l := range list {
		fmt.Fprintln(h, l.Account, l.Type, l.Version)
	}
	fmt.Fprint(h, err)
	return [sha256.Size]byte(h.Sum(nil))
}

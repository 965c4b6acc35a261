package identity

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Names of the published files, as in the Secrets of Istio.
const (
	CertChainFile = "cert-chain.pem"
	KeyFile       = "key.pem"
	RootCertFile  = "root-cert.pem"
)

const dataLink = "..data"

// Dir is a directory that shows a key pair the way a Secret volume does:
// Envoy watches it and takes a new pair at the rename of its link ..data.
type Dir struct {
	Path string
	// UID owns the files if it is not 0: the user that Envoy runs as.
	UID int
	// CertChain, Key and RootCert name the files; empty is the usual name.
	CertChain, Key, RootCert string
}

// Publish shows pair in place of what the directory showed, in one step.
func (d Dir) Publish(pair KeyPair) error {
	if err := d.publish(pair); err != nil {
		return fmt.Errorf("publish the certificate of %s: %w", pair.URI, err)
	}
	return nil
}

func (d Dir) publish(pair KeyPair) error {
	if err := os.MkdirAll(d.Path, 0o755); err != nil {
		return err
	}
	version, err := os.MkdirTemp(d.Path, ".."+time.Now().UTC().Format("2006_01_02_15_04_05."))
	if err != nil {
		return err
	}
	if err := d.fill(version, pair); err != nil {
		return errors.Join(err, os.RemoveAll(version))
	}
	if err := d.link(dataLink, filepath.Base(version)); err != nil {
		return err
	}
	for _, name := range d.names() {
		if err := d.link(name, filepath.Join(dataLink, name)); err != nil {
			return err
		}
	}
	return d.sweep(filepath.Base(version))
}

func (d Dir) fill(version string, pair KeyPair) error {
	if err := os.Chmod(version, 0o755); err != nil {
		return err
	}
	names := d.names()
	for i, f := range []struct {
		content []byte
		mode    fs.FileMode
	}{
		{pair.CertChain, 0o644},
		{pair.Key, 0o600},
		{pair.Roots, 0o644},
	} {
		path := filepath.Join(version, names[i])
		if err := writeNew(path, f.content, f.mode); err != nil {
			return err
		}
		if d.UID == 0 {
			continue
		}
		if err := os.Chown(path, d.UID, -1); err != nil {
			return err
		}
	}
	return nil
}

// names are those of the chain, the key and the roots.
func (d Dir) names() [3]string {
	return [3]string{
		cmp.Or(d.CertChain, CertChainFile),
		cmp.Or(d.Key, KeyFile),
		cmp.Or(d.RootCert, RootCertFile),
	}
}

// link makes name a link to target, in one step and in place of what was
// there: a machine's first root file is no link yet.
func (d Dir) link(name, target string) error {
	path := filepath.Join(d.Path, name)
	if old, err := os.Readlink(path); err == nil && old == target {
		return nil
	}
	next := filepath.Join(d.Path, "..link_tmp")
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, next); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// sweep removes the versions before this one, and what writers left that were
// killed.
func (d Dir) sweep(current string) error {
	entries, err := os.ReadDir(d.Path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), "..2") && e.Name() != current {
			err = errors.Join(err, os.RemoveAll(filepath.Join(d.Path, e.Name())))
		}
	}
	return err
}

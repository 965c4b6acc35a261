package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
	old, _ := os.Readlink(filepath.Join(d.Path, dataLink))
	next := filepath.Join(d.Path, "..data_tmp")
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Base(version), next); err != nil {
		return err
	}
	if err := os.Rename(next, filepath.Join(d.Path, dataLink)); err != nil {
		return err
	}
	if err := d.linkNames(); err != nil {
		return err
	}
	if old == "" || old != filepath.Base(old) {
		return nil
	}
	return os.RemoveAll(filepath.Join(d.Path, old))
}

func (d Dir) fill(version string, pair KeyPair) error {
	if err := os.Chmod(version, 0o755); err != nil {
		return err
	}
	for _, f := range []struct {
		name    string
		content []byte
		mode    fs.FileMode
	}{
		{CertChainFile, pair.CertChain, 0o644},
		{KeyFile, pair.Key, 0o600},
		{RootCertFile, pair.Roots, 0o644},
	} {
		path := filepath.Join(version, f.name)
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

// linkNames makes the names that people and programs open; they never change.
func (d Dir) linkNames() error {
	for _, name := range []string{CertChainFile, KeyFile, RootCertFile} {
		err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(d.Path, name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

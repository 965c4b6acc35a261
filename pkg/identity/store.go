package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Files of a CA in its state directory.
const (
	caCertFile = "ca-cert.pem"
	caKeyFile  = "ca-key.pem"
)

// OpenCA reads the CA kept in dir, or makes one and keeps it there. It never
// overwrites one: files that do not load are an error that names them. Of two
// that start together one makes it, and the other reads it.
func OpenCA(dir string, o Options) (*CA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keep the CA: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("keep the CA: %w", err)
	}
	defer d.Close() // and so unlock it
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	certPath, keyPath := filepath.Join(dir, caCertFile), filepath.Join(dir, caKeyFile)
	certPEM, certErr := os.ReadFile(certPath)
	keyPEM, keyErr := os.ReadFile(keyPath)
	if errors.Is(certErr, fs.ErrNotExist) && errors.Is(keyErr, fs.ErrNotExist) {
		return createCA(certPath, keyPath, o)
	}
	if there, gone := halfCA(certPath, keyPath, certErr, keyErr); gone != "" {
		return nil, fmt.Errorf("there is %s, but no %s: bring it back; or move the other away for a new CA, which no proxy trusts yet", there, gone)
	}
	if err := errors.Join(certErr, keyErr); err != nil {
		return nil, fmt.Errorf("read the CA: %w", err)
	}
	key, err := ParseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyPath, err)
	}
	certs, err := ParseCertificates(certPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", certPath, err)
	}
	cert := certs[0]
	if err := usableCA(cert, time.Now()); err != nil {
		return nil, fmt.Errorf("%s: %w", certPath, err)
	}
	if !fits(key, cert) {
		return nil, fmt.Errorf("%s does not fit %s", keyPath, certPath)
	}
	ca := newCA(o, newAuthority(cert, key, nil, certs[:1]))
	ca.origin.roots = fileKey(certPath)
	return ca, nil
}

// halfCA is which of the two files is there and which is gone, if one is.
func halfCA(cert, key string, certErr, keyErr error) (there, gone string) {
	switch {
	case certErr == nil && errors.Is(keyErr, fs.ErrNotExist):
		return cert, key
	case keyErr == nil && errors.Is(certErr, fs.ErrNotExist):
		return key, cert
	}
	return "", ""
}

func createCA(certPath, keyPath string, o Options) (*CA, error) {
	ca, err := New(o)
	if err != nil {
		return nil, err
	}
	certPEM, keyPEM, err := ca.Encode()
	if err != nil {
		return nil, fmt.Errorf("keep the CA: %w", err)
	}
	if err := writeNew(keyPath, keyPEM, 0o600); err != nil {
		return nil, fmt.Errorf("keep the CA: %w", err)
	}
	if err := writeNew(certPath, certPEM, 0o644); err != nil {
		return nil, fmt.Errorf("keep the CA: %w", err)
	}
	ca.origin.roots = fileKey(certPath)
	return ca, nil
}

func writeNew(path string, content []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err = f.Write(content); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

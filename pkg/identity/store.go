package identity

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Files of a CA in its state directory.
const (
	caCertFile = "ca-cert.pem"
	caKeyFile  = "ca-key.pem"
)

// OpenCA reads the CA kept in dir, or makes one and keeps it there. It never
// overwrites one: files that do not load are an error that names them.
func OpenCA(dir, org string, ttl time.Duration) (*CA, error) {
	certPath, keyPath := filepath.Join(dir, caCertFile), filepath.Join(dir, caKeyFile)
	certPEM, certErr := os.ReadFile(certPath)
	keyPEM, keyErr := os.ReadFile(keyPath)
	if errors.Is(certErr, fs.ErrNotExist) && errors.Is(keyErr, fs.ErrNotExist) {
		return createCA(dir, org, ttl)
	}
	if err := errors.Join(certErr, keyErr); err != nil {
		return nil, fmt.Errorf("read the CA: %w", err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyPath, err)
	}
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s: no PEM certificate in it", certPath)
	}
	ca, err := newCA(block.Bytes, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", certPath, err)
	}
	if !ca.cert.IsCA {
		return nil, fmt.Errorf("%s: the certificate is not a CA", certPath)
	}
	if !key.PublicKey.Equal(ca.cert.PublicKey) {
		return nil, fmt.Errorf("%s does not fit %s", keyPath, certPath)
	}
	return ca, nil
}

func createCA(dir, org string, ttl time.Duration) (*CA, error) {
	ca, err := NewCA(org, ttl)
	if err != nil {
		return nil, err
	}
	keyPEM, err := encodeKey(ca.key)
	if err != nil {
		return nil, fmt.Errorf("encode the CA's key: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keep the CA: %w", err)
	}
	// The key goes first and must be new: of two that start together one fails.
	if err := writeNew(filepath.Join(dir, caKeyFile), keyPEM, 0o600); err != nil {
		return nil, fmt.Errorf("keep the CA: %w", err)
	}
	if err := writeNew(filepath.Join(dir, caCertFile), ca.rootPEM, 0o644); err != nil {
		return nil, fmt.Errorf("keep the CA: %w", err)
	}
	return ca, nil
}

// writeNew returns once the content is on disk: a machine that joined by a
// token cannot join again by an empty file after a power cut.
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

// parseKey keeps the parser's own text out of its error: only the reason in
// our words, so that no key byte can leak.
func parseKey(keyPEM []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, errors.New("no PEM key in it")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the key cannot be parsed as PKCS #8")
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("the key is not ECDSA")
	}
	return key, nil
}

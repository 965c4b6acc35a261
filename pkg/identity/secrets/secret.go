// Package secrets keeps one Secret with key, certificate and roots for each
// service account: made, renewed, repaired and deleted as accounts, time and
// the CA demand. What is due is decided by a pure function; where Secrets live
// is behind Store.
package secrets

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"strings"
)

const (
	// Type is the type of the Secrets that are kept here.
	Type = "istio.io/key-and-cert"
	// AccountAnnotation names the account on its Secret.
	AccountAnnotation = "istio.io/service-account.name"

	prefix = "istio."
)

// Account is a service account; it has one Secret.
type Account struct{ Namespace, Name string }

// SecretName is the name of the account's Secret, in its namespace.
func (a Account) SecretName() string { return prefix + a.Name }

// String is namespace/name.
func (a Account) String() string { return a.Namespace + "/" + a.Name }

// Compare orders by namespace, then name.
func (a Account) Compare(b Account) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// AccountOf is the account that a Secret of this name would be for.
func AccountOf(namespace, secret string) (Account, bool) {
	name, ok := strings.CutPrefix(secret, prefix)
	return Account{namespace, name}, ok && name != ""
}

// Listed is a Secret without its contents.
type Listed struct {
	Account Account
	Type    string
	Version string // another one after each change
}

// Secret is the contents of a Secret, as PEM.
type Secret struct {
	Account               Account
	CertChain, Key, Roots []byte
}

// String is the account alone, so that printing a Secret never shows its key.
func (s Secret) String() string { return "Secret of " + s.Account.String() }

// GoString is String: %#v shows no key either.
func (s Secret) GoString() string { return s.String() }

// LogValue is String for log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is String, for JSON and everything else that asks for text.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Errors of a Store.
var (
	ErrExists   = errors.New("it exists already")
	ErrConflict = errors.New("it was changed by another")
	ErrNotFound = errors.New("it does not exist")
	// ErrGone is no trouble: what is gone needs no Secret.
	ErrGone = errors.New("its namespace is gone, or about to be")
)

// Store is where Secrets live: a directory, or Kubernetes. No error holds
// contents. It is safe for concurrent use on different Secrets.
type Store interface {
	// List gives all Secrets whose name could be an account's, whatever their
	// type. An empty namespace is all.
	List(ctx context.Context, namespace string) ([]Listed, error)
	// Get reads a Secret; ErrNotFound.
	Get(ctx context.Context, a Account) (s Secret, version string, err error)
	// Create makes a Secret; ErrExists, ErrGone.
	Create(ctx context.Context, s Secret) (version string, err error)
	// Update replaces the version that was read; ErrConflict, ErrNotFound.
	Update(ctx context.Context, s Secret, version string) (next string, err error)
	// Delete removes the version that was read; ErrConflict. One that does not
	// exist is no error.
	Delete(ctx context.Context, a Account, version string) error
	// Watch calls changed after changes, whoever made them, until ctx ends.
	Watch(ctx context.Context, namespace string, changed func())
}

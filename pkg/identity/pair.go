package identity

import "log/slog"

// KeyPair is a leaf with its key and the roots that verify its peers, as PEM.
type KeyPair struct {
	URI       string // the identity
	CertChain []byte // leaf, then intermediates
	Key       []byte
	Roots     []byte
}

// String is the identity alone, so that printing a pair never shows its key.
func (p KeyPair) String() string { return "key pair of " + p.URI }

// GoString is String: %#v shows no key either.
func (p KeyPair) GoString() string { return p.String() }

// LogValue is String for log/slog.
func (p KeyPair) LogValue() slog.Value { return slog.StringValue(p.String()) }

// MarshalText is String, for JSON and everything else that asks for text.
func (p KeyPair) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

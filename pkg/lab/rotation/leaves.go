// Package rotation keeps the certificates of the lab's sidecars fresh, by the
// rules of a mesh: each leaf is renewed before it ends, and a change of the CA
// reaches every sidecar roots first.
package rotation

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/identity/inspect"
)

// keptLeaves of one sidecar are known by what an application sees of them.
const keptLeaves = 100

// OpenCA makes the lab's CA in dir, with files as one that was made elsewhere
// has them: so its root can be replaced while the lab runs.
func OpenCA(dir string, ttl time.Duration) (*identity.CA, error) {
	if _, err := identity.OpenCA(dir, identity.Options{}); err != nil {
		return nil, err
	}
	cert, err := os.ReadFile(filepath.Join(dir, inspect.CACertFile))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, identity.RootCertFile), cert, 0o644); err != nil {
		return nil, err
	}
	return loadCA(dir, ttl)
}

func loadCA(dir string, ttl time.Duration) (*identity.CA, error) {
	return identity.LoadCA(identity.Files{
		SigningCert: filepath.Join(dir, inspect.CACertFile), SigningKey: filepath.Join(dir, inspect.CAKeyFile),
		RootCert: filepath.Join(dir, identity.RootCertFile),
	}, identity.Options{Lifetimes: identity.Lifetimes{Default: ttl}})
}

// Leaves are the certificates of one sidecar, the latest of which is in its
// files.
type Leaves struct {
	dir identity.Dir
	uri string

	mu     sync.Mutex
	pair   identity.KeyPair // as in the files
	latest *x509.Certificate
	known  []Leaf // the last ones, the latest last
	served Leaf   // that its Envoy has loaded
}

// Leaf is one certificate of a sidecar.
type Leaf struct {
	Number int       `json:"number"` // from 1; 0 is none
	Serial string    `json:"serial,omitempty"`
	Ends   time.Time `json:"ends,omitzero"`
	hash   string    // as x-forwarded-client-cert has it
}

// issue puts a new pair into the files. The roots there stay as they are: with
// a new leaf in the same write Envoy may keep the old one.
func (l *Leaves) issue(ca *identity.CA) error {
	pair, err := ca.Issue(l.uri, 0)
	if err != nil {
		return err
	}
	certs, err := identity.ParseCertificates(pair.CertChain)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pair.Roots != nil {
		pair.Roots = l.pair.Roots
	}
	if err := l.dir.Publish(pair); err != nil {
		return err
	}
	sum := sha256.Sum256(certs[0].Raw)
	next := Leaf{Serial: certs[0].SerialNumber.Text(16), Ends: certs[0].NotAfter, hash: hex.EncodeToString(sum[:]), Number: 1}
	if n := len(l.known); n > 0 {
		next.Number = l.known[n-1].Number + 1
	}
	l.pair, l.latest = pair, certs[0]
	l.known = append(l.known, next)
	l.known = l.known[max(0, len(l.known)-keptLeaves):]
	return nil
}

// trust puts other roots into the files, and nothing else.
func (l *Leaves) trust(roots []byte) (changed bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if bytes.Equal(l.pair.Roots, roots) {
		return false, nil
	}
	pair := l.pair
	pair.Roots = roots
	if err := l.dir.Publish(pair); err != nil {
		return false, err
	}
	l.pair = pair
	return true, nil
}

// due says whether it is time for another leaf: half of its life is over, or
// the CA signs with another certificate.
func (l *Leaves) due(ca *identity.CA, settled bool, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	// A lab's lives may be shorter than the least grace of a real mesh.
	renewal := identity.Renewal{Ratio: identity.DefaultGraceRatio}
	return !now.Before(renewal.At(l.latest, l.dir.Path)) || settled && !ca.Signed(l.latest)
}

// Last is the leaf in the files.
func (l *Leaves) Last() Leaf {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known[len(l.known)-1]
}

// ByHash is a leaf as an application sees it; without a number if it is too
// old to be known.
func (l *Leaves) ByHash(hash string) Leaf {
	return l.find(func(k Leaf) bool { return k.hash == hash })
}

func (l *Leaves) find(is func(Leaf) bool) Leaf {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.IndexFunc(l.known, is); i >= 0 {
		return l.known[i]
	}
	return Leaf{}
}

// Record takes the serials that Envoy has loaded; the oldest counts.
func (l *Leaves) Record(serials []string) {
	var oldest Leaf
	for _, serial := range serials {
		k := l.find(func(k Leaf) bool { return k.Serial == serial })
		if k.Number > 0 && (oldest.Number == 0 || k.Number < oldest.Number) {
			oldest = k
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.served = oldest
}

// Loaded is the leaf that Envoy had loaded when it was asked last.
func (l *Leaves) Loaded() Leaf {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.served
}

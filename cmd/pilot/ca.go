package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/spf13/cobra"
)

// caFlags say which CA signs, and what it grants.
type caFlags struct {
	dir        string // where a self-signed one is kept
	selfSigned bool
	given      func(flag string) bool
	files      identity.Files
	org        string
	rootTTL    time.Duration
	keyType    string
	lifetimes  identity.Lifetimes
	renewal    identity.Renewal
}

func (f *caFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	f.given = flags.Changed
	flags.StringVar(&f.dir, "state-dir", defaultStateDir(), "where the self-signed CA, and the phases of rollouts, are kept; made if it is not there")
	flags.BoolVar(&f.selfSigned, "self-signed-ca", true, "make and keep an own root (default: unless --signing-cert or another file of a CA is given)")
	flags.StringVar(&f.org, "self-signed-ca-org", identity.DefaultOrg, "organisation of an own root")
	flags.DurationVar(&f.rootTTL, "self-signed-ca-cert-ttl", identity.DefaultRootTTL, "lifetime of an own root")
	flags.StringVar(&f.files.SigningCert, "signing-cert", "", "certificate of a CA made elsewhere (PEM)")
	flags.StringVar(&f.files.SigningKey, "signing-key", "", "its private key")
	flags.StringVar(&f.files.RootCert, "root-cert", "", "the roots that the mesh trusts, one or several")
	flags.StringVar(&f.files.CertChain, "cert-chain", "", "certificates between --signing-cert and its root")
	flags.StringVar(&f.keyType, "key-type", identity.ECDSA.String(), "of the keys that are made: ecdsa (P-256) or rsa (2048 bits)")
	flags.DurationVar(&f.lifetimes.Default, "workload-cert-ttl", identity.DefaultLeafTTL, "lifetime of a certificate for who asks for none")
	flags.DurationVar(&f.lifetimes.Max, "max-workload-cert-ttl", identity.MaxLeafTTL, "longest lifetime of a certificate; more is refused")
}

// registerRenewal adds the flags of who also renews.
func (f *caFlags) registerRenewal(cmd *cobra.Command) {
	cmd.Flags().Float64Var(&f.renewal.Ratio, "workload-cert-grace-period-ratio", identity.DefaultGraceRatio, "renew when less than this part of the lifetime is left")
	cmd.Flags().DurationVar(&f.renewal.MinGrace, "workload-cert-min-grace-period", identity.DefaultMinGrace, "renew when less than this is left")
}

// check says what is wrong with the flags, and logs what is doubtful.
func (f *caFlags) check(log *slog.Logger) error {
	if err := f.renewal.Check(); err != nil {
		return err
	}
	if f.lifetimes.Default <= 0 || f.lifetimes.Max <= 0 || f.rootTTL <= 0 {
		return errors.New("--workload-cert-ttl, --max-workload-cert-ttl and --self-signed-ca-cert-ttl must be above 0")
	}
	if f.renewal.Unusual() {
		log.Warn("--workload-cert-grace-period-ratio is unusual: below 0.2 there is little time to renew, above 0.8 little use of a certificate",
			"ratio", f.renewal.Ratio)
	}
	f.warnLooseKey(log)
	return nil
}

// warnLooseKey says that others may have the CA's key, with which they are
// everybody.
func (f *caFlags) warnLooseKey(log *slog.Logger) {
	path := f.files.SigningKey
	if path == "" {
		path = filepath.Join(f.dir, "ca-key.pem")
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o007 != 0 {
		log.Warn("other users can use the CA's key; chmod 600 it, and replace the CA if they may have read it", "file", path, "mode", info.Mode().String())
	}
}

// open gives the CA that the flags name; an own one is kept in the state
// directory.
func (f *caFlags) open() (*identity.CA, error) {
	return f.openIn(func(o identity.Options) (*identity.CA, error) {
		ca, err := identity.OpenCA(f.dir, o)
		if err != nil {
			return nil, fmt.Errorf("--state-dir: %w", err)
		}
		return ca, nil
	})
}

// openIn is open with another place for an own CA.
func (f *caFlags) openIn(own func(identity.Options) (*identity.CA, error)) (*identity.CA, error) {
	keyType, err := identity.ParseKeyType(f.keyType)
	if err != nil {
		return nil, fmt.Errorf("--key-type: %w", err)
	}
	o := identity.Options{Org: f.org, RootTTL: f.rootTTL, KeyType: keyType, Lifetimes: f.lifetimes}
	pluggedIn := f.files != (identity.Files{})
	switch {
	case pluggedIn && f.given("self-signed-ca") && f.selfSigned:
		return nil, errors.New("--self-signed-ca and the files of another CA exclude each other")
	case pluggedIn || !f.selfSigned:
		return identity.LoadCA(f.files, o)
	}
	return own(o)
}

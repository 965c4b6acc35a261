package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/spf13/cobra"
)

// controlPlaneFlags say which control plane this is.
type controlPlaneFlags struct{ namespace string }

func (f *controlPlaneFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.namespace, "control-plane-namespace", "istio-system", "namespace in the control plane's identity")
}

// defaultStateDir is where programs of a user keep state.
func defaultStateDir() string {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "pilot")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "pilot-state"
	}
	return filepath.Join(home, ".local", "state", "pilot")
}

// serverTLS shows a certificate of the CA, a new one when the old one is due
// for renewal, or is not of the CA or the trust domain of now.
func serverTLS(ca *identity.CA, ratio float64, trustDomain func() string, namespace string) (*tls.Config, error) {
	renewal := identity.Renewal{Ratio: ratio}
	var current *tls.Config
	var leaf *x509.Certificate
	var roots []byte
	renew := func() error {
		domain := trustDomain()
		if current != nil && time.Now().Before(renewal.At(leaf, "")) && ca.Signed(leaf) && bytes.Equal(roots, ca.Roots()) &&
			leaf.URIs[0].Host == domain {
			return nil
		}
		before := ca.Roots()
		next, err := ca.ServerTLS(domain, namespace)
		if err != nil {
			return err
		}
		if leaf, err = x509.ParseCertificate(next.Certificates[0].Certificate[0]); err != nil {
			return err
		}
		current, roots = next, before
		return nil
	}
	if err := renew(); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	return &tls.Config{
		MinVersion: current.MinVersion,
		NextProtos: current.NextProtos,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			mu.Lock()
			defer mu.Unlock()
			_ = renew() // what there is has life left; the next caller tries again
			return current, nil
		},
	}, nil
}

// issue writes a workload's certificate into dir as a Secret volume would
// show it, and says where its files are.
func issue(ca *identity.CA, dir string, mesh *model.Mesh, w *model.Workload) (model.Local, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return model.Local{}, err
	}
	pair, err := ca.Issue(identity.URI(mesh.TrustDomain, w.ID.Namespace, w.ServiceAccount), 0)
	if err != nil {
		return model.Local{}, err
	}
	return model.Local{
		CertChain: filepath.Join(dir, identity.CertChainFile),
		Key:       filepath.Join(dir, identity.KeyFile),
		RootCert:  filepath.Join(dir, identity.RootCertFile),
	}, identity.Dir{Path: dir}.Publish(pair)
}

package main

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/spf13/cobra"
)

// stateFlags are where the CA is kept, and for which control plane.
type stateFlags struct{ dir, namespace string }

func (f *stateFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.dir, "state-dir", defaultStateDir(), "where the CA is kept; made if it is not there")
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

func (f *stateFlags) openCA() (*identity.CA, error) {
	ca, err := identity.OpenCA(f.dir, identity.Options{})
	if err != nil {
		return nil, fmt.Errorf("--state-dir: %w", err)
	}
	return ca, nil
}

// serverTLS shows a certificate of the CA, a new one when half of the old
// one's life is over.
func (f *stateFlags) serverTLS(trustDomain string) (*tls.Config, error) {
	ca, err := f.openCA()
	if err != nil {
		return nil, err
	}
	current, err := ca.ServerTLS(trustDomain, f.namespace)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	renewal := time.Now().Add(identity.MaxLeafTTL / 2)
	return &tls.Config{
		MinVersion: current.MinVersion,
		NextProtos: current.NextProtos,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			mu.Lock()
			defer mu.Unlock()
			if time.Now().Before(renewal) {
				return current, nil
			}
			next, err := ca.ServerTLS(trustDomain, f.namespace)
			if err != nil {
				return current, nil // it has half of its life left; the next caller tries again
			}
			current, renewal = next, time.Now().Add(identity.MaxLeafTTL/2)
			return current, nil
		},
	}, nil
}

// issue writes a workload's certificate into dir as a Secret volume would
// show it, and says where its files are.
func (f *stateFlags) issue(dir string, mesh *model.Mesh, w *model.Workload) (model.Local, error) {
	ca, err := f.openCA()
	if err != nil {
		return model.Local{}, err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return model.Local{}, err
	}
	pair, err := ca.Issue(identity.URI(mesh.TrustDomain, w.ID.Namespace, w.ServiceAccount), identity.DefaultLeafTTL)
	if err != nil {
		return model.Local{}, err
	}
	return model.Local{
		CertChain: filepath.Join(dir, identity.CertChainFile),
		Key:       filepath.Join(dir, identity.KeyFile),
		RootCert:  filepath.Join(dir, identity.RootCertFile),
	}, identity.Dir{Path: dir}.Publish(pair)
}

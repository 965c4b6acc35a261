package main

import (
	"os"
	"path/filepath"

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

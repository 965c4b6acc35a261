package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate/bootstrap"
	"github.com/spf13/cobra"
)

// certificateWait is the time between looks at files that are not there yet.
const certificateWait = time.Second

// proxyFlags are what one sidecar needs to know before the control plane
// tells it the rest.
type proxyFlags struct {
	workload, address, mode, certs string
	options                        bootstrap.Options
	mesh                           model.Mesh
}

func proxyCmd() *cobra.Command {
	f := proxyFlags{mesh: meshconfig.DefaultMesh().Mesh}
	cmd := &cobra.Command{
		Use:   "proxy",
		Short: "Become the Envoy of a pod",
		Long: `Writes Envoy's bootstrap, waits until certificate, key and roots are in their directory
and fit, and becomes Envoy: no other process stays. It is what the sidecar of an injected
pod runs; its subcommands are what Kubernetes runs in it besides. Envoy shows at
/healthz/ready of --status-port whether it has what the control plane sends.

Exit codes: Envoy's, and 2 if it could not start.`,
		Example: `  pilot proxy --workload shop/cart-1 --address 10.244.0.7 --status-port 15021`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := f.bootstrap()
			if err != nil {
				return err
			}
			if err := f.awaitCertificates(cmd.Context(), func(why error) {
				newLog(cmd.ErrOrStderr()).Warn("waiting for the certificate of the service account", "error", why)
			}); err != nil {
				return err
			}
			return f.becomeEnvoy(o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.workload, "workload", "", "NAMESPACE/POD")
	flags.StringVar(&f.address, "address", "", "IP address of the pod")
	flags.StringVar(&f.mode, "interception-mode", model.CaptureRedirect.String(), "REDIRECT, TPROXY or NONE")
	flags.StringVar(&f.certs, "certs", "/etc/certs", "directory of "+identity.CertChainFile+", "+identity.KeyFile+" and "+identity.RootCertFile)
	flags.StringVar(&f.options.DiscoveryAddress, "discovery-address", f.mesh.DiscoveryAddress, "host:port of the control plane")
	flags.StringVar(&f.options.ControlPlaneNamespace, "control-plane-namespace", "istio-system", "namespace in the identity that the control plane must prove")
	flags.Uint16Var(&f.options.StatusPort, "status-port", 0, "shows "+bootstrap.ReadyPath+" to everybody; 0 is none")
	flags.StringVar(&f.mesh.TrustDomain, "trust-domain", f.mesh.TrustDomain, "in the same identity")
	flags.StringVar(&f.mesh.Domain, "domain", f.mesh.Domain, "DNS suffix of services")
	flags.StringVar(&f.mesh.ServiceCluster, "service-cluster", f.mesh.ServiceCluster, "node.cluster of Envoy")
	flags.Uint16Var(&f.mesh.AdminPort, "admin-port", f.mesh.AdminPort, "of Envoy, on 127.0.0.1")
	flags.DurationVar(&f.mesh.DrainDuration, "drain-duration", f.mesh.DrainDuration, "how long connections may finish whose configuration is gone")
	flags.DurationVar(&f.mesh.ParentShutdown, "parent-shutdown-duration", f.mesh.ParentShutdown, "--parent-shutdown-time-s of Envoy")
	flags.IntVar(&f.mesh.Concurrency, "concurrency", 0, "threads of Envoy; 0 is one for each core")
	flags.StringVar(&f.mesh.ConfigPath, "config-path", f.mesh.ConfigPath, "directory of the bootstrap")
	flags.StringVar(&f.mesh.BinaryPath, "envoy-binary", f.mesh.BinaryPath, "Envoy")
	cmd.AddCommand(proxyWaitCmd(), proxyDrainCmd())
	return cmd
}

func (f *proxyFlags) bootstrap() (bootstrap.Options, error) {
	o := f.options
	namespace, name, ok := strings.Cut(f.workload, "/")
	if !ok || namespace == "" || name == "" {
		return o, fmt.Errorf("--workload: %q is not NAMESPACE/POD", f.workload)
	}
	if _, err := netip.ParseAddr(f.address); err != nil {
		return o, fmt.Errorf("--address: %q is no IP address", f.address)
	}
	capture, err := parseCapture(f.mode)
	if err != nil {
		return o, err
	}
	o.Mesh = &f.mesh
	o.Proxy = model.Proxy{
		ID: model.WorkloadID{Namespace: namespace, Name: name}, Type: model.Sidecar, Address: f.address, Capture: capture,
	}
	if f.certs != "/etc/certs" {
		o.Proxy.Local = model.Local{CertChain: f.file(identity.CertChainFile), Key: f.file(identity.KeyFile), RootCert: f.file(identity.RootCertFile)}
	}
	return o, nil
}

func (f *proxyFlags) file(name string) string { return filepath.Join(f.certs, name) }

// awaitCertificates returns when the files are good: an Envoy that starts
// before does not find its control plane by itself.
func (f *proxyFlags) awaitCertificates(ctx context.Context, tell func(error)) error {
	told := ""
	tick := time.NewTicker(certificateWait)
	defer tick.Stop()
	for {
		err := f.certificates()
		if err == nil {
			return nil
		}
		if err.Error() != told {
			told = err.Error()
			tell(err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (f *proxyFlags) certificates() error {
	for _, name := range []string{identity.CertChainFile, identity.KeyFile, identity.RootCertFile} {
		if _, err := os.Stat(f.file(name)); err != nil {
			return err
		}
	}
	if _, err := tls.LoadX509KeyPair(f.file(identity.CertChainFile), f.file(identity.KeyFile)); err != nil {
		return fmt.Errorf("%s: certificate and key do not parse, or do not fit", f.certs)
	}
	roots, err := os.ReadFile(f.file(identity.RootCertFile))
	if err != nil {
		return err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(roots) {
		return fmt.Errorf("%s has no certificate", f.file(identity.RootCertFile))
	}
	return nil
}

// becomeEnvoy writes the bootstrap and replaces this program by Envoy.
func (f *proxyFlags) becomeEnvoy(o bootstrap.Options) error {
	path := filepath.Join(f.mesh.ConfigPath, bootstrapFile)
	files := bootstrap.SecretFiles(o)
	if files == nil {
		files = map[string][]byte{}
	}
	files[path] = bootstrap.Config(o)
	for name, content := range files {
		if err := os.WriteFile(name, content, 0o644); err != nil {
			return fmt.Errorf("--config-path: %w", err)
		}
	}
	args := append([]string{f.mesh.BinaryPath, "-c", path, "--disable-hot-restart", "--log-level", "warning"}, bootstrap.EnvoyArgs(&f.mesh)...)
	err := syscall.Exec(f.mesh.BinaryPath, args, os.Environ())
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("--envoy-binary: there is no %s; the image of sidecars needs Envoy there", f.mesh.BinaryPath)
	}
	return fmt.Errorf("--envoy-binary: %s: %w", f.mesh.BinaryPath, err)
}

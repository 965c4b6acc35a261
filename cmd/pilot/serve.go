package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/meshpilot/pilot/pkg/discovery"
	"github.com/meshpilot/pilot/pkg/discovery/phases"
	"github.com/meshpilot/pilot/pkg/identity/secrets"
	"github.com/meshpilot/pilot/pkg/meshconfig/file"
	"github.com/spf13/cobra"
)

const serveHelp = `Runs the control plane. It watches DIR: an edit is validated as a whole and reaches
the sidecars that it concerns within the mesh's discoveryRefreshDelay. An invalid
edit keeps the last accepted version of that object in force, and says so; at the
start pilot refuses a directory with errors and lists them all.

With --kubernetes it follows a cluster instead: the one it runs in, or the one that
kubectl would talk to. The mesh settings are the ConfigMap istio in the control
plane's namespace. It is ready when all of the cluster was read. It then also serves the
webhooks that add sidecars to pods and refuse invalid objects (docs/injection.md). The
CA, key and certificate of each service account, and the roots are objects of the
cluster, and tokens of its accounts are taken; with --tls-address "" none of that is done.

Sidecars connect with plaintext on 15010 (this machine only, unless told
otherwise) or with mutual TLS on 15012, with certificates of the CA: one that pilot
makes and keeps in the state directory, or one made elsewhere (--signing-cert), whose
files are followed. "pilot bootstrap" makes what an Envoy needs for either port. An
address that is set to "" is no port.

With --secrets-dir the control plane keeps key and certificate of each service account
there, renews them, and shows them as Kubernetes mounts a Secret: machines and
containers mount the directory of their account as /etc/certs.

Exit codes: 0 stopped by Ctrl-C or SIGTERM, 2 could not start or failed.`

func serveCmd() *cobra.Command {
	var from directoryFlags
	var self controlPlaneFlags
	var authority caFlags
	var accounts secretsFlags
	var kubernetes kubernetesFlags
	var admit admissionFlags
	var o discovery.Options
	cmd := &cobra.Command{
		Use:   "serve [DIR]",
		Short: "Serve a configuration directory, or a Kubernetes cluster, to Envoy sidecars",
		Long:  serveHelp,
		Example: `  pilot serve config/
  pilot serve --kubernetes --context test
  curl -s localhost:8080/debug/problems

  # A CA made elsewhere, and certificates for all service accounts
  pilot serve config/ --signing-cert ca-cert.pem --signing-key ca-key.pem \
      --root-cert root-cert.pem --cert-chain cert-chain.pem --secrets-dir secrets/

  # Another control plane on the same machine
  pilot serve config/ --plaintext-address 127.0.0.1:16010 --tls-address "" \
      --metrics-address "" --http-address 127.0.0.1:18080 --state-dir other/`,
		Args:              serveArgs(&kubernetes),
		ValidArgsFunction: from.completeDirectory(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Log = newLog(cmd.ErrOrStderr())
			o.Domain = from.domain
			if err := authority.check(o.Log); err != nil {
				return err
			}
			o.Namespace, o.Grace = self.namespace, authority.renewal.Ratio
			if kubernetes.given() {
				return serveKubernetes(cmd.Context(), o, &kubernetes, &authority, &accounts, &admit)
			}
			var err error
			o.Source = &file.Source{Dir: args[0], Log: o.Log}
			if o.TLSAddress != "" || accounts.dir != "" { // makes keys, so only for a directory that is valid
				if _, err = from.readValid(args[0], cmd.ErrOrStderr()); err != nil {
					return err
				}
				if o.CA, err = authority.open(); err != nil {
					return err
				}
			}
			if o.Secrets, err = accounts.controller(secrets.Options{CA: o.CA, Renewal: authority.renewal, Log: o.Log}); err != nil {
				return err
			}
			return serveInPhases(cmd.Context(), o, authority.dir)
		},
	}
	from.register(cmd)
	self.register(cmd)
	authority.register(cmd)
	authority.registerRenewal(cmd)
	accounts.register(cmd)
	admit.register(cmd)
	kubernetes.register(cmd, "follow a Kubernetes cluster instead of DIR")
	cmd.Flags().StringVar(&o.PlaintextAddress, "plaintext-address", "127.0.0.1:15010", "xDS in plaintext")
	cmd.Flags().BoolVar(&o.PlaintextRemote, "plaintext-remote", false, "allow a --plaintext-address that other machines reach")
	cmd.Flags().StringVar(&o.TLSAddress, "tls-address", ":15012", "xDS with mutual TLS, and certificate requests")
	cmd.Flags().StringVar(&o.BootstrapTokens, "bootstrap-tokens", "", "file of tokens, lines \"<token> <namespace>/<service account>\", with which machines get their first certificate")
	cmd.Flags().StringVar(&o.MetricsAddress, "metrics-address", ":15014", "/metrics")
	cmd.Flags().StringVar(&o.HTTPAddress, "http-address", ":8080", "/readyz and /debug/")
	cmd.Flags().BoolVar(&o.DebugRemote, "debug-remote", false, "let other machines see /debug/")
	return cmd
}

// serveInPhases keeps the phases of rollouts in the state directory.
func serveInPhases(ctx context.Context, o discovery.Options, state string) error {
	stored, err := phases.Open(filepath.Join(state, "rollout.json"))
	if err != nil {
		return fmt.Errorf("--state-dir: %w", err)
	}
	o.Phases = stored
	return errors.Join(discovery.Run(ctx, o), stored.Close())
}

func newLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

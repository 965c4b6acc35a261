package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate/bootstrap"
	"github.com/spf13/cobra"
)

// bootstrapFile is the name of the bootstrap in --out.
const bootstrapFile = "envoy.json"

func bootstrapCmd() *cobra.Command {
	var from directoryFlags
	var o bootstrap.Options
	var self controlPlaneFlags
	var authority caFlags
	var capture, out string
	var doIssue bool
	cmd := &cobra.Command{
		Use:   "bootstrap DIR NAMESPACE/WORKLOAD",
		Short: "Print an Envoy bootstrap for one workload",
		Long: `Prints the bootstrap (JSON) with which the workload's Envoy finds the control
plane, and on stderr the command line for it. Over port 15010 it talks plaintext,
over any other mutual TLS: then the bootstrap names two small files that say where
the certificates are, and --out writes those as well. The certificates are in
/etc/certs, or made by --issue. Those last --workload-cert-ttl; run it again before,
and Envoy takes the new ones without a restart.

Exit codes: 0 done, 2 the directory or the workload is not usable.`,
		Example: `  pilot bootstrap config/ shop/cart --discovery-address 127.0.0.1:15010 > envoy.json

  # Over mutual TLS, to "pilot serve" on this machine
  pilot bootstrap config/ shop/cart --discovery-address 127.0.0.1:15012 --out proxy/ --issue`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: from.completeDirectory(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := from.readValid(args[0], cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			id, err := d.sidecar(args[1])
			if err != nil {
				return err
			}
			o.Mesh = d.snapshot.Mesh()
			o.Proxy, _ = d.snapshot.ProxyOf(id)
			if o.Proxy.Capture, err = parseCapture(capture); err != nil {
				return err
			}
			o.ControlPlaneNamespace = self.namespace
			switch {
			case doIssue && out == "":
				return errors.New("--issue needs --out, the directory to write into")
			case doIssue:
				ca, err := authority.open()
				if err != nil {
					return err
				}
				if o.Proxy.Local, err = issue(ca, filepath.Join(out, "certs"), o.Mesh, d.snapshot.Workload(id)); err != nil {
					return err
				}
			}
			if out == "" {
				return printBootstrap(cmd.OutOrStdout(), cmd.ErrOrStderr(), o)
			}
			return writeBootstrap(cmd.ErrOrStderr(), out, o)
		},
	}
	from.register(cmd)
	cmd.Flags().StringVar(&o.DiscoveryAddress, "discovery-address", "", "host:port of the control plane (default: the mesh's discoveryAddress)")
	cmd.Flags().Uint16Var(&o.AdminPort, "admin-port", 0, "Envoy's admin port (default: the mesh's proxyAdminPort)")
	cmd.Flags().DurationVar(&o.StatsInterval, "stats-interval", 0, "how often Envoy tells the control plane which connections are open (default 5s)")
	cmd.Flags().BoolVar(&o.AllStats, "all-stats", false, "keep every stat of Envoy, and send those in use: for one proxy under examination, not for a mesh")
	self.register(cmd)
	authority.register(cmd)
	cmd.Flags().StringVar(&capture, "interception-mode", "", "REDIRECT, TPROXY or NONE (default: the workload's)")
	cmd.Flags().StringVar(&out, "out", "", "write "+bootstrapFile+" and the files it names into this directory")
	cmd.Flags().BoolVar(&doIssue, "issue", false, "issue the workload's certificate, by the CA in --state-dir or of --signing-cert, into OUT/certs")
	return cmd
}

func printBootstrap(w, stderr io.Writer, o bootstrap.Options) error {
	if _, err := w.Write(bootstrap.Config(o)); err != nil {
		return err
	}
	if files := slices.Sorted(maps.Keys(bootstrap.SecretFiles(o))); len(files) > 0 {
		fmt.Fprintf(stderr, "it names %s, which --out writes\n", strings.Join(files, " and "))
	}
	sayCommand(stderr, bootstrapFile, o)
	return nil
}

func writeBootstrap(stderr io.Writer, dir string, o bootstrap.Options) error {
	path, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	o.ConfigPath = path
	boot := filepath.Join(path, bootstrapFile)
	files := map[string][]byte{boot: bootstrap.Config(o)}
	maps.Copy(files, bootstrap.SecretFiles(o))
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(name, text, 0o644); err != nil {
			return err
		}
	}
	sayCommand(stderr, boot, o)
	return nil
}

// sayCommand shows the flags that the mesh configuration decides.
func sayCommand(stderr io.Writer, path string, o bootstrap.Options) {
	fmt.Fprintf(stderr, "run: envoy -c %s %s\n", path, strings.Join(bootstrap.EnvoyArgs(o.Mesh), " "))
}

func parseCapture(s string) (*model.Capture, error) {
	for _, c := range []model.Capture{model.CaptureRedirect, model.CaptureTProxy, model.CaptureNone} {
		if s == c.String() {
			return &c, nil
		}
	}
	if s == "" {
		return nil, nil
	}
	return nil, fmt.Errorf("--interception-mode: %q is not REDIRECT, TPROXY or NONE", s)
}

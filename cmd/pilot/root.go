package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// The exit codes of all commands.
const (
	exitOK       = 0
	exitFindings = 1 // the command did its work, and the answer is no
	exitTrouble  = 2 // it could not do its work
	exitUnknown  = 3 // it did its work, and the answer is not known
)

// errFindings ends a command with exitFindings; what was found is printed
// already.
var errFindings = errors.New("findings")

// errUnknown ends a command with exitUnknown; what is not known is printed
// already.
var errUnknown = errors.New("unknown")

const rootLong = `pilot is an xDS control plane for Envoy sidecars. It reads Kubernetes and
Istio objects, and switches mutual TLS on and off in a running mesh.

A directory (DIR) holds YAML files as for "kubectl apply": mesh.yaml with the
mesh configuration, and Services, Pods, EndpointSlices, ServiceEntries,
WorkloadEntries and Policies in any other files.

Exit codes:
  0  done; nothing to object, or no difference
  1  done, and there are errors, findings, differences, or who would break
  2  could not be done: wrong usage, unreadable files, ports in use
  3  done, and the answer is not known`

const rootExample = `  # Start a small mesh with real Envoys on this machine
  pilot lab examples/bookinfo

  # What is wrong with my configuration?
  pilot validate config/

  # Is what I wrote what I meant?
  pilot check config/

  # What becomes of a call, and why?
  pilot explain config/ shop/web cart:80

  # What would my edit change, for whom?
  pilot diff config/ edited/

  # By which steps, and who would break?
  pilot plan --from config/ edited/

  # Who would break if mutual TLS were required?
  pilot readiness

  # Serve a directory to Envoy sidecars
  pilot serve config/

  # Which certificates are there, and when is the first outage?
  pilot certs --server http://127.0.0.1:8080

  # Give a machine without Kubernetes a certificate, and keep it fresh
  pilot node-agent --ca-address istiod.istio-system.svc:15012`

// rootCmd is the command tree.
func rootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:           "pilot",
		Short:         "An xDS control plane that makes turning mutual TLS on and off safe",
		Long:          rootLong,
		Example:       rootExample,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(labCmd(), serveCmd(), validateCmd(), checkCmd(), renderCmd(), diffCmd(), explainCmd(), planCmd(), readinessCmd(), statusCmd(), waitCmd(), bootstrapCmd(), certsCmd(), nodeAgentCmd(), injectCmd(), installCmd(), captureCmd(), proxyCmd(), versionCmd())
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w\nSee '%s --help'", err, cmd.CommandPath())
	})
	return root
}

// execute runs one command line and returns its exit code. Errors go to
// stderr as one line, without the usage.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := rootCmd()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errFindings):
		return exitFindings
	case errors.Is(err, errUnknown):
		return exitUnknown
	}
	fmt.Fprintf(stderr, "pilot: %v\n", err)
	return exitTrouble
}

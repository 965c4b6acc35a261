package main

import (
	"net/url"

	"github.com/meshpilot/pilot/pkg/readiness"
	"github.com/spf13/cobra"
)

const readinessLong = `Asks a running control plane, for every target that is not strict yet, who would
break if it were: who sent it plaintext in the last hours, by workload or address,
and which servers and clients could not follow, and why.

TARGET is NAMESPACE/WORKLOAD or a service's HOST, with :PORT for one port: the
container port of a workload, the service port of a host. Without it, all targets.

  READY      nobody would break, and enough was seen to say so
  NOT READY  somebody would, named with "breaks"
  UNKNOWN    nobody is known who would, but something is not known, or not for
             long enough (--evidence)

Exit codes: 0 all are ready, or strict; 1 some are not ready; 3 none of these, but
some are unknown; 2 trouble.`

func readinessCmd() *cobra.Command {
	var output format
	var server serverFlags
	var namespace, within, evidence string
	cmd := &cobra.Command{
		Use:   "readiness [TARGET]",
		Short: "Say who would break if mutual TLS were required",
		Long:  readinessLong,
		Example: `  pilot readiness
  pilot readiness cart.shop.svc.cluster.local:80
  pilot readiness shop/cart --evidence 10m
  pilot readiness -n shop -o json | jq -r '.targets[].peers[] | select(.effect=="breaks").who'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{"namespace": {namespace}, "within": {within}, "evidence": {evidence}}
			if len(args) > 0 {
				query.Set("target", args[0])
			}
			var answer readiness.Answer
			if err := server.get(cmd.Context(), "/debug/readiness", query, &answer); err != nil {
				return err
			}
			if output == formatJSON {
				if err := printJSON(cmd.OutOrStdout(), answer); err != nil {
					return err
				}
			} else if err := answer.Print(cmd.OutOrStdout()); err != nil {
				return err
			}
			return verdictError(answer.Verdict())
		},
	}
	output.register(cmd)
	server.register(cmd, defaultServer, "the control plane that is asked")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "only targets of this namespace")
	cmd.Flags().StringVar(&within, "within", "24h", "how long ago plaintext counts; no more than 24h is remembered")
	cmd.Flags().StringVar(&evidence, "evidence", "1h", "how far back evidence must be without a gap")
	return cmd
}

// verdictError makes a verdict the exit code.
func verdictError(v readiness.Verdict) error {
	switch v {
	case readiness.NotReady:
		return errFindings
	case readiness.Unclear:
		return errUnknown
	default:
		return nil
	}
}

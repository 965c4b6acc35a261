package main

import (
	"net/url"

	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/plan"
	"github.com/meshpilot/pilot/pkg/readiness"
	"github.com/spf13/cobra"
)

const planLong = `Previews an edit: compares what is in force with the configuration in DIR, and says
which targets change mode, from which to which and by which object; the steps that
the rollout makes, and what each waits for; which proxies are sent how many
resources (-v: which); which connections end, and when; and which calls that work
now will not, by simulating every call before and after each step.

In force is what the control plane at --server runs, or, with --from, another
directory. With a control plane, callers without a sidecar count only if they were
seen: its evidence of plaintext is what "pilot readiness" shows.

Nothing is changed by it.

Exit codes: 0 nobody would break; 1 somebody would; 3 nobody is known who would, but
evidence is missing or too young; 2 trouble: a directory has errors, or the control
plane cannot be asked.`

func planCmd() *cobra.Command {
	var flags directoryFlags
	var output format
	var server serverFlags
	var from, within, evidence string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "plan DIR",
		Short: "Preview an edit: modes, steps, pushes, connections that end, and who would break",
		Long:  planLong,
		Example: `  pilot plan edited/
  pilot plan --from config/ edited/
  pilot plan --from config/ edited/ -o json | jq -r '.breaks[] | "\(.from) \(.host)"'`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeDirectories,
		RunE: func(cmd *cobra.Command, args []string) error {
			var p *plan.Plan
			var err error
			if from != "" {
				p, err = planFrom(cmd, &flags, from, args[0])
			} else {
				p, err = planRunning(cmd, &flags, &server, args[0], url.Values{"within": {within}, "evidence": {evidence}})
			}
			if err != nil {
				return err
			}
			if output == formatJSON {
				err = printJSON(cmd.OutOrStdout(), p)
			} else {
				err = p.Print(cmd.OutOrStdout(), verbose)
			}
			if err != nil {
				return err
			}
			return verdictError(p.Verdict())
		},
	}
	flags.register(cmd)
	output.register(cmd)
	cmd.Flags().StringVar(&from, "from", "", "compare with this directory instead of a running control plane")
	server.register(cmd, defaultServer, "the control plane that runs what is in force")
	cmd.Flags().StringVar(&within, "within", "24h", "how long ago plaintext counts")
	cmd.Flags().StringVar(&evidence, "evidence", "1h", "how far back evidence must be without a gap")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "name every target, proxy and resource")
	cmd.MarkFlagsMutuallyExclusive("from", "server")
	return cmd
}

// planFrom compares two directories.
func planFrom(cmd *cobra.Command, flags *directoryFlags, from, to string) (*plan.Plan, error) {
	old, err := flags.readValid(from, cmd.ErrOrStderr())
	if err != nil {
		return nil, err
	}
	next, err := flags.readValid(to, cmd.ErrOrStderr())
	if err != nil {
		return nil, err
	}
	return plan.Make(old.inputs, next.inputs, next.place), nil
}

// planRunning compares with what a control plane runs, and asks it for evidence.
func planRunning(cmd *cobra.Command, flags *directoryFlags, server *serverFlags, to string, query url.Values) (*plan.Plan, error) {
	var running status.Inputs
	if err := server.get(cmd.Context(), "/debug/inputs", nil, &running); err != nil {
		return nil, err
	}
	old := running.Model()
	if !cmd.Flags().Changed("domain") && old.Mesh.Domain != "" {
		flags.domain = old.Mesh.Domain
	}
	next, err := flags.readValid(to, cmd.ErrOrStderr())
	if err != nil {
		return nil, err
	}
	after := next.inputs
	after.Connected = old.Connected
	p := plan.Make(old, after, next.place)
	var answer readiness.Answer
	if err := server.get(cmd.Context(), "/debug/readiness", query, &answer); err != nil {
		return nil, err
	}
	p.Witness(answer.Targets)
	return p, nil
}

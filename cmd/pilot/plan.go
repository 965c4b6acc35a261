package main

import (
	"net/url"

	"github.com/meshpilot/pilot/pkg/plan"
	"github.com/meshpilot/pilot/pkg/readiness"
	"github.com/spf13/cobra"
)

const planLong = `Previews an edit: compares what is in force with the configuration in DIR, or with
what -f would make of it, as "kubectl apply -f" does to a cluster, and says
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
	var edit editFlags
	var from, within, evidence string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "plan DIR | plan -f FILE",
		Short: "Preview an edit: modes, steps, pushes, connections that end, and who would break",
		Long:  planLong,
		Example: `  pilot plan edited/
  pilot plan --context production -f policy.yaml
  pilot plan --from config/ edited/
  pilot plan --from config/ edited/ -o json | jq -r '.breaks[] | "\(.from) \(.host)"'`,
		Args:              edit.args,
		ValidArgsFunction: completeDirectories,
		RunE: func(cmd *cobra.Command, args []string) error {
			var p *plan.Plan
			var err error
			if from != "" {
				p, err = planFrom(cmd, &flags, from, args[0])
			} else {
				p, err = planRunning(cmd, &flags, &server, &edit, args, url.Values{"within": {within}, "evidence": {evidence}})
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
	edit.register(cmd)
	cmd.Flags().StringVar(&from, "from", "", "compare with this directory instead of a running control plane")
	server.register(cmd, defaultServer, "the control plane that runs what is in force")
	cmd.Flags().StringVar(&within, "within", "24h", "how long ago plaintext counts")
	cmd.Flags().StringVar(&evidence, "evidence", "1h", "how far back evidence must be without a gap")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "name every target, proxy and resource")
	for _, running := range runningFlags() {
		cmd.MarkFlagsMutuallyExclusive("from", running)
	}
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
func planRunning(cmd *cobra.Command, flags *directoryFlags, server *serverFlags, edit *editFlags, args []string, query url.Values) (*plan.Plan, error) {
	old, next, err := edit.running(cmd, flags, server, args)
	if err != nil {
		return nil, err
	}
	p := plan.Make(old.inputs, next.inputs, next.place)
	var answer readiness.Answer
	if err := server.get(cmd.Context(), "/debug/readiness", query, &answer); err != nil {
		return nil, err
	}
	p.Witness(answer.Targets)
	return p, nil
}

package main

import (
	"fmt"
	"io"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/spf13/cobra"
)

func renderCmd() *cobra.Command {
	var from directoryFlags
	var out string
	cmd := &cobra.Command{
		Use:   "render DIR [NAMESPACE/WORKLOAD]",
		Short: "Print what Envoy would get, as canonical YAML",
		Long: `Prints the whole configuration that one workload's Envoy would get, or that of
all workloads with a sidecar: clusters, endpoints, listeners, routes and secrets
(which name files). Equal configuration is equal text.

With --out it writes one file a workload, NAMESPACE.WORKLOAD.yaml, and removes
those that it wrote before for workloads that are gone. Keep them in git, and see
with "pilot diff --golden" what an edit changes.

Exit codes: 0 done, 2 the directory has errors or cannot be read.`,
		Example: `  pilot render config/ shop/cart
  pilot render config/ --out golden/`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: from.completeDirectory(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out != "" && len(args) == 2 {
				return fmt.Errorf("--out writes all workloads; leave out %s", args[1])
			}
			d, err := from.readValid(args[0], cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if len(args) == 2 {
				id, err := d.sidecar(args[1])
				if err != nil {
					return err
				}
				return render(cmd.OutOrStdout(), newConfigs(d.snapshot, id), []model.WorkloadID{id})
			}
			if out != "" {
				return writeGoldens(cmd.OutOrStdout(), out, newConfigs(d.snapshot), d.sidecars())
			}
			return render(cmd.OutOrStdout(), newConfigs(d.snapshot), d.sidecars())
		},
	}
	from.register(cmd)
	cmd.Flags().StringVar(&out, "out", "", "write one file a workload into this directory")
	return cmd
}

// render prints one YAML document a workload.
func render(w io.Writer, c *configs, ids []model.WorkloadID) error {
	for i, id := range ids {
		text, ok := c.text(id)
		if !ok {
			return fmt.Errorf("workload %s has no configuration", id)
		}
		if i > 0 {
			if _, err := fmt.Fprintln(w, "---"); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(w, "# %s\n%s", id, text); err != nil {
			return err
		}
	}
	return nil
}

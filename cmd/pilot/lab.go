package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/lab"
	"github.com/meshpilot/pilot/pkg/lab/drill"
)

const labLong = `Runs a directory of configuration on this machine: one real Envoy per workload
with a sidecar, a small application behind each, a client without a sidecar,
and steady traffic between all of them. Edit the files while it runs: the
table shows what becomes of the calls.

Without --capture it needs no root: every workload has an address of its own in
127.0.0.0/8 and reaches the mesh through its sidecar's HTTP proxy. With
--capture every workload has a network namespace whose traffic is redirected
to its sidecar, as in Kubernetes; this needs root or user namespaces, and the
programs ip and iptables.

Ctrl-C stops everything. See docs/lab.md.`

const labExample = `  # The mesh of the examples, until Ctrl-C
  pilot lab examples/bookinfo

  # Half a minute with transparent redirect, figures to a file
  pilot lab examples/bookinfo --capture --for 30s --report report.json

  # New certificates every 15 seconds, to watch them rotate
  pilot lab examples/bookinfo --workload-cert-ttl 30s

  # 50 random changes of modes with everything going wrong; exit 1 if a call is lost
  pilot lab my/config --capture --drill 50 --seed 7

  # A second lab beside the first
  pilot lab my/config --addr 127.0.0.2`

// labCmd is "pilot lab".
func labCmd() *cobra.Command {
	var o lab.Options
	var edits int
	var seed uint64
	var faults string
	cmd := &cobra.Command{
		Use:     "lab DIR",
		Short:   "Run a small mesh with real Envoys on this machine",
		Long:    labLong,
		Example: labExample,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Dir, o.Out = args[0], cmd.OutOrStdout()
			if edits == 0 {
				return lab.Run(cmd.Context(), o)
			}
			list, err := drill.ParseFaults(faults)
			if err != nil {
				return err
			}
			return drill.Run(cmd.Context(), drill.Options{Lab: o, N: edits, Seed: seed, Faults: list})
		},
		ValidArgsFunction: completeDirectories,
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.Capture, "capture", false, "redirect traffic transparently, in network namespaces")
	flags.DurationVar(&o.For, "for", 0, "stop after this time, e.g. 30s (default: at Ctrl-C)")
	flags.StringVar(&o.Report, "report", "", "write totals, failures and the times of edits to this file, as JSON")
	flags.DurationVar(&o.LeafTTL, "workload-cert-ttl", identity.DefaultLeafTTL, "how long the sidecars' certificates last; each is renewed when half of that is over")
	flags.StringVar(&o.Envoy, "envoy", "", "Envoy binary (default: envoy on PATH)")
	flags.StringVar(&o.Address, "addr", "127.0.0.1", "address of the control plane, for its ports 15012, 15014 and 8080")
	flags.IntVar(&edits, "drill", 0, "make so many random changes of modes in a copy of DIR, and fail if a call between sidecars is lost")
	flags.Uint64Var(&seed, "seed", 1, "of the drill: the same makes the same changes and faults")
	flags.StringVar(&faults, "faults", "all", "of the drill: a list of "+strings.Join(drill.Faults(), ",")+"; or all, or none")
	return cmd
}

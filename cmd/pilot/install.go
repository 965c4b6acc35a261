package main

import (
	"errors"
	"io"

	"github.com/meshpilot/pilot/manifests"
	"github.com/spf13/cobra"
)

func installCmd() *cobra.Command {
	var o manifests.Options
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "install --dry-run",
		Short: "Print what is to be applied to a Kubernetes cluster",
		Long: `Prints the objects of a control plane as YAML, in the order in which they can be
applied: what the Helm chart has with its default values. It talks to no cluster;
kubectl does, so that its usual rights, previews and prunings apply. Applying it again
upgrades; the CA and the mesh settings are not among the objects, so they stay.

Without --dry-run it does nothing, and says how.`,
		Example: `  pilot install --dry-run --image example/pilot:1 --proxy-image example/pilot-proxy:1 | kubectl apply -f -
  pilot install --dry-run | kubectl diff -f -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !dryRun {
				return errors.New("install only prints: pilot install --dry-run | kubectl apply -f -")
			}
			text, err := manifests.Render(o)
			if err != nil {
				return err
			}
			_, err = io.WriteString(cmd.OutOrStdout(), text)
			return err
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print the objects")
	cmd.Flags().StringVarP(&o.Namespace, "namespace", "n", manifests.DefaultNamespace, "of the control plane")
	cmd.Flags().StringVar(&o.Image, "image", manifests.DefaultImage, "of the control plane")
	cmd.Flags().StringVar(&o.ProxyImage, "proxy-image", manifests.DefaultProxyImage, "of injected sidecars")
	cmd.Flags().IntVar(&o.Replicas, "replicas", 2, "at least so many replicas")
	return cmd
}

package main

import (
	"errors"
	"fmt"

	"github.com/meshpilot/pilot/pkg/discovery"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/cluster"
	"github.com/spf13/cobra"
)

// serveArgs wants a directory, or the flag for a cluster instead.
func serveArgs(f *kubernetesFlags) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case f.given() && len(args) > 0:
			return fmt.Errorf("%q: with --kubernetes there is no directory", args[0])
		case !f.given() && len(args) != 1:
			return errors.New("give one configuration directory, or --kubernetes")
		}
		return nil
	}
}

// serveKubernetes makes o that of a control plane of a cluster. It asks the
// API server nothing yet: what serves waits for it.
func serveKubernetes(o *discovery.Options, f *kubernetesFlags, namespace string) (*cluster.Cluster, error) {
	c, err := f.open()
	if err != nil {
		return nil, err
	}
	kube.LogTo(o.Log)
	o.Source = &kube.Source{Cluster: c, Namespace: namespace, Initial: initialSettings(namespace), Log: o.Log}
	return c, nil
}

// initialSettings are what a cluster begins with: the defaults, but for where
// the control plane is.
func initialSettings(namespace string) string {
	text := "# What is not given has its default (docs/config-language.md). An edit takes effect within seconds.\nauthPolicy: NONE\n"
	if namespace != "istio-system" {
		text += "rootNamespace: " + namespace + "\ndefaultConfig:\n  discoveryAddress: " + pilotService + "." + namespace + ".svc:15012\n"
	}
	return text
}

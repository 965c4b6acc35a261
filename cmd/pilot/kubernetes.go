package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/meshpilot/pilot/pkg/discovery"
	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/identity/csr"
	"github.com/meshpilot/pilot/pkg/identity/secrets"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/accounts"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/cluster"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/replicas"
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

// serveKubernetes serves a cluster, beside other replicas, and its webhooks.
// Before it serves it asks the API server for an own CA, and nothing else.
func serveKubernetes(ctx context.Context, o discovery.Options, f *kubernetesFlags, authority *caFlags, who *secretsFlags, admit *admissionFlags) error {
	c, err := f.open()
	if err != nil {
		return err
	}
	kube.LogTo(o.Log)
	o.Source = &kube.Source{Cluster: c, Namespace: o.Namespace, Initial: initialSettings(o.Namespace), Log: o.Log}
	one, err := newReplica(c, o.Namespace, o.Log)
	if err != nil {
		return err
	}
	if o.TLSAddress != "" {
		if err := identityInCluster(ctx, &o, c, one.lease, authority, who); err != nil {
			return err
		}
	}
	o.Beside = tellConditions(c, o.Namespace, one.lease, o.Log)
	webhooks, err := admit.open(&o, c)
	if err != nil {
		return err
	}
	return webhooks.beside(ctx, func(ctx context.Context) error { return one.serve(ctx, o) })
}

// identityInCluster keeps the CA, the Secrets of accounts and the roots where
// a cluster has them, the latter two while this replica leads, and takes
// tokens of its accounts.
func identityInCluster(ctx context.Context, o *discovery.Options, c *cluster.Cluster, lease *replicas.Lease, authority *caFlags, who *secretsFlags) (err error) {
	storage := who.storage
	if !authority.given("citadel-storage-namespace") && os.Getenv("NAMESPACE") == "" {
		storage = o.Namespace
	}
	o.CA, err = authority.openIn(func(more identity.Options) (*identity.CA, error) {
		return accounts.OpenCA(ctx, c.Client, storage, more, o.Log)
	})
	if err != nil {
		return err
	}
	o.AccountObjects = true
	o.Secrets, err = who.controller(secrets.Options{
		Store: accounts.NewSecrets(c.Client), CA: o.CA, Renewal: authority.renewal, While: lease.While, Log: o.Log,
	})
	o.Roots = accounts.NewRoots(accounts.RootsOptions{Cluster: c, CA: o.CA, Namespace: who.namespace, While: lease.While})
	o.Authenticators = []csr.Authenticator{accounts.Reviews{Client: c.Client}}
	return err
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

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshpilot/pilot/pkg/discovery"
	"github.com/meshpilot/pilot/pkg/discovery/tlsport"
	"github.com/meshpilot/pilot/pkg/inject"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/cluster"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/hooks"
	"github.com/meshpilot/pilot/pkg/webhook"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/version"
)

// versionRetry is the time between questions for the cluster's version.
const versionRetry = 5 * time.Second

// admissionFlags are where the webhooks of a cluster's control plane are, and
// what sidecars they add.
type admissionFlags struct {
	address, native string
	sidecars        injectFlags
}

func (f *admissionFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.address, "webhook-address", ":15017", "injection and validation webhooks, with --kubernetes")
	cmd.Flags().StringVar(&f.native, "native-sidecars", "auto", "sidecars that start before and end after the other containers: true, false, or auto: from Kubernetes 1.29 on")
	f.sidecars.register(cmd)
}

// admission is the webhooks of one control plane. It listens in on the
// source, to know the mesh.
type admission struct {
	flags   admissionFlags
	options discovery.Options
	cluster *cluster.Cluster
	source  meshconfig.Source
	server  *webhook.Server
	port    *tlsport.Port

	bundle atomic.Pointer[meshconfig.Bundle]
	native atomic.Pointer[bool]
	known  chan struct{} // closed when bundle is set
}

// open opens the port and puts itself between o and its source; nil without
// an address.
func (f admissionFlags) open(o *discovery.Options, c *cluster.Cluster) (*admission, error) {
	if f.address == "" {
		return nil, nil
	}
	if o.CA == nil {
		return nil, errors.New("--webhook-address needs a CA, so --tls-address")
	}
	a := &admission{flags: f, cluster: c, source: o.Source, known: make(chan struct{})}
	switch f.native {
	case "true", "false":
		a.native.Store(new(f.native == "true"))
	case "auto":
	default:
		return nil, fmt.Errorf("--native-sidecars: %q is not auto, true or false", f.native)
	}
	if _, err := f.sidecars.settings(&meshconfig.DefaultMesh().Mesh, o.Namespace, true); err != nil {
		return nil, err
	}
	o.Source = a
	a.options = *o
	a.port = tlsport.New(tlsport.Options{
		CA: o.CA, Namespace: o.Namespace, Grace: o.Grace, Configured: a.known, Domains: a.domains,
		Refused: func(string) {}, Expires: func(time.Time) {}, Log: o.Log,
	})
	var err error
	a.server, err = webhook.Listen(webhook.Options{
		Address: f.address, Certificate: a.port.Certificate, Mesh: a.mesh, Settings: a.settings, Domain: o.Domain, Log: o.Log,
	})
	return a, err
}

// Run is the control plane's source.
func (a *admission) Run(ctx context.Context, publish func(meshconfig.Bundle, []meshconfig.Problem)) error {
	return a.source.Run(ctx, func(b meshconfig.Bundle, problems []meshconfig.Problem) {
		if a.bundle.Swap(&b) == nil {
			close(a.known)
		}
		publish(b, problems)
	})
}

func (a *admission) mesh() (meshconfig.Bundle, bool) {
	if b := a.bundle.Load(); b != nil {
		return *b, true
	}
	return meshconfig.Bundle{}, false
}

func (a *admission) meshSettings() *meshconfig.MeshConfig {
	if b, ok := a.mesh(); ok && b.Mesh != nil {
		return b.Mesh
	}
	return meshconfig.DefaultMesh()
}

func (a *admission) settings() (inject.Settings, bool) {
	native := a.native.Load()
	if _, known := a.mesh(); !known || native == nil {
		return inject.Settings{}, false
	}
	mesh := a.meshSettings().Mesh
	mesh.Domain = a.options.Domain
	s, err := a.flags.sidecars.settings(&mesh, a.options.Namespace, *native)
	return s, err == nil // open has tried it
}

func (a *admission) domains() []string {
	mesh := a.meshSettings()
	return append([]string{mesh.TrustDomain}, mesh.TrustDomainAliases...)
}

// beside runs the webhooks as long as serve runs, and ends both if one ends.
// On nil it runs serve alone.
func (a *admission) beside(ctx context.Context, serve func(context.Context) error) error {
	if a == nil {
		return serve(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var errs [2]error
	var all sync.WaitGroup
	all.Go(func() { defer cancel(); errs[0] = serve(ctx) })
	all.Go(func() { defer cancel(); errs[1] = a.server.Run(ctx) })
	all.Go(func() { a.port.Watch(ctx, func() {}) })
	all.Go(func() { a.askVersion(ctx) })
	all.Go(func() {
		hooks.Keep(ctx, hooks.Options{
			Client: a.cluster.Client, Name: hooks.Name(a.options.Namespace), Roots: a.options.CA.Roots, Log: a.options.Log,
		})
	})
	all.Wait()
	return errors.Join(errs[:]...)
}

// askVersion finds out whether the cluster has native sidecars, if no flag
// says it.
func (a *admission) askVersion(ctx context.Context) {
	tick := time.NewTicker(versionRetry)
	defer tick.Stop()
	for a.native.Load() == nil {
		info, err := a.cluster.Client.Discovery().ServerVersion()
		if err == nil {
			a.native.Store(new(hasNativeSidecars(info.GitVersion)))
			return
		}
		a.options.Log.Warn("pods are not injected yet: the version of Kubernetes is not known", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// hasNativeSidecars is true for versions that nobody can read: they are new.
func hasNativeSidecars(text string) bool {
	v, err := version.ParseGeneric(text)
	return err != nil || v.AtLeast(version.MajorMinor(1, 29))
}

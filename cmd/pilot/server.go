package main

import (
	"context"
	"net/url"

	"github.com/meshpilot/pilot/pkg/meshconfig/kube/cluster"
	"github.com/spf13/cobra"
)

const (
	defaultServer = "http://127.0.0.1:8080" // where pilot serve shows /debug/ unless told otherwise
	pilotService  = "istio-pilot"           // of the chart, in the control plane's namespace
	pilotHTTPPort = 8080                    // of its pods
)

// kubernetesFlags say which Kubernetes API is meant, as kubectl's do.
type kubernetesFlags struct {
	on                  bool
	kubeconfig, context string
}

func (f *kubernetesFlags) register(cmd *cobra.Command, usage string) {
	cmd.Flags().BoolVar(&f.on, "kubernetes", false, usage)
	cmd.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig file, as kubectl's; implies --kubernetes")
	cmd.Flags().StringVar(&f.context, "context", "", "context of the kubeconfig, as kubectl's; implies --kubernetes")
}

func (f *kubernetesFlags) given() bool { return f.on || f.kubeconfig != "" || f.context != "" }

func (f *kubernetesFlags) open() (*cluster.Cluster, error) {
	return cluster.Open(cluster.Where{Kubeconfig: f.kubeconfig, Context: f.context})
}

// serverFlags say which running control plane is asked: the one at a URL, or
// that of a Kubernetes cluster.
type serverFlags struct {
	url     string
	cluster kubernetesFlags
	self    controlPlaneFlags
	base    string // of the opened control plane
}

func (f *serverFlags) register(cmd *cobra.Command, url, usage string) {
	cmd.Flags().StringVar(&f.url, "server", url, usage)
	f.cluster.register(cmd, "ask the control plane of the Kubernetes cluster, through a forwarded port")
	f.self.register(cmd)
	for _, name := range []string{"kubernetes", "kubeconfig", "context"} {
		cmd.MarkFlagsMutuallyExclusive("server", name)
	}
}

// given says whether a running control plane is meant, where it need not be.
func (f *serverFlags) given() bool { return f.url != "" || f.cluster.given() }

// name is how messages call it.
func (f *serverFlags) name() string {
	switch {
	case !f.cluster.given():
		return f.url
	case f.cluster.context != "":
		return f.cluster.context
	}
	return "kubernetes"
}

// get asks for a page; a forwarded port stays open until ctx ends.
func (f *serverFlags) get(ctx context.Context, path string, query url.Values, answer any) error {
	return f.ask(ctx, path, query, nil, answer)
}

func (f *serverFlags) ask(ctx context.Context, path string, query url.Values, body, answer any) error {
	if f.base == "" {
		base, err := f.open(ctx)
		if err != nil {
			return err
		}
		f.base = base
	}
	err := askPage(ctx, f.base, path, query, body, answer)
	if err != nil && f.cluster.given() {
		f.base = "" // the pod may be gone: another one next time
	}
	return err
}

func (f *serverFlags) open(ctx context.Context) (string, error) {
	if !f.cluster.given() {
		return f.url, nil
	}
	c, err := f.cluster.open()
	if err != nil {
		return "", err
	}
	address, _, err := c.Forward(ctx, f.self.namespace, pilotService, pilotHTTPPort)
	return "http://" + address, err
}

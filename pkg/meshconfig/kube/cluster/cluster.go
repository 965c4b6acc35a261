// Package cluster finds the Kubernetes API as kubectl does, or as a pod does,
// and opens the clients that the other packages below kube share.
package cluster

import (
	"errors"
	"fmt"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Where says which API server, and as whom. The zero value is what kubectl
// would use ($KUBECONFIG, ~/.kube/config), or the pod's own account if there
// is no such file.
type Where struct {
	Kubeconfig string // a file; empty is kubectl's
	Context    string // of that file; empty is its current one
	Namespace  string // empty is the context's
	// UserAgent is what the API server's audit log shows; empty is pilot.
	UserAgent string
	// QPS and Burst bound the requests per second of each client; 0 is 50, 100.
	QPS   float32
	Burst int
}

// Cluster is an API server, its clients not yet used.
type Cluster struct {
	Config    *rest.Config
	Client    kubernetes.Interface
	Dynamic   dynamic.Interface
	Metadata  metadata.Interface // for objects of which only that counts
	Namespace string             // of Where, or of the context; never empty
}

// Open makes the clients and asks the server nothing. The error says what is
// wrong with the kubeconfig, or that there is none and this is no pod.
func Open(w Where) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = w.Kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: w.Context}
	overrides.Context.Namespace = w.Namespace
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	config, err := loader.ClientConfig()
	if errors.Is(err, rest.ErrNotInCluster) || clientcmd.IsEmptyConfig(err) {
		return nil, errors.New("no Kubernetes API: no kubeconfig found (--kubeconfig, $KUBECONFIG, ~/.kube/config), and this is no pod")
	}
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	return open(config, namespace, w)
}

func open(config *rest.Config, namespace string, w Where) (*Cluster, error) {
	config = rest.CopyConfig(config)
	config.UserAgent = "pilot"
	if w.UserAgent != "" {
		config.UserAgent = w.UserAgent
	}
	config.QPS, config.Burst = 50, 100
	if w.QPS > 0 {
		config.QPS, config.Burst = w.QPS, max(w.Burst, 1)
	}
	c := &Cluster{Config: config, Namespace: namespace}
	var errs [3]error
	c.Client, errs[0] = kubernetes.NewForConfig(config)
	c.Dynamic, errs[1] = dynamic.NewForConfig(config)
	c.Metadata, errs[2] = metadata.NewForConfig(config)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	return c, nil
}

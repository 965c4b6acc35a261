package kube

import (
	"context"

	"github.com/meshpilot/pilot/pkg/meshconfig/kube/cluster"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// kind is what is followed of one resource, and how.
type kind struct {
	resource  schema.GroupResource
	what      string // for people: "Pods"
	without   string // what follows if it may not be read
	optional  bool   // its loss weakens nothing
	namespace string // empty is all
	fields    string // a selector
	trim      func(any) (metav1.Object, error)
	list      func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch     func(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// options narrows what is asked for.
func (k *kind) options(o metav1.ListOptions) metav1.ListOptions {
	o.FieldSelector = k.fields
	return o
}

// through sets the client of a kind.
func through[L runtime.Object](k kind, client interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}) kind {
	k.list = func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return client.List(ctx, o) }
	k.watch = client.Watch
	return k
}

// meshConfigMap is the kind of the mesh settings; of the ConfigMaps only theirs
// is read.
func meshConfigMap(c *cluster.Cluster, namespace string) kind {
	return through(kind{
		resource: schema.GroupResource{Resource: "configmaps"}, what: "the ConfigMap " + namespace + "/" + meshName,
		without: "the mesh settings are not known", namespace: namespace, fields: "metadata.name=" + meshName, trim: trimSettings,
	}, c.Client.CoreV1().ConfigMaps(namespace))
}

func services(c *cluster.Cluster) kind {
	return through(kind{
		resource: schema.GroupResource{Resource: "services"}, what: "Services", without: "no host of the cluster is known", trim: trimService,
	}, c.Client.CoreV1().Services(""))
}

func endpointSlices(c *cluster.Cluster) kind {
	return through(kind{
		resource: schema.GroupResource{Group: "discovery.k8s.io", Resource: "endpointslices"}, what: "EndpointSlices",
		without: "endpoints are the pods that Services select", trim: trimSlice,
	}, c.Client.DiscoveryV1().EndpointSlices(""))
}

// pods leaves out those that have ended.
func pods(c *cluster.Cluster) kind {
	return through(kind{
		resource: schema.GroupResource{Resource: "pods"}, what: "Pods", without: "no sidecar of the cluster gets a configuration",
		fields: "status.phase!=Succeeded,status.phase!=Failed", trim: trimPod,
	}, c.Client.CoreV1().Pods(""))
}

func namespaces(c *cluster.Cluster) kind {
	return through(kind{
		resource: schema.GroupResource{Resource: "namespaces"}, what: "Namespaces", without: "their labels are not known", optional: true, trim: trimNamespace,
	}, c.Metadata.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}))
}

func accounts(c *cluster.Cluster) kind {
	return through(kind{
		resource: schema.GroupResource{Resource: "serviceaccounts"}, what: "ServiceAccounts",
		without: "only the accounts that pods use are known", optional: true, trim: trimAccount,
	}, c.Metadata.Resource(schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}))
}

func definitions(c *cluster.Cluster) kind {
	const group = "apiextensions.k8s.io"
	return through(kind{
		resource: schema.GroupResource{Group: group, Resource: "customresourcedefinitions"}, what: "CustomResourceDefinitions",
		without: "a kind that is installed later is noticed late", optional: true, trim: trimDefinition,
	}, c.Metadata.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: "customresourcedefinitions"}))
}

package kube

import (
	"context"
	"errors"
	"slices"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/cluster"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// meshName is the ConfigMap with the mesh settings, meshKey the key in it.
const (
	meshName = "istio"
	meshKey  = "mesh"
)

// custom is a kind that a CustomResourceDefinition brings. Versions are those
// that meshconfig decodes, best first; their objects are the same.
type custom struct {
	resource schema.GroupResource
	what     string
	versions []string
}

// customKinds are all that are read, if they are installed.
func customKinds() []custom {
	in := func(group, resource, what string, versions ...string) custom {
		return custom{schema.GroupResource{Group: group, Resource: resource}, what, versions}
	}
	return []custom{
		in("authentication.istio.io", "policies", "Policies", "v1alpha1"),
		in("authentication.istio.io", "meshpolicies", "MeshPolicies", "v1alpha1"),
		in("security.istio.io", "peerauthentications", "PeerAuthentications", "v1", "v1beta1"),
		in("networking.istio.io", "destinationrules", "DestinationRules", "v1", "v1beta1", "v1alpha3"),
		in("networking.istio.io", "serviceentries", "ServiceEntries", "v1", "v1beta1", "v1alpha3"),
		in("networking.istio.io", "workloadentries", "WorkloadEntries", "v1", "v1beta1", "v1alpha3"),
	}
}

func (c custom) kind(api *cluster.Cluster, version string) kind {
	without := "what they ask for is not in force"
	if c.resource.Group != "networking.istio.io" {
		without = "the protection that they ask for is not in force"
	}
	return through(kind{resource: c.resource, what: c.what, without: without, trim: trimCustom},
		api.Dynamic.Resource(c.resource.WithVersion(version)))
}

// served are the versions of each group that the API serves now, and with
// which resources. A group that is not there is no error.
type served map[schema.GroupVersion][]string

func lookServed(ctx context.Context, c *cluster.Cluster) (served, error) {
	out := served{}
	for _, k := range customKinds() {
		for _, version := range k.versions {
			gv := schema.GroupVersion{Group: k.resource.Group, Version: version}
			if _, known := out[gv]; known {
				continue
			}
			var list metav1.APIResourceList
			err := c.Client.Discovery().RESTClient().Get().AbsPath("/apis", gv.Group, gv.Version).Do(ctx).Into(&list)
			if err != nil && !apierrors.IsNotFound(err) {
				return nil, err
			}
			out[gv] = nil
			for i := range list.APIResources {
				out[gv] = append(out[gv], list.APIResources[i].Name)
			}
		}
	}
	return out, nil
}

// has says whether a kind is served in this version.
func (s served) has(c custom, version string) bool {
	return slices.Contains(s[schema.GroupVersion{Group: c.resource.Group, Version: version}], c.resource.Resource)
}

// version is the best served one; empty if there is none.
func (s served) version(c custom) string {
	for _, v := range c.versions {
		if s.has(c, v) {
			return v
		}
	}
	return ""
}

// decoded is a custom resource or the mesh settings as meshconfig reads them:
// the object itself, or what is wrong with it.
type decoded struct {
	metav1.ObjectMeta
	part     meshconfig.Bundle
	problems []meshconfig.Problem
}

func trimCustom(o any) (metav1.Object, error) {
	if kept, ok := o.(*decoded); ok {
		return kept, nil
	}
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return nil, unexpected(o)
	}
	unstructured.RemoveNestedField(u.Object, "metadata", "managedFields")
	unstructured.RemoveNestedField(u.Object, "metadata", "annotations", corev1.LastAppliedConfigAnnotation)
	unstructured.RemoveNestedField(u.Object, "metadata", "resourceVersion")
	unstructured.RemoveNestedField(u.Object, "status")
	out := &decoded{ObjectMeta: metav1.ObjectMeta{
		Name: u.GetName(), Namespace: u.GetNamespace(), UID: u.GetUID(), Generation: u.GetGeneration(),
		Labels: u.GetLabels(), Annotations: u.GetAnnotations(), DeletionTimestamp: u.GetDeletionTimestamp(),
	}}
	out.part, out.problems = meshconfig.DecodeObject(u.Object)
	return out, nil
}

// trimSettings decodes the ConfigMap istio.
func trimSettings(o any) (metav1.Object, error) {
	if kept, ok := o.(*decoded); ok {
		return kept, nil
	}
	m, ok := o.(*corev1.ConfigMap)
	if !ok {
		return nil, unexpected(o)
	}
	if m.Name != meshName {
		return nil, errors.New("unexpected ConfigMap " + m.Name)
	}
	data := map[string]any{}
	if text, there := m.Data[meshKey]; there {
		data[meshKey] = text
	}
	out := &decoded{ObjectMeta: metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion}}
	out.part, out.problems = meshconfig.DecodeObject(map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": m.Name, "namespace": m.Namespace}, "data": data,
	})
	return out, nil
}

// Package model is the mesh as plain data: what the sources found, compiled
// and validated (Inputs), and the indexed, immutable form that translation
// reads (Snapshot). A view holds all that one half of a proxy's configuration
// may depend on, so proxies that share a view share its bytes by construction.
//
// It imports only the standard library and has no state, clock or I/O.
package model

import (
	"cmp"
	"strings"
)

// Key names one object of a source: the provenance of a resource, and the
// address of a problem. Namespace is empty for cluster-scoped objects.
type Key struct{ Kind, Namespace, Name string }

// String is "Policy shop/cart", or "MeshPolicy default" without a namespace.
func (k Key) String() string {
	if k.Namespace == "" {
		return strings.TrimSpace(k.Kind + " " + k.Name)
	}
	return k.Kind + " " + k.Namespace + "/" + k.Name
}

// Compare orders by namespace/name, then kind: the order of ties in the spec.
func (k Key) Compare(o Key) int {
	return cmp.Or(
		strings.Compare(k.Namespace, o.Namespace),
		strings.Compare(k.Name, o.Name),
		strings.Compare(k.Kind, o.Kind))
}

// WorkloadID names one proxy's workload: a pod, or a WorkloadEntry.
type WorkloadID struct{ Namespace, Name string }

// String is "namespace/name".
func (id WorkloadID) String() string { return id.Namespace + "/" + id.Name }

// Compare orders by namespace, then name.
func (id WorkloadID) Compare(o WorkloadID) int {
	return cmp.Or(strings.Compare(id.Namespace, o.Namespace), strings.Compare(id.Name, o.Name))
}

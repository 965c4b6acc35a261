// Package meshconfig is the language that users write: it decodes Kubernetes
// and Istio objects strictly, fills defaults, validates, and compiles a
// complete Bundle into model.Inputs. A user's mistake is a Problem, never a Go
// error, and one bad object never stops the rest.
package meshconfig

import (
	"github.com/meshpilot/pilot/pkg/model"
	networkingv1 "istio.io/api/networking/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Bundle is all objects of a source, decoded and valid, in any order.
type Bundle struct {
	Mesh            *MeshConfig // nil: absent, built-in defaults apply
	Namespaces      []*corev1.Namespace
	ServiceAccounts []*corev1.ServiceAccount
	Services        []*corev1.Service
	Pods            []*corev1.Pod
	EndpointSlices  []*discoveryv1.EndpointSlice
	ServiceEntries  []*ServiceEntry
	WorkloadEntries []*WorkloadEntry
	Policies        []*Policy
	// Invalid are objects that did not validate. A source replaces each by its
	// last accepted version if it has one; what is left counts by its
	// fail-closed effect.
	Invalid []Invalid
	// Torn are files that hold something that could not be told apart: a
	// syntax error, an object without name. What such a file held before and
	// does not now is not thereby deleted.
	Torn []string
	// Positions says where an object was read; empty for sources without files.
	Positions map[model.Key]Position
}

// ServiceEntry is networking.istio.io ServiceEntry.
type ServiceEntry struct {
	metav1.ObjectMeta
	Spec *networkingv1.ServiceEntry
}

// WorkloadEntry is networking.istio.io WorkloadEntry.
type WorkloadEntry struct {
	metav1.ObjectMeta
	Spec *networkingv1.WorkloadEntry
}

// Policy is authentication.istio.io/v1alpha1 Policy: the server side of mTLS
// for services of one namespace (spec server-policy.md 2).
type Policy struct {
	metav1.ObjectMeta
	Targets []PolicyTarget
	// Mode is what peers says; DISABLE if it is empty.
	Mode model.Mode
}

// PolicyTarget names a service and, optionally, some of its ports.
type PolicyTarget struct {
	Name  string
	Ports []PortSelector
}

// PortSelector names a service port by exactly one of number and name.
type PortSelector struct {
	Number uint16
	Name   string
}

// Invalid is an object that was read but refused.
type Invalid struct {
	On model.Key
	// Targets are the readable services of a Policy; empty means that its
	// scope could not be read, so all of its namespace.
	Targets []PolicyTarget
}

// Position is a place in a file, as editors count: Line from 1.
type Position struct {
	File string
	Line int
}

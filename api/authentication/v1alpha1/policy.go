// Package v1alpha1 is authentication.istio.io/v1alpha1 as Go types: Policy and
// MeshPolicy, which Istio no longer ships. They exist for the schemas in
// manifests/charts/pilot/crds, which are generated from them, and for clients;
// pilot itself decodes with pkg/meshconfig, whose texts the rules repeat.
// +groupName=authentication.istio.io
// +versionName=v1alpha1
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Policy says what the ports of services of its namespace accept. The most
// specific one for a port decides alone; policies never merge.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories=istio-io
// +kubebuilder:printcolumn:name="Targets",type=string,JSONPath=`.spec.targets[*].name`,description="Services; none means all of the namespace"
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="has(self.spec)",message="spec must be set; spec: {} switches mTLS off in the namespace",fieldPath=".spec"
type Policy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What the ports accept. An empty spec is a decision, too: no mutual TLS.
	// +optional
	Spec *PolicySpec `json:"spec,omitempty"`
	// +optional
	Status PolicyStatus `json:"status,omitempty"`
}

// MeshPolicy says what a Policy says, for the whole mesh.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=meshpolicies,scope=Cluster,categories=istio-io
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default'",message="cluster-scoped authentication policy name must be \"default\""
// +kubebuilder:validation:XValidation:rule="has(self.spec)",message="spec must be set; spec: {} switches mTLS off in the mesh",fieldPath=".spec"
type MeshPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What all ports of the mesh accept. An empty spec is a decision, too: no
	// mutual TLS.
	// +optional
	// +nullable
	// +kubebuilder:validation:XValidation:rule="!has(self.targets) || self.targets.size() == 0",message="cluster-scoped authentication policy must not have targets",fieldPath=".targets"
	Spec *PolicySpec `json:"spec,omitempty"`
	// +optional
	Status PolicyStatus `json:"status,omitempty"`
}

// PolicySpec is what both kinds say. The fields of the past that ask for more
// than pilot does are there to be refused, because dropping them would weaken
// what they ask for.
type PolicySpec struct {
	// The services that the policy is for; none means all of the namespace.
	// +optional
	// +nullable
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	Targets []Target `json:"targets,omitempty"`
	// How clients prove who they are; none means that they need not.
	// +optional
	// +nullable
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.size() <= 1",message="at most one mtls entry is allowed"
	Peers []Peer `json:"peers,omitempty"`
	// Has no effect.
	// +optional
	// +nullable
	PeerIsOptional *bool `json:"peerIsOptional,omitempty"`
	// Not supported: an object that asks for it is refused.
	// +optional
	// +nullable
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.size() == 0",message="JWT is not supported yet"
	Origins []Method `json:"origins,omitempty"`
	// Not supported: an object that asks for it is refused.
	// +optional
	// +nullable
	// +kubebuilder:validation:XValidation:rule="!self",message="JWT is not supported yet"
	OriginIsOptional *bool `json:"originIsOptional,omitempty"`
	// USE_PEER; anything else is refused.
	// +optional
	// +nullable
	// +kubebuilder:validation:XValidation:rule="self != 'USE_ORIGIN'",message="JWT is not supported yet"
	// +kubebuilder:validation:XValidation:rule="self in ['', 'USE_PEER', 'USE_ORIGIN']",messageExpression="'unknown principal binding \"' + self + '\", want one of USE_PEER, USE_ORIGIN'"
	PrincipalBinding *string `json:"principalBinding,omitempty"`
}

// Target is a service of the policy's namespace, or some of its ports.
//
// +kubebuilder:validation:XValidation:rule="has(self.name)",message="target name \"\" must be a valid label",fieldPath=".name"
// +kubebuilder:validation:XValidation:rule="!has(self.subset)",message="target subsets are not supported",fieldPath=".subset"
// +kubebuilder:validation:XValidation:rule="!has(self.labels)",message="target subsets are not supported",fieldPath=".labels"
type Target struct {
	// The short name of the service.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",messageExpression="'target name \"' + self + '\" must be a valid label'"
	Name *string `json:"name,omitempty"`
	// Ports of the service; none means all.
	// +optional
	// +nullable
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Ports []Port `json:"ports,omitempty"`
	// Not supported: an object that has it is refused.
	// +optional
	Subset *string `json:"subset,omitempty"`
	// Not supported: an object that has them is refused.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	Labels *runtime.RawExtension `json:"labels,omitempty"`
}

// Port is a port of a service, by exactly one of number and name.
//
// +kubebuilder:validation:XValidation:rule="has(self.number) != has(self.name)",message="port selector must have exactly one of number and name"
type Port struct {
	// The number of the port at the service, not at the container.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self >= 1 && self <= 65535",message="port number must be in the range 1..65535"
	Number *int64 `json:"number,omitempty"`
	// The name of the port at the service.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",messageExpression="'port name \"' + self + '\" must be a valid label'"
	Name *string `json:"name,omitempty"`
}

// Peer is one way to prove who one is. Rules cannot tell null from absence, and
// "mtls:" is how most write it, so that its presence is counted.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="!has(self.jwt)",message="JWT is not supported yet",fieldPath=".jwt"
type Peer struct {
	// Mutual TLS; null and {} mean mode STRICT.
	// +optional
	// +nullable
	MTLS *MutualTLS `json:"mtls,omitempty"`
	// Not supported: an object that has it is refused.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	JWT *runtime.RawExtension `json:"jwt,omitempty"`
}

// MutualTLS says how strict a port is.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.mode) && dyn(self.mode) == 'PERMISSIVE' && has(self.allowTls) && dyn(self.allowTls) == true)",message="allowTls cannot be combined with mode PERMISSIVE",fieldPath=".allowTls"
type MutualTLS struct {
	// STRICT (default) or PERMISSIVE.
	// +optional
	// +nullable
	// +kubebuilder:validation:XValidation:rule="self in ['STRICT', 'PERMISSIVE']",messageExpression="'unknown mTLS mode \"' + self + (self == 'DISABLE' ? '\"; to switch mTLS off, leave peers empty' : '\", want one of STRICT, PERMISSIVE')"
	Mode *string `json:"mode,omitempty"`
	// Clients may come with TLS and without a certificate.
	// +optional
	// +nullable
	AllowTLS *bool `json:"allowTls,omitempty"`
}

// Method is an origin authentication method, which is refused unread.
//
// +kubebuilder:pruning:PreserveUnknownFields
type Method struct{}

// PolicyStatus is what pilot says about the object.
type PolicyStatus struct {
	// Accepted, and Programmed on how many proxies.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// The generation of the spec that the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
}

// Package translate turns views into the xDS resources that Envoy gets, each
// marshaled once, named by its content and with the objects it came from.
// It cannot fail: what it needs validated was validated by meshconfig.
package translate

import (
	"github.com/meshpilot/pilot/pkg/model"
	"google.golang.org/protobuf/types/known/anypb"
)

// Resource is one named xDS resource. Resources are immutable and shared by
// pointer; equal pointers mean equal bytes.
type Resource struct {
	Name    string
	Version string     // 16 hex digits, hash of Body.Value
	Body    *anypb.Any // deterministic bytes
	From    []model.Key

	err      error    // a rule of the API that the content breaks
	clusters []string // that the content refers to
	routes   []string
	secrets  []string          // besides the mesh's own
	eds      string            // of a cluster whose endpoints come by EDS: their name
	print    model.Fingerprint // of what endpoints were made from
}

// Endpoints is the name of a cluster's endpoints, if it has any of its own.
func (r *Resource) Endpoints() string {
	if r.eds != "" {
		return r.eds
	}
	return r.Name
}

// Table is a list of resources of one type, sorted by name, names unique.
// Equal pointers mean equal content.
type Table struct {
	Version   string // hash over the sorted (name, version) list
	Resources []*Resource
}

// Half is one of the two parts of a proxy's configuration. The tables of the
// two halves of a proxy never share a name. No table is nil.
type Half struct {
	Secrets *Table
	// SecretsRespelled are the same secrets with the directory spelled
	// differently, for the resend after a refusal: Envoy reads files again
	// only if the bytes that name them changed.
	SecretsRespelled *Table
	Clusters         *Table
	Listeners        *Table
	Routes           *Table
	// NeedsSecrets says that a part besides sds-resident uses mesh
	// certificates, so the half must wait for truthfully acknowledged secrets.
	NeedsSecrets bool
	// Resident is the table with only sds-resident in it, for proxies whose
	// secrets are not acknowledged yet. Server half only.
	Resident *Table

	topology model.Fingerprint // of what listeners and routes were made from
}

// Type URLs of the resources, in the order in which they are pushed.
const (
	SecretType   = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	ClusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	ListenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteType    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
)

// Package translate turns views into the xDS resources that Envoy gets, each
// marshaled once, named by its content and with the objects it came from.
// It cannot fail: what it needs validated was validated by meshconfig.
package translate

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
	"google.golang.org/protobuf/proto"
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

const typePrefix = "type.googleapis.com/"

// builder makes one resource: it validates what it packs and remembers which
// other resources the content refers to, so that Check needs no decoding.
type builder struct {
	err      error
	clusters []string
	routes   []string
	secrets  []string // besides the mesh's own
}

// validated is what every generated Envoy message has.
type validated interface {
	proto.Message
	ValidateAll() error
}

func (b *builder) marshal(m validated) *anypb.Any {
	err := m.ValidateAll()
	value, marshalErr := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	b.err = errors.Join(b.err, err, marshalErr)
	return &anypb.Any{TypeUrl: typePrefix + string(m.ProtoReflect().Descriptor().FullName()), Value: value}
}

func (b *builder) resource(name string, m validated, from ...model.Key) *Resource {
	return b.named(name, b.marshal(m), from)
}

// named is the resource of an encoded body.
func (b *builder) named(name string, body *anypb.Any, from []model.Key) *Resource {
	return &Resource{
		Name: name, Version: version(body.Value), Body: body, From: from,
		err: b.err, clusters: b.clusters, routes: b.routes, secrets: b.secrets,
	}
}

func version(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:8])
}

// newTable sorts resources by name and takes by pointer from prev, which may
// be nil, what is equal there: the whole table if all of it is.
func newTable(resources []*Resource, prev *Table) *Table {
	slices.SortFunc(resources, func(a, b *Resource) int { return strings.Compare(a.Name, b.Name) })
	if prev == nil {
		prev = &Table{}
	}
	same := len(resources) == len(prev.Resources)
	next := 0
	for i, r := range resources {
		for next < len(prev.Resources) && prev.Resources[next].Name < r.Name {
			next++
		}
		if next < len(prev.Resources) && prev.Resources[next].equal(r) {
			resources[i] = prev.Resources[next]
		} else {
			same = false
		}
	}
	if same && prev.Version != "" {
		return prev
	}
	size := 0
	for _, r := range resources {
		size += len(r.Name) + len(r.Version) + 2
	}
	list := make([]byte, 0, size)
	for _, r := range resources {
		list = append(append(append(append(list, r.Name...), 0), r.Version...), 0)
	}
	return &Table{Version: version(list), Resources: resources}
}

func (r *Resource) equal(o *Resource) bool {
	return r == o || r.Name == o.Name && r.Version == o.Version && slices.Equal(r.From, o.From)
}

// Find is the resource of that name, or nil.
func (t *Table) Find(name string) *Resource {
	i, ok := slices.BinarySearchFunc(t.Resources, name, func(r *Resource, name string) int { return strings.Compare(r.Name, name) })
	if !ok {
		return nil
	}
	return t.Resources[i]
}

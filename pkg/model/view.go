package model

import "time"

// Fingerprint is a hash of all content of a view: equal fingerprints mean
// equal configuration.
type Fingerprint [16]byte

// ClientTLS is what a client class sends to a service port.
type ClientTLS uint8

// Mixed takes mesh mTLS to the endpoints that accept it, plaintext to others.
// Simple and Mutual are TLS as a DestinationRule says.
const (
	ClientPlain ClientTLS = iota
	ClientMesh
	ClientMixed
	ClientSimple
	ClientMutual
)

// String is the client TLS as reports spell it.
func (t ClientTLS) String() string {
	switch t {
	case ClientMesh:
		return "MESH"
	case ClientMixed:
		return "MIXED"
	case ClientSimple:
		return "SIMPLE"
	case ClientMutual:
		return "MUTUAL"
	default:
		return "NONE"
	}
}

// ClientView is all that outbound translation may know.
type ClientView struct {
	Class       ClientClass
	Mesh        OutboundMesh
	Services    []*OutboundService // sorted by host; shared between views
	Fingerprint Fingerprint
	// Topology covers what listeners and routes depend on, so not TLS.
	Topology Fingerprint
}

// OutboundMesh is the part of the mesh configuration that shapes outbound.
type OutboundMesh struct {
	ConnectTimeout time.Duration
	ListenPort     uint16
	InboundPort    uint16 // of the inbound half's listener
	HTTPPort       uint16
	RegistryOnly   bool
	AccessLogFile  string
	TrustDomains   []string // trustDomain, then its aliases
	Domain         string
}

// OutboundService is a service as clients see it. Immutable.
type OutboundService struct {
	Key        Key
	Host       string
	Namespace  string
	Name       string // short name; empty if the host has none
	VIPs       []string
	Resolution Resolution
	DNSName    string // ResolveNone: what proxies without capture resolve
	External   bool   // outside the mesh; for reports: the ports' TLS knows it already
	Ports      []*OutboundPort
	// Topology covers what listeners and routes of the service depend on.
	Topology Fingerprint
	exportTo []string
}

// OutboundPort is one port of an OutboundService. Immutable.
type OutboundPort struct {
	Name     string
	Number   uint16
	Protocol Protocol
	Upstream             // all endpoints
	Subsets  []*Upstream // sorted by name
	// Fingerprint covers all that the port's clusters depend on.
	Fingerprint Fingerprint
}

// OutboundEndpoint is one endpoint as clients see it.
type OutboundEndpoint struct {
	Address  string
	Port     uint16
	Locality Locality
	Weight   uint32
	MeshTLS  bool // takes mesh mTLS
}

// EndpointGroup is the endpoints of one EDS resource, sorted by address.
type EndpointGroup struct {
	Key         Key
	Host        string
	Port        uint16 // service port
	Subset      string // empty: all endpoints
	Variant     string // see Upstream
	Endpoints   []OutboundEndpoint
	Fingerprint Fingerprint
}

// ServerView is all that inbound translation may know.
type ServerView struct {
	Class      ServerClass
	Mesh       InboundMesh
	Ports      []InboundPort // that a service or a port-level policy names, sorted by container port
	ProbePorts []uint16      // that only probes name, sorted: open for any bytes
	Other      Decision      // of all other ports
	// Fingerprint covers all of it.
	Fingerprint Fingerprint
}

// InboundMesh is the part of the mesh configuration that shapes inbound.
type InboundMesh struct {
	InboundListenPort uint16
	HTTPPort          uint16 // for proxies without capture; never 0
	RefusalReset      bool
	ConnectTimeout    time.Duration
	AccessLogFile     string
	TrustDomains      []string
}

// InboundPort is one container port and its mode.
type InboundPort struct {
	Port     uint16
	Protocol Protocol
	Decision Decision
	// Host and ServicePort are the alphabetically first service and port that
	// lead here; a refusal names them. Empty if only a policy names the port.
	Host        string
	ServicePort uint16
	Probes      []Probe // with a path of their own, sorted
	// Pool is what a DestinationRule for Host says; nil: nothing.
	Pool *ConnectionPool
	From []Key // all services that lead here, else the policy; and the rule
}

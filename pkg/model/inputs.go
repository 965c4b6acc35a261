package model

import (
	"slices"
	"time"
)

// Inputs is everything that configuration depends on, validated, in any
// order. Build makes a Snapshot of it and never fails.
type Inputs struct {
	Mesh      Mesh
	Services  []Service
	Workloads []Workload
	Policies  []ServerPolicy
	Rules     []DestinationRule
	// Phases are how far targets are; nil: all are where their mode ends.
	Phases map[Target]Phase
	// Connected are workloads whose sidecar is, or during the workload's life
	// was, connected: evidence that they have one.
	Connected []WorkloadID
}

// Mesh is the mesh configuration after defaults (spec mesh-config.md 3).
type Mesh struct {
	MutualTLS          bool     // authPolicy: MUTUAL_TLS
	AutoMTLS           bool     // enableAutoMtls
	Excluded           []string // mtlsExcludedServices: FQDNs, or "*." + FQDN
	RefusalReset       bool     // plaintextRefusal: RESET
	ConnectTimeout     time.Duration
	ListenPort         uint16 // virtualOutbound
	InboundListenPort  uint16 // virtualInbound
	HTTPPort           uint16 // explicit HTTP proxy listener; 0 is off
	RootNamespace      string
	TrustDomain        string
	TrustDomainAliases []string
	Domain             string // DNS suffix of services, "cluster.local"
	RegistryOnly       bool   // outboundTrafficPolicy.mode: REGISTRY_ONLY
	AccessLogFile      string // empty is none

	Rollout      Rollout
	RefreshDelay time.Duration // longest wait of a change before it is pushed
	Capture      Capture       // for proxies that do not say
	// The rest reaches proxies by bootstrap only.
	DiscoveryAddress string
	DrainDuration    time.Duration
	ParentShutdown   time.Duration
	AdminPort        uint16
	Concurrency      int // worker threads, 0 is all cores
	ServiceCluster   string
	ConfigPath       string
	BinaryPath       string
}

// Capture is how traffic reaches a proxy.
type Capture uint8

// The interception modes of Istio's proxies.
const (
	CaptureRedirect Capture = iota
	CaptureTProxy
	CaptureNone
)

// String is the value of INTERCEPTION_MODE.
func (c Capture) String() string {
	switch c {
	case CaptureTProxy:
		return "TPROXY"
	case CaptureNone:
		return "NONE"
	default:
		return "REDIRECT"
	}
}

// Resolution is how the addresses behind a service are found.
type Resolution uint8

// See the table of cluster types in spec xds.md 6.
const (
	ResolveEndpoints Resolution = iota // EDS: ClusterIP, ServiceEntry STATIC or workloadSelector
	ResolveHeadless                    // clusterIP: None; endpoints known, the client chose one
	ResolveDNS                         // ServiceEntry DNS: endpoint addresses are names
	ResolveNone                        // ExternalName, ServiceEntry NONE: wherever the client went
)

// Service is one host and its ports.
type Service struct {
	Key        Key
	Host       string   // fully qualified, or a ServiceEntry's host, also "*.suffix"
	Namespace  string   // whose short names find it
	Name       string   // what policies call it; empty if the host has no short form
	Created    int64    // seconds since 1970; 0, not known, is older than any
	VIPs       []string // addresses that stand for the service; none if headless
	Resolution Resolution
	External   bool     // outside the mesh: never mesh mTLS by itself
	DNSName    string   // ResolveNone: what to resolve for proxies without capture; empty is Host
	ExportTo   []string // namespaces that see it; empty is all
	Ports      []ServicePort
}

// ServicePort is one port of a service and what stands behind it.
type ServicePort struct {
	Name       string
	Number     uint16
	Protocol   Protocol
	Annotation Annotation
	Accounts   []string // SPIFFE URIs besides those of the endpoints' workloads
	Endpoints  []Endpoint
}

// Annotation is the effect of auth.istio.io/PORT.
type Annotation uint8

// Unset does not decide.
const (
	AnnotationUnset Annotation = iota
	AnnotationNone
	AnnotationMutualTLS
)

// Endpoint is one (workload, container port) behind a service port.
type Endpoint struct {
	Address  string // IP; a DNS name if the service's resolution is DNS
	Port     uint16 // container port
	Workload WorkloadID
	Locality Locality
	Weight   uint32 // 0 is 1
	// Labels choose subsets; nil: the workload's.
	Labels map[string]string
	// Ready endpoints get traffic; the others only configuration and identity.
	Ready bool
}

// Locality is where an endpoint runs.
type Locality struct{ Region, Zone, SubZone string }

// Workload is a pod or WorkloadEntry.
type Workload struct {
	ID             WorkloadID
	Key            Key
	Address        string
	Group          string // what a rollout moves as one: Deployment, or the workload itself
	ServiceAccount string // never empty
	Labels         map[string]string
	Locality       Locality
	Sidecar        bool // known from the object; Inputs.Connected adds to it
	Capture        *Capture
	Inbound        *CapturedPorts // nil: all ports reach the sidecar
	Created        int64
	Probes         []Probe // of all containers; none known without a pod
}

// CapturedPorts are the container ports whose traffic reaches the sidecar;
// what arrives at others goes to the application directly (spec xds.md 4).
type CapturedPorts struct {
	All    bool
	Only   []uint16 // if not All
	Except []uint16
}

// Has says whether the sidecar sees the port; a nil c has all ports.
func (c *CapturedPorts) Has(port uint16) bool {
	return c == nil || (c.All || slices.Contains(c.Only, port)) && !slices.Contains(c.Except, port)
}

// Rank is the place of a statement in the order that decides a mode
// (spec server-policy.md 5). Lower wins.
type Rank uint8

// The ranks; RankNone decides DISABLE.
const (
	RankPort Rank = iota + 1
	RankWorkload
	RankNamespace
	RankMesh
	RankAnnotation
	RankMeshConfig
	RankNone
)

// ServerPolicy is one object that says which mode ports have.
type ServerPolicy struct {
	Key     Key
	Created int64 // seconds since 1970; 0, not known, is older than any
	StandIn bool  // STRICT in place of an invalid object; loses every tie
	// Rollout is how changes that it decides are carried out; nil: as the mesh
	// says.
	Rollout *Rollout
	Rules   []PolicyRule
}

// PolicyRule is one statement of a ServerPolicy: a mode for what its filled
// fields select. Rank says which of them are filled; mesh rank selects all,
// every other rank the policy's own namespace.
type PolicyRule struct {
	Rank Rank
	Mode Mode

	Service    string // short name (ranks 1 and 2, Policy)
	PortNumber uint16 // service port (rank 1, Policy); 0 if by name
	PortName   string // service port (rank 1, Policy)

	Selector      map[string]string // labels (ranks 1 and 2, PeerAuthentication)
	ContainerPort uint16            // rank 1, PeerAuthentication
}

// Package simulate walks generated configuration as Envoy would: what becomes
// of a call, and by which listener, chain, route and cluster. It reads what
// would be sent and nothing else, so it cannot disagree with it.
package simulate

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

// Mesh is who runs where. It is for one goroutine, and Peers and Behind do
// not change once a call was made.
type Mesh struct {
	Peers []*Peer
	// Behind is where the network leads an address and port that stand for a
	// service, for those who go there themselves; nobody may be there.
	Behind map[netip.AddrPort][]netip.AddrPort
	// Roots are the issuers that files of roots at proxies verify. The mesh's
	// own file need not be here; others that are not are taken to fit.
	Roots map[string][]string

	byID      map[model.WorkloadID]*Peer
	byAddress map[string]*Peer
}

// Peer is a workload with its sidecar's configuration, or without a sidecar.
type Peer struct {
	ID       model.WorkloadID
	Address  string
	Identity string            // SPIFFE URI of its certificate, without a sidecar of its application's; empty: it has none
	Config   *translate.Config // nil: no sidecar

	inbound *model.CapturedPorts
	decoded *decoder
}

// Protocol is what the applications speak with each other.
type Protocol string

// What a simulated application speaks.
const (
	HTTP  Protocol = "http"
	GRPC  Protocol = "grpc"
	HTTPS Protocol = "https"
	TCP   Protocol = "tcp"
)

// Call is one request of a workload's application.
type Call struct {
	From     model.WorkloadID
	Host     string // what the caller names: a service, a short name, an address
	Address  string // original destination; what the host resolves to
	Port     uint16
	Protocol Protocol
	Subset   string // of the service, as a route would choose it
	Method   string // of HTTP; empty: GET, or POST for gRPC
	Path     string // of HTTP, with its query; empty: /
	Body     bool   // of HTTP: the request has one, of a stated length
	App      App    // the application that is called
}

// Sent is what crosses the network to the endpoint.
type Sent string

// What a client side sends.
const (
	Plaintext Sent = "plaintext"
	MeshTLS   Sent = "mesh mTLS"
	AppTLS    Sent = "application TLS"
	SimpleTLS Sent = "TLS"
	MutualTLS Sent = "mutual TLS by file"
)

// Outcome is what becomes of a call at one endpoint. Result is the HTTP status
// that the caller sees, or "works" and "closed" where nobody speaks HTTP.
type Outcome struct {
	Result   string
	Body     string // of an answer that a proxy gave itself
	Endpoint string // address:port; empty: none was reached
	Sent     Sent
	TLS      TLS    // of the sidecar's own: what it asks of the server
	Listener string // the client's; empty without a sidecar
	Cluster  string
	Chain    string // the server's; empty without a sidecar
	Path     string // of HTTP: as the application gets it; empty: it gets nothing
	Why      string // what ended the call; empty if it worked
}

// TLS is what a sidecar asks of a server.
type TLS struct {
	SNI     string   `json:"sni"`
	ALPN    []string `json:"alpn"`
	Accepts []string `json:"sans"` // identities of the server; "prefix*" and "*suffix" are any like it
}

// Works says whether the application answered.
func (o Outcome) Works() bool { return o.Result == "200" || o.Result == "works" }

// Of is the mesh that a snapshot describes, every proxy configured alike; if
// some workloads are given, only they are in it.
func Of(s *model.Snapshot, only ...model.WorkloadID) *Mesh {
	m := &Mesh{}
	m.lead(s)
	configs := translate.Sidecars(s, only...)
	decoded := newDecoder()
	for _, w := range s.Workloads() {
		if len(only) > 0 && !slices.Contains(only, w.ID) {
			continue
		}
		p := &Peer{ID: w.ID, Address: w.Address, inbound: w.Inbound, decoded: decoded}
		if config, ok := configs[w.ID]; ok {
			p.Config = &config
			p.Identity = "spiffe://" + s.Mesh().TrustDomain + "/ns/" + w.ID.Namespace + "/sa/" + w.ServiceAccount
		}
		m.Peers = append(m.Peers, p)
	}
	m.lead(s)
	return m
}

// lead fills Behind with what Services say, as kube-proxy does: addresses of
// a ServiceEntry mean something to sidecars only.
func (m *Mesh) lead(s *model.Snapshot) {
	vips := map[string][]string{}
	for _, svc := range s.Services() {
		if svc.Key.Kind == "Service" {
			vips[svc.Host] = svc.VIPs
		}
	}
	m.Behind = map[netip.AddrPort][]netip.AddrPort{}
	for _, g := range s.Endpoints() {
		if g.Subset != "" || g.Variant != "" {
			continue
		}
		for _, vip := range vips[g.Host] {
			at := addrPort(vip, g.Port)
			m.Behind[at] = nil
			for _, e := range g.Endpoints {
				m.Behind[at] = append(m.Behind[at], addrPort(e.Address, e.Port))
			}
		}
	}
}

// addrPort of a name, which is no address, is like no other.
func addrPort(address string, port uint16) netip.AddrPort {
	ip, _ := netip.ParseAddr(address)
	return netip.AddrPortFrom(ip, port)
}

type socket struct {
	address string
	port    uint16
}

func (s socket) String() string { return net.JoinHostPort(s.address, strconv.Itoa(int(s.port))) }

// Peer is nil if the workload is unknown.
func (m *Mesh) Peer(id model.WorkloadID) *Peer {
	m.index()
	return m.byID[id]
}

func (m *Mesh) at(address string) *Peer {
	m.index()
	return m.byAddress[address]
}

func (m *Mesh) index() {
	if m.byID != nil {
		return
	}
	m.byID, m.byAddress = map[model.WorkloadID]*Peer{}, map[string]*Peer{}
	for _, p := range m.Peers {
		m.byID[p.ID] = p
		if m.byAddress[p.Address] == nil {
			m.byAddress[p.Address] = p
		}
	}
}

// Call follows a call to every endpoint that may get it, in the order of the
// endpoints.
func (m *Mesh) Call(c Call) []Outcome {
	from := m.Peer(c.From)
	if from == nil {
		return []Outcome{c.failed(Outcome{Why: "caller " + c.From.String() + " is unknown"})}
	}
	var hops []hop
	var ended *Outcome
	if from.Config == nil {
		hops = []hop{{address: c.Address, port: c.Port, sent: c.raw(), identity: from.Identity}}
	} else {
		hops, ended = from.send(c)
	}
	if ended != nil {
		return []Outcome{*ended}
	}
	var out []Outcome
	for _, h := range hops {
		out = append(out, m.deliver(c, from, h)...)
	}
	return out
}

// deliver takes a hop to where the network does: an address of a service
// leads to each of its endpoints.
func (m *Mesh) deliver(c Call, from *Peer, h hop) []Outcome {
	behind, isService := m.Behind[addrPort(h.address, h.port)]
	if !isService {
		return []Outcome{m.arrive(c, from, h)}
	}
	if len(behind) == 0 {
		return []Outcome{c.failed(Outcome{
			Sent: h.sent, Listener: h.listener, Cluster: h.cluster,
			Why: "nobody is behind " + socket{h.address, h.port}.String(),
		})}
	}
	var out []Outcome
	for _, at := range behind {
		h.address, h.port = at.Addr().String(), at.Port()
		out = append(out, m.arrive(c, from, h))
	}
	return out
}

// raw is what leaves the application itself.
func (c Call) raw() Sent {
	if c.Protocol == HTTPS {
		return AppTLS
	}
	return Plaintext
}

func (c Call) http() bool { return c.Protocol == HTTP || c.Protocol == GRPC }

func (c Call) worked(o Outcome) Outcome {
	o.Result = "works"
	if c.http() {
		o.Result = "200"
		if o.Path == "" {
			o.Path = c.path()
		}
	}
	return o
}

func (c Call) path() string { return cmp.Or(c.Path, "/") }

func (c Call) method() string {
	if c.Protocol == GRPC {
		return cmp.Or(c.Method, "POST")
	}
	return cmp.Or(c.Method, "GET")
}

// failed is a call that ended without an answer of HTTP: a sidecar that
// speaks HTTP for the caller turns that into 503.
func (c Call) failed(o Outcome) Outcome {
	o.Result = "closed"
	if c.http() && o.Listener != "" {
		o.Result = "503"
	}
	return o
}

// Resolve is the original destination of a call to host: its first address,
// else the address of an endpoint.
func Resolve(s *model.Snapshot, host string, port uint16) string {
	if _, err := netip.ParseAddr(host); err == nil {
		return host
	}
	for _, svc := range s.Services() {
		if svc.Host != host {
			continue
		}
		if len(svc.VIPs) > 0 {
			return svc.VIPs[0]
		}
		for _, g := range s.Endpoints() {
			if g.Host == host && g.Port == port && g.Subset == "" && len(g.Endpoints) > 0 {
				return g.Endpoints[0].Address
			}
		}
	}
	return ""
}

// Package simulate walks generated configuration as Envoy would: what becomes
// of a call, and by which listener, chain, route and cluster. It reads what
// would be sent and nothing else, so it cannot disagree with it.
package simulate

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/meshpilot/pilot/pkg/model"
	"github.com/meshpilot/pilot/pkg/translate"
)

// Mesh is who runs where.
type Mesh struct {
	Peers []*Peer
	// Behind is where the network leads an address and port that stand for a
	// service, for those who go there themselves.
	Behind map[netip.AddrPort][]netip.AddrPort
}

// Peer is a workload with its sidecar's configuration, or without a sidecar.
type Peer struct {
	ID       model.WorkloadID
	Address  string
	Identity string            // SPIFFE URI of its certificate; empty: it has none
	Config   *translate.Config // nil: no sidecar
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
	Listener string // the client's; empty without a sidecar
	Cluster  string
	Chain    string // the server's; empty without a sidecar
	Path     string // of HTTP: as the application gets it; empty: it gets nothing
	Why      string // what ended the call; empty if it worked
}

// Works says whether the application answered.
func (o Outcome) Works() bool { return o.Result == "200" || o.Result == "works" }

// Of is the mesh that a snapshot describes, every proxy configured alike.
func Of(s *model.Snapshot) *Mesh {
	m := &Mesh{}
	configs := translate.Sidecars(s)
	for _, w := range s.Workloads() {
		p := &Peer{ID: w.ID, Address: w.Address}
		if config, ok := configs[w.ID]; ok {
			p.Config = &config
			p.Identity = "spiffe://" + s.Mesh().TrustDomain + "/ns/" + w.ID.Namespace + "/sa/" + w.ServiceAccount
		}
		m.Peers = append(m.Peers, p)
	}
	m.lead(s)
	return m
}

// lead fills Behind with what Services say.
func (m *Mesh) lead(s *model.Snapshot) {
	vips := map[string][]string{}
	for _, svc := range s.Services() {
		vips[svc.Host] = svc.VIPs
	}
	m.Behind = map[netip.AddrPort][]netip.AddrPort{}
	for _, g := range s.Endpoints() {
		if g.Subset != "" || g.Variant != "" {
			continue
		}
		for _, vip := range vips[g.Host] {
			at := netip.AddrPortFrom(netip.MustParseAddr(vip), g.Port)
			for _, e := range g.Endpoints {
				m.Behind[at] = append(m.Behind[at], netip.AddrPortFrom(netip.MustParseAddr(e.Address), e.Port))
			}
		}
	}
}

// Peer is nil if the workload is unknown.
func (m *Mesh) Peer(id model.WorkloadID) *Peer {
	i := slices.IndexFunc(m.Peers, func(p *Peer) bool { return p.ID == id })
	if i < 0 {
		return nil
	}
	return m.Peers[i]
}

func (m *Mesh) at(address string) *Peer {
	i := slices.IndexFunc(m.Peers, func(p *Peer) bool { return p.Address == address })
	if i < 0 {
		return nil
	}
	return m.Peers[i]
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
		hops = []hop{{address: c.Address, port: c.Port, sent: c.raw()}}
	} else {
		hops, ended = from.send(c)
	}
	if ended != nil {
		return []Outcome{*ended}
	}
	var out []Outcome
	for _, h := range hops {
		for _, at := range m.destinations(h) {
			out = append(out, m.arrive(c, from, at))
		}
	}
	return out
}

// destinations are where the network takes a hop.
func (m *Mesh) destinations(h hop) []hop {
	ip, err := netip.ParseAddr(h.address)
	behind := m.Behind[netip.AddrPortFrom(ip, h.port)]
	if err != nil || len(behind) == 0 {
		return []hop{h}
	}
	out := make([]hop, len(behind))
	for i, at := range behind {
		out[i] = h
		out[i].address, out[i].port = at.Addr().String(), at.Port()
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

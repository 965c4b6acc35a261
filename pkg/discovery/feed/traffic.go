package feed

import (
	"net/netip"
	"slices"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

// Proxy is what one sidecar told of its inbound traffic.
type Proxy struct {
	// Logs is since when no record can have been missed, Stats since when its
	// stats come; zero: they do not.
	Logs, Stats time.Time
	// Gap is when a record may have been missed last.
	Gap time.Time
	// Ports by container port; 0 is all ports that nothing names. Use Port to
	// read one.
	Ports map[uint16]Traffic
	// HandshakeErrors are the failed TLS handshakes, of all ports, since the
	// first flush.
	HandshakeErrors uint64
	// Records were read, Excess were not, as they came faster than allowed.
	Records, Excess uint64

	absent Open // what a series is that was never told
}

// Traffic is what is known of a port.
type Traffic struct {
	Plain   Open   // plaintext, and TLS of the application, that is served
	Mesh    Open   // TLS that the sidecar ends
	Refused uint64 // plaintext HTTP requests and TCP connections that were refused
	// Peers sent plaintext or were refused, the newest first. Others counts
	// what peers sent that are no longer in the list.
	Peers  []Peer
	Others uint64
	// LastPlain is when a plaintext request or connection began last.
	LastPlain time.Time
}

// Open is what a proxy's gauge and counter of connections say.
type Open struct {
	Active uint64 // connections now
	Total  uint64 // connections since the Envoy started
	// Known says that the figures are told, or would be if they were not zero.
	Known bool
	At    time.Time // when they were told last
}

// Kind is how a peer came in.
type Kind uint8

// Plain is plaintext that was served, AppTLS the application's own TLS that
// was passed on, and Refused plaintext that was refused.
const (
	Plain Kind = iota
	AppTLS
	Refused
)

// String is the kind's name in JSON and in texts.
func (k Kind) String() string {
	switch k {
	case AppTLS:
		return "app-tls"
	case Refused:
		return "refused"
	default:
		return "plain"
	}
}

// MarshalText writes the kind by its name.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Peer is a source of what is not mesh mTLS.
type Peer struct {
	Address string // IP, without port
	// Workload is whose address it is. The feed leaves it zero: its reader
	// has the snapshot.
	Workload    model.WorkloadID
	Kind        Kind
	Port        uint16 // that was called; differs from the traffic's if that is 0
	Count       uint64 // requests of HTTP ports, connections of TCP ports
	First, Last time.Time
	Began       time.Time // when a request or connection began last
}

// Port is the traffic of a port, also of one that there was none at.
func (p Proxy) Port(port uint16) Traffic {
	t, ok := p.Ports[port]
	if !ok {
		t.Plain, t.Mesh = p.absent, p.absent
	}
	return t
}

// Complete says that ports without an entry had no connection.
func (p Proxy) Complete() bool { return p.absent.Known }

const (
	maxPeers = 16  // listed per port
	maxPorts = 256 // per proxy
)

// traffic is a port's state.
type traffic struct {
	figures           // of the last flush
	before    figures // the counters of the flush before that
	refused   uint64
	peers     []peer // the newest last
	others    uint64
	lastPlain time.Time
}

type peer struct {
	address     netip.Addr
	kind        Kind
	port        uint16
	count       uint64
	first, last time.Time
	began       time.Time
}

// saw takes a record; news says that the peer is not in the list.
func (t *traffic) saw(r record, port uint16, now time.Time) (news bool) {
	if r.begins && r.kind != Refused {
		t.lastPlain = now
	}
	i := slices.IndexFunc(t.peers, func(p peer) bool { return p.address == r.peer && p.kind == r.kind && p.port == port })
	p := peer{address: r.peer, kind: r.kind, port: port, first: now}
	if news = i < 0; !news {
		p = t.peers[i]
		t.peers = slices.Delete(t.peers, i, i+1)
	} else if len(t.peers) == maxPeers {
		t.others += t.peers[0].count
		t.peers = slices.Delete(t.peers, 0, 1)
	}
	if r.begins {
		p.count++
		p.began = now
	}
	p.last = now
	t.peers = append(t.peers, p)
	return news
}

// copy is the traffic for readers.
func (t *traffic) copy(absent Open) Traffic {
	out := Traffic{Plain: absent, Mesh: absent, Refused: t.refused, Others: t.others, LastPlain: t.lastPlain, Peers: make([]Peer, len(t.peers))}
	out.Plain.Active, out.Plain.Total = t.plain()
	out.Mesh.Active, out.Mesh.Total = t.mesh()
	for i, p := range t.peers {
		out.Peers[len(t.peers)-1-i] = Peer{Address: p.address.String(), Kind: p.kind, Port: p.port, Count: p.count, First: p.first, Last: p.last, Began: p.began}
	}
	return out
}

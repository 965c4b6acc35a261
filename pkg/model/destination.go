package model

import "time"

// DestinationRule is what clients send to the services of a host, and how
// (spec client-tls.md 2).
type DestinationRule struct {
	Key      Key
	Created  int64    // seconds since 1970; 0, not known, is older than any
	Host     string   // fully qualified, "*", or "*." and a suffix
	ExportTo []string // namespaces whose clients see it; empty is all
	Policy   *TrafficPolicy
	Subsets  []Subset
	// StandIn is the effect of an invalid rule with a tls block: mesh mTLS to
	// the endpoints that accept it and nothing to any other. It loses against
	// every valid rule for its host in its namespace.
	StandIn bool
}

// TrafficPolicy is settings for all ports, and for some.
type TrafficPolicy struct {
	Traffic
	Ports []PortTraffic
}

// PortTraffic are the settings of one service port, by exactly one of number
// and name.
type PortTraffic struct {
	Number uint16
	Name   string
	Traffic
}

// Traffic is the blocks of settings; nil, or the zero value, is not given.
type Traffic struct {
	TLS          *TLSSettings
	LoadBalancer LoadBalancer
	Pool         *ConnectionPool
	Outliers     *OutlierDetection
}

// Subset is the endpoints of a service that have all of the labels.
type Subset struct {
	Name   string
	Labels map[string]string
	Policy *TrafficPolicy
}

// TLSSettings is a tls block. Mode is ClientPlain, ClientSimple, ClientMutual
// or ClientMesh; files are absolute paths at the proxy.
type TLSSettings struct {
	Mode              ClientTLS
	ClientCertificate string
	PrivateKey        string
	CACertificates    string // empty: what the proxy's system trusts
	SubjectAltNames   []string
	SNI               string
	SkipVerify        bool // takes any server for the right one
}

// LoadBalancer is how an endpoint is chosen.
type LoadBalancer uint8

// The choices; Passthrough leaves it to the client.
const (
	LoadBalancerUnset LoadBalancer = iota
	RoundRobin
	LeastRequest
	Random
	Passthrough
)

// ConnectionPool are limits of one proxy's connections; 0 is Envoy's default.
type ConnectionPool struct {
	MaxConnections           uint32
	ConnectTimeout           time.Duration
	MaxPendingRequests       uint32
	MaxRequests              uint32
	MaxRequestsPerConnection uint32
	MaxRetries               uint32
}

// OutlierDetection is when an endpoint is left out for a while; 0 is Envoy's
// default.
type OutlierDetection struct {
	ConsecutiveErrors  uint32
	ErrorsOff          bool // consecutive errors are not counted
	Interval           time.Duration
	BaseEjectionTime   time.Duration
	MaxEjectionPercent uint32
}

// at is what the policy says of a service port: a matching entry replaces all
// blocks, but without tls of its own the policy's is in force.
func (p *TrafficPolicy) at(port *ServicePort) Traffic {
	if p == nil {
		return Traffic{}
	}
	i := p.Entry(port.Number, port.Name)
	if i < 0 {
		return p.Traffic
	}
	t := p.Ports[i].Traffic
	if t.TLS == nil {
		t.TLS = p.TLS
	}
	return t
}

// over is t with the blocks that top gives in place of its own.
func (t Traffic) over(top Traffic) Traffic {
	if top.TLS != nil {
		t.TLS = top.TLS
	}
	if top.LoadBalancer != LoadBalancerUnset {
		t.LoadBalancer = top.LoadBalancer
	}
	if top.Pool != nil {
		t.Pool = top.Pool
	}
	if top.Outliers != nil {
		t.Outliers = top.Outliers
	}
	return t
}

// HasTLS says whether the policy holds a tls block.
func (p *TrafficPolicy) HasTLS() bool {
	if p == nil {
		return false
	}
	for i := range p.Ports {
		if p.Ports[i].TLS != nil {
			return true
		}
	}
	return p.TLS != nil
}

// HasTLS says whether the rule holds a tls block, or stands in for one.
func (r *DestinationRule) HasTLS() bool {
	for i := range r.Subsets {
		if r.Subsets[i].Policy.HasTLS() {
			return true
		}
	}
	return r.StandIn || r.Policy.HasTLS()
}

func (t *Traffic) digest(d *digest) {
	d.flag(t.TLS != nil, t.Pool != nil, t.Outliers != nil)
	d.num(uint64(t.LoadBalancer))
	if s := t.TLS; s != nil {
		d.num(uint64(s.Mode))
		d.str(s.ClientCertificate, s.PrivateKey, s.CACertificates, s.SNI)
		d.list(s.SubjectAltNames)
		d.flag(s.SkipVerify)
	}
	t.Pool.digest(d)
	if o := t.Outliers; o != nil {
		d.num(uint64(o.ConsecutiveErrors), uint64(o.Interval), uint64(o.BaseEjectionTime), uint64(o.MaxEjectionPercent))
		d.flag(o.ErrorsOff)
	}
}

func (p *ConnectionPool) digest(d *digest) {
	if p != nil {
		d.num(uint64(p.MaxConnections), uint64(p.ConnectTimeout), uint64(p.MaxPendingRequests),
			uint64(p.MaxRequests), uint64(p.MaxRequestsPerConnection), uint64(p.MaxRetries))
	}
}

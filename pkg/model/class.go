package model

import "cmp"

// NodeType is the kind of a proxy.
type NodeType uint8

// A router (gateway) has no inbound side of its own.
const (
	Sidecar NodeType = iota
	Router
)

// Proxy is what a connected Envoy says about itself, reduced to what may
// shape its configuration. Labels and identity are never taken from it.
type Proxy struct {
	ID      WorkloadID
	Type    NodeType
	Address string
	Capture *Capture // nil: the workload's annotation, else the mesh default
	Local   Local
}

// Local is where a proxy finds things on its own machine. The zero value
// means the defaults.
type Local struct {
	CertChain, Key, RootCert string // absolute paths; empty: /etc/certs/…
	AppAddress               string // what inbound clusters dial; empty: 127.0.0.1
}

// ClientClass is who shares the outbound half.
type ClientClass struct {
	Namespace string
	Type      NodeType
	Capture   Capture
}

// ServerClass is who shares the inbound half. Shape holds the ports with
// their services, and the values of those labels that some selector mentions.
type ServerClass struct {
	Namespace string
	Identity  string // service account
	Type      NodeType
	Capture   Capture
	Shape     string
	Address   string // only without capture: the listeners bind to it
	Local     Local
}

// Files are the paths of certificate chain, key and roots, defaults filled in
// (spec identity.md 7).
func (l Local) Files() (chain, key, root string) {
	return cmp.Or(l.CertChain, "/etc/certs/cert-chain.pem"), cmp.Or(l.Key, "/etc/certs/key.pem"), cmp.Or(l.RootCert, "/etc/certs/root-cert.pem")
}

// App is the address that inbound clusters dial.
func (l Local) App() string { return cmp.Or(l.AppAddress, "127.0.0.1") }

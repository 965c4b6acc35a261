package model

import "strings"

// Protocol is what a service port speaks. The zero value is TCP.
type Protocol uint8

// The protocols that change how a port is served; all others are TCP.
const (
	TCP Protocol = iota
	HTTP
	HTTP2
	GRPC
	HTTPS
	TLS
	Mongo
	Redis
	MySQL
)

// String is the protocol as a port name spells it.
func (p Protocol) String() string {
	switch p {
	case HTTP:
		return "http"
	case HTTP2:
		return "http2"
	case GRPC:
		return "grpc"
	case HTTPS:
		return "https"
	case TLS:
		return "tls"
	case Mongo:
		return "mongo"
	case Redis:
		return "redis"
	case MySQL:
		return "mysql"
	default:
		return "tcp"
	}
}

// IsHTTP says whether Envoy parses requests on the port (HTTP family).
func (p Protocol) IsHTTP() bool { return p == HTTP || p == HTTP2 || p == GRPC }

// IsHTTP2 says whether upstream connections speak HTTP/2.
func (p Protocol) IsHTTP2() bool { return p == HTTP2 || p == GRPC }

// ServerFirst says whether the server speaks before the client, so that
// nothing may wait for the client's first bytes.
func (p Protocol) ServerFirst() bool { return p == MySQL }

// ParseProtocol decides by appProtocol if it is known, else by the port name
// up to its first '-', both in any case. Unknown names are TCP (spec xds.md 3).
func ParseProtocol(appProtocol, portName string) Protocol {
	switch strings.ToLower(appProtocol) {
	case "kubernetes.io/h2c":
		return HTTP2
	case "kubernetes.io/ws":
		return HTTP
	}
	if p, ok := protocolNamed(appProtocol); ok {
		return p
	}
	name, _, _ := strings.Cut(portName, "-")
	// grpc-web holds a '-' of its own and is HTTP/1.1 on the wire.
	if lower := strings.ToLower(portName); lower == "grpc-web" || strings.HasPrefix(lower, "grpc-web-") {
		return HTTP
	}
	p, _ := protocolNamed(name)
	return p
}

func protocolNamed(name string) (Protocol, bool) {
	name = strings.ToLower(name)
	switch name {
	case "grpc-web":
		return HTTP, true
	case "udp": // on a TCP port: known, and nothing that is parsed
		return TCP, true
	}
	for p := TCP; p <= MySQL; p++ {
		if p.String() == name {
			return p, true
		}
	}
	return TCP, false
}

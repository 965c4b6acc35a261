package translate

import (
	"strconv"
	"strings"
)

// Series says what one of a sidecar's stats tells of the traffic of a port.
type Series uint8

// The series that are evidence. Counters grow for as long as the Envoy runs;
// Open are gauges of connections.
const (
	NoSeries        Series = iota
	SeriesPlainOpen        // not mesh mTLS, but served; of HTTP plaintext
	SeriesPassOpen         // the same, of what a TCP proxy takes
	SeriesPlain            // counter of both
	SeriesMeshOpen         // TLS that the sidecar ends, of HTTP ports
	SeriesMesh             // its counter
	SeriesMeshTCP          // the counter of TCP ports
	SeriesToAppOpen        // to the application, of mTLS on TCP ports; a pool of all requests on HTTP ports
	SeriesRefused          // counter of refused plaintext: HTTP requests, TCP connections
	SeriesHandshake        // counter of failed TLS handshakes, of no certain port
	SeriesLost             // counter of records that the sidecar dropped
)

// ReadSeries reads the name of a stat. Port 0 is all ports that nothing names.
func ReadSeries(name string) (port uint16, s Series) {
	switch {
	case strings.HasPrefix(name, "http.inbound_"):
		return readChain(name[len("http.inbound_"):], true)
	case strings.HasPrefix(name, "tcp.inbound_"):
		return readChain(name[len("tcp.inbound_"):], false)
	case strings.HasPrefix(name, "cluster.inbound|"):
		return readCluster(name[len("cluster.inbound|"):])
	case name == "cluster."+inboundPassthroughCluster+".upstream_cx_active":
		return 0, SeriesToAppOpen
	case name == "access_logs.grpc_access_log.logs_dropped":
		return 0, SeriesLost
	case strings.HasPrefix(name, "listener."):
		if strings.HasSuffix(name, ".ssl.connection_error") || strings.Contains(name, ".ssl.fail_verify_") {
			return 0, SeriesHandshake
		}
	}
	return 0, NoSeries
}

// readChain reads <port>_<chain>.<stat>.
func readChain(rest string, http bool) (uint16, Series) {
	scope, rest, _ := strings.Cut(rest, "_")
	chain, stat, _ := strings.Cut(rest, ".")
	port, ok := readScope(scope)
	if !ok {
		return 0, NoSeries
	}
	switch kind := chainKind(chain); {
	case (kind == chainPlain || kind == chainAppTLS) && stat == "downstream_cx_total":
		return port, SeriesPlain
	case kind == chainPlain && http && stat == "downstream_cx_active":
		return port, SeriesPlainOpen
	case kind == chainRefuse && stat == refusals(http):
		return port, SeriesRefused
	case kind == chainMTLS || kind == chainMTLSAny || kind == chainTLS:
		switch {
		case http && stat == "downstream_cx_active":
			return port, SeriesMeshOpen
		case http && stat == "downstream_cx_total":
			return port, SeriesMesh
		case stat == "downstream_cx_total":
			return port, SeriesMeshTCP
		}
	}
	return 0, NoSeries
}

// refusals leaves out the probes that a refusal of HTTP lets in.
func refusals(http bool) string {
	if http {
		return "downstream_rq_4xx"
	}
	return "downstream_cx_total"
}

// readCluster reads <port>|<use>|.<stat>.
func readCluster(rest string) (uint16, Series) {
	scope, rest, _ := strings.Cut(rest, "|")
	port, ok := readScope(scope)
	switch {
	case ok && rest == plainUse+"|.upstream_cx_active":
		return port, SeriesPassOpen
	case ok && rest == "|.upstream_cx_active":
		return port, SeriesToAppOpen
	}
	return 0, NoSeries
}

func readScope(scope string) (port uint16, ok bool) {
	if scope == otherScope {
		return 0, true
	}
	n, err := strconv.ParseUint(scope, 10, 16)
	return uint16(n), err == nil && n > 0
}

package translate

import (
	"strconv"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
)

// The names that have no parts. All xDS names are made in this file.
const (
	virtualInbound  = "virtualInbound"
	virtualOutbound = "virtualOutbound"

	passthroughCluster        = "PassthroughCluster"
	inboundPassthroughCluster = "InboundPassthroughCluster"
	openPassthroughCluster    = "inbound|" + otherScope + "|plain|" // what is not mesh mTLS
	blackHoleCluster          = "BlackHoleCluster"
	refuseCluster             = "refuse_plaintext"
	residentCluster           = "sds-resident"
	controlPlaneCluster       = "xds-grpc" // the bootstrap's

	otherScope = "other" // of ports that nothing names

	certSecret = "default"
	rootSecret = "ROOTCA"

	proxyRoute = "http_proxy"
)

// meshALPN are the tokens by which a server tells the mesh's own TLS from an
// application's. Clients offer the first only.
func meshALPN() []string {
	return []string{"istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"}
}

func decimal(port uint16) string { return strconv.Itoa(int(port)) }

// OutboundCluster is the name of a service port's cluster, and of its EDS
// resource: outbound|9080||reviews.default.svc.cluster.local.
func OutboundCluster(port uint16, host string) string { return outboundName(port, "", host) }

// plainSubset carries the endpoints of a headless service that take no mesh
// mTLS. A subset's name has no dot, so nothing clashes.
const plainSubset = "plain."

func outboundName(port uint16, subset, host string) string {
	return "outbound|" + decimal(port) + "|" + subset + "|" + host
}

// endpointsName is the EDS resource of a cluster: the cluster's own name,
// except where client namespaces differ in which endpoints it has.
func endpointsName(port uint16, subset, host, variant string) string {
	name := outboundName(port, subset, host)
	if variant != "" {
		name += "|" + variant
	}
	return name
}

// outboundSNI says which cluster a connection is for. Envoy refuses more than
// 255 bytes, which only the longest hosts reach.
func outboundSNI(port uint16, subset, host string) string {
	sni := "outbound_." + decimal(port) + "_." + subset + "_." + host
	if len(sni) > maxSNI {
		return host
	}
	return sni
}

const maxSNI = 255

func certName(rule *model.TLSSettings) string {
	return "file-cert:" + rule.ClientCertificate + "~" + rule.PrivateKey
}

func rootName(rule *model.TLSSettings) string {
	if rule.CACertificates == "" {
		return "file-root:system"
	}
	return "file-root:" + rule.CACertificates
}

func inboundName(port uint16, use string) string { return "inbound|" + decimal(port) + "|" + use + "|" }

// refuseRoute holds a refusal's text apart from its filter chain, which must
// not change when another policy says the same mode.
func refuseRoute(port uint16) string { return inboundName(port, "refuse") }

// plainRoute is the route of a port's plaintext chain. It is one of its own
// where a probe has a path there, which authorization must not close. It
// depends on the workload's probes and not on the mode.
func plainRoute(p *model.InboundPort) string {
	if len(p.Probes) == 0 {
		return inboundName(p.Port, "")
	}
	return inboundName(p.Port, plainUse)
}

func listenerName(address string, port uint16) string { return address + "_" + decimal(port) }

// statPrefix is a chain's own: the stats under it are what the chain serves.
func statPrefix(scope string, kind chainKind) string { return "inbound_" + scope + "_" + string(kind) }

func chainName(scope, chain string) string { return scope + "|" + chain }

// serviceDomains are the names under which clients of any namespace find svc.
// Short forms exist for services under the mesh's own domain.
func serviceDomains(svc *model.OutboundService, domain string) []string {
	domains := []string{svc.Host}
	if base, ok := strings.CutSuffix(svc.Host, ".svc."+domain); ok && svc.Name != "" {
		domains = append(domains, base+".svc", base)
	}
	if svc.Resolution == model.ResolveHeadless {
		domains = append(domains, "*."+svc.Host)
	}
	for _, vip := range svc.VIPs {
		domains = append(domains, bracketed(vip))
	}
	return domains
}

// shortName is the name under which clients of the service's own namespace
// find it; empty if it has none besides its host.
func shortName(svc *model.OutboundService, domain string) string {
	if strings.HasSuffix(svc.Host, ".svc."+domain) {
		return svc.Name
	}
	return ""
}

// bracketed is an address as it stands in an authority.
func bracketed(address string) string {
	if strings.Contains(address, ":") {
		return "[" + address + "]"
	}
	return address
}

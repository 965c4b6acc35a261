// Package capture says how a host's or pod's traffic is led through its
// sidecar: the rules for iptables, by the ports and addresses that a pod's
// annotations include and exclude. It is pure; whoever has a network namespace
// applies them.
package capture

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

const (
	// ProxyID is the user and group that the sidecar runs as; its own traffic is
	// never captured.
	ProxyID = 1337
	// passthroughSource is where the sidecar calls the application from, on
	// ports that no service names.
	passthroughSource = "127.0.0.6/32"

	mark  = 1337 // of packets that stay on this host, with TPROXY
	table = 133  // of routes that keep them here
)

// Ports are some TCP ports, or all.
type Ports struct {
	All  bool
	Only []uint16
}

// Ranges are some IPv4 addresses, or all.
type Ranges struct {
	All  bool
	Only []netip.Prefix
}

// Options say what is captured. Of outbound traffic only what is in
// IncludeRanges, and neither excluded by range nor by port.
type Options struct {
	OutboundPort, InboundPort uint16 // of the sidecar's listeners
	// TProxy keeps the caller's address on inbound connections. The sidecar then
	// needs the right to it, so it is known by its group alone.
	TProxy bool

	IncludeInbound  Ports
	ExcludeInbound  []uint16
	IncludeRanges   Ranges
	ExcludeRanges   []netip.Prefix
	ExcludeOutbound []uint16
}

// Everything is what is captured unless somebody says otherwise.
func Everything(outbound, inbound uint16) Options {
	return Options{
		OutboundPort: outbound, InboundPort: inbound,
		IncludeInbound: Ports{All: true}, IncludeRanges: Ranges{All: true},
	}
}

// Rules are the input of iptables-restore. They replace what is in the tables
// that they name, so that applying them twice is applying them once.
func Rules(o Options) string {
	r := &rules{owner: fmt.Sprintf("--uid-owner %d", ProxyID)}
	if o.TProxy {
		r.owner = fmt.Sprintf("--gid-owner %d", ProxyID)
		r.mangle(o)
	}
	r.line("*nat")
	r.chains("MESH_INBOUND", "MESH_OUTPUT", "MESH_REDIRECT", "MESH_IN_REDIRECT")
	r.line("-A MESH_REDIRECT -p tcp -j REDIRECT --to-ports %d", o.OutboundPort)
	r.line("-A MESH_IN_REDIRECT -p tcp -j REDIRECT --to-ports %d", o.InboundPort)
	if !o.TProxy {
		r.line("-A PREROUTING -p tcp -j MESH_INBOUND")
	}
	r.inbound(o, "MESH_IN_REDIRECT")
	r.outbound(o)
	r.line("COMMIT")
	return r.text.String()
}

// Routes are the lines for `ip -batch` that TPROXY needs besides Rules.
func Routes(o Options) []string {
	if !o.TProxy {
		return nil
	}
	return []string{
		fmt.Sprintf("rule add fwmark %d lookup %d", mark, table),
		fmt.Sprintf("route replace local default dev lo table %d", table),
	}
}

// StaleRoutes is the line for `ip -batch` that removes what Routes would add a
// second time; it fails if there is nothing to remove.
func StaleRoutes() string { return fmt.Sprintf("rule del fwmark %d lookup %d", mark, table) }

type rules struct {
	text  strings.Builder
	owner string // how the sidecar is known
}

func (r *rules) line(format string, args ...any) {
	fmt.Fprintf(&r.text, format+"\n", args...)
}

func (r *rules) chains(names ...string) {
	for _, name := range names {
		r.line(":%s - [0:0]", name)
	}
}

// mangle hands inbound packets to the sidecar as they are.
func (r *rules) mangle(o Options) {
	r.line("*mangle")
	r.chains("MESH_INBOUND", "MESH_DIVERT", "MESH_TPROXY")
	r.line("-A MESH_DIVERT -j MARK --set-mark %d", mark)
	r.line("-A MESH_DIVERT -j ACCEPT")
	r.line("-A MESH_TPROXY -p tcp -j TPROXY --tproxy-mark %d/0xffffffff --on-port %d", mark, o.InboundPort)
	r.line("-A PREROUTING -p tcp ! -i lo -j MESH_INBOUND")
	r.line("-A MESH_INBOUND -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j MESH_DIVERT")
	r.inbound(o, "MESH_TPROXY")
	r.line("COMMIT")
}

// inbound sends the captured ports to a chain.
func (r *rules) inbound(o Options, to string) {
	for _, port := range o.ExcludeInbound {
		r.line("-A MESH_INBOUND -p tcp --dport %d -j RETURN", port)
	}
	if o.IncludeInbound.All {
		r.line("-A MESH_INBOUND -p tcp -j %s", to)
	}
	for _, port := range o.IncludeInbound.Only {
		r.line("-A MESH_INBOUND -p tcp --dport %d -j %s", port, to)
	}
}

// outbound leaves out the sidecar's own traffic, but for calls of the pod to
// itself by its address, and what stays on the loopback interface.
func (r *rules) outbound(o Options) {
	r.line("-A OUTPUT -p tcp -j MESH_OUTPUT")
	r.line("-A MESH_OUTPUT -s %s -o lo -j RETURN", passthroughSource)
	r.line("-A MESH_OUTPUT ! -d 127.0.0.1/32 -o lo -m owner %s -j MESH_INBOUND", r.owner)
	r.line("-A MESH_OUTPUT -o lo -m owner ! %s -j RETURN", r.owner)
	r.line("-A MESH_OUTPUT -m owner %s -j RETURN", r.owner)
	r.line("-A MESH_OUTPUT -d 127.0.0.1/32 -j RETURN")
	for _, port := range o.ExcludeOutbound {
		r.line("-A MESH_OUTPUT -p tcp --dport %d -j RETURN", port)
	}
	for _, prefix := range o.ExcludeRanges {
		r.line("-A MESH_OUTPUT -d %s -j RETURN", prefix)
	}
	if o.IncludeRanges.All {
		r.line("-A MESH_OUTPUT -j MESH_REDIRECT")
	}
	for _, prefix := range o.IncludeRanges.Only {
		r.line("-A MESH_OUTPUT -d %s -j MESH_REDIRECT", prefix)
	}
}

// ParsePorts reads "*" or port numbers with commas between.
func ParsePorts(text string) (Ports, error) {
	if strings.TrimSpace(text) == "*" {
		return Ports{All: true}, nil
	}
	only, err := ParsePortList(text)
	return Ports{Only: only}, err
}

// ParsePortList reads port numbers with commas between; empty is none.
func ParsePortList(text string) ([]uint16, error) {
	var out []uint16
	for item := range items(text) {
		port, err := strconv.ParseUint(item, 10, 16)
		if err != nil || port == 0 {
			return nil, fmt.Errorf("%q is no port; write port numbers of 1 to 65535 with commas between", item)
		}
		out = append(out, uint16(port))
	}
	return out, nil
}

// ParseRanges reads "*" or CIDR ranges with commas between.
func ParseRanges(text string) (Ranges, error) {
	if strings.TrimSpace(text) == "*" {
		return Ranges{All: true}, nil
	}
	only, err := ParseRangeList(text)
	return Ranges{Only: only}, err
}

// ParseRangeList reads CIDR ranges of IPv4 with commas between; empty is none.
func ParseRangeList(text string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for item := range items(text) {
		prefix, err := netip.ParsePrefix(item)
		if ip, notPrefix := netip.ParseAddr(item); notPrefix == nil && ip.Is4() {
			prefix, err = ip.Prefix(32)
		}
		if err != nil || !prefix.Addr().Is4() {
			return nil, fmt.Errorf("%q is no range of IPv4 addresses; write ranges such as 10.0.0.0/8 with commas between", item)
		}
		out = append(out, prefix.Masked())
	}
	return out, nil
}

func items(text string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" && !yield(item) {
				return
			}
		}
	}
}

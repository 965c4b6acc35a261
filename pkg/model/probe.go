package model

import (
	"cmp"
	"slices"
	"strings"
)

// Probe is a declared health check of a workload. It arrives without a mesh
// certificate. Probes that send nothing (exec, tcpSocket) shape no
// configuration.
type Probe struct {
	Port uint16
	// Path is as NormalizePath has it, without query; empty if what the probe
	// asks for cannot be told from other bytes, as within TLS.
	Path string
	GRPC bool // POST over HTTP/2; otherwise GET
}

func compareProbes(a, b Probe) int {
	return cmp.Or(int(a.Port)-int(b.Port), strings.Compare(a.Path, b.Path), compareBool(a.GRPC, b.GRPC))
}

// sortedProbes is a sorted copy without duplicates.
func sortedProbes(probes []Probe) []Probe {
	if len(probes) == 0 {
		return nil
	}
	sorted := slices.Clone(probes)
	slices.SortFunc(sorted, compareProbes)
	return slices.Compact(sorted)
}

// probesOf are those of one port.
func probesOf(probes []Probe, port uint16) []Probe {
	from, _ := slices.BinarySearchFunc(probes, port, func(p Probe, port uint16) int { return int(p.Port) - int(port) })
	to := from
	for to < len(probes) && probes[to].Port == port {
		to++
	}
	return probes[from:to]
}

// NormalizePath is what Envoy compares with a route on ports that admit a
// probe only: path without query, dot segments resolved, needless escapes
// undone, slashes merged. It is false where Envoy answers 400: an escaped
// slash or NUL could mean another path to the application than to Envoy.
func NormalizePath(path string) (string, bool) {
	path, _, _ = strings.Cut(path, "?")
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	var clean strings.Builder
	for i := 0; i < len(path); i++ {
		c, escaped := path[i], false
		if c == '%' && i+2 < len(path) {
			if hi, lo := unhex(path[i+1]), unhex(path[i+2]); hi >= 0 && lo >= 0 {
				c, escaped = byte(hi<<4|lo), true
			}
		}
		switch {
		case escaped && (c == '/' || c == '\\' || c == 0):
			return "", false
		case escaped && !unreserved(c):
			clean.WriteString(path[i : i+3])
		case c == '\\':
			clean.WriteByte('/')
		case !escaped && mustEscape(c):
			const digits = "0123456789ABCDEF"
			clean.Write([]byte{'%', digits[c>>4], digits[c&15]})
		default:
			clean.WriteByte(c)
		}
		if escaped {
			i += 2
		}
	}
	return resolveDots(clean.String()), true
}

// resolveDots resolves "." and ".." and merges slashes.
func resolveDots(path string) string {
	var out []string
	directory := false // ends with a slash
	for segment := range strings.SplitSeq(path[1:], "/") {
		directory = segment == "" || segment == "." || segment == ".."
		switch segment {
		case ".":
		case "..":
			out = out[:max(len(out)-1, 0)]
		default:
			out = append(out, segment)
		}
	}
	// Empty segments count for "..", as Envoy merges slashes afterwards.
	out = slices.DeleteFunc(out, func(s string) bool { return s == "" })
	joined := "/" + strings.Join(out, "/")
	if directory && len(out) > 0 {
		joined += "/"
	}
	return joined
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	default:
		return -1
	}
}

func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

func mustEscape(c byte) bool {
	return c <= ' ' || c >= 0x7f || strings.IndexByte("\"#<>`{}", c) >= 0
}

package simulate

import (
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/meshpilot/pilot/pkg/model"
)

// normalize is what the connection manager makes of a path; false if it
// answers 400.
func normalize(hcm *hcmv3.HttpConnectionManager, path string) (string, bool) {
	if hcm.PathWithEscapedSlashesAction != hcmv3.HttpConnectionManager_REJECT_REQUEST {
		return path, true // routed by any path
	}
	clean, ok := model.NormalizePath(path)
	if _, query, found := strings.Cut(path, "?"); found {
		clean += "?" + query
	}
	return clean, ok
}

// inboundRoute is the first that matches path and method.
func inboundRoute(config *routev3.RouteConfiguration, c Call, path string) *routev3.Route {
	bare, _, _ := strings.Cut(path, "?")
	for _, route := range config.GetVirtualHosts()[0].Routes {
		exact, isExact := route.Match.PathSpecifier.(*routev3.RouteMatch_Path)
		if isExact && exact.Path != bare || route.Match.Grpc != nil && c.Protocol != GRPC {
			continue
		}
		if !slices.ContainsFunc(route.Match.Headers, func(h *routev3.HeaderMatcher) bool { return !c.hasHeader(h) }) {
			return route
		}
	}
	return nil
}

// hasHeader says whether the call satisfies a match of the kinds that are
// generated: the method, and the absence of a length.
func (c Call) hasHeader(h *routev3.HeaderMatcher) bool {
	if h.Name == ":method" {
		return h.GetStringMatch().GetExact() == c.method()
	}
	return h.InvertMatch != c.Body
}

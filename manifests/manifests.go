// Package manifests holds what "pilot install" prints: the rendered chart, and
// how another namespace or image changes it.
package manifests

import (
	_ "embed" // for pilot.yaml
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

//go:embed pilot.yaml
var pilot string

// What the rendered chart has where Options say something else.
const (
	DefaultNamespace  = "istio-system"
	DefaultImage      = "meshpilot/pilot:0.1.0"
	DefaultProxyImage = "meshpilot/pilot-proxy:0.1.0"
)

// Options are what can be chosen without Helm; empty is the default.
type Options struct {
	Namespace         string
	Image, ProxyImage string
	Replicas          int // at least so many; 0 is the default
}

// Render gives the objects as YAML, in the order in which they can be applied.
// A test holds it against what Helm renders with the same values.
func Render(o Options) (string, error) {
	text := pilot
	for _, r := range []struct {
		what, old, new string
		valid          *regexp.Regexp
	}{
		// The longer image first: the other is not a part of it, but stay safe.
		{"proxy image", DefaultProxyImage, o.ProxyImage, image},
		{"image", DefaultImage, o.Image, image},
		{"namespace", DefaultNamespace, o.Namespace, label},
	} {
		if r.new == "" {
			continue
		}
		if !r.valid.MatchString(r.new) {
			return "", fmt.Errorf("%q is no valid %s", r.new, r.what)
		}
		text = strings.ReplaceAll(text, r.old, r.new)
	}
	switch {
	case o.Replicas < 0:
		return "", fmt.Errorf("%d is no number of replicas", o.Replicas)
	case o.Replicas > 0:
		text = minReplicas.ReplaceAllString(text, "minReplicas: "+strconv.Itoa(o.Replicas))
		text = maxReplicas.ReplaceAllString(text, "maxReplicas: "+strconv.Itoa(max(5, o.Replicas)))
	}
	return text, nil
}

var (
	label       = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	image       = regexp.MustCompile(`^[a-z0-9][-a-zA-Z0-9._:/@]*$`)
	minReplicas = regexp.MustCompile(`minReplicas: \d+`)
	maxReplicas = regexp.MustCompile(`maxReplicas: \d+`)
)

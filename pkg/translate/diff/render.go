// Package diff shows a proxy's configuration as people read it: canonical
// YAML, and the difference of two of them by resource and field.
package diff

import (
	"encoding/json"
	"fmt"

	"github.com/meshpilot/pilot/pkg/translate"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"
)

// sections are the parts of a rendered configuration in reading order.
func sections() []struct{ name, typeURL string } {
	return []struct{ name, typeURL string }{
		{"listeners", translate.ListenerType},
		{"routes", translate.RouteType},
		{"clusters", translate.ClusterType},
		{"endpoints", translate.EndpointType},
		{"secrets", translate.SecretType},
	}
}

// Render is the configuration of one proxy as canonical YAML: all types, by
// name, with sorted keys and Envoy's own field names.
func Render(c translate.Config) []byte {
	bodies := map[string][]*anypb.Any{}
	for _, s := range sections() {
		for _, r := range c.Resources(s.typeURL) {
			bodies[s.typeURL] = append(bodies[s.typeURL], r.Body)
		}
	}
	return RenderBodies(bodies)
}

// RenderBodies renders resources by type URL, in the given order.
func RenderBodies(bodies map[string][]*anypb.Any) []byte {
	var out []byte
	for _, s := range sections() {
		list := make([]any, len(bodies[s.typeURL]))
		for i, body := range bodies[s.typeURL] {
			list[i] = tree(body)
		}
		text, err := yaml.Marshal(map[string]any{s.name: list})
		if err != nil { // a tree of JSON values always marshals
			text = fmt.Appendf(nil, "%s: %q\n", s.name, err)
		}
		out = append(out, text...)
	}
	return out
}

// tree decodes a resource, and all Any messages in it, to JSON's types.
func tree(body *anypb.Any) any {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(body)
	if err != nil {
		return map[string]any{"@type": body.TypeUrl, "undecodable": err.Error()}
	}
	var out map[string]any
	if err := json.Unmarshal(text, &out); err != nil {
		return map[string]any{"@type": body.TypeUrl, "undecodable": err.Error()}
	}
	delete(out, "@type") // the section says it
	return out
}

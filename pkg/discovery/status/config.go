package status

import (
	"bytes"
	"encoding/json"
	"fmt"
	"github.com/meshpilot/pilot/pkg/translate"
	"google.golang.org/protobuf/encoding/protojson"
	"net/http"
)

func (p Pages) config(r *http.Request, _ State) (any, error) {
	node := r.FormValue("proxy")
	if node == "" {
		return nil, refusal{http.StatusBadRequest, "proxy is the node id of a connected proxy; /debug/proxies lists them"}
	}
	config, ok, err := p.Config(r.Context(), node)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, refusal{http.StatusNotFound, "no connected proxy has this node id"}
	}
	type resource struct {
		Name    string   `json:"name"`
		Version string   `json:"version"`
		From    []string `json:"from"`
		Body    any      `json:"body"`
	}
	out := map[string][]resource{}
	for _, of := range config {
		list := []resource{}
		for _, res := range of.Resources {
			body, err := readable(res)
			if err != nil {
				return nil, fmt.Errorf("%s %q: %w", TypeName(of.TypeURL), res.Name, err)
			}
			from := []string{}
			for _, key := range res.From {
				from = append(from, key.String())
			}
			list = append(list, resource{res.Name, res.Version, from, body})
		}
		out[TypeName(of.TypeURL)] = list
	}
	return struct {
		Proxy string                `json:"proxy"`
		Types map[string][]resource `json:"types"`
	}{node, out}, nil
}

// readable is a resource as a tree for JSON, without key material.
func readable(r *translate.Resource) (any, error) {
	raw, err := protojson.Marshal(r.Body)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return nil, err
	}
	redact(tree, false)
	return tree, nil
}

// redact blanks what stands inline in a place that holds keys. Files are named
// by path, and a path is no secret.
func redact(tree any, secret bool) {
	switch node := tree.(type) {
	case map[string]any:
		for name, value := range node {
			switch name {
			case "inlineString", "inlineBytes":
				if secret {
					node[name] = "[redacted]"
				}
			case "privateKey", "password", "pkcs12", "sessionTicketKeys", "genericSecret", "privateKeyProvider":
				redact(value, true)
			default:
				redact(value, secret)
			}
		}
	case []any:
		for _, value := range node {
			redact(value, secret)
		}
	}
}

func (p Pages) mesh(_ *http.Request, s State) (any, error) {
	if s.Snapshot == nil {
		return nil, notYet()
	}
	errs := []string{}
	for _, f := range s.Findings {
		if f.On.Kind == "MeshConfig" || f.On.Kind == "ConfigMap" {
			errs = append(errs, f.Severity.String()+" "+f.Code+": "+joinField(f.Field, f.Message))
		}
	}
	return struct {
		Mesh
		Revision string   `json:"revision,omitempty"` // of the whole configuration
		Problems []string `json:"problems"`
		Config   any      `json:"config"`
	}{s.Mesh, s.revision("").InForce, errs, s.Mesh.Config}, nil
}

func notYet() error {
	return refusal{http.StatusServiceUnavailable, "no complete configuration was read yet"}
}

func joinField(field, message string) string {
	if field == "" {
		return message
	}
	return field + ": " + message
}

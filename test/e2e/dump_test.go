package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// assertDumps proves for every sidecar and all types that Envoy has what is
// rendered, no more and no less. A difference counts if it stays: the routes of
// a removed filter chain live until it is drained.
func (m *mesh) assertDumps(when string) {
	m.t.Helper()
	for _, id := range m.Sidecars() {
		var diff string
		for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			body, err := m.Admin(m.t.Context(), id, "/config_dump?include_eds")
			if err != nil {
				m.t.Fatal(err)
			}
			rendered, err := m.Render(id)
			if err != nil {
				m.t.Fatal(err)
			}
			got, want := dumped(m.t.Fatal, body), wanted(m.t.Fatal, rendered)
			if diff = differences(want, got); diff == "" || time.Now().After(deadline) {
				break
			}
		}
		if diff != "" {
			m.t.Errorf("%s: %s has something else than is rendered:\n%s", when, id, diff)
		}
	}
}

// sections are the resources by type, then by name.
type sections map[string]map[string]any

// differences names the resources that only one side has, and shows how the
// others differ.
func differences(want, got sections) string {
	var out []string
	for _, kind := range []string{"listeners", "routes", "clusters", "endpoints", "secrets", "warming"} {
		for name, r := range want[kind] {
			if other, ok := got[kind][name]; !ok {
				out = append(out, fmt.Sprintf("%s: only rendered: %s", kind, name))
			} else if d := cmp.Diff(r, other); d != "" {
				out = append(out, fmt.Sprintf("%s: %s (-rendered +Envoy):\n%s", kind, name, d))
			}
		}
		for name := range got[kind] {
			if _, ok := want[kind][name]; !ok {
				out = append(out, fmt.Sprintf("%s: only in Envoy: %s", kind, name))
			}
		}
	}
	return strings.Join(out, "\n")
}

// wanted reads what render printed, and does to it what Envoy does before it
// shows its configuration.
func wanted(fatal func(...any), rendered []byte) sections {
	var lists map[string][]map[string]any
	if err := yaml.Unmarshal(rendered, &lists); err != nil {
		fatal(err)
	}
	all := sections{}
	for kind, list := range lists {
		all[kind] = map[string]any{}
		for _, r := range list {
			switch kind {
			case "secrets":
				inlineFiles(fatal, r)
			case "endpoints":
				plainEndpoints(r)
			}
			all[kind][nameOf(r)] = r
		}
	}
	return all
}

func nameOf(r map[string]any) string {
	for _, field := range []string{"name", "cluster_name"} {
		if name, ok := r[field].(string); ok {
			return name
		}
	}
	return fmt.Sprint(r)
}

// dumped picks the dynamic resources out of a config_dump.
func dumped(fatal func(...any), body string) sections {
	var dump struct {
		Configs []struct {
			Clusters []struct {
				Cluster map[string]any `json:"cluster"`
			} `json:"dynamic_active_clusters"`
			Warming   []any `json:"dynamic_warming_clusters"`
			Listeners []struct {
				Active struct {
					Listener map[string]any `json:"listener"`
				} `json:"active_state"`
				Warming  any `json:"warming_state"`
				Draining any `json:"draining_state"`
			} `json:"dynamic_listeners"`
			Routes []struct {
				Route map[string]any `json:"route_config"`
			} `json:"dynamic_route_configs"`
			Endpoints []struct {
				Endpoint map[string]any `json:"endpoint_config"`
			} `json:"dynamic_endpoint_configs"`
			Secrets []struct {
				Version string         `json:"version_info"`
				Secret  map[string]any `json:"secret"`
			} `json:"dynamic_active_secrets"`
		} `json:"configs"`
	}
	if err := json.Unmarshal([]byte(body), &dump); err != nil {
		fatal(err)
	}
	all := sections{"clusters": {}, "listeners": {}, "routes": {}, "endpoints": {}, "secrets": {}}
	put := func(kind string, r map[string]any) {
		delete(r, "@type")
		all[kind][nameOf(r)] = r
	}
	for _, c := range dump.Configs {
		if len(c.Warming) > 0 {
			all["warming"] = map[string]any{"clusters": c.Warming}
		}
		for _, r := range c.Clusters {
			put("clusters", r.Cluster)
		}
		for _, r := range c.Listeners {
			if r.Active.Listener != nil {
				put("listeners", r.Active.Listener)
			}
			if r.Warming != nil {
				all["warming"] = map[string]any{"listener": r.Warming}
			}
		}
		for _, r := range c.Routes {
			put("routes", r.Route)
		}
		for _, r := range c.Endpoints {
			put("endpoints", r.Endpoint)
		}
		for _, r := range c.Secrets {
			if r.Version != "" { // the others are the bootstrap's own
				put("secrets", r.Secret)
			}
		}
	}
	// Envoy shows endpoints of every cluster; those by EDS came over ADS.
	for name, r := range all["endpoints"] {
		cluster, _ := all["clusters"][name].(map[string]any)
		if cluster["type"] != "EDS" {
			delete(all["endpoints"], name)
			continue
		}
		plainEndpoints(r.(map[string]any))
	}
	return all
}

// plainEndpoints leaves out what Envoy adds to endpoints, where it says
// nothing but the default.
func plainEndpoints(assignment map[string]any) {
	if policy, ok := assignment["policy"].(map[string]any); ok && fmt.Sprint(policy) == "map[overprovisioning_factor:140]" {
		delete(assignment, "policy")
	}
	localities, _ := assignment["endpoints"].([]any)
	for _, l := range localities {
		locality := l.(map[string]any)
		dropDefaults(locality, map[string]string{"locality": "map[]", "load_balancing_weight": "0"})
		endpoints, _ := locality["lb_endpoints"].([]any)
		for _, e := range endpoints {
			endpoint := e.(map[string]any)
			dropDefaults(endpoint, map[string]string{"health_status": "HEALTHY", "load_balancing_weight": "1", "metadata": "map[]"})
			if inner, ok := endpoint["endpoint"].(map[string]any); ok {
				dropDefaults(inner, map[string]string{"health_check_config": "map[]"})
			}
		}
	}
	if len(localities) == 0 {
		delete(assignment, "endpoints")
	}
}

func dropDefaults(m map[string]any, defaults map[string]string) {
	for field, value := range defaults {
		if fmt.Sprint(m[field]) == value {
			delete(m, field)
		}
	}
}

// inlineFiles replaces file names by what is in the files, and the key by what
// Envoy shows instead of one.
func inlineFiles(fatal func(...any), secret map[string]any) {
	var walk func(path []string, node map[string]any)
	walk = func(path []string, node map[string]any) {
		name, ok := node["filename"].(string)
		if ok {
			content := []byte("[redacted]")
			if !slices.Contains(path, "private_key") {
				var err error
				if content, err = os.ReadFile(name); err != nil {
					fatal(err)
				}
			}
			delete(node, "filename")
			node["inline_bytes"] = content
		}
		for field, child := range node {
			if inner, ok := child.(map[string]any); ok {
				walk(append(path, field), inner)
			}
		}
		if bytes, ok := node["inline_bytes"].([]byte); ok {
			text, err := json.Marshal(bytes)
			if err != nil {
				fatal(err)
			}
			node["inline_bytes"] = strings.Trim(string(text), `"`)
		}
	}
	walk(nil, secret)
}

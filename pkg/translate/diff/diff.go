package diff

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"sigs.k8s.io/yaml"
)

// Change is one field that differs. An empty Field is the whole resource; Old
// or New is empty where there is none.
type Change struct {
	Type     string `json:"type"` // listeners, routes, clusters, endpoints, secrets
	Resource string `json:"resource"`
	Field    string `json:"field,omitempty"`
	Old      string `json:"old,omitempty"`
	New      string `json:"new,omitempty"`
}

// String is one line: "~ clusters outbound|80||a connect_timeout: 10s -> 5s".
// Long values are cut.
func (c Change) String() string {
	where := c.Type + " " + c.Resource
	if c.Field != "" {
		where += " " + c.Field
	}
	switch {
	case c.Old == "":
		return "+ " + where + addition(c.Field, c.New)
	case c.New == "":
		return "- " + where + addition(c.Field, c.Old)
	default:
		return "~ " + where + ": " + short(c.Old) + " -> " + short(c.New)
	}
}

func short(value string) string {
	const most = 100 // runes
	if r := []rune(value); len(r) > most {
		return string(r[:most]) + "…"
	}
	return value
}

// addition leaves out the content of whole resources: their names say enough.
func addition(field, value string) string {
	if field == "" {
		return ""
	}
	return ": " + short(value)
}

// Diff compares two rendered configurations. The order is that of Render:
// by type, resource, field. Text that is not YAML is one change of itself.
func Diff(old, new []byte) []Change {
	before, errOld := parse(old)
	after, errNew := parse(new)
	if errOld != nil || errNew != nil {
		if string(old) == string(new) {
			return nil
		}
		return []Change{{Type: "unreadable", Old: fmt.Sprint(errOld), New: fmt.Sprint(errNew)}}
	}
	var out []Change
	for _, s := range sections() {
		w := walk{section: s.name}
		was, is := byName(before[s.name]), byName(after[s.name])
		for _, name := range keys(was, is) {
			w.resource = name
			w.compare("", was[name], is[name])
		}
		out = append(out, w.changes...)
	}
	return out
}

func parse(text []byte) (map[string][]any, error) {
	out := map[string][]any{}
	return out, yaml.Unmarshal(text, &out)
}

// byName indexes resources, and any list whose elements all have a name of
// their own; nil if one has none.
func byName(list []any) map[string]any {
	out := make(map[string]any, len(list))
	for _, item := range list {
		name := identity(item)
		if _, twice := out[name]; name == "" || twice {
			return nil
		}
		out[name] = item
	}
	return out
}

// identity is what tells list elements apart in Envoy's API.
func identity(item any) string {
	fields, ok := item.(map[string]any)
	if !ok {
		return ""
	}
	for _, key := range []string{"name", "cluster_name"} {
		if s, ok := fields[key].(string); ok {
			return s
		}
	}
	if endpoint, ok := fields["endpoint"].(map[string]any); ok {
		return fmt.Sprint(text(dig(endpoint, "address", "socket_address", "address")), ":", text(dig(endpoint, "address", "socket_address", "port_value")))
	}
	if upgrade, ok := fields["upgrade_type"].(string); ok {
		return upgrade
	}
	return ""
}

func dig(value any, path ...string) any {
	for _, key := range path {
		fields, _ := value.(map[string]any)
		value = fields[key]
	}
	return value
}

func keys(a, b map[string]any) []string {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]any{}
	}
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}

type walk struct {
	section, resource string
	changes           []Change
}

func (w *walk) compare(field string, old, new any) {
	if reflect.DeepEqual(old, new) {
		return
	}
	if a, b, ok := both[map[string]any](old, new); ok {
		for _, key := range keys(a, b) {
			w.compare(join(field, key), a[key], b[key])
		}
		return
	}
	if a, b, ok := both[[]any](old, new); ok && w.compareLists(field, a, b) {
		return
	}
	w.changes = append(w.changes, Change{Type: w.section, Resource: w.resource, Field: field, Old: text(old), New: text(new)})
}

// compareLists goes by name where the elements have one, else by place where
// the lengths agree.
func (w *walk) compareLists(field string, old, new []any) bool {
	a, b := byName(old), byName(new)
	if a != nil && b != nil {
		before := len(w.changes)
		for _, key := range keys(a, b) {
			w.compare(field+"["+key+"]", a[key], b[key])
		}
		return len(w.changes) > before // else only the order differs
	}
	if len(old) != len(new) {
		return false
	}
	for i := range old {
		w.compare(fmt.Sprintf("%s[%d]", field, i), old[i], new[i])
	}
	return true
}

func both[T any](a, b any) (T, T, bool) {
	x, okX := a.(T)
	y, okY := b.(T)
	return x, y, okX && okY
}

func join(field, key string) string {
	if field == "" {
		return key
	}
	return field + "." + key
}

func text(value any) string {
	if value == nil {
		return ""
	}
	if s, ok := value.(string); ok {
		return cmp.Or(s, `""`)
	}
	out, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(out)
}

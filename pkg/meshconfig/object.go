package meshconfig

import (
	"maps"
	"slices"
	"strconv"

	"github.com/meshpilot/pilot/pkg/model"
	"go.yaml.in/yaml/v3"
)

// meshText is the place of problems inside the mesh settings of a ConfigMap:
// lines count within that text.
const meshText = "data.mesh"

// DecodeObject reads one object as the Kubernetes API has it, with the same
// rules and texts as Decode. Problems have no place, but for those of the
// text in a ConfigMap.
func DecodeObject(object map[string]any) (Bundle, []Problem) {
	d := &decoder{}
	d.out.Positions = map[model.Key]Position{}
	d.document(tree(object))
	for i := range d.problems {
		p := &d.problems[i]
		if p.On.Kind == "ConfigMap" && p.Field != "data" && !within(p.Field, "metadata") {
			p.At.File = meshText
		} else {
			p.At = Position{}
		}
	}
	d.out.Generations = generations(&d.out, object)
	// What the API holds has a name, and is whole.
	d.out.Positions, d.out.Torn = nil, nil
	return d.out, d.problems
}

// generations is that of the one object of b.
func generations(b *Bundle, object map[string]any) map[model.Key]int64 {
	meta, _ := object["metadata"].(map[string]any)
	generation, _ := meta["generation"].(int64)
	if generation == 0 {
		return nil // of a kind that has none
	}
	for key := range b.objects() {
		return map[model.Key]int64{key: generation}
	}
	for _, i := range b.Invalid {
		return map[model.Key]int64{i.On: generation}
	}
	return nil
}

// tree is a JSON value as a YAML document, all on one line.
func tree(value any) *yaml.Node {
	scalar := func(tag, text string) *yaml.Node {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: text, Line: 1}
	}
	text := func(s string) *yaml.Node {
		n := scalar("!!str", s)
		n.Style = yaml.DoubleQuotedStyle // so that "no" stays a string
		return n
	}
	switch v := value.(type) {
	case map[string]any:
		n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: 1}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			n.Content = append(n.Content, text(key), tree(v[key]))
		}
		return n
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Line: 1}
		for _, item := range v {
			n.Content = append(n.Content, tree(item))
		}
		return n
	case string:
		return text(v)
	case bool:
		return scalar("!!bool", strconv.FormatBool(v))
	case int64:
		return scalar("!!int", strconv.FormatInt(v, 10))
	case float64:
		return scalar("!!float", strconv.FormatFloat(v, 'g', -1, 64))
	default:
		return scalar("!!null", "null")
	}
}

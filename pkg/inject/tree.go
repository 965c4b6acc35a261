package inject

import (
	"encoding/json"

	"go.yaml.in/yaml/v3"
)

// nodeOf is a value as its JSON has it, in block style.
func nodeOf(value any) *yaml.Node {
	text, _ := json.Marshal(value) // of Kubernetes types and strings
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil || len(document.Content) == 0 {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
	}
	plain(document.Content[0])
	return document.Content[0]
}

// plain leaves the style to the encoder, which quotes what needs it.
func plain(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		plain(c)
	}
}

// indentAs has the encoder indent as the document does.
func indentAs(e *yaml.Encoder, root *yaml.Node) {
	e.SetIndent(2)
	if width := mappingIndent(root); width > 1 {
		e.SetIndent(width)
	}
	if compact(root) {
		e.CompactSeqIndent()
	}
}

// mappingIndent is how far the first mapping in another is to the right of it.
func mappingIndent(n *yaml.Node) int {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if v := n.Content[i+1]; v.Kind == yaml.MappingNode && v.Style&yaml.FlowStyle == 0 && v.Line > n.Content[i].Line {
			return v.Column - n.Content[i].Column
		}
	}
	for _, c := range n.Content {
		if width := mappingIndent(c); width > 0 {
			return width
		}
	}
	return 0
}

// compact says whether the first list starts below its key, not right of it.
func compact(n *yaml.Node) bool {
	found, answer := firstList(n)
	return found && answer
}

func firstList(n *yaml.Node) (found, compact bool) {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if v := n.Content[i+1]; v.Kind == yaml.SequenceNode && v.Style&yaml.FlowStyle == 0 && len(v.Content) > 0 {
			return true, v.Column == n.Content[i].Column
		}
	}
	for _, c := range n.Content {
		if found, compact = firstList(c); found {
			return found, compact
		}
	}
	return false, false
}

// Honest documents never reach these: they stop those that repeat themselves
// through aliases.
const (
	maxNodes = 1_000_000
	maxDepth = 200
)

// expanded is a document in which nothing is shared, because what is added to
// a template's labels may not show up in a selector that is an alias of them.
// It is the same document if nothing was shared, and nil if it has no end.
func expanded(root *yaml.Node) *yaml.Node {
	if !shares(root) {
		return root
	}
	nodes := 0
	return copied(root, &nodes, 0)
}

func shares(n *yaml.Node) bool {
	if n.Kind == yaml.AliasNode || n.Tag == "!!merge" {
		return true
	}
	for _, c := range n.Content {
		if shares(c) {
			return true
		}
	}
	return false
}

func copied(n *yaml.Node, nodes *int, depth int) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if *nodes++; *nodes > maxNodes || depth > maxDepth {
		return nil
	}
	out := *n
	out.Anchor, out.Content = "", nil
	for _, c := range n.Content {
		child := copied(c, nodes, depth+1)
		if child == nil {
			return nil
		}
		out.Content = append(out.Content, child)
	}
	if out.Kind == yaml.MappingNode {
		out.Content = merged(out.Content)
	}
	return &out
}

// merged works the "<<" members of a mapping in; its own members win.
func merged(content []*yaml.Node) []*yaml.Node {
	var own, others []*yaml.Node
	for i := 0; i+1 < len(content); i += 2 {
		switch key, value := content[i], content[i+1]; {
		case key.Tag != "!!merge":
			own = append(own, key, value)
		case value.Kind == yaml.SequenceNode:
			for _, one := range value.Content {
				others = append(others, one.Content...)
			}
		default:
			others = append(others, value.Content...)
		}
	}
	have := map[string]bool{}
	for i := 0; i+1 < len(own); i += 2 {
		have[own[i].Value] = true
	}
	for i := 0; i+1 < len(others); i += 2 {
		if !have[others[i].Value] {
			have[others[i].Value] = true
			own = append(own, others[i], others[i+1])
		}
	}
	return own
}

// Package strict reads YAML the way kubectl does, but keeps the place of
// everything: it decodes a tree of nodes into Go structs (by their JSON tags)
// and protobuf messages (by their descriptors), refuses unknown and repeated
// fields and wrong types, and reports all of them at once, each with its line.
package strict

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Fault is one thing that is wrong in a document.
type Fault struct {
	Line   int    // as editors count, from 1
	Path   string // of the field, "spec.ports[0].port"; empty for the whole document
	Text   string // what is wrong, and what to write instead
	Unused bool   // the field is known and without effect: no error
}

// Documents parses all YAML documents of a file. A syntax error ends it: the
// documents before it are returned together with the fault. Documents without
// content are left out.
func Documents(data []byte) ([]*yaml.Node, *Fault) {
	var docs []*yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return docs, syntaxFault(data, err)
		}
		if len(doc.Content) == 1 && !isNull(doc.Content[0]) {
			docs = append(docs, doc.Content[0])
		}
	}
}

// Embedded parses a document that is the text of a scalar, as in a ConfigMap.
// Its lines are those of the file that holds the scalar. It is nil if the text
// has no content.
func Embedded(scalar *yaml.Node) (*yaml.Node, *Fault) {
	offset := scalar.Line - 1
	if scalar.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		offset = scalar.Line // the text starts below the line with the '|'
	}
	docs, fault := Documents([]byte(scalar.Value))
	if fault != nil {
		fault.Line += offset
		return nil, fault
	}
	if len(docs) > 1 {
		return nil, &Fault{Line: docs[1].Line + offset, Text: "want one document, got more; remove the line ---"}
	}
	if len(docs) == 0 {
		return nil, nil
	}
	shift(docs[0], offset)
	return docs[0], nil
}

func shift(n *yaml.Node, by int) {
	n.Line += by
	for _, c := range n.Content {
		shift(c, by)
	}
}

// syntaxFault says more than the parser where it is a known trap.
func syntaxFault(data []byte, err error) *Fault {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if m := regexp.MustCompile(`^(?:.*\()?line (\d+):\s*`).FindStringSubmatch(text); m != nil {
		line, _ = strconv.Atoi(m[1])
		text = strings.TrimPrefix(text, m[0])
	}
	lines := strings.Split(strings.TrimRight(string(data), " \t\r\n"), "\n")
	if at := tabNear(lines, line); at > 0 {
		return &Fault{Line: at, Text: "a tab indents this line; YAML takes spaces only, write spaces instead"}
	}
	text = "not valid YAML: " + text
	if line >= len(lines) {
		line = len(lines)
		text += "; the file ends here, is it written only in half?"
	}
	return &Fault{Line: line, Text: text}
}

// tabNear finds a line with a tab in its indentation, at the line that the
// parser names or close to it: its line is that of the token it was in.
func tabNear(lines []string, line int) int {
	for _, i := range []int{line, line + 1, line - 1, line + 2, line - 2} {
		if i < 1 || i > len(lines) {
			continue
		}
		rest := strings.TrimLeft(lines[i-1], " ")
		if strings.HasPrefix(rest, "\t") && strings.TrimSpace(rest) != "" {
			return i
		}
	}
	return 0
}

// Line is where the field at path is in the document, or the nearest field
// around it that is there.
func Line(root *yaml.Node, path string) int {
	n, line := root, root.Line
	for path != "" {
		var step string
		step, path = cutStep(path)
		next, at := child(n, step)
		if next == nil {
			return line
		}
		n, line = next, at
	}
	return line
}

func cutStep(path string) (step, rest string) {
	path = strings.TrimPrefix(path, ".")
	if strings.HasPrefix(path, "[") {
		if end := strings.IndexByte(path, ']'); end > 0 {
			return path[1:end], path[end+1:]
		}
	}
	if end := strings.IndexAny(path, ".["); end > 0 {
		return path[:end], path[end:]
	}
	return path, ""
}

func child(n *yaml.Node, step string) (*yaml.Node, int) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == step {
				return n.Content[i+1], n.Content[i].Line
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i], n.Content[i].Line
		}
	}
	return nil, 0
}

// Get is the value of a key of a mapping; nil if it is not there.
func Get(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	v, _ := child(n, key)
	if v != nil && v.Kind == yaml.AliasNode {
		v = v.Alias
	}
	return v
}

// Describe names what a node holds, for messages: `the string "80"`.
func Describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "a mapping"
	case yaml.AliasNode:
		return Describe(n.Alias)
	}
	switch scalarTag(n) {
	case "!!int", "!!float":
		return "the number " + n.Value
	case "!!bool":
		return "the boolean " + n.Value
	case "!!null":
		return "null"
	}
	return "the string " + quoteShort(n.Value)
}

// quoteShort quotes s, cut to a length that fits a message.
func quoteShort(s string) string {
	if len(s) > 60 {
		s = strings.ToValidUTF8(s[:57], "") + "..."
	}
	return fmt.Sprintf("%q", s)
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// scalarTag is the type of a scalar as YAML 1.1 has it, which kubectl uses:
// plain yes, no, on and off are booleans there. Dates are strings, as in JSON.
func scalarTag(n *yaml.Node) string {
	switch n.Tag {
	case "!!timestamp":
		return "!!str"
	case "!!str":
		if n.Style == 0 && len(n.Value) <= 3 {
			switch n.Value {
			case "yes", "Yes", "YES", "no", "No", "NO", "on", "On", "ON", "off", "Off", "OFF":
				return "!!bool"
			}
		}
	}
	return n.Tag
}

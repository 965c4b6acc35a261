package strict

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// wrongType reports that n is not what the field takes. instead, if given, is
// what to write.
func (d *Decoder) wrongType(n *yaml.Node, want string, instead ...string) {
	text := "want " + want + ", got " + Describe(n)
	if len(instead) > 0 {
		text += "; write " + instead[0]
	}
	d.fault(n.Line, "%s", text)
}

func (d *Decoder) text(n *yaml.Node) (string, bool) {
	switch {
	case n.Kind != yaml.ScalarNode:
		d.wrongType(n, "a string")
	case scalarTag(n) == "!!str":
		return n.Value, true
	case n.Tag == "!!int" || n.Tag == "!!float" || scalarTag(n) == "!!bool":
		d.wrongType(n, "a string", strconv.Quote(n.Value))
	default:
		d.fault(n.Line, "want a string, got the YAML tag %s", n.Tag)
	}
	return "", false
}

func (d *Decoder) boolean(n *yaml.Node) (bool, bool) {
	if n.Kind == yaml.ScalarNode {
		b, ok := parseBool(n.Value)
		if ok && scalarTag(n) == "!!bool" {
			return b, true
		}
		if ok {
			d.wrongType(n, "true or false", strconv.FormatBool(b)+" without quotes")
			return false, false
		}
	}
	d.wrongType(n, "true or false")
	return false, false
}

func (d *Decoder) integer(n *yaml.Node, low, high int64) (int64, bool) {
	if n.Kind != yaml.ScalarNode {
		d.wrongType(n, "a number")
		return 0, false
	}
	i, err := parseInt(n.Value)
	switch {
	case n.Tag == "!!int" && (err != nil || i < low || i > high):
		d.fault(n.Line, "want a number from %d to %d, got %s", low, high, n.Value)
	case n.Tag == "!!int":
		return i, true
	case n.Tag == "!!float":
		d.wrongType(n, "a whole number")
	case err == nil:
		d.wrongType(n, "a number", n.Value+" without quotes")
	default:
		d.wrongType(n, "a number")
	}
	return 0, false
}

func (d *Decoder) float(n *yaml.Node) (float64, bool) {
	if n.Kind == yaml.ScalarNode && (n.Tag == "!!int" || n.Tag == "!!float") {
		if f, err := strconv.ParseFloat(n.Value, 64); err == nil {
			return f, true
		}
	}
	d.wrongType(n, "a number")
	return 0, false
}

func parseBool(s string) (value, ok bool) {
	switch strings.ToLower(s) {
	case "true", "yes", "on":
		return true, true
	case "false", "no", "off":
		return false, true
	}
	return false, false
}

func parseInt(s string) (int64, error) {
	return strconv.ParseInt(strings.ReplaceAll(s, "_", ""), 0, 64)
}

package strict

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Decoder decodes trees of nodes. Its zero value is ready; it remembers the
// types that it met, so use one for a whole file.
type Decoder struct {
	// Unused says whether an unknown field at this path is one that may be
	// there without effect.
	Unused func(path string) bool

	faults []Fault
	path   []step
	shapes map[reflect.Type]*shape
	nodes  int // visited through aliases, all documents together
}

// Given is a field that knows whether it is there; null counts as there.
type Given[T any] struct {
	Set   bool
	Value T
}

func (Given[T]) isGiven() {}

// step is one step of a path: a field, a map's key or, with field empty, an
// index.
type step struct {
	field string
	index int
	isKey bool
}

// Limits that honest files never reach: they stop documents that repeat
// themselves through aliases.
const (
	maxDepth      = 200
	maxAliasNodes = 1_000_000
)

// Decode fills into, a pointer to a struct or a protobuf message, from n and
// returns all faults. What is not given, or null, keeps its value; a list
// replaces.
func (d *Decoder) Decode(n *yaml.Node, into any) []Fault {
	if d.shapes == nil {
		d.shapes = map[reflect.Type]*shape{}
	}
	d.faults, d.path = nil, d.path[:0]
	v := reflect.ValueOf(into)
	if m, ok := into.(proto.Message); ok {
		if n.Kind == yaml.MappingNode {
			d.message(n, m.ProtoReflect())
		} else {
			d.wrongType(n, "a mapping")
		}
		return d.faults
	}
	d.value(n, v.Elem())
	return d.faults
}

func (d *Decoder) fault(line int, format string, args ...any) {
	d.faults = append(d.faults, Fault{Line: line, Path: d.pathString(), Text: fmt.Sprintf(format, args...)})
}

func (d *Decoder) pathString() string {
	var b strings.Builder
	for _, s := range d.path {
		switch {
		case s.field == "":
			fmt.Fprintf(&b, "[%d]", s.index)
		case s.isKey && strings.ContainsAny(s.field, "./[]"):
			fmt.Fprintf(&b, "[%s]", s.field)
		default:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(s.field)
		}
	}
	return b.String()
}

// keyStep is the step into the value of a key; "?" stands for one without text.
func keyStep(key *yaml.Node, isKey bool) step {
	return step{field: cmp.Or(key.Value, "?"), isKey: isKey}
}

func (d *Decoder) push(s step) { d.path = append(d.path, s) }
func (d *Decoder) pop()        { d.path = d.path[:len(d.path)-1] }

// resolve follows aliases and stops documents that would never end. Its
// second result is false if the node must be skipped.
func (d *Decoder) resolve(n *yaml.Node) (*yaml.Node, bool) {
	if len(d.path) > maxDepth {
		d.fault(n.Line, "nested deeper than %d levels", maxDepth)
		return n, false
	}
	if n.Kind != yaml.AliasNode {
		return n, true
	}
	if d.nodes += size(n.Alias, maxAliasNodes-d.nodes, 0); d.nodes >= maxAliasNodes {
		d.fault(n.Line, "aliases repeat too much; write the text out")
		return n, false
	}
	return n.Alias, true
}

// size counts the nodes of n, aliases followed, up to limit; a node that holds
// itself is as large as the limit.
func size(n *yaml.Node, limit, depth int) int {
	if depth > maxDepth {
		return limit
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	count := 1
	for _, c := range n.Content {
		if count >= limit {
			break
		}
		count += size(c, limit-count, depth+1)
	}
	return count
}

// value sets v from n. The caller has pushed the path of v.
func (d *Decoder) value(n *yaml.Node, v reflect.Value) {
	s := d.shapeOf(v.Type())
	n, ok := d.resolve(n)
	if !ok {
		return
	}
	if s.kind == rawNode {
		v.Set(reflect.ValueOf(n))
		return
	}
	if s.kind == given {
		v.Field(0).SetBool(true)
		v = v.Field(1)
		s = d.shapeOf(v.Type())
	}
	if isNull(n) {
		return
	}
	switch s.kind {
	case protoMessage:
		if n.Kind != yaml.MappingNode {
			d.wrongType(n, "a mapping")
			return
		}
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.message(n, v.Interface().(proto.Message).ProtoReflect())
	case custom:
		d.custom(n, v)
	case pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.value(n, v.Elem())
	case structure:
		d.structure(n, v, s)
	case mapping:
		d.mapping(n, v)
	case list:
		d.list(n, v)
	default:
		d.scalar(n, v)
	}
}

func (d *Decoder) structure(n *yaml.Node, v reflect.Value, s *shape) {
	if n.Kind != yaml.MappingNode {
		d.wrongType(n, "a mapping")
		return
	}
	content := d.merged(n)
	var seen fieldSet
	for i := 0; i+1 < len(content); i += 2 {
		key := content[i]
		f := s.fields[key.Value]
		d.push(keyStep(key, false))
		switch {
		case f == nil:
			d.unknownField(key, s.names)
		case seen.add(f.number):
			d.fault(key.Line, "duplicate field %q", d.pathString())
		default:
			d.value(content[i+1], v.FieldByIndex(f.index))
		}
		d.pop()
	}
}

// fieldSet is a set of small numbers.
type fieldSet [4]uint64

// add says whether n was there before.
func (s *fieldSet) add(n int) bool {
	word, bit := &s[n/64%len(s)], uint64(1)<<(n%64)
	had := *word&bit != 0
	*word |= bit
	return had
}

func (d *Decoder) unknownField(key *yaml.Node, names []string) {
	path := d.pathString()
	if d.Unused != nil && d.Unused(path) {
		d.faults = append(d.faults, Fault{Line: key.Line, Path: path, Text: "has no effect here", Unused: true})
		return
	}
	if key.Kind != yaml.ScalarNode {
		d.fault(key.Line, "a field's name must be a string, got %s", Describe(key))
		return
	}
	d.fault(key.Line, "unknown field %q%s", path, didYouMean(key.Value, names))
}

// merged is the content of a mapping with its "<<" keys worked in.
func (d *Decoder) merged(n *yaml.Node) []*yaml.Node {
	at := -1
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Tag == "!!merge" {
			at = i
			break
		}
	}
	if at < 0 {
		return n.Content
	}
	return d.mergeInto(nil, map[string]bool{}, n, 0)
}

func (d *Decoder) mergeInto(out []*yaml.Node, have map[string]bool, n *yaml.Node, depth int) []*yaml.Node {
	n, ok := d.resolve(n)
	if !ok || depth > maxDepth {
		return out
	}
	if n.Kind == yaml.SequenceNode && depth > 0 {
		for _, c := range n.Content {
			out = d.mergeInto(out, have, c, depth+1)
		}
		return out
	}
	if n.Kind != yaml.MappingNode {
		d.fault(n.Line, "<< wants a mapping, got %s", Describe(n))
		return out
	}
	own := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if key := n.Content[i]; key.Tag != "!!merge" && !have[key.Value] {
			out = append(out, key, n.Content[i+1])
			own[key.Value] = true
		}
	}
	for key := range own {
		have[key] = true
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Tag == "!!merge" {
			out = d.mergeInto(out, have, n.Content[i+1], depth+1)
		}
	}
	return out
}

func (d *Decoder) mapping(n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.wrongType(n, "a mapping")
		return
	}
	content := d.merged(n)
	t := v.Type()
	m := reflect.MakeMapWithSize(t, len(content)/2)
	for i := 0; i+1 < len(content); i += 2 {
		key := content[i]
		d.push(keyStep(key, true))
		k := reflect.New(t.Key()).Elem()
		if key.Kind != yaml.ScalarNode || scalarTag(key) != "!!str" && key.Tag != "!!int" || k.Kind() != reflect.String {
			d.fault(key.Line, "a key must be a string, got %s; write %q", Describe(key), key.Value)
			d.pop()
			continue
		}
		k.SetString(key.Value)
		if m.MapIndex(k).IsValid() {
			d.fault(key.Line, "duplicate field %q", d.pathString())
		}
		e := reflect.New(t.Elem()).Elem()
		d.value(content[i+1], e)
		m.SetMapIndex(k, e)
		d.pop()
	}
	v.Set(m)
}

func (d *Decoder) list(n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.wrongType(n, `a list (lines that start with "- ")`)
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, c := range n.Content {
		d.push(step{index: i})
		d.value(c, out.Index(i))
		d.pop()
	}
	v.Set(out)
}

// custom leaves types with their own JSON form to them (times, quantities,
// ports that are a number or a name).
func (d *Decoder) custom(n *yaml.Node, v reflect.Value) {
	if _, ok := v.Interface().(intstr.IntOrString); ok && n.Tag != "!!int" && scalarTag(n) != "!!str" {
		d.wrongType(n, "a number or a name")
		return
	}
	data, err := json.Marshal(d.plain(n))
	if err == nil {
		err = json.Unmarshal(data, v.Addr().Interface())
	}
	if err != nil {
		d.fault(n.Line, "got %s: %s", Describe(n), strings.TrimPrefix(err.Error(), "json: "))
	}
}

// plain is n as encoding/json would have it.
func (d *Decoder) plain(n *yaml.Node) any {
	n, ok := d.resolve(n)
	if !ok {
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		content := d.merged(n)
		for i := 0; i+1 < len(content); i += 2 {
			d.push(keyStep(content[i], true))
			m[content[i].Value] = d.plain(content[i+1])
			d.pop()
		}
		return m
	case yaml.SequenceNode:
		l := make([]any, len(n.Content))
		for i, c := range n.Content {
			d.push(step{index: i})
			l[i] = d.plain(c)
			d.pop()
		}
		return l
	}
	switch scalarTag(n) {
	case "!!null":
		return nil
	case "!!bool":
		b, _ := parseBool(n.Value)
		return b
	case "!!int":
		if i, err := parseInt(n.Value); err == nil {
			return i
		}
	case "!!float":
		if f, err := strconv.ParseFloat(n.Value, 64); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
			return f
		}
	}
	return n.Value
}

func (d *Decoder) scalar(n *yaml.Node, v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if s, ok := d.text(n); ok {
			v.SetString(s)
		}
	case reflect.Bool:
		if b, ok := d.boolean(n); ok {
			v.SetBool(b)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		bits := v.Type().Bits()
		if i, ok := d.integer(n, -1<<(bits-1), 1<<(bits-1)-1); ok {
			v.SetInt(i)
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if i, ok := d.integer(n, 0, 1<<min(v.Type().Bits(), 63)-1); ok {
			v.SetUint(uint64(i))
		}
	case reflect.Float32, reflect.Float64:
		if f, ok := d.float(n); ok {
			v.SetFloat(f)
		}
	case reflect.Slice: // []byte
		if s, ok := d.text(n); ok {
			b, err := base64.StdEncoding.DecodeString(s)
			if err != nil {
				d.fault(n.Line, "want base64, got %s", Describe(n))
				return
			}
			v.SetBytes(b)
		}
	default: // any: not looked into
	}
}

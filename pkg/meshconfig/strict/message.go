package strict

import (
	"encoding/json"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// message fills a protobuf message from a mapping, by the names of its JSON
// form.
func (d *Decoder) message(n *yaml.Node, m protoreflect.Message) {
	if strings.HasPrefix(string(m.Descriptor().FullName()), "google.protobuf.") {
		d.wellKnown(n, m)
		return
	}
	content := d.merged(n)
	fields := m.Descriptor().Fields()
	seen := make(map[string]bool, len(content)/2)
	for i := 0; i+1 < len(content); i += 2 {
		key := content[i]
		f := fields.ByJSONName(key.Value)
		d.push(keyStep(key, false))
		switch {
		case f == nil:
			d.unknownField(key, jsonNames(fields))
		case seen[key.Value]:
			d.fault(key.Line, "duplicate field %q", d.pathString())
		default:
			seen[key.Value] = true
			d.messageField(content[i+1], m, f)
		}
		d.pop()
	}
}

func jsonNames(fields protoreflect.FieldDescriptors) []string {
	names := make([]string, fields.Len())
	for i := range names {
		names[i] = fields.Get(i).JSONName()
	}
	return names
}

func (d *Decoder) messageField(n *yaml.Node, m protoreflect.Message, f protoreflect.FieldDescriptor) {
	n, ok := d.resolve(n)
	if !ok || isNull(n) {
		return
	}
	switch {
	case f.IsMap():
		d.messageMap(n, m.Mutable(f).Map(), f.MapValue())
	case f.IsList():
		if n.Kind != yaml.SequenceNode {
			d.wrongType(n, `a list (lines that start with "- ")`)
			return
		}
		l := m.Mutable(f).List()
		for i, c := range n.Content {
			d.push(step{index: i})
			if v, ok := d.messageValue(c, f, l.NewElement); ok {
				l.Append(v)
			} else {
				l.Append(l.NewElement()) // keeps the indexes that messages name
			}
			d.pop()
		}
	default:
		if v, ok := d.messageValue(n, f, func() protoreflect.Value { return m.NewField(f) }); ok {
			m.Set(f, v)
		}
	}
}

func (d *Decoder) messageMap(n *yaml.Node, m protoreflect.Map, f protoreflect.FieldDescriptor) {
	if n.Kind != yaml.MappingNode {
		d.wrongType(n, "a mapping")
		return
	}
	content := d.merged(n)
	for i := 0; i+1 < len(content); i += 2 {
		key := content[i]
		d.push(keyStep(key, true))
		k := protoreflect.ValueOfString(key.Value).MapKey()
		switch {
		case key.Kind != yaml.ScalarNode:
			d.fault(key.Line, "a key must be a string, got %s", Describe(key))
		case m.Has(k):
			d.fault(key.Line, "duplicate field %q", d.pathString())
		default:
			if v, ok := d.messageValue(content[i+1], f, m.NewValue); ok {
				m.Set(k, v)
			}
		}
		d.pop()
	}
}

// messageValue is one value of a field's type; fresh makes an empty one.
func (d *Decoder) messageValue(n *yaml.Node, f protoreflect.FieldDescriptor, fresh func() protoreflect.Value) (protoreflect.Value, bool) {
	n, ok := d.resolve(n)
	if !ok || isNull(n) {
		return protoreflect.Value{}, false
	}
	switch f.Kind() {
	case protoreflect.MessageKind:
		if n.Kind != yaml.MappingNode && !strings.HasPrefix(string(f.Message().FullName()), "google.protobuf.") {
			d.wrongType(n, "a mapping")
			return protoreflect.Value{}, false
		}
		v := fresh()
		d.message(n, v.Message())
		return v, true
	case protoreflect.EnumKind:
		number, ok := d.enum(n, f.Enum().Values())
		return protoreflect.ValueOfEnum(number), ok
	case protoreflect.StringKind:
		s, ok := d.text(n)
		return protoreflect.ValueOfString(s), ok
	case protoreflect.BoolKind:
		b, ok := d.boolean(n)
		return protoreflect.ValueOfBool(b), ok
	case protoreflect.Uint32Kind:
		i, ok := d.integer(n, 0, 1<<32-1)
		return protoreflect.ValueOfUint32(uint32(i)), ok
	case protoreflect.Int32Kind:
		i, ok := d.integer(n, -1<<31, 1<<31-1)
		return protoreflect.ValueOfInt32(int32(i)), ok
	case protoreflect.Int64Kind:
		i, ok := d.integer(n, -1<<63, 1<<63-1)
		return protoreflect.ValueOfInt64(i), ok
	case protoreflect.DoubleKind:
		x, ok := d.float(n)
		return protoreflect.ValueOfFloat64(x), ok
	}
	d.fault(n.Line, "fields of type %s are not supported", f.Kind())
	return protoreflect.Value{}, false
}

func (d *Decoder) enum(n *yaml.Node, values protoreflect.EnumValueDescriptors) (protoreflect.EnumNumber, bool) {
	names := make([]string, values.Len())
	for i := range names {
		names[i] = string(values.Get(i).Name())
	}
	if n.Kind != yaml.ScalarNode || scalarTag(n) != "!!str" {
		d.wrongType(n, "one of "+strings.Join(names, ", "))
		return 0, false
	}
	if v := values.ByName(protoreflect.Name(n.Value)); v != nil {
		return v.Number(), true
	}
	d.fault(n.Line, "unknown value %s%s", quoteShort(n.Value), OneOf(n.Value, names))
	return 0, false
}

// OneOf ends a message about a value that is none of names: the one that was
// probably meant, or all.
func OneOf(value string, names []string) string {
	if near := Nearest(value, names); near != "" {
		return `, did you mean "` + near + `"?`
	}
	return ", want one of " + strings.Join(names, ", ")
}

// wellKnown leaves durations, wrappers and the like to their own JSON form.
func (d *Decoder) wellKnown(n *yaml.Node, m protoreflect.Message) {
	data, err := json.Marshal(d.plain(n))
	if err == nil {
		err = protojson.Unmarshal(data, m.Interface())
	}
	if err != nil {
		d.fault(n.Line, "got %s, which is no %s", Describe(n), m.Descriptor().FullName())
	}
}

package strict

import (
	"encoding/json"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
)

// shape is what the decoder has to know of a Go type, worked out when the type
// is first met: a Pod can hold hundreds of types, and most hold few.
type shape struct {
	kind   kind
	fields map[string]*field // structure, by JSON name
	names  []string          // of the fields
}

type kind uint8

const (
	scalar kind = iota
	rawNode
	protoMessage
	custom
	given
	pointer
	structure
	mapping
	list
)

type field struct {
	index  []int
	number int // counted over the whole struct, embedded ones included
}

func (d *Decoder) shapeOf(t reflect.Type) *shape {
	if s := d.shapes[t]; s != nil {
		return s
	}
	s := &shape{}
	d.shapes[t] = s
	switch {
	case t == reflect.TypeFor[*yaml.Node]():
		s.kind = rawNode
	case t.Implements(reflect.TypeFor[proto.Message]()) && t.Kind() == reflect.Pointer && !isKubernetes(t.Elem()):
		s.kind = protoMessage
	case t.Implements(reflect.TypeFor[interface{ isGiven() }]()):
		s.kind = given
	case reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()):
		s.kind = custom
	case t.Kind() == reflect.Pointer:
		s.kind = pointer
	case t.Kind() == reflect.Struct:
		s.kind, s.fields = structure, map[string]*field{}
		d.addFields(s, t, nil)
	case t.Kind() == reflect.Map:
		s.kind = mapping
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
		s.kind = list
	}
	return s
}

// isKubernetes tells the Kubernetes types, whose names are in their JSON tags,
// from real protobuf messages.
func isKubernetes(t reflect.Type) bool { return strings.HasPrefix(t.PkgPath(), "k8s.io/") }

func (d *Decoder) addFields(s *shape, t reflect.Type, prefix []int) {
	for i := range t.NumField() {
		f := t.Field(i)
		index := append(append([]int{}, prefix...), i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && (name == "" || strings.Contains(options, "inline")) && f.Type.Kind() == reflect.Struct {
			d.addFields(s, f.Type, index)
			continue
		}
		if !f.IsExported() || name == "-" || name == "" {
			continue
		}
		s.fields[name] = &field{index: index, number: len(s.names)}
		s.names = append(s.names, name)
	}
}

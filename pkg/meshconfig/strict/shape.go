package strict

import (
	"encoding/json"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
)

// shape is what the decoder has to know of a Go type, worked out once.
type shape struct {
	kind   kind
	elem   *shape            // pointer, list, mapping
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
	shape  *shape
}

func (d *Decoder) shapeOf(t reflect.Type) *shape {
	if s := d.shapes[t]; s != nil {
		return s
	}
	s := &shape{}
	d.shapes[t] = s // before its parts: types may hold themselves
	switch {
	case t == reflect.TypeFor[*yaml.Node]():
		s.kind = rawNode
	case t.Implements(reflect.TypeFor[proto.Message]()) && t.Kind() == reflect.Pointer && !isKubernetes(t.Elem()):
		s.kind = protoMessage
	case t.Implements(reflect.TypeFor[interface{ isGiven() }]()):
		s.kind, s.elem = given, d.shapeOf(t.Field(1).Type)
	case reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()):
		s.kind = custom
	case t.Kind() == reflect.Pointer:
		s.kind, s.elem = pointer, d.shapeOf(t.Elem())
	case t.Kind() == reflect.Struct:
		s.kind, s.fields = structure, map[string]*field{}
		d.addFields(s, t, nil)
	case t.Kind() == reflect.Map:
		s.kind, s.elem = mapping, d.shapeOf(t.Elem())
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
		s.kind, s.elem = list, d.shapeOf(t.Elem())
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
		s.fields[name] = &field{index: index, number: len(s.names), shape: d.shapeOf(f.Type)}
		s.names = append(s.names, name)
	}
}

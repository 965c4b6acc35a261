package model

import (
	"reflect"
	"slices"
	"testing"
)

func revised(edit func(*Inputs)) Inputs {
	in := Inputs{
		Mesh:      Mesh{TrustDomain: "cluster.local"},
		Services:  []Service{{Host: "a", Ports: []ServicePort{{Number: 80}}}, {Host: "b"}},
		Workloads: []Workload{{ID: WorkloadID{"shop", "a"}}, {ID: WorkloadID{"shop", "b"}, Labels: map[string]string{"x": "1", "y": "2"}}},
		Policies:  []ServerPolicy{{Key: Key{Kind: "Policy", Name: "p"}, Rules: []PolicyRule{{Rank: RankMesh, Mode: Strict}}}},
		Rules:     []DestinationRule{{}},
	}
	edit(&in)
	return in
}

func TestRevision(t *testing.T) {
	in := revised(func(*Inputs) {})
	before := in.Revision()
	seen := map[string]bool{before.String(): true}
	for _, c := range []struct {
		kind string
		edit func(*Inputs)
	}{
		{ChangeNothing, func(*Inputs) {}},
		{ChangeNothing, func(in *Inputs) { slices.Reverse(in.Services); slices.Reverse(in.Workloads) }},
		{ChangeNothing, func(in *Inputs) {
			in.Phases = map[Target]Phase{{}: PhaseGrace}
			in.Connected = []WorkloadID{{"shop", "a"}}
		}},
		{ChangeMesh, func(in *Inputs) { in.Mesh.MutualTLS = true }},
		{ChangeService, func(in *Inputs) { in.Services[0].Ports[0].Number = 81 }},
		{ChangeService, func(in *Inputs) { in.Workloads[1].Labels["y"] = "3" }},
		{ChangePolicy, func(in *Inputs) { in.Policies[0].Rules[0].Mode = Permissive }},
		{ChangeRule, func(in *Inputs) { in.Rules = nil }},
		{ChangeSeveral, func(in *Inputs) { in.Rules, in.Policies = nil, nil }},
	} {
		in := revised(c.edit)
		r := in.Revision()
		if got := r.ChangeSince(before); got != c.kind {
			t.Errorf("got %s, want %s", got, c.kind)
		}
		if known := seen[r.String()]; known != (c.kind == ChangeNothing) || len(r.String()) != 10 {
			t.Errorf("%s: revision %s was there before: %v", c.kind, r, known)
		}
		seen[r.String()] = true
	}
	if got := before.ChangeSince(Revision{}); got != ChangeFirst {
		t.Errorf("got %s, want %s", got, ChangeFirst)
	}
}

// A field that is not encoded would be no part of the revision.
func TestRevisionHasAllFields(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var visit func(reflect.Type)
	visit = func(of reflect.Type) {
		if seen[of] {
			return
		}
		seen[of] = true
		switch of.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			visit(of.Elem())
		case reflect.Interface, reflect.Func, reflect.Chan:
			t.Errorf("%s cannot be encoded", of)
		case reflect.Struct:
			for i := range of.NumField() {
				f := of.Field(i)
				if !f.IsExported() || f.Tag.Get("json") != "" {
					t.Errorf("%s.%s may not be encoded", of, f.Name)
				}
				visit(f.Type)
			}
		}
		if of.Implements(reflect.TypeFor[interface{ MarshalJSON() ([]byte, error) }]()) {
			t.Errorf("%s encodes itself", of)
		}
	}
	for _, of := range []reflect.Type{
		reflect.TypeFor[Mesh](), reflect.TypeFor[Service](), reflect.TypeFor[Workload](), reflect.TypeFor[ServerPolicy](), reflect.TypeFor[DestinationRule](),
	} {
		visit(of)
	}
	if len(seen) < 20 {
		t.Errorf("%d types", len(seen))
	}
}

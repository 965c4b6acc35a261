// Package meshconfig is the language that users write: it decodes Kubernetes
// and Istio objects strictly, fills defaults, validates, and compiles a
// complete Bundle into model.Inputs. A user's mistake is a Problem, never a Go
// error, and one bad object never stops the rest.
package meshconfig

import (
	"context"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/meshpilot/pilot/pkg/model"
	networkingv1 "istio.io/api/networking/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Bundle is all objects of a source, decoded and valid, in any order.
type Bundle struct {
	Mesh            *MeshConfig // nil: absent, built-in defaults apply
	Namespaces      []*corev1.Namespace
	ServiceAccounts []*corev1.ServiceAccount
	Services        []*corev1.Service
	Pods            []*corev1.Pod
	EndpointSlices  []*discoveryv1.EndpointSlice
	ServiceEntries  []*ServiceEntry
	WorkloadEntries []*WorkloadEntry
	Policies        []*Policy
	MeshPolicies    []*MeshPolicy

	DestinationRules    []*DestinationRule
	PeerAuthentications []*PeerAuthentication
	// Invalid are objects that did not validate. A source replaces each by its
	// last accepted version if it has one; what is left counts by its
	// fail-closed effect.
	Invalid []Invalid
	// Torn are files that hold something that could not be told apart: a
	// syntax error, an object without a valid name and namespace. What such a file held before and
	// does not now is not thereby deleted.
	Torn []string
	// Positions says where an object was read; empty for sources without files.
	Positions map[model.Key]Position
	// Generations are those of the objects that DecodeObject read, valid or
	// not; nil for other sources.
	Generations map[model.Key]int64
}

// Source follows a place where objects live. Run publishes complete bundles
// only, with what is wrong in them, until ctx ends.
type Source interface {
	Run(ctx context.Context, publish func(Bundle, []Problem)) error
}

// ServiceEntry is networking.istio.io ServiceEntry.
type ServiceEntry struct {
	metav1.ObjectMeta
	Spec *networkingv1.ServiceEntry
}

// WorkloadEntry is networking.istio.io WorkloadEntry.
type WorkloadEntry struct {
	metav1.ObjectMeta
	Spec *networkingv1.WorkloadEntry
}

// Policy is authentication.istio.io/v1alpha1 Policy: the server side of mTLS
// for services of one namespace (spec server-policy.md 2).
type Policy struct {
	metav1.ObjectMeta
	Targets []PolicyTarget
	// Mode is what peers says; DISABLE if it is empty.
	Mode model.Mode
}

// MeshPolicy is authentication.istio.io/v1alpha1 MeshPolicy: what a Policy
// says, for the whole mesh. The only valid name is "default".
type MeshPolicy struct {
	metav1.ObjectMeta
	Mode model.Mode
}

// PolicyTarget names a service and, optionally, some of its ports.
type PolicyTarget struct {
	Name  string
	Ports []PortSelector
}

// PortSelector names a service port by exactly one of number and name.
type PortSelector struct {
	Number uint16
	Name   string
}

// Invalid is an object that was read but refused.
type Invalid struct {
	On model.Key
	// Targets are the readable services of a Policy; empty means that its
	// scope could not be read, so all of its namespace.
	Targets []PolicyTarget
	// Rule is the readable host and exportTo of a DestinationRule with a tls
	// block; nil: it has none, or names no host.
	Rule *DestinationRule
	// Peer is what could be read of a PeerAuthentication, each mode STRICT.
	Peer *PeerAuthentication
}

// Position is a place in a file, as editors count: Line from 1.
type Position struct {
	File string
	Line int
}

// objects are all but the mesh settings.
func (b *Bundle) objects() iter.Seq2[model.Key, any] {
	return func(yield func(model.Key, any) bool) {
		_ = each("Namespace", b.Namespaces, yield) &&
			each("ServiceAccount", b.ServiceAccounts, yield) &&
			each("Service", b.Services, yield) &&
			each("Pod", b.Pods, yield) &&
			each("EndpointSlice", b.EndpointSlices, yield) &&
			each("ServiceEntry", b.ServiceEntries, yield) &&
			each("WorkloadEntry", b.WorkloadEntries, yield) &&
			each("DestinationRule", b.DestinationRules, yield) &&
			each("Policy", b.Policies, yield) &&
			each("MeshPolicy", b.MeshPolicies, yield) &&
			each("PeerAuthentication", b.PeerAuthentications, yield)
	}
}

func each[T metav1.Object](kind string, list []T, yield func(model.Key, any) bool) bool {
	for _, o := range list {
		if !yield(model.Key{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}, o) {
			return false
		}
	}
	return true
}

// add puts one object into its list.
func (b *Bundle) add(object any) {
	_ = put(object, &b.Namespaces) || put(object, &b.ServiceAccounts) || put(object, &b.Services) ||
		put(object, &b.Pods) || put(object, &b.EndpointSlices) || put(object, &b.ServiceEntries) ||
		put(object, &b.WorkloadEntries) || put(object, &b.DestinationRules) || put(object, &b.Policies) ||
		put(object, &b.MeshPolicies) || put(object, &b.PeerAuthentications)
}

func put[T any](object any, list *[]T) bool {
	o, ok := object.(T)
	if ok {
		*list = append(*list, o)
	}
	return ok
}

// With is the bundle in which the objects of o replace those of the same key.
func (b Bundle) With(o Bundle) Bundle {
	out := Bundle{Mesh: b.Mesh, Positions: b.Positions}
	replaced := map[model.Key]bool{}
	for key, object := range o.objects() {
		replaced[key] = true
		out.add(object)
	}
	for key, object := range b.objects() {
		if !replaced[key] {
			out.add(object)
		}
	}
	for _, i := range b.Invalid {
		if !replaced[i.On] {
			out.Invalid = append(out.Invalid, i)
		}
	}
	if o.Mesh != nil {
		out.Mesh = o.Mesh
	}
	return out
}

// Merge makes one bundle of the files of a source, in their order. Of two
// objects with the same key the one that last has, or else the first, stays;
// each other is a Problem that names both places.
func Merge(parts []Bundle, last Bundle) (Bundle, []Problem) {
	out := Bundle{Positions: map[model.Key]Position{}}
	var problems []Problem
	owner := map[model.Key]int{}
	for i := range parts {
		for key := range parts[i].objects() {
			first, taken := owner[key]
			if !taken {
				owner[key] = i
				continue
			}
			at, firstAt := parts[i].Positions[key], parts[first].Positions[key]
			if at.File == last.Positions[key].File {
				owner[key] = i
				at, firstAt = firstAt, at
			}
			problems = append(problems, duplicate(key, firstAt, at))
		}
	}
	for i := range parts {
		p := &parts[i]
		for key, object := range p.objects() {
			if owner[key] == i {
				out.add(object)
				out.Positions[key] = p.Positions[key]
			}
		}
		out.Invalid = append(out.Invalid, p.Invalid...)
		out.Torn = append(out.Torn, p.Torn...)
		problems = append(problems, mergeMesh(&out, p, last)...)
	}
	return out, problems
}

func mergeMesh(out, part *Bundle, last Bundle) []Problem {
	if part.Mesh == nil {
		return nil
	}
	first, firstAt := out.Mesh, Position{}
	at := part.Positions[part.Mesh.Key]
	if first != nil {
		firstAt = out.Positions[first.Key]
	}
	if first == nil || last.Mesh != nil && at.File == last.Positions[last.Mesh.Key].File {
		if first != nil {
			delete(out.Positions, first.Key)
		}
		out.Mesh, out.Positions[part.Mesh.Key] = part.Mesh, at
	}
	switch {
	case first == nil:
		return nil
	case out.Mesh == first:
		return []Problem{secondMesh(part.Mesh, first, at, firstAt)}
	default:
		return []Problem{secondMesh(first, part.Mesh, firstAt, at)}
	}
}

// Accept is the step from the last accepted bundle to the next one that a
// source read: what the next refuses keeps its last accepted version, and so
// does what may only seem deleted because its file cannot be read whole. The
// problems are those of reading next; errors about an object that stays are
// put into one.
func (b Bundle) Accept(last Bundle, problems []Problem) (Bundle, []Problem) {
	next := b
	next.Positions = map[model.Key]Position{}
	maps.Copy(next.Positions, b.Positions)
	present := map[model.Key]bool{}
	for key := range b.objects() {
		present[key] = true
	}
	invalid := map[model.Key]bool{}
	for _, i := range b.Invalid {
		invalid[i.On] = true
	}
	kept := map[model.Key]bool{}
	for key, object := range last.objects() {
		at := last.Positions[key]
		if present[key] || !invalid[key] && !slices.Contains(b.Torn, at.File) {
			continue
		}
		next.add(object)
		next.place(key, last)
		kept[key], present[key] = true, true
	}
	problems = append(slices.Clone(problems), next.acceptMesh(last, invalid, kept)...)
	next.Invalid = slices.DeleteFunc(slices.Clone(b.Invalid), func(i Invalid) bool {
		return present[i.On] || kept[i.On]
	})
	return next, fold(problems, kept, last.Positions)
}

// Apply is what would be in force if edit were applied, as kubectl applies
// files: its objects are new or replace those with their keys, and all others
// stay. The problems are those of the step itself.
func (b Bundle) Apply(edit Bundle) (Bundle, []Problem) {
	edited := map[model.Key]bool{}
	for key := range edit.objects() {
		edited[key] = true
	}
	rest := b
	rest.Torn = nil
	rest.Invalid = slices.DeleteFunc(slices.Clone(b.Invalid), func(i Invalid) bool { return edited[i.On] })
	if edit.Mesh != nil {
		rest.Mesh = nil
	}
	next, _ := Merge([]Bundle{edit, rest}, Bundle{}) // what is replaced is no duplicate
	return next.Accept(b, nil)
}

// place notes where an object of the last bundle was read, if it was in a file.
func (b *Bundle) place(key model.Key, last Bundle) {
	if at, ok := last.Positions[key]; ok {
		b.Positions[key] = at
	}
}

// acceptMesh decides about the mesh settings: as a whole, and never to none.
func (b *Bundle) acceptMesh(last Bundle, invalid, kept map[model.Key]bool) []Problem {
	var problems []Problem
	if b.Mesh != nil && last.Mesh != nil {
		problems = b.Mesh.Transition(last.Mesh)
		for i := range problems {
			problems[i].At = b.Positions[b.Mesh.Key]
		}
		if !slices.ContainsFunc(problems, isError) {
			return problems
		}
		problems = slices.DeleteFunc(problems, func(p Problem) bool { return !isError(p) })
		kept[b.Mesh.Key] = true
		delete(b.Positions, b.Mesh.Key)
		b.Mesh = nil
	}
	if b.Mesh != nil {
		return problems
	}
	if last.Mesh == nil {
		if invalid[meshFileKey()] || len(b.Torn) > 0 {
			return problems // already said
		}
		return append(problems, Problem{
			Code: codeNoMeshConfig, Severity: Info, On: meshFileKey(),
			Message: "no mesh configuration; the built-in defaults are in force",
		})
	}
	key := last.Mesh.Key
	at := last.Positions[key]
	b.Mesh = last.Mesh
	b.place(key, last)
	if invalid[key] {
		kept[key] = true
	}
	if !kept[key] && len(problems) == 0 && !slices.Contains(b.Torn, at.File) {
		problems = append(problems, Problem{
			Code: codeNoMeshConfig, Severity: Error, On: key, At: Position{File: at.File},
			Message: "the mesh configuration is gone or empty; the last accepted version stays in force",
		})
	}
	return problems
}

func isError(p Problem) bool { return p.Severity == Error }

// fold makes one Problem of all errors about an object whose last accepted
// version stays, and says so.
func fold(problems []Problem, kept map[model.Key]bool, last map[model.Key]Position) []Problem {
	held := map[string]bool{}
	for _, at := range last {
		held[at.File] = true
	}
	out := make([]Problem, 0, len(problems))
	texts, first := map[model.Key][]string{}, map[model.Key]int{}
	for _, p := range problems {
		switch {
		case p.Severity != Error:
			out = append(out, p)
		case (p.On.Kind == "File" || p.On.Name == "" || identity(p.Field) && !kept[p.On]) && held[p.At.File]:
			p.Message += "; the last accepted version of what the file held stays in force"
			out = append(out, p)
		case !kept[p.On]:
			out = append(out, p)
		default:
			if len(texts[p.On]) == 0 {
				first[p.On] = len(out)
				out = append(out, p)
			} else if out[first[p.On]].Code != p.Code {
				out[first[p.On]].Code = codeInvalid
			}
			texts[p.On] = append(texts[p.On], Problem{Field: p.Field, Message: p.Message}.String())
		}
	}
	for key, i := range first {
		out[i].Field = ""
		out[i].Message = strings.Join(texts[key], "; ") + "; the last accepted version stays in force"
	}
	return out
}

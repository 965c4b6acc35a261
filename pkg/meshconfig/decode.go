package meshconfig

import (
	"bytes"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/meshpilot/pilot/pkg/meshconfig/strict"
	"github.com/meshpilot/pilot/pkg/model"
	"go.yaml.in/yaml/v3"
	networkingv1 "istio.io/api/networking/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// meshFile is the file whose document without apiVersion and kind is the mesh
// configuration.
const meshFile = "mesh.yaml"

// Decode reads one file of YAML documents, as one would kubectl apply them, and
// reports all that is wrong with file and line. Objects with an error are in
// Bundle.Invalid instead of their list; what follows a syntax error is lost,
// and the file is in Bundle.Torn.
func Decode(r io.Reader, file string) (Bundle, []Problem) {
	d := &decoder{file: file}
	d.out.Positions = map[model.Key]Position{}
	data, err := io.ReadAll(r)
	if err != nil {
		d.tear(0, "", "cannot be read: "+err.Error())
		return d.out, d.problems
	}
	docs, fault := strict.Documents(data)
	for _, doc := range docs {
		d.document(doc)
	}
	if fault != nil {
		d.tear(fault.Line, "", fault.Text)
	} else if len(docs) == 0 && d.isMeshFile() && len(bytes.TrimSpace(data)) > 0 {
		// All settings commented out: the defaults. A file without a byte is
		// rather what a full disk left, and counts as absent.
		d.mesh(&yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: 1}, meshFileKey(), 1)
	}
	return d.out, d.problems
}

type decoder struct {
	file     string
	strict   strict.Decoder
	out      Bundle
	problems []Problem
}

func (d *decoder) isMeshFile() bool { return path.Base(d.file) == meshFile }

// tear reports something that belongs to no known object, so that nothing that
// the file held before may be taken for deleted.
func (d *decoder) tear(line int, field, text string) {
	d.report(finding{code: codeInvalid, severity: Error, path: field, text: text}, model.Key{Kind: "File", Name: d.file}, line)
	d.out.Torn = append(d.out.Torn, d.file)
}

func (d *decoder) report(f finding, on model.Key, line int) {
	d.problems = append(d.problems, Problem{
		Code: f.code, Severity: f.severity, On: on, Field: f.path, Message: f.text,
		At: Position{File: d.file, Line: line},
	})
}

func (d *decoder) document(n *yaml.Node) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode {
		d.tear(n.Line, "", "want an object with apiVersion and kind, got "+strict.Describe(n))
		return
	}
	version, kind := strict.Get(n, "apiVersion"), strict.Get(n, "kind")
	switch {
	case version == nil && kind == nil && d.isMeshFile():
		d.mesh(n, meshFileKey(), n.Line)
	case version == nil && kind == nil:
		d.tear(n.Line, "", "apiVersion and kind must be set (mesh settings, which have none, live in "+meshFile+")")
	case version == nil:
		d.tear(n.Line, "apiVersion", "apiVersion must be set")
	case kind == nil:
		d.tear(n.Line, "kind", "kind must be set")
	default:
		d.object(n, version.Value, kind.Value)
	}
}

// object decodes one object by its kind.
func (d *decoder) object(n *yaml.Node, version, kind string) {
	switch version + " " + kind {
	case "v1 Namespace":
		o := &corev1.Namespace{}
		collect(d, n, kind, o, &o.ObjectMeta, nil, &d.out.Namespaces)
	case "v1 ServiceAccount":
		o := &corev1.ServiceAccount{}
		collect(d, n, kind, o, &o.ObjectMeta, nil, &d.out.ServiceAccounts)
	case "v1 Service":
		o := &corev1.Service{}
		collect(d, n, kind, o, &o.ObjectMeta, func(c *check) { c.service(o) }, &d.out.Services)
	case "v1 Pod":
		o := &corev1.Pod{}
		collect(d, n, kind, o, &o.ObjectMeta, func(c *check) { c.pod(o) }, &d.out.Pods)
	case "discovery.k8s.io/v1 EndpointSlice":
		o := &discoveryv1.EndpointSlice{}
		collect(d, n, kind, o, &o.ObjectMeta, func(c *check) { c.endpointSlice(o) }, &d.out.EndpointSlices)
	case "v1 ConfigMap":
		d.configMap(n)
	case "networking.istio.io/v1 ServiceEntry", "networking.istio.io/v1beta1 ServiceEntry", "networking.istio.io/v1alpha3 ServiceEntry":
		o := &istioObject[*networkingv1.ServiceEntry]{Spec: &networkingv1.ServiceEntry{}}
		if d.single(n, kind, o, &o.ObjectMeta, func(c *check) { c.serviceEntry(o.Spec) }) {
			d.out.ServiceEntries = append(d.out.ServiceEntries, &ServiceEntry{o.ObjectMeta, o.Spec})
		}
	case "networking.istio.io/v1 WorkloadEntry", "networking.istio.io/v1beta1 WorkloadEntry", "networking.istio.io/v1alpha3 WorkloadEntry":
		o := &istioObject[*networkingv1.WorkloadEntry]{Spec: &networkingv1.WorkloadEntry{}}
		if d.single(n, kind, o, &o.ObjectMeta, func(c *check) { c.workloadEntry(o.Spec, "spec") }) {
			d.out.WorkloadEntries = append(d.out.WorkloadEntries, &WorkloadEntry{o.ObjectMeta, o.Spec})
		}
	case "networking.istio.io/v1 DestinationRule", "networking.istio.io/v1beta1 DestinationRule", "networking.istio.io/v1alpha3 DestinationRule":
		d.destinationRule(n)
	case "authentication.istio.io/v1alpha1 Policy":
		d.policy(n)
	case "authentication.istio.io/v1alpha1 MeshPolicy":
		d.meshPolicy(n)
	case "security.istio.io/v1 PeerAuthentication", "security.istio.io/v1beta1 PeerAuthentication":
		d.peerAuthentication(n)
	default:
		if items := strict.Get(n, "items"); strings.HasSuffix(kind, "List") && items != nil {
			d.list(items)
			return
		}
		d.unknownKind(n, version, kind)
	}
}

// istioObject is how Istio's objects look: the spec is a protobuf message.
type istioObject[S any] struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              S          `json:"spec"`
	Status            *yaml.Node `json:"status"`
}

func (d *decoder) list(items *yaml.Node) {
	if items.Kind != yaml.SequenceNode {
		d.tear(items.Line, "items", "want a list of objects, got "+strict.Describe(items))
		return
	}
	for _, item := range items.Content {
		d.document(item)
	}
}

func (d *decoder) unknownKind(n *yaml.Node, version, kind string) {
	known := []string{
		"Service", "Pod", "EndpointSlice", "ServiceAccount", "Namespace", "ConfigMap",
		"ServiceEntry", "WorkloadEntry", "DestinationRule", "Policy", "MeshPolicy", "PeerAuthentication",
	}
	text := fmt.Sprintf("kind %q of %q is not known here and is skipped", kind, version)
	switch near := strict.Nearest(kind, known); near {
	case "":
	case kind:
		text += " (another apiVersion of it is known)"
	default:
		text += fmt.Sprintf(" (did you mean %q?)", near)
	}
	key := model.Key{Kind: kind}
	if meta := strict.Get(n, "metadata"); meta != nil {
		if name := strict.Get(meta, "name"); name != nil {
			key.Name = name.Value
		}
		if ns := strict.Get(meta, "namespace"); ns != nil {
			key.Namespace = ns.Value
		}
	}
	severity := Info
	if group, _, _ := strings.Cut(version, "/"); group == "authentication.istio.io" || group == "security.istio.io" || group == "rbac.istio.io" {
		severity = Warning
		text += "; the protection that it asks for is not in force"
	}
	d.report(finding{code: codeUnknownKind, severity: severity, text: text}, key, n.Line)
}

// collect decodes an object and, if nothing is wrong with it, adds it to its
// list.
func collect[T any](d *decoder, n *yaml.Node, kind string, o *T, meta *metav1.ObjectMeta, validate func(*check), to *[]*T) {
	if d.single(n, kind, o, meta, validate) {
		*to = append(*to, o)
	}
}

// single decodes and validates one object, reports what is wrong, and says
// whether it may be used.
func (d *decoder) single(n *yaml.Node, kind string, into any, meta *metav1.ObjectMeta, validate func(*check)) bool {
	c := &check{faults: d.strict.Decode(n, into)}
	c.metadata(kind, meta)
	if validate != nil {
		validate(c)
	}
	key := model.Key{Kind: kind, Namespace: meta.Namespace, Name: meta.Name}
	ok := d.finish(n, key, c)
	if !ok {
		d.out.Invalid = append(d.out.Invalid, Invalid{On: key, Targets: c.targets, Peer: c.peer, Rule: c.rule})
	}
	return ok && d.claim(key, n.Line)
}

// finish reports all findings about an object and says whether none is an
// error.
func (d *decoder) finish(n *yaml.Node, key model.Key, c *check) bool {
	ok := true
	for _, f := range c.faults {
		if f.Unused {
			d.report(finding{code: codeUnusedField, severity: Info, path: f.Path, text: f.Text}, key, f.Line)
			continue
		}
		ok = false
		d.report(finding{code: codeInvalid, severity: Error, path: f.Path, text: f.Text}, key, f.Line)
	}
	for _, f := range c.findings {
		if c.explained(f.path) {
			continue
		}
		ok = ok && f.severity != Error
		d.report(f, key, strict.Line(n, f.path))
	}
	if key.Name == "" || c.anonymous() {
		d.out.Torn = append(d.out.Torn, d.file)
	}
	return ok
}

// claim notes where an object is; the second of two with the same key is
// refused.
func (d *decoder) claim(key model.Key, line int) bool {
	at := Position{File: d.file, Line: line}
	if first, taken := d.out.Positions[key]; taken {
		d.problems = append(d.problems, duplicate(key, first, at))
		return false
	}
	d.out.Positions[key] = at
	return true
}

// duplicate is the Problem of an object that is already at first.
func duplicate(key model.Key, first, at Position) Problem {
	return Problem{
		Code: codeDuplicate, Severity: Error, On: key, At: at,
		Message: fmt.Sprintf("is given twice, at %s and at %s; remove one", first, at),
	}
}

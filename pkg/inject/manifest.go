package inject

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/meshconfig/strict"
	"github.com/meshpilot/pilot/pkg/model"
)

// Manifest is what Manifests did with one object of a file.
type Manifest struct {
	On model.Key
	Result
}

// Manifests injects all pods and pod templates of a file of YAML documents,
// unless they opt out. A document in which nothing is injected keeps its bytes;
// another keeps its order, comments and indentation. With an error among the
// problems the text is not to be used.
func Manifests(data []byte, file string, s Settings) ([]byte, []Manifest, []meshconfig.Problem) {
	f := &manifests{file: file, settings: s}
	var out bytes.Buffer
	line := 0
	for _, text := range documents(data) {
		out.Write(f.document(text, line))
		line += bytes.Count(text, []byte("\n"))
	}
	return out.Bytes(), f.done, f.problems
}

type manifests struct {
	file     string
	settings Settings
	strict   strict.Decoder
	done     []Manifest
	problems []meshconfig.Problem
}

// documents are the parts of a file, each with the line --- that starts it.
// Such a line is one wherever it is: no scalar can hold it.
func documents(data []byte) [][]byte {
	var out [][]byte
	start := 0
	for at := 0; at < len(data); {
		end := len(data)
		if newline := bytes.IndexByte(data[at:], '\n'); newline >= 0 {
			end = at + newline + 1
		}
		if line := data[at:end]; at > start && bytes.HasPrefix(line, []byte("---")) && (len(line) == 3 || bytes.IndexByte([]byte(" \t\r\n"), line[3]) >= 0) {
			out = append(out, data[start:at])
			start = at
		}
		at = end
	}
	return append(out, data[start:])
}

// document is the text of one document after injection; line is how many are
// before it.
func (f *manifests) document(text []byte, line int) []byte {
	roots, fault := strict.Documents(text)
	if fault != nil {
		f.report(model.Key{Kind: "File", Name: f.file}, "", fault.Text, fault.Line+line)
		return text
	}
	if len(roots) == 0 {
		return text
	}
	root := expanded(roots[0])
	if root == nil {
		f.report(model.Key{Kind: "File", Name: f.file}, "", "aliases repeat too much; write the text out", line+1)
		return text
	}
	if !f.object(root, line) {
		return text
	}
	var out bytes.Buffer
	if first, _, _ := bytes.Cut(text, []byte("\n")); bytes.HasPrefix(first, []byte("---")) {
		out.WriteString("---\n")
	}
	encoder := yaml.NewEncoder(&out)
	indentAs(encoder, root)
	// Nodes that were read are written; what is added is built of plain values.
	if err := encoder.Encode(root); err != nil {
		f.report(model.Key{Kind: "File", Name: f.file}, "", err.Error(), line+1)
		return text
	}
	return out.Bytes()
}

func (f *manifests) report(on model.Key, field, message string, line int) {
	f.problems = append(f.problems, meshconfig.Problem{
		Code: codeInvalid, Severity: meshconfig.Error, On: on, Field: field, Message: message,
		At: meshconfig.Position{File: f.file, Line: line},
	})
}

// object injects into an object, or the objects of a list, and says whether it
// changed.
func (f *manifests) object(n *yaml.Node, line int) bool {
	if n.Kind != yaml.MappingNode {
		return false
	}
	kind := scalar(n, "kind")
	if items := strict.Get(n, "items"); items != nil && strings.HasSuffix(kind, "List") {
		changed := false
		for _, item := range items.Content {
			changed = f.object(item, line) || changed
		}
		return changed
	}
	path, ok := templatePath(scalar(n, "apiVersion"), kind)
	if !ok {
		return false
	}
	at := n
	for _, step := range path {
		if at = strict.Get(at, step); at == nil {
			return false // the API server says what is missing
		}
	}
	t, ok := f.template(n, at, path, line)
	if !ok {
		return false
	}
	result := Inject(t, f.settings)
	for i := range result.Problems {
		p := &result.Problems[i]
		p.At = meshconfig.Position{File: f.file, Line: line + strict.Line(n, p.Field)}
	}
	f.problems = append(f.problems, result.Problems...)
	f.done = append(f.done, Manifest{t.On, result})
	for _, op := range result.Ops {
		apply(at, op)
	}
	return len(result.Ops) > 0
}

// templatePath is where an object of a kind has its pod or pod template.
func templatePath(version, kind string) (path []string, ok bool) {
	switch version + " " + kind {
	case "v1 Pod":
		return nil, true
	case "apps/v1 Deployment", "apps/v1 ReplicaSet", "apps/v1 StatefulSet", "apps/v1 DaemonSet", "batch/v1 Job", "v1 ReplicationController":
		return []string{"spec", "template"}, true
	case "batch/v1 CronJob":
		return []string{"spec", "jobTemplate", "spec", "template"}, true
	}
	return nil, false
}

// template reads what is at a place of the object n. Fields that are not
// known here are the API server's business.
func (f *manifests) template(n, at *yaml.Node, path []string, line int) (Template, bool) {
	var pod struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        metav1.ObjectMeta `json:"metadata"`
		Spec            corev1.PodSpec    `json:"spec"`
	}
	meta := strict.Get(n, "metadata")
	t := Template{On: model.Key{Kind: scalar(n, "kind")}, Path: strings.Join(path, "."), Default: true}
	if meta != nil {
		t.On.Namespace, t.On.Name = scalar(meta, "namespace"), scalar(meta, "name")
		if t.On.Name == "" {
			t.On.Name = scalar(meta, "generateName")
		}
	}
	ok := true
	f.strict.Unused = func(string) bool { return true }
	for _, fault := range f.strict.Decode(at, &pod) {
		if fault.Unused {
			continue
		}
		field := fault.Path
		if t.Path != "" {
			field = t.Path + "." + field
		}
		f.report(t.On, field, fault.Text, line+fault.Line)
		ok = false
	}
	t.Meta, t.Spec = pod.Metadata, pod.Spec
	return t, ok
}

// scalar is the text of a member; empty if there is none.
func scalar(n *yaml.Node, key string) string {
	if v := strict.Get(n, key); v != nil && v.Kind == yaml.ScalarNode {
		return v.Value
	}
	return ""
}

// apply carries an operation out on a tree, making what is missing on the way.
func apply(n *yaml.Node, op Op) {
	last := len(op.Path) - 1
	for _, step := range op.Path[:last] {
		next := strict.Get(n, step)
		if next == nil || next.Kind == yaml.ScalarNode { // null
			next = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
			set(n, step, next)
		}
		n = next
	}
	value := nodeOf(op.Value)
	switch {
	case n.Kind != yaml.SequenceNode:
		set(n, op.Path[last], value)
	case op.Path[last] == "-":
		n.Content = append(n.Content, value)
	default:
		var at int
		fmt.Sscan(op.Path[last], &at)
		n.Content = slices.Insert(n.Content, at, value)
	}
}

func set(n *yaml.Node, key string, value *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			n.Content[i+1] = value
			return
		}
	}
	n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, value)
}

package inject

import (
	"encoding/json"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshpilot/pilot/pkg/model"
)

// Op adds a value at a path, as the operation "add" of a JSON patch does: a
// member of an object, or an element of a list, before that with the number
// or, for "-", at the end.
type Op struct {
	Path  []string // from the template
	Value any
}

// JSONPatch is the operations as RFC 6902 has them.
func JSONPatch(ops []Op) ([]byte, error) {
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	out := make([]operation, 0, len(ops))
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	for _, op := range ops {
		var path strings.Builder
		for _, step := range op.Path {
			path.WriteString("/" + escape.Replace(step))
		}
		out = append(out, operation{"add", path.String(), op.Value})
	}
	return json.Marshal(out)
}

// ops are the additions, in the order of the fields in a manifest.
func (i *injection) ops() []Op {
	var ops []Op
	labels := [][2]string{{tlsModeLabel, "istio"}}
	if _, given := i.Meta.Labels[tlsModeLabel]; given {
		labels = nil
	}
	annotations := [][2]string{{statusAnnotation, i.status()}}
	if _, given := i.Meta.Annotations[defaultContainer]; !given && !i.Native && len(i.Spec.Containers) > 0 {
		annotations = append(annotations, [2]string{defaultContainer, i.Spec.Containers[0].Name})
	}
	ops = append(ops, members("labels", i.Meta.Labels, labels)...)
	ops = append(ops, members("annotations", i.Meta.Annotations, annotations)...)
	// Classic: the other init containers run before capture, because they end
	// before there is a sidecar. Native: the sidecar is there before them.
	ops = append(ops, elements("initContainers", len(i.Spec.InitContainers), i.Native, i.initContainers())...)
	if !i.Native {
		ops = append(ops, elements("containers", len(i.Spec.Containers), true, []corev1.Container{i.proxyContainer()})...)
	}
	return append(ops, elements("volumes", len(i.Spec.Volumes), false, i.volumes())...)
}

func (i *injection) initContainers() []corev1.Container {
	var out []corev1.Container
	if i.wanted.mode != model.CaptureNone {
		out = append(out, i.captureContainer())
	}
	if i.Native {
		out = append(out, i.proxyContainer())
	}
	return out
}

// status tells people and tools what was added.
func (i *injection) status() string {
	status := struct {
		InitContainers []string `json:"initContainers"`
		Containers     []string `json:"containers"`
		Volumes        []string `json:"volumes"`
	}{[]string{}, []string{}, []string{certsVolume, configVolume}}
	if i.wanted.mode != model.CaptureNone {
		status.InitContainers = append(status.InitContainers, CaptureContainer)
	}
	if i.Native {
		status.InitContainers = append(status.InitContainers, ProxyContainer)
	} else {
		status.Containers = append(status.Containers, ProxyContainer)
	}
	text, _ := json.Marshal(status) // strings alone
	return string(text)
}

// members are operations that add to metadata.field, which may be missing.
func members(field string, have map[string]string, add [][2]string) []Op {
	if len(add) == 0 {
		return nil
	}
	if len(have) == 0 {
		all := map[string]string{}
		for _, m := range add {
			all[m[0]] = m[1]
		}
		return []Op{{Path: []string{"metadata", field}, Value: all}}
	}
	var ops []Op
	for _, m := range add {
		ops = append(ops, Op{Path: []string{"metadata", field, m[0]}, Value: m[1]})
	}
	return ops
}

// elements are operations that add to spec.field, a list of so many; it may be
// missing.
func elements[T any](field string, have int, first bool, add []T) []Op {
	if len(add) == 0 {
		return nil
	}
	if have == 0 {
		return []Op{{Path: []string{"spec", field}, Value: add}}
	}
	var ops []Op
	for j, element := range add {
		at := "-"
		if first {
			at = strconv.Itoa(j)
		}
		ops = append(ops, Op{Path: []string{"spec", field, at}, Value: element})
	}
	return ops
}

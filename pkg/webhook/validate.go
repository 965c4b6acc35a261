package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

const (
	// lintTime is how long a review waits for another's lint: what the whole
	// mesh makes of an object is worth less than an answer in time.
	lintTime = 500 * time.Millisecond
	// maxWarnings keeps an answer readable; the API server cuts it at 4 kB.
	maxWarnings = 10
)

// validator refuses objects that are wrong by themselves, and warns of what
// they do in the mesh.
type validator struct {
	options Options
	lint    chan struct{} // one at a time: it takes a core
}

func (v *validator) review(ctx context.Context, r *admissionv1.AdmissionRequest) *answer {
	if r.Operation != admissionv1.Create && r.Operation != admissionv1.Update || r.SubResource != "" {
		return &answer{Allowed: true}
	}
	var o struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	if err := json.Unmarshal(r.Object.Raw, &o); err != nil || o.Metadata.DeletionTimestamp != nil {
		return &answer{Allowed: true} // the API server knows better, or it is on its way out
	}
	key := model.Key{Kind: r.Kind.Kind, Namespace: r.Namespace, Name: o.Metadata.Name}
	if r.Kind.Kind == "Service" {
		// Kubernetes validates Services, and may know more fields than we do.
		s := &corev1.Service{}
		if err := json.Unmarshal(r.Object.Raw, s); err != nil {
			return &answer{Allowed: true}
		}
		return v.allowed(ctx, meshconfig.Bundle{Services: []*corev1.Service{s}}, key, nil)
	}
	now, problems := read(r.Object.Raw)
	before, old := read(r.OldObject.Raw)
	if now.Mesh != nil && before.Mesh != nil {
		problems = append(problems, now.Mesh.Transition(before.Mesh)...)
	}
	meshconfig.SortProblems(problems)
	warnings, errors := texts(problems)
	_, known := texts(old)
	if slices.ContainsFunc(errors, func(text string) bool { return !slices.Contains(known, text) }) {
		a := refused(strings.Join(errors, "\n"))
		a.Warnings = cut(warnings)
		return a
	}
	// An object that was taken with these errors can be edited in other ways:
	// labels, finalizers.
	for _, text := range errors {
		warnings = append(warnings, "as before, this is wrong and not in force: "+text)
	}
	if len(errors) > 0 {
		return &answer{Allowed: true, Warnings: cut(warnings)}
	}
	return v.allowed(ctx, now, key, warnings)
}

// read decodes one object as `pilot validate` does.
func read(raw []byte) (meshconfig.Bundle, []meshconfig.Problem) {
	if len(raw) == 0 {
		return meshconfig.Bundle{}, nil
	}
	return meshconfig.Decode(bytes.NewReader(raw), "")
}

// allowed takes the objects of now, of which one is called key, and warns of
// what Compile says about it within the mesh.
func (v *validator) allowed(ctx context.Context, now meshconfig.Bundle, key model.Key, warnings []string) *answer {
	for _, p := range v.linted(ctx, now) {
		if p.On == key && p.Severity == meshconfig.Warning {
			warnings = append(warnings, p.String())
		}
	}
	return &answer{Allowed: true, Warnings: cut(warnings)}
}

func (v *validator) linted(ctx context.Context, now meshconfig.Bundle) []meshconfig.Problem {
	mesh, known := v.options.Mesh()
	if !known {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lintTime)
	defer cancel()
	select {
	case v.lint <- struct{}{}:
		defer func() { <-v.lint }()
	case <-ctx.Done():
		return nil
	}
	next := mesh.With(now)
	next.Positions = nil // of other sources' files
	_, problems := meshconfig.Compile(next, v.options.Domain)
	return problems
}

func cut(warnings []string) []string {
	if more := len(warnings) - maxWarnings; more > 0 {
		return append(warnings[:maxWarnings:maxWarnings], fmt.Sprintf("and %d more", more))
	}
	return warnings
}

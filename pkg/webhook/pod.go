package webhook

import (
	"cmp"
	"encoding/json"
	"net/http"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpilot/pilot/pkg/inject"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/model"
)

// injected answers for a pod that is being created.
func injected(o Options, r *admissionv1.AdmissionRequest) *answer {
	s, ok := o.Settings()
	if !ok {
		return nil
	}
	if r.Kind.Kind != "Pod" || r.Kind.Group != "" {
		return &answer{Allowed: true}
	}
	var pod corev1.Pod
	if err := json.Unmarshal(r.Object.Raw, &pod); err != nil {
		return refused("the pod cannot be read: " + err.Error())
	}
	on := model.Key{Kind: "Pod", Namespace: r.Namespace, Name: cmp.Or(pod.Name, pod.GenerateName)}
	result := inject.Inject(inject.Template{On: on, Meta: pod.ObjectMeta, Spec: pod.Spec, Default: true}, s)
	warnings, errors := texts(result.Problems)
	if len(errors) > 0 {
		a := refused(strings.Join(errors, "\n"))
		a.Warnings = warnings
		return a
	}
	out := &answer{Allowed: true, Warnings: warnings}
	if len(result.Ops) == 0 {
		return out
	}
	patch, err := inject.JSONPatch(result.Ops)
	if err != nil {
		return refused(err.Error())
	}
	kind := admissionv1.PatchTypeJSONPatch
	out.Patch, out.PatchType = patch, &kind
	return out
}

// texts are what problems say to the author of an object, and why it is
// refused.
func texts(problems []meshconfig.Problem) (warnings, errors []string) {
	for _, p := range problems {
		if p.Severity == meshconfig.Error {
			errors = append(errors, p.String())
		} else {
			warnings = append(warnings, p.String())
		}
	}
	return warnings, errors
}

func refused(message string) *answer {
	return &answer{Result: &metav1.Status{
		Status: metav1.StatusFailure, Message: message, Reason: metav1.StatusReasonInvalid, Code: http.StatusUnprocessableEntity,
	}}
}

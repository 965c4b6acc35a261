package chart

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	kubeyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/meshpilot/pilot/manifests"
)

// objects are those of a YAML text, in their order.
func objects(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	for dec := kubeyaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096); ; {
		o := &unstructured.Unstructured{}
		if err := dec.Decode(&o.Object); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if o.Object != nil {
			all = append(all, o)
		}
	}
}

func into(t *testing.T, o *unstructured.Unstructured, typed any) {
	t.Helper()
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, typed, true); err != nil {
		t.Fatal(err)
	}
}

// TestPolicy: nothing privileged, no wildcards, limits, a root that is
// read-only, and nothing outside the namespace that is not the mesh's.
func TestPolicy(t *testing.T) {
	text, err := manifests.Render(manifests.Options{})
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, o := range objects(t, text) {
		name := o.GetKind() + " " + o.GetName()
		kinds[o.GetKind()]++
		var findings []string
		switch o.GetKind() {
		case "ClusterRole":
			role := &rbacv1.ClusterRole{}
			into(t, o, role)
			findings = ruleFindings(name, role.Rules)
		case "Role":
			role := &rbacv1.Role{}
			into(t, o, role)
			findings = ruleFindings(name, role.Rules)
		case "ClusterRoleBinding", "RoleBinding":
			binding := &rbacv1.ClusterRoleBinding{} // the same fields
			into(t, o, binding)
			if want := []rbacv1.Subject{{Kind: "ServiceAccount", Name: "istio-pilot", Namespace: "istio-system"}}; !slices.Equal(binding.Subjects, want) || !strings.HasPrefix(binding.RoleRef.Name, "istio-pilot") {
				t.Errorf("%s binds %v to %v", name, binding.Subjects, binding.RoleRef)
			}
		case "Deployment":
			d := &appsv1.Deployment{}
			into(t, o, d)
			findings = podFindings(name, d.Spec.Template.Spec, func(string) bool { return true })
			findings = append(findings, limitFindings(name, d.Spec.Template.Spec)...)
		case "Secret", "Pod", "DaemonSet", "Job", "ConfigMap":
			t.Errorf("%s is installed, and nobody looks at it here", name)
		}
		for _, f := range findings {
			t.Error(f)
		}
	}
	for kind, n := range map[string]int{"Namespace": 1, "CustomResourceDefinition": 2, "ClusterRole": 1, "Role": 1, "Deployment": 1, "PodDisruptionBudget": 1, "HorizontalPodAutoscaler": 1} {
		if kinds[kind] != n {
			t.Errorf("%d of kind %s, want %d", kinds[kind], kind, n)
		}
	}
}

// TestPolicyFails: each rule finds what breaks it.
func TestPolicyFails(t *testing.T) {
	got := ruleFindings("r", []rbacv1.PolicyRule{
		{Verbs: []string{"*"}, APIGroups: []string{""}, Resources: []string{"pods"}},
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"*/status", "pods/exec"}},
		{Verbs: []string{"bind"}, APIGroups: []string{"rbac.authorization.k8s.io"}, Resources: []string{"roles"}},
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}},
	})
	want := []string{"r: rules[0] has a wildcard", "r: rules[1] has a wildcard", "r: rules[1] is about pods/exec", "r: rules[2] has the verb bind", "r: rules[2] is about roles"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	pod := corev1.PodSpec{}
	if err := yaml.UnmarshalStrict([]byte(`
hostNetwork: true
volumes: [{name: v, hostPath: {path: /run}}]
securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
initContainers:
- name: init
  resources: {requests: {cpu: 1, memory: 1Mi}, limits: {memory: 1Mi}}
  securityContext: {runAsNonRoot: false, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL], add: [NET_ADMIN, NET_RAW]}}
containers:
- name: bare
- name: loud
  resources: {requests: {cpu: 1, memory: 1Mi}, limits: {memory: 1Mi}}
  securityContext: {privileged: true, runAsNonRoot: false, allowPrivilegeEscalation: true, readOnlyRootFilesystem: true, capabilities: {drop: [ALL], add: [NET_ADMIN]}, seccompProfile: {type: Unconfined}}
- name: theirs
`), &pod); err != nil {
		t.Fatal(err)
	}
	got = podFindings("p", pod, func(c string) bool { return c != "theirs" }, "NET_ADMIN")
	want = []string{
		"p: uses a namespace of the host", "p: mounts the host's /run",
		"p: container init adds [NET_ADMIN NET_RAW]",
		"p: container bare may escalate its privileges", "p: container bare may write its root file system", "p: container bare does not drop all capabilities",
		"p: container bare requests no cpu", "p: container bare requests no memory",
		"p: container loud is privileged", "p: container loud may escalate its privileges", "p: container loud adds [NET_ADMIN]",
		"p: container loud may run as root", "p: container loud has no seccomp profile RuntimeDefault",
	}
	if got := limitFindings("p", pod); !slices.Equal(got, []string{"p: container bare has no limit of memory", "p: container theirs has no limit of memory"}) {
		t.Errorf("got %q", got)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestOtherNamespace: nothing is left of the default.
func TestOtherNamespace(t *testing.T) {
	text, err := manifests.Render(manifests.Options{Namespace: "mesh", Image: "example/pilot@sha256:0", ProxyImage: "example/proxy:1", Replicas: 7})
	if err != nil {
		t.Fatal(err)
	}
	for _, old := range []string{"istio-system", "meshpilot/pilot"} {
		if strings.Contains(text, old) {
			t.Errorf("%s is still there", old)
		}
	}
	for _, want := range []string{"namespace: mesh\n", "name: istio-pilot-mesh\n", `image: "example/pilot@sha256:0"`, "--proxy-image=example/proxy:1\n", "minReplicas: 7\n", "maxReplicas: 7\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not there", want)
		}
	}
	for _, o := range []manifests.Options{{Namespace: "a.b"}, {Image: "x\ny"}, {ProxyImage: "-"}, {Replicas: -1}} {
		if _, err := manifests.Render(o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

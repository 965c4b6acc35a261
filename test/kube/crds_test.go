package kube

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/meshpilot/pilot/internal/kubetest"
	"github.com/meshpilot/pilot/pkg/meshconfig"
)

// sample is a spec, and what the API server says of it as far as pilot
// validate says the same; "" is accepted.
type sample struct{ spec, text string }

func policySamples() []sample {
	return []sample{
		{"{}", ""},
		{"{peers: []}", ""},
		{"{peers: null, targets: null}", ""},
		{"{peers: [{mtls: null}]}", ""},
		{"{peers: [{mtls: {}}]}", ""},
		{"{peers: [{mtls: {mode: null, allowTls: null}}]}", ""},
		{"{peers: [{mtls: {mode: STRICT, allowTls: true}}]}", ""},
		{"{peers: [{mtls: {mode: PERMISSIVE}}], peerIsOptional: true}", ""},
		{"{targets: [{name: cart, ports: [{number: 1}, {number: 65535}, {name: http-main}]}, {name: 9a}]}", ""},
		{"{targets: [{name: cart, ports: null}]}", ""},
		{"{origins: [], originIsOptional: false, principalBinding: USE_PEER}", ""},
		{"{origins: null, originIsOptional: null, principalBinding: null, peerIsOptional: null}", ""},

		{"{peers: [{mtls: {mode: TLS_PERMISSIVE}}]}", `spec.peers[0].mtls.mode: unknown mTLS mode "TLS_PERMISSIVE"`},
		{"{peers: [{mtls: {mode: DISABLE}}]}", `spec.peers[0].mtls.mode: unknown mTLS mode "DISABLE"; to switch mTLS off, leave peers empty`},
		{"{peers: [{mtls: {mode: PERMISSIVE, allowTls: true}}]}", "spec.peers[0].mtls.allowTls: allowTls cannot be combined with mode PERMISSIVE"},
		{"{peers: [{}]}", "spec.peers[0]: "},
		{"{peers: [{mtls: {}}, {mtls: null}]}", ": at most one mtls entry is allowed"},
		{"{peers: [{mtls: strict}]}", "spec.peers[0].mtls: "},
		{"{peers: [{jwt: {issuer: x}}]}", "spec.peers[0].jwt: JWT is not supported yet"},
		{"{origins: [{jwt: {}}]}", "spec.origins: JWT is not supported yet"},
		{"{originIsOptional: true}", "spec.originIsOptional: JWT is not supported yet"},
		{"{principalBinding: USE_ORIGIN}", "spec.principalBinding: JWT is not supported yet"},
		{"{principalBinding: use_peer}", `spec.principalBinding: unknown principal binding "use_peer"`},
		{"{peers: [{mTLS: {}}]}", `unknown field "spec.peers[0].mTLS"`},
		{"{peers: [{mtls: {allowTLS: true}}]}", `unknown field "spec.peers[0].mtls.allowTLS"`},
		{"{target: []}", `unknown field "spec.target"`},
		{"{targets: [{ports: [{number: 1}]}]}", `spec.targets[0].name: target name "" must be a valid label`},
		{"{targets: [{name: cart.shop}]}", `spec.targets[0].name: target name "cart.shop" must be a valid label`},
		{"{targets: [{name: -a}]}", `spec.targets[0].name: target name "-a" must be a valid label`},
		{"{targets: [{name: " + strings.Repeat("a", 64) + "}]}", "spec.targets[0].name: "},
		{"{targets: [{name: cart, subset: v1}]}", "spec.targets[0].subset: target subsets are not supported"},
		{"{targets: [{name: cart, labels: {v: a}}]}", "spec.targets[0].labels: target subsets are not supported"},
		{"{targets: [{name: cart, ports: [{}]}]}", "spec.targets[0].ports[0]: port selector must have exactly one of number and name"},
		{"{targets: [{name: cart, ports: [{number: 80, name: http}]}]}", "spec.targets[0].ports[0]: port selector must have exactly one of number and name"},
		{"{targets: [{name: cart, ports: [{number: 0}]}]}", "must be in the range 1..65535"},
		{"{targets: [{name: cart, ports: [{number: 65536}]}]}", "must be in the range 1..65535"},
		{"{targets: [{name: cart, ports: [{number: http}]}]}", "spec.targets[0].ports[0].number: "},
		{"{targets: [{name: cart, ports: [{name: HTTP}]}]}", `spec.targets[0].ports[0].name: port name "HTTP" must be a valid label`},
	}
}

// TestSchemas: a real API server accepts and refuses by the schemas what pilot
// accepts and refuses, in the same words.
func TestSchemas(t *testing.T) {
	c := kubetest.Start(t, kubetest.Options{})
	installSchemas(t, c)
	client, err := dynamic.NewForConfig(c.Config())
	if err != nil {
		t.Fatal(err)
	}
	create := func(kind, resource, namespace, name, spec string) (apiErr error, problems []meshconfig.Problem) {
		text := fmt.Sprintf("apiVersion: authentication.istio.io/v1alpha1\nkind: %s\nmetadata: {name: %s}\n%s\n", kind, name, spec)
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
			t.Fatal(err)
		}
		r := client.Resource(schema.GroupVersionResource{Group: "authentication.istio.io", Version: "v1alpha1", Resource: resource})
		options := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict}
		if namespace == "" {
			_, apiErr = r.Create(t.Context(), o, options)
		} else {
			_, apiErr = r.Namespace(namespace).Create(t.Context(), o, options)
			text = strings.Replace(text, "metadata: {", "metadata: {namespace: "+namespace+", ", 1)
		}
		_, problems = meshconfig.Decode(strings.NewReader(text), "sample.yaml")
		return apiErr, problems
	}
	check := func(what, text string, apiErr error, problems []meshconfig.Problem) {
		t.Helper()
		said, refused := "", false
		for _, p := range problems {
			refused = refused || p.Severity == meshconfig.Error
			said += p.Field + ": " + p.Message + "\n"
		}
		if (apiErr != nil) != (text != "") || refused != (text != "") {
			t.Errorf("%s: the API server says %v, pilot\n%s", what, apiErr, said)
			return
		}
		if text == "" {
			return
		}
		// The API server puts the value between path and text.
		path, message, _ := strings.Cut(text, ": ")
		for _, part := range []string{path, message} {
			if !strings.Contains(apiErr.Error(), part) || !strings.Contains(said, part) {
				t.Errorf("%s: %q is not what both say: %v\n%s", what, part, apiErr, said)
			}
		}
	}
	for _, s := range policySamples() {
		apiErr, problems := create("Policy", "policies", "default", "p", "spec: "+s.spec)
		check("Policy "+s.spec, s.text, apiErr, problems)
	}
	for _, s := range []struct{ kind, name, spec, text string }{
		{"MeshPolicy", "default", "spec: {}", ""},
		{"MeshPolicy", "default", "spec: {peers: [{mtls: null}]}", ""},
		{"MeshPolicy", "other", "spec: {}", `: cluster-scoped authentication policy name must be "default"`},
		{"MeshPolicy", "default", "spec: {targets: [{name: cart}]}", "spec.targets: cluster-scoped authentication policy must not have targets"},
		{"MeshPolicy", "default", "status: {}", "spec: spec must be set; spec: {} switches mTLS off in the mesh"},
		{"Policy", "p", "status: {}", "spec: spec must be set; spec: {} switches mTLS off in the namespace"},
	} {
		resource, namespace := "meshpolicies", ""
		if s.kind == "Policy" {
			resource, namespace = "policies", "default"
		}
		apiErr, problems := create(s.kind, resource, namespace, s.name, s.spec)
		check(s.kind+" "+s.name+" "+s.spec, s.text, apiErr, problems)
	}
	// The only differences: the API server drops null where a field knows none,
	// and wants more than nothing after "spec:".
	if err, _ := create("Policy", "policies", "default", "p", "spec: {targets: [{name: cart, subset: null}]}"); err != nil {
		t.Error(err)
	}
	if err, problems := create("Policy", "policies", "default", "p", "spec:"); err == nil || len(problems) > 0 {
		t.Errorf("spec: null: %v, %v", err, problems)
	}
}

// TestStatus: the status is a subresource, and kubectl get shows conditions.
func TestStatus(t *testing.T) {
	c := kubetest.Start(t, kubetest.Options{})
	installSchemas(t, c)
	c.Kubectl(t, "apiVersion: authentication.istio.io/v1alpha1\nkind: Policy\nmetadata: {name: p, namespace: default}\nspec: {targets: [{name: cart}, {name: stock}]}\n", "apply", "-f", "-")
	c.Kubectl(t, "", "patch", "policy.authentication.istio.io", "p", "--subresource=status", "--type=merge", "-p",
		`{"status": {"conditions": [{"type": "Accepted", "status": "True", "reason": "Valid", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
		{"type": "Programmed", "status": "False", "reason": "Waiting", "message": "3 of 5 proxies", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}`)
	out := c.Kubectl(t, "", "get", "policies.authentication.istio.io")
	if got := strings.Fields(out); len(got) < 9 || got[1] != "TARGETS" || got[6] != "cart" && got[6] != "cart,stock" || !strings.Contains(out, "True") || !strings.Contains(out, "False") {
		t.Errorf("kubectl get prints\n%s", out)
	}
	if out := c.Kubectl(t, "", "get", "istio-io", "-o", "name"); out != "policy.authentication.istio.io/p\n" {
		t.Errorf("the category holds %q", out)
	}
}

func installSchemas(t *testing.T, c *kubetest.Cluster) {
	t.Helper()
	files, err := filepath.Glob("../../manifests/charts/pilot/files/crds/*.yaml")
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		path, err := filepath.Abs(file)
		if err != nil {
			t.Fatal(err)
		}
		c.Kubectl(t, "", "apply", "-f", path)
	}
	c.Kubectl(t, "", "wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
}

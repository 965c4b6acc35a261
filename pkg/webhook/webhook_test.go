package webhook

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/meshpilot/pilot/pkg/inject"
	"github.com/meshpilot/pilot/pkg/meshconfig"
)

const inForce = `
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: cart-1, namespace: shop, labels: {app: cart, security.istio.io/tlsMode: istio}}
spec: {containers: [{name: cart}]}
status: {podIP: 10.0.0.1}
`

func testOptions(t *testing.T) Options {
	t.Helper()
	bundle, problems := meshconfig.Decode(strings.NewReader(inForce), "in-force.yaml")
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return Options{
		Domain: "cluster.local",
		Mesh:   func() (meshconfig.Bundle, bool) { return bundle, true },
		Settings: func() (inject.Settings, bool) {
			return inject.Settings{
				Mesh: &meshconfig.DefaultMesh().Mesh, Image: "pilot-proxy", Native: true,
				ControlPlaneNamespace: "istio-system", Drain: time.Second,
			}, true
		},
	}
}

// request is the review of an object that is created, or updated from old.
func request(t *testing.T, object, old string) *admissionv1.AdmissionRequest {
	t.Helper()
	r := &admissionv1.AdmissionRequest{UID: "1", Operation: admissionv1.Create, Object: raw(t, object)}
	if old != "" {
		r.Operation, r.OldObject = admissionv1.Update, raw(t, old)
	}
	var o struct {
		metav1.TypeMeta
		Metadata metav1.ObjectMeta
	}
	if err := json.Unmarshal(r.Object.Raw, &o); err != nil {
		t.Fatal(err)
	}
	gvk := o.GroupVersionKind()
	r.Kind = metav1.GroupVersionKind{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}
	r.Namespace, r.Name = o.Metadata.Namespace, o.Metadata.Name
	return r
}

func raw(t *testing.T, text string) runtime.RawExtension {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return runtime.RawExtension{Raw: data}
}

func ask(t *testing.T, o Options, path string, r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	t.Helper()
	body, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: r,
	})
	if err != nil {
		t.Fatal(err)
	}
	code, text := post(t, o, path, "application/json", body)
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, text)
	}
	var out admissionv1.AdmissionReview
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatal(err)
	}
	if out.Response == nil || out.Response.UID != r.UID || out.APIVersion != "admission.k8s.io/v1" {
		t.Fatalf("answer %s", text)
	}
	return out.Response
}

func post(t *testing.T, o Options, path, kind string, body []byte) (int, string) {
	t.Helper()
	server := httptest.NewServer(Handler(o))
	defer server.Close()
	answer, err := http.Post(server.URL+path, kind, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

// TestValidate: what is refused, with the texts of `pilot validate`, and what
// is warned of.
func TestValidate(t *testing.T) {
	policy := func(meta, spec string) string {
		return "apiVersion: authentication.istio.io/v1alpha1\nkind: Policy\nmetadata: {name: p, namespace: shop" + meta + "}\nspec: " + spec
	}
	const bad = `{peers: [{mtls: {mode: STRICKT}}]}`
	const unknownMode = `Policy shop/p: spec.peers[0].mtls.mode: unknown mTLS mode "STRICKT", did you mean "STRICT"?`
	for name, tc := range map[string]struct {
		object, old       string
		refused, warnings string // parts of the texts; empty is none
	}{
		"right":               {object: policy("", `{targets: [{name: cart}], peers: [{mtls: {}}]}`)},
		"wrong mode":          {object: policy("", bad), refused: unknownMode},
		"unknown field":       {object: policy("", `{target: []}`), refused: `unknown field "spec.target", did you mean "targets"?`},
		"no such service":     {object: policy("", `{targets: [{name: card}], peers: [{mtls: {}}]}`), warnings: `Policy shop/p: spec.targets[0].name: `},
		"without effect":      {object: policy("", `{peerIsOptional: true}`), warnings: "has no effect here"},
		"as wrong as before":  {object: policy(", labels: {a: b}", bad), old: policy("", bad), warnings: "as before, this is wrong and not in force: " + unknownMode},
		"more wrong":          {object: policy("", `{peers: [{mtls: {mode: STRICKT}}], origins: [{}]}`), old: policy("", bad), refused: "JWT is not supported yet"},
		"on its way out":      {object: policy(", deletionTimestamp: 2026-01-01T00:00:00Z", bad)},
		"mesh policy":         {object: "apiVersion: authentication.istio.io/v1alpha1\nkind: MeshPolicy\nmetadata: {name: other}\nspec: {}", refused: `name must be "default"`},
		"peer authentication": {object: "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: shop}\nspec: {mtls: {mode: ON}}", refused: "PeerAuthentication shop/p"},
		"destination rule":    {object: "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d, namespace: shop}\nspec: {}", refused: "DestinationRule shop/d: spec.host"},
		"service entry":       {object: "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: s, namespace: shop}\nspec: {hosts: [a.example.com]}", refused: "ports must be set"},
		"workload entry":      {object: "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: w, namespace: shop}\nspec: {}", refused: "address must be set"},
		"service, annotation of another port": {
			object:   "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop, annotations: {auth.istio.io/81: NONE}}\nspec: {ports: [{port: 80}], ofTomorrow: 1}",
			warnings: `"81" is none of its ports`,
		},
		"mesh": {object: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: 'authPolicy: MTLS'}", refused: "ConfigMap istio-system/istio: authPolicy: unrecognized auth policy"},
		"mesh, trust domain changed": {
			object:  "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: 'trustDomain: b.example'}",
			old:     "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: 'trustDomain: a.example'}",
			refused: "trust domain change needs the old value in trustDomainAliases",
		},
		"another config map": {object: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other, namespace: istio-system}", warnings: "is skipped"},
	} {
		t.Run(name, func(t *testing.T) {
			a := ask(t, testOptions(t), ValidatePath, request(t, tc.object, tc.old))
			message := ""
			if a.Result != nil {
				message = a.Result.Message
			}
			if a.Allowed != (tc.refused == "") || !strings.Contains(message, tc.refused) {
				t.Errorf("allowed %t with %q, want %q", a.Allowed, message, tc.refused)
			}
			warnings := strings.Join(a.Warnings, "\n")
			if (warnings == "") != (tc.warnings == "") || !strings.Contains(warnings, tc.warnings) {
				t.Errorf("warnings %q, want %q", warnings, tc.warnings)
			}
		})
	}
}

// The refusal is word for word what `pilot validate` says of the file.
func TestSameTexts(t *testing.T) {
	const text = "apiVersion: authentication.istio.io/v1alpha1\nkind: Policy\nmetadata: {name: p, namespace: shop}\nspec: {targets: [{name: Cart}], peers: [{mtls: {mode: X}}], principalBinding: NEITHER}"
	_, problems := meshconfig.Decode(strings.NewReader(text), "")
	meshconfig.SortProblems(problems)
	var want []string
	for _, p := range problems {
		want = append(want, p.String())
	}
	a := ask(t, testOptions(t), ValidatePath, request(t, text, ""))
	if len(want) != 3 || a.Result == nil || a.Result.Message != strings.Join(want, "\n") {
		t.Errorf("got %+v, want %q", a.Result, want)
	}
}

func TestInject(t *testing.T) {
	pod := func(meta string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {generateName: cart-, namespace: shop" + meta + "}\nspec: {containers: [{name: cart, image: cart}]}"
	}
	for name, tc := range map[string]struct {
		pod             string
		patched         bool
		refused, warned string
	}{
		"labelled namespace":              {pod: pod(""), patched: true},
		"opted out":                       {pod: pod(`, annotations: {sidecar.istio.io/inject: "false"}`)},
		"asks":                            {pod: pod(`, labels: {sidecar.istio.io/inject: "true"}`), patched: true},
		"annotation that means nothing":   {pod: pod(`, annotations: {sidecar.istio.io/inject: "yes"}`), patched: true, warned: `write "true" or "false"`},
		"annotation that cannot be meant": {pod: pod(`, annotations: {traffic.sidecar.istio.io/excludeInboundPorts: http}`), refused: `Pod shop/cart-: metadata.annotations[traffic.sidecar.istio.io/excludeInboundPorts]: "http" is no port`},
	} {
		t.Run(name, func(t *testing.T) {
			a := ask(t, testOptions(t), InjectPath, request(t, tc.pod, ""))
			if a.Allowed != (tc.refused == "") || a.Result != nil && !strings.Contains(a.Result.Message, tc.refused) {
				t.Errorf("allowed %t, %+v", a.Allowed, a.Result)
			}
			if (len(a.Patch) > 0) != tc.patched || tc.patched && (*a.PatchType != admissionv1.PatchTypeJSONPatch || !strings.Contains(string(a.Patch), "istio-proxy")) {
				t.Errorf("patch %s", a.Patch)
			}
			if got := strings.Join(a.Warnings, "\n"); !strings.Contains(got, tc.warned) || tc.warned == "" && got != "" {
				t.Errorf("warnings %q", got)
			}
		})
	}
}

// What is no review is refused, and before the mesh is known there is no
// answer, so that the API server goes on without.
func TestHandler(t *testing.T) {
	o := testOptions(t)
	review := []byte(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","kind":{"version":"v1","kind":"Pod"}}}`)
	for name, tc := range map[string]struct {
		path, kind string
		body       []byte
		want       int
	}{
		"wrong type":    {ValidatePath, "text/plain", review, http.StatusUnsupportedMediaType},
		"no JSON":       {ValidatePath, "application/json", []byte("{"), http.StatusBadRequest},
		"no request":    {ValidatePath, "application/json", []byte(`{"apiVersion":"admission.k8s.io/v1"}`), http.StatusBadRequest},
		"old version":   {ValidatePath, "application/json", bytes.Replace(review, []byte("k8s.io/v1"), []byte("k8s.io/v1beta1"), 1), http.StatusBadRequest},
		"too large":     {InjectPath, "application/json", bytes.Repeat([]byte(" "), largestBody+1), http.StatusRequestEntityTooLarge},
		"no such path":  {"/other", "application/json", review, http.StatusNotFound},
		"with charset":  {ValidatePath, "application/json; charset=utf-8", review, http.StatusOK},
		"not known yet": {InjectPath, "application/json", review, http.StatusServiceUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			o := o
			if name == "not known yet" {
				o.Settings = func() (inject.Settings, bool) { return inject.Settings{}, false }
			}
			if code, text := post(t, o, tc.path, tc.kind, tc.body); code != tc.want {
				t.Errorf("%d %s, want %d", code, text, tc.want)
			}
		})
	}
}

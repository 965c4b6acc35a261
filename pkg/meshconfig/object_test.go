package meshconfig

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/testing/protocmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// object is text as a client of the API sees it: numbers as the API's decoder
// makes them.
func object(t *testing.T, text string) map[string]any {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var u unstructured.Unstructured
	if err := u.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	return u.Object
}

// An object of the API reads as the same text in a file does.
func TestDecodeObject(t *testing.T) {
	for name, text := range map[string]string{
		"policy": `
apiVersion: authentication.istio.io/v1alpha1
kind: Policy
metadata:
  name: details
  namespace: shop
  annotations: {"no": "yes", quoted: "say \"é\"\u007f"}
spec: {targets: [{name: details, ports: [{number: 9080}]}], peers: [{mtls: {}}]}`,
		"rule": `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a, namespace: shop}
spec:
  host: details
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 7, connectTimeout: 1.5s}}
    tls: {mode: ISTIO_MUTUAL}`,
		"entry": `
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata: {name: a, namespace: shop}
spec: {hosts: [a.example.com], ports: [{number: 443, name: https, protocol: HTTPS}], resolution: DNS}`,
		"faults": `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a, namespace: shop}
spec: {host: 12, hostt: a, trafficPolicy: {tls: {mode: MUTUL}}}`,
	} {
		fromFile, inFile := Decode(strings.NewReader(text), "a.yaml")
		fromAPI, inAPI := DecodeObject(object(t, text))
		for i := range inFile {
			inFile[i].At = Position{}
		}
		fromFile.Positions = nil
		if diff := cmp.Diff(fromFile, fromAPI, protocmp.Transform(), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: file -, API +:\n%s", name, diff)
		}
		if diff := cmp.Diff(inFile, inAPI); diff != "" {
			t.Errorf("%s: problems of file -, API +:\n%s", name, diff)
		}
	}
}

// What only the API server writes is no unknown field.
func TestDecodeObjectOfServer(t *testing.T) {
	_, problems := DecodeObject(object(t, `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: default
  namespace: shop
  uid: 1c0de
  generation: 3
  resourceVersion: "12"
  creationTimestamp: "2026-01-02T03:04:05Z"
  deletionTimestamp: "2026-01-02T03:04:05Z"
  finalizers: [a]
  managedFields: [{manager: kubectl, operation: Apply, apiVersion: v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {".": {}}}, time: "2026-01-02T03:04:05Z"}]
spec: {mtls: {mode: STRICT}}
status: {conditions: [{type: Accepted, status: "True"}], observedGeneration: 3}`))
	for _, p := range problems {
		t.Error(p)
	}
}

// The settings in the ConfigMap: exact texts, and lines within them.
func TestDecodeObjectMesh(t *testing.T) {
	for text, want := range map[string]string{
		`{mesh: "authPolicy: MUTUAL_TLS\n"}`:              "",
		`{mesh: ""}`:                                      "",
		`{other: "a"}`:                                    `ConfigMap istio-system/istio: data: missing configuration map key "mesh"`,
		`{mesh: "\nauthPolicy: MUTUL_TLS\n"}`:             `data.mesh:2: ConfigMap istio-system/istio: authPolicy: unrecognized auth policy "MUTUL_TLS", did you mean "MUTUAL_TLS"?`,
		`{mesh: "authPolicy: NONE\nauthPolici: NONE\n"}`:  `data.mesh:2: ConfigMap istio-system/istio: unknown field "authPolici", did you mean "authPolicy"?`,
		`{mesh: "authPolicy: NONE\n\tx: 1"}`:              `data.mesh:2: ConfigMap istio-system/istio: data.mesh: a tab indents this line; YAML takes spaces only, write spaces instead`,
		`{mesh: "a: 1\n", other: "not looked at: [\n"}`:   `data.mesh:1: ConfigMap istio-system/istio: unknown field "a"`,
		`{mesh: "defaultConfig: {concurrency: \"2\"}\n"}`: `data.mesh:1: ConfigMap istio-system/istio: defaultConfig.concurrency: want a number, got the string "2"; write 2 without quotes`,
	} {
		b, problems := DecodeObject(object(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: "+text+"}"))
		var got bytes.Buffer
		for _, p := range problems {
			got.WriteString(p.String())
		}
		if got.String() != want {
			t.Errorf("%s:\n got %s\nwant %s", text, got.String(), want)
		}
		if (b.Mesh != nil) != (want == "") {
			t.Errorf("%s: mesh %v", text, b.Mesh)
		}
	}
}

// FuzzDecodeObject: whatever JSON an API server may hold.
func FuzzDecodeObject(f *testing.F) {
	f.Add([]byte(`{"apiVersion":"security.istio.io/v1","kind":"PeerAuthentication","metadata":{"name":"a"},"spec":{"mtls":{"mode":"STRICT"}}}`))
	f.Add([]byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"istio"},"data":{"mesh":"a: [\n"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v map[string]any
		if json.Unmarshal(data, &v) == nil {
			b, problems := DecodeObject(v)
			if len(b.Torn) > 0 || b.Positions != nil {
				t.Fatal("an object of the API is torn", problems)
			}
		}
	})
}

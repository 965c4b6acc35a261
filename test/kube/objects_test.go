package kube

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What pilot would not take, kubectl does not get into the cluster either; the
// answer says why, in the words of pilot validate.
func (m *mesh) testRefusals(t *testing.T) {
	for name, c := range map[string]struct{ object, want string }{
		"ConfigMap": {
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: \"authPolicy: mutual_tls\"}\n",
			"authPolicy: unrecognized auth policy",
		},
		"Policy": {
			"apiVersion: authentication.istio.io/v1alpha1\nkind: Policy\nmetadata: {name: bad, namespace: bookinfo}\nspec: {peers: [{mtls: {mode: DISABLE}}]}\n",
			`unknown mTLS mode "DISABLE"; to switch mTLS off, leave peers empty`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := m.TryKubectl(t, c.object, "apply", "-f", "-")
			if err == nil {
				t.Fatalf("taken: %s", out)
			}
			t.Log(err)
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("want %q", c.want)
			}
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "object.yaml"), []byte(c.object), 0o644); err != nil {
				t.Fatal(err)
			}
			if printed, err := exec.Command(programs.Pilot, "validate", dir).CombinedOutput(); err == nil || !strings.Contains(string(printed), c.want) {
				t.Errorf("pilot validate says %s", printed)
			}
		})
	}
}

// peerDefinition is Istio's, as far as it matters here.
const peerDefinition = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: peerauthentications.security.istio.io
spec:
  group: security.istio.io
  scope: Namespaced
  names: {kind: PeerAuthentication, listKind: PeerAuthenticationList, plural: peerauthentications, singular: peerauthentication}
  versions:
    - name: v1
      served: true
      storage: true
      subresources: {status: {}}
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec: {type: object, x-kubernetes-preserve-unknown-fields: true}
            status: {type: object, x-kubernetes-preserve-unknown-fields: true}
`

const strictReviews = `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: reviews, namespace: bookinfo}
spec:
  selector: {matchLabels: {app: reviews}}
  mtls: {mode: STRICT}
`

// A kind whose definition comes while pilot runs is read from then on, and
// nothing restarts; when it goes, so do its objects.
func (m *mesh) testLateDefinition(t *testing.T) {
	m.apply(t, peerDefinition)
	m.Kubectl(t, "", "wait", "--for=condition=Established", "crd/peerauthentications.security.istio.io", "--timeout=30s")
	m.apply(t, strictReviews)
	eventually(t, "PeerAuthentication of a late definition", all(
		func() error { return m.mutual("productpage", "reviews", 9080) },
		func() error {
			return m.refused("legacy", "reviews", 9080, "(STRICT, set by PeerAuthentication bookinfo/reviews)")
		},
		func() error { return m.plain("legacy", "details", 9080) },
	))
	m.remove(t, peerDefinition)
	eventually(t, "definition removed", all(m.plaintext()...))
}

package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpilot/pilot/pkg/identity"
)

// What the mesh's ConfigMap says in these tests. The callers without a sidecar
// hold a gated rollout, so it proceeds without them.
const (
	off       = "authPolicy: NONE\n"
	on        = "authPolicy: MUTUAL_TLS\n"
	immediate = "mtlsRollout: {mode: IMMEDIATE}\n"
	gated     = "mtlsRollout: {quietPeriod: 1s, deadline: 4s, onDeadline: PROCEED}\n"
)

const refusedText = "plaintext refused: "

// The promise: pilot is installed, a ConfigMap or a Policy is edited, and the
// mesh follows, without a restart of anything.
func TestMesh(t *testing.T) {
	m := startMesh(t)
	m.restore(t)
	started := m.envoys(t)

	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"ConfigMap", m.testConfigMap},
		{"ConfigMapGated", m.testConfigMapGated},
		{"Policy", m.testPolicy},
		{"Annotation", m.testAnnotation},
		{"ExcludedServer", m.testExcludedServer},
		{"Secrets", m.testSecrets},
		{"Refusals", m.testRefusals},
		{"LateDefinition", m.testLateDefinition},
	} {
		t.Run(test.name, test.run)
		m.restore(t)
	}
	if again := m.envoys(t); !slices.Equal(started, again) {
		t.Errorf("Envoys were restarted: %v, then %v", started, again)
	}
}

// restore makes the mesh as it was at the start, whatever a test left.
func (m *mesh) restore(t *testing.T) {
	t.Helper()
	m.setMesh(t, off+immediate)
	m.Kubectl(t, "", "delete", "policies", "-n", shop, "--all")
	m.Kubectl(t, "", "annotate", "services", "-n", shop, "--all", "auth.istio.io/9080-")
	eventually(t, "plaintext", all(m.plaintext()...))
}

// envoys are the sidecars' processes, none of which has refused anything.
func (m *mesh) envoys(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, name := range []string{"productpage", "details", "reviews"} {
		a := admin(m.pods[name])
		if n, err := a.Rejected(t.Context()); err != nil || n != 0 {
			t.Errorf("the Envoy of %s refused %d updates, %v", name, n, err)
		}
		all = append(all, fmt.Sprintf("%s %d", name, m.pods[name].Processes["istio-proxy"].PID()))
	}
	return all
}

func (m *mesh) plaintext() []func() error {
	return []func() error{
		func() error { return m.plain("productpage", "details", 9080) },
		func() error { return m.plain("productpage", "reviews", 9080) },
		func() error { return m.plain("reviews", "details", 9080) },
		func() error { return m.plain("legacy", "details", 9080) },
		func() error { return m.plain("legacy", "reviews", 9080) },
	}
}

// The whole mesh, at once: in force within the refresh delay and 2 s.
func (m *mesh) testConfigMap(t *testing.T) {
	edited := m.setMesh(t, on+immediate)
	inTime(t, "MUTUAL_TLS", edited, inForce, all(
		func() error { return m.mutual("productpage", "details", 9080) },
		func() error { return m.mutual("productpage", "reviews", 9080) },
		func() error { return m.mutual("reviews", "details", 9081) },
		func() error {
			return m.refused("legacy", "details", 9080, refusedText+"details.bookinfo.svc.cluster.local:9080 accepts only mutual TLS (STRICT, set by mesh config authPolicy)")
		},
		func() error { return m.refused("legacy", "reviews", 9080, refusedText) },
	))
	edited = m.setMesh(t, off+immediate)
	inTime(t, "NONE", edited, inForce, all(m.plaintext()...))
}

// On proof: the first step, servers that accept both, is in force in the same
// time, and then clients follow; callers without a sidecar hold the rest. No
// call between sidecars is lost, there and back.
func (m *mesh) testConfigMapGated(t *testing.T) {
	load := m.load(t)
	edited := m.setMesh(t, on+gated)
	inTime(t, "MUTUAL_TLS, the first step", edited, inForce, all(
		func() error { return m.mutual("productpage", "details", 9080) },
		func() error { return m.mutual("reviews", "details", 9080) },
		func() error { return m.plain("legacy", "details", 9080) },
	))
	eventually(t, "STRICT", func() error { return m.refused("legacy", "details", 9080, refusedText) })
	t.Logf("STRICT: after %s", time.Since(edited).Round(time.Millisecond))
	edited = m.setMesh(t, off+gated)
	eventually(t, "NONE", all(m.plaintext()...))
	t.Logf("NONE again: after %s", time.Since(edited).Round(time.Millisecond))
	load.stop(t)
}

const detailsPolicy = `apiVersion: authentication.istio.io/v1alpha1
kind: Policy
metadata:
  name: details
  namespace: bookinfo
spec:
  targets:
    - name: details
      ports:
        - number: 9080
  peers:
    - mtls: {}
`

// One port of one service, and nothing else.
func (m *mesh) testPolicy(t *testing.T) {
	edited := m.apply(t, detailsPolicy)
	inTime(t, "Policy on details:9080", edited, inForce, all(
		func() error { return m.mutual("productpage", "details", 9080) },
		func() error {
			return m.refused("legacy", "details", 9080, "(STRICT, set by Policy bookinfo/details)")
		},
		func() error { return m.plain("legacy", "details", 9081) },
		func() error { return m.plain("productpage", "reviews", 9080) },
	))
	edited = m.remove(t, detailsPolicy)
	inTime(t, "Policy deleted", edited, inForce, all(m.plaintext()...))
}

// The annotation of a Service decides for its port.
func (m *mesh) testAnnotation(t *testing.T) {
	m.Kubectl(t, "", "annotate", "service", "reviews", "-n", shop, "auth.istio.io/9080=MUTUAL_TLS")
	edited := time.Now()
	inTime(t, "annotation on reviews", edited, inForce, all(
		func() error { return m.mutual("productpage", "reviews", 9080) },
		func() error {
			return m.refused("legacy", "reviews", 9080, "(STRICT, set by annotation of Service bookinfo/reviews)")
		},
		func() error { return m.plain("legacy", "details", 9080) },
	))
	m.Kubectl(t, "", "annotate", "service", "reviews", "-n", shop, "auth.istio.io/9080-")
	inTime(t, "annotation removed", time.Now(), inForce, all(m.plaintext()...))
}

// Mutual TLS for every service, also those without sidecars, but for the
// API server: it answers through a sidecar while it is excluded, and only then.
func (m *mesh) testExcludedServer(t *testing.T) {
	everywhere := on + immediate + "enableAutoMtls: false\n"
	edited := m.setMesh(t, everywhere)
	inTime(t, "mTLS everywhere", edited, inForce, all(
		func() error { return m.mutual("productpage", "details", 9080) },
		func() error { return m.askServer(t, "productpage") },
	))
	edited = m.setMesh(t, everywhere+"mtlsExcludedServices: []\n")
	inTime(t, "no exclusion", edited, inForce, func() error {
		if err := m.askServer(t, "productpage"); err == nil {
			return errors.New("the API server answers mutual TLS of the mesh")
		}
		return nil
	})
	edited = m.setMesh(t, everywhere)
	inTime(t, "excluded again", edited, inForce, func() error { return m.askServer(t, "productpage") })
}

// askServer asks the API server for its version from a pod, by its virtual
// address, with what the pod's account has.
func (m *mesh) askServer(t *testing.T, from string) error {
	t.Helper()
	p := m.pods[from]
	root, err := os.ReadFile(m.Config().CAFile)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: roots, ServerName: "kubernetes.default.svc"},
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return p.Space.Dial(ctx, "10.96.0.1:443") },
	}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://kubernetes.default.svc/api/v1/namespaces/"+shop+"/pods", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+m.Token(t, shop, from))
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden { // it knows the account, which has no role
		return errors.New("the API server says " + resp.Status)
	}
	return nil
}

// Each account has its Secret, which comes, goes and is repaired; a running
// Envoy takes the new certificate without a restart.
func (m *mesh) testSecrets(t *testing.T) {
	secrets := m.Client.CoreV1().Secrets(shop)
	m.ServiceAccount(t, shop, "new")
	var first *corev1.Secret
	eventually(t, "Secret of a new account", func() (err error) {
		first, err = m.pair(t, "new")
		return err
	})
	if err := secrets.Delete(t.Context(), "istio.new", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "deleted Secret", func() error {
		again, err := m.pair(t, "new")
		if err == nil && again.UID == first.UID {
			return errors.New("is still the old one")
		}
		return err
	})
	if err := m.Client.CoreV1().ServiceAccounts(shop).Delete(t.Context(), "new", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "Secret of a deleted account", func() error {
		if _, err := secrets.Get(t.Context(), "istio.new", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("is there, %v", err)
		}
		return nil
	})

	before, err := admin(m.pods["details"]).Leaves(t.Context())
	if err != nil || len(before) == 0 {
		t.Fatalf("certificates of details: %v, %v", before, err)
	}
	broken, err := m.pair(t, "details")
	if err != nil {
		t.Fatal(err)
	}
	broken.Data[identity.CertChainFile] = []byte("no certificate")
	if _, err := secrets.Update(t.Context(), broken, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "rotated certificate in Envoy", func() error {
		after, err := admin(m.pods["details"]).Leaves(t.Context())
		if err != nil {
			return err
		}
		if len(after) == 0 || slices.ContainsFunc(after, func(serial string) bool { return slices.Contains(before, serial) }) {
			return fmt.Errorf("certificates are %v, were %v", after, before)
		}
		return nil
	})
	edited := m.setMesh(t, on+immediate)
	inTime(t, "mTLS with the new certificate", edited, inForce, func() error { return m.mutual("productpage", "details", 9080) })
}

// pair is an account's Secret, whose certificate must be the account's.
func (m *mesh) pair(t *testing.T, account string) (*corev1.Secret, error) {
	t.Helper()
	s, err := m.Client.CoreV1().Secrets(shop).Get(t.Context(), "istio."+account, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if s.Type != "istio.io/key-and-cert" {
		return nil, fmt.Errorf("type %s", s.Type)
	}
	pair, err := tls.X509KeyPair(s.Data[identity.CertChainFile], s.Data[identity.KeyFile])
	if err != nil {
		return nil, err
	}
	if uris := pair.Leaf.URIs; len(uris) != 1 || !strings.HasSuffix(uris[0].String(), "/ns/"+shop+"/sa/"+account) {
		return nil, fmt.Errorf("identity %v", uris)
	}
	return s, nil
}

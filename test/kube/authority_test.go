package kube

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/meshpilot/pilot/internal/kubetest"
	"github.com/meshpilot/pilot/pkg/discovery"
	"github.com/meshpilot/pilot/pkg/identity"
	"github.com/meshpilot/pilot/pkg/identity/agent"
	"github.com/meshpilot/pilot/pkg/identity/csr"
	"github.com/meshpilot/pilot/pkg/meshconfig/file"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/accounts"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/cluster"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// withBearer is a call with a token.
func withBearer(t *testing.T, token string) context.Context {
	return metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+token))
}

// forged is a token that says what a good one does, and that nobody signed.
func forged(good string) string {
	parts := strings.Split(good, ".")
	return parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2]))
}

// The API server judges tokens: only one of a living service account, for the
// audience of the CA, tells who calls.
func TestTokenReviews(t *testing.T) {
	const ns = "tokens"
	self := accountsCluster(t, shared, "tokens-pilot")
	shared.Namespace(t, ns, nil)
	for _, name := range []string{"cart", "gone"} {
		shared.ServiceAccount(t, ns, name)
	}
	relay := shared.Relay(t)
	down, err := kubernetes.NewForConfig(relay.Config(self.Config))
	if err != nil {
		t.Fatal(err)
	}
	relay.Refuse(true)
	gone := shared.Token(t, ns, "gone", accounts.Audience)
	if err := shared.Client.CoreV1().ServiceAccounts(ns).Delete(t.Context(), "gone", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	denied, err := kubernetes.NewForConfig(shared.Account(t, ns, "default"))
	if err != nil {
		t.Fatal(err)
	}
	token := shared.Token(t, ns, "cart", accounts.Audience)
	for _, c := range []struct {
		name, token string
		client      kubernetes.Interface
		text        string
		code        codes.Code
	}{
		{name: "right", token: token},
		{name: "one of several audiences", token: shared.Token(t, ns, "cart", "other", accounts.Audience)},
		{name: "for another audience", token: shared.Token(t, ns, "cart", "other"), text: "the Kubernetes API refuses the bearer token: "},
		{name: "for the API server", token: shared.Token(t, ns, "cart"), text: "the Kubernetes API refuses the bearer token: "},
		{name: "not signed by it", token: forged(token), text: "the Kubernetes API refuses the bearer token: "},
		{name: "of a deleted account", token: gone, text: "service account tokens/gone does not exist", code: codes.PermissionDenied},
		{name: "no JWT", token: "abc", text: "the bearer token is not one of a Kubernetes service account"},
		{name: "API down", token: token, client: down, text: "the Kubernetes API could not be asked about the bearer token: "},
		{name: "RBAC", token: token, client: denied, text: `the Kubernetes API could not be asked about the bearer token: tokenreviews.authentication.k8s.io is forbidden: `},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := accounts.Reviews{Client: self.Client}
			if c.client != nil {
				r.Client = c.client
			}
			account, err := r.Authenticate(withBearer(t, c.token))
			if c.text == "" {
				if err != nil || account != (csr.Account{Namespace: ns, Name: "cart"}) {
					t.Fatalf("%v, %v", account, err)
				}
				return
			}
			if err == nil {
				t.Fatalf("taken for %v", account)
			}
			if text := status.Convert(err).Message(); !strings.HasPrefix(text, c.text) || strings.Contains(text, c.token) {
				t.Errorf("%s, want %s…", text, c.text)
			}
			if got, _ := status.FromError(err); (got.Code() == codes.PermissionDenied) != (c.code == codes.PermissionDenied) {
				t.Errorf("code %s, want %s", got.Code(), c.code)
			}
			t.Log(err)
		})
	}
}

// A token of a pod ends with the pod: nothing is remembered here.
func TestTokenOfADeletedPod(t *testing.T) {
	const ns = "podtokens"
	self := accountsCluster(t, shared, "podtokens-pilot")
	shared.Namespace(t, ns, nil)
	pod := shared.Pod(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "a"}}, "10.244.9.1")
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		Audiences: []string{accounts.Audience}, BoundObjectRef: &authv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
	}}
	answer, err := shared.Client.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), "default", request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r := accounts.Reviews{Client: self.Client}
	if _, err := r.Authenticate(withBearer(t, answer.Status.Token)); err != nil {
		t.Fatal(err)
	}
	now := int64(0)
	if err := shared.Client.CoreV1().Pods(ns).Delete(t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the token ends with its pod", func() error { // the API server remembers 10 s
		if _, err := r.Authenticate(withBearer(t, answer.Status.Token)); err == nil {
			return errors.New("it is taken")
		}
		return nil
	})
}

// A token that has expired is refused. The API server gives none of less than
// ten minutes, so the test signs it with the API server's key.
func TestExpiredToken(t *testing.T) {
	dir := t.TempDir()
	c := kubetest.Start(t, kubetest.Options{Dir: dir})
	self := accountsCluster(t, c, "istio-system")
	text, err := os.ReadFile(filepath.Join(dir, "accounts.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(life time.Duration) string {
		parts := strings.Split(c.Token(t, "istio-system", "default", accounts.Audience), ".")
		payload, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			t.Fatal(err)
		}
		claims := map[string]any{}
		if err := json.Unmarshal(payload, &claims); err != nil {
			t.Fatal(err)
		}
		began := time.Now().Add(-time.Hour)
		claims["iat"], claims["nbf"], claims["exp"] = began.Unix(), began.Unix(), began.Add(life).Unix()
		if payload, err = json.Marshal(claims); err != nil {
			t.Fatal(err)
		}
		text := parts[0] + "." + base64.RawURLEncoding.EncodeToString(payload)
		digest := sha256.Sum256([]byte(text))
		r, s, err := ecdsa.Sign(rand.Reader, key.(*ecdsa.PrivateKey), digest[:])
		if err != nil {
			t.Fatal(err)
		}
		signature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		return text + "." + base64.RawURLEncoding.EncodeToString(signature)
	}
	r := accounts.Reviews{Client: self.Client}
	if _, err := r.Authenticate(withBearer(t, sign(2*time.Hour))); err != nil {
		t.Fatalf("with an hour left: %v", err)
	}
	if _, err := r.Authenticate(withBearer(t, sign(30*time.Minute))); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("half an hour too late: %v", err)
	}
}

// A machine or pod with a token gets its certificate over gRPC, from a CA in
// its Secret.
func TestCertificateForAToken(t *testing.T) {
	self := accountsCluster(t, shared, "csr-pilot")
	shared.Namespace(t, "csr", nil)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("mesh/mesh.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: \"{}\"}\n")
	ca, err := accounts.OpenCA(t.Context(), self.Client, "csr-pilot", identity.Options{}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	server, err := discovery.Listen(discovery.Options{
		Source: &file.Source{Dir: filepath.Join(dir, "mesh"), Log: quiet()}, CA: ca, TLSAddress: "127.0.0.1:0", Log: quiet(),
		Authenticators: []csr.Authenticator{accounts.Reviews{Client: self.Client}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	_, port, err := net.SplitHostPort(server.Addresses().TLS)
	if err != nil {
		t.Fatal(err)
	}
	chain := filepath.Join(dir, "certs/cert-chain.pem")
	o := agent.Options{
		CAAddress: "127.0.0.1:" + port, GraceRatio: 0.5, Log: quiet(),
		Files: agent.Files{CertChain: chain, Key: filepath.Join(dir, "certs/key.pem"), RootCert: write("certs/root-cert.pem", string(ca.Roots()))},
		Token: write("token", shared.Token(t, "csr", "default", accounts.Audience)),
	}
	running.Go(func() { _ = agent.Run(ctx, o) })
	eventually(t, "the certificate", func() error {
		text, err := os.ReadFile(chain)
		if err != nil {
			return err
		}
		certs, err := identity.ParseCertificates(text)
		if err != nil {
			return err
		}
		if got := certs[0].URIs[0].String(); got != "spiffe://cluster.local/ns/csr/sa/default" {
			return errors.New(got)
		}
		return ca.Verify(certs)
	})
}

// Of control planes that start together one makes the CA, and all have it; who
// comes later has it too; it outlives its Secret, and follows it.
func TestCASecret(t *testing.T) {
	const ns = "ca-pilot"
	self := accountsCluster(t, shared, ns)
	var all [8]*identity.CA
	var starting sync.WaitGroup
	for i := range all {
		starting.Go(func() {
			var err error
			if all[i], err = accounts.OpenCA(t.Context(), self.Client, ns, identity.Options{}, quiet()); err != nil {
				t.Error(err)
			}
		})
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, ca := range all[1:] {
		if !bytes.Equal(ca.Roots(), all[0].Roots()) {
			t.Fatal("there are two CAs")
		}
	}
	secretsOf := shared.Client.CoreV1().Secrets(ns)
	made, err := secretsOf.Get(t.Context(), "istio-ca-secret", metav1.GetOptions{})
	if err != nil || made.Type != "istio.io/ca-root" || !bytes.Equal(made.Data["ca-cert.pem"], all[0].Roots()) || len(made.Data["ca-key.pem"]) == 0 {
		t.Fatalf("type %s, %v", made.Type, err)
	}
	ca := all[0]
	ctx, stop := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { ca.Follow(ctx, func() {}) })
	t.Cleanup(func() { stop(); following.Wait() })

	if err := secretsOf.Delete(t.Context(), made.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "put back as it was", func() error {
		now, err := secretsOf.Get(t.Context(), made.Name, metav1.GetOptions{})
		if err == nil && (now.Type != made.Type || !bytes.Equal(now.Data["ca-cert.pem"], made.Data["ca-cert.pem"]) || !bytes.Equal(now.Data["ca-key.pem"], made.Data["ca-key.pem"])) {
			return errors.New("it is another CA")
		}
		return err
	})
	other, err := identity.New(identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := other.Encode()
	if err != nil {
		t.Fatal(err)
	}
	set := func(data map[string][]byte) {
		patch, err := json.Marshal(map[string]any{"data": data})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := secretsOf.Patch(t.Context(), made.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	set(map[string][]byte{"ca-cert.pem": cert})
	eventually(t, "half of another CA is refused", func() error {
		p := ca.Problems(time.Now())
		if len(p) != 1 || p[0].Code != "CA_INVALID" || !strings.Contains(p[0].Message, "Secret ca-pilot/istio-ca-secret: ca-key.pem does not fit") {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	set(map[string][]byte{"ca-key.pem": key})
	eventually(t, "the other CA is taken", func() error {
		if !bytes.Equal(ca.Roots(), cert) || len(ca.Problems(time.Now())) > 0 {
			return errors.New("it is not")
		}
		return nil
	})
}

// A Secret of that name that is no CA's is not touched, and ends the start.
func TestForeignCASecret(t *testing.T) {
	self := accountsCluster(t, shared, "noca-pilot")
	theirs := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "istio-ca-secret"}, StringData: map[string]string{"a": "b"}}
	if _, err := shared.Client.CoreV1().Secrets("noca-pilot").Create(t.Context(), theirs, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := accounts.OpenCA(t.Context(), self.Client, "noca-pilot", identity.Options{}, quiet())
	if want := "the CA in Secret noca-pilot/istio-ca-secret: it is of the type Opaque, not istio.io/ca-root"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	if _, err := accounts.OpenCA(t.Context(), self.Client, "nowhere", identity.Options{}, quiet()); err == nil || !strings.Contains(err.Error(), `namespaces "nowhere" not found`) {
		t.Errorf("without a namespace: %v", err)
	}
}

// published waits until the namespace has the roots.
func published(t *testing.T, c *kubetest.Cluster, what, namespace string, roots []byte) (found *corev1.ConfigMap) {
	t.Helper()
	eventually(t, what, func() (err error) {
		found, err = c.Client.CoreV1().ConfigMaps(namespace).Get(t.Context(), accounts.RootsConfigMap, metav1.GetOptions{})
		if err == nil && found.Data["root-cert.pem"] != string(roots) {
			return errors.New("it has other roots")
		}
		return err
	})
	return found
}

// The roots are in every namespace, old and new; they are put back when
// somebody changes them, and follow the CA.
func TestRootsAreInEveryNamespace(t *testing.T) {
	c := kubetest.Start(t, kubetest.Options{})
	self := accountsCluster(t, c, "istio-system")
	for _, ns := range []string{"a", "ending"} {
		c.Namespace(t, ns, nil)
	}
	if err := c.Client.CoreV1().Namespaces().Delete(t.Context(), "ending", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ca, err := accounts.OpenCA(t.Context(), self.Client, "istio-system", identity.Options{}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	roots, codes := publish(t, self, ca)
	maps := c.Client.CoreV1().ConfigMaps("a")
	published(t, c, "in a namespace that is there", "a", ca.Roots())
	published(t, c, "in the control plane's", "istio-system", ca.Roots())
	c.Namespace(t, "b", nil)
	published(t, c, "in a new one", "b", ca.Roots())
	if err := maps.Delete(t.Context(), accounts.RootsConfigMap, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	published(t, c, "made again", "a", ca.Roots())
	patch := []byte(`{"data":{"root-cert.pem":"none","more":"kept"}}`)
	if _, err := maps.Patch(t.Context(), accounts.RootsConfigMap, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if repaired := published(t, c, "repaired", "a", ca.Roots()); repaired.Data["more"] != "kept" {
		t.Error("what others added is gone")
	}
	if _, err := c.Client.CoreV1().ConfigMaps("ending").Get(t.Context(), accounts.RootsConfigMap, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("in a namespace that is being deleted: %v", err)
	}
	if got := codes(); got != "" {
		t.Errorf("problems: %s", got)
	}
	other, err := identity.New(identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := other.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var following sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	following.Go(func() { ca.Follow(ctx, roots.Wake) })
	t.Cleanup(func() { stop(); following.Wait() })
	if patch, err = json.Marshal(map[string]any{"data": map[string][]byte{"ca-cert.pem": cert, "ca-key.pem": key}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Client.CoreV1().Secrets("istio-system").Patch(t.Context(), accounts.CASecret, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, ns := range []string{"a", "b"} {
		published(t, c, "the roots of the other CA", ns, cert)
	}
}

// publish runs a publisher until the test ends.
func publish(t *testing.T, self *cluster.Cluster, ca *identity.CA) (r *accounts.Roots, codes func() string) {
	r = accounts.NewRoots(accounts.RootsOptions{Cluster: self, CA: ca})
	var mu sync.Mutex
	var told []identity.Problem
	var running sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	running.Go(func() {
		r.Run(ctx, func(p []identity.Problem) { mu.Lock(); told = p; mu.Unlock() })
	})
	t.Cleanup(func() { stop(); running.Wait() })
	return r, func() string {
		mu.Lock()
		defer mu.Unlock()
		var out []string
		for _, p := range told {
			out = append(out, p.Code)
		}
		return strings.Join(out, " ")
	}
}

// Two control planes with CAs of their own do not write in turns as fast as
// they can: it is said, and the rate falls.
func TestRootsContested(t *testing.T) {
	c := kubetest.Start(t, kubetest.Options{})
	self := accountsCluster(t, c, "istio-system")
	for range 2 {
		ca, err := identity.New(identity.Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, codes := publish(t, self, ca)
		defer eventually(t, "said so", func() error {
			if got := codes(); got != "ROOTS_CONTESTED" {
				return fmt.Errorf("%q", got)
			}
			return nil
		})
	}
}

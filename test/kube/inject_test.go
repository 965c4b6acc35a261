package kube

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/meshpilot/pilot/internal/kubetest"
	"github.com/meshpilot/pilot/manifests"
	"github.com/meshpilot/pilot/pkg/identity/secrets"
	"github.com/meshpilot/pilot/pkg/inject"
	"github.com/meshpilot/pilot/pkg/meshconfig"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/accounts"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube/hooks"
	"github.com/meshpilot/pilot/test/kube/node"
)

// looseCRD takes anything, as those of past Istios do.
func looseCRD(group, version, kind, plural string) string {
	return fmt.Sprintf(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[4]s.%[1]s}
spec:
  group: %[1]s
  scope: Namespaced
  names: {kind: %[3]s, plural: %[4]s}
  versions:
    - {name: %[2]s, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
---
`, group, version, kind, plural)
}

// admitted is a cluster with pilot's webhooks.
type admitted struct {
	*node.Node
	t     *testing.T
	state string // of rollouts
	pilot *kubetest.Process
}

const pilotAddress = "10.255.255.254" // of the node, on the pods' network

func startAdmitted(t *testing.T) *admitted {
	t.Helper()
	a := &admitted{Node: node.Start(t, programs), t: t, state: t.TempDir()}
	text, err := manifests.Render(manifests.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var install strings.Builder
	install.WriteString(looseCRD("authentication.istio.io", "v1alpha1", "Policy", "policies"))
	install.WriteString(looseCRD("networking.istio.io", "v1", "DestinationRule", "destinationrules"))
	for _, doc := range strings.Split(text, "\n---\n") {
		if !strings.Contains(doc, "\nkind: CustomResourceDefinition\n") && !strings.Contains(doc, "\nkind: Deployment\n") {
			install.WriteString(doc + "\n---\n")
		}
	}
	a.Namespace(t, "istio-system", nil)
	a.Namespace(t, "shop", map[string]string{"istio-injection": "enabled"})
	a.Namespace(t, "plain", nil)
	a.Kubectl(t, install.String(), "apply", "-f", "-")
	a.Kubectl(t, "", "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
	settings(t, a.Cluster, "istio-system", "mtlsRollout: {mode: IMMEDIATE}")
	a.publish("istio-pilot", map[string]int32{"tls-xds": 15012, "https-webhook": 15017})

	kubeconfig := kubetest.Kubeconfig(t, a.AsAccount("istio-system", "istio-pilot"), "")
	log := filepath.Join(t.TempDir(), "pilot.log")
	a.pilot = kubetest.NewProcess(kubetest.ProcessSpec{
		Name: "pilot", Log: log, Inside: a.Network.Do, Ready: a.pilotReady,
		Command: func() *exec.Cmd {
			return exec.Command(programs.Pilot, "serve", "--kubernetes", "--kubeconfig", kubeconfig, "--state-dir", a.state,
				"--plaintext-address", "", "--metrics-address", "", "--http-address", pilotAddress+":8080",
				"--tls-address", pilotAddress+":15012", "--webhook-address", pilotAddress+":15017",
				"--proxy-image", "image", "--termination-drain-duration", "100ms")
		},
	})
	t.Cleanup(func() {
		a.pilot.Kill()
		if out, err := os.ReadFile(log); err == nil && t.Failed() {
			t.Logf("pilot:\n%s", out)
		}
	})
	a.start()
	return a
}

func (a *admitted) start() {
	a.t.Helper()
	if err := a.pilot.Start(); err != nil {
		a.t.Fatal(err)
	}
}

func (a *admitted) pilotReady(ctx context.Context) error {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		return a.Network.Dial(ctx, address)
	}}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+pilotAddress+":8080/readyz", nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if body, _ := io.ReadAll(answer.Body); answer.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", body)
	}
	return nil
}

// publish makes the node's address the endpoint of a service of istio-system.
func (a *admitted) publish(service string, ports map[string]int32) {
	a.t.Helper()
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{pilotAddress}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}}},
	}
	for name, port := range ports {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &name, Port: &port, Protocol: new(corev1.ProtocolTCP)})
	}
	if _, err := a.Client.DiscoveryV1().EndpointSlices("istio-system").Create(a.t.Context(), slice, metav1.CreateOptions{}); err != nil {
		a.t.Fatal(err)
	}
}

func (a *admitted) roots() []byte {
	a.t.Helper()
	ca, err := a.Client.CoreV1().Secrets("istio-system").Get(a.t.Context(), accounts.CASecret, metav1.GetOptions{})
	if err != nil {
		a.t.Fatal(err)
	}
	return ca.Data["ca-cert.pem"]
}

// trusted waits until all webhooks have the CA's roots.
func (a *admitted) trusted(what string, roots []byte) {
	a.t.Helper()
	registered := a.Client.AdmissionregistrationV1()
	eventually(a.t, what, func() error {
		m, err := registered.MutatingWebhookConfigurations().Get(a.t.Context(), hooks.Name("istio-system"), metav1.GetOptions{})
		if err != nil {
			return err
		}
		v, err := registered.ValidatingWebhookConfigurations().Get(a.t.Context(), hooks.Name("istio-system"), metav1.GetOptions{})
		if err != nil {
			return err
		}
		var bundles [][]byte
		for _, w := range m.Webhooks {
			bundles = append(bundles, w.ClientConfig.CABundle)
		}
		for _, w := range v.Webhooks {
			bundles = append(bundles, w.ClientConfig.CABundle)
		}
		for _, b := range bundles {
			if !bytes.Equal(b, roots) {
				return fmt.Errorf("of %d bundles one is %d bytes long, and the roots %d", len(bundles), len(b), len(roots))
			}
		}
		return nil
	})
}

const badPolicy = `{apiVersion: authentication.istio.io/v1alpha1, kind: Policy, metadata: {name: wrong, namespace: shop}, spec: {peers: [{mtls: {mode: STRICKT}}]}}`

// refuses waits until a wrong Policy is refused: the API server follows the
// webhook configurations with a delay.
func (a *admitted) refuses(what string) {
	a.t.Helper()
	eventually(a.t, what, func() error {
		out, err := a.TryKubectl(a.t, badPolicy, "apply", "--dry-run=server", "-f", "-")
		const want = `admission webhook "validate.istio-pilot.io" denied the request: Policy shop/wrong: spec.peers[0].mtls.mode: unknown mTLS mode "STRICKT", did you mean "STRICT"?`
		if err == nil || !strings.Contains(err.Error(), want) {
			return fmt.Errorf("%s %w", out, err)
		}
		return nil
	})
}

func TestAdmission(t *testing.T) {
	a := startAdmitted(t)
	a.trusted("pilot fills the CA bundles in", a.roots())
	a.refuses("a wrong Policy is refused")

	t.Run("warnings", func(t *testing.T) {
		const policy = `{apiVersion: authentication.istio.io/v1alpha1, kind: Policy, metadata: {name: p, namespace: shop}, spec: {targets: [{name: nobody}], peers: [{mtls: {}}]}}`
		_, err := a.TryKubectl(t, policy, "apply", "--dry-run=server", "--warnings-as-errors", "-f", "-")
		if err == nil || !strings.Contains(err.Error(), "Warning: Policy shop/p: ") {
			t.Errorf("no warning: %v", err)
		}
		const bad = `{apiVersion: v1, kind: Service, metadata: {name: annotated, namespace: shop, annotations: {auth.istio.io/81: NONE}}, spec: {ports: [{port: 80}]}}`
		if _, err = a.TryKubectl(t, bad, "apply", "--dry-run=server", "--warnings-as-errors", "-f", "-"); err == nil || !strings.Contains(err.Error(), `"81" is none of its ports`) {
			t.Errorf("no warning: %v", err)
		}
		a.Kubectl(t, policy, "apply", "-f", "-") // a warning is no refusal
		a.Kubectl(t, "", "delete", "policies.authentication.istio.io", "p", "-n", "shop")
	})
	t.Run("other kinds", func(t *testing.T) {
		for object, want := range map[string]string{
			`{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: d, namespace: shop}, spec: {}}`:           "DestinationRule shop/d: spec.host",
			`{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: "authPolicy: MTLS"}}`: "ConfigMap istio-system/istio: authPolicy: unrecognized auth policy",
			`{apiVersion: v1, kind: Pod, metadata: {name: odd, namespace: shop, annotations: {traffic.sidecar.istio.io/excludeInboundPorts: http}}, ` +
				`spec: {containers: [{name: app, image: app}]}}`: `Pod shop/odd: metadata.annotations[traffic.sidecar.istio.io/excludeInboundPorts]: "http" is no port`,
		} {
			if _, err := a.TryKubectl(t, object, "apply", "--dry-run=server", "-f", "-"); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
		}
		a.Kubectl(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: other, namespace: istio-system}, data: {mesh: "authPolicy: MTLS"}}`, "apply", "-f", "-")
	})
	t.Run("injection", a.injection)
	t.Run("edited bundle", func(t *testing.T) {
		patch := []byte(`[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]`)
		_, err := a.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Patch(t.Context(), hooks.Name("istio-system"), types.JSONPatchType, patch, metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		a.trusted("pilot repairs the CA bundle", a.roots())
	})
	t.Run("pilot away", func(t *testing.T) {
		a.pilot.Kill()
		a.Kubectl(t, strings.Replace(badPolicy, "wrong", "stored", 1), "apply", "-f", "-")
		if pod := a.dryPod("shop", nil); len(pod.Spec.InitContainers) != 0 {
			t.Errorf("somebody injects: %+v", pod.Spec.InitContainers)
		}
		a.start()
		a.refuses("a wrong Policy is refused again")
		// What was stored meanwhile can be edited and deleted.
		a.Kubectl(t, "", "label", "policies.authentication.istio.io", "stored", "-n", "shop", "a=b")
		a.Kubectl(t, "", "delete", "policies.authentication.istio.io", "stored", "-n", "shop")
	})
	t.Run("another root", func(t *testing.T) {
		a.pilot.Stop()
		if err := a.Client.CoreV1().Secrets("istio-system").Delete(t.Context(), accounts.CASecret, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		a.start()
		a.trusted("the bundles have the new root", a.roots())
		a.refuses("a wrong Policy is refused under the new root")
	})
}

// dryPod is a pod as the API server would store it.
func (a *admitted) dryPod(namespace string, labels map[string]string) *corev1.Pod {
	a.t.Helper()
	pod, err := a.Client.CoreV1().Pods(namespace).Create(a.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "dry", Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		a.t.Fatal(err)
	}
	return pod
}

// injection: what the webhook makes of a pod is a sidecar that works: its
// containers run as the pod says, and calls go through it with mutual TLS.
func (a *admitted) injection(t *testing.T) {
	for _, tc := range []struct {
		namespace, label string
		injected         bool
	}{{"shop", "", true}, {"shop", "false", false}, {"plain", "", false}, {"plain", "true", true}, {"istio-system", "true", false}} {
		labels := map[string]string{}
		if tc.label != "" {
			labels["sidecar.istio.io/inject"] = tc.label
		}
		if pod := a.dryPod(tc.namespace, labels); (len(pod.Spec.InitContainers) == 2) != tc.injected {
			t.Errorf("in %s with label %q: init containers %+v", tc.namespace, tc.label, pod.Spec.InitContainers)
		}
	}

	a.secret(t, "shop", "default")
	servers := []*node.Pod{
		a.runApp(t, "native", nil, false),
		a.runApp(t, "tproxy", map[string]string{"sidecar.istio.io/interceptionMode": "TPROXY"}, false),
		a.runApp(t, "classic", nil, true),
	}
	web := a.runApp(t, "web", nil, false)
	a.Kubectl(t, `{apiVersion: authentication.istio.io/v1alpha1, kind: Policy, metadata: {name: default, namespace: shop}, spec: {peers: [{mtls: {}}]}}`, "apply", "-f", "-")
	for _, server := range servers {
		host := server.Name + ".shop"
		service, err := a.Client.CoreV1().Services("shop").Get(t.Context(), server.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "a call between sidecars has mutual TLS: "+host, func() error {
			code, body := get(t.Context(), web.Space.Dial, host, service.Spec.ClusterIP+":80")
			if code != http.StatusOK || !strings.Contains(body, "spiffe://cluster.local/ns/shop/sa/default") {
				return fmt.Errorf("%d %s", code, body)
			}
			return nil
		})
		eventually(t, "a call in plaintext is refused by the sidecar: "+host, func() error {
			code, body := get(t.Context(), a.Network.Dial, host, server.Address+":8080")
			if code != http.StatusForbidden || !strings.Contains(body, "plaintext refused") {
				return fmt.Errorf("%d %s", code, body)
			}
			return nil
		})
		for _, port := range []string{"15000", "15021"} {
			if code, body := get(t.Context(), a.Network.Dial, "", server.Address+":"+port); code == http.StatusOK {
				t.Errorf("port %s of %s is open to others: %s", port, host, body)
			}
		}
	}
	for _, p := range append(servers, web) {
		p.Delete(t) // its hook drains
	}
}

// runApp runs the application with its service, and the sidecar that the
// webhook adds or, if it is to be classic, that was added to its manifest.
func (a *admitted) runApp(t *testing.T, name string, annotations map[string]string, classic bool) *node.Pod {
	t.Helper()
	_, err := a.Client.CoreV1().Services("shop").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{
			{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{"app": name}, Annotations: annotations},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "app", Image: node.AppImage, Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
		}}},
	}
	if classic {
		text, err := yaml.Marshal(pod)
		if err != nil {
			t.Fatal(err)
		}
		out, _, problems := inject.Manifests(text, "pod.yaml", inject.Settings{
			Mesh: &meshconfig.DefaultMesh().Mesh, Image: "image", ControlPlaneNamespace: "istio-system", Drain: 100 * time.Millisecond,
		})
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		if err := yaml.Unmarshal(out, pod); err != nil {
			t.Fatal(err)
		}
	}
	return a.Run(t, pod)
}

// secret waits for what the control plane keeps for a service account.
func (a *admitted) secret(t *testing.T, namespace, account string) {
	t.Helper()
	name := secrets.Account{Namespace: namespace, Name: account}.SecretName()
	eventually(t, "Secret "+name, func() error {
		_, err := a.Client.CoreV1().Secrets(namespace).Get(t.Context(), name, metav1.GetOptions{})
		return err
	})
}

// get calls a path of a host at an address; code 0 is no answer.
func get(ctx context.Context, dial func(context.Context, string) (net.Conn, error), host, address string) (int, string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		return dial(ctx, address)
	}}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return 0, err.Error()
	}
	if host != "" {
		r.Host = host
	}
	answer, err := client.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err.Error()
	}
	return answer.StatusCode, string(body)
}

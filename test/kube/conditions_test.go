package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshpilot/pilot/internal/fakeenvoy"
	"github.com/meshpilot/pilot/internal/kubetest"
	"github.com/meshpilot/pilot/manifests"
	"github.com/meshpilot/pilot/pkg/translate"
)

// told is a cluster with a control plane that writes conditions, with the
// rights that the chart gives it, and a proxy that the test plays.
type told struct {
	*kubetest.Cluster
	t      *testing.T // of the part that runs
	whole  *testing.T
	refuse atomic.Bool
}

// statusCRD is an Istio definition: any spec, any status.
func statusCRD(group, version, kind, plural string) string {
	return strings.Replace(looseCRD(group, version, kind, plural), "storage: true,", "storage: true, subresources: {status: {}},", 1)
}

func startTold(t *testing.T) *told {
	t.Helper()
	c := &told{Cluster: kubetest.Start(t, kubetest.Options{}), t: t, whole: t}
	text, err := manifests.Render(manifests.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var install strings.Builder
	install.WriteString(statusCRD("networking.istio.io", "v1", "DestinationRule", "destinationrules"))
	install.WriteString(looseCRD("security.istio.io", "v1", "PeerAuthentication", "peerauthentications")) // without status
	for _, doc := range strings.Split(text, "\n---\n") {
		if !regexp.MustCompile(`(?m)^kind: (Deployment|.*WebhookConfiguration)$`).MatchString(doc) {
			install.WriteString(doc + "\n---\n")
		}
	}
	c.Namespace(t, "istio-system", nil)
	c.Namespace(t, "shop", nil)
	c.Kubectl(t, install.String(), "apply", "-f", "-")
	c.Kubectl(t, "", "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
	settings(t, c.Cluster, "istio-system", "mtlsRollout: {mode: IMMEDIATE}")
	c.apply(`{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 8080}]}}`)
	c.Pod(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-1", Labels: map[string]string{"app": "cart", "security.istio.io/tlsMode": "istio"}}}, "127.0.0.1")
	return c
}

// run is a part of the test.
func (c *told) run(name string, part func(*testing.T)) {
	defer func() { c.t = c.whole }()
	c.whole.Run(name, func(t *testing.T) { c.t = t; part(t) })
}

func (c *told) apply(text string) {
	c.t.Helper()
	c.Kubectl(c.t, text, "apply", "-f", "-")
}

// serve runs a control plane until stop, and connects the proxy.
func (c *told) serve() (stop func()) {
	c.t.Helper()
	cmd := exec.Command(programs.Pilot, "serve", "--kubeconfig", kubetest.Kubeconfig(c.whole, c.AsAccount("istio-system", "istio-pilot"), ""),
		"--state-dir", c.whole.TempDir(), "--plaintext-address", "127.0.0.1:0", "--tls-address", "", "--webhook-address", "", "--metrics-address", "", "--http-address", "")
	log := &textLog{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	var conn *grpc.ClientConn
	t := c.whole
	stop = sync.OnceFunc(func() {
		if conn != nil {
			_ = conn.Close()
		}
		if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("pilot:\n%s", log.String())
		}
	})
	t.Cleanup(stop)
	var address []string
	eventually(c.t, "pilot serves", func() error {
		address = regexp.MustCompile(`plaintext=(127\S+)`).FindStringSubmatch(log.String())
		if address == nil || !strings.Contains(log.String(), "configuration in force") {
			return errors.New(log.String())
		}
		return nil
	})
	var err error
	if conn, err = grpc.NewClient(address[1], grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		c.t.Fatal(err)
	}
	_, err = fakeenvoy.Connect(t.Context(), conn, fakeenvoy.Options{
		Node: &corev3.Node{Id: "sidecar~127.0.0.1~cart-1.shop~shop.svc.cluster.local"},
		Refuse: func(r fakeenvoy.Response) string {
			if c.refuse.Load() && r.TypeURL == translate.ListenerType {
				return "Error adding/updating listener(s) " + strings.Join(slices.Sorted(maps.Keys(r.Resources)), ", ") + ": not today"
			}
			return ""
		},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return stop
}

// stored is an object with its conditions.
type stored struct {
	Metadata struct {
		Generation      int64
		ResourceVersion string
	}
	Status struct {
		Conditions []metav1.Condition
		Other      string
	}
}

func (s stored) String() string {
	var out []string
	for _, c := range s.Status.Conditions {
		out = append(out, fmt.Sprintf("%s %s %s: %s", c.Type, c.Status, c.Reason, c.Message))
	}
	return strings.Join(out, "\n")
}

func (c *told) get(object string) (s stored) {
	c.t.Helper()
	if err := json.Unmarshal([]byte(c.Kubectl(c.t, "", "get", object, "-n", "shop", "-o", "json")), &s); err != nil {
		c.t.Fatal(err)
	}
	return s
}

// says waits until the object's conditions are of its present version and
// match these, in this order.
func (c *told) says(object string, want ...string) (s stored) {
	c.t.Helper()
	eventually(c.t, object, func() error {
		s = c.get(object)
		if len(s.Status.Conditions) != len(want) {
			return fmt.Errorf("%s", s)
		}
		for i, line := range strings.Split(s.String(), "\n") {
			if ok := regexp.MustCompile("^" + want[i] + "$").MatchString(line); !ok {
				return fmt.Errorf("%s\nis not %s", line, want[i])
			}
			ours := s.Status.Conditions[i]
			if ours.Type != "Reconciled" && (ours.ObservedGeneration != s.Metadata.Generation || ours.LastTransitionTime.IsZero()) {
				return fmt.Errorf("%+v", ours)
			}
		}
		return nil
	})
	return s
}

func policy(name, spec string) string {
	return `{apiVersion: authentication.istio.io/v1alpha1, kind: Policy, metadata: {name: ` + name + `, namespace: shop}, spec: ` + spec + `}`
}

func rule(spec string) string {
	return `{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: cart, namespace: shop}, spec: ` + spec + `}`
}

const (
	isAccepted   = `Accepted True Accepted: .*`
	noConflict   = `Conflicted False NoConflict: `
	isProgrammed = `Programmed True Programmed: acknowledged by 1 of 1 proxies`
)

// Objects say in their status what became of them; others' conditions stay,
// and nothing is written that is there.
func TestConditions(t *testing.T) {
	c := startTold(t)
	c.apply(policy("strict", "{targets: [{name: cart}], peers: [{mtls: {}}]}"))
	stop := c.serve()
	c.says("policy/strict", isAccepted, noConflict, isProgrammed)

	c.run("conflict", func(t *testing.T) {
		c.apply(policy("late", "{targets: [{name: cart}]}"))
		c.says("policy/late", isAccepted, `Conflicted True Tie: .*strict.*`, isProgrammed)
		c.apply(rule("{host: cart, trafficPolicy: {tls: {mode: DISABLE}}}"))
		c.says("destinationrule/cart", isAccepted, `Conflicted True Conflict: .*`, isProgrammed)
		c.Kubectl(t, "", "delete", "policy/late", "-n", "shop")
	})
	c.run("refused", func(t *testing.T) {
		c.Kubectl(t, `{"status": {"other": "kept", "conditions": [{"type": "Reconciled", "status": "True", "reason": "R", "message": "theirs", "lastTransitionTime": "2026-01-02T03:04:05Z"}]}}`,
			"patch", "destinationrule/cart", "-n", "shop", "--subresource=status", "--type=merge", "--patch-file=/dev/stdin")
		const theirs = `Reconciled True R: theirs`
		c.apply(rule("{host: cart, trafficPolicy: {tls: {mode: MUTUALLY}}}"))
		s := c.says("destinationrule/cart", theirs, `Accepted False Invalid: spec.trafficPolicy.*MUTUALLY.*the last accepted version stays in force.*`,
			`Conflicted .*`, `Programmed False NotAccepted: this version is not accepted, so no proxy gets it`)
		if s.Status.Other != "kept" {
			t.Error("what others wrote is gone")
		}
		c.apply(rule("{host: cart}"))
		c.says("destinationrule/cart", theirs, isAccepted, noConflict, isProgrammed)
	})
	c.run("refused by a proxy", func(t *testing.T) {
		c.refuse.Store(true)
		c.apply(policy("strict", "{targets: [{name: cart}], peers: [{mtls: {mode: PERMISSIVE}}]}"))
		c.says("policy/strict", isAccepted, noConflict,
			`Programmed False Refused: acknowledged by 0 of 1 proxies; refused by proxy sidecar~127.0.0.1~cart-1.shop~shop.svc.cluster.local: LDS: Error adding.*: not today`)
		c.refuse.Store(false)
		c.apply(policy("strict", "{targets: [{name: cart}], peers: [{mtls: {mode: STRICT}}]}"))
		c.says("policy/strict", isAccepted, noConflict, isProgrammed)
	})
	c.run("nothing is written that is there", func(t *testing.T) {
		c.apply(`{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: mute, namespace: shop}, spec: {}}`)
		before := c.get("policy/strict").Metadata.ResourceVersion + c.get("destinationrule/cart").Metadata.ResourceVersion
		stop()
		stop = c.serve()
		time.Sleep(5 * time.Second) // some looks of the next leader
		if after := c.get("policy/strict").Metadata.ResourceVersion + c.get("destinationrule/cart").Metadata.ResourceVersion; after != before {
			t.Errorf("the next leader wrote: %s %s", before, after)
		}
		c.apply(policy("next", "{targets: [{name: nobody}]}")) // it leads by now
		c.says("policy/next", `Accepted True Accepted: .*nobody.*`, noConflict, isProgrammed)
		if s := c.get("peerauthentication/mute"); len(s.Status.Conditions) > 0 {
			t.Errorf("a status that its definition does not have: %s", s)
		}
	})
	stop()
}

// Problems of the mesh settings are Events of their ConfigMap.
func TestEventsOfTheMeshSettings(t *testing.T) {
	c := startTold(t)
	stop := c.serve()
	defer stop()
	has := func(what string, want ...string) {
		t.Helper()
		eventually(t, what, func() error {
			out := c.Kubectl(t, "", "describe", "configmap/istio", "-n", "istio-system")
			for _, text := range want {
				if !regexp.MustCompile(text).MatchString(out) {
					return fmt.Errorf("no %s in\n%s", text, out)
				}
			}
			return nil
		})
	}
	settings(t, c.Cluster, "istio-system", "mtlsRollout: {mode: IMMEDIATE}\nauthPolicy: MUTUAL\n")
	has("an error", `Warning +Invalid .*pilot .*authPolicy.*MUTUAL`)
	settings(t, c.Cluster, "istio-system", "mtlsRollout: {mode: IMMEDIATE}\nauthPolicy: MUTUAL_TLS\n")
	has("its end", `Normal +Accepted .*the mesh settings are accepted`)
	out := c.Kubectl(t, "", "get", "events", "-n", "istio-system", "-o", "name")
	time.Sleep(3 * time.Second) // some looks
	if again := c.Kubectl(t, "", "get", "events", "-n", "istio-system", "-o", "name"); again != out {
		t.Errorf("more Events for nothing:\n%s", again)
	}
}

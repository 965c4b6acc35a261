package kube

import (
	"encoding/base64"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/meshpilot/pilot/internal/kubetest"
	"github.com/meshpilot/pilot/manifests"
	"github.com/meshpilot/pilot/pkg/meshconfig/kube"
)

// generator runs tools/manifests, which is Helm's own library.
func generator(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"run", "."}, args...)...)
	cmd.Dir = "../../tools/manifests"
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	return string(out)
}

// TestChart: helm lint finds nothing, the checked-in files are what the chart
// and the Go types give, and what pilot install changes in them is what Helm
// would give with the same values.
func TestChart(t *testing.T) {
	generator(t, "-check")
	got, err := manifests.Render(manifests.Options{Namespace: "mesh", Image: "example/pilot:v9", ProxyImage: "example/proxy:v9", Replicas: 6})
	if err != nil {
		t.Fatal(err)
	}
	_, got, _ = strings.Cut(got, "---\n") // the header
	want := generator(t, "-namespace", "mesh", "-values", "tools/manifests/testdata/renamed.yaml")
	_, want, _ = strings.Cut(want, "---\n")
	if got != want {
		t.Errorf("pilot install prints\n%s\nHelm renders\n%s", got, want)
	}
}

// TestInstall: what pilot install prints, and what the chart gives with
// everything on, is accepted as it is; again it changes nothing, also what
// pilot or a user did; and deleting it leaves nothing.
func TestInstall(t *testing.T) {
	c := kubetest.Start(t, kubetest.Options{})
	before := installed(t, c)
	install := func(args ...string) string {
		out, err := exec.Command(programs.Pilot, append([]string{"install", "--dry-run"}, args...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	text := install()
	c.Kubectl(t, text, "apply", "-f", "-")
	// What pilot fills in, and what an autoscaler says.
	c.Kubectl(t, "", "patch", "mutatingwebhookconfiguration", "istio-pilot-istio-system", "--type=json",
		"-p", `[{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": "`+base64.StdEncoding.EncodeToString(c.Config().CAData)+`"}]`)
	c.Kubectl(t, "", "-n", "istio-system", "scale", "deployment", "istio-pilot", "--replicas=4")
	const show = "jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.generation}{.spec.replicas}{.webhooks[*].clientConfig.caBundle}{\"\\n\"}{end}"
	get := func() string { return c.Kubectl(t, text, "get", "-f", "-", "-o", show) }
	first := get()
	c.Kubectl(t, text, "apply", "-f", "-")
	if again := get(); first != again || !strings.Contains(first, "Deployment istio-pilot 24") {
		t.Errorf("kinds, generations, replicas and bundles were\n%s\nand after applying again\n%s", first, again)
	}
	c.Kubectl(t, text, "delete", "--wait=false", "-f", "-")
	if after := installed(t, c); !slices.Equal(before, after) {
		t.Errorf("left after the deletion: %s, before: %s", after, before)
	}

	all := generator(t, "-namespace", "mesh", "-values", "tools/manifests/testdata/other.yaml")
	documents := strings.Split(all, "---\n")
	monitor := slices.IndexFunc(documents, func(d string) bool { return strings.Contains(d, "kind: ServiceMonitor") })
	if monitor < 0 {
		t.Fatal("no ServiceMonitor is rendered")
	}
	documents = slices.Delete(documents, monitor, monitor+1) // its kind is not installed
	c.Kubectl(t, strings.Join(documents, "---\n"), "apply", "-f", "-")
}

// installed is all that an installation brings, but for what goes with its
// namespace, which here nobody empties.
func installed(t *testing.T, c *kubetest.Cluster) []string {
	t.Helper()
	out := c.Kubectl(t, "", "get", "-A", "-o", "name", "customresourcedefinitions,clusterroles,clusterrolebindings,roles,rolebindings,serviceaccounts,deployments,services,"+
		"poddisruptionbudgets,horizontalpodautoscalers,mutatingwebhookconfigurations,validatingwebhookconfigurations")
	lines := strings.Fields(out)
	slices.Sort(lines)
	return slices.DeleteFunc(lines, func(s string) bool { return strings.HasPrefix(s, "serviceaccount/default") })
}

// TestInitialSettings: there is a ConfigMap to edit after the first start, and
// one that is there stays.
func TestInitialSettings(t *testing.T) {
	shared.Namespace(t, "initial", nil)
	s := &kube.Source{Cluster: open(t, shared.Config(), "initial"), Namespace: "initial", Initial: "authPolicy: MUTUAL_TLS\n"}
	follow(t, s).shows(t, "settings of their own", wantMesh(true))
	settings(t, shared, "initial", "authPolicy: NONE\n")
	f := follow(t, s)
	f.shows(t, "settings that were edited", wantMesh(false))
	if out := shared.Kubectl(t, "", "-n", "initial", "get", "configmap", "istio", "-o", "jsonpath={.data.mesh}"); out != "authPolicy: NONE\n" {
		t.Errorf("the ConfigMap holds %q", out)
	}
}

package main

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/meshpilot/pilot/pkg/discovery/status"
	"github.com/meshpilot/pilot/pkg/explain"
)

const strictCart = `
apiVersion: authentication.istio.io/v1alpha1
kind: Policy
metadata: {name: cart, namespace: shop}
spec:
  targets: [{name: cart}]
  peers: [{mtls: {}}]
`

func TestExplainCall(t *testing.T) {
	dir := edited(t, map[string]string{"policy.yaml": strictCart})
	for _, c := range []struct {
		from, to string
		want     []string
	}{
		{"shop/front", "cart:80", []string{
			"shop/front -> cart.shop.svc.cluster.local:80 (http)\nA call would work (200), in mesh mTLS.\n",
			"  server  STRICT, set by Policy shop/cart for this workload (" + dir + "/policy.yaml:2)\n",
			"  SAN   spiffe://cluster.local/ns/shop/sa/cart\n",
		}},
		{"shop/batch", "cart.shop:http", []string{
			"A call would be refused: 403, plaintext refused: cart.shop.svc.cluster.local:80 accepts only mutual TLS (STRICT, set by Policy shop/cart).\n",
			"To make it work, one of:\n  Pod shop/batch (" + dir + "/front.yaml:11): metadata.labels: a sidecar",
			"  Policy shop/cart (" + dir + "/policy.yaml:2): spec.peers: [{mtls: {mode: PERMISSIVE}}] - ",
		}},
	} {
		code, stdout, stderr := run(t, "explain", dir, c.from, c.to)
		for _, want := range c.want {
			if code != exitOK || stderr != "" || !strings.Contains(stdout, want) {
				t.Errorf("%s -> %s: exit %d, stderr %q, no %q in\n%s", c.from, c.to, code, stderr, want, stdout)
			}
		}
	}
	var answer explain.Answer
	_, stdout, _ := run(t, "explain", "-o", "json", "-n", "shop", dir, "batch", "cart:80")
	if err := json.Unmarshal([]byte(stdout), &answer); err != nil || answer.Verdict != explain.VerdictRefused || len(answer.Change) != 2 {
		t.Errorf("%v, %+v", err, answer)
	}
}

func TestExplainAll(t *testing.T) {
	dir := edited(t, map[string]string{"policy.yaml": strictCart})
	want := "to \\ from                       shop  no sidecar\ncart.shop.svc.cluster.local:80  mTLS  refused\n"
	if code, stdout, _ := run(t, "explain", dir, "--all"); code != exitOK || stdout != want {
		t.Errorf("exit %d\n%s", code, stdout)
	}
	want = "no sidecar -> cart.shop.svc.cluster.local:80: refused: the caller has no sidecar, so its own bytes go out, and shop/cart is STRICT, set by Policy shop/cart\n"
	if code, stdout, _ := run(t, "explain", dir, "--plaintext"); code != exitOK || stdout != want {
		t.Errorf("exit %d\n%s", code, stdout)
	}
}

func TestExplainTrouble(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{shop, "shop/frond", "cart:80"}, "there is no workload shop/frond; did you mean shop/front?"},
		{[]string{shop, "shob", "cart:80"}, `no workload is in namespace "shob"; did you mean shop?`},
		{[]string{shop, "shop", "card:80"}, "no service has the host card; did you mean cart?"},
		{[]string{shop, "shop", "cart:81"}, "Service shop/cart (cart.shop.svc.cluster.local) has no port 81: it has 80 http"},
		{[]string{shop, "shop", "cart"}, `"cart" is not HOST:PORT`},
		{[]string{shop, "shop"}, "accepts 3 arg(s), received 2"},
		{[]string{shop, "--all", "--plaintext"}, "[all plaintext]"},
		{[]string{"--server", "nowhere", "shop", "cart:80"}, `"nowhere" is no URL`},
		{[]string{broken(t), "shop", "cart:80"}, "has 2 errors"},
	} {
		if code, stdout, stderr := run(t, append([]string{"explain"}, c.args...)...); code != exitTrouble || stdout != "" || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: exit %d, stdout %q, stderr %q; want %q", c.args, code, stdout, stderr, c.want)
		}
	}
}

// TestAgainstServer: a running control plane says what its directory says.
func TestAgainstServer(t *testing.T) {
	dir := edited(t, map[string]string{"policy.yaml": strictCart})
	d, err := (&directoryFlags{domain: defaultDomain}).read(dir)
	if err != nil {
		t.Fatal(err)
	}
	pages := status.Pages{Calls: 1, State: func(context.Context) (status.State, error) {
		return status.State{Snapshot: d.snapshot, Bundle: &d.bundle, Inputs: d.inputs}, nil
	}}
	server := httptest.NewServer(pages.Handler())
	defer server.Close()
	for _, args := range [][]string{{"shop/batch", "cart:80"}, {"shop", "cart:80"}, {"--all"}, {"--plaintext"}, {"shop", "www.example.com:443"}} {
		code, stdout, stderr := run(t, append([]string{"explain", "--server", server.URL}, args...)...)
		_, local, _ := run(t, append([]string{"explain", dir}, args...)...)
		if code != exitOK || stderr != "" || stdout != local {
			t.Errorf("%v: exit %d, stderr %q\n%s\nwant\n%s", args, code, stderr, stdout, local)
		}
	}
	if code, _, stderr := run(t, "explain", "--server", server.URL, "shop", "card:80"); code != exitTrouble || !strings.Contains(stderr, "did you mean cart?") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	if code, stdout, _ := run(t, "check", "--server", server.URL); code != exitOK || stdout != "0 errors, 0 warnings, 0 infos\n" {
		t.Errorf("exit %d, %s", code, stdout)
	}
}

// TestReadme runs the commands in the README of the example: what they print
// there is what they print.
func TestReadme(t *testing.T) {
	t.Chdir("../..")
	text, err := os.ReadFile("examples/bookinfo/README.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := 0
	for i, block := range strings.Split(string(text), "```") {
		if i%2 == 0 || !strings.HasPrefix(block, "console\n") {
			continue
		}
		for _, command := range strings.Split(strings.TrimPrefix(block, "console\n"), "$ bin/pilot ")[1:] {
			line, want, _ := strings.Cut(command, "\n")
			code, got, stderr := run(t, strings.Fields(line)...)
			if code == exitTrouble || strings.TrimRight(got, "\n") != strings.TrimRight(want, "\n") {
				t.Errorf("%s: exit %d, %s, prints\n%s\nand not\n%s", line, code, stderr, got, want)
			}
			commands++
		}
	}
	if commands < 4 {
		t.Errorf("%d commands in the README", commands)
	}
}

func TestCheck(t *testing.T) {
	dir := edited(t, map[string]string{
		"policy.yaml": strictCart + `---
apiVersion: authentication.istio.io/v1alpha1
kind: Policy
metadata: {name: p, namespace: shop}
spec:
  targets: [{name: nobody}]
`,
		"mesh.yaml": "mtlsExcludedServices: [cart.shop.svc.cluster.local, gone.example.com]\n",
	})
	code, stdout, stderr := run(t, "check", dir)
	for _, want := range []string{
		"/policy.yaml:9: warning: Policy shop/p: spec.targets[0].name: ",
		"/mesh.yaml:1: warning: MeshConfig mesh.yaml: calls of sidecars in shop do not reach cart.shop.svc.cluster.local:80: they send plaintext, as " +
			"mtlsExcludedServices names the host (cart.shop.svc.cluster.local), and shop/cart is STRICT, set by Policy shop/cart; write one of: " +
			"mesh config: mtlsExcludedServices: without cart.shop.svc.cluster.local - ",
		`/mesh.yaml:1: warning: MeshConfig mesh.yaml: mtlsExcludedServices[1]: no service has the host "gone.example.com"`,
		" [EXCLUDED_SIDECAR]\n",
		"\n0 errors, 4 warnings, 0 infos\n",
	} {
		if code != exitFindings || stderr != "" || !strings.Contains(stdout, want) {
			t.Errorf("exit %d, stderr %q, no %q in\n%s", code, stderr, want, stdout)
		}
	}
	if code, _, _ := run(t, "check", dir, "--fail-on", "error"); code != exitOK {
		t.Errorf("--fail-on error: exit %d", code)
	}
	var reports []problemReport
	if _, stdout, _ := run(t, "check", dir, "-o", "json"); json.Unmarshal([]byte(stdout), &reports) != nil ||
		!slices.ContainsFunc(reports, func(r problemReport) bool { return r.Code == "CONFLICT" && r.File == dir+"/mesh.yaml" && r.Line == 1 }) {
		t.Errorf("%s", stdout)
	}
	if code, stdout, _ := run(t, "check", broken(t), "--fail-on", "error"); code != exitFindings || !strings.Contains(stdout, "error: MeshConfig mesh.yaml: authPolicy") {
		t.Errorf("errors: exit %d\n%s", code, stdout)
	}
	if code, _, stderr := run(t, "check", dir, "--fail-on", "info"); code != exitTrouble || !strings.Contains(stderr, "must be warning or error") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pilot inject prints manifests with sidecars, and with an error nothing.
func TestInject(t *testing.T) {
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "pods.yaml")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	run := func(args ...string) (int, string, string) {
		var out, errs strings.Builder
		code := execute(t.Context(), append([]string{"inject"}, args...), &out, &errs)
		return code, out.String(), errs.String()
	}
	const pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: cart\n%spec: {containers: [{name: cart, image: cart}]}\n"
	good := write(strings.Replace(pod, "%", "", 1))
	bad := write(strings.Replace(pod, "%", "  annotations: {sidecar.istio.io/interceptionMode: OTHER}\n", 1))
	out := write(strings.Replace(pod, "%", "  annotations: {sidecar.istio.io/inject: \"false\"}\n", 1))

	if code, text, errs := run("-f", good, "-f", out, "--proxy-image", "mine:1"); code != exitOK ||
		strings.Count(text, "mine:1") != 2 || !strings.Contains(text, "\n---\n") || !strings.Contains(errs, `Pod cart is not injected: sidecar.istio.io/inject is "false"`) {
		t.Errorf("code %d\n%s\n%s", code, text, errs)
	}
	if code, text, errs := run("-f", good, "-f", bad); code != exitFindings || text != "" || !strings.Contains(errs, `pods.yaml:5: error: Pod cart: metadata.annotations[sidecar.istio.io/interceptionMode]: unknown interception mode "OTHER"`) {
		t.Errorf("code %d\n%s\n%s", code, text, errs)
	}
	for _, args := range [][]string{{}, {"-f", "absent.yaml"}, {"-f", good, "--proxy-cpu", "much"}, {"-f", good, "--mesh-config", good}} {
		if code, text, errs := run(args...); code != exitTrouble || text != "" {
			t.Errorf("%q: code %d\n%s\n%s", args, code, text, errs)
		}
	}
}

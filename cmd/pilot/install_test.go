package main

import (
	"strings"
	"testing"
)

func TestInstall(t *testing.T) {
	code, out, stderr := run(t, "install", "--dry-run", "-n", "mesh", "--image", "example/pilot:1")
	if code != exitOK || !strings.Contains(out, "kind: Deployment") || !strings.Contains(out, `image: "example/pilot:1"`) || strings.Contains(out, "istio-system") {
		t.Errorf("exit %d, %s\n%s", code, stderr, out)
	}
	if code, out, stderr := run(t, "install"); code != exitTrouble || out != "" || !strings.Contains(stderr, "pilot install --dry-run | kubectl apply -f -") {
		t.Errorf("without --dry-run: exit %d, %q, %s", code, out, stderr)
	}
	if code, _, stderr := run(t, "install", "--dry-run", "--namespace", "a.b"); code != exitTrouble || !strings.Contains(stderr, `"a.b" is no valid namespace`) {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

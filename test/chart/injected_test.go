package chart

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestInjectedPolicy: of the containers that injection adds, only the one that
// leads traffic to the sidecar has rights over the network, and as root. Limits
// are the user's to set: an Envoy that is killed for memory loses calls.
func TestInjectedPolicy(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "pkg/inject/testdata/*pod/out.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatal("no golden of an injected pod", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects(t, string(text)) {
			if o.GetKind() != "Pod" {
				continue
			}
			pod := &corev1.Pod{}
			into(t, o, pod)
			ours := 0
			for _, f := range podFindings(file, pod.Spec, func(c string) bool {
				if c == "istio-init" || c == "istio-proxy" {
					ours++
					return true
				}
				return false
			}, "NET_ADMIN", "NET_RAW") {
				t.Error(f)
			}
			if ours == 0 {
				t.Errorf("%s: pod %s has no container of ours", file, o.GetName())
			}
		}
	}
}

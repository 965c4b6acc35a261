package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const kubeconfig = `apiVersion: v1
kind: Config
current-context: one
clusters:
- {name: a, cluster: {server: "https://127.0.0.1:1"}}
- {name: b, cluster: {server: "https://127.0.0.1:2"}}
contexts:
- {name: one, context: {cluster: a, namespace: shop}}
- {name: two, context: {cluster: b}}
`

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The flags mean what they mean for kubectl.
func TestOpen(t *testing.T) {
	path := write(t, kubeconfig)
	for _, c := range []struct {
		where           Where
		host, namespace string
	}{
		{Where{Kubeconfig: path}, "https://127.0.0.1:1", "shop"},
		{Where{Kubeconfig: path, Context: "two"}, "https://127.0.0.1:2", "default"},
		{Where{Kubeconfig: path, Namespace: "web"}, "https://127.0.0.1:1", "web"},
	} {
		got, err := Open(c.where)
		if err != nil {
			t.Fatal(err)
		}
		if got.Config.Host != c.host || got.Namespace != c.namespace {
			t.Errorf("%+v: %s %s, want %s %s", c.where, got.Config.Host, got.Namespace, c.host, c.namespace)
		}
	}
	if _, err := Open(Where{Kubeconfig: path, Context: "three"}); err == nil || !strings.Contains(err.Error(), `"three" does not exist`) {
		t.Errorf("an unknown context: %v", err)
	}
}

func TestNoCluster(t *testing.T) {
	t.Setenv("KUBECONFIG", "")
	t.Setenv("HOME", t.TempDir())
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := Open(Where{}); err == nil || !strings.HasPrefix(err.Error(), "no Kubernetes API: ") {
		t.Errorf("without any configuration: %v", err)
	}
}

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"github.com/meshpilot/pilot/internal/testmesh"
	"github.com/meshpilot/pilot/pkg/translate"
	"google.golang.org/protobuf/encoding/protojson"
)

// TestEnvoyAcceptsGoldens gives a real Envoy the clusters and listeners of
// every class of every golden case, as if they stood in its own file.
func TestEnvoyAcceptsGoldens(t *testing.T) {
	files, err := filepath.Glob("../../testdata/*/*/mesh.yaml")
	whole, _ := filepath.Glob("../../testdata/*/mesh.yaml")
	if err != nil || len(files)+len(whole) < 10 {
		t.Fatalf("found %d golden cases: %v", len(files)+len(whole), err)
	}
	empty := filepath.Join(t.TempDir(), "empty.json")
	if err := os.WriteFile(empty, []byte(`{"resources":[]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, file := range append(files, whole...) {
		dir := filepath.Dir(file)
		snapshot, _ := testmesh.Load(t, dir)
		for id, config := range translate.Sidecars(snapshot) {
			static := staticBootstrap(t, config, empty)
			if seen[string(static)] {
				continue
			}
			seen[string(static)] = true
			name := strings.TrimPrefix(dir, "../../testdata/") + " " + id.String()
			path := filepath.Join(t.TempDir(), "envoy.json")
			if err := os.WriteFile(path, static, 0o644); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(*envoyFlag, "--mode", "validate", "-l", "error", "-c", path).CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v\n%s", name, err, out)
			}
		}
	}
	if len(seen) < 50 {
		t.Errorf("only %d configurations were tried", len(seen))
	}
}

// staticBootstrap holds what a proxy would be sent. Envoy crashes when it
// validates a file whose parts come over ADS, so they come from an empty file.
func staticBootstrap(t *testing.T, config translate.Config, empty string) []byte {
	t.Helper()
	b := &bootstrapv3.Bootstrap{
		Node:            &corev3.Node{Id: "sidecar~10.0.0.1~a.b~b.svc.cluster.local", Cluster: "b"},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{},
	}
	for _, r := range config.Resources(translate.ClusterType) {
		c := &clusterv3.Cluster{}
		if err := r.Body.UnmarshalTo(c); err != nil {
			t.Fatal(err)
		}
		b.StaticResources.Clusters = append(b.StaticResources.Clusters, c)
	}
	for _, r := range config.Resources(translate.ListenerType) {
		l := &listenerv3.Listener{}
		if err := r.Body.UnmarshalTo(l); err != nil {
			t.Fatal(err)
		}
		b.StaticResources.Listeners = append(b.StaticResources.Listeners, l)
	}
	text, err := protojson.Marshal(b)
	if err != nil {
		t.Fatal(fmt.Errorf("bootstrap: %w", err))
	}
	return regexp.MustCompile(`"ads":\s*\{\}`).ReplaceAll(text, []byte(`"path_config_source":{"path":"`+empty+`"}`))
}

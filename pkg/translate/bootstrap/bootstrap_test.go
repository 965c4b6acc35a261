package bootstrap

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/model"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func bootstrapOptions() Options {
	none := model.CaptureNone
	return Options{
		Proxy: model.Proxy{
			ID:      model.WorkloadID{Namespace: "shop", Name: "cart-1"},
			Address: "127.10.0.11",
			Capture: &none,
			Local: model.Local{
				CertChain: "/run/cart/certs/cert-chain.pem", Key: "/run/cart/certs/key.pem",
				RootCert: "/run/cart/certs/root-cert.pem", AppAddress: "127.20.0.11",
			},
		},
		Mesh: &model.Mesh{
			TrustDomain: "cluster.local", Domain: "cluster.local",
			DiscoveryAddress: "istio-pilot.istio-system.svc:15012",
			DrainDuration:    45 * time.Second, ParentShutdown: time.Minute,
			AdminPort: 15000, ServiceCluster: "istio-proxy", ConfigPath: "/etc/istio/proxy",
		},
	}
}

func TestBootstrapGolden(t *testing.T) {
	mtls := bootstrapOptions()
	plain := bootstrapOptions()
	plain.DiscoveryAddress, plain.AdminAddress, plain.AdminPort = "127.0.0.1:15010", "127.10.0.11", 15099
	plain.Proxy.Local, plain.Proxy.Capture = model.Local{}, nil
	status := plain
	status.StatusPort = 15021
	got := map[string][]byte{"mtls.json": Config(mtls), "plaintext.json": Config(plain), "status.json": Config(status)}
	for name, content := range SecretFiles(mtls) {
		got[filepath.Base(name)] = content
	}
	if files := SecretFiles(plain); files != nil {
		t.Errorf("plaintext needs no secrets, got %v", files)
	}
	for name, content := range got {
		golden := filepath.Join("testdata", name)
		if *update {
			if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(golden, content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if string(want) != string(content) {
			t.Errorf("%s differs:\n%s", golden, content)
		}
	}
}

func TestEnvoyArgs(t *testing.T) {
	m := bootstrapOptions().Mesh
	want := "--drain-strategy immediate --drain-time-s 45 --parent-shutdown-time-s 60"
	if got := strings.Join(EnvoyArgs(m), " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	m.Concurrency = 2
	if got := strings.Join(EnvoyArgs(m), " "); got != want+" --concurrency 2" {
		t.Errorf("got %s", got)
	}
}

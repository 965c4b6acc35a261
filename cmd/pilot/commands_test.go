package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const shop = "testdata/shop"

// edited is a copy of testdata/shop with files replaced or added; an empty
// text removes the file.
func edited(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(shop)); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if text == "" {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func mutual(t *testing.T) string {
	return edited(t, map[string]string{"mesh.yaml": "authPolicy: MUTUAL_TLS\n"})
}

func broken(t *testing.T) string {
	return edited(t, map[string]string{"mesh.yaml": "authPolicy: mutual_tls\nconectTimeout: 5s\n"})
}

func TestValidate(t *testing.T) {
	code, stdout, stderr := run(t, "validate", shop)
	if want := shop + ": valid; 1 service, 2 workloads with a sidecar\n"; code != exitOK || stdout != want || stderr != "" {
		t.Errorf("exit %d, stdout %q, stderr %q; want %q", code, stdout, stderr, want)
	}

	dir := broken(t)
	code, stdout, stderr = run(t, "validate", shop, dir)
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	want := []string{
		shop + ": valid; 1 service, 2 workloads with a sidecar",
		dir + `/mesh.yaml:1: error: MeshConfig mesh.yaml: authPolicy: unrecognized auth policy "mutual_tls", did you mean "MUTUAL_TLS"? [INVALID]`,
		dir + `/mesh.yaml:2: error: MeshConfig mesh.yaml: unknown field "conectTimeout", did you mean "connectTimeout"? [INVALID]`,
		dir + ": refused, 2 errors and 0 warnings",
	}
	if code != exitFindings || !slices.Equal(lines, want) || stderr != "" {
		t.Errorf("exit %d, stderr %q, got\n%s\nwant\n%s", code, stderr, stdout, strings.Join(want, "\n"))
	}

	code, stdout, _ = run(t, "validate", "-o", "json", dir)
	var reports []problemReport
	if err := json.Unmarshal([]byte(stdout), &reports); err != nil {
		t.Fatal(err)
	}
	if code != exitFindings || len(reports) != 2 || reports[1].Line != 2 || reports[1].Severity != "error" || reports[1].Field != "conectTimeout" {
		t.Errorf("exit %d, %+v", code, reports)
	}
}

// What is accepted is not questioned: that is for check.
func TestValidateWarnsOnly(t *testing.T) {
	dir := edited(t, map[string]string{"mesh.yaml": "defaultConfig: {discoveryAddress: \"pilot:15003\"}\n", "policy.yaml": `
apiVersion: authentication.istio.io/v1alpha1
kind: Policy
metadata: {name: p, namespace: shop}
spec:
  targets: [{name: nobody}]
  peers: [{mtls: {}}]
`})
	code, stdout, _ := run(t, "validate", dir)
	if code != exitOK || !strings.Contains(stdout, "mesh.yaml:1: warning: MeshConfig mesh.yaml: ") ||
		!strings.HasSuffix(stdout, ": valid with 1 warning; 1 service, 2 workloads with a sidecar\n") {
		t.Errorf("exit %d, %s", code, stdout)
	}
}

func TestRender(t *testing.T) {
	_, one, _ := run(t, "render", shop, "shop/cart")
	code, all, stderr := run(t, "render", shop)
	if code != exitOK || stderr != "" || !strings.HasPrefix(all, one+"---\n# shop/front\n") {
		t.Errorf("exit %d, stderr %q; all does not begin with one:\n%.200s", code, stderr, all)
	}
	for _, want := range []string{"# shop/cart\nlisteners:\n", "\nroutes:\n", "\nclusters:\n", "\nendpoints:\n", "\nsecrets:\n", "8080|plain"} {
		if !strings.Contains(one, want) {
			t.Errorf("no %q in the configuration of shop/cart", want)
		}
	}
	if _, again, _ := run(t, "render", shop); again != all {
		t.Error("two runs differ")
	}
}

// TestTrouble: each message says what to do next; nothing is printed as a
// result.
func TestTrouble(t *testing.T) {
	bad := broken(t)
	cases := []struct {
		name   string
		args   []string
		stderr string
	}{
		{"no such directory", []string{"validate", "testdata/none"}, "pilot: open testdata/none: no such file or directory"},
		{"no such workload", []string{"render", shop, "shop/cat"}, "pilot: testdata/shop has no workload shop/cat, but shop/cart, shop/front"},
		{"not a workload", []string{"render", shop, "cart"}, `pilot: "cart" is not NAMESPACE/WORKLOAD`},
		{"no sidecar", []string{"bootstrap", shop, "shop/batch"}, "pilot: workload shop/batch has no sidecar, so it gets no configuration"},
		{"render of errors", []string{"render", bad}, "pilot: " + bad + " has 2 errors"},
		{"diff to errors", []string{"diff", shop, bad}, "pilot: " + bad + " has 2 errors"},
		{"diff from errors", []string{"diff", bad, shop}, "pilot: " + bad + " has 2 errors"},
		{"diff of one", []string{"diff", shop}, "pilot: accepts 2 arg(s), received 1"},
		{"golden that is none", []string{"diff", "--golden", shop, shop}, "pilot: testdata/shop has no file that pilot render --out wrote"},
		{"out of one workload", []string{"render", "--out", t.TempDir(), shop, "shop/cart"}, "pilot: --out writes all workloads; leave out shop/cart"},
		{"wrong format", []string{"diff", "-o", "xml", shop, shop}, "pilot: invalid argument \"xml\" for \"-o, --output\" flag: must be text or json\nSee 'pilot diff --help'"},
		{"wrong mode", []string{"bootstrap", "--interception-mode", "no", shop, "shop/cart"}, `pilot: --interception-mode: "no" is not REDIRECT, TPROXY or NONE`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := run(t, c.args...)
			if code != exitTrouble || stdout != "" || !strings.HasSuffix(strings.TrimSpace(stderr), c.stderr) {
				t.Errorf("exit %d, stdout %q, stderr\n%s\nwant exit 2 and\n%s", code, stdout, stderr, c.stderr)
			}
		})
	}
}

func TestDiff(t *testing.T) {
	code, stdout, _ := run(t, "diff", shop, shop)
	if code != exitOK || stdout != "no difference for 2 workloads\n" {
		t.Errorf("exit %d, %q", code, stdout)
	}

	code, stdout, _ = run(t, "diff", shop, mutual(t))
	want := `listeners virtualInbound of shop/cart
  - filter_chains[8080|app-tls]
  + filter_chains[8080|mtls]
  + filter_chains[8080|mtls-any]
  - filter_chains[8080|plain]
  + filter_chains[8080|refuse]
`
	if code != exitFindings || !strings.HasPrefix(stdout, want) ||
		!strings.Contains(stdout, "clusters outbound|80||cart.shop.svc.cluster.local of all 2 workloads\n  + transport_socket\n") {
		t.Errorf("exit %d, got\n%s\nwant it to begin with\n%s", code, stdout, want)
	}

	code, stdout, _ = run(t, "diff", "-o", "json", mutual(t), shop)
	var report diffJSON
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatal(err)
	}
	found := slices.ContainsFunc(report.Changes, func(c changeJSON) bool {
		return c.Type == "clusters" && c.Field == "transport_socket" && c.New == "" && strings.Contains(c.Old, "UpstreamTlsContext") &&
			slices.Equal(c.Workloads, []string{"shop/cart", "shop/front"})
	})
	if code != exitFindings || !found {
		t.Errorf("exit %d, no change of the cluster in\n%s", code, stdout)
	}
}

func TestDiffOfValues(t *testing.T) {
	slow := edited(t, map[string]string{"mesh.yaml": "connectTimeout: 3s\n"})
	_, stdout, _ := run(t, "diff", shop, slow)
	if !strings.Contains(stdout, "\n  ~ connect_timeout: 10s -> 3s\n") {
		t.Errorf("got\n%s", stdout)
	}
	_, stdout, _ = run(t, "diff", "--full", shop, mutual(t))
	if !strings.Contains(stdout, "\n  + transport_socket\n    + name: envoy.transport_sockets.tls\n") {
		t.Errorf("got\n%s", stdout)
	}
}

// TestDiffIsShort: resources that change alike share a block.
func TestDiffIsShort(t *testing.T) {
	service := func(name, ip string) string {
		return "---\napiVersion: v1\nkind: Service\nmetadata: {name: " + name + ", namespace: shop}\n" +
			"spec: {clusterIP: " + ip + ", selector: {app: cart}, ports: [{name: tcp, port: 90, targetPort: 9090}]}\n"
	}
	more := service("a", "10.0.0.2") + service("b", "10.0.0.3")
	before := edited(t, map[string]string{"more.yaml": more})
	after := edited(t, map[string]string{"more.yaml": more, "mesh.yaml": "connectTimeout: 3s\n"})
	want := `clusters InboundPassthroughCluster, PassthroughCluster, inbound|other|plain| and 3 more of all 2 workloads
  ~ connect_timeout: 10s -> 3s
clusters inbound|8080|plain|, inbound|8080||, inbound|9090|plain|, inbound|9090|| of shop/cart
  ~ connect_timeout: 10s -> 3s
10 changes in the configuration of 2 workloads
`
	if _, stdout, _ := run(t, "diff", before, after); stdout != want {
		t.Errorf("got\n%s\nwant\n%s", stdout, want)
	}
}

func TestDiffOfWorkloads(t *testing.T) {
	without := edited(t, map[string]string{"front.yaml": ""})
	code, stdout, _ := run(t, "diff", shop, without)
	if code != exitFindings || stdout != "- workload shop/front\n0 changes in the configuration of 0 workloads; 1 workload gone, 0 new\n" {
		t.Errorf("exit %d, %q", code, stdout)
	}
}

func TestGolden(t *testing.T) {
	golden := filepath.Join(t.TempDir(), "golden")
	code, stdout, stderr := run(t, "render", "--out", golden, shop)
	if want := golden + ": 2 workloads; 2 written, 0 unchanged, 0 removed\n"; code != exitOK || stdout != want {
		t.Fatalf("exit %d, %q, %q", code, stdout, stderr)
	}
	if code, stdout, _ = run(t, "diff", "--golden", golden, shop); code != exitOK || stdout != "no difference for 2 workloads\n" {
		t.Errorf("exit %d, %q", code, stdout)
	}
	code, stdout, _ = run(t, "diff", "--golden", golden, mutual(t))
	if _, want, _ := run(t, "diff", shop, mutual(t)); code != exitFindings || stdout != want {
		t.Errorf("exit %d, --golden says\n%s\nand two directories\n%s", code, stdout, want)
	}

	// The next render removes what it wrote for a workload that is gone, and
	// leaves other people's files alone.
	other := filepath.Join(golden, "shop.notes.yaml")
	if err := os.WriteFile(other, []byte("mine: true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	without := edited(t, map[string]string{"front.yaml": ""})
	_, stdout, _ = run(t, "render", "--out", golden, without)
	if want := golden + ": 1 workload; 0 written, 1 unchanged, 1 removed\n"; stdout != want {
		t.Errorf("got %q, want %q", stdout, want)
	}
	if got := fileNames(t, golden); !slices.Equal(got, []string{"shop.cart.yaml", "shop.notes.yaml"}) {
		t.Errorf("files %q", got)
	}

	foreign := filepath.Join(golden, "shop.front.yaml")
	if err := os.WriteFile(foreign, []byte("mine: true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, _, stderr = run(t, "render", "--out", golden, shop)
	if code != exitTrouble || !strings.Contains(stderr, "was not written by pilot render; move it away") {
		t.Errorf("exit %d, %q", code, stderr)
	}
}

func TestBootstrap(t *testing.T) {
	code, stdout, stderr := run(t, "bootstrap", shop, "shop/cart", "--discovery-address", "127.0.0.1:15010")
	if code != exitOK || !json.Valid([]byte(stdout)) || !strings.Contains(stdout, "sidecar~10.1.0.1~cart.shop~shop.svc.cluster.local") ||
		!strings.HasPrefix(stderr, "run: envoy -c envoy.json --drain-strategy immediate ") {
		t.Errorf("exit %d, stderr %q, stdout\n%s", code, stderr, stdout)
	}
	dir := filepath.Join(t.TempDir(), "proxy")
	code, stdout, stderr = run(t, "bootstrap", shop, "shop/cart", "--out", dir)
	if code != exitOK || stdout != "" || !strings.HasPrefix(stderr, "run: envoy -c "+dir+"/envoy.json ") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	boot, err := os.ReadFile(filepath.Join(dir, bootstrapFile))
	if err != nil {
		t.Fatal(err)
	}
	names := fileNames(t, dir)
	if len(names) != 3 {
		t.Errorf("files %q, want the bootstrap and two secrets", names)
	}
	for _, name := range names {
		if name != bootstrapFile && !strings.Contains(string(boot), filepath.Join(dir, name)) {
			t.Errorf("the bootstrap does not name %s", name)
		}
	}
}

func TestCompletion(t *testing.T) {
	_, stdout, _ := run(t, "__complete", "render", shop, "")
	if !strings.HasPrefix(stdout, "shop/cart\nshop/front\n") {
		t.Errorf("completes %q", stdout)
	}
	_, stdout, _ = run(t, "__complete", "diff", "-o", "")
	if !strings.HasPrefix(stdout, "text\njson\n") {
		t.Errorf("completes %q", stdout)
	}
}

func fileNames(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

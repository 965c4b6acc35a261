package file

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshpilot/pilot/pkg/meshconfig"
)

const patience = 20 * time.Second // of a test that would fail

func service(name string, port int) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec:\n  ports:\n  - port: %d\n---\n", name, port)
}

// write is how editors and configuration management write: beside it, then
// rename. So no test depends on what is read between two system calls.
func write(t *testing.T, dir, name, text string) {
	t.Helper()
	beside := filepath.Join(dir, "."+name+".tmp")
	if err := os.WriteFile(beside, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(beside, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// overwrite truncates the file and writes it in place.
func overwrite(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// published is one bundle, as text: services with their port, then problems.
type published struct{ bundle, problems string }

func describe(dir string, b meshconfig.Bundle, problems []meshconfig.Problem) published {
	var out []string
	for _, s := range b.Services {
		out = append(out, fmt.Sprintf("%s:%d", s.Name, s.Spec.Ports[0].Port))
	}
	for _, r := range b.DestinationRules {
		out = append(out, fmt.Sprintf("%s=%s", r.Host, r.Policy.TLS.Mode))
	}
	for _, p := range b.MeshPolicies {
		out = append(out, fmt.Sprintf("%s=%s", p.Name, p.Mode))
	}
	for _, p := range b.PeerAuthentications {
		out = append(out, fmt.Sprintf("%s=%s", p.Name, p.Mode))
	}
	for _, i := range b.Invalid {
		out = append(out, "invalid "+i.On.String())
	}
	if b.Mesh != nil {
		out = append(out, fmt.Sprintf("mesh=%v", b.Mesh.MutualTLS))
	}
	var lines []string
	for _, p := range problems {
		lines = append(lines, p.Code+" "+p.String())
	}
	return published{strings.Join(out, " "), strings.ReplaceAll(strings.Join(lines, "\n"), dir+"/", "")}
}

// run follows dir until the test ends.
func run(t *testing.T, s *Source) <-chan published {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, done := make(chan published, 1000), make(chan error, 1)
	s.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	go func() {
		done <- s.Run(ctx, func(b meshconfig.Bundle, p []meshconfig.Problem) { out <- describe(s.Dir, b, p) })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return out
}

// next is what is published next.
func next(t *testing.T, from <-chan published) published {
	t.Helper()
	select {
	case p := <-from:
		return p
	case <-time.After(patience):
		t.Fatal("nothing was published")
		return published{}
	}
}

func wantNext(t *testing.T, from <-chan published, bundle, problems string) {
	t.Helper()
	if got := next(t, from); got.bundle != bundle || got.problems != problems {
		t.Fatalf("got %q, problems:\n%s\nwant %q, problems:\n%s", got.bundle, got.problems, bundle, problems)
	}
}

// quick believes changes soon; the watch alone must notice them.
func quick(dir string) *Source {
	return &Source{Dir: dir, Settle: 10 * time.Millisecond, Hold: 50 * time.Millisecond, Relist: time.Hour}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"mesh.yaml":     "authPolicy: MUTUAL_TLS\n",
		"svc.yml":       service("cart", 80),
		".hidden.yaml":  "nonsense",
		"svc.yaml~":     "nonsense",
		"#svc.yaml":     "nonsense",
		"README.md":     "nonsense",
		"#svc.yaml#":    "nonsense",
		".svc.yaml.swp": "nonsense",
	} {
		write(t, dir, name, text)
	}
	for _, name := range []string{"folder.yaml", "sub"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "sub"), "deep.yaml", "nonsense")
	if err := os.Symlink("nowhere", filepath.Join(dir, "dangling.yaml")); err != nil {
		t.Fatal(err)
	}
	b, problems, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := describe(dir, b, problems); got != (published{"cart:80 mesh=true", ""}) {
		t.Errorf("got %+v", got)
	}
	if _, _, err := Load(filepath.Join(dir, "missing")); err == nil {
		t.Error("a missing directory is an error")
	}
}

func TestLoadProblems(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", service("cart", 0)+service("stock", 81))
	write(t, dir, "b.yaml", service("stock", 82))
	b, problems, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := published{"stock:81 invalid Service default/cart", `INVALID a.yaml:6: Service default/cart: spec.ports[0].port: port number 0 must be in the range 1..65535
DUPLICATE b.yaml:1: Service default/stock: is given twice, at a.yaml:8 and at b.yaml:1; remove one
NO_MESH_CONFIG MeshConfig mesh.yaml: no mesh configuration; the built-in defaults are in force`}
	if got := describe(dir, b, problems); got != want {
		t.Errorf("got %q\n%s", got.bundle, got.problems)
	}
}

func TestRefusesToStart(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "mesh.yaml", "authPolicy: mutual_tls\nfoo: 1\n")
	write(t, dir, "a.yaml", service("cart", 0)+"apiVersion: apps/v1\nkind: Deployment\n")
	write(t, dir, "b.yaml", "a:\n\tb: 1\n")
	err := quick(dir).Run(t.Context(), func(meshconfig.Bundle, []meshconfig.Problem) { t.Error("published") })
	want := `the configuration in DIR has 4 errors:
DIR/b.yaml:2: a tab indents this line; YAML takes spaces only, write spaces instead
DIR/mesh.yaml:1: MeshConfig mesh.yaml: authPolicy: unrecognized auth policy "mutual_tls", did you mean "MUTUAL_TLS"?
DIR/mesh.yaml:2: MeshConfig mesh.yaml: unknown field "foo"
DIR/a.yaml:6: Service default/cart: spec.ports[0].port: port number 0 must be in the range 1..65535`
	if err == nil || strings.ReplaceAll(err.Error(), dir, "DIR") != want {
		t.Errorf("got %v", err)
	}
	if err := quick(filepath.Join(dir, "missing")).Run(t.Context(), nil); err == nil {
		t.Error("a missing directory is an error")
	}
}

func TestEdits(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "mesh.yaml", "# defaults\n")
	write(t, dir, "a.yaml", service("cart", 80))
	out := run(t, quick(dir))
	wantNext(t, out, "cart:80 mesh=false", "")
	overwrite(t, dir, "mesh.yaml", "authPolicy: MUTUAL_TLS\n")
	wantNext(t, out, "cart:80 mesh=true", "")
	write(t, dir, "a.yaml", service("cart", 81))
	wantNext(t, out, "cart:81 mesh=true", "")
	write(t, dir, "b.yaml", service("stock", 1))
	wantNext(t, out, "cart:81 stock:1 mesh=true", "")

	// Deleted, and put back.
	remove(t, dir, "a.yaml")
	wantNext(t, out, "stock:1 mesh=true", "")
	write(t, dir, "a.yaml", service("cart", 82))
	wantNext(t, out, "cart:82 stock:1 mesh=true", "")

	// An object leaves a file that stays.
	write(t, dir, "a.yaml", service("cart", 83)+service("more", 2))
	wantNext(t, out, "cart:83 more:2 stock:1 mesh=true", "")
	write(t, dir, "a.yaml", service("cart", 83))
	wantNext(t, out, "cart:83 stock:1 mesh=true", "")

	// Without mesh.yaml the last one stays, and it comes back.
	remove(t, dir, "mesh.yaml")
	wantNext(t, out, "cart:83 stock:1 mesh=true", "NO_MESH_CONFIG mesh.yaml: MeshConfig mesh.yaml: the mesh configuration is gone or empty; the last accepted version stays in force")
	write(t, dir, "mesh.yaml", "# authPolicy: MUTUAL_TLS\n")
	wantNext(t, out, "cart:83 stock:1 mesh=false", "")
}

func TestInvalidEdits(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "mesh.yaml", "authPolicy: MUTUAL_TLS\n")
	write(t, dir, "a.yaml", service("cart", 80)+service("stock", 81))
	out := run(t, quick(dir))
	wantNext(t, out, "cart:80 stock:81 mesh=true", "")
	write(t, dir, "a.yaml", service("cart", 0)+service("stock", 82))
	wantNext(t, out, "stock:82 cart:80 mesh=true",
		"INVALID a.yaml:6: Service default/cart: spec.ports[0].port: port number 0 must be in the range 1..65535; the last accepted version stays in force")
	write(t, dir, "a.yaml", "a: [\n")
	wantNext(t, out, "stock:82 cart:80 mesh=true",
		"INVALID a.yaml:1: not valid YAML: did not find expected node content; the file ends here, is it written only in half?; the last accepted version of what the file held stays in force")
	write(t, dir, "a.yaml", service("cart", 83))
	wantNext(t, out, "cart:83 mesh=true", "")
	write(t, dir, "mesh.yaml", "authPolicy: mutual_tls\n")
	wantNext(t, out, "cart:83 mesh=true",
		`INVALID mesh.yaml:1: MeshConfig mesh.yaml: authPolicy: unrecognized auth policy "mutual_tls", did you mean "MUTUAL_TLS"?; the last accepted version stays in force`)
	write(t, dir, "mesh.yaml", "trustDomain: other\n")
	wantNext(t, out, "cart:83 mesh=true",
		`INVALID mesh.yaml:1: MeshConfig mesh.yaml: trustDomain: trust domain change needs the old value in trustDomainAliases: cluster.local; the last accepted version stays in force`)
}

// TestInvalidRules: an invalid rule keeps its last version, or is remembered
// as one that asks for TLS.
func TestInvalidRules(t *testing.T) {
	rule := func(name, mode string) string {
		return "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: " + name + "}\nspec: {host: " + name + ", trafficPolicy: {tls: {mode: " + mode + "}}}\n---\n"
	}
	const unknown = `spec.trafficPolicy.tls.mode: unknown tls mode "MUTUL", did you mean "MUTUAL"?`
	dir := t.TempDir()
	write(t, dir, "a.yaml", rule("cart", "ISTIO_MUTUAL"))
	out := run(t, quick(dir))
	wantNext(t, out, "cart=MESH", "NO_MESH_CONFIG MeshConfig mesh.yaml: no mesh configuration; the built-in defaults are in force")
	write(t, dir, "mesh.yaml", "# defaults\n")
	wantNext(t, out, "cart=MESH mesh=false", "")
	write(t, dir, "a.yaml", rule("cart", "MUTUL")+rule("stock", "MUTUL"))
	wantNext(t, out, "cart=MESH invalid DestinationRule default/stock mesh=false",
		"INVALID a.yaml:4: DestinationRule default/cart: "+unknown+"; the last accepted version stays in force\n"+
			"INVALID a.yaml:9: DestinationRule default/stock: "+unknown)
	write(t, dir, "a.yaml", rule("cart", "DISABLE")+rule("stock", "SIMPLE"))
	wantNext(t, out, "cart=NONE stock=SIMPLE mesh=false", "")
}

// TestInvalidPolicies: an accepted policy of any kind outlives an invalid edit,
// and one that was never accepted is left to its stand-in.
func TestInvalidPolicies(t *testing.T) {
	peer := func(mode string) string {
		return "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec: {mtls: {mode: " + mode + "}}\n---\n"
	}
	mesh := func(spec string) string {
		return "apiVersion: authentication.istio.io/v1alpha1\nkind: MeshPolicy\nmetadata: {name: default}\nspec: {" + spec + "}\n"
	}
	dir := t.TempDir()
	write(t, dir, "mesh.yaml", "# defaults\n")
	write(t, dir, "a.yaml", peer("STRICT"))
	out := run(t, quick(dir))
	wantNext(t, out, "p=STRICT mesh=false", "")
	write(t, dir, "a.yaml", peer("STRIKT")+mesh("targets: [{name: a}]"))
	wantNext(t, out, "p=STRICT invalid MeshPolicy default mesh=false",
		`INVALID a.yaml:9: MeshPolicy default: spec.targets: cluster-scoped authentication policy must not have targets
INVALID a.yaml:4: PeerAuthentication default/p: spec.mtls.mode: unknown mTLS mode "STRIKT", did you mean "STRICT"?; the last accepted version stays in force`)
	write(t, dir, "a.yaml", peer("DISABLE")+mesh("peers: [{mtls: {}}]"))
	wantNext(t, out, "default=STRICT p=DISABLE mesh=false", "")
	write(t, dir, "a.yaml", peer("DISABLE"))
	wantNext(t, out, "p=DISABLE mesh=false", "")
}

// TestWriteInProgress: a file is truncated, then written in pieces with pauses
// longer than Settle. What it held is in force all the time.
func TestWriteInProgress(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "mesh.yaml", "# defaults\n")
	write(t, dir, "a.yaml", service("cart", 80)+service("stock", 81))
	s := quick(dir)
	s.Hold = time.Hour // only what is whole is believed
	out := run(t, s)
	wantNext(t, out, "cart:80 stock:81 mesh=false", "")
	text := service("cart", 90) + service("stock", 91)
	for _, cut := range []int{0, 10, len(service("cart", 90)) - 6, len(service("cart", 90)), len(text) - 20} {
		overwrite(t, dir, "a.yaml", text[:cut])
		// Another file's change shows that this one was looked at.
		write(t, dir, "mark.yaml", service("mark", cut+1))
		wantNext(t, out, fmt.Sprintf("cart:80 stock:81 mark:%d mesh=false", cut+1), "")
	}
	overwrite(t, dir, "a.yaml", text)
	wantNext(t, out, fmt.Sprintf("cart:90 stock:91 mark:%d mesh=false", len(text)-20+1), "")
}

// TestConfigMapVolume: files are links through ..data, which is swapped.
func TestConfigMapVolume(t *testing.T) {
	dir := t.TempDir()
	version := func(name string, port int) {
		at := filepath.Join(dir, name)
		if err := os.Mkdir(at, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, at, "a.yaml", service("cart", port))
		write(t, at, "mesh.yaml", "# defaults\n")
		for _, err := range []error{os.Symlink(name, filepath.Join(dir, "..data_tmp")), os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	version("..2024_1", 80)
	for _, name := range []string{"a.yaml", "mesh.yaml"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	out := run(t, quick(dir))
	wantNext(t, out, "cart:80 mesh=false", "")
	version("..2024_2", 81)
	wantNext(t, out, "cart:81 mesh=false", "")
	if err := os.RemoveAll(filepath.Join(dir, "..2024_1")); err != nil {
		t.Fatal(err)
	}
	version("..2024_3", 82)
	wantNext(t, out, "cart:82 mesh=false", "")
}

func TestBurst(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "mesh.yaml", "# defaults\n")
	s := quick(dir)
	s.Settle = 200 * time.Millisecond
	out := run(t, s)
	wantNext(t, out, "mesh=false", "")
	for i := range 300 {
		write(t, dir, "a.yaml", service("cart", i+1))
	}
	count := 0
	for got := ""; got != "cart:300 mesh=false"; count++ {
		got = next(t, out).bundle
	}
	if count > 30 {
		t.Errorf("300 edits were published as %d bundles", count)
	}
}

// TestRelist: an edit behind a link is invisible to the watch, and so is a
// directory that is replaced.
func TestRelist(t *testing.T) {
	base, dir := t.TempDir(), filepath.Join(t.TempDir(), "conf")
	write(t, base, "real.yaml", service("cart", 80))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "mesh.yaml", "# defaults\n")
	if err := os.Symlink(filepath.Join(base, "real.yaml"), filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	s := quick(dir)
	s.Relist = 50 * time.Millisecond
	out := run(t, s)
	wantNext(t, out, "cart:80 mesh=false", "")
	write(t, base, "real.yaml", service("cart", 81))
	wantNext(t, out, "cart:81 mesh=false", "")

	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	got := next(t, out)
	if got.bundle != "cart:81 mesh=false" || !strings.HasPrefix(got.problems, "INVALID Directory "+dir+": cannot be read: ") {
		t.Fatalf("got %+v", got)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for got := ""; got != "new:1 mesh=false"; {
		write(t, dir, "mesh.yaml", "# back\n")
		write(t, dir, "n.yaml", service("new", 1))
		got = next(t, out).bundle
	}
}

// TestOnlyWhenChanged: neither a touched file nor one that is of no interest
// is published.
func TestOnlyWhenChanged(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "mesh.yaml", "# defaults\n")
	write(t, dir, "a.yaml", service("cart", 80))
	s := quick(dir)
	s.Relist = 20 * time.Millisecond
	out := run(t, s)
	wantNext(t, out, "cart:80 mesh=false", "")
	write(t, dir, "a.yaml", service("cart", 80))
	write(t, dir, ".a.yaml.swp", "nonsense")
	write(t, dir, "a.yaml~", "nonsense")
	write(t, dir, "a.yaml", service("cart", 80))
	write(t, dir, "b.yaml", service("last", 1))
	wantNext(t, out, "cart:80 last:1 mesh=false", "")
}

// TestUnreadableFile keeps what the file held.
func TestUnreadableFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "mesh.yaml", "# defaults\n")
	write(t, dir, "a.yaml", service("cart", 80))
	out := run(t, quick(dir))
	wantNext(t, out, "cart:80 mesh=false", "")
	remove(t, dir, "a.yaml")
	if err := os.Symlink("a.yaml", filepath.Join(dir, "a.yaml")); err != nil { // a link to itself
		t.Fatal(err)
	}
	got := next(t, out)
	if got.bundle != "cart:80 mesh=false" || !strings.HasPrefix(got.problems, "INVALID a.yaml: cannot be read: ") {
		t.Fatalf("got %+v", got)
	}
}

// BenchmarkReload is one edit in a directory of 10,000 services: in one file,
// and in as many files.
func BenchmarkReload(b *testing.B) {
	for _, files := range []int{1, 10_000} {
		b.Run(fmt.Sprintf("files=%d", files), func(b *testing.B) {
			dir := b.TempDir()
			texts := make([]strings.Builder, files)
			for i := range 10_000 {
				texts[i%files].WriteString(service(fmt.Sprintf("svc-%d", i), 80))
			}
			put := func(name, text string) {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					b.Fatal(err)
				}
			}
			for i := range texts {
				put(fmt.Sprintf("%d.yaml", i), texts[i].String())
			}
			d := newDirectory(dir)
			look := func() {
				if changed, _, err := d.look(time.Time{}); err != nil || !changed {
					b.Fatal(changed, err)
				}
				if got, _ := d.accept(); len(got.Services) != 10_000 {
					b.Fatalf("got %d services", len(got.Services))
				}
			}
			look()
			for i := 0; b.Loop(); i++ {
				put("0.yaml", texts[0].String()+fmt.Sprintf("# %d\n", i))
				look()
			}
		})
	}
}

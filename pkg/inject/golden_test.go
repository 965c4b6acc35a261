package inject

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/meshpilot/pilot/pkg/meshconfig"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func testSettings() Settings {
	return Settings{
		Mesh: &meshconfig.DefaultMesh().Mesh, Image: "pilot-proxy:test", Native: true,
		ControlPlaneNamespace: "istio-system", Drain: 5 * time.Second,
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("64Mi"),
		}},
	}
}

// settingsOf are those of a case: its mesh.yaml, and native sidecars unless it
// is called classic-….
func settingsOf(t *testing.T, dir string) Settings {
	t.Helper()
	s := testSettings()
	s.Native = !strings.HasPrefix(filepath.Base(dir), "classic")
	file, err := os.Open(filepath.Join(dir, "mesh.yaml"))
	if os.IsNotExist(err) {
		return s
	}
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	bundle, problems := meshconfig.Decode(file, "mesh.yaml")
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	s.Mesh = &bundle.Mesh.Mesh
	return s
}

// TestGolden: testdata/<case>/in.yaml becomes out.yaml, with what is said of it
// in problems.txt.
func TestGolden(t *testing.T) {
	cases, err := filepath.Glob("testdata/*/in.yaml")
	if err != nil || len(cases) < 10 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	for _, path := range cases {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			in, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			s := settingsOf(t, dir)
			out, done, problems := Manifests(in, "in.yaml", s)
			golden(t, filepath.Join(dir, "out.yaml"), string(out))
			golden(t, filepath.Join(dir, "told.txt"), told(done, problems))
			again, _, _ := Manifests(out, "in.yaml", s)
			if diff := cmp.Diff(string(out), string(again)); diff != "" {
				t.Errorf("injected twice it differs:\n%s", diff)
			}
		})
	}
}

// told is one line for each object and problem.
func told(done []Manifest, problems []meshconfig.Problem) string {
	var text strings.Builder
	for _, m := range done {
		switch {
		case m.Skipped != "":
			text.WriteString("not injected: " + m.On.String() + ": " + m.Skipped + "\n")
		case !m.Failed():
			text.WriteString("injected: " + m.On.String() + "\n")
		}
	}
	for _, p := range problems {
		text.WriteString(p.Severity.String() + ": " + p.String() + "\n")
	}
	return text.String()
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// TestPatch: the JSON patch, applied to a pod, makes the same pod as the file
// has.
func TestPatch(t *testing.T) {
	for _, name := range []string{"pod", "classic-pod", "annotations", "init-order"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join("testdata", name)
			in, out := podOf(t, dir, "in.yaml"), podOf(t, dir, "out.yaml")
			r := Inject(Template{Meta: in.ObjectMeta, Spec: in.Spec, Default: true}, settingsOf(t, dir))
			if r.Skipped != "" || r.Failed() {
				t.Fatal(r)
			}
			patch, err := JSONPatch(r.Ops)
			if err != nil {
				t.Fatal(err)
			}
			before, err := json.Marshal(in)
			if err != nil {
				t.Fatal(err)
			}
			var got corev1.Pod
			if err := json.Unmarshal(patched(t, before, patch), &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(out, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func podOf(t *testing.T, dir, name string) corev1.Pod {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict(text, &pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

// patched applies the operation "add" as RFC 6902 says, and knows no other.
func patched(t *testing.T, document, patch []byte) []byte {
	t.Helper()
	var root any
	var ops []struct {
		Op, Path string
		Value    any
	}
	for into, text := range map[any][]byte{&root: document, &ops: patch} {
		if err := json.Unmarshal(text, into); err != nil {
			t.Fatal(err)
		}
	}
	for _, op := range ops {
		if op.Op != "add" {
			t.Fatalf("operation %s", op.Op)
		}
		root = added(t, root, strings.Split(op.Path, "/")[1:], op.Value)
	}
	out, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func added(t *testing.T, n any, path []string, value any) any {
	t.Helper()
	step := strings.NewReplacer("~1", "/", "~0", "~").Replace(path[0])
	switch n := n.(type) {
	case map[string]any:
		if len(path) > 1 {
			value = added(t, n[step], path[1:], value)
		}
		n[step] = value
		return n
	case []any:
		at := len(n)
		if step != "-" {
			var err error
			if at, err = strconv.Atoi(step); err != nil {
				t.Fatal(err)
			}
		}
		return slices.Insert(n, at, value)
	}
	t.Fatalf("%s is in nothing: %v", step, n)
	return nil
}

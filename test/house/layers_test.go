package house

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// room is one row of the table of who may import whom. A package belongs to
// the room with the longest path that it is in.
type room struct {
	path string
	// may are the packages, with all below them, that may be imported besides
	// the standard library; "pkg/..." are this module's, and exact: a room
	// below an allowed one is not allowed with it. "*" is everything.
	may string
	// never are packages that may not be reached, through any import.
	never string
}

// house is the table. Imports point down only.
func house() []room {
	const (
		envoyAPI = " github.com/envoyproxy/go-control-plane/envoy github.com/cncf/xds/go google.golang.org/protobuf"
		kubeAPI  = " k8s.io/api k8s.io/apimachinery"
		yaml     = " sigs.k8s.io/yaml go.yaml.in/yaml/v3"
	)
	return []room{
		{"pkg/model", "", "net/http os/exec"},
		{"pkg/translate", "pkg/model" + envoyAPI, "k8s.io google.golang.org/grpc pkg/meshconfig pkg/discovery"},
		{"pkg/translate/bootstrap", "pkg/model" + envoyAPI, "k8s.io google.golang.org/grpc pkg/meshconfig pkg/discovery"},
		{"pkg/translate/simulate", "pkg/model pkg/translate" + envoyAPI, "k8s.io google.golang.org/grpc pkg/meshconfig pkg/discovery"},
		{"pkg/translate/diff", "pkg/model pkg/translate github.com/google/go-cmp" + envoyAPI + yaml, "k8s.io google.golang.org/grpc pkg/meshconfig pkg/discovery"},
		{"pkg/explain", "pkg/model pkg/translate pkg/translate/simulate", "k8s.io google.golang.org/grpc pkg/meshconfig pkg/discovery"},
		{"pkg/check", "pkg/model pkg/meshconfig pkg/explain" + kubeAPI, "k8s.io/client-go google.golang.org/grpc pkg/discovery"},
		{"pkg/meshconfig", "pkg/model istio.io/api google.golang.org/protobuf" + kubeAPI + yaml, "k8s.io/client-go github.com/envoyproxy pkg/translate pkg/discovery"},
		{"pkg/meshconfig/file", "pkg/model pkg/meshconfig github.com/fsnotify/fsnotify" + kubeAPI, "k8s.io/client-go github.com/envoyproxy pkg/translate pkg/discovery"},
		{"pkg/meshconfig/kube", "pkg/model pkg/meshconfig pkg/meshconfig/kube/cluster istio.io/api k8s.io/client-go k8s.io/klog/v2" + kubeAPI, "pkg/translate pkg/discovery"},
		{"pkg/meshconfig/kube/cluster", "k8s.io/client-go" + kubeAPI, "pkg/model"},
		{"pkg/meshconfig/kube/accounts", "pkg/model pkg/identity pkg/identity/secrets pkg/identity/csr pkg/meshconfig/kube/cluster k8s.io/client-go google.golang.org/grpc" + kubeAPI, "pkg/translate pkg/discovery"},
		{"pkg/meshconfig/kube/replicas", "pkg/model pkg/rollout pkg/meshconfig/kube/cluster k8s.io/client-go" + kubeAPI, "pkg/translate pkg/discovery"},
		{"pkg/meshconfig/kube/conditions", "pkg/model pkg/meshconfig pkg/meshconfig/kube/cluster k8s.io/client-go" + kubeAPI, "pkg/translate pkg/discovery"},
		{"pkg/meshconfig/kube/hooks", "pkg/meshconfig/kube/cluster k8s.io/client-go" + kubeAPI, "pkg/translate pkg/discovery"},
		{"pkg/inject", "pkg/model pkg/meshconfig pkg/inject/capture" + kubeAPI + yaml, "k8s.io/client-go google.golang.org/grpc pkg/discovery"},
		{"pkg/inject/capture", "", "net/http os/exec"},
		{"pkg/webhook", "pkg/model pkg/meshconfig pkg/inject" + kubeAPI, "k8s.io/client-go google.golang.org/grpc pkg/discovery"},
		{"pkg/rollout", "pkg/model", "net/http os/exec"},
		{"pkg/readiness", "pkg/model", "net/http os/exec"},
		{"pkg/plan", "pkg/model pkg/rollout pkg/readiness pkg/translate pkg/explain" + envoyAPI, "k8s.io google.golang.org/grpc pkg/meshconfig pkg/discovery"},
		{"pkg/identity", "pkg/model istio.io/api google.golang.org/grpc google.golang.org/protobuf", "k8s.io/client-go pkg/translate pkg/discovery"},
		{"pkg/identity/csr", "pkg/identity istio.io/api google.golang.org/grpc google.golang.org/protobuf", "k8s.io/client-go pkg/translate pkg/discovery"},
		{"pkg/identity/agent", "pkg/identity istio.io/api google.golang.org/grpc github.com/prometheus/client_golang", "k8s.io/client-go pkg/translate pkg/discovery"},
		{"pkg/discovery", "pkg/model pkg/meshconfig pkg/translate pkg/translate/diff pkg/rollout pkg/readiness pkg/identity pkg/identity/csr pkg/explain pkg/check github.com/envoyproxy/go-control-plane " +
			"google.golang.org/grpc google.golang.org/genproto/googleapis/rpc github.com/prometheus/client_golang github.com/hashicorp/golang-lru/v2" + envoyAPI,
			"k8s.io/client-go pkg/meshconfig/kube"},
		{"pkg/lab", "*", "k8s.io/client-go cmd"},
		{"cmd", "*", "test"},
		{"test", "*", ""},
		{"internal/fakeenvoy", "pkg/translate google.golang.org/grpc google.golang.org/genproto/googleapis/rpc" + envoyAPI, "k8s.io pkg/discovery"},
		{"internal/meshgen", "pkg/model pkg/meshconfig" + kubeAPI, "k8s.io/client-go github.com/envoyproxy pkg/translate pkg/discovery"},
		{"internal/kubetest", "k8s.io/client-go" + kubeAPI, "pkg"},
		{"internal/testmesh", "pkg/model pkg/meshconfig", "k8s.io/client-go github.com/envoyproxy"},
		{"api", "k8s.io/apimachinery", "k8s.io/client-go k8s.io/api pkg"},
		{"manifests", "", "pkg api cmd"},
		{"tools", "*", ""},
	}
}

// onlyImportedBy are rooms that others may not build on.
func onlyImportedBy(path string) string {
	switch {
	case in(path, "pkg/lab"):
		return "pkg/lab cmd test"
	case in(path, "cmd"):
		return "cmd"
	case in(path, "test"):
		return "test"
	}
	return "*"
}

// listed is what `go list` tells of one package.
type listed struct {
	ImportPath    string
	Imports, Deps []string
	Standard      bool
}

func TestLayers(t *testing.T) {
	packages := goList(t)
	if len(packages) < 3 {
		t.Fatalf("go list found %d packages", len(packages))
	}
	report(t, layerFindings(packages, house()))
}

func TestLayersFail(t *testing.T) {
	pkg := func(path string, imports ...string) listed {
		return listed{ImportPath: module + "/" + path, Imports: imports, Deps: imports}
	}
	findings := layerFindings([]listed{
		pkg("pkg/model", "strings", "google.golang.org/protobuf/proto"),
		pkg("pkg/translate", module+"/pkg/model", module+"/pkg/meshconfig"),
		pkg("pkg/translate/simulate", module+"/pkg/translate"),
		{ImportPath: module + "/pkg/meshconfig", Imports: []string{"k8s.io/api/core/v1"}, Deps: []string{"k8s.io/api/core/v1", "k8s.io/client-go/rest"}},
		pkg("pkg/meshconfig/kube", "k8s.io/client-go/rest"),
		pkg("pkg/discovery", module+"/pkg/lab"),
		pkg("pkg/discovery/store", module+"/pkg/translate/simulate"),
		pkg("pkg/utils"),
		pkg("cmd/pilot", module+"/pkg/lab", module+"/pkg/discovery"),
	}, house())
	wantFindings(t, findings,
		"pkg/model imports google.golang.org/protobuf/proto",
		"pkg/translate imports pkg/meshconfig",
		"pkg/translate reaches pkg/meshconfig",
		"pkg/meshconfig reaches k8s.io/client-go/rest",
		"pkg/discovery imports pkg/lab, which its row",
		"pkg/discovery imports pkg/lab, which only",
		"pkg/discovery/store imports pkg/translate/simulate",
		"pkg/utils has no row")
}

// layerFindings are the breaches of the table.
func layerFindings(packages []listed, rooms []room) []string {
	var out []string
	for _, p := range packages {
		self := short(p.ImportPath)
		own, ok := roomOf(self, rooms)
		if !ok {
			out = append(out, self+" has no row in the table of rooms; add one, or put it into a room")
			continue
		}
		for _, i := range p.Imports {
			i = short(i)
			if !mayImport(own, i, rooms) {
				out = append(out, fmt.Sprintf("%s imports %s, which its row does not allow", self, i))
			}
			if by := onlyImportedBy(i); by != "*" && !inAny(self, by) {
				out = append(out, fmt.Sprintf("%s imports %s, which only %s may", self, i, by))
			}
		}
		for _, d := range p.Deps {
			if inAny(short(d), own.never) {
				out = append(out, fmt.Sprintf("%s reaches %s, directly or through another package", self, short(d)))
			}
		}
	}
	return out
}

func mayImport(own room, path string, rooms []room) bool {
	if own.may == "*" || isStandard(path) {
		return true
	}
	target, ours := roomOf(path, rooms)
	if ours {
		return target.path == own.path || slices.Contains(strings.Fields(own.may), target.path)
	}
	return inAny(path, own.may)
}

func roomOf(path string, rooms []room) (room, bool) {
	var best room
	for _, r := range rooms {
		if in(path, r.path) && len(r.path) > len(best.path) {
			best = r
		}
	}
	return best, best.path != ""
}

// short is the path inside this module, or the whole path of another's.
func short(path string) string { return strings.TrimPrefix(path, module+"/") }

// isStandard says whether the path has no domain, nor is one of this module.
func isStandard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".") && !inAny(path, "api cmd internal manifests pkg test tools")
}

func in(path, parent string) bool {
	return path == parent || strings.HasPrefix(path, parent+"/")
}

func inAny(path, parents string) bool {
	return slices.ContainsFunc(strings.Fields(parents), func(p string) bool { return in(path, p) })
}

func goList(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps,Standard", "./...")
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []listed
	for dec := json.NewDecoder(out); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return all
}

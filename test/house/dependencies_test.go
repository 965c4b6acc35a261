package house

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestDependencies(t *testing.T) {
	mod, doc := readFile(t, filepath.Join(root, "go.mod")), readFile(t, filepath.Join(root, "docs/dependencies.md"))
	if len(direct(mod)) == 0 {
		t.Fatal("go.mod has no direct requirement")
	}
	report(t, dependencyFindings(mod, doc))
}

func TestDependenciesFail(t *testing.T) {
	mod := "module m\nrequire a.org/one v1.0.0\nrequire (\n\tb.org/two v1.2.3\n\tc.org/three v0.1.0 // indirect\n)\n"
	wantFindings(t, dependencyFindings(mod, "| `a.org/one` | reason |\n"), "b.org/two has no line")
	wantFindings(t, dependencyFindings(mod, "| `a.org/one` | x |\n| `b.org/two` | |\n"), "b.org/two has no line")
	wantFindings(t, dependencyFindings(mod, "| `a.org/one` | x |\n| `b.org/two` | y |\n"))
	wantFindings(t, dependencyFindings(mod, "| `a.org/one` | x |\n| `b.org/two` | y |\n| `c.org/three` | z |\n"), "c.org/three is no direct")
}

// dependencyFindings are the direct requirements without a reason, and reasons
// without a requirement.
func dependencyFindings(mod, doc string) []string {
	var out []string
	for _, m := range direct(mod) {
		line := regexp.MustCompile("(?m)^\\| `" + regexp.QuoteMeta(m) + "` \\| *[^ |]")
		if !line.MatchString(doc) {
			out = append(out, m+" has no line with its reason in docs/dependencies.md")
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(doc, -1) {
		if !slices.Contains(direct(mod), row[1]) {
			out = append(out, row[1]+" is no direct requirement of go.mod, but has a line in docs/dependencies.md")
		}
	}
	return out
}

// direct are the module paths that go.mod requires directly.
func direct(mod string) []string {
	var out []string
	for line := range strings.Lines(mod) {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(fields) == 2 && strings.HasPrefix(fields[1], "v") && strings.Contains(fields[0], ".") {
			out = append(out, fields[0])
		}
	}
	return out
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Package house tests the house rules: which package may import which, what
// the pure packages may not do, how large things may be, and that each
// dependency has its reason written down. Every rule is a function from plain
// data to findings, so that a second test shows it failing on a broken case.
package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/meshpilot/pilot"

// root is the repository, seen from this package.
const root = "../.."

// source is one parsed Go file.
type source struct {
	path string // from the root, with slashes
	text string
	fset *token.FileSet
	file *ast.File
}

func (s source) dir() string           { return filepath.ToSlash(filepath.Dir(s.path)) }
func (s source) isTest() bool          { return strings.HasSuffix(s.path, "_test.go") }
func (s source) generated() bool       { return ast.IsGenerated(s.file) }
func (s source) lineOf(n ast.Node) int { return s.fset.Position(n.Pos()).Line }

// sources parses every Go file of the repository, in the order of their paths.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) == ".go" {
			rel, _ := filepath.Rel(root, path)
			all = append(all, parse(t, filepath.ToSlash(rel), readFile(t, path)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func parse(t *testing.T, path, text string) source {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return source{path: path, text: text, fset: fset, file: file}
}

// report fails the test once per finding.
func report(t *testing.T, findings []string) {
	t.Helper()
	for _, f := range findings {
		t.Error(f)
	}
}

// wantFindings demands that findings are exactly those that contain the given
// texts, in any order.
func wantFindings(t *testing.T, findings []string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !slices.ContainsFunc(findings, func(f string) bool { return strings.Contains(f, w) }) {
			t.Errorf("no finding says %q in %q", w, findings)
		}
	}
	if len(findings) != len(want) {
		t.Errorf("got %d findings %q, want %d", len(findings), findings, len(want))
	}
}

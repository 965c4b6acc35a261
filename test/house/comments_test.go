package house

import (
	"fmt"
	"go/ast"
	"maps"
	"slices"
	"strings"
	"testing"
)

// maxPackageComment is how long a package may explain its place in the path.
const maxPackageComment = 10

func TestComments(t *testing.T) {
	report(t, commentFindings(sources(t)))
}

func TestCommentsFail(t *testing.T) {
	long := "// Package long explains.\n" + strings.Repeat("// More.\n", 10) + "package long\n"
	wantFindings(t, commentFindings([]source{
		parse(t, "pkg/x/x.go", `// Package x is x.
package x
func F() {}
func (T) M() {}
func (hidden) M() {}
func f() {}
type T struct{}
type hidden struct{}
const C = 1
var V, w int
`),
		parse(t, "pkg/x/x_test.go", "package x\nfunc TestX() {}"),
		parse(t, "pkg/fine/x.go", `// Package fine is fine.
package fine
// F does.
func F() {}
// The limits.
const (
	A = 1
	B = 2
)
// T is one.
type T struct{}
type (
	// U is one.
	U struct{}
)
`),
		parse(t, "pkg/none/x.go", "package none"),
		parse(t, "pkg/long/x.go", long),
		parse(t, "pkg/long/y.go", "package long"),
	}),
		"pkg/x/x.go:3: F has", "pkg/x/x.go:4: M has", "pkg/x/x.go:7: T has", "pkg/x/x.go:9: C has", "pkg/x/x.go:10: V has",
		"pkg/none has no package comment", "pkg/long has a package comment of 11 lines")
}

// commentFindings are exported names without a sentence, and packages without
// a short comment.
func commentFindings(all []source) []string {
	var out []string
	lines := map[string]int{}
	for _, s := range all {
		if s.isTest() || s.generated() {
			continue
		}
		n := 0
		if s.file.Doc != nil {
			n = len(strings.Split(strings.TrimSpace(s.file.Doc.Text()), "\n"))
		}
		lines[s.dir()] += n
		if s.file.Name.Name == "main" {
			continue
		}
		for _, name := range undocumented(s.file) {
			out = append(out, fmt.Sprintf("%s:%d: %s has no comment", s.path, s.lineOf(name), name.Name))
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(lines)) {
		switch n := lines[dir]; {
		case n == 0:
			out = append(out, dir+" has no package comment")
		case n > maxPackageComment:
			out = append(out, fmt.Sprintf("%s has a package comment of %d lines, more than %d", dir, n, maxPackageComment))
		}
	}
	return out
}

// undocumented are the exported names without a comment of their own or of
// their group.
func undocumented(f *ast.File) []*ast.Ident {
	var out []*ast.Ident
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Doc == nil && d.Name.IsExported() && exportedReceiver(d) {
				out = append(out, d.Name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					if d.Doc == nil && spec.Doc == nil && spec.Name.IsExported() {
						out = append(out, spec.Name)
					}
				case *ast.ValueSpec:
					if d.Doc == nil && spec.Doc == nil && spec.Comment == nil && spec.Names[0].IsExported() {
						out = append(out, spec.Names[0])
					}
				}
			}
		}
	}
	return out
}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	t := d.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if generic, ok := t.(*ast.IndexExpr); ok {
		t = generic.X
	}
	name, ok := t.(*ast.Ident)
	return ok && name.IsExported()
}

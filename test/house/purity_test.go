package house

import (
	"fmt"
	"go/ast"
	"go/token"
	"strconv"
	"strings"
	"testing"
)

// isPure says which directories hold pure code: no goroutines, locks, clock,
// files, network or state. The shells below meshconfig read files and the
// Kubernetes API.
func isPure(dir string) bool {
	if in(dir, "pkg/meshconfig/file") || in(dir, "pkg/meshconfig/kube") {
		return false
	}
	return inAny(dir, "pkg/model pkg/meshconfig pkg/translate pkg/rollout pkg/readiness pkg/plan pkg/check pkg/inject")
}

func TestPurity(t *testing.T) {
	checked := 0
	for _, s := range sources(t) {
		if !isPure(s.dir()) || s.isTest() {
			continue
		}
		checked++
		report(t, purityFindings(s))
	}
	if checked == 0 {
		t.Fatal("found no pure package")
	}
}

func TestPurityFails(t *testing.T) {
	cases := []struct{ name, code, want string }{
		{"goroutine", `func f() { go f() }`, "starts a goroutine"},
		{"lock", `import "sync"`, `imports "sync"`},
		{"atomic", `import "sync/atomic"`, `imports "sync/atomic"`},
		{"clock", "import \"time\"\nfunc f() { time.Now() }", "calls time.Now"},
		{"renamed clock", "import t \"time\"\nfunc f() { t.Since(x) }", "calls time.Since"},
		{"files", `import "os"`, `imports "os"`},
		{"network", `import "net/http"`, `imports "net/http"`},
		{"log", `import "log/slog"`, `imports "log/slog"`},
		{"init", `func init() {}`, "has an init function"},
		{"map", `var kinds = map[string]int{}`, "package variable kinds"},
		{"zero value", `var count int`, "package variable count"},
		{"second of two", "import \"errors\"\nvar errX, n = errors.New(\"x\"), 3", "package variable n"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			wantFindings(t, purityFindings(parse(t, "pkg/model/x.go", "package model\n"+c.code)), c.want)
		})
	}
	fine := `package model
import ("errors"; "regexp"; "time")
var errX = errors.New("x")
var name = regexp.MustCompile("a+")
var _ error = (*mine)(nil)
type mine struct{}
func (mine) init() {}
func f() time.Duration { return time.Second }`
	wantFindings(t, purityFindings(parse(t, "pkg/model/x.go", fine)))
}

// purityFindings are what a pure file may not contain.
func purityFindings(s source) []string {
	var out []string
	found := func(n ast.Node, text string) {
		out = append(out, fmt.Sprintf("%s:%d: pure code %s", s.path, s.lineOf(n), text))
	}
	clock := ""
	for _, i := range s.file.Imports {
		path, _ := strconv.Unquote(i.Path.Value)
		if inAny(path, "sync os net/http log math/rand") {
			found(i, "imports "+i.Path.Value)
		}
		if path == "time" {
			clock = "time"
			if i.Name != nil {
				clock = i.Name.Name
			}
		}
	}
	for _, d := range s.file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.Name == "init" {
				found(d, "has an init function")
			}
		case *ast.GenDecl:
			if d.Tok == token.VAR {
				for _, name := range mutable(d) {
					found(name, "has the package variable "+name.Name)
				}
			}
		}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			found(n, "starts a goroutine")
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			if ok && clock != "" && x.Name == clock && readsClock(n.Sel.Name) {
				found(n, "calls time."+n.Sel.Name)
			}
		}
		return true
	})
	return out
}

func readsClock(name string) bool {
	switch name {
	case "Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker":
		return true
	}
	return false
}

// mutable are the declared variables, other than errors, patterns and
// interface assertions.
func mutable(d *ast.GenDecl) []*ast.Ident {
	var out []*ast.Ident
	for _, spec := range d.Specs {
		v := spec.(*ast.ValueSpec)
		for i, name := range v.Names {
			if name.Name != "_" && (i >= len(v.Values) || !isConstant(v.Values[i])) {
				out = append(out, name)
			}
		}
	}
	return out
}

func isConstant(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && strings.Contains("errors.New regexp.MustCompile", x.Name+"."+sel.Sel.Name)
}

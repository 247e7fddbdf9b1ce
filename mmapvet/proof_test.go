package mmapvet_test

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

// TestProofs: what is reported in the data happens at run time. The error or the fault is that
// which the message predicts. Nothing is left in the temporary directory, also by those that
// crash.
func TestProofs(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("go", "test", "-count=1", "./...")
	cmd.Dir = data(t)
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Error("left: ", left, err)
	}
}

// TestEachIsProven: each function in which something is reported is called by a proof.
func TestEachIsProven(t *testing.T) {
	pkgs, err := packages.Load(&packages.Config{
		Mode:  packages.NeedName | packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo | packages.NeedFiles,
		Dir:   data(t),
		Tests: true,
	}, "./...")
	if err != nil {
		t.Fatal(err)
	}
	proven, reported := map[string]bool{}, map[string]string{}
	for _, p := range pkgs {
		for _, err := range p.Errors {
			t.Error(err)
		}
		if p.PkgPath == "data/comments" {
			continue // what is wrong there are the comments
		}
		place := func(pos token.Pos) string {
			at := p.Fset.Position(pos)
			return fmt.Sprint(at.Filename, ":", at.Line)
		}
		for _, file := range p.Syntax {
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok && wantedIn(file, f) {
					reported[place(f.Name.Pos())] = f.Name.Name
				}
			}
			if strings.HasSuffix(p.Fset.Position(file.Pos()).Filename, "_test.go") {
				ast.Inspect(file, func(n ast.Node) bool {
					if id, ok := n.(*ast.Ident); ok {
						if f, ok := p.TypesInfo.Uses[id].(*types.Func); ok {
							proven[place(f.Origin().Pos())] = true
						}
					}
					return true
				})
			}
		}
	}
	if len(reported) < 200 {
		t.Errorf("only %d functions with reports", len(reported))
	}
	for at, name := range reported {
		if !proven[at] {
			t.Errorf("%s: no proof of what is reported in %s", at, name)
		}
	}
}

// wantedIn reports whether something is to be reported in a function.
func wantedIn(file *ast.File, f *ast.FuncDecl) bool {
	for _, group := range file.Comments {
		for _, c := range group.List {
			if strings.HasPrefix(c.Text, "// want ") && f.Pos() <= c.Pos() && c.Pos() <= f.End() {
				return true
			}
		}
	}
	return false
}

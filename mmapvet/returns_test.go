package mmapvet

import (
	"go/ast"
	"go/types"
	"slices"
	"testing"

	"golang.org/x/tools/go/analysis"
	driver "golang.org/x/tools/go/analysis/checker"
	"golang.org/x/tools/go/analysis/passes/ctrlflow"
	"golang.org/x/tools/go/packages"
)

// TestEnding: of the packages that end programs, all functions that others can call and that
// never return are in the table. The analyzer ctrlflow finds them in their source.
func TestEnding(t *testing.T) {
	pkgs, err := packages.Load(&packages.Config{Mode: packages.LoadAllSyntax}, "log", "testing", "os", "syscall", "log/slog")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	list := &analysis.Analyzer{
		Name: "list", Doc: "list functions that never return", Requires: []*analysis.Analyzer{ctrlflow.Analyzer},
		Run: func(pass *analysis.Pass) (any, error) {
			graphs := pass.ResultOf[ctrlflow.Analyzer].(*ctrlflow.CFGs)
			for _, file := range pass.Files {
				for _, d := range file.Decls {
					d, ok := d.(*ast.FuncDecl)
					if !ok {
						continue
					}
					fn := pass.TypesInfo.Defs[d.Name].(*types.Func)
					if fn.Exported() && graphs.NoReturn(fn) && pass.Pkg.Name() != "runtime" {
						found = append(found, standardName(fn))
					}
				}
			}
			return nil, nil
		},
	}
	if _, err := driver.Analyze([]*analysis.Analyzer{list}, pkgs, &driver.Options{Sequential: true}); err != nil {
		t.Fatal(err)
	}
	// Methods of these nobody outside can call.
	inside := names("os.errSymlink.Error os.noReadFrom.ReadFrom os.noWriteTo.WriteTo")
	for _, name := range found {
		if !ending[name] && !inside[name] {
			t.Errorf("%s never returns, and is not in the table", name)
		}
	}
	for _, name := range []string{"os.Exit", "testing.common.FailNow", "log.Logger.Fatal"} {
		if !slices.Contains(found, name) {
			t.Errorf("%s was not found: %v", name, found)
		}
	}
}

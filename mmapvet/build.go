package mmapvet

import (
	"go/ast"
	"go/types"

	"golang.org/x/tools/go/ssa"
)

// build makes the SSA form of the package, and returns its functions in the order of the
// source. It is what the analyzer buildssa does, which would do so for every package of the
// program, and of the standard library.
func (k *checker) build() []*ssa.Function {
	prog := ssa.NewProgram(k.pass.Fset, 0)
	prog.SetNoReturn(k.neverReturns)
	created := map[*types.Package]bool{}
	for _, p := range k.pass.Pkg.Imports() {
		if !created[p] {
			created[p] = true
			prog.CreatePackage(p, nil, nil, true)
		}
	}
	k.prog = prog
	k.pkg = prog.CreatePackage(k.pass.Pkg, k.pass.Files, k.pass.TypesInfo, false)
	k.pkg.Build()
	var functions []*ssa.Function
	for _, file := range k.pass.Files {
		for _, decl := range file.Decls {
			d, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if obj, ok := k.pass.TypesInfo.Defs[d.Name].(*types.Func); ok {
				if fn := prog.FuncValue(obj); fn != nil && len(fn.Blocks) > 0 {
					functions = append(functions, fn)
				}
			}
		}
	}
	if init := k.pkg.Func("init"); init != nil {
		functions = append(functions, init)
	}
	return functions
}

package mmapvet

import (
	"go/token"
	"go/types"
	"slices"
	"testing"

	"golang.org/x/tools/go/packages"
)

// TestTable: the table has every exported function and method that takes or returns a handle, a
// pin, memory or a callback, and nothing that the library does not have.
func TestTable(t *testing.T) {
	pkgs, err := packages.Load(&packages.Config{Mode: packages.NeedTypes | packages.NeedName, Dir: ".."}, ".")
	if err != nil || len(pkgs) != 1 || len(pkgs[0].Errors) > 0 {
		t.Fatal(err, pkgs)
	}
	scope := pkgs[0].Types.Scope()
	var functions []*types.Func
	for _, name := range scope.Names() {
		switch o := scope.Lookup(name).(type) {
		case *types.Func:
			functions = append(functions, o)
		case *types.TypeName:
			if !o.Exported() {
				continue
			}
			if handleNames[name] != isHandle(o.Type()) {
				t.Errorf("%s is a handle: %v, in the table: %v", name, isHandle(o.Type()), handleNames[name])
			}
			if !handleNames[name] && name != "Pin" {
				continue
			}
			methods := types.NewMethodSet(types.NewPointer(o.Type()))
			for m := range methods.Methods() {
				functions = append(functions, m.Obj().(*types.Func))
			}
		}
	}
	used := map[string]bool{}
	for _, f := range functions {
		if !f.Exported() {
			continue
		}
		e, name, ok := entryOf(f)
		switch {
		case ok:
			used[keyOf(f)] = true
			checkEntry(t, f, e)
		case concerns(f.Signature()):
			t.Errorf("%s has to do with handles, pins, memory or callbacks, and is not in the table", f.FullName())
		case f.Signature().Recv() != nil:
			t.Errorf("method %s is not in the table", name)
		}
	}
	for key := range library {
		if !used[key] {
			t.Errorf("the table has %s, which the library has not", key)
		}
	}
}

func keyOf(f *types.Func) string {
	recv := f.Signature().Recv()
	if recv == nil {
		return f.Name()
	}
	t := recv.Type()
	if p, ok := t.(*types.Pointer); ok {
		t = p.Elem()
	}
	if owner := ofLibrary(t); owner == "Pin" || owner == "Unknown" {
		if _, own := library[owner+"."+f.Name()]; own {
			return owner + "." + f.Name()
		}
	}
	return "." + f.Name()
}

// concerns reports whether a signature has a handle, a pin, a callback or bytes that are lent.
func concerns(sig *types.Signature) bool {
	var all []types.Type
	if sig.Recv() != nil {
		all = append(all, sig.Recv().Type())
	}
	for v := range sig.Params().Variables() {
		all = append(all, v.Type())
	}
	for v := range sig.Results().Variables() {
		all = append(all, v.Type())
	}
	return slices.ContainsFunc(all, func(t types.Type) bool {
		if s, ok := t.(*types.Slice); ok {
			if b, ok := s.Elem().(*types.Basic); ok && b.Kind() == types.Byte {
				return true
			}
			t = s.Elem()
		}
		_, isFunc := t.Underlying().(*types.Signature)
		return isFunc || isHandle(t) || isPin(t)
	})
}

// checkEntry compares what the table says of arguments and results with the signature.
func checkEntry(t *testing.T, f *types.Func, e entry) {
	t.Helper()
	sig := f.Signature()
	args := []types.Type{}
	if sig.Recv() != nil {
		args = append(args, sig.Recv().Type())
	}
	for v := range sig.Params().Variables() {
		args = append(args, v.Type())
	}
	for i := range e.handles {
		if i >= len(args) || !isHandle(args[i]) {
			t.Errorf("%s: argument %d is no handle", f.FullName(), i)
		}
	}
	if e.handles < len(args) && isHandle(args[e.handles]) {
		t.Errorf("%s: argument %d is a handle, too", f.FullName(), e.handles)
	}
	for i := range e.results {
		if i >= sig.Results().Len() || !isHandle(sig.Results().At(i).Type()) {
			t.Errorf("%s: result %d is no handle", f.FullName(), i)
		}
	}
	if e.does == lend || e.does == drain {
		if _, ok := args[e.callback].Underlying().(*types.Signature); !ok {
			t.Errorf("%s: argument %d is no function", f.FullName(), e.callback)
		}
	}
	if e.does == consume && f.Pkg().Scope().Lookup(f.Name()).Pos() == token.NoPos {
		t.Errorf("%s is nowhere", f.FullName())
	}
}

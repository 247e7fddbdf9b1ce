package mmapvet

import (
	"go/ast"
	"go/token"
	"go/types"

	"golang.org/x/tools/go/analysis"
)

// fixes returns how to repair what was found, where one way is right.
func (k *checker) fixes(f *finding) []analysis.SuggestedFix {
	switch {
	case f.deferAt.IsValid():
		return k.deferLater(f.deferAt)
	case f.copies:
		return k.copied(f.pos)
	}
	return nil
}

// path returns the nodes around a position, the innermost last.
func (k *checker) path(pos token.Pos) []ast.Node {
	var path []ast.Node
	for _, file := range k.pass.Files {
		if pos < file.FileStart || pos >= file.FileEnd {
			continue
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if n == nil || pos < n.Pos() || pos >= n.End() {
				return false
			}
			path = append(path, n)
			return true
		})
	}
	return path
}

// deferLater makes of defer m.Close() one that closes what m is by then.
func (k *checker) deferLater(pos token.Pos) []analysis.SuggestedFix {
	for _, n := range k.path(pos) {
		d, ok := n.(*ast.DeferStmt)
		if !ok {
			continue
		}
		if sel, ok := d.Call.Fun.(*ast.SelectorExpr); !ok || len(d.Call.Args) > 0 || sel.Sel.Name != "Close" {
			return nil
		}
		return []analysis.SuggestedFix{{
			Message: "Close the mapping that the variable holds at the end",
			TextEdits: []analysis.TextEdit{
				{Pos: d.Call.Pos(), End: d.Call.Pos(), NewText: []byte("func() { ")},
				{Pos: d.Call.End(), End: d.Call.End(), NewText: []byte(" }()")},
			},
		}}
	}
	return nil
}

// copied makes a copy of a []byte that is kept.
func (k *checker) copied(pos token.Pos) []analysis.SuggestedFix {
	path := k.path(pos)
	for i := len(path) - 1; i >= 0; i-- {
		switch n := path[i].(type) {
		case *ast.AssignStmt:
			if len(n.Lhs) != len(n.Rhs) || len(n.Rhs) != 1 {
				return nil
			}
			return k.copyOf(n.Rhs[0])
		case *ast.SendStmt:
			return k.copyOf(n.Value)
		case ast.Stmt:
			return nil
		}
	}
	return nil
}

func (k *checker) copyOf(e ast.Expr) []analysis.SuggestedFix {
	if call, ok := ast.Unparen(e).(*ast.CallExpr); ok && len(call.Args) == 2 && !call.Ellipsis.IsValid() {
		if id, ok := call.Fun.(*ast.Ident); ok && id.Name == "append" {
			e = call.Args[1]
		}
	}
	t, ok := types.Unalias(k.pass.TypesInfo.TypeOf(e)).(*types.Slice)
	if !ok {
		return nil
	}
	if b, ok := t.Elem().(*types.Basic); !ok || b.Kind() != types.Uint8 {
		return nil
	}
	return []analysis.SuggestedFix{{
		Message: "Keep a copy",
		TextEdits: []analysis.TextEdit{
			{Pos: e.Pos(), End: e.Pos(), NewText: []byte("append([]byte(nil), ")},
			{Pos: e.End(), End: e.End(), NewText: []byte("...)")},
		},
	}}
}

package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A mutant is one small change of one file.
type mutant struct {
	file       string // from the module's root
	line, col  int
	what       string // the kind of change
	start, end int    // the bytes that text takes the place of
	text       string
}

func (m mutant) String() string { return fmt.Sprintf("%s:%d:%d: %s", m.file, m.line, m.col, m.what) }

func (m mutant) apply(src []byte) []byte {
	return slices.Concat(src[:m.start], []byte(m.text), src[m.end:])
}

// diff shows the lines that the mutant changes.
func (m mutant) diff(src []byte) string {
	from := bytes.LastIndexByte(src[:m.start], '\n') + 1
	to := m.end + bytes.IndexByte(append(src[m.end:len(src):len(src)], '\n'), '\n')
	show := func(sign, s string) string {
		return "\t" + sign + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n\t"+sign) + "\n"
	}
	return show("-", string(src[from:to])) + show("+", string(src[from:m.start])+m.text+string(src[m.end:to]))
}

// others are what takes the place of an operator: its neighbours at the boundary,
// its opposite.
var others = map[token.Token][]token.Token{
	token.LSS: {token.LEQ, token.GEQ}, token.LEQ: {token.LSS, token.GTR}, token.GTR: {token.GEQ, token.LEQ}, token.GEQ: {token.GTR, token.LSS},
	token.EQL: {token.NEQ}, token.NEQ: {token.EQL}, token.LAND: {token.LOR}, token.LOR: {token.LAND},
	token.ADD: {token.SUB}, token.SUB: {token.ADD}, token.MUL: {token.QUO}, token.QUO: {token.MUL}, token.REM: {token.MUL},
	token.AND: {token.OR}, token.OR: {token.AND}, token.XOR: {token.AND}, token.AND_NOT: {token.AND}, token.SHL: {token.SHR}, token.SHR: {token.SHL},
	token.ADD_ASSIGN: {token.SUB_ASSIGN}, token.SUB_ASSIGN: {token.ADD_ASSIGN}, token.MUL_ASSIGN: {token.QUO_ASSIGN},
	token.OR_ASSIGN: {token.AND_ASSIGN}, token.AND_ASSIGN: {token.OR_ASSIGN}, token.AND_NOT_ASSIGN: {token.OR_ASSIGN},
	token.INC: {token.DEC}, token.DEC: {token.INC}, token.BREAK: {token.CONTINUE}, token.CONTINUE: {token.BREAK},
}

// sources returns the files of a directory that are compiled for this processor,
// without tests.
func sources(dir string) ([]string, error) {
	p, err := build.ImportDir(dir, 0)
	return p.GoFiles, err
}

// mutants returns every mutant of the packages in the directories, in order. Some
// do not compile: that is for the compiler to say.
func mutants(root string, dirs ...string) (all []mutant, err error) {
	for _, dir := range dirs {
		files, err := sources(filepath.Join(root, dir))
		if err != nil {
			return nil, err
		}
		for _, name := range files {
			file := filepath.Join(dir, name)
			src, err := os.ReadFile(filepath.Join(root, file))
			if err != nil {
				return nil, err
			}
			of, err := mutantsOf(file, src)
			if err != nil {
				return nil, err
			}
			all = append(all, of...)
		}
	}
	return all, nil
}

func mutantsOf(name string, src []byte) (all []mutant, err error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	at := func(p token.Pos) int { return fset.Position(p).Offset }
	text := func(n ast.Node) string { return string(src[at(n.Pos()):at(n.End())]) }
	replace := func(what string, start, end token.Pos, text string) {
		p := fset.Position(start)
		all = append(all, mutant{name, p.Line, p.Column, what, at(start), at(end), text})
	}
	operator := func(pos token.Pos, op token.Token) {
		for _, other := range others[op] {
			replace(fmt.Sprintf("%v for %v", other, op), pos, pos+token.Pos(len(op.String())), other.String())
		}
	}
	condition := func(e ast.Expr) {
		replace("never", e.Pos(), e.End(), "("+text(e)+") && false")
		replace("always", e.Pos(), e.End(), "("+text(e)+") || true")
	}
	ast.PreorderStack(file, nil, func(n ast.Node, stack []ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec, *ast.Field: // tags, and the lengths of arrays in types
			return false
		case *ast.BinaryExpr:
			operator(n.OpPos, n.Op)
		case *ast.UnaryExpr:
			if n.Op == token.NOT {
				replace("without !", n.Pos(), n.X.Pos(), "")
			}
		case *ast.IncDecStmt:
			operator(n.TokPos, n.Tok)
			replace("deleted", n.Pos(), n.End(), "")
		case *ast.AssignStmt:
			operator(n.TokPos, n.Tok)
			if n.Tok != token.DEFINE && statement(stack) {
				replace("deleted", n.Pos(), n.End(), "")
			}
		case *ast.ExprStmt, *ast.DeferStmt, *ast.GoStmt:
			replace("deleted", n.Pos(), n.End(), "")
		case *ast.BranchStmt:
			operator(n.TokPos, n.Tok)
		case *ast.IfStmt:
			condition(n.Cond)
		case *ast.CaseClause:
			replace("branch deleted", n.Pos(), n.End(), "")
			for _, e := range n.List {
				if _, tagged := stack[len(stack)-2].(*ast.SwitchStmt); tagged && stack[len(stack)-2].(*ast.SwitchStmt).Tag == nil {
					condition(e)
				}
			}
		case *ast.BasicLit:
			if n.Kind == token.INT && !besideError(n, stack, text) {
				replace("one more", n.Pos(), n.End(), "("+n.Value+" + 1)")
				replace("one less", n.Pos(), n.End(), "("+n.Value+" - 1)")
			}
		case *ast.Ident:
			if n.Name == "true" || n.Name == "false" {
				replace("flipped", n.Pos(), n.End(), map[string]string{"true": "false", "false": "true"}[n.Name])
			}
		case *ast.ReturnStmt:
			for i, kind := range results(stack) {
				if i >= len(n.Results) || len(n.Results) < len(results(stack)) {
					break // the results of a call, or named ones
				}
				e := n.Results[i]
				switch is := text(e); {
				case kind == "error" && is != "nil":
					replace("no error", e.Pos(), e.End(), "nil")
				case kind == "bool" && is != "true" && is != "false":
					replace("not", e.Pos(), e.End(), "!("+is+")")
				case (kind == "int" || kind == "uintptr" || kind == "int64" || kind == "uint64") && is != "0":
					replace("zero", e.Pos(), e.End(), "0")
				}
			}
		case *ast.CallExpr:
			switch f := text(n.Fun); {
			case f == "bad" || f == "named" || strings.HasPrefix(f, "fmt."):
				return true // the words of an error
			case f == "max" || f == "min":
				return true // the same in either order
			}
			for i := 1; i < len(n.Args); i++ {
				if a, b := text(n.Args[i-1]), text(n.Args[i]); a != b {
					replace("arguments swapped", n.Args[i-1].Pos(), n.Args[i].End(), b+", "+a)
				}
			}
		}
		return true
	})
	return all, nil
}

// besideError reports whether a node is a result that is returned together with an
// error, where nobody looks at it.
func besideError(n ast.Node, stack []ast.Node, text func(ast.Node) string) bool {
	ret, ok := stack[len(stack)-1].(*ast.ReturnStmt)
	kinds := results(stack)
	if !ok || len(ret.Results) < 2 || kinds[len(kinds)-1] != "error" || ret.Results[len(ret.Results)-1] == n {
		return false
	}
	failed := false // where it is certain that there is one
	if len(stack) > 2 {
		branch, _ := stack[len(stack)-3].(*ast.IfStmt)
		failed = branch != nil && stack[len(stack)-2] == branch.Body && text(branch.Cond) == "err != nil"
	}
	what := text(ret.Results[len(ret.Results)-1])
	return failed || strings.HasPrefix(what, "bad(") || strings.HasPrefix(what, "&failure{") || strings.HasPrefix(what, "unix.E")
}

// statement reports whether the innermost node of the stack is a list of
// statements, and not the head of one.
func statement(stack []ast.Node) bool {
	switch stack[len(stack)-1].(type) {
	case *ast.BlockStmt, *ast.CaseClause, *ast.CommClause:
		return true
	}
	return false
}

// results returns the types of what the innermost function returns.
func results(stack []ast.Node) (kinds []string) {
	for _, n := range slices.Backward(stack) {
		f, ok := n.(*ast.FuncLit)
		var typ *ast.FuncType
		if decl, is := n.(*ast.FuncDecl); is {
			typ = decl.Type
		} else if ok {
			typ = f.Type
		} else {
			continue
		}
		if typ.Results != nil {
			for _, field := range typ.Results.List {
				kind, _ := field.Type.(*ast.Ident)
				for range max(len(field.Names), 1) {
					if kind == nil {
						kinds = append(kinds, "")
					} else {
						kinds = append(kinds, kind.Name)
					}
				}
			}
		}
		return kinds
	}
	return nil
}

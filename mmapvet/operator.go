package mmapvet

import (
	"go/constant"
	"go/token"
	"go/types"

	"golang.org/x/tools/go/ssa"
)

func (w *walk) unary(st *state, in *ssa.UnOp) *term {
	x := w.value(st, in.X)
	switch in.Op {
	case token.MUL:
		w.touch(st, x, positionOf(in))
		w.unguarded(st, x, positionOf(in))
		return w.load(st, x, in.Type(), in)
	case token.NOT:
		return w.not(x)
	case token.ARROW:
		w.waits(st)
		v := w.contents(st, x, in)
		if in.CommaOk {
			return w.tuple([]*term{v, w.result(in, 1)})
		}
		return v
	}
	return w.anew(st, in, 0)
}

func (w *walk) binary(st *state, in *ssa.BinOp) *term {
	x, y := w.value(st, in.X), w.value(st, in.Y)
	switch in.Op {
	case token.EQL, token.NEQ, token.LSS, token.LEQ, token.GTR, token.GEQ:
		w.compared(st, x, y)
		v := w.compare(st, in.Op, x, y)
		if truth, known := w.holds(st, v); known && !w.decided(st, v) {
			return w.bool(truth)
		}
		return v
	}
	if b, ok := in.Type().Underlying().(*types.Basic); ok && b.Info()&types.IsString != 0 {
		w.touch(st, x, in.Pos())
		w.touch(st, y, in.Pos())
	}
	if _, counts := in.X.(*ssa.Phi); counts && in.Op == token.ADD {
		// The first step of a loop over something whose length is known. Its second is of a
		// number that is not, so this ends.
		if a, b := number(x), number(y); a != nil && b != nil && a.Kind() == constant.Int && b.Kind() == constant.Int {
			return w.exactly(constant.BinaryOp(a, token.ADD, b))
		}
	}
	v := w.make(term{op: opBinary, tok: in.Op, args: []*term{x, y}})
	if v.depth > 3 || v.op == opUnknown {
		return w.anew(st, in, 0)
	}
	return v
}

func (w *walk) convert(st *state, in ssa.Value, from ssa.Value) *term {
	x := w.value(st, from)
	a, b := from.Type().Underlying(), in.Type().Underlying()
	_, fromSlice := a.(*types.Slice)
	_, toSlice := b.(*types.Slice)
	if fromSlice != toSlice { // a copy
		w.touch(st, x, in.Pos())
		w.unguarded(st, x, in.Pos())
		return w.anew(st, in, 0)
	}
	return x
}

func fieldOf(t types.Type, n int) *types.Var {
	if p, ok := t.Underlying().(*types.Pointer); ok {
		t = p.Elem()
	}
	if s, ok := t.Underlying().(*types.Struct); ok {
		return s.Field(n)
	}
	if p, ok := types.Unalias(t).(*types.TypeParam); ok {
		if s, ok := typeParamCore(p).(*types.Struct); ok {
			return s.Field(n)
		}
	}
	return nil
}

package mmapvet

import (
	"go/constant"
	"go/token"

	"golang.org/x/tools/go/ssa"
)

// normal writes a comparison with == and < only. negated says that it is the opposite.
func normal[T any](op token.Token, x, y T) (token.Token, T, T, bool) {
	switch op {
	case token.NEQ:
		return token.EQL, x, y, true
	case token.GEQ:
		return token.LSS, x, y, true
	case token.GTR:
		return token.LSS, y, x, false
	case token.LEQ:
		return token.LSS, y, x, true
	}
	return op, x, y, false
}

// compare returns the condition that a comparison is.
func (w *walk) compare(st *state, op token.Token, x, y *term) *term {
	op, x, y, negated := normal(op, x, y)
	if op == token.EQL && x.op == opZero && y.op != opZero {
		x, y = y, x
	}
	var v *term
	switch a, b := number(x), number(y); {
	case op == token.EQL && x != y && tracked(x) && tracked(y) &&
		(st.handles.get(x).was == y || st.handles.get(y).was == x):
		v = w.bool(false) // a handle and its successor
	case a != nil && b != nil && a.Kind() == b.Kind():
		v = w.bool(constant.Compare(a, op, b))
	case op == token.EQL && y.op == opZero:
		v = w.isNil(x)
	case op == token.EQL && isBool(y):
		v = x
		if truth, _ := y.truth(); !truth {
			v = w.not(x)
		}
	default:
		v = w.make(term{op: opBinary, tok: op, args: []*term{w.plain(x), w.plain(y)}})
	}
	if negated {
		return w.not(v)
	}
	return v
}

// plain is what a condition calls a value: the same after something unknown has happened.
func (w *walk) plain(v *term) *term {
	if v.op == opScalar {
		v = v.args[0]
	}
	if v.op == opLoad && v.site != nil {
		return w.make(term{op: opLoad, args: v.args})
	}
	return v
}

func isBool(v *term) bool { _, ok := v.truth(); return ok }

func number(v *term) constant.Value {
	k, ok := v.site.(constantKey)
	if v.op != opConst || !ok {
		return nil
	}
	switch k.kind {
	case constant.Bool:
		return constant.MakeBool(k.text == "true")
	case constant.String:
		return constant.MakeFromLiteral(k.text, token.STRING, 0)
	case constant.Int:
		return constant.MakeFromLiteral(k.text, token.INT, 0)
	}
	return nil
}

func (w *walk) not(v *term) *term {
	if v.op == opNot {
		return v.args[0]
	}
	if truth, ok := v.truth(); ok {
		return w.bool(!truth)
	}
	return w.make(term{op: opNot, args: []*term{v}})
}

// holds returns what is known of a condition.
func (w *walk) holds(st *state, v *term) (truth, known bool) {
	if truth, known = v.truth(); known {
		return truth, true
	}
	if f, ok := st.facts.lookup(v); ok {
		return f.truth, true
	}
	switch {
	case v.op == opNot:
		truth, known = w.holds(st, v.args[0])
		return !truth, known
	case v.op == opBinary && v.tok == token.EQL && v.args[1].op == opZero:
		return w.nilness(v.args[0])
	case v.op == opBinary && v.tok == token.EQL && v.args[1].op == opConst:
		// It equals one constant only.
		for other, f := range st.facts.all() {
			if f.truth && other.op == opBinary && other.tok == token.EQL && other.args[0] == v.args[0] &&
				other.args[1].op == opConst && other.args[1] != v.args[1] {
				return false, true
			}
		}
	}
	return false, false
}

func (w *walk) nilness(v *term) (isNil, known bool) {
	switch v.op {
	case opZero:
		return true, true
	case opAlloc, opFunc, opField, opGlobal, opIface, opConst, opFree:
		return false, true
	}
	return false, false
}

// assume adds a condition to what is known. It is false if that contradicts.
func (w *walk) assume(st *state, v *term, truth bool, by ssa.Instruction) bool {
	if known, ok := w.holds(st, v); ok {
		return known == truth
	}
	switch v.op {
	case opUnknown:
		return true
	case opNot:
		return w.assume(st, v.args[0], !truth, by)
	case opCall:
		if v.site == "errors.Is" && truth && !w.assume(st, w.isNil(v.args[0]), false, by) {
			return false
		}
	}
	st.facts.set(v, fact{truth, by})
	return true
}

// isError reports whether v is surely an error, or surely none.
func (w *walk) isError(st *state, v *term) (is, known bool) {
	isNil, known := w.holds(st, w.isNil(v))
	return !isNil, known
}

// decided reports whether a condition holds only because the path has come by it: a loop can
// ask it again.
func (w *walk) decided(st *state, v *term) bool {
	if v.op == opNot {
		v = v.args[0]
	}
	f, ok := st.facts.lookup(v)
	if !ok {
		return false
	}
	_, branch := f.by.(*ssa.If)
	return branch
}

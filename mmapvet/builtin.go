package mmapvet

import (
	"go/types"

	"golang.org/x/tools/go/ssa"
)

func (w *walk) builtin(st *state, c *site, b *ssa.Builtin) *term {
	switch b.Name() {
	case "append":
		return w.appended(st, c)
	case "copy":
		w.touchDeep(st, c.args[0], c.pos)
		w.touchDeep(st, c.args[1], c.pos)
		w.unguardedDeep(st, c.args[0], c.pos)
		w.unguardedDeep(st, c.args[1], c.pos)
		t, ok := c.argType(1).Underlying().(*types.Slice)
		if ok && hasPointers(t.Elem()) && len(w.loansOf(st, c.args[1])) > 0 {
			st.ran.add(w.siteNumber(c.key))
			at := w.index(c.args[0], w.result(c.key, 1))
			w.store(st, at, w.part(c.args[1]), c.pos, t.Elem(), c.instr)
		}
	case "len", "cap":
		if n, ok := arrayLength(c.args[0]); ok {
			return w.int(n)
		}
		return w.make(term{op: opCall, site: b.Name(), args: []*term{w.plain(c.args[0])}})
	case "delete", "clear":
		w.touchDeep(st, c.args[0], c.pos)
		w.unguardedDeep(st, c.args[0], c.pos)
		st.mem.keep(func(a *term, _ cell) bool { return a.op != opIndex || a.args[0] != c.args[0] })
	case "String", "StringData", "Slice", "SliceData", "Add":
		if len(c.args[0].loans) > 0 {
			return w.part(c.args[0])
		}
	case "min", "max":
		return w.anew(st, c.key, 0)
	case "close":
		w.waits(st)
	}
	return w.anew(st, c.key, 0)
}

// appended is the result of append: with bytes a copy of them, with slices and the like the
// very same memory.
func (w *walk) appended(st *state, c *site) *term {
	to := c.args[0]
	w.touchDeep(st, c.args[1], c.pos)
	w.unguardedDeep(st, c.args[1], c.pos)
	var elem types.Type = types.Typ[types.Byte]
	if t, ok := c.common.Args[0].Type().Underlying().(*types.Slice); ok {
		elem = t.Elem()
	}
	if !hasPointers(elem) {
		if len(to.loans) > 0 {
			return w.part(to)
		}
		return w.anew(st, c.key, 0)
	}
	var leads []*term
	leads = append(leads, to.loans...)
	for _, l := range append(w.loansOf(st, c.args[1]), w.loansOf(st, to)...) {
		leads = union(leads, []*term{l})
	}
	w.giveAway(st, c.args[1])
	if len(leads) == 0 {
		return w.anew(st, c.key, 0)
	}
	return w.part(w.make(term{op: opStruct, args: leads}))
}

// arrayLength returns the length of a slice that is all of an array made here.
func arrayLength(v *term) (int, bool) {
	a, ok := v.site.(*ssa.Alloc)
	if !ok || v.op != opAlloc {
		return 0, false
	}
	p, ok := a.Type().Underlying().(*types.Pointer)
	if !ok {
		return 0, false
	}
	t, ok := p.Elem().Underlying().(*types.Array)
	if !ok {
		return 0, false
	}
	return int(t.Len()), true
}

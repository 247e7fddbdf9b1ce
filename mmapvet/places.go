package mmapvet

import (
	"go/token"
	"go/types"

	"golang.org/x/tools/go/ssa"
)

// fieldAt returns the address of a field. It knows the field's name, by which functions
// elsewhere say what they write.
func (w *walk) fieldAt(x *term, n int, f *types.Var) *term {
	v := term{op: opField, n: n, args: []*term{x}}
	if f != nil {
		v.site = f.Origin()
	}
	return w.make(v)
}

// fieldIn returns a field of a struct that is a value.
func (w *walk) fieldIn(x *term, n int, t types.Type) *term {
	switch x.op {
	case opStruct:
		if n < len(x.args) {
			return x.args[n]
		}
	case opZero:
		return w.zeroOf(t)
	case opPart, opLent:
		return x
	}
	return w.make(term{op: opFieldOf, n: n, args: []*term{x}})
}

// private reports whether an address is in a variable that only this path knows.
func (st *state) private(addr *term) bool {
	b := addr.base()
	return b.op == opAlloc && !st.shared.get(b)
}

// lookup returns what is known of what lies at an address, nil if nothing is.
func (w *walk) lookup(st *state, addr *term, t types.Type) *term {
	if c, ok := st.mem.lookup(addr); ok {
		return c.v
	}
	if addr.op != opField {
		return nil
	}
	if outer := w.lookup(st, addr.args[0], nil); outer != nil && t != nil {
		return w.fieldIn(outer, addr.n, t)
	} else if outer != nil && outer.op == opZero {
		return outer
	}
	return nil
}

// load returns what lies at an address.
func (w *walk) load(st *state, addr *term, t types.Type, site ssa.Instruction) *term {
	if addr.op == opUnknown {
		return w.anew(st, site, 0)
	}
	if s, ok := t.Underlying().(*types.Struct); ok && !isHandle(t) && w.divided(st, addr) && s.NumFields() <= 16 {
		fields := make([]*term, s.NumFields())
		for i := range fields {
			fields[i] = w.load(st, w.fieldAt(addr, i, s.Field(i)), s.Field(i).Type(), site)
		}
		return w.make(term{op: opStruct, args: fields})
	}
	if v := w.lookup(st, addr, t); v != nil {
		return w.typed(v, t)
	}
	w.anyElement(st, addr)
	if len(addr.loans) > 0 {
		if _, param := w.params[addr.base()]; !param {
			return w.part(addr)
		}
	}
	if st.private(addr) && !w.scattered(st, addr) {
		return w.zeroOf(t)
	}
	v := term{op: opLoad, args: []*term{addr}}
	if hasPointers(t) {
		st.rerun(w.terms, site)
		v.site = site
	}
	made := w.typed(w.make(v), t)
	if made.op != opUnknown {
		st.mem.set(addr, cell{v: made})
	}
	return made
}

// anyElement gives away what a slice holds of which an element is loaded that is not known:
// from then on any of them has another name.
func (w *walk) anyElement(st *state, addr *term) {
	for ; addr.op == opField || addr.op == opIndex; addr = addr.args[0] {
		if addr.op != opIndex || addr.args[1].op == opConst {
			continue
		}
		for a, c := range st.mem.all() {
			if a.op == opIndex && a.args[0] == addr.args[0] && len(c.v.loans) == 0 {
				w.giveAway(st, c.v)
			}
		}
	}
}

// divided reports whether more is known of parts of what lies at an address.
func (w *walk) divided(st *state, addr *term) bool {
	for a := range st.mem.all() {
		if a.op == opField && a.args[0] == addr {
			return true
		}
	}
	return false
}

// scattered reports whether an address is an element of something of which other elements
// were stored, so that it can be one of those.
func (w *walk) scattered(st *state, addr *term) bool {
	for ; addr.op == opField || addr.op == opIndex; addr = addr.args[0] {
		if addr.op != opIndex {
			continue
		}
		for a := range st.mem.all() {
			if a.op == opIndex && a.args[0] == addr.args[0] && (a.args[1].op != opConst || addr.args[1].op != opConst) {
				return true
			}
		}
		if made, ok := addr.args[0].site.(*ssa.Alloc); !ok || made == nil {
			return true // a slice or a map, which can have come by elements otherwise
		}
	}
	return false
}

// store puts a value at an address.
func (w *walk) store(st *state, addr, v *term, pos token.Pos, t types.Type, by ssa.Instruction) {
	w.touch(st, addr, pos)
	w.unguarded(st, addr, pos)
	if addr.op == opUnknown {
		w.giveAway(st, v)
		return
	}
	v = w.typed(v, t)
	if v.op == opBinary && v.grows(st.mem.get(addr).v) {
		v = w.anew(st, by, 0) // a counter
	}
	st.mem.keep(func(a *term, _ cell) bool { return a == addr || !a.within(addr) && !w.mayBe(st, a, addr) })
	if !st.private(addr) || addr.op == opIndex && addr.args[1].op != opConst {
		w.touchDeep(st, v, pos)
		w.giveAway(st, v)
	}
	st.mem.set(addr, cell{v, pos})
}

// mayBe reports whether two addresses that read differently can be the same.
func (w *walk) mayBe(st *state, a, b *term) bool {
	if a.op != b.op || (a.op != opField && a.op != opIndex) {
		return false
	}
	if a.op == opIndex {
		if a.n != b.n {
			return false
		}
		return a.args[0] == b.args[0] && (a.args[1].op != opConst || b.args[1].op != opConst) &&
			len(a.args[0].loans) == 0 && !mapPlace(a)
	}
	return a.n == b.n && a.site == b.site && a.base() != b.base() && !st.private(a) && !st.private(b)
}

// mapPlace reports whether an address is that of an element of a map, which has a name by
// the instruction that stored it.
func mapPlace(a *term) bool { _, ok := a.args[1].site.(*ssa.MapUpdate); return ok }

// havoc forgets what others can have changed.
func (w *walk) havoc(st *state) {
	st.mem.keep(func(a *term, _ cell) bool { return st.private(a) })
}

// waits is a point at which other goroutines can have done something.
func (w *walk) waits(st *state) {
	w.havoc(st)
	st.pending = nil
}

// giveAway notes that somebody else has a value, too, and all that it leads to.
func (w *walk) giveAway(st *state, v *term) {
	w.search++
	w.give(st, v)
}

func (w *walk) give(st *state, v *term) {
	if v == nil || v.seen == w.search {
		return
	}
	v.seen = w.search
	if h, ok := st.handles.lookup(v); ok {
		h.owned, h.kept = false, true
		st.handles.set(v, h)
		return
	}
	if p, ok := st.pins.lookup(v); ok {
		p.owned = false
		st.pins.set(v, p)
		return
	}
	switch v.op {
	case opStruct, opFunc, opIface, opPart:
		for _, a := range v.args {
			w.give(st, a)
		}
	case opField, opIndex:
		w.give(st, v.base())
	case opLent:
		if w.isParam(v) {
			st.shared.set(v, true)
		}
	case opAlloc, opResult:
		if v.op == opAlloc {
			st.shared.set(v, true)
		}
		for a, c := range st.mem.all() {
			if a.base() == v {
				w.give(st, c.v)
			}
		}
	}
}

// loansOf returns the memory that a value leads to, also through variables.
func (w *walk) loansOf(st *state, v *term) []*term {
	if len(st.loans.rows) == 0 && (v == nil || len(v.loans) == 0) {
		return nil // there is no memory at all
	}
	w.search++
	return w.loansIn(st, v, nil)
}

func (w *walk) loansIn(st *state, v *term, found []*term) []*term {
	if v == nil || v.seen == w.search {
		return found
	}
	v.seen = w.search
	found = union(found, v.loans)
	switch v.op {
	case opStruct, opFunc, opIface, opPart:
		for _, a := range v.args {
			found = w.loansIn(st, a, found)
		}
	case opField, opIndex:
		found = w.loansIn(st, v.base(), found)
	case opAlloc, opResult:
		for a, c := range st.mem.all() {
			if a.base() == v {
				found = w.loansIn(st, c.v, found)
			}
		}
	}
	return found
}

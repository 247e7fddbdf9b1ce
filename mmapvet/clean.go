package mmapvet

import (
	"golang.org/x/tools/go/ssa"
)

// clean drops what nothing can reach any more, so that paths meet again.
func (w *walk) clean(f *frame, s step) {
	live := f.layout.live[s.block.Index]
	for r := range s.st.regs {
		if r.Parent() == f.fn && !live[r] {
			if phi, ok := r.(*ssa.Phi); ok && phi.Block() == s.block {
				continue
			}
			delete(s.st.regs, r)
		}
	}
	w.sweep(s.st)
}

// forget drops the registers of a function that has returned.
func (w *walk) forget(f *frame, st *state) {
	for r := range st.regs {
		if r.Parent() == f.fn {
			delete(st.regs, r)
		}
	}
}

func (w *walk) sweep(st *state) {
	reached := map[*term]bool{}
	var mark func(v *term)
	mark = func(v *term) {
		if v == nil || reached[v] {
			return
		}
		reached[v] = true
		for _, a := range v.args {
			mark(a)
		}
	}
	for _, v := range st.regs {
		mark(v)
	}
	for _, d := range st.defers {
		mark(d.fn)
		for _, a := range d.args {
			mark(a)
		}
	}
	for _, v := range st.views {
		mark(v)
	}
	for _, p := range st.pending {
		mark(p.v)
	}
	for v, h := range st.handles {
		if h.owned {
			mark(v)
		}
	}
	for v, p := range st.pins {
		if p.owned && !p.ended {
			mark(v)
			mark(p.of)
		}
	}
	for v, l := range st.loans {
		if l.by == byView && !l.ended {
			mark(v)
		}
	}
	for again := true; again; {
		again = false
		for a, c := range st.mem {
			if reached[c.v] && reached[a] {
				continue
			}
			b := a.base()
			if reached[b] || b.op == opGlobal || w.outlives(st, b, c.v) || b.op == opFree || b.op == opLent && w.isParam(b) {
				if plain := isLoadOf(c.v, a) && !reached[c.v]; plain && w.dull(st, c.v) {
					continue // it would be loaded again as the same
				}
				mark(a)
				mark(c.v)
				again = true
			}
		}
		for v := range reached {
			if l, ok := st.loans[v]; ok && l.of != nil && !reached[l.of] {
				mark(l.of)
				again = true
			}
			if p, ok := st.pins[v]; ok && !reached[p.of] {
				mark(p.of)
				again = true
			}
			if h, ok := st.handles[v]; ok && h.was != nil && !reached[h.was] {
				mark(h.was)
				again = true
			}
		}
	}
	for a := range st.mem {
		if !reached[a] || !reached[st.mem[a].v] {
			delete(st.mem, a)
		}
	}
	for v := range st.handles {
		if !reached[v] && v.op != opParam {
			delete(st.handles, v)
		}
	}
	for v := range st.pins {
		if !reached[v] && !w.isParam(v) {
			delete(st.pins, v)
		}
	}
	for v := range st.loans {
		if !reached[v] && !w.isParam(v) {
			delete(st.loans, v)
		}
	}
	for v := range st.shared {
		if !reached[v] && !w.isParam(v) {
			delete(st.shared, v)
		}
	}
	for v, f := range st.facts {
		if !w.matters(v, f, reached) {
			delete(st.facts, v)
		}
	}
}

// dull reports whether nothing is known of a value.
func (w *walk) dull(st *state, v *term) bool {
	if h, ok := st.handles[v]; ok && (h != mapping{}) {
		return false
	}
	_, pinned := st.pins[v]
	return !pinned
}

// matters reports whether a fact can still decide a branch.
func (w *walk) matters(v *term, f fact, reached map[*term]bool) bool {
	switch {
	case v.op == opBinary && v.args[1].op == opZero:
		if reached[v.args[0]] || w.isParam(v.args[0]) && isErrorType(v.args[0].site.(*ssa.Parameter).Type()) {
			return true
		}
	case v.op != opBinary && v.op != opCall:
		if reached[v] {
			return true
		}
	}
	for _, r := range v.roots {
		if !reached[r] {
			return false
		}
	}
	i, ok := f.by.(*ssa.If)
	return ok && w.twice[reads(i.Cond, 0)] > 1
}

func (w *walk) isParam(v *term) bool { _, ok := v.site.(*ssa.Parameter); return ok }

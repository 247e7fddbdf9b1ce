package mmapvet

import (
	"golang.org/x/tools/go/ssa"
)

// clean drops what nothing can reach any more, so that paths meet again.
func (w *walk) clean(f *frame, s step) {
	live := f.layout.live[s.block.Index]
	s.st.regs.drop(f.fn, func(index int) bool { return live.has(index) || f.layout.phiOf(index) == s.block })
	w.sweep(s.st)
}

// forget drops the registers of a function that has returned.
func (w *walk) forget(f *frame, st *state) {
	st.regs.drop(f.fn, func(int) bool { return false })
}

// reach marks a term and its parts as reachable.
func (w *walk) reach(v *term) {
	if v == nil || v.reached == w.reachable {
		return
	}
	v.reached = w.reachable
	for _, a := range v.args {
		w.reach(a)
	}
}

func (w *walk) isReached(v *term) bool { return v.reached == w.reachable }

// sweep drops what is known of things that nothing can reach.
func (w *walk) sweep(st *state) {
	w.reachable++
	w.reachRoots(st)
	for w.reachMore(st) {
	}
	st.mem.keep(func(a *term, c cell) bool { return w.isReached(a) && w.isReached(c.v) })
	st.handles.keep(func(v *term, _ mapping) bool { return w.isReached(v) || v.op == opParam })
	st.pins.keep(func(v *term, _ pin) bool { return w.isReached(v) || w.isParam(v) })
	st.loans.keep(func(v *term, _ loan) bool { return w.isReached(v) || w.isParam(v) })
	st.shared.keep(func(v *term, _ bool) bool { return w.isReached(v) || w.isParam(v) })
	st.facts.keep(w.matters)
}

func (w *walk) reachRoots(st *state) {
	for _, r := range st.regs.rows {
		w.reach(r.value)
	}
	for _, d := range st.defers {
		w.reach(d.fn)
		for _, a := range d.args {
			w.reach(a)
		}
	}
	for _, v := range st.views {
		w.reach(v)
	}
	for _, p := range st.pending {
		w.reach(p.v)
	}
	for _, r := range st.handles.rows {
		if r.value.owned {
			w.reach(r.key)
		}
	}
	for _, r := range st.pins.rows {
		if r.value.owned && !r.value.ended {
			w.reach(r.key)
			w.reach(r.value.of)
		}
	}
	for _, r := range st.loans.rows {
		if r.value.by == byView && !r.value.ended {
			w.reach(r.key)
		}
	}
}

// reachMore marks what is reachable from what is marked, and reports whether there was any.
func (w *walk) reachMore(st *state) (more bool) {
	for _, r := range st.mem.rows {
		a, v := r.key, r.value.v
		if w.isReached(v) && w.isReached(a) {
			continue
		}
		b := a.base()
		if w.isReached(b) || b.op == opGlobal || w.outlives(st, b, v) || b.op == opFree || b.op == opLent && w.isParam(b) {
			if isLoadOf(v, a) && !w.isReached(v) && w.dull(st, v) {
				continue // it would be loaded again as the same
			}
			w.reach(a)
			w.reach(v)
			more = true
		}
	}
	with := func(v, other *term) {
		if w.isReached(v) && other != nil && !w.isReached(other) {
			w.reach(other)
			more = true
		}
	}
	for _, r := range st.loans.rows {
		with(r.key, r.value.of)
	}
	for _, r := range st.pins.rows {
		with(r.key, r.value.of)
	}
	for _, r := range st.handles.rows {
		with(r.key, r.value.was)
	}
	return more
}

// dull reports whether nothing is known of a value.
func (w *walk) dull(st *state, v *term) bool {
	return st.handles.get(v) == mapping{} && !st.pins.has(v)
}

// matters reports whether a fact can still decide a branch.
func (w *walk) matters(v *term, f fact) bool {
	switch {
	case v.site == presumed:
		return true
	case v.op == opBinary && v.args[1].op == opZero:
		if w.isReached(v.args[0]) || w.isParam(v.args[0]) && isErrorType(v.args[0].site.(*ssa.Parameter).Type()) {
			return true
		}
	case v.op != opBinary && v.op != opCall:
		if w.isReached(v) {
			return true
		}
	}
	for _, r := range v.roots {
		if !w.isReached(r) {
			return false
		}
	}
	i, ok := f.by.(*ssa.If)
	return ok && w.twice[reads(i.Cond, 0)] > 1
}

func (w *walk) isParam(v *term) bool { _, ok := v.site.(*ssa.Parameter); return ok }

package mmapvet

import (
	"go/token"
	"go/types"

	"golang.org/x/tools/go/ssa"
)

// lends is a view: it calls its callback with the memory, which is valid until the callback
// returns.
func (w *walk) lends(st *state, c *site, e entry, name string) []outcome {
	if w.misused(st, c, name) {
		w.skipped(c.args[e.callback])
		return w.fails(st, c, nil)
	}
	at := lentAt{c.key}
	st.rerun(w.terms, at)
	h, f := w.older(c.args[0], at), w.older(c.args[e.callback], at)
	m := w.make(term{op: opLent, site: at})
	if w.noteLender(f, 0, -1) {
		w.giveAway(st, f)
	}
	return w.calls(st, c, f, []*term{m}, func(st *state, begin bool) {
		if begin {
			st.loans.set(m, loan{by: byView, of: h, at: c.pos})
			st.views = append(st.views, h)
		} else {
			st.views = st.views[: len(st.views)-1 : len(st.views)-1]
		}
	})
}

// lentAt names the memory that a call lends.
type lentAt struct{ call any }

// skipped notes that a literal is not reached on this path.
func (w *walk) skipped(f *term) {
	if fn, ok := f.site.(*ssa.Function); ok && f.op == opFunc {
		w.inlined[fn] = true
	}
}

// calls runs a callback, and with around what holds as long as it runs.
func (w *walk) calls(st *state, c *site, f *term, args []*term, around func(*state, bool)) []outcome {
	around(st, true)
	before := st.mem.clone()
	var ends []outcome
	if f.op == opFunc {
		ends = w.invoke(st, c, f, args)
	} else {
		w.havoc(st)
		ends = []outcome{{st, w.unknownResults(st, c)}}
	}
	var all []outcome
	for _, o := range ends {
		if len(args) > 0 {
			w.loanEnds(o.st, c, f, args[0], o.result)
		}
		around(o.st, false)
		isError, known := w.isError(o.st, o.result)
		if c.used(0) && (!known || !isError) {
			// A fault has ended the callback before it was through.
			all = append(all, w.faulted(o.st.clone(), c, before))
		}
		all = append(all, o)
	}
	return all
}

// faulted is how a callback ends by a fault: what it has set is unknown.
func (w *walk) faulted(st *state, c *site, before dict[cell]) outcome {
	for a, now := range st.mem.each() {
		if then, ok := before.lookup(a); !ok || then != now {
			w.giveAway(st, now.v)
			st.ran.add(w.siteNumber(c.key))
			st.mem.set(a, cell{w.make(term{op: opResult, site: c.key, n: 1000 + a.id}), now.pos})
		}
	}
	return outcome{st, w.failure(st, c, nil)}
}

// invoke calls a function value.
func (w *walk) invoke(st *state, c *site, f *term, args []*term) []outcome {
	fn := f.site.(*ssa.Function)
	if fn.Parent() != nil && len(fn.Blocks) > 0 && objectOf(fn) == nil {
		return w.callLiteral(st, c, f, args)
	}
	if len(f.args) > 0 {
		args = append([]*term{f.args[0]}, args...)
	}
	obj := objectOf(fn)
	if obj == nil {
		return []outcome{{st, w.unknownResults(st, c)}}
	}
	if s := w.summaryOf(obj, c); s != nil {
		inner := *c
		inner.args, inner.fn, inner.callback, inner.key = args, f, obj, calledBack{c.instr, obj}
		return w.apply(st, &inner, s, obj)
	}
	w.havoc(st)
	return []outcome{{st, w.unknownResults(st, c)}}
}

// loanEnds looks for what still leads to the memory when a callback has returned.
func (w *walk) loanEnds(st *state, c *site, f, m, result *term) {
	for a, cl := range st.mem.all() {
		if !w.leadsTo(st, cl.v, m) {
			continue
		}
		b := a.base()
		switch {
		case b == m || b.op == opAlloc && within(b, f):
			// The memory itself, or a variable of the callback.
		case b.op == opAlloc && st.private(a):
			if at, ok := w.keptAt[m]; !ok || cl.pos < at || !at.IsValid() {
				w.keptAt[m] = cl.pos
			}
		case b.op == opAlloc || b.op == opResult:
			// Somebody else has it, too, or nobody: whether it is read is not known.
		default:
			w.escapes(st, cl.pos, "is stored where it outlives the callback")
		}
	}
	if w.leadsTo(st, result, m) {
		at := w.returnAt[result]
		if !at.IsValid() {
			at = c.pos
		}
		w.escapes(st, at, "leaves the callback in its result")
	}
	for _, p := range st.pending {
		if w.leadsTo(st, p.v, m) {
			w.escapes(st, p.pos, "outlives the callback: "+p.how)
		}
	}
	l := st.loans.get(m)
	l.ended, l.end = true, c.pos
	st.loans.set(m, l)
}

func (w *walk) leadsTo(st *state, v, m *term) bool {
	for _, l := range w.loansOf(st, v) {
		if l == m {
			return true
		}
	}
	return false
}

func (w *walk) escapes(st *state, pos token.Pos, how string) {
	w.find(st, &finding{
		category: escape, pos: pos, copies: true,
		message: "the memory of a view " + how + ": touching it later is a fault, or reads another mapping",
	})
}

// within reports whether a variable is one of a function literal, or of one in there.
func within(variable, f *term) bool {
	v, ok := variable.site.(ssa.Value)
	lit, isLiteral := f.site.(*ssa.Function)
	if !ok || !isLiteral || f.op != opFunc {
		return false
	}
	for fn := v.Parent(); fn != nil; fn = fn.Parent() {
		if fn == lit {
			return true
		}
	}
	return false
}

// calledBack names the results of a callback, which are not those of the call that calls it.
type calledBack struct {
	by ssa.CallInstruction
	fn *types.Func
}

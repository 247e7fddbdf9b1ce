package mmapvet

import (
	"go/types"
	"strings"

	"golang.org/x/tools/go/ssa"
)

// lenderCalled runs the callback of a function that calls it with memory.
func (w *walk) lenderCalled(st *state, c *site, s *Summary, l Lend) []outcome {
	st.rerun(w.terms, lentAt{c.key})
	f := w.older(c.args[l.Param], lentAt{c.key})
	for i, a := range c.args {
		if i != l.Param {
			w.giveAway(st, w.older(a, lentAt{c.key}))
		}
	}
	w.noteLender(f, l.Arg, l.Field)
	w.wrote(st, s.Writes)
	return w.lentCallback(st, c, f, l)
}

func (w *walk) lentCallback(st *state, c *site, f *term, l Lend) []outcome {
	m := w.make(term{op: opLent, site: lentAt{c.key}})
	args := []*term{m}
	for len(args) <= l.Arg {
		args = append([]*term{w.none}, args...)
	}
	if l.Field >= 0 {
		args[l.Arg] = w.make(term{op: opResult, site: lentAt{c.key}})
	}
	all := []outcome{}
	st.loans.set(m, loan{by: byView, of: w.none, at: c.pos})
	if l.Field >= 0 {
		st.mem.set(w.fieldFor(f, l)(args[l.Arg]), cell{m, c.pos})
	}
	before := st.mem.clone()
	if f.op != opFunc {
		return []outcome{{st, w.unknownResults(st, c)}}
	}
	st.views = append(st.views, w.none)
	ends := w.invoke(st, c, f, args)
	yields := strings.HasPrefix(f.site.(*ssa.Function).Synthetic, "range-over-func")
	for _, o := range ends {
		result := o.result
		if yields {
			result = w.zero
		}
		w.loanEnds(o.st, c, f, m, result)
		o.st.views = o.st.views[: len(o.st.views)-1 : len(o.st.views)-1]
		sig := c.common.Signature()
		switch at := errorAt(sig); {
		case sig.Results().Len() == 0:
			all = append(all, outcome{o.st, w.zero})
		case at == 0:
			if isError, known := w.isError(o.st, result); !known || !isError {
				all = append(all, w.faulted(o.st.clone(), c, before))
			}
			all = append(all, outcome{o.st, result})
		default:
			all = append(all, outcome{o.st, w.unknownResults(o.st, c)})
		}
	}
	return all
}

// fieldFor returns how to address the field of a callback's argument that leads to memory.
func (w *walk) fieldFor(f *term, l Lend) func(*term) *term {
	var field *types.Var
	if fn, ok := f.site.(*ssa.Function); ok && f.op == opFunc && l.Arg < fn.Signature.Params().Len() {
		field = fieldOf(fn.Signature.Params().At(l.Arg).Type(), l.Field)
	}
	return func(of *term) *term { return w.fieldAt(of, l.Field, field) }
}

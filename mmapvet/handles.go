package mmapvet

import (
	"fmt"
	"go/token"
	"go/types"

	"golang.org/x/tools/go/ssa"
)

// tracked reports whether a handle has an identity.
func tracked(v *term) bool { return v.op != opUnknown && v.op != opZero && v.op != opConst }

// library runs a call of a function of the library.
func (w *walk) library(st *state, c *site, e entry, name string) []outcome {
	w.names[c.pos] = name
	for i := range c.args {
		if i < e.handles && e.does != closing {
			w.use(st, c.args[i])
		}
	}
	switch e.does {
	case create:
		return w.makes(st, c, e, name, nil)
	case consume:
		return w.consumes(st, c, e, name)
	case release:
		return w.releases(st, c, name)
	case closing:
		return w.closes(st, c)
	case sealing:
		return w.seals(st, c)
	case pinning:
		return w.pinned(st, c)
	case unpin:
		return w.unpins(st, c)
	case pinBytes:
		return w.bytesOf(st, c)
	case unsafeMem:
		return w.unsafely(st, c)
	case same:
		return []outcome{{st, c.args[0]}}
	case derive:
		v := w.unknownResults(st, c)
		if len(c.args[0].loans) > 0 {
			v = w.tuple([]*term{w.part(c.args[0]), v.args[1]})
		}
		return []outcome{{st, v}}
	case lend:
		return w.lends(st, c, e, name)
	case guard:
		w.inGuard++
		defer func() { w.inGuard-- }()
		return w.calls(st, c, c.args[0], nil, func(st *state, begin bool) { st.guards += sign(begin) })
	case drain:
		if w.misused(st, c, name) {
			return w.fails(st, c, nil)
		}
		return w.calls(st, c, c.args[e.callback], nil, func(st *state, begin bool) { st.drains += sign(begin) })
	case asking:
		w.asked(st, c, name)
	case access, change:
		if w.misused(st, c, name) {
			return w.fails(st, c, nil)
		}
		if e.does == change && w.isBusy(st, c, name) {
			return w.fails(st, c, nil)
		}
	}
	return []outcome{{st, w.unknownResults(st, c)}}
}

func sign(plus bool) int {
	if plus {
		return 1
	}
	return -1
}

// use notes that a handle was asked for something, which shows whether it is good.
func (w *walk) use(st *state, v *term) {
	if !tracked(v) {
		return
	}
	h := st.handles.get(v)
	if h.status == isLive && !h.used && v.op == opParam {
		h.used = true
		st.handles.set(v, h)
	}
}

// failure is the error that a call returns, and what else it returns then.
func (w *walk) failure(st *state, c *site, others *term) *term {
	st.rerun(w.terms, c.key)
	sig := c.common.Signature()
	at := errorAt(sig)
	values := make([]*term, sig.Results().Len())
	for i := range values {
		values[i] = w.zeroOf(sig.Results().At(i).Type())
		if i == 0 && others != nil {
			values[i] = others
		}
	}
	if at >= 0 {
		values[at] = w.result(c.key, at)
		st.facts.set(w.isNil(values[at]), fact{truth: false, by: c.instr})
	}
	return w.tuple(values)
}

func (w *walk) fails(st *state, c *site, others *term) []outcome {
	return []outcome{{st, w.failure(st, c, others)}}
}

// errorOf is the name of the error of a call.
func (w *walk) errorOf(c *site) *term {
	return w.result(c.key, max(0, errorAt(c.common.Signature())))
}

// dropped looks at what a call's results are used for: nothing at all, or the error only,
// which is how one asks whether something fails.
func (w *walk) dropped(c *site, results int) (all, handles bool) {
	if _, ok := c.instr.(*ssa.Call); !ok {
		return true, true
	}
	handles = true
	for i := range results {
		handles = handles && !c.used(i)
	}
	at := errorAt(c.common.Signature())
	if !handles && c.onlyForItsError() {
		return false, true
	}
	return handles && (at < 0 || !c.used(at)), handles
}

// makes is a call that returns new mappings.
func (w *walk) makes(st *state, c *site, e entry, name string, onSuccess func(*state, []*term)) []outcome {
	all, handles := w.dropped(c, e.results)
	if all && onSuccess == nil {
		w.find(st, &finding{
			category: ignored, pos: c.pos,
			message: fmt.Sprintf("the mapping that %s makes is never unmapped: its handle and its error are dropped", name),
		})
		return []outcome{{st, w.unknownResults(st, c)}}
	}
	st.rerun(w.terms, c.key)
	var others *term
	if e.keeps {
		others = c.args[0]
		others = w.older(others, c.key)
	}
	failed := st.clone()
	ends := w.fails(failed, c, others)
	if handles && !all {
		return ends // it is expected to fail
	}
	values := make([]*term, 0, e.results+1)
	for i := range e.results {
		v := w.result(c.key, i)
		values = append(values, v)
		st.handles.set(v, mapping{owned: !all, at: c.pos})
	}
	if onSuccess != nil {
		onSuccess(st, values)
	}
	return append(ends, outcome{st, w.tuple(append(values, w.zero))})
}

// consumes is a transition.
func (w *walk) consumes(st *state, c *site, e entry, name string) []outcome {
	var others *term
	if e.keeps {
		others = c.args[0]
	}
	bad := false
	for _, v := range c.args[:e.handles] {
		if v.op == opZero {
			bad = true
		} else if tracked(v) {
			bad = w.gone(st, c, v, name) || bad
		}
	}
	if bad || w.isBusy(st, c, name) {
		return w.fails(st, c, others)
	}
	if all, _ := w.dropped(c, e.results); all {
		w.find(st, &finding{
			category: ignored, pos: c.pos,
			message: fmt.Sprintf("%s consumes the handle, and the new one and the error are dropped: "+
				"nobody can use or close the mapping any more", name),
		})
	}
	st.rerun(w.terms, c.key)
	if all, _ := w.dropped(c, e.results); all {
		for _, v := range c.args[:e.handles] {
			w.giveAway(st, w.older(v, c.key)) // one report is enough
		}
	}
	return w.makes(st, c, e, name, func(st *state, made []*term) {
		for i, v := range c.args[:e.handles] {
			v = w.older(v, c.key)
			if !tracked(v) {
				continue
			}
			h := st.handles.get(v)
			if i == 0 {
				n := st.handles.get(made[0])
				n.was = v
				n.sealed = h.sealed
				n.owned = n.owned && !h.sealed
				st.handles.set(made[0], n)
			}
			gone := e.moves || name == "Protect" && ofLibrary(resultType(c, 0)) == "None"
			w.follow(st, v, made[0], gone, c.pos, name)
			h.status, h.by, h.owned = isMoved, c.pos, false
			st.handles.set(v, h)
		}
	})
}

func resultType(c *site, n int) types.Type {
	if r := c.common.Signature().Results(); n < r.Len() {
		return r.At(n).Type()
	}
	return types.Typ[types.Invalid]
}

// follow takes the memory of UnsafeBytes along to the next handle, or ends it.
func (w *walk) follow(st *state, old, next *term, gone bool, pos token.Pos, name string) {
	for v, l := range st.loans.each() {
		if l.by != byUnsafe || l.of != old || l.ended {
			continue
		}
		if gone {
			l.ended, l.end, l.how = true, pos, name
		} else {
			l.of = next
		}
		st.loans.set(v, l)
	}
}

func (w *walk) releases(st *state, c *site, name string) []outcome {
	if w.misused(st, c, name) || w.isBusy(st, c, name) {
		return w.fails(st, c, nil)
	}
	v := c.args[0]
	if !tracked(v) {
		return []outcome{{st, w.unknownResults(st, c)}}
	}
	failed := st.clone()
	ends := w.fails(failed, c, nil)
	if all, pages := w.dropped(c, 2); pages && !all {
		// It is expected to fail, or to let go for good.
		h := st.handles.get(v)
		h.owned, h.kept = false, true
		failed.handles.set(v, h)
		return ends
	}
	h := st.handles.get(v)
	h.status, h.by, h.owned = isMoved, c.pos, false
	st.handles.set(v, h)
	result := w.unknownResults(st, c)
	result = w.tuple([]*term{result.args[0], result.args[1], w.zero})
	return append(ends, outcome{st, result})
}

// closes is Close, which is harmless on any handle.
func (w *walk) closes(st *state, c *site) []outcome {
	v := c.args[0]
	if !tracked(v) {
		if v.op == opZero {
			return w.fails(st, c, nil)
		}
		return []outcome{{st, w.unknownResults(st, c)}}
	}
	h := st.handles.get(v)
	if h.status == isMoved {
		w.lateClose(st, c, v)
	}
	if h.status == isMoved || h.status == isClosed || h.sealed {
		h.owned = false
		st.handles.set(v, h)
		return w.fails(st, c, nil)
	}
	var ends []outcome
	if c.used(0) {
		failed := st.clone()
		f := h
		f.owned, f.kept = false, true // it may be impossible to close
		failed.handles.set(v, f)
		ends = w.fails(failed, c, nil)
	}
	h.status, h.by, h.owned = isClosed, c.pos, false
	st.handles.set(v, h)
	held := false
	for _, p := range st.pins.all() {
		held = held || p.of == v && !p.ended
	}
	for _, viewed := range st.views {
		held = held || viewed == v
	}
	if !held {
		w.follow(st, v, nil, true, c.pos, "Close")
	}
	return append(ends, outcome{st, w.zero})
}

// lateClose notes that a deferred Close has met an old handle: its successor is still open.
func (w *walk) lateClose(st *state, c *site, old *term) {
	if !c.deferred {
		return
	}
	for v, h := range st.handles.each() {
		if h.was == old && h.owned {
			h.lateOld = c.pos
			st.handles.set(v, h)
		}
	}
}

func (w *walk) seals(st *state, c *site) []outcome {
	if w.misused(st, c, "Seal") {
		return w.fails(st, c, nil)
	}
	v := c.args[0]
	if !tracked(v) {
		return []outcome{{st, w.unknownResults(st, c)}}
	}
	var ends []outcome
	if c.used(0) {
		ends = w.fails(st.clone(), c, nil)
	}
	h := st.handles.get(v)
	h.sealed, h.owned = true, false
	st.handles.set(v, h)
	return append(ends, outcome{st, w.zero})
}

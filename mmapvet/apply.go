package mmapvet

import (
	"fmt"
	"go/types"
	"slices"
)

// apply runs a call of a function whose summary is known.
func (w *walk) apply(st *state, c *site, s *Summary, obj *types.Func) []outcome {
	w.names[c.pos] = obj.Name()
	for _, l := range s.Lends {
		if l.Param < len(c.args) {
			return w.lenderCalled(st, c, s, l)
		}
	}
	for i, a := range c.args {
		if isGone(st, a) && len(s.Exits) > 0 && allUse(s, i) {
			w.gone(st, c, a, obj.Name())
		}
	}
	if len(s.Exits) == 0 {
		return nil // it never returns
	}
	w.busyWithin(st, c, s, obj.Name())
	lost := w.drops(st, c, s, obj.Name())
	st.rerun(w.terms, c.key)
	args := make([]*term, len(c.args))
	for i, a := range c.args {
		args[i] = w.older(a, c.key)
	}
	var ends []outcome
	for i, e := range s.Exits {
		to := st
		if i < len(s.Exits)-1 {
			to = st.clone()
		}
		if o, ok := w.exit(to, c, s, e, args); ok {
			if lost {
				w.giveAway(o.st, o.result)
			}
			ends = append(ends, o)
		}
	}
	return ends
}

// busyWithin reports a function that does nothing without a transition of a mapping which is
// viewed or pinned here.
func (w *walk) busyWithin(st *state, c *site, s *Summary, name string) {
	for i, a := range c.args {
		always, some := true, false
		for _, e := range s.Exits {
			consumed := i < len(e.Params) && e.Params[i].Was == "moved"
			some = some || consumed
			always = always && (consumed || e.fails())
		}
		if some && always && tracked(a) {
			inner := *c
			inner.args = []*term{a}
			w.isBusy(st, &inner, name)
		}
	}
}

func (e *Exit) fails() bool { return len(e.Results) > 0 && e.Results[len(e.Results)-1].Nil < 0 }

// drops reports a call that returns a new handle which is dropped, as its error is.
func (w *walk) drops(st *state, c *site, s *Summary, name string) bool {
	made := -1
	for _, e := range s.Exits {
		for i, r := range e.Results {
			if r.New == "handle" {
				made = i
			}
		}
	}
	if made < 0 || c.callback != nil {
		return false
	}
	for i := range c.common.Signature().Results().Len() {
		if c.used(i) {
			return false
		}
	}
	w.find(st, &finding{
		category: ignored, pos: c.pos,
		message: fmt.Sprintf("the handle that %s returns is dropped: nobody can use or close the mapping any more", name),
	})
	return true
}

func isGone(st *state, v *term) bool {
	h, ok := st.handles.lookup(v)
	return ok && (h.status == isMoved || h.status == isClosed)
}

func allUse(s *Summary, param int) bool {
	for _, e := range s.Exits {
		if param >= len(e.Params) || !e.Params[param].Used {
			return false
		}
	}
	return true
}

// exit takes one way out of a function. It is false if what is known contradicts it.
func (w *walk) exit(st *state, c *site, s *Summary, e Exit, args []*term) (outcome, bool) {
	for i, p := range e.Params {
		if i < len(args) && p.Nil == presumablyNil {
			if !w.presume(st, args[i], c) {
				return outcome{}, false
			}
		} else if i < len(args) && p.Nil != 0 && !w.assume(st, w.isNil(args[i]), p.Nil > 0, c.instr) {
			return outcome{}, false
		}
		if i < len(args) && (p.Was == "moved" || p.Was == "closed") && p.Used {
			if h := st.handles.get(args[i]); h.status == isMoved || h.status == isClosed {
				return outcome{}, false
			}
		}
	}
	w.wrote(st, s.Writes)
	failed := len(e.Results) > 0 && e.Results[len(e.Results)-1].Nil < 0
	for i, p := range e.Params {
		if i >= len(args) {
			continue
		}
		if p.Was == "" && !failed && s.takes(i) {
			p.Was = "kept" // it may have been taken, as a bool may say
		}
		w.affect(st, c, args[i], p, args)
	}
	sig := c.common.Signature()
	n := sig.Results().Len()
	values := make([]*term, n)
	for i := range values {
		v := w.result(c.key, i)
		t := sig.Results().At(i).Type()
		if i < len(e.Results) {
			v = w.returned(st, c, e.Results[i], v, i, t, args)
		}
		values[i] = v
	}
	return outcome{st, w.tuple(values)}, true
}

// takes reports whether some way out of a function consumes or keeps a parameter.
func (s *Summary) takes(param int) bool {
	return slices.ContainsFunc(s.Exits, func(e Exit) bool { return param < len(e.Params) && e.Params[param].Was != "" })
}

// affect does to an argument what a function does to its parameter.
func (w *walk) affect(st *state, c *site, a *term, p Effect, args []*term) {
	if h, ok := st.handles.lookup(a); ok || tracked(a) && p.Was != "" && (w.handleOf[a] || isHandle(deref(a, c, args))) {
		switch p.Was {
		case "moved":
			h.status, h.by, h.owned = isMoved, c.pos, false
		case "closed":
			h.status, h.by, h.owned = isClosed, c.pos, false
			w.follow(st, a, nil, true, c.pos, w.names[c.pos])
		case "sealed":
			h.sealed, h.owned = true, false
		case "kept":
			h.owned, h.kept = false, true
		}
		if p.Used && a.op == opParam && h.status == isLive {
			h.used = true
		}
		st.handles.set(a, h)
	} else if p.Was == "kept" {
		w.giveAway(st, a)
	}
	if q, ok := st.pins.lookup(a); ok {
		switch p.Was {
		case "unpinned":
			q.ended, q.by = true, c.pos
			for l, lent := range st.loans.each() {
				if lent.by == byPin && lent.of == a {
					lent.ended, lent.end, lent.how = true, c.pos, "Unpin"
					st.loans.set(l, lent)
				}
			}
		case "kept":
			q.owned = false
		}
		st.pins.set(a, q)
	}
	if p.Into == 0 || len(w.loansOf(st, a)) == 0 {
		return
	}
	switch {
	case p.While:
		st.suspend(pending{a, c.pos, "a goroutine has it that nobody waits for here"})
	case p.Into < 0:
		w.keep(st, w.make(term{op: opGlobal, site: "kept"}), a, c)
	case p.Into <= len(args):
		w.keep(st, args[p.Into-1], a, c)
	}
}

// keep stores a value somewhere within a place.
func (w *walk) keep(st *state, within, v *term, c *site) {
	at := w.index(within, w.make(term{op: opResult, site: c.key, n: 2000 + v.id}))
	if at.op == opUnknown {
		return
	}
	if !st.private(at) {
		w.giveAway(st, v)
	}
	st.ran.add(w.siteNumber(c.key))
	st.mem.set(at, cell{v, c.pos})
}

func deref(a *term, c *site, args []*term) types.Type {
	for i, x := range args {
		if x == a {
			return c.argType(i)
		}
	}
	return types.Typ[types.Invalid]
}

// returned is a result of a function.
func (w *walk) returned(st *state, c *site, r Result, v *term, n int, t types.Type, args []*term) *term {
	switch {
	case r.Same > 0 && r.Same <= len(args):
		return args[r.Same-1]
	case r.Nil > 0:
		return w.zeroOf(t)
	case r.Bool != "":
		return w.bool(r.Bool == "true")
	case r.New == "handle":
		st.handles.set(v, mapping{owned: true, at: c.pos})
	case r.New == "pin":
		st.pins.set(v, pin{of: w.none, owned: true, at: c.pos})
	case r.Bytes > 0 && r.Bytes <= len(args):
		return w.bytesBy(st, c, args[r.Bytes-1], v)
	}
	if r.Nil < 0 {
		st.facts.set(w.isNil(v), fact{truth: false, by: c.instr})
	}
	if len(r.Lends) > 0 {
		w.lenders[v] = r.Lends
		return v
	}
	var leads []*term
	for _, l := range r.Leads {
		if l.Param >= len(args) {
			continue
		}
		a := args[l.Param]
		if l.Field < 0 {
			leads = union(leads, w.loansOf(st, a))
			continue
		}
		if f := w.lookup(st, w.fieldNumber(st, a, l.Field), nil); f != nil {
			leads = union(leads, w.loansOf(st, f))
		} else if len(a.loans) > 0 {
			leads = union(leads, a.loans)
		}
	}
	if len(leads) > 0 {
		return w.make(term{op: opPart, site: c.key, n: n, args: []*term{w.make(term{op: opStruct, args: leads})}})
	}
	return v
}

// bytesBy is the memory of a handle or a pin that a function has asked for.
func (w *walk) bytesBy(st *state, c *site, of, v *term) *term {
	if h, ok := st.handles.lookup(of); ok && h.status == isLive {
		m := w.make(term{op: opLent, site: c.key, n: 1})
		st.loans.set(m, loan{by: byUnsafe, of: of, at: c.pos})
		return m
	}
	if p, ok := st.pins.lookup(of); ok && !p.ended {
		m := w.make(term{op: opLent, site: c.key, n: 1})
		st.loans.set(m, loan{by: byPin, of: of, at: c.pos})
		return m
	}
	return v
}

// fieldNumber finds the address of a field of which only the number is known.
func (w *walk) fieldNumber(st *state, of *term, n int) *term {
	for a := range st.mem.all() {
		if a.op == opField && a.n == n && a.args[0] == of {
			return a
		}
	}
	return w.fieldAt(of, n, nil)
}

// wrote forgets what a function can have changed.
func (w *walk) wrote(st *state, fields []string) {
	for _, f := range fields {
		if f == anything {
			w.havoc(st)
			return
		}
	}
	st.mem.keep(func(a *term, _ cell) bool { return st.private(a) || !slices.Contains(fields, placeName(a)) })
}

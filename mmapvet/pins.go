package mmapvet

import (
	"fmt"
	"go/token"
)

// pinned is Pin.
func (w *walk) pinned(st *state, c *site) []outcome {
	if w.misused(st, c, "Pin") {
		return w.fails(st, c, nil)
	}
	all, pins := w.dropped(c, 1)
	if all {
		w.find(st, &finding{
			category: ignored, pos: c.pos,
			message: "the pin is dropped, and its error, too: nobody can end it, so the mapping is never unmapped",
		})
		return []outcome{{st, w.unknownResults(st, c)}}
	}
	st.rerun(w.terms, c.key)
	ends := w.fails(st.clone(), c, nil)
	if pins {
		return ends // it is expected to fail
	}
	v := w.result(c.key, 0)
	st.pins.set(v, pin{of: w.older(c.args[0], c.key), owned: true, at: c.pos})
	st.facts.set(w.isNil(v), fact{truth: false, by: c.instr})
	return append(ends, outcome{st, w.tuple([]*term{v, w.zero})})
}

func (w *walk) unpins(st *state, c *site) []outcome {
	v := c.args[0]
	p, ok := st.pins.lookup(v)
	if !ok && tracked(v) {
		st.pins.set(v, pin{ended: true, by: c.pos, at: token.NoPos, of: w.none})
	}
	if ok && !p.ended {
		p.ended, p.by = true, c.pos
		st.pins.set(v, p)
		for l, lent := range st.loans.each() {
			if lent.by == byPin && lent.of == v {
				lent.ended, lent.end, lent.how = true, c.pos, "Unpin"
				st.loans.set(l, lent)
			}
		}
	}
	return []outcome{{st, w.unknownResults(st, c)}}
}

func (w *walk) bytesOf(st *state, c *site) []outcome {
	v := c.args[0]
	if st.pins.get(v).ended && st.pins.get(v).at.IsValid() {
		return []outcome{{st, w.zero}}
	}
	if !tracked(v) || v.op == opZero {
		return []outcome{{st, w.unknownResults(st, c)}}
	}
	if _, known := st.pins.lookup(v); !known {
		st.pins.set(v, pin{of: w.none})
	}
	st.rerun(w.terms, c.key)
	m := w.make(term{op: opLent, site: c.key})
	st.loans.set(m, loan{by: byPin, of: w.older(v, c.key), at: c.pos})
	return []outcome{{st, m}}
}

func (w *walk) unsafely(st *state, c *site) []outcome {
	v := c.args[0]
	h := st.handles.get(v)
	if !tracked(v) || h.status != isLive {
		w.asked(st, c, "UnsafeBytes")
		return []outcome{{st, w.unknownResults(st, c)}}
	}
	st.rerun(w.terms, c.key)
	m := w.make(term{op: opLent, site: c.key})
	st.loans.set(m, loan{by: byUnsafe, of: w.older(v, c.key), at: c.pos})
	return []outcome{{st, m}}
}

// touch reports memory that is used after it was taken away.
func (w *walk) touch(st *state, v *term, pos token.Pos) {
	w.touched(st, v.loans, pos, false)
}

// touchDeep is touch of all that a value leads to.
func (w *walk) touchDeep(st *state, v *term, pos token.Pos) {
	w.touched(st, w.loansOf(st, v), pos, false)
}

func (w *walk) touched(st *state, loans []*term, pos token.Pos, returned bool) {
	for _, m := range loans {
		l := st.loans.get(m)
		if !l.ended {
			continue
		}
		does := "is used"
		if returned {
			does = "is returned"
		}
		switch l.by {
		case byView:
			at := w.keptAt[m]
			if !at.IsValid() {
				continue
			}
			w.find(st, &finding{
				category: escape, pos: at, copies: true,
				message: fmt.Sprintf("the memory of a view is kept here and %s on line %d, after the view: "+
					"by then it can be unmapped, or belong to another mapping", does, w.line(pos)),
				related: []place{{pos, does + " here"}},
			})
		case byPin:
			w.find(st, &finding{
				category: pins, pos: pos,
				message: fmt.Sprintf("the bytes of a pin are %s after its Unpin on line %d: "+
					"they can be unmapped, or belong to another mapping", past(returned), w.line(l.end)),
				related: []place{{l.end, "unpinned here"}},
			})
		case byUnsafe:
			w.find(st, &finding{
				category: unsafebytes, pos: pos,
				message: fmt.Sprintf("the memory of UnsafeBytes is %s after %s on line %d took it away: "+
					"touching it is a fault that ends the program", past(returned), l.how, w.line(l.end)),
				related: []place{{l.end, "taken away here"}},
			})
		}
	}
}

func past(returned bool) string {
	if returned {
		return "returned"
	}
	return "used"
}

// unguarded reports, if it is asked to, that bytes of a pin are touched outside of a guard.
func (w *walk) unguarded(st *state, v *term, pos token.Pos) { w.outside(st, v.loans, pos) }

func (w *walk) unguardedDeep(st *state, v *term, pos token.Pos) { w.outside(st, w.loansOf(st, v), pos) }

func (w *walk) outside(st *state, loans []*term, pos token.Pos) {
	if st.guards > 0 || w.inGuard > 0 || len(st.views) > 0 {
		return
	}
	for _, m := range loans {
		if l := st.loans.get(m); l.by == byPin && !l.ended && l.at.IsValid() {
			w.find(st, &finding{
				category: unguarded, pos: pos,
				message: fmt.Sprintf("the bytes of the pin of line %d are touched outside of Guard: "+
					"a fault ends the program", w.line(l.at)),
				related: []place{{l.at, "lent here"}},
			})
		}
	}
}

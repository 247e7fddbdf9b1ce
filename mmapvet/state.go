package mmapvet

import (
	"go/token"
	"math/bits"
	"slices"

	"golang.org/x/tools/go/ssa"
)

// A state is what is known at a point of one path.
type state struct {
	regs    registers
	mem     dict[cell]    // by address
	handles dict[mapping] // what is known of handles
	pins    dict[pin]
	loans   dict[loan]
	facts   dict[fact] // which conditions hold
	shared  dict[bool] // variables that others can change
	ran     numberSet  // the sites that have made something, by their numbers
	defers  []deferred // this and what follows is never changed in place
	views   []*term    // the handles of the views that run
	pending []pending
	guards  int // how many guards run
	drains  int
}

type cell struct {
	v   *term
	pos token.Pos // of the store
}

type status uint8

const (
	isLive status = iota
	isMoved
	isClosed
	isVague // nobody knows
)

// A mapping is what is known of a handle.
type mapping struct {
	status  status
	owned   bool      // made here, and neither closed nor given away
	used    bool      // a parameter that was used before anything else happened to it
	kept    bool      // somebody else has it, too
	sealed  bool      // Close does nothing
	at      token.Pos // where it was made
	by      token.Pos // where it was consumed or closed
	was     *term     // the handle of which it is the successor
	lateOld token.Pos // a defer that closes its predecessor
}

type pin struct {
	of    *term
	ended bool
	owned bool
	at    token.Pos
	by    token.Pos
}

type lentBy uint8

const (
	byView lentBy = iota
	byPin
	byUnsafe
	byCaller // a parameter
)

// A loan is memory that is valid for a while.
type loan struct {
	by    lentBy
	of    *term // a handle or a pin
	ended bool
	end   token.Pos
	how   string
	at    token.Pos
}

type fact struct {
	truth bool
	by    ssa.Instruction
}

type deferred struct {
	owner *ssa.Function // at whose return it runs
	call  *ssa.Defer
	args  []*term
	fn    *term
}

// pending is memory that somebody else may use for a while, unless somebody waits for it.
type pending struct {
	v   *term
	pos token.Pos
	how string
}

func (s *state) clone() *state {
	s.defers, s.views, s.pending = slices.Clip(s.defers), slices.Clip(s.views), slices.Clip(s.pending)
	c := *s
	c.regs, c.mem, c.handles, c.pins = s.regs.clone(), s.mem.clone(), s.handles.clone(), s.pins.clone()
	c.loans, c.facts, c.shared, c.ran = s.loans.clone(), s.facts.clone(), s.shared.clone(), s.ran.clone()
	return &c
}

func (s *state) size() int {
	return len(s.regs.rows) + len(s.mem.rows) + len(s.handles.rows) + len(s.pins.rows) + len(s.loans.rows) +
		len(s.facts.rows) + len(s.defers)
}

// A digest is the same for equal states, and as good as never for others.
type digest [2]uint64

// row mixes the numbers of one row of a state. Rows are added up, so their order, which is
// that of maps, means nothing.
func (d *digest) row(ns ...int) {
	a, b := uint64(0x9e3779b97f4a7c15), uint64(0xc2b2ae3d27d4eb4f)
	for _, n := range ns {
		a = bits.RotateLeft64((a^uint64(n))*0xff51afd7ed558ccd, 31)
		b = bits.RotateLeft64((b+uint64(n))*0xc4ceb9fe1a85ec53, 29)
	}
	d[0] += a ^ a>>33
	d[1] += b ^ b>>31
}

func flags(bits ...bool) int {
	n := 0
	for i, b := range bits {
		if b {
			n |= 1 << i
		}
	}
	return n
}

func (v *term) number() int {
	if v == nil {
		return 0
	}
	return v.id
}

func (s *state) digest(number func(any) int) digest {
	var d digest
	for _, r := range s.regs.rows {
		d.row(1, r.id, r.value.id)
	}
	for _, r := range s.mem.rows {
		d.row(2, r.key.id, r.value.v.id, int(r.value.pos))
	}
	for _, r := range s.handles.rows {
		h := r.value
		d.row(3, r.key.id, int(h.status), flags(h.owned, h.used, h.kept, h.sealed), int(h.at), int(h.by),
			h.was.number(), int(h.lateOld))
	}
	for _, r := range s.pins.rows {
		p := r.value
		d.row(4, r.key.id, p.of.number(), flags(p.ended, p.owned), int(p.at), int(p.by))
	}
	for _, r := range s.loans.rows {
		d.row(5, r.key.id, r.value.of.number(), flags(r.value.ended), int(r.value.end))
	}
	for _, r := range s.facts.rows {
		d.row(6, r.key.id, flags(r.value.truth))
	}
	for _, r := range s.shared.rows {
		d.row(7, r.key.id)
	}
	for i, call := range s.defers {
		d.row(8, i, number(call.owner), number(call.call), call.fn.number())
		for j, a := range call.args {
			d.row(9, i, j, a.id)
		}
	}
	for i, v := range s.views {
		d.row(10, i, v.number())
	}
	for i, p := range s.pending {
		d.row(11, i, p.v.id, int(p.pos))
	}
	d.row(12, s.guards, s.drains)
	return d
}

// rerun makes room for what site makes anew: what it made before gets its older name.
func (s *state) rerun(t *terms, site any) {
	id := t.siteNumber(site)
	if !s.ran.add(id) || !s.has(id) {
		return
	}
	old := func(v *term) *term {
		if v == nil {
			return nil
		}
		return t.olderBy(v, id)
	}
	for i, r := range s.regs.rows {
		if v := old(r.value); v != r.value {
			s.regs.own()
			s.regs.rows[i].value = v
		}
	}
	s.mem = renamed(&s.mem, old, func(c cell) cell { c.v = old(c.v); return c })
	s.handles = renamed(&s.handles, old, func(h mapping) mapping { h.was = old(h.was); return h })
	s.pins = renamed(&s.pins, old, func(p pin) pin { p.of = old(p.of); return p })
	s.loans = renamed(&s.loans, old, func(l loan) loan { l.of = old(l.of); return l })
	s.facts = renamed(&s.facts, old, func(f fact) fact { return f })
	s.shared = renamed(&s.shared, old, func(b bool) bool { return b })
	s.defers = slices.Clone(s.defers)
	for i, d := range s.defers {
		s.defers[i].args, s.defers[i].fn = changed(d.args, old), old(d.fn)
	}
	all := s.pending
	s.pending = nil
	for _, p := range all { // what a loop suspends is the same two turns ago and three
		if p.v = old(p.v); p.v.op != opUnknown {
			s.suspend(p)
		}
	}
	s.views = changed(s.views, old)
}

// has reports whether something in a state was made by a site.
func (s *state) has(site int) bool {
	by := func(v *term) bool { return v != nil && v.madeBy(site) }
	for _, r := range s.regs.rows {
		if by(r.value) {
			return true
		}
	}
	for _, d := range s.defers {
		if slices.ContainsFunc(d.args, by) || by(d.fn) {
			return true
		}
	}
	return anyRow(&s.mem, by, func(c cell) bool { return by(c.v) }) ||
		anyRow(&s.handles, by, func(h mapping) bool { return by(h.was) }) ||
		anyRow(&s.pins, by, func(p pin) bool { return by(p.of) }) ||
		anyRow(&s.loans, by, func(l loan) bool { return by(l.of) }) ||
		anyRow(&s.facts, by, func(fact) bool { return false }) ||
		anyRow(&s.shared, by, func(bool) bool { return false }) ||
		slices.ContainsFunc(s.pending, func(p pending) bool { return by(p.v) })
}

func anyRow[V comparable](d *dict[V], key func(*term) bool, value func(V) bool) bool {
	return slices.ContainsFunc(d.rows, func(r row[V]) bool { return key(r.key) || value(r.value) })
}

// renamed changes keys and values. What becomes unknown goes.
func renamed[V comparable](d *dict[V], key func(*term) *term, value func(V) V) dict[V] {
	var out dict[V]
	same := true
	for _, r := range d.rows {
		k, v := key(r.key), value(r.value)
		same = same && k == r.key && v == r.value
		if k.op != opUnknown {
			out.set(k, v)
		}
	}
	if same {
		return *d
	}
	return out
}

// changed is a slice with each element changed, a copy if it differs.
func changed[T comparable](s []T, change func(T) T) []T {
	original := true
	for i, v := range s {
		if c := change(v); c != v {
			if original {
				s, original = slices.Clone(s), false
			}
			s[i] = c
		}
	}
	return s
}

func (s *state) suspend(p pending) {
	if !slices.Contains(s.pending, p) {
		s.pending = append(s.pending, p)
	}
}

// postpone adds a deferred call. Of one in a loop the last two are known, as of all that a
// loop makes.
func (s *state) postpone(d deferred) {
	first, n := 0, 0
	for i, other := range s.defers {
		if other.call == d.call {
			if n++; n == 1 {
				first = i
			}
		}
	}
	if n > 1 {
		s.defers = slices.Concat(s.defers[:first], s.defers[first+1:])
	}
	s.defers = append(s.defers, d)
}

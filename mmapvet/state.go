package mmapvet

import (
	"go/token"
	"maps"
	"math/bits"
	"slices"

	"golang.org/x/tools/go/ssa"
)

// A state is what is known at a point of one path.
type state struct {
	regs    map[ssa.Value]*term
	mem     map[*term]cell    // by address
	handles map[*term]mapping // what is known of handles
	pins    map[*term]pin
	loans   map[*term]loan
	facts   map[*term]fact // which conditions hold
	shared  map[*term]bool // variables that others can change
	defers  []deferred
	views   []*term // the handles of the views that run
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

func newState() *state {
	return &state{
		regs: map[ssa.Value]*term{}, mem: map[*term]cell{}, handles: map[*term]mapping{},
		pins: map[*term]pin{}, loans: map[*term]loan{}, facts: map[*term]fact{}, shared: map[*term]bool{},
	}
}

func (s *state) clone() *state {
	c := *s
	c.regs, c.mem, c.handles = maps.Clone(s.regs), maps.Clone(s.mem), maps.Clone(s.handles)
	c.pins, c.loans = maps.Clone(s.pins), maps.Clone(s.loans)
	c.facts, c.shared = maps.Clone(s.facts), maps.Clone(s.shared)
	c.defers, c.views, c.pending = slices.Clone(s.defers), slices.Clone(s.views), slices.Clone(s.pending)
	return &c
}

func (s *state) size() int {
	return len(s.regs) + len(s.mem) + len(s.handles) + len(s.pins) + len(s.loans) + len(s.facts) + len(s.defers)
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
	for r, v := range s.regs {
		d.row(1, number(r), v.id)
	}
	for a, c := range s.mem {
		d.row(2, a.id, c.v.id, int(c.pos))
	}
	for v, h := range s.handles {
		d.row(3, v.id, int(h.status), flags(h.owned, h.used, h.kept, h.sealed), int(h.at), int(h.by),
			h.was.number(), int(h.lateOld))
	}
	for v, p := range s.pins {
		d.row(4, v.id, p.of.number(), flags(p.ended, p.owned), int(p.at), int(p.by))
	}
	for v, l := range s.loans {
		d.row(5, v.id, l.of.number(), flags(l.ended), int(l.end))
	}
	for v, f := range s.facts {
		d.row(6, v.id, flags(f.truth))
	}
	for v := range s.shared {
		d.row(7, v.id)
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
	old := func(v *term) *term {
		if v == nil {
			return nil
		}
		return t.older(v, site)
	}
	used := false
	check := func(v *term) bool {
		return v != nil && slices.ContainsFunc(v.roots, func(r *term) bool { return r.site == site })
	}
	for _, v := range s.regs {
		used = used || check(v)
	}
	for a, c := range s.mem {
		used = used || check(a) || check(c.v)
	}
	for v, h := range s.handles {
		used = used || check(v) || check(h.was)
	}
	for v, p := range s.pins {
		used = used || check(v) || check(p.of)
	}
	for v, l := range s.loans {
		used = used || check(v) || check(l.of)
	}
	for v := range s.facts {
		used = used || check(v)
	}
	for v := range s.shared {
		used = used || check(v)
	}
	for _, d := range s.defers {
		used = used || slices.ContainsFunc(d.args, check) || check(d.fn)
	}
	for _, p := range s.pending {
		used = used || check(p.v)
	}
	if !used {
		return
	}
	for r, v := range s.regs {
		s.regs[r] = old(v)
	}
	s.mem = renamed(s.mem, old, func(c cell) cell { c.v = old(c.v); return c })
	s.handles = renamed(s.handles, old, func(h mapping) mapping { h.was = old(h.was); return h })
	s.pins = renamed(s.pins, old, func(p pin) pin { p.of = old(p.of); return p })
	s.loans = renamed(s.loans, old, func(l loan) loan { l.of = old(l.of); return l })
	s.facts = renamed(s.facts, old, func(f fact) fact { return f })
	s.shared = renamed(s.shared, old, func(b bool) bool { return b })
	for i, d := range s.defers {
		args := make([]*term, len(d.args))
		for j, a := range d.args {
			args[j] = old(a)
		}
		s.defers[i].args, s.defers[i].fn = args, old(d.fn)
	}
	for i, p := range s.pending {
		s.pending[i].v = old(p.v)
	}
	for i, v := range s.views {
		s.views[i] = old(v)
	}
}

// renamed changes keys and values. What becomes unknown goes.
func renamed[V any](m map[*term]V, key func(*term) *term, value func(V) V) map[*term]V {
	out := make(map[*term]V, len(m))
	for k, v := range m {
		if k = key(k); k.op != opUnknown {
			out[k] = value(v)
		}
	}
	return out
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
		s.defers = slices.Delete(s.defers, first, first+1)
	}
	s.defers = append(s.defers, d)
}

package mmapvet

import (
	"go/constant"
	"go/token"
	"slices"
	"strconv"

	"golang.org/x/tools/go/ssa"
)

// A term stands for a value of the program under analysis. Terms are interned: two of them
// are the same value if and only if they are the same pointer.
type term struct {
	id    int
	op    op
	site  any // the instruction, parameter, global, function or constant that it comes from
	gen   int // 0: what the site made last; 1: what it made the time before
	n     int // a field, a result
	tok   token.Token
	args  []*term
	depth int
	by    int     // the number of its site
	roots []*term // the subterms that a site made, which get an older gen when it runs again
	loans []*term // the memory that it leads to

	reached, seen int // in which search it was met last
}

type op uint8

const (
	opUnknown op = iota // without identity: equal to nothing
	opConst
	opZero   // nil, and the zero value of a struct
	opParam  // of the function that is analysed
	opFree   // a variable around it
	opGlobal // the address of a package variable
	opFunc   // a function, with what it has captured as args
	opAlloc  // the address of something that was made here
	opResult // of a call, or anything else that a site yields
	opLent   // memory that is lent
	opField  // the address of a field
	opIndex  // the address of an element
	opLoad   // what an address held when it was first loaded
	opFieldOf
	opStruct
	opPart   // of the memory that its argument leads to
	opScalar // a copy of something within
	opBinary
	opNot
	opCall // of a function with a bool result: the same arguments give the same result
	opIface
)

// terms interns.
type terms struct {
	known     map[termKey]*term
	sites     map[any]int
	constants map[*ssa.Const]*term
	none      *term
	zero      *term
	yes, no   *term
	search    int // the number of the last one
	reachable int // the same
}

// A termKey is what two terms have in common that are the same.
type termKey struct {
	op       op
	tok      int16
	gen      int16
	by, n    int32
	args     [3]int32
	moreArgs string
}

func newTerms() *terms {
	t := &terms{known: map[termKey]*term{}, sites: map[any]int{}, constants: map[*ssa.Const]*term{}}
	t.none = t.make(term{op: opUnknown})
	t.zero = t.make(term{op: opZero})
	t.yes, t.no = t.exactly(constant.MakeBool(true)), t.exactly(constant.MakeBool(false))
	return t
}

// siteOf returns the number of a site.
func (t *terms) siteNumber(site any) int {
	if site == nil {
		return 0
	}
	id, ok := t.sites[site]
	if !ok {
		id = len(t.sites) + 1
		t.sites[site] = id
	}
	return id
}

func keyOfTerm(v *term) termKey {
	k := termKey{op: v.op, tok: int16(v.tok), gen: int16(v.gen), by: int32(v.by), n: int32(v.n)}
	var more []byte
	for i, a := range v.args {
		if i < len(k.args) {
			k.args[i] = int32(a.id)
		} else {
			more = append(strconv.AppendInt(more, int64(a.id), 36), ' ')
		}
	}
	k.moreArgs = string(more)
	return k
}

// Terms that are deeper are unknown: so their number is finite.
const deepest = 12

func (t *terms) make(v term) *term {
	v.by = t.siteNumber(v.site)
	key := keyOfTerm(&v)
	if known := t.known[key]; known != nil {
		return known
	}
	for _, a := range v.args {
		v.depth = max(v.depth, a.depth+1)
		if v.depth > deepest || a.op == opUnknown && v.op != opStruct && v.op != opFunc && v.op != opPart {
			return t.none
		}
		v.roots = union(v.roots, a.roots)
		if v.op != opBinary && v.op != opNot && v.op != opScalar && v.op != opCall {
			v.loans = union(v.loans, a.loans)
		}
	}
	made := new(term)
	*made = v
	made.id = len(t.known) + 1
	made.args = slices.Clone(v.args)
	switch v.op {
	case opAlloc, opResult, opLent:
		made.roots = []*term{made}
	case opLoad, opPart:
		if v.site != nil {
			made.roots = union(made.roots, []*term{made})
		}
	}
	if v.op == opLent {
		made.loans = []*term{made}
	}
	t.known[key] = made
	return made
}

func union(a, b []*term) []*term {
	if len(a) == 0 {
		return b
	}
	for _, x := range b {
		if !slices.Contains(a, x) {
			a = append(slices.Clip(a), x)
		}
	}
	return a
}

func (t *terms) constant(c *ssa.Const) *term {
	v := t.constants[c]
	if v == nil {
		v = t.exactly(c.Value)
		t.constants[c] = v
	}
	return v
}

type constantKey struct {
	kind constant.Kind
	text string
}

func (t *terms) exactly(v constant.Value) *term {
	return t.make(term{op: opConst, site: constantKey{v.Kind(), v.ExactString()}})
}

func (t *terms) bool(b bool) *term {
	if b {
		return t.yes
	}
	return t.no
}

func (t *terms) int(n int) *term { return t.exactly(constant.MakeInt64(int64(n))) }

// truth returns the value of a constant bool.
func (v *term) truth() (value, known bool) {
	k, ok := v.site.(constantKey)
	if v.op != opConst || !ok || k.kind != constant.Bool {
		return false, false
	}
	return k.text == "true", true
}

func (t *terms) index(of, at *term) *term { return t.make(term{op: opIndex, args: []*term{of, at}}) }

func (t *terms) part(of *term) *term {
	if of.op == opPart {
		return of
	}
	return t.make(term{op: opPart, args: []*term{of}})
}

// scalar is something within v that leads to no memory.
func (t *terms) scalar(v *term) *term {
	if len(v.loans) == 0 {
		return v
	}
	return t.make(term{op: opScalar, args: []*term{v}})
}

func (t *terms) result(site any, n int) *term { return t.make(term{op: opResult, site: site, n: n}) }

// isNil is the condition v == nil. What was loaded from one place has one condition, also if
// something unknown happened between: two questions of a program mostly have one answer.
func (t *terms) isNil(v *term) *term {
	if v.op == opLoad && v.site != nil {
		v = t.make(term{op: opLoad, args: v.args})
	}
	return t.make(term{op: opBinary, tok: token.EQL, args: []*term{v, t.zero}})
}

// older returns v as it is called when site runs again: what it made last becomes what it
// made the time before, and what is older than that is unknown.
func (t *terms) older(v *term, site any) *term { return t.olderBy(v, t.siteNumber(site)) }

func (t *terms) olderBy(v *term, site int) *term {
	if !v.madeBy(site) {
		return v
	}
	w := term{op: v.op, site: v.site, gen: v.gen, n: v.n, tok: v.tok, args: make([]*term, len(v.args))}
	for i, a := range v.args {
		w.args[i] = t.olderBy(a, site)
	}
	if v.by == site && (v.op == opAlloc || v.op == opResult || v.op == opLent || v.op == opLoad || v.op == opPart) {
		if w.gen++; w.gen > 1 {
			return t.none
		}
	}
	return t.make(w)
}

// madeBy reports whether a site made a term, or a part of it.
func (v *term) madeBy(site int) bool {
	for _, r := range v.roots {
		if r.by == site {
			return true
		}
	}
	return false
}

// grows reports whether a value is made of an older one, as a loop makes it.
func (v *term) grows(old *term) bool {
	return old != nil && v != old && len(v.loans) == 0 && v.contains(old)
}

func (v *term) contains(part *term) bool {
	return v == part || slices.ContainsFunc(v.args, func(a *term) bool { return a.contains(part) })
}

// base is where an address begins: a variable, or an unknown pointer.
func (v *term) base() *term {
	for v.op == opField || v.op == opIndex {
		v = v.args[0]
	}
	return v
}

// within reports whether address v lies in what is at address of.
func (v *term) within(of *term) bool {
	for v != of {
		if v.op != opField && v.op != opIndex {
			return false
		}
		v = v.args[0]
	}
	return true
}

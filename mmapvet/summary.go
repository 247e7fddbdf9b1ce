package mmapvet

import (
	"fmt"
	"go/types"
	"slices"

	"golang.org/x/tools/go/ssa"
)

// A Summary is what callers know of a function: a fact that is kept for other packages.
type Summary struct {
	Exits  []Exit
	Lends  []Lend   // which callbacks it calls with memory
	Writes []string // the fields that it can change, by package and name; "*" is anything
}

// AFact marks a Summary as a fact.
func (*Summary) AFact() {}

func (s *Summary) String() string { return fmt.Sprintf("%+v", *s) }

// An Exit is one way in which a function returns.
type Exit struct {
	Params  []Effect
	Results []Result
}

// An Effect is what has happened to a parameter.
type Effect struct {
	Was   string // "moved", "closed", "unpinned", "kept", "sealed"; "" is nothing
	Used  bool   // it was used before anything else, and must be good
	Nil   int8   // 1: it is nil on this way out, -1: it is not, 2: presumably nil
	Into  int    // memory that it leads to is kept: 0 no, -1 for ever, n in parameter n-1
	While bool   // kept only as long as a goroutine runs
}

const presumablyNil = 2

// A Result is what a function returns.
type Result struct {
	New   string // "handle" or "pin": made by the function
	Same  int    // n: the same as parameter n-1
	Nil   int8   // 1: nil or zero, -1: not nil
	Bool  string // "true", "false"
	Leads []Lead // memory that it leads to
	Bytes int    // n: the memory of parameter n-1, by UnsafeBytes or Pin.Bytes
	Lends []Lend // it is a function that calls its callback with memory
}

// A Lead is a parameter whose memory a result leads to: all of it, or that of a field.
type Lead struct {
	Param int
	Field int // -1: all
}

// A Lend is a callback, and the argument with which it gets memory.
type Lend struct {
	Param, Arg int
	Field      int // of the struct that the argument leads to; -1: the argument itself
}

// noteLender notes that a callback which is a parameter of this function gets memory.
func (w *walk) noteLender(f *term, arg, field int) bool {
	n, ok := w.params[f]
	if !ok {
		return false
	}
	l := Lend{n, arg, field}
	if !slices.Contains(w.summary.Lends, l) {
		w.summary.Lends = append(w.summary.Lends, l)
	}
	return true
}

// lendsTo reports whether a call is one of a callback of this function, and notes the memory
// that it gets.
func (w *walk) lendsTo(st *state, c *site) bool {
	if _, ok := w.params[c.fn]; !ok {
		return false
	}
	lent := false
	for i, a := range c.args {
		if !hasPointers(c.argType(i)) {
			continue
		}
		if w.lentNow(st, a.loans) {
			w.noteLender(c.fn, i, -1)
			lent = true
			continue
		}
		for at, cl := range st.mem.all() {
			if at.op == opField && at.args[0] == a && w.lentNow(st, cl.v.loans) {
				w.noteLender(c.fn, i, at.n)
				lent = true
			}
		}
	}
	if lent {
		w.havoc(st)
	}
	return lent
}

func (w *walk) lentNow(st *state, loans []*term) bool {
	for _, m := range loans {
		if l := st.loans.get(m); l.by == byView && !l.ended {
			return true
		}
	}
	return false
}

// summaryOf returns what is known of a function: of this package, or as a fact. Nil is nothing.
func (w *walk) summaryOf(obj *types.Func, c *site) *Summary {
	if c.common.IsInvoke() && c.callback == nil {
		return nil
	}
	if obj.Pkg() == w.pass.Pkg {
		fn := w.prog.FuncValue(obj)
		if fn == nil || len(fn.Blocks) == 0 {
			return nil
		}
		return w.checker.summarize(fn)
	}
	s := new(Summary)
	if obj.Pkg() != nil && w.uses[obj.Pkg().Path()] && w.pass.ImportObjectFact(obj, s) {
		return s
	}
	return nil
}

const anything = "*"

// placeName is how a place is called in Summary.Writes.
func placeName(a *term) string {
	switch a.op {
	case opIndex:
		return "[]"
	case opField:
		if f, ok := a.site.(*types.Var); ok && f.Pkg() != nil {
			return f.Pkg().Path() + "." + f.Name()
		}
		return anything
	case opGlobal:
		if g, ok := a.site.(*ssa.Global); ok && g.Pkg != nil {
			return g.Pkg.Pkg.Path() + "." + g.Name()
		}
	}
	return "->"
}

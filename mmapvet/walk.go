package mmapvet

import (
	"go/constant"
	"go/token"
	"go/types"
	"slices"

	"golang.org/x/tools/go/ssa"
)

// A walk follows the paths through one function, and through the literals that it calls.
type walk struct {
	*checker
	*terms
	root      *ssa.Function
	budget    int
	stack     []*ssa.Function
	numbers   map[any]int
	registers map[ssa.Value]*register
	handleOf  map[*term]bool // handles that are behind an interface
	twice     map[string]int
	summary   *Summary
	params    map[*term]int
	found     map[findingKey]*finding
	expected  map[*term]bool    // errors that the program compares with one of a misuse
	causes    map[*term][]*term // of which errors one may be made
	keptAt    map[*term]token.Pos
	names     map[token.Pos]string // what was called there
	inGuard   int
	returnAt  map[*term]token.Pos // where a callback has returned what leads to memory
	lenders   map[*term][]Lend    // functions that lend memory to their callback
}

func newWalk(k *checker, fn *ssa.Function) *walk {
	return &walk{
		checker: k, terms: newTerms(), root: fn, budget: mostWork,
		numbers: map[any]int{}, registers: map[ssa.Value]*register{}, handleOf: map[*term]bool{},
		twice: map[string]int{}, summary: &Summary{}, params: map[*term]int{}, expected: map[*term]bool{},
		causes: map[*term][]*term{},
		keptAt: map[*term]token.Pos{}, names: map[token.Pos]string{}, found: map[findingKey]*finding{},
		returnAt: map[*term]token.Pos{}, lenders: map[*term][]Lend{},
	}
}

type frame struct {
	fn     *ssa.Function
	layout *layout
}

// An outcome is how a call can end.
type outcome struct {
	st     *state
	result *term // a struct, where there are several
}

// overBudget ends the walk of a function that takes too long.
type overBudget struct{}

func (w *walk) spend(n int) {
	if w.budget -= n; w.budget < 0 {
		panic(overBudget{})
	}
}

func (w *walk) ident(x any) int {
	n, ok := w.numbers[x]
	if !ok {
		n = len(w.numbers) + 1
		w.numbers[x] = n
	}
	return n
}

// register returns the register of a value.
func (w *walk) register(v ssa.Value) *register {
	r := w.registers[v]
	if r == nil {
		r = &register{id: len(w.registers), fn: v.Parent()}
		r.index = w.layoutOf(r.fn).numberOf(v)
		w.registers[v] = r
	}
	return r
}

type step struct {
	block *ssa.BasicBlock
	from  *ssa.BasicBlock
	st    *state
}

// run follows all paths of a function whose parameters are in the registers, and returns
// how they end.
func (w *walk) run(fn *ssa.Function, st *state, atReturn func(*state, *ssa.Return, *term)) []outcome {
	if len(fn.Blocks) == 0 {
		return nil
	}
	w.stack = append(w.stack, fn)
	defer func() { w.stack = w.stack[:len(w.stack)-1] }()
	f := &frame{fn: fn, layout: w.layoutOf(fn)}
	seen := map[*ssa.BasicBlock]map[digest]bool{}
	var ends []outcome
	endSeen := map[digest]bool{}
	todo := []step{{block: fn.Blocks[0], st: st}}
	for len(todo) > 0 {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		w.enter(f, s)
		w.clean(f, s)
		key := s.st.digest(w.ident)
		w.spend(1 + s.st.size()/4)
		if seen[s.block] == nil {
			seen[s.block] = map[digest]bool{}
		}
		if seen[s.block][key] {
			continue
		}
		seen[s.block][key] = true
		next, done := w.block(f, s, atReturn)
		todo = append(todo, next...)
		for _, e := range done {
			w.forget(f, e.st)
			key := e.st.digest(w.ident)
			key.row(13, e.result.id)
			if !endSeen[key] {
				endSeen[key] = true
				ends = append(ends, e)
			}
		}
	}
	return ends
}

// enter sets the phis of a block.
func (w *walk) enter(f *frame, s step) {
	if s.from == nil {
		return
	}
	edge := 0
	for i, p := range s.block.Preds {
		if p == s.from {
			edge = i
		}
	}
	var phis []*ssa.Phi
	var values []*term
	for _, in := range s.block.Instrs {
		phi, ok := in.(*ssa.Phi)
		if !ok {
			break
		}
		v := w.value(s.st, phi.Edges[edge])
		b, ok := phi.Type().Underlying().(*types.Basic)
		if ok && s.block.Dominates(s.from) && b.Info()&types.IsBoolean == 0 &&
			!w.countsFew(s.st, phi) {
			v = nil // a number that the loop has changed
		}
		if v != nil && v.grows(s.st.regs.get(w.register(phi))) {
			v = nil // the next one of a list
		}
		phis, values = append(phis, phi), append(values, v)
	}
	for i, phi := range phis {
		v := values[i]
		if v == nil {
			s.st.rerun(w.terms, phi)
			v = w.result(phi, 0)
		}
		s.st.regs.set(w.register(phi), v)
	}
}

// block runs the instructions of a block on every path that they split into.
func (w *walk) block(f *frame, s step, atReturn func(*state, *ssa.Return, *term)) (next []step, done []outcome) {
	states, after := []*state{s.st}, []*state(nil)
	for i, in := range s.block.Instrs {
		w.spend(len(states))
		switch in := in.(type) {
		case *ssa.Phi:
		case *ssa.If:
			for _, st := range states {
				next = append(next, w.branch(st, s.block, in)...)
			}
		case *ssa.Jump:
			for _, st := range states {
				next = append(next, step{s.block.Succs[0], s.block, st})
			}
		case *ssa.Return:
			for _, st := range states {
				values := make([]*term, len(in.Results))
				for i, r := range in.Results {
					values[i] = w.value(st, r)
				}
				result := w.tuple(values)
				if atReturn != nil {
					atReturn(st, in, result)
				}
				done = append(done, outcome{st, result})
			}
		case *ssa.Panic:
		default:
			for _, st := range states {
				after = w.instruction(f, st, in, after)
			}
			if states, after = after, states[:0]; len(states) == 0 {
				return next, done
			}
			if _, ok := in.(*ssa.Call); ok && len(states) > 2 {
				states = w.meet(f, s.block, i, states)
			}
		}
	}
	return next, done
}

// meet drops the states that no longer differ after an instruction of a block.
func (w *walk) meet(f *frame, b *ssa.BasicBlock, at int, states []*state) []*state {
	live := f.layout.liveAfter(b, at)
	seen := map[digest]bool{}
	return slices.DeleteFunc(states, func(st *state) bool {
		st.regs.drop(f.fn, live)
		w.sweep(st)
		key := st.digest(w.ident)
		there := seen[key]
		seen[key] = true
		return there
	})
}

func (w *walk) tuple(values []*term) *term {
	switch len(values) {
	case 0:
		return w.zero
	case 1:
		return values[0]
	}
	return w.make(term{op: opStruct, args: values})
}

// branch follows those sides of a condition that what is known does not contradict.
func (w *walk) branch(st *state, b *ssa.BasicBlock, in *ssa.If) []step {
	cond := w.value(st, in.Cond)
	st.facts.keep(func(_ *term, f fact) bool { return f.by != in }) // a loop asks again
	var next []step
	for i, side := range []bool{true, false} {
		s := st
		if i == 0 {
			s = st.clone()
		}
		if w.assume(s, cond, side, in) {
			next = append(next, step{b.Succs[i], b, s})
		}
	}
	return next
}

func (w *walk) layoutOf(fn *ssa.Function) *layout {
	l := w.layouts[fn]
	if l == nil {
		l = layoutOf(fn)
		w.layouts[fn] = l
	}
	return l
}

// outlives reports whether memory was stored in something that was found elsewhere, and so is
// still there when nobody here knows it any more.
func (w *walk) outlives(st *state, base, v *term) bool {
	return base.op == opLoad && len(w.loansOf(st, v)) > 0
}

// isLoadOf reports whether a value is what an address held when it was first loaded.
func isLoadOf(v, a *term) bool {
	if v.op == opScalar {
		v = v.args[0]
	}
	return v.op == opLoad && v.args[0] == a
}

// countsFew reports whether a phi is the index of a loop over few elements, whose number is
// known: then each turn is followed with its index.
func (w *walk) countsFew(st *state, phi *ssa.Phi) bool {
	if phi.Comment != "rangeindex" {
		return false
	}
	for _, in := range phi.Block().Instrs {
		if b, ok := in.(*ssa.BinOp); ok && b.Op == token.LSS {
			n := number(w.value(st, b.Y))
			if n == nil || n.Kind() != constant.Int {
				return false
			}
			few, exact := constant.Int64Val(n)
			return exact && few <= 8
		}
	}
	return false
}

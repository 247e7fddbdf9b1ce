package mmapvet

import (
	"go/token"
	"go/types"
	"strings"

	"golang.org/x/tools/go/ssa"
)

// value returns what a value is known to be.
func (w *walk) value(st *state, v ssa.Value) *term {
	switch v := v.(type) {
	case *ssa.Const:
		if v.Value == nil {
			return w.zeroOf(v.Type())
		}
		return w.constant(v)
	case *ssa.Global:
		return w.make(term{op: opGlobal, site: v})
	case *ssa.Function:
		return w.make(term{op: opFunc, site: v})
	case *ssa.Builtin:
		return w.none
	}
	if t := st.regs.get(w.register(v)); t != nil {
		return t
	}
	if p, ok := v.(*ssa.FreeVar); ok {
		return w.make(term{op: opFree, site: p})
	}
	return w.none
}

// zeroOf returns the zero value of a type.
func (w *walk) zeroOf(t types.Type) *term {
	if b, ok := t.Underlying().(*types.Basic); ok {
		switch {
		case b.Info()&types.IsBoolean != 0:
			return w.bool(false)
		case b.Info()&types.IsInteger != 0:
			return w.int(0)
		}
	}
	return w.zero
}

// instruction runs one instruction, which can split the path, or end it: it adds to after the
// states in which the path goes on.
func (w *walk) instruction(f *frame, st *state, in ssa.Instruction, after []*state) []*state {
	switch in := in.(type) {
	case *ssa.Call:
		for _, o := range w.call(st, w.siteOf(st, in)) {
			o.st.regs.set(w.register(in), w.typed(o.result, in.Type()))
			after = append(after, o.st)
		}
		return after
	case *ssa.Defer:
		c := w.siteOf(st, in)
		st.postpone(deferred{owner: ownerOf(f.fn), call: in, args: c.args, fn: c.fn})
	case *ssa.RunDefers:
		return append(after, w.runDefers(f, st)...)
	case *ssa.Go:
		w.goes(st, w.siteOf(st, in))
	case *ssa.Select:
		return append(after, w.choose(st, in)...)
	case *ssa.Store:
		w.store(st, w.value(st, in.Addr), w.value(st, in.Val), in.Pos(), in.Val.Type(), in)
	case *ssa.MapUpdate:
		at := w.index(w.value(st, in.Map), w.make(term{op: opResult, site: in}))
		w.intoMap(st, at, in.Value, in)
		w.intoMap(st, w.make(term{op: opIndex, n: 1, args: at.args}), in.Key, in)
	case *ssa.Send:
		w.send(st, w.value(st, in.Chan), w.value(st, in.X), in.Pos(), in.X.Type())
	case ssa.Value:
		st.regs.set(w.register(in), w.typed(w.compute(st, in), in.Type()))
	}
	return append(after, st)
}

// intoMap puts a value into a map. Of what leads to no memory it is enough that the map has it.
func (w *walk) intoMap(st *state, at *term, from ssa.Value, by ssa.Instruction) {
	v := w.typed(w.value(st, from), from.Type())
	if len(w.loansOf(st, v)) == 0 {
		w.giveAway(st, v)
		return
	}
	w.store(st, at, v, by.Pos(), from.Type(), by)
}

// typed drops the memory from what can lead to none by its type.
func (w *walk) typed(v *term, t types.Type) *term {
	if len(v.loans) > 0 && (!hasPointers(t) || isHandle(t)) {
		return w.scalar(v)
	}
	return v
}

// compute returns the value of an instruction that does nothing else.
func (w *walk) compute(st *state, in ssa.Value) *term {
	switch in := in.(type) {
	case *ssa.Alloc:
		return w.fresh(st, in)
	case *ssa.MakeMap, *ssa.MakeSlice, *ssa.MakeChan:
		return w.fresh(st, in)
	case *ssa.MakeClosure:
		args := make([]*term, len(in.Bindings))
		for i, b := range in.Bindings {
			args[i] = w.value(st, b)
		}
		return w.make(term{op: opFunc, site: in.Fn, args: args})
	case *ssa.UnOp:
		return w.unary(st, in)
	case *ssa.BinOp:
		return w.binary(st, in)
	case *ssa.ChangeType:
		return w.value(st, in.X)
	case *ssa.ChangeInterface:
		return w.value(st, in.X)
	case *ssa.SliceToArrayPointer:
		return w.value(st, in.X)
	case *ssa.Convert:
		return w.convert(st, in, in.X)
	case *ssa.MultiConvert:
		return w.convert(st, in, in.X)
	case *ssa.MakeInterface:
		x := w.value(st, in.X)
		if isHandle(in.X.Type()) || isPin(in.X.Type()) {
			w.handleOf[x] = true
			return x
		}
		if types.IsInterface(in.X.Type()) {
			return x // a type parameter
		}
		return w.make(term{op: opIface, args: []*term{x}})
	case *ssa.Extract:
		return w.extract(w.value(st, in.Tuple), in)
	case *ssa.Field:
		x := w.value(st, in.X)
		if isHandle(in.X.Type()) && ofLibrary(in.X.Type()) != "" {
			return x
		}
		return w.fieldIn(x, in.Field, in.Type())
	case *ssa.FieldAddr:
		x := w.value(st, in.X)
		if p, ok := in.X.Type().Underlying().(*types.Pointer); ok && isHandle(p.Elem()) {
			return x
		}
		return w.fieldAt(x, in.Field, fieldOf(in.X.Type(), in.Field))
	case *ssa.IndexAddr:
		return w.index(w.value(st, in.X), w.value(st, in.Index))
	case *ssa.Index:
		x := w.value(st, in.X)
		w.touch(st, x, in.Pos())
		return w.partOr(st, x, in)
	case *ssa.Lookup:
		x := w.value(st, in.X)
		w.touch(st, x, in.Pos())
		v := w.contents(st, x, in)
		if in.CommaOk {
			return w.tuple([]*term{v, w.result(in, 1)})
		}
		return v
	case *ssa.Slice:
		x := w.value(st, in.X)
		if len(x.loans) > 0 {
			return w.part(x)
		}
		if in.Low == nil && in.High == nil {
			return x
		}
		w.giveAway(st, x)
		return w.anew(st, in, 0)
	case *ssa.Range:
		return w.value(st, in.X)
	case *ssa.Next:
		x := w.value(st, in.Iter)
		w.touch(st, x, in.Pos())
		v := w.contents(st, x, in)
		st.rerun(w.terms, in)
		return w.tuple([]*term{w.result(in, 1), v, v})
	case *ssa.TypeAssert:
		x := w.value(st, in.X)
		if x.op == opIface {
			x = x.args[0]
		}
		if in.CommaOk {
			st.rerun(w.terms, in)
			return w.tuple([]*term{x, w.result(in, 1)})
		}
		return x
	}
	return w.anew(st, in, 0)
}

// fresh returns the address of a new variable.
func (w *walk) fresh(st *state, in ssa.Value) *term {
	st.rerun(w.terms, in)
	return w.make(term{op: opAlloc, site: in})
}

// anew returns something unknown that a site makes.
func (w *walk) anew(st *state, site any, n int) *term {
	st.rerun(w.terms, site)
	return w.result(site, n)
}

// element returns an element of something that leads to memory, or a result that leads there:
// that which a site yields, for another site can yield another one.
func (w *walk) element(st *state, of *term, site any) *term {
	st.rerun(w.terms, site)
	args := []*term{w.older(of, site)}
	if args[0].op == opPart {
		args = args[0].args
	}
	return w.make(term{op: opPart, site: site, args: args})
}

func (w *walk) partOr(st *state, x *term, in ssa.Value) *term {
	if len(x.loans) > 0 {
		return w.element(st, x, in)
	}
	return w.anew(st, in, 0)
}

// contents returns some element of a map, a slice or a channel.
func (w *walk) contents(st *state, x *term, in ssa.Value) *term {
	if len(x.loans) > 0 {
		return w.element(st, x, in)
	}
	var leads []*term
	for a, c := range st.mem.all() {
		if a.op == opIndex && a.args[0] == x && len(c.v.loans) > 0 {
			leads = append(leads, c.v)
		}
	}
	if len(leads) > 0 {
		return w.element(st, w.make(term{op: opStruct, args: leads}), in)
	}
	return w.anew(st, in, 0)
}

func (w *walk) extract(tuple *term, in *ssa.Extract) *term {
	switch tuple.op {
	case opStruct:
		if in.Index < len(tuple.args) {
			return tuple.args[in.Index]
		}
	case opResult:
		return w.make(term{op: opResult, site: tuple.site, gen: tuple.gen, n: in.Index + 1})
	case opZero:
		return w.zero
	}
	return w.none
}

func typeParamCore(p *types.TypeParam) types.Type {
	i, ok := p.Constraint().Underlying().(*types.Interface)
	if !ok {
		return nil
	}
	for e := range i.EmbeddedTypes() {
		if u, ok := e.(*types.Union); ok && u.Len() > 0 {
			return u.Term(0).Type().Underlying()
		}
		return e.Underlying()
	}
	return nil
}

// choose follows each case of a select.
func (w *walk) choose(st *state, in *ssa.Select) []*state {
	st.rerun(w.terms, in)
	w.waits(st)
	var after []*state
	first := 0
	if !in.Blocking {
		first = -1
	}
	for i := first; i < len(in.States); i++ {
		s := st.clone()
		values := []*term{w.int(i), w.result(in, 1)}
		received := 0
		for _, c := range in.States {
			if c.Dir == types.RecvOnly {
				received++
				values = append(values, w.result(in, 1+received))
			}
		}
		if i >= 0 && in.States[i].Dir == types.SendOnly {
			c := in.States[i]
			w.send(s, w.value(s, c.Chan), w.value(s, c.Send), c.Pos, c.Send.Type())
		}
		s.regs.set(w.register(in), w.tuple(values))
		after = append(after, s)
	}
	return after
}

// runDefers runs what a function has deferred, the last first.
func (w *walk) runDefers(f *frame, st *state) []*state {
	states, after := []*state{st}, []*state(nil)
	for len(states) > 0 {
		s := states[0]
		states = states[1:]
		n := len(s.defers) - 1
		if n < 0 || s.defers[n].owner != f.fn {
			after = append(after, s)
			continue
		}
		d := s.defers[n]
		s.defers = s.defers[:n:n]
		c := w.siteOf(s, d.call)
		c.args, c.fn, c.deferred = d.args, d.fn, true
		w.spend(1)
		for _, o := range w.call(s, c) {
			states = append(states, o.st)
		}
	}
	return after
}

// ownerOf returns the function whose return runs what fn defers: the body of a loop over an
// iterator is a function for go/ssa only.
func ownerOf(fn *ssa.Function) *ssa.Function {
	for strings.HasPrefix(fn.Synthetic, "range-over-func") {
		fn = fn.Parent()
	}
	return fn
}

// positionOf returns where an instruction is: those that go/ssa makes of a range statement have
// no position of their own.
func positionOf(in ssa.Instruction) token.Pos {
	if in.Pos().IsValid() {
		return in.Pos()
	}
	var operands [4]*ssa.Value
	for _, o := range in.Operands(operands[:0]) {
		if *o != nil && (*o).Pos().IsValid() {
			return (*o).Pos()
		}
	}
	for _, other := range in.Block().Instrs {
		if other.Pos().IsValid() {
			return other.Pos()
		}
	}
	return in.Parent().Pos()
}

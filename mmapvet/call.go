package mmapvet

import (
	"go/token"
	"go/types"
	"slices"
	"strings"

	"golang.org/x/tools/go/ssa"
)

// A site is a call, with what is known of its arguments.
type site struct {
	instr    ssa.CallInstruction
	key      any // what its results are named by
	pos      token.Pos
	common   *ssa.CallCommon
	fn       *term   // the function, unless it is a method of an interface
	args     []*term // the receiver first
	deferred bool
	callback *types.Func // called by the library or by a lender, and not by this program
}

func (w *walk) siteOf(st *state, in ssa.CallInstruction) *site {
	c := &site{instr: in, key: in, pos: in.Pos(), common: in.Common()}
	if c.common.IsInvoke() {
		c.args = append(c.args, w.value(st, c.common.Value))
	} else {
		c.fn = w.value(st, c.common.Value)
	}
	for _, a := range c.common.Args {
		c.args = append(c.args, w.value(st, a))
	}
	return c
}

// argType returns the type of an argument, the receiver of a method of an interface first.
func (c *site) argType(i int) types.Type {
	if c.callback != nil {
		return paramType(c.callback.Signature(), i)
	}
	if c.common.IsInvoke() {
		if i == 0 {
			return c.common.Value.Type()
		}
		i--
	}
	if i < len(c.common.Args) {
		return c.common.Args[i].Type()
	}
	return types.Typ[types.Invalid]
}

// object returns the declared function that is called, where it is known.
func (c *site) object() *types.Func {
	if c.common.IsInvoke() {
		return c.common.Method
	}
	if c.fn != nil && c.fn.op == opFunc {
		if fn, ok := c.fn.site.(*ssa.Function); ok {
			return objectOf(fn)
		}
	}
	return nil
}

func objectOf(fn *ssa.Function) *types.Func {
	if o := fn.Origin(); o != nil {
		fn = o
	}
	f, _ := fn.Object().(*types.Func)
	if f != nil {
		f = f.Origin()
	}
	return f
}

// used reports whether a result of the call is read: result n of several, or the only one.
func (c *site) used(n int) bool {
	v, ok := c.instr.(*ssa.Call)
	if !ok {
		return false
	}
	if c.common.Signature().Results().Len() == 1 {
		return len(*v.Referrers()) > 0
	}
	for _, r := range *v.Referrers() {
		switch r := r.(type) {
		case *ssa.Extract:
			if r.Index == n && len(*r.Referrers()) > 0 {
				return true
			}
		case *ssa.Return:
			return true
		}
	}
	return false
}

// onlyForItsError reports whether all results go straight to a function that returns an error
// and nothing else: second(mmap.Resize(m, -1)).
func (c *site) onlyForItsError() bool {
	v, ok := c.instr.(*ssa.Call)
	if !ok {
		return false
	}
	var taker *ssa.Call
	for _, r := range *v.Referrers() {
		e, ok := r.(*ssa.Extract)
		if !ok || len(*e.Referrers()) != 1 {
			return false
		}
		call, ok := (*e.Referrers())[0].(*ssa.Call)
		if !ok || taker != nil && call != taker {
			return false
		}
		taker = call
	}
	if taker == nil {
		return false
	}
	results := taker.Call.Signature().Results()
	return results.Len() == 1 && isErrorType(results.At(0).Type())
}

// errorAt returns which result is the error, -1 if there is none.
func errorAt(sig *types.Signature) int {
	n := sig.Results().Len()
	if n > 0 && isErrorType(sig.Results().At(n-1).Type()) {
		return n - 1
	}
	return -1
}

func isErrorType(t types.Type) bool {
	return types.Identical(t, types.Universe.Lookup("error").Type())
}

// unknownResults are results of which nothing is known but who made them.
func (w *walk) unknownResults(st *state, c *site) *term {
	st.rerun(w.terms, c.key)
	n := c.common.Signature().Results().Len()
	values := make([]*term, n)
	for i := range values {
		values[i] = w.result(c.key, i)
	}
	return w.tuple(values)
}

// call runs a call, and returns the ways in which it can end.
func (w *walk) call(st *state, c *site) []outcome {
	w.spend(1)
	if b, ok := c.common.Value.(*ssa.Builtin); ok {
		return []outcome{{st, w.builtin(st, c, b)}}
	}
	w.comparesArgs(st, c)
	if f := c.fn; f != nil && f.op == opFunc {
		fn := f.site.(*ssa.Function)
		if len(f.args) > 0 && strings.HasPrefix(fn.Synthetic, "bound") {
			c.args = append([]*term{f.args[0]}, c.args...)
		} else if fn.Parent() != nil {
			return w.callLiteral(st, c, f, c.args)
		}
	}
	obj := c.object()
	if e, name, ok := entryOf(obj); ok {
		return w.library(st, c, e, name)
	}
	if obj != nil && c.common.IsInvoke() && w.handleOf[unwrapped(c.args[0])] {
		if e, ok := byMethod(obj.Name()); ok {
			c.args[0] = unwrapped(c.args[0])
			return w.library(st, c, e, obj.Name())
		}
		if _, pinned := st.pins.lookup(unwrapped(c.args[0])); pinned && obj.Name() == "Unpin" {
			c.args[0] = unwrapped(c.args[0])
			return w.library(st, c, library["Pin.Unpin"], "Unpin")
		}
	}
	for i, a := range c.args {
		if hasPointers(c.argType(i)) {
			w.touchDeep(st, a, c.pos)
			w.unguardedDeep(st, a, c.pos)
		}
	}
	if endsPath(obj, c) {
		return nil
	}
	if obj == nil {
		return w.callUnknown(st, c, nil)
	}
	if s := w.summaryOf(obj, c); s != nil {
		return w.apply(st, c, s, obj)
	}
	if isStandard(obj.Pkg()) {
		return w.callStandard(st, c, obj)
	}
	return w.callUnknown(st, c, obj)
}

func unwrapped(v *term) *term {
	if v.op == opIface {
		return v.args[0]
	}
	return v
}

// endsPath reports whether a call never returns, as far as go/ssa does not know it already.
func endsPath(obj *types.Func, c *site) bool {
	if obj == nil || obj.Pkg() == nil || obj.Pkg().Path() != "testing" || !c.common.IsInvoke() {
		return false
	}
	switch obj.Name() {
	case "Fatal", "Fatalf", "FailNow", "Skip", "Skipf", "SkipNow":
		return true
	}
	return false
}

// callLiteral runs a function literal where it is called.
func (w *walk) callLiteral(st *state, c *site, f *term, args []*term) []outcome {
	fn := f.site.(*ssa.Function)
	if slices.Contains(w.stack, fn) || len(w.stack) > 12 || len(fn.Blocks) == 0 {
		return w.callUnknown(st, c, nil)
	}
	w.inlined[fn] = true
	for i, p := range fn.Params {
		v := w.none
		if i < len(args) {
			v = args[i]
		}
		st.regs.set(w.register(p), v)
	}
	for i, p := range fn.FreeVars {
		st.regs.set(w.register(p), f.args[i])
	}
	return w.run(fn, st, func(st *state, in *ssa.Return, v *term) {
		w.returnAt[v] = in.Pos()
		for _, r := range in.Results {
			if hasPointers(r.Type()) {
				w.touchDeep(st, w.value(st, r), in.Pos())
			}
		}
	})
}

// callUnknown is a call of something of which nothing is known: it can keep what it gets, and
// change what it reaches.
func (w *walk) callUnknown(st *state, c *site, obj *types.Func) []outcome {
	if c.fn != nil && w.lendsTo(st, c) {
		return []outcome{{st, w.unknownResults(st, c)}}
	}
	if lends := w.lenders[c.fn]; c.fn != nil && len(lends) > 0 && lends[0].Param < len(c.args) {
		return w.lenderCalled(st, c, &Summary{Lends: lends, Writes: []string{anything}}, lends[0])
	}
	if o, ok := w.iterate(st, c); ok {
		return o
	}
	for i, a := range c.args {
		if isErrorType(c.argType(i)) && obj != nil && !w.presume(st, a, c) {
			return nil
		}
		w.giveAway(st, a)
	}
	w.havoc(st)
	st.pending = nil
	return []outcome{{st, w.unknownResults(st, c)}}
}

// presume is for a function of which nothing is known and that gets an error. As far as anybody
// knows it does not return with one, unless the program has asked whether it is one. It is false
// if the path ends there.
func (w *walk) presume(st *state, err *term, c *site) bool {
	if f, ok := st.facts.lookup(w.isNil(err)); ok && !f.truth {
		if _, asked := f.by.(*ssa.If); !asked {
			return false
		}
	} else if _, param := w.params[err]; param && !ok {
		st.facts.set(w.presumedNil(err), fact{true, c.instr})
	}
	return true
}

// presumedNil is the condition that a parameter is nil as far as anybody knows: a function of
// which nothing is known has got it, and has returned.
func (w *walk) presumedNil(err *term) *term {
	return w.make(term{op: opCall, site: presumed, args: []*term{err}})
}

const presumed = "presumed"

// iterate runs the body of a loop over an iterator that is not known: not at all, once, twice.
func (w *walk) iterate(st *state, c *site) ([]outcome, bool) {
	if c.common.IsInvoke() || len(c.args) != 1 {
		return nil, false
	}
	body, ok := c.args[0].site.(*ssa.Function)
	if !ok || c.args[0].op != opFunc || !strings.HasPrefix(body.Synthetic, "range-over-func") {
		return nil, false
	}
	if slices.Contains(w.stack, body) {
		return nil, false
	}
	element := func(st *state) []*term {
		args := make([]*term, len(body.Params))
		for i, p := range body.Params {
			args[i] = w.anew(st, p, 0)
			if c.fn != nil && len(c.fn.loans) > 0 && hasPointers(p.Type()) {
				args[i] = w.element(st, c.fn, p)
			}
		}
		return args
	}
	ends := []outcome{{st.clone(), w.zero}}
	states := []*state{st}
	for range 2 {
		var again []*state
		for _, s := range states {
			for _, o := range w.callLiteral(s, c, c.args[0], element(s)) {
				if more, known := o.result.truth(); known && !more {
					ends = append(ends, outcome{o.st, w.zero})
					continue
				}
				ends = append(ends, outcome{o.st.clone(), w.zero})
				again = append(again, o.st)
			}
		}
		states = again
	}
	return ends, true
}

// goes is a go statement: the goroutine has what it gets until somebody waits for it.
func (w *walk) goes(st *state, c *site) {
	args := c.args
	if c.fn != nil && c.fn.op == opFunc {
		args = append(args[:len(args):len(args)], c.fn)
	}
	for _, a := range args {
		if len(w.loansOf(st, a)) > 0 {
			st.suspend(pending{a, c.pos, "a goroutine that nobody waits for here has it"})
		}
		w.giveAway(st, a)
	}
}

func (w *walk) send(st *state, ch, v *term, pos token.Pos, t types.Type) {
	w.waits(st)
	v = w.typed(v, t)
	w.touchDeep(st, v, pos)
	if len(w.loansOf(st, v)) > 0 {
		st.suspend(pending{v, pos, "whoever receives it can use it later"})
	}
	w.giveAway(st, v)
}

// paramType returns the type of a parameter, the receiver first.
func paramType(sig *types.Signature, i int) types.Type {
	if recv := sig.Recv(); recv != nil {
		if i == 0 {
			return recv.Type()
		}
		i--
	}
	if i < sig.Params().Len() {
		return sig.Params().At(i).Type()
	}
	return types.Typ[types.Invalid]
}

package mmapvet

import (
	"fmt"
	"go/token"
	"go/types"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/tools/go/ssa"
)

// How much work a function may take. What takes more is left alone.
const mostWork = 40_000

// summarize walks through a function once, reports what it finds there, and returns what
// callers should know. It is nil while the function is being walked through, and for one that
// took too long.
func (k *checker) summarize(fn *ssa.Function) *Summary {
	if s, ok := k.summaries[fn]; ok {
		return s
	}
	k.summaries[fn] = nil
	if k.depth > 40 {
		return nil
	}
	k.depth++
	defer func() { k.depth-- }()
	w := newWalk(k, fn)
	conditions(fn, w.twice)
	if !w.start() {
		k.stats.abandoned = append(k.stats.abandoned, fn.String())
		return nil
	}
	k.stats.walked++
	k.stats.work += mostWork - w.budget
	w.publish()
	s := w.summary
	s.Writes = k.writesOf(fn)
	if len(s.Exits) > 12 {
		s.Exits = blurred(s.Exits)
	}
	k.summaries[fn] = s
	return s
}

// start walks, and reports whether it came to an end.
func (w *walk) start() (done bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(overBudget); !ok {
				panic(r)
			}
			done = false
		}
	}()
	st := new(state)
	for i, p := range w.root.Params {
		v := w.make(term{op: opParam, site: p})
		switch t := p.Type(); {
		case isHandle(t):
			st.handles.set(v, mapping{})
		case isPin(t):
			st.pins.set(v, pin{of: w.none})
		case hasPointers(t):
			v = w.make(term{op: opLent, site: p})
			st.loans.set(v, loan{by: byCaller})
		}
		w.params[v] = i
		st.regs.set(w.register(p), v)
	}
	w.run(w.root, st, w.ends)
	return true
}

// ends looks at what a path leaves behind when the function returns.
func (w *walk) ends(st *state, in *ssa.Return, result *term) {
	values := []*term{result}
	if len(in.Results) > 1 {
		values = result.args
	}
	if len(in.Results) == 0 {
		values = nil
	}
	pos := in.Pos()
	if !pos.IsValid() {
		pos = w.closing(in.Parent())
	}
	for i, v := range values {
		if hasPointers(in.Results[i].Type()) {
			w.touched(st, w.loansOf(st, v), pos, true)
		}
		w.noteResult(st, v)
	}
	w.summary.exit(w, st, values, in)
	for _, v := range values {
		w.giveAway(st, v)
	}
	if w.root.Name() == "main" && w.root.Pkg != nil && w.root.Pkg.Pkg.Name() == "main" {
		return
	}
	for v, h := range st.handles.all() {
		if h.owned && h.status == isLive {
			w.unclosed(v, h, pos)
		}
	}
	for _, p := range st.pins.all() {
		if p.owned && !p.ended && p.at.IsValid() {
			w.find(st, &finding{
				category: pins, pos: p.at,
				message: fmt.Sprintf("the pin is not ended where the function returns on line %d: "+
					"transitions return ErrBusy from then on, and Close never unmaps", w.line(pos)),
				related: []place{{pos, "returns here"}},
			})
		}
	}
}

func (w *walk) unclosed(v *term, h mapping, pos token.Pos) {
	name := w.names[h.at]
	f := &finding{
		category: unclosed, pos: h.at,
		message: fmt.Sprintf("the mapping that %s makes is not closed where the function returns on line %d: "+
			"it stays mapped until the collector finds it", name, w.line(pos)),
		related: []place{{pos, "returns here"}},
	}
	if h.lateOld.IsValid() {
		f.message = fmt.Sprintf("the mapping that %s returns is not closed: the deferred Close of line %d has the old "+
			"handle, and returns ErrMoved", name, w.line(h.lateOld))
		f.related = append([]place{{h.lateOld, "closes the old handle"}}, f.related...)
		f.deferAt = h.lateOld
	}
	w.find(nil, f)
}

// closing is where a function without a return statement ends.
func (w *walk) closing(fn *ssa.Function) token.Pos {
	if n := fn.Syntax(); n != nil {
		return n.End() - 1
	}
	return fn.Pos()
}

// noteResult notes a function that is returned and lends memory to its callback: an iterator.
func (w *walk) noteResult(st *state, v *term) {
	fn, ok := v.site.(*ssa.Function)
	if v.op != opFunc || !ok || fn.Parent() == nil || w.inlined[fn] {
		return
	}
	if s := w.checker.summarize(fn); s != nil && len(s.Lends) > 0 {
		w.lenders[v] = s.Lends
	}
}

// exit adds a way out to the summary.
func (s *Summary) exit(w *walk, st *state, values []*term, in *ssa.Return) {
	e := Exit{Params: make([]Effect, len(w.root.Params)), Results: make([]Result, len(values))}
	for v, i := range w.params {
		p := &e.Params[i]
		if h, ok := st.handles.lookup(v); ok {
			p.Used = h.used
			switch {
			case h.status == isMoved:
				p.Was = "moved"
			case h.status == isClosed:
				p.Was = "closed"
			case h.sealed:
				p.Was = "sealed"
			case h.kept:
				p.Was = "kept"
			}
		}
		if q, ok := st.pins.lookup(v); ok && q.ended {
			p.Was = "unpinned"
		}
		if f, ok := st.facts.lookup(w.isNil(v)); ok {
			p.Nil = -1
			if f.truth {
				p.Nil = 1
			}
		} else if st.facts.has(w.presumedNil(v)) {
			p.Nil = presumablyNil
		}
		if _, ok := st.loans.lookup(v); ok {
			if st.shared.get(v) {
				p.Was = "kept"
			}
			w.keptParam(st, v, p)
		}
	}
	for i, v := range values {
		e.Results[i] = w.resultOf(st, v, in.Results[i].Type())
		for j, other := range values {
			if i != j && e.Results[i].New != "" && w.holdsIt(st, other, v) {
				e.Results[i].New = "" // the other result ends it
			}
		}
	}
	if !slices.ContainsFunc(s.Exits, func(o Exit) bool { return reflect.DeepEqual(o, e) }) {
		s.Exits = append(s.Exits, e)
	}
}

// keptParam finds where memory that a parameter leads to is kept when the function returns.
func (w *walk) keptParam(st *state, v *term, p *Effect) {
	for a, c := range st.mem.all() {
		if isLoadOf(c.v, a) || !c.pos.IsValid() || !w.leadsTo(st, c.v, v) {
			continue
		}
		switch b := a.base(); {
		case b == v:
		case b.op == opLent && w.isParam(b):
			if p.Into >= 0 {
				p.Into = w.params[b] + 1
			}
		case b.op == opGlobal:
			p.Into = -1
		case b.op == opLoad && len(b.loans) > 0:
			if n, ok := w.params[b.loans[0]]; ok && p.Into >= 0 && b.loans[0] != v {
				p.Into = n + 1
			}
		}
	}
	for _, q := range st.pending {
		if w.leadsTo(st, q.v, v) {
			p.Into, p.While = -1, true
		}
	}
}

func (w *walk) resultOf(st *state, v *term, t types.Type) Result {
	var r Result
	if n, ok := w.params[v]; ok {
		r.Same = n + 1
		return r
	}
	if truth, ok := v.truth(); ok {
		r.Bool = fmt.Sprint(truth)
		return r
	}
	if h, ok := st.handles.lookup(v); ok && h.owned && h.status == isLive {
		r.New = "handle"
	}
	if p, ok := st.pins.lookup(v); ok && p.owned && !p.ended {
		r.New = "pin"
	}
	if isNil, known := w.holds(st, w.isNil(v)); known {
		r.Nil = -1
		if isNil {
			r.Nil = 1
		}
	}
	// An error that was made elsewhere leads to nothing, as far as anybody knows.
	if hasPointers(t) && !isHandle(t) && !(isErrorType(t) && (v.op == opPart || v.op == opLent)) {
		for _, m := range w.loansOf(st, v) {
			if n, ok := w.params[m]; ok {
				l := Lead{n, fieldOfParam(v, m)}
				if !slices.Contains(r.Leads, l) {
					r.Leads = append(r.Leads, l)
				}
			}
		}
		slices.SortFunc(r.Leads, func(a, b Lead) int { return a.Param*1000 + a.Field - b.Param*1000 - b.Field })
	}
	for _, m := range w.loansOf(st, v) {
		if l := st.loans.get(m); l.of != nil && !l.ended && (l.by == byUnsafe || l.by == byPin) {
			if n, ok := w.params[l.of]; ok {
				r.Bytes = n + 1
			}
		}
	}
	r.Lends = w.lenders[v]
	return r
}

// holdsIt reports whether a value leads to another: a function that closes a mapping, say.
func (w *walk) holdsIt(st *state, v, other *term) bool {
	if v.op != opFunc && v.op != opStruct && v.op != opAlloc {
		return false
	}
	probe := st.clone()
	probe.handles, probe.pins = dict[mapping]{}, dict[pin]{}
	probe.handles.set(other, mapping{owned: true})
	probe.pins.set(other, pin{owned: true})
	w.giveAway(probe, v)
	return !probe.handles.get(other).owned
}

// fieldOfParam returns which field of what a parameter points to a value comes from, -1 if
// that is not known.
func fieldOfParam(v, param *term) int {
	if v.op == opField && v.args[0] == param {
		return v.n
	}
	found := -1
	for _, a := range v.args {
		if n := fieldOfParam(a, param); n >= 0 {
			found = n
		}
	}
	return found
}

// blurred is one way out that allows for all of several: what they have in common.
func blurred(exits []Exit) []Exit {
	e := Exit{Params: slices.Clone(exits[0].Params), Results: make([]Result, len(exits[0].Results))}
	for i := range e.Params {
		e.Params[i].Was, e.Params[i].Nil = "kept", 0
		for _, o := range exits {
			e.Params[i].Used = e.Params[i].Used && o.Params[i].Used
			if e.Params[i].Nil = o.Params[i].Nil; o.Params[i].Nil == 0 {
				break
			}
		}
		for _, o := range exits {
			if o.Params[i].Nil != e.Params[i].Nil {
				e.Params[i].Nil = 0
			}
		}
		e.Params[i].Into = 0
	}
	return []Exit{e}
}

// isTest reports whether a function is in a test file.
func (k *checker) isTest(pos token.Pos) bool {
	return strings.HasSuffix(k.pass.Fset.Position(pos).Filename, "_test.go")
}

package mmapvet

import "golang.org/x/tools/go/ssa"

// A layout is what the walk needs to know of a function's blocks. Registers have numbers there.
type layout struct {
	index map[ssa.Value]int
	phis  []*ssa.BasicBlock // by register: the block that it is a phi of
	live  []bitSet          // by block: the registers that it, or what follows, still reads
	flows []flow            // by block
	last  []map[int]int     // by block: which instruction reads a register last; nil if nobody has asked
}

// liveAfter returns what tells whether a register is still read after an instruction of a block.
func (l *layout) liveAfter(b *ssa.BasicBlock, at int) func(register int) bool {
	if l.last[b.Index] == nil {
		last := map[int]int{}
		var operands [8]*ssa.Value
		for i, in := range b.Instrs {
			for _, o := range in.Operands(operands[:0]) {
				if *o != nil && isRegister(*o) {
					last[l.numberOf(*o)] = i
				}
			}
		}
		l.last[b.Index] = last
	}
	return func(register int) bool {
		if l.last[b.Index][register] > at {
			return true
		}
		for i, s := range b.Succs {
			if l.live[s.Index].has(register) || l.flows[b.Index].edges[i].has(register) {
				return true
			}
		}
		return false
	}
}

// phiOf returns the block that a register is a phi of, nil if it is none.
func (l *layout) phiOf(register int) *ssa.BasicBlock {
	if register < len(l.phis) {
		return l.phis[register]
	}
	return nil
}

// numberOf returns the number of a register.
func (l *layout) numberOf(v ssa.Value) int {
	n, ok := l.index[v]
	if !ok {
		n = len(l.index)
		l.index[v] = n
		for len(l.phis) <= n {
			l.phis = append(l.phis, nil)
		}
		if phi, ok := v.(*ssa.Phi); ok {
			l.phis[n] = phi.Block()
		}
	}
	return n
}

type bitSet []uint64

func (b *bitSet) add(n int) {
	for len(*b) <= n/64 {
		*b = append(*b, 0)
	}
	(*b)[n/64] |= 1 << (n % 64)
}

func (b bitSet) has(n int) bool { return n/64 < len(b) && b[n/64]&(1<<(n%64)) != 0 }

// A flow is what a block reads of what others have set, and what it sets.
type flow struct {
	reads, sets bitSet
	edges       []bitSet // by successor: what its phis read
}

func layoutOf(fn *ssa.Function) *layout {
	n := len(fn.Blocks)
	l := &layout{index: map[ssa.Value]int{}, live: make([]bitSet, n), flows: make([]flow, n), last: make([]map[int]int, n)}
	for i, b := range fn.Blocks {
		l.flows[i] = l.flowOf(b)
	}
	for i := range l.live {
		l.live[i] = make(bitSet, len(l.index)/64+1)
	}
	for changed := true; changed; {
		changed = false
		for i := n - 1; i >= 0; i-- {
			changed = l.spread(fn.Blocks[i], l.flows[i]) || changed
		}
	}
	return l
}

func (l *layout) flowOf(b *ssa.BasicBlock) (f flow) {
	for _, s := range b.Succs {
		var edge bitSet
		for i, p := range s.Preds {
			if p != b {
				continue
			}
			for _, in := range s.Instrs {
				phi, ok := in.(*ssa.Phi)
				if !ok {
					break
				}
				if isRegister(phi.Edges[i]) {
					edge.add(l.numberOf(phi.Edges[i]))
				}
			}
		}
		f.edges = append(f.edges, edge)
	}
	var operands [8]*ssa.Value
	for _, in := range b.Instrs {
		if _, ok := in.(*ssa.Phi); !ok {
			for _, o := range in.Operands(operands[:0]) {
				if *o != nil && isRegister(*o) {
					if n := l.numberOf(*o); !f.sets.has(n) {
						f.reads.add(n)
					}
				}
			}
		}
		if v, ok := in.(ssa.Value); ok {
			f.sets.add(l.numberOf(v))
		}
	}
	return f
}

// spread brings what is live at the end of a block to its beginning.
func (l *layout) spread(b *ssa.BasicBlock, f flow) (changed bool) {
	live := l.live[b.Index]
	for word := range live {
		var w uint64
		for i, s := range b.Succs {
			w |= l.live[s.Index][word]
			if word < len(f.edges[i]) {
				w |= f.edges[i][word]
			}
		}
		if word < len(f.sets) {
			w &^= f.sets[word]
		}
		if word < len(f.reads) {
			w |= f.reads[word]
		}
		changed = changed || w&^live[word] != 0
		live[word] |= w
	}
	return changed
}

// isRegister reports whether a value is kept among the registers of a state.
func isRegister(v ssa.Value) bool {
	switch v.(type) {
	case *ssa.Const, *ssa.Global, *ssa.Function, *ssa.Builtin:
		return false
	}
	return true
}

// conditions counts the conditions of a function and of its literals, by how they read.
func conditions(fn *ssa.Function, seen map[string]int) {
	for _, b := range fn.Blocks {
		if i, ok := b.Instrs[len(b.Instrs)-1].(*ssa.If); ok {
			seen[reads(i.Cond, 0)]++
		}
	}
	for _, lit := range fn.AnonFuncs {
		conditions(lit, seen)
	}
}

// reads is how an expression reads, with != as == and so on.
func reads(v ssa.Value, depth int) string {
	if depth > 5 {
		return "…"
	}
	switch v := v.(type) {
	case *ssa.BinOp:
		x, y, op := reads(v.X, depth+1), reads(v.Y, depth+1), v.Op
		op, x, y, _ = normal(op, x, y)
		return "(" + x + op.String() + y + ")"
	case *ssa.UnOp:
		if v.Op.String() == "!" {
			return reads(v.X, depth)
		}
		return v.Op.String() + reads(v.X, depth+1)
	case *ssa.FieldAddr:
		return reads(v.X, depth+1) + "." + fieldOf(v.X.Type(), v.Field).Name()
	case *ssa.Field:
		return reads(v.X, depth+1) + "." + fieldOf(v.X.Type(), v.Field).Name()
	case *ssa.Alloc:
		return v.Comment
	case *ssa.Call:
		s := v.Call.Value.Name()
		if v.Call.IsInvoke() {
			s += "." + v.Call.Method.Name()
		}
		for _, a := range v.Call.Args {
			s += "," + reads(a, depth+1)
		}
		return s + ")"
	case *ssa.Extract, *ssa.Phi, *ssa.Lookup, *ssa.TypeAssert:
		return v.Parent().Name() + "/" + v.Name()
	}
	return v.Name()
}

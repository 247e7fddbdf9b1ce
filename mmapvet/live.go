package mmapvet

import "golang.org/x/tools/go/ssa"

// A layout is what the walk needs to know of a function's blocks.
type layout struct {
	live  []map[ssa.Value]bool // by block: the registers that it, or what follows, still reads
	loops []bool               // by block: something jumps back to it
}

func layoutOf(fn *ssa.Function) *layout {
	l := &layout{live: make([]map[ssa.Value]bool, len(fn.Blocks)), loops: make([]bool, len(fn.Blocks))}
	for i := range l.live {
		l.live[i] = map[ssa.Value]bool{}
	}
	for changed := true; changed; {
		changed = false
		for i := len(fn.Blocks) - 1; i >= 0; i-- {
			changed = l.flow(fn.Blocks[i]) || changed
		}
	}
	for _, b := range fn.Blocks {
		for _, s := range b.Succs {
			if s.Dominates(b) {
				l.loops[s.Index] = true
			}
		}
	}
	return l
}

// flow brings what is live at the end of a block to its beginning.
func (l *layout) flow(b *ssa.BasicBlock) (changed bool) {
	live := map[ssa.Value]bool{}
	for _, s := range b.Succs {
		for v := range l.live[s.Index] {
			live[v] = true
		}
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
					live[phi.Edges[i]] = true
				}
			}
		}
	}
	var operands [8]*ssa.Value
	for i := len(b.Instrs) - 1; i >= 0; i-- {
		in := b.Instrs[i]
		if v, ok := in.(ssa.Value); ok {
			delete(live, v)
		}
		if _, ok := in.(*ssa.Phi); ok {
			continue
		}
		for _, o := range in.Operands(operands[:0]) {
			if *o != nil && isRegister(*o) {
				live[*o] = true
			}
		}
	}
	known := l.live[b.Index]
	for v := range live {
		if !known[v] {
			known[v] = true
			changed = true
		}
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

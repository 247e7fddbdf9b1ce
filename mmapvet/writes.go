package mmapvet

import (
	"go/token"
	"go/types"
	"slices"

	"golang.org/x/tools/go/ssa"
)

// writesOf returns what a function can change of what others have, too; see Summary.Writes.
func (k *checker) writesOf(fn *ssa.Function) []string {
	set := map[string]bool{}
	k.writes(fn, set, map[*ssa.Function]bool{})
	if set[anything] {
		return []string{anything}
	}
	names := make([]string, 0, len(set))
	for n := range set {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func (k *checker) writes(fn *ssa.Function, set map[string]bool, seen map[*ssa.Function]bool) {
	if seen[fn] || set[anything] {
		return
	}
	seen[fn] = true
	if len(seen) > 200 {
		set[anything] = true
		return
	}
	for _, lit := range fn.AnonFuncs {
		k.writes(lit, set, seen)
	}
	for _, b := range fn.Blocks {
		for _, in := range b.Instrs {
			switch in := in.(type) {
			case *ssa.Store:
				if hasPointers(in.Val.Type()) || isBoolType(in.Val.Type()) {
					if n := addressName(in.Addr); n != "" {
						set[n] = true
					}
				}
			case *ssa.MapUpdate:
				set["[]"] = true
			case *ssa.Send, *ssa.Select:
				set[anything] = true
			case *ssa.UnOp:
				if in.Op == token.ARROW {
					set[anything] = true
				}
			case ssa.CallInstruction:
				k.callWrites(in.Common(), set, seen)
			}
		}
	}
}

func isBoolType(t types.Type) bool {
	b, ok := t.Underlying().(*types.Basic)
	return ok && b.Info()&types.IsBoolean != 0
}

// addressName is placeName of an address in the program, "" for a variable of its own.
func addressName(v ssa.Value) string {
	switch v := v.(type) {
	case *ssa.Alloc, *ssa.FreeVar:
		return "" // a literal that changes what it captures is looked at where it is made
	case *ssa.Global:
		if v.Pkg != nil {
			return v.Pkg.Pkg.Path() + "." + v.Name()
		}
	case *ssa.IndexAddr:
		if a, ok := v.X.(*ssa.Alloc); ok && a.Comment == "varargs" {
			return ""
		}
		return "[]"
	case *ssa.FieldAddr:
		if f := fieldOf(v.X.Type(), v.Field); f != nil && f.Pkg() != nil {
			return f.Origin().Pkg().Path() + "." + f.Name()
		}
		return anything
	}
	return "->"
}

func (k *checker) callWrites(c *ssa.CallCommon, set map[string]bool, seen map[*ssa.Function]bool) {
	if _, ok := c.Value.(*ssa.Builtin); ok {
		return
	}
	if c.IsInvoke() {
		if p := c.Method.Pkg(); p != nil && !isStandard(p) && p.Path() != Library {
			set[anything] = true
		}
		return
	}
	fn := c.StaticCallee()
	if fn == nil {
		set[anything] = true
		return
	}
	if o := fn.Origin(); o != nil {
		fn = o
	}
	if fn.Parent() != nil {
		return // a literal, which is looked at with its function
	}
	obj := objectOf(fn)
	switch {
	case obj == nil || obj.Pkg() == nil:
		if len(fn.Blocks) == 0 {
			set[anything] = true
		}
	case obj.Pkg().Path() == Library:
	case isStandard(obj.Pkg()):
		if obj.Pkg().Path() == "sync" && obj.Name() != "Unlock" && obj.Name() != "RUnlock" && obj.Name() != "Done" {
			set[anything] = true // others can have changed something meanwhile
		}
	case obj.Pkg() == k.pass.Pkg && len(fn.Blocks) > 0:
		k.writes(fn, set, seen)
	default:
		s := new(Summary)
		if k.uses[obj.Pkg().Path()] && k.pass.ImportObjectFact(obj, s) {
			for _, n := range s.Writes {
				set[n] = true
			}
			return
		}
		set[anything] = true
	}
}

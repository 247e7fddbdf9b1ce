package mmapvet

import (
	"fmt"
	"sort"
	"strings"
)

func (v *term) String() string {
	if v == nil {
		return "-"
	}
	s := fmt.Sprintf("%d", v.op)
	if v.site != nil {
		if n, ok := v.site.(interface{ Name() string }); ok {
			s += ":" + n.Name()
		} else {
			s += fmt.Sprintf(":%v", v.site)
		}
	}
	if v.gen > 0 {
		s += "'"
	}
	if v.n != 0 {
		s += fmt.Sprintf("#%d", v.n)
	}
	if len(v.args) > 0 {
		var a []string
		for _, x := range v.args {
			a = append(a, x.String())
		}
		s += "(" + strings.Join(a, ",") + ")"
	}
	return s
}

func (s *state) dump() string {
	var rows []string
	for r, v := range s.regs {
		rows = append(rows, fmt.Sprintf("reg %s = %v", r.Name(), v))
	}
	for a, c := range s.mem {
		rows = append(rows, fmt.Sprintf("mem %v = %v", a, c.v))
	}
	for v, h := range s.handles {
		rows = append(rows, fmt.Sprintf("handle %v %+v", v, h))
	}
	for v, h := range s.pins {
		rows = append(rows, fmt.Sprintf("pin %v %+v", v, h))
	}
	for v, h := range s.loans {
		rows = append(rows, fmt.Sprintf("loan %v %+v", v, h))
	}
	for v, h := range s.facts {
		rows = append(rows, fmt.Sprintf("fact %v %v", v, h.truth))
	}
	for v := range s.shared {
		rows = append(rows, fmt.Sprintf("shared %v", v))
	}
	sort.Strings(rows)
	return strings.Join(rows, "\n")
}

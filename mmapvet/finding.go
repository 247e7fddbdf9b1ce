package mmapvet

import (
	"fmt"
	"go/token"
	"slices"
	"strings"

	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/ssa"
)

// The categories.
const (
	moved       = "moved"
	escape      = "escape"
	unclosed    = "unclosed"
	busy        = "busy"
	pins        = "pins"
	unsafebytes = "unsafebytes"
	ignored     = "ignored"
	closed      = "closed"
	unguarded   = "unguarded"
	ignore      = "ignore" // of the comments themselves
)

var categories = []string{moved, escape, unclosed, busy, pins, unsafebytes, ignored, closed, unguarded}

// A finding is something to report, unless it turns out to be intended.
type finding struct {
	category string
	pos      token.Pos
	message  string
	related  []place
	fails    *term     // the error that the misuse returns
	copies   bool      // a copy would be right
	deferAt  token.Pos // a deferred Close that has the old handle
}

type place struct {
	pos token.Pos
	how string
}

type findingKey struct {
	category string
	pos      token.Pos
}

func (w *walk) find(_ *state, f *finding) {
	if !f.pos.IsValid() {
		return
	}
	key := findingKey{f.category, f.pos}
	if old := w.found[key]; old == nil || f.message < old.message {
		if old != nil && old.fails != f.fails {
			f.fails = old.fails
		}
		w.found[key] = f
	}
}

// compared notes that an error was compared with one of the misuse errors.
func (w *walk) compared(st *state, x, y *term) {
	if w.isSentinel(x) {
		x, y = y, x
	}
	if w.isSentinel(y) {
		w.expect(unwrapped(x))
	}
}

// expect notes that an error is expected, and so are those that it was made of.
func (w *walk) expect(err *term) {
	if w.expected[err] {
		return
	}
	w.expected[err] = true
	for _, e := range w.causes[err] {
		w.expect(e)
	}
}

// comparesArgs notes a call that gets both an error and one of the misuse errors, and of which
// errors that which it returns can be made.
func (w *walk) comparesArgs(st *state, c *site) {
	sentinel := false
	var errs []*term
	var look func(v *term, depth int)
	look = func(v *term, depth int) {
		v = unwrapped(v)
		switch {
		case w.isSentinel(v):
			sentinel = true
		case v.op == opResult || v.op == opStruct:
			errs = append(errs, v)
		case v.op == opAlloc && depth < 2:
			for a, cl := range st.mem.all() {
				if a.base() == v {
					look(cl.v, depth+1)
				}
			}
		}
	}
	for _, a := range c.args {
		look(a, 0)
	}
	if at := errorAt(c.common.Signature()); at >= 0 && len(errs) > 0 {
		made := w.result(c.key, at)
		w.causes[made] = union(w.causes[made], errs)
	}
	if !sentinel {
		return
	}
	for _, e := range errs {
		w.expect(e)
	}
}

// isSentinel reports whether v is an error that says that a handle was misused.
func (w *walk) isSentinel(v *term) bool {
	v = unwrapped(v)
	if v.op != opLoad || v.args[0].op != opGlobal {
		return false
	}
	g := globalOf(v.args[0])
	return g != nil && isMisuseError(g.Pkg.Pkg, g.Name())
}

func (k *checker) line(pos token.Pos) int { return k.pass.Fset.Position(pos).Line }

// publish hands the findings of a function on, without those that are intended.
func (w *walk) publish() {
	for _, f := range w.found {
		if f.fails != nil && w.expected[f.fails] {
			continue
		}
		w.checker.add(f)
	}
}

// add keeps a finding to be reported at the end.
func (k *checker) add(f *finding) {
	if !k.options.enabled(f.category) || f.category == unclosed && k.isTest(f.pos) && !k.options.unclosedTests {
		return
	}
	key := findingKey{f.category, f.pos}
	if old := k.found[key]; old == nil || f.message < old.message {
		k.found[key] = f
	}
}

// report reports what was found, but for what comments ignore.
func (k *checker) report() {
	comments := k.comments()
	all := make([]*finding, 0, len(k.found))
	for _, f := range k.found {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b *finding) int {
		if a.pos != b.pos {
			return int(a.pos) - int(b.pos)
		}
		return strings.Compare(a.category, b.category)
	})
	for _, f := range all {
		if k.ignoredBy(comments, f) {
			continue
		}
		d := analysis.Diagnostic{
			Pos: f.pos, Category: f.category, Message: f.category + ": " + f.message,
			URL:            "https://github.com/mmarinus/mmap/blob/main/docs/mmapvet.md#" + f.category,
			SuggestedFixes: k.fixes(f),
		}
		for _, r := range f.related {
			d.Related = append(d.Related, analysis.RelatedInformation{Pos: r.pos, Message: r.how})
		}
		k.pass.Report(d)
	}
	for _, c := range comments {
		if problem := k.problem(c); problem != "" {
			k.pass.Report(analysis.Diagnostic{
				Pos: c.pos, Category: ignore, Message: fmt.Sprintf("%s: %s", ignore, problem),
				URL: "https://github.com/mmarinus/mmap/blob/main/docs/mmapvet.md#" + ignore,
			})
		}
	}
}

func globalOf(v *term) *ssa.Global { g, _ := v.site.(*ssa.Global); return g }

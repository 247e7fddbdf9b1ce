// Package mmapvet checks what the Go compiler cannot: that a handle of package
// github.com/mmarinus/mmap is not used after a transition has consumed it, that the memory
// of a view does not outlive the view, and that what was mapped is closed.
//
// A report is true, or there is none: where the analysis does not know, it says nothing. See
// docs/mmapvet.md for the categories.
package mmapvet

import (
	"flag"
	"fmt"
	"go/ast"
	"go/types"
	"os"
	"reflect"
	"slices"

	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/ssa"
)

// Analyzer is the check, with its flags.
var Analyzer = New()

// New returns an analyzer with flags of its own.
func New() *analysis.Analyzer {
	o := new(options)
	flags := flag.NewFlagSet("mmapvet", flag.ExitOnError)
	flags.BoolVar(&o.closed, "closed", false, "also report uses of a mapping after its Close")
	flags.BoolVar(&o.unguarded, "unguarded", false, "also report bytes of a pin that are touched outside of Guard")
	flags.BoolVar(&o.unclosedTests, "unclosed.tests", false, "report unclosed mappings in _test.go files, too")
	flags.BoolVar(&o.stats, "stats", false, "print how much was looked at, and which functions were too much work")
	return &analysis.Analyzer{
		Name:       "mmapvet",
		Doc:        "check the use of memory mappings of github.com/mmarinus/mmap",
		URL:        "https://github.com/mmarinus/mmap/blob/main/docs/mmapvet.md",
		Flags:      *flags,
		FactTypes:  []analysis.Fact{new(Summary), new(uses), new(noReturn)},
		ResultType: reflect.TypeFor[*Stats](),
		Run:        func(pass *analysis.Pass) (any, error) { return run(pass, o) },
	}
}

type options struct {
	closed, unguarded, unclosedTests, stats bool
}

func (o *options) enabled(category string) bool {
	switch category {
	case closed:
		return o.closed
	case unguarded:
		return o.unguarded
	}
	return true
}

// uses is the fact that a package imports the library, also indirectly.
type uses struct{}

func (*uses) AFact()         {}
func (*uses) String() string { return "uses mmap" }

// Stats are what a run has looked at.
type Stats struct {
	Walked    int
	Work      int
	Abandoned []string
}

// A checker looks at one package.
type checker struct {
	pass      *analysis.Pass
	options   *options
	prog      *ssa.Program
	pkg       *ssa.Package
	uses      map[string]bool // the packages that import the library
	bodies    map[*types.Func]*ast.BlockStmt
	never     map[*types.Func]bool // which functions never return, as far as it was asked
	summaries map[*ssa.Function]*Summary
	layouts   map[*ssa.Function]*layout
	inlined   map[*ssa.Function]bool // literals that were run where they are called
	found     map[findingKey]*finding
	depth     int
	stats     struct {
		walked, work int
		abandoned    []string
	}
}

func run(pass *analysis.Pass, o *options) (any, error) {
	k := &checker{
		pass: pass, options: o, uses: map[string]bool{},
		bodies: map[*types.Func]*ast.BlockStmt{}, never: map[*types.Func]bool{}, summaries: map[*ssa.Function]*Summary{},
		layouts: map[*ssa.Function]*layout{}, inlined: map[*ssa.Function]bool{}, found: map[findingKey]*finding{},
	}
	if m := pass.Module; isStandard(pass.Pkg) && (m == nil || m.Path == "" || m.Path == "std") {
		return new(Stats), nil
	}
	k.returning()
	if !k.relevant() {
		return new(Stats), nil
	}
	pass.ExportPackageFact(new(uses))
	functions := k.build()
	for _, fn := range functions {
		k.summarize(fn)
	}
	for _, fn := range functions {
		k.literals(fn)
	}
	for fn, s := range k.summaries {
		if obj, ok := fn.Object().(*types.Func); ok && s != nil && obj.Pkg() == pass.Pkg && fn.Parent() == nil {
			pass.ExportObjectFact(obj, s)
		}
	}
	k.report()
	slices.Sort(k.stats.abandoned)
	s := &Stats{k.stats.walked, k.stats.work, k.stats.abandoned}
	if o.stats {
		fmt.Fprintf(os.Stderr, "mmapvet: %s: %d functions, work %d\n", pass.Pkg.Path(), s.Walked, s.Work)
		for _, name := range s.Abandoned {
			fmt.Fprintf(os.Stderr, "mmapvet: %s is too much work and was left alone\n", name)
		}
	}
	return s, nil
}

// relevant reports whether the package has to do with the library.
func (k *checker) relevant() bool {
	for _, p := range k.pass.Pkg.Imports() {
		if p.Path() == Library || k.pass.ImportPackageFact(p, new(uses)) {
			k.uses[p.Path()] = true
		}
	}
	for _, f := range k.pass.AllPackageFacts() {
		if _, ok := f.Fact.(*uses); ok {
			k.uses[f.Package.Path()] = true
		}
	}
	return len(k.uses) > 0 || k.pass.Pkg.Path() == Library
}

// literals walks through the function literals that were not run where they are called.
func (k *checker) literals(fn *ssa.Function) {
	for _, lit := range fn.AnonFuncs {
		if !k.inlined[lit] {
			k.summarize(lit)
		}
		k.literals(lit)
	}
}

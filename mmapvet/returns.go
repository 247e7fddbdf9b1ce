package mmapvet

import (
	"go/ast"
	"go/token"
	"go/types"

	"golang.org/x/tools/go/cfg"
	"golang.org/x/tools/go/types/typeutil"
)

// noReturn is the fact that a function never returns.
type noReturn struct{}

func (*noReturn) AFact()         {}
func (*noReturn) String() string { return "never returns" }

// ending are functions that never return: those of the standard library, and those of loggers
// whose source does not say it. A test compares the first with what the analyzer ctrlflow says.
var ending = names(`
	os.Exit syscall.Exit runtime.Goexit testing.Main testing.common.FailNow testing.common.Fatal testing.common.Fatalf
	testing.common.Skip testing.common.SkipNow testing.common.Skipf
	log.Fatal log.Fatalf log.Fatalln log.Panic log.Panicf log.Panicln log.Logger.Fatal log.Logger.Fatalf
	log.Logger.Fatalln log.Logger.Panic log.Logger.Panicf log.Logger.Panicln
	go.uber.org/zap.Logger.Fatal go.uber.org/zap.Logger.Panic go.uber.org/zap.SugaredLogger.Fatal
	go.uber.org/zap.SugaredLogger.Fatalw go.uber.org/zap.SugaredLogger.Fatalf go.uber.org/zap.SugaredLogger.Panic
	go.uber.org/zap.SugaredLogger.Panicw go.uber.org/zap.SugaredLogger.Panicf
	github.com/sirupsen/logrus.Logger.Exit github.com/sirupsen/logrus.Logger.Panic
	github.com/sirupsen/logrus.Logger.Panicf github.com/sirupsen/logrus.Logger.Panicln
	github.com/sirupsen/logrus.Entry.Panicf github.com/sirupsen/logrus.Entry.Panicln
	k8s.io/klog.Exit k8s.io/klog.ExitDepth k8s.io/klog.Exitf k8s.io/klog.Exitln
	k8s.io/klog.Fatal k8s.io/klog.FatalDepth k8s.io/klog.Fatalf k8s.io/klog.Fatalln
	k8s.io/klog/v2.Exit k8s.io/klog/v2.ExitDepth k8s.io/klog/v2.Exitf k8s.io/klog/v2.Exitln
	k8s.io/klog/v2.Fatal k8s.io/klog/v2.FatalDepth k8s.io/klog/v2.Fatalf k8s.io/klog/v2.Fatalln`)

// returning notes which functions of the package never return. It is what the analyzer ctrlflow
// does, which makes a graph of every function, also of the standard library.
func (k *checker) returning() {
	var functions []*types.Func
	for _, file := range k.pass.Files {
		for _, d := range file.Decls {
			if d, ok := d.(*ast.FuncDecl); ok && d.Body != nil {
				if fn, ok := k.pass.TypesInfo.Defs[d.Name].(*types.Func); ok {
					k.bodies[fn] = d.Body
					functions = append(functions, fn)
				}
			}
		}
	}
	for _, fn := range functions {
		if k.neverReturns(fn) {
			k.pass.ExportObjectFact(fn, new(noReturn))
		}
	}
}

// neverReturns reports whether a function never returns.
func (k *checker) neverReturns(fn *types.Func) bool {
	fn = fn.Origin()
	if never, ok := k.never[fn]; ok {
		return never
	}
	k.never[fn] = false // while it is looked at
	never := ending[standardName(fn)]
	if body := k.bodies[fn]; body != nil && !never {
		never = k.canEnd(body) && cfg.New(body, k.mayReturn).NoReturn()
	} else if body == nil && !never && fn.Pkg() != k.pass.Pkg && !isStandard(fn.Pkg()) {
		never = k.pass.ImportObjectFact(fn, new(noReturn))
	}
	k.never[fn] = never
	return never
}

// canEnd reports whether a body has what can keep it from returning.
func (k *checker) canEnd(body *ast.BlockStmt) (can bool) {
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			return false
		case *ast.ForStmt:
			can = can || n.Cond == nil
		case *ast.SelectStmt:
			can = can || len(n.Body.List) == 0
		case *ast.BranchStmt:
			can = can || n.Tok == token.GOTO
		case *ast.ExprStmt:
			if call, ok := n.X.(*ast.CallExpr); ok {
				can = can || !k.mayReturn(call)
			}
			return false
		}
		return !can
	})
	return can
}

var panics = types.Universe.Lookup("panic")

// mayReturn reports whether a call may return.
func (k *checker) mayReturn(call *ast.CallExpr) bool {
	if id, ok := call.Fun.(*ast.Ident); ok && k.pass.TypesInfo.Uses[id] == panics {
		return false
	}
	fn := typeutil.StaticCallee(k.pass.TypesInfo, call)
	return fn == nil || !k.neverReturns(fn)
}

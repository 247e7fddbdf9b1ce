package mmapvet

import (
	"go/types"
	"strings"

	"golang.org/x/tools/go/ssa"
)

// standardRoots are the first parts of the import paths of the standard library.
var standardRoots = map[string]bool{}

func init() {
	for _, name := range strings.Fields(`archive bufio builtin bytes cmp compress container context crypto database
		debug embed encoding errors expvar flag fmt go hash html image index internal io iter log maps math mime net
		os path plugin reflect regexp runtime slices sort strconv strings structs sync syscall testing text time
		unicode unique unsafe vendor weak`) {
		standardRoots[name] = true
	}
}

func isStandard(p *types.Package) bool {
	if p == nil {
		return true // the methods of error
	}
	root, _, _ := strings.Cut(p.Path(), "/")
	return standardRoots[root]
}

// The standard library keeps nothing of what it gets, and its results lead to nothing of it,
// but for these. Facts that are computed from its source are wrong: json.Unmarshal "keeps" its
// argument, by caches and pools.

// leading are functions whose results are in the memory of their first argument, or of their
// receiver.
var leading = names(`
	bytes.Fields bytes.FieldsFunc bytes.FieldsSeq bytes.FieldsFuncSeq bytes.Lines bytes.Split bytes.SplitN
	bytes.SplitAfter bytes.SplitAfterN bytes.SplitSeq bytes.SplitAfterSeq bytes.Cut bytes.CutPrefix bytes.CutSuffix
	bytes.Trim bytes.TrimLeft bytes.TrimRight bytes.TrimSpace bytes.TrimFunc bytes.TrimLeftFunc bytes.TrimRightFunc
	bytes.TrimPrefix bytes.TrimSuffix bytes.NewReader bytes.NewBuffer bytes.Buffer.Bytes bytes.Buffer.Next
	bytes.Buffer.AvailableBuffer bytes.Buffer.Peek
	strings.Fields strings.FieldsFunc strings.FieldsSeq strings.FieldsFuncSeq strings.Lines strings.Split
	strings.SplitN strings.SplitAfter strings.SplitAfterN strings.SplitSeq strings.SplitAfterSeq strings.Cut
	strings.CutPrefix strings.CutSuffix strings.Trim strings.TrimLeft strings.TrimRight strings.TrimSpace
	strings.TrimFunc strings.TrimLeftFunc strings.TrimRightFunc strings.TrimPrefix strings.TrimSuffix
	strings.NewReader
	bufio.NewReader bufio.NewReaderSize bufio.NewScanner io.LimitReader io.NewSectionReader io.NopCloser
	io.TeeReader io.MultiReader
	slices.Chunk slices.Values slices.All slices.Backward slices.Clip slices.Insert slices.Delete slices.Grow
	slices.Compact slices.Concat slices.Collect slices.Sorted
	errors.New errors.Join context.WithValue reflect.ValueOf
	encoding/json.NewDecoder encoding/csv.NewReader encoding/gob.NewDecoder encoding/xml.NewDecoder
	regexp.Regexp.Find regexp.Regexp.FindAll regexp.Regexp.FindSubmatch regexp.Regexp.FindAllSubmatch
	regexp.Regexp.FindString regexp.Regexp.FindAllString regexp.Regexp.FindStringSubmatch
	regexp.Regexp.FindAllStringSubmatch regexp.Regexp.Split
	compress/gzip.NewReader compress/flate.NewReader compress/zlib.NewReader archive/tar.NewReader
	archive/zip.NewReader
	encoding/pem.Decode
	container/list.List.PushBack container/list.List.PushFront
	sync/atomic.Pointer.Load sync/atomic.Value.Load`)

// keeping are methods that keep an argument, which is in the receiver from then on.
var keeping = names(`
	sync.Pool.Put sync.Map.Store sync.Map.LoadOrStore sync.Map.Swap
	sync/atomic.Value.Store sync/atomic.Value.Swap sync/atomic.Value.CompareAndSwap
	sync/atomic.Pointer.Store sync/atomic.Pointer.Swap sync/atomic.Pointer.CompareAndSwap
	container/list.List.PushBack container/list.List.PushFront container/list.List.InsertBefore
	container/list.List.InsertAfter bytes.Reader.Reset strings.Reader.Reset bufio.Reader.Reset`)

// later are functions that call their callback when they have returned.
var later = names(`time.AfterFunc context.AfterFunc sync.WaitGroup.Go runtime.SetFinalizer runtime.AddCleanup
	net/http.HandleFunc net/http.ServeMux.HandleFunc testing.common.Cleanup testing.T.Cleanup testing.B.Cleanup
	testing.TB.Cleanup testing.T.Run testing.B.Run testing.F.Fuzz os/signal.Notify expvar.Publish`)

// atOnce are packages whose functions call their callbacks before they return.
var atOnce = map[string]bool{
	"sort": true, "slices": true, "maps": true, "strings": true, "bytes": true, "sync": true, "path/filepath": true,
	"io/fs": true, "go/ast": true, "flag": true,
}

// waiting are functions that wait for others. So can be a lock, and a loop around an atomic.
var waiting = names(`sync.WaitGroup.Wait sync.Cond.Wait time.Sleep time.Timer.Stop`)

// locking are functions before which others can have changed something.
var locking = names(`sync.Mutex.Lock sync.RWMutex.Lock sync.RWMutex.RLock sync.Locker.Lock sync.Once.Do`)

// certain are functions that always return an error.
var certain = names(`errors.New fmt.Errorf`)

func names(list string) map[string]bool {
	set := map[string]bool{}
	for _, n := range strings.Fields(list) {
		set[n] = true
	}
	return set
}

// standardName is how the tables call a function.
func standardName(f *types.Func) string {
	name := f.Name()
	if recv := f.Signature().Recv(); recv != nil {
		t := types.Unalias(recv.Type())
		if p, ok := t.(*types.Pointer); ok {
			t = types.Unalias(p.Elem())
		}
		if n, ok := t.(*types.Named); ok {
			name = n.Obj().Name() + "." + name
		}
	}
	if f.Pkg() == nil {
		return name
	}
	return f.Pkg().Path() + "." + name
}

// callStandard runs a call of a function of the standard library.
func (w *walk) callStandard(st *state, c *site, obj *types.Func) []outcome {
	name := standardName(obj)
	if waiting[name] || locking[name] || obj.Pkg() != nil && obj.Pkg().Path() == "sync/atomic" {
		w.waits(st)
	}
	if locking[name] {
		w.havoc(st)
	}
	if name == "errors.Is" {
		v := w.make(term{op: opCall, site: name, args: []*term{unwrapped(c.args[0]), c.args[1]}})
		if is, known := w.isError(st, unwrapped(c.args[0])); known && !is {
			v = w.bool(false)
		}
		return []outcome{{st, v}}
	}
	var results []outcome
	for i, a := range c.args {
		fn, ok := a.site.(*ssa.Function)
		now := obj.Pkg() != nil && atOnce[obj.Pkg().Path()] && !later[name]
		if ok && a.op == opFunc && fn.Parent() != nil && now {
			for j, other := range c.args {
				if j != i {
					w.giveHandles(st, c, other, obj)
				}
			}
			params := make([]*term, len(fn.Params))
			for n, p := range fn.Params {
				params[n] = w.none
				if len(c.args[0].loans) > 0 && hasPointers(p.Type()) {
					params[n] = w.element(st, c.args[0], p)
				}
			}
			for _, o := range w.callLiteral(st, c, a, params) {
				results = append(results, outcome{o.st, w.standardResults(o.st, c, obj, name)})
			}
			return results
		}
	}
	for i, a := range c.args {
		if later[name] {
			if len(w.loansOf(st, a)) > 0 {
				st.suspend(pending{a, c.pos, name + " calls it later"})
			}
			w.giveAway(st, a)
			continue
		}
		if keeping[name] && i > 0 {
			w.keep(st, c.args[0], a, c)
		}
		w.giveHandles(st, c, a, obj)
	}
	return []outcome{{st, w.standardResults(st, c, obj, name)}}
}

// giveHandles gives an argument away, unless the function does no more than print it.
func (w *walk) giveHandles(st *state, c *site, a *term, obj *types.Func) {
	if obj.Pkg() != nil && !onlyPrints(obj.Pkg().Path(), obj.Name()) {
		w.giveAway(st, a)
	}
}

func (w *walk) standardResults(st *state, c *site, obj *types.Func, name string) *term {
	sig := c.common.Signature()
	v := w.unknownResults(st, c)
	if sig.Results().Len() == 1 && isBoolType(sig.Results().At(0).Type()) {
		return w.boolCall(st, c, obj, v)
	}
	if certain[name] {
		st.facts.set(w.isNil(v), fact{truth: false, by: c.instr})
	}
	if !leading[name] {
		return v
	}
	var leads []*term
	for i, a := range c.args {
		if i == 0 || name == "io.MultiReader" || name == "errors.Join" || name == "context.WithValue" ||
			strings.HasPrefix(name, "slices.") || strings.HasPrefix(name, "regexp.") || strings.HasPrefix(name, "container/") {
			leads = union(leads, w.loansOf(st, a))
		}
	}
	if len(leads) == 0 {
		return v
	}
	led := w.make(term{op: opPart, site: c.key, args: []*term{w.make(term{op: opStruct, args: leads})}})
	if v.op != opStruct {
		return led
	}
	values := make([]*term, len(v.args))
	for i := range values {
		values[i] = v.args[i]
		if t := sig.Results().At(i).Type(); hasPointers(t) && !isErrorType(t) {
			values[i] = led
		}
	}
	return w.tuple(values)
}

// boolCall is the answer of a function: the same to the same question.
func (w *walk) boolCall(st *state, c *site, obj *types.Func, unknown *term) *term {
	args := make([]*term, len(c.args))
	for i, a := range c.args {
		if args[i] = w.plain(a); a.op == opUnknown {
			return unknown
		}
	}
	v := w.make(term{op: opCall, site: obj, args: args})
	if v.op == opUnknown {
		return unknown
	}
	if f, ok := st.facts.lookup(v); ok && f.by == c.instr {
		st.facts.delete(v)
	}
	return v
}

//go:build linux

package systemtest

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/kinds"
	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// TestConcurrent runs short random programs of several goroutines that share
// handles, many times each, and looks for an order of the operations that
// explains every answer, every byte read, and the kernel's table at the end.
func TestConcurrent(t *testing.T) {
	rounds := 2
	if testing.Short() {
		rounds = 1
	}
	for range rounds {
		rapid.Check(t, concurrent(t))
	}
}

func concurrent(tb testing.TB) func(*rapid.T) {
	table, err := procmaps.Open(0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { table.Close() })
	f, err := mmap.Memfd("concurrent", storedPages*int64(onePage), 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	arena, repeats := newArena(tb), 20
	if sys.Race {
		repeats = 5 // each takes many times as long
	}
	return func(t *rapid.T) {
		p := drawProgram(t)
		if p.procs > 0 {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(p.procs))
		}
		for i := range repeats {
			r := &trial{table: table, arena: arena, file: f, program: p, t: t}
			switch why := r.run(uint64(i)); {
			case why == hangs: // and would again, when rapid tries to make it shorter
				tb.Fatalf("%s\n%v", why, r)
			case why != "":
				// What failed once may fail in one of many runs.
				arena, repeats = newArena(tb), 1000
				t.Fatalf("%s\n%v", why, r)
			}
		}
	}
}

// The limits of a program.
const (
	mostRegions = 12
	mostStored  = 12 // of a region
	mostThreads = 4
	storedPages = 64 // of the file
	mostHandles = 64
)

// What a program does. The order matters: see the methods below.
type verb uint8

const (
	// A view or a pin holds the region from here to the end of the hold.
	doView verb = iota
	doUpdate
	doPin
	// Accesses hold it while they run.
	doRead
	doWrite
	doGrow
	doRegions
	doAdvise
	doLock
	doUnlock
	doSync
	doPrefault
	doDiscard
	// Transitions want nobody to hold it.
	doProtect
	doOver
	doForget
	doAssert
	doRange
	doPlace
	doResize
	doMove
	doSplit
	doJoin
	doRelease
	// The rest.
	doClose
	doDrain // that has come to nothing; otherwise it is the transitions that it tried
	doLen
	doProt
	doLoad  // within a hold
	doStore // within a hold
	doWait  // until somebody else has done something
	doEnd   // of a hold
	doAdopt // after doRelease
	doTable // at the end
)

var verbNames = [...]string{"view", "update", "pin", "read", "write", "grow", "regions", "advise", "lock", "unlock", "sync", "prefault", "discard",
	"protect", "over", "forget", "assert", "protect range", "place", "resize", "move", "split", "join", "release",
	"close", "drain", "len", "prot", "load", "store", "wait", "end", "adopt", "table"}

func (v verb) String() string   { return verbNames[v] }
func (v verb) accesses() bool   { return v <= doDiscard }
func (v verb) transition() bool { return v >= doProtect && v <= doRelease }

// Some are drawn more often.
var verbs = append([]verb{doRead, doRead, doWrite, doWrite, doView, doView, doUpdate, doUpdate, doPin, doPin, doEnd, doGrow, doClose,
	doProtect, doProtect, doOver, doOver, doRange, doPlace, doMove, doJoin, doForget}, func() (all []verb) {
	for v := doView; v <= doEnd; v++ {
		if v != doDrain {
			all = append(all, v)
		}
	}
	return all
}()...)

// A step is an operation as it is drawn: on which handle it is depends on the
// run.
type step struct {
	verb       verb
	pick, with int // of handles
	page, n    int
	span       int // the next steps that happen within a view
	prot       mmap.Prot
	source     int
	drain      bool // a transition waits for those who hold the region
}

func (s step) String() string {
	text := fmt.Sprintf("%v(%d %d: %d+%d %v from %d, span %d)", s.verb, s.pick, s.with, s.page, s.n, s.prot, s.source, s.span)
	if s.drain {
		text = "drain and " + text
	}
	return text
}

// Sources are private and shared memory, and a private and a shared mapping of
// a file.
const (
	sharedSource = 1
	fileSource   = 2
)

type startRegion struct {
	page, len, cap int
	kind           int // 0: Unknown, else known
	prot           mmap.Prot
	source, index  int
}

type script struct {
	procs   int  // GOMAXPROCS; 0: as it is
	striped bool // the first region's pins are counted in several places
	pinned  bool // and one since before that, which the first goroutine has
	bursts  int  // how often each step is taken
	regions []startRegion
	threads [][]step
}

func (p *script) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "on %d processors, striped %v, pinned %v, each step %d times, regions %+v\n", p.procs, p.striped, p.pinned, p.bursts, p.regions)
	for i, s := range p.threads {
		fmt.Fprintf(&b, "  goroutine %d: %v\n", i, s)
	}
	return b.String()
}

func drawProgram(t *rapid.T) *script {
	n := func(name string, least, most int) int { return rapid.IntRange(least, most).Draw(t, name) }
	p := &script{
		procs:   rapid.SampledFrom([]int{0, 0, 0, 0, 1, 4}).Draw(t, "processors"),
		striped: rapid.Bool().Draw(t, "striped"), pinned: n("pinned", 0, 3) == 3,
		bursts: rapid.SampledFrom([]int{1, 1, 1, 8}).Draw(t, "bursts"),
	}
	at := 8
	for i := range n("regions", 1, 2) {
		r := startRegion{page: at, len: n("len", 1, 3), kind: n("kind", 0, 2), prot: drawFew(t), source: n("source", 0, 3), index: 4 * i * n("apart", 0, 1)}
		r.cap = r.len + max(0, n("reserve", -1, 2))
		at += r.cap // neighbours, for Join
		p.regions = append(p.regions, r)
	}
	// A few kinds of operations meet more often than all of them.
	some := rapid.SliceOfN(rapid.SampledFrom(verbs), 2, 9).Draw(t, "verbs")
	few := func(name string, of ...int) int { return rapid.SampledFrom(of).Draw(t, name) }
	for i := range n("goroutines", 2, mostThreads) {
		p.threads = append(p.threads, nil)
		for range n("steps", 2, 6) {
			p.threads[i] = append(p.threads[i], step{
				verb: rapid.SampledFrom(some).Draw(t, "verb"), pick: n("pick", 0, 11), with: n("with", 0, 3),
				page: few("page", 0, 0, 0, 1, 1, 2), n: few("n", 1, 1, 1, 2, 2, 3, 4), span: n("span", 0, 4), prot: drawFew(t), source: n("source", 0, 3),
				drain: n("drain", 0, 3) == 3,
			})
		}
	}
	return p
}

func drawFew(t *rapid.T) mmap.Prot { return rapid.SampledFrom([]mmap.Prot{3, 3, 1, 0}).Draw(t, "prot") }

// A handle that was issued in a run. Which region it belongs to, and which one
// in its row, is known without any order: a transition's result is
// the next of the same region.
type issued struct {
	h           kinds.AnyHandle
	kind        *modelKind
	id          int
	region, gen int
	addr        uintptr
	len         int
}

// A call is an operation as it happened.
type call struct {
	step
	thread   int
	on, with *issued
	inv, ret time.Duration
	got      answer
	err      error
	count    int    // pages copied; the length, in pages; permissions
	bytes    []byte // the first of each page read, or the one that is written
	made     [2]*issued
	target   int64          // of a move
	pages    map[int64]seen // what the kernel's table says of pages
	end      *call          // of the hold
	mayBusy  bool
	crowded  bool
}

type answer uint8

const (
	done answer = iota
	moved
	closed
	busy
	overCapacity
	exists
	denied
	invalid
	atEnd
	strange // what nothing explains
)

var answers = []error{nil, mmap.ErrMoved, mmap.ErrClosed, mmap.ErrBusy, mmap.ErrCapacity, os.ErrExist, mmap.ErrPermission, os.ErrInvalid, io.EOF}

func answerOf(err error) answer {
	fault := (*mmap.FaultError)(nil)
	switch i := slices.IndexFunc(answers, func(a error) bool { return errors.Is(err, a) }); {
	case err == nil:
		return done
	case errors.As(err, &fault):
		return strange
	case errors.Is(err, io.ErrShortWrite):
		return atEnd
	case i > 0:
		return answer(i)
	}
	return strange
}

func (c *call) String() string {
	on := ""
	for _, h := range []*issued{c.on, c.with} {
		if h != nil {
			on += fmt.Sprintf(" #%d", h.id)
		}
	}
	s := fmt.Sprintf("%9.3f-%9.3f µs  goroutine %d: %v%s page %d+%d %v from %d: %v, count %d %v", micros(c.inv), micros(c.ret), c.thread,
		c.verb, on, c.page, c.n, c.prot, c.source, c.err, c.count, c.bytes)
	for _, h := range c.made {
		if h != nil {
			s += fmt.Sprintf("; made #%d, %s of region %d.%d at %#x, %d pages", h.id, h.kind.Name, h.region, h.gen, h.addr, h.len)
		}
	}
	if c.verb == doMove {
		s += fmt.Sprintf(" to page %d", c.target)
	}
	if c.pages != nil {
		s += fmt.Sprintf(" %v", c.pages)
	}
	return s
}

func micros(d time.Duration) float64 { return float64(d) / 1000 }

// A trial is one run of a program.
type trial struct {
	table   *procmaps.Table
	arena   arena
	file    *os.File
	program *script
	t       *rapid.T

	start   time.Time
	handles [mostHandles]atomic.Pointer[issued]
	issues  atomic.Int32
	regions atomic.Int32
	ready   atomic.Int32
	workers []*worker
	search  search
}

func (r *trial) String() string {
	var all []*call
	for _, w := range r.workers {
		all = append(all, w.calls...)
	}
	slices.SortStableFunc(all, func(a, b *call) int { return cmp.Compare(a.inv, b.inv) })
	var b strings.Builder
	fmt.Fprint(&b, r.program)
	for i := range r.issues.Load() {
		if h := r.handles[i].Load(); h.gen == 0 {
			fmt.Fprintf(&b, "#%d: %s, region %d at page %d, %d pages\n", h.id, h.kind.Name, h.region, r.number(h.addr), h.len)
		}
	}
	for _, c := range all {
		fmt.Fprintln(&b, c)
	}
	fmt.Fprintf(&b, "explained at most, of each goroutine: %v\n", r.search.deepest)
	return b.String()
}

func (r *trial) number(addr uintptr) int64 {
	return (int64(addr) - int64(r.arena.Start)) / int64(onePage)
}

const hangs = "somebody waits for ever"

// run returns what is wrong, or nothing.
func (r *trial) run(seed uint64) string {
	world := r.setUp()
	r.start = time.Now()
	var all sync.WaitGroup
	for g, steps := range r.program.threads {
		w := &worker{trial: r, thread: g, rnd: rand.New(rand.NewPCG(seed, uint64(g)))}
		r.workers = append(r.workers, w)
		if g == 0 && r.program.pinned {
			w.use(step{verb: doPin}, r.handles[0].Load())
		}
		if g == 0 && r.program.striped {
			stripe(r.handles[0].Load().h)
		}
		all.Go(func() {
			for w.ready.Add(1); int(w.ready.Load()) < len(w.program.threads); {
				runtime.Gosched()
			}
			w.run(steps, nil, nil)
		})
	}
	ended := make(chan struct{})
	go func() { all.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		return hangs
	}
	r.finish()
	for _, w := range r.workers {
		r.search.calls = append(r.search.calls, w.calls)
	}
	r.judge()
	r.search.seed, r.search.failed = maphash.MakeSeed(), map[uint64]struct{}{}
	if !r.search.order(world) {
		return "no order of these operations has these outcomes"
	}
	return ""
}

// stripe has a mapping's pins counted in several places from now on, by filling
// up the first.
func stripe(h kinds.AnyHandle) {
	var pins [1 << 12]*mmap.Pin
	for i := range pins {
		pins[i], _ = h.Pin()
	}
	for _, p := range pins {
		p.Unpin()
	}
}

// setUp makes the mappings that the program begins with.
func (r *trial) setUp() *world {
	w := &world{}
	for i := range 16 {
		w.file[i] = byte(200 + i)
	}
	for i := range 16 {
		if _, err := r.file.WriteAt(w.file[i:i+1], int64(i*onePage)); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := unix.Fallocate(int(r.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(16*onePage), int64((storedPages-16)*onePage)); err != nil {
		r.t.Fatal(err)
	}
	for i, s := range r.program.regions {
		spec := sourceSpec(r.file, s.source, s.index, s.len).At(r.arena.Page(s.page))
		if s.cap > s.len {
			spec = spec.Reserve(s.cap * onePage)
		}
		kind := modelKinds[3]
		h, err := kind.Create(spec, 0)
		if err != nil {
			r.t.Fatal(err)
		}
		p := &w.regions[i]
		*p = place{len: uint8(s.len), cap: uint8(s.cap), owned: true, base: int64(s.page)}
		for j := range s.cap {
			p.cells[j] = freshCell(s.source, s.index+j, 0)
			if j < s.len {
				p.cells[j].prot = s.prot
				v := byte(220 + 4*i + j)
				w.store(&p.cells[j], v)
				if _, err := h.(io.WriterAt).WriteAt([]byte{v}, int64(j*onePage)); err != nil {
					r.t.Fatal(err)
				}
			}
		}
		if s.prot != 3 {
			kind = modelKinds[s.prot]
			if h, err = kind.Protect(h); err != nil {
				r.t.Fatal(err)
			}
		}
		if s.kind == 0 {
			if h, err = kind.Forget(h); err != nil {
				r.t.Fatal(err)
			}
			kind = unknownKind
		}
		r.issue(h, kind, i, 0)
	}
	r.regions.Store(int32(len(r.program.regions)))
	return w
}

func sourceSpec(f *os.File, source, index, n int) mmap.Spec {
	s := mmap.Anonymous(n * onePage)
	if source >= fileSource {
		s = mmap.File(f, int64(index*onePage), n*onePage)
	}
	if source&sharedSource != 0 {
		s = s.Shared()
	}
	return s
}

// issue makes a handle known to all.
func (r *trial) issue(h kinds.AnyHandle, kind *modelKind, region, gen int) *issued {
	i := &issued{h: h, kind: kind, id: int(r.issues.Add(1)) - 1, region: region, gen: gen, addr: h.Addr(), len: h.Len() / onePage}
	r.handles[i.id].Store(i)
	return i
}

// pick returns a handle that can be used, rather one of the last.
func (r *trial) pick(n int, usable func(*modelKind) bool) *issued {
	count := int(r.issues.Load())
	at := n / 3 % count
	if n%3 > 0 {
		at = max(0, count-1-n/3%3)
	}
	for i := range count {
		if h := r.handles[(at+i)%count].Load(); h != nil && usable(h.kind) {
			return h
		}
	}
	return nil
}

// A worker is a goroutine of a trial.
type worker struct {
	*trial
	thread int
	rnd    *rand.Rand
	calls  []*call
	pins   []held
	beat   atomic.Uint32 // calls that have ended
}

type held struct {
	pin   *mmap.Pin
	began *call
}

func (w *worker) begin(s step, on *issued) *call {
	c := &call{step: s, thread: w.thread, on: on, inv: time.Since(w.start)}
	w.calls = append(w.calls, c)
	return c
}

func (w *worker) end(c *call, err error) {
	c.ret = time.Since(w.start)
	c.err, c.got = err, answerOf(err)
	w.beat.Add(1)
}

// run takes steps, within a view of b, of a handle, if that is not nil.
func (w *worker) run(steps []step, b []byte, of *issued) {
	for i := 0; i < len(steps); i++ {
		switch n := w.rnd.IntN(12); {
		case n == 0:
			runtime.Gosched()
		case n < 5:
			for until := time.Since(w.start) + time.Duration(w.rnd.IntN(1<<(6+2*n))); time.Since(w.start) < until; {
			}
		}
		if s := steps[i]; s.verb <= doUpdate {
			inner := steps[i+1 : min(len(steps), i+1+s.span)]
			w.view(s, inner)
			i += len(inner)
		} else {
			for range w.program.bursts {
				w.take(s, b, of)
			}
		}
	}
}

func (w *worker) view(s step, inner []step) {
	on := w.pick(s.pick, map[verb]func(*modelKind) bool{doView: readable, doUpdate: updatable}[s.verb])
	if on == nil {
		return
	}
	view := func(f func(b []byte) error) error { return on.h.(viewer).View(f) }
	if s.verb == doUpdate {
		view = func(f func(b []byte) error) error { return on.h.(updater).Update(f) }
	}
	c, inside := w.begin(s, on), false
	err := view(func(b []byte) error {
		c.count, inside = len(b)/onePage, true
		w.end(c, nil)
		w.run(inner, b, on)
		c.end = w.begin(step{verb: doEnd}, on)
		return nil
	})
	switch {
	case !inside:
		w.end(c, err)
	case c.end == nil: // by a fault
		c.end = w.begin(step{verb: doEnd}, on)
		fallthrough
	default:
		w.end(c.end, err)
	}
}

// take does what a step says, if there is a handle for it.
func (w *worker) take(s step, b []byte, of *issued) {
	usable := anyKind
	switch s.verb {
	case doEnd:
		w.unpin()
		return
	case doLoad, doStore:
		w.peek(s, b, of)
		return
	case doWait:
		w.wait()
		return
	case doRead:
		usable = readable
	case doWrite, doDiscard:
		usable = writable
	case doGrow, doForget:
		usable = known
	case doAssert, doRange, doPlace:
		usable = unknown
	}
	on := w.pick(s.pick, usable)
	if on == nil || s.verb.transition() && int(w.issues.Load()) > mostHandles-2*mostThreads {
		return
	} else if s.verb.transition() && s.drain {
		w.drain(s, on)
	} else if s.verb.transition() {
		w.transition(s, on)
	} else {
		w.use(s, on)
	}
}

// drain tries a transition when nobody holds the region, and again where it is refused. It
// gives up after a while, for the goroutine itself may hold it.
func (w *worker) drain(s step, on *issued) {
	c, tried := &call{step: step{verb: doDrain}, thread: w.thread, on: on, inv: time.Since(w.start)}, false
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Millisecond)
	defer cancel()
	err := on.h.Drain(ctx, func() error {
		tried = true
		return w.transition(s, on)
	})
	if tried {
		return
	}
	w.calls = append(w.calls, c)
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	w.end(c, err)
}

// use does what a step says with a handle.
func (w *worker) use(s step, on *issued) {
	if s.verb == doGrow {
		s.n = max(0, on.h.Len()/onePage+s.n-2)
	}
	p := make([]byte, s.n*onePage)
	first, size := s.page*onePage, len(p)
	c, err := w.begin(s, on), error(nil)
	switch s.verb {
	case doPin:
		var pin *mmap.Pin
		if pin, err = on.h.Pin(); err == nil {
			w.pins = append(w.pins, held{pin, c})
		}
	case doRead:
		c.count, err = on.h.(io.ReaderAt).ReadAt(p, int64(first))
	case doWrite:
		// Each writes what nobody else does.
		c.bytes = []byte{byte(len(w.calls) + 40*w.thread)}
		for i := range p {
			p[i] = c.bytes[0]
		}
		c.inv = time.Since(w.start)
		c.count, err = on.h.(io.WriterAt).WriteAt(p, int64(first))
	case doGrow:
		err = on.kind.Grow(on.h, size)
	case doRegions:
		var regions []procmaps.Region
		regions, err = on.h.Regions()
		c.pages = map[int64]seen{}
		for _, area := range regions {
			w.note(c, uintptr(area.Start), uintptr(area.End), area)
		}
	case doAdvise:
		err = on.h.Advise(first, size, mmap.AdviceRandom)
	case doLock:
		err = on.h.LockOnFault(first, size)
	case doUnlock:
		err = on.h.Unlock(first, size)
	case doSync:
		err = on.h.Sync(first, size)
	case doPrefault:
		err = on.h.Prefault(first, size)
	case doDiscard:
		err = on.h.(destroyer).DiscardLocked(first, size)
	case doClose:
		err = on.h.Close()
	case doLen:
		c.count = on.h.Len()
	case doProt:
		c.count = int(on.h.Prot())
	}
	w.end(c, err)
	if s.verb == doRead {
		for i := 0; i < c.count; i += onePage {
			c.bytes = append(c.bytes, p[i])
		}
	}
	if s.verb != doProt {
		c.count /= onePage
	}
}

// transition tries one, and issues what it makes.
func (w *worker) transition(s step, on *issued) error {
	to := modelKinds[s.prot]
	var right kinds.AnyHandle
	var spare, size int
	next, kind := on.h, on.kind
	with, err := on, error(nil)
	switch s.verb {
	case doOver:
		s.n = max(1, on.h.Len()/onePage)
	case doSplit:
		if s.n = min(s.n, on.h.Len()/onePage-1); s.n < 1 {
			return nil
		}
	case doJoin:
		with = w.pick(s.with*3+1, func(k *modelKind) bool { return k == kind })
		for i := range w.issues.Load() {
			if h := w.handles[i].Load(); s.with > 0 && h != nil && h.kind == kind &&
				(h.addr+uintptr(h.len*onePage) == on.addr || on.addr+uintptr(on.len*onePage) == h.addr) {
				with = h // the last neighbour
			}
		}
	}
	if s.verb == doSplit || s.verb == doRelease {
		if spare = int(w.regions.Add(1)) - 1; spare >= mostRegions {
			return nil
		}
	}
	spec := sourceSpec(w.file, s.source, s.page, s.n)
	addr := w.arena.Page(20 + 4*s.page)
	c := w.begin(s, on)
	switch s.verb {
	case doProtect:
		next, err = to.Protect(on.h)
		kind = to
	case doOver:
		next, err = to.Over(on.h, spec)
		kind = to
	case doForget:
		next, err = kind.Forget(on.h)
		kind = unknownKind
	case doAssert:
		next, err = to.Assert(on.h.(mmap.Unknown))
		kind = to
	case doRange:
		err = on.h.(mmap.Unknown).ProtectRange(s.page*onePage, s.n*onePage, s.prot)
	case doPlace:
		err = on.h.(mmap.Unknown).Place(s.page*onePage, spec, s.prot)
	case doResize:
		next, err = kind.Resize(on.h, s.n*onePage)
	case doMove:
		c.target = w.number(addr)
		next, err = kind.Move(on.h, addr)
	case doSplit:
		next, right, err = kind.Split(on.h, s.n*onePage)
	case doJoin:
		c.with = with
		next, err = kind.Join(on.h, with.h)
	case doRelease:
		addr, size, err = on.h.Release()
	}
	w.end(c, err)
	if (s.verb == doResize || s.verb == doMove) && err != nil && next != on.h {
		c.got = strange // the handle is lost
	}
	if err != nil {
		return err
	}
	switch s.verb {
	case doRange, doPlace:
	case doRelease:
		c := w.begin(step{verb: doAdopt}, on)
		next, err = unknownKind.Adopt(addr, size)
		w.end(c, err)
		c.made[0] = &issued{kind: unknownKind, region: spare}
		if err == nil {
			c.made[0] = w.issue(next, unknownKind, spare, 0)
		}
	case doSplit:
		c.made[1] = w.issue(right, kind, spare, 0)
		fallthrough
	default:
		left := on
		if with.addr < on.addr {
			left = with
		}
		c.made[0] = w.issue(next, kind, left.region, left.gen+1)
		if s.verb == doResize {
			c.target = w.number(c.made[0].addr)
		}
	}
	return nil
}

// unpin ends the goroutine's last pin.
func (w *worker) unpin() {
	if n := len(w.pins); n > 0 {
		last := w.pins[n-1]
		w.pins = w.pins[:n-1]
		last.began.end = w.begin(step{verb: doEnd}, last.began.on)
		last.pin.Unpin()
		w.end(last.began.end, nil)
	}
}

// peek loads or stores within the view, or else within the last pin.
func (w *worker) peek(s step, b []byte, of *issued) {
	guard := func(f func() error) error { return f() }
	if b == nil {
		if len(w.pins) == 0 {
			return
		}
		last := w.pins[len(w.pins)-1]
		b, of = last.pin.Bytes(), last.began.on
		guard = func(f func() error) error { return mmap.Guard(f, last.pin) }
	}
	if _, ok := of.h.(updater); s.verb == doStore && (!ok || of.kind.Unknown) || (s.page+1)*onePage > len(b) {
		return
	}
	words, err := mmap.Slice[uint32](b)
	if err != nil {
		panic(err)
	}
	word := &words[s.page*onePage/4]
	c := w.begin(s, of)
	var value [4]byte
	if s.verb == doStore {
		for i := range value {
			value[i] = byte(1 + len(w.calls) + 40*w.thread)
		}
		err = guard(func() error { atomic.StoreUint32(word, binary.NativeEndian.Uint32(value[:])); return nil })
	} else {
		err = guard(func() error { binary.NativeEndian.PutUint32(value[:], atomic.LoadUint32(word)); return nil })
	}
	w.end(c, err)
	c.bytes = value[:1]
}

// wait until another goroutine has done something, but not for ever.
func (w *worker) wait() {
	sum := func() (n uint32) {
		for _, o := range w.workers {
			if o != w {
				n += o.beat.Load()
			}
		}
		return n
	}
	before := sum()
	for until := time.Since(w.start) + 50*time.Microsecond; sum() < before+2 && time.Since(w.start) < until; {
		runtime.Gosched()
	}
}

// note notes what the kernel's table says.
func (w *worker) note(c *call, start, end uintptr, area procmaps.Region) {
	for at := start; at < end; at += uintptr(onePage) {
		s := seen{area.Perms, -1}
		if area.Inode != 0 && !strings.HasPrefix(area.Name, "/dev/zero") {
			s.index = int((area.Offset + uint64(at) - area.Start) / uint64(onePage))
		}
		c.pages[w.number(at)] = s
	}
}

// finish looks at everything, and closes it.
func (r *trial) finish() {
	w := &worker{trial: r, thread: len(r.workers), rnd: rand.New(rand.NewPCG(0, 0))}
	for from := time.Since(r.start); time.Since(r.start) < from+2*slack; {
	}
	live := []*issued{}
	for i := range r.issues.Load() {
		h := r.handles[i].Load()
		for _, s := range []step{{verb: doLen}, {verb: doProt}, {verb: doRead, n: mostStored}} {
			if s.verb != doRead || readable(h.kind) {
				w.use(s, h)
			}
		}
		live = append(live, h)
	}
	c := w.begin(step{verb: doTable}, nil)
	c.pages = map[int64]seen{}
	note := func(start, end uintptr) {
		walk(r.t, r.table, start, end, func(at uintptr, area procmaps.Region) {
			w.note(c, at, at+uintptr(onePage), area)
		})
	}
	note(r.arena.Start, r.arena.End)
	for _, h := range live {
		if at := h.h.Addr(); at != 0 && (at < r.arena.Start || at >= r.arena.End) {
			note(at, at+uintptr(h.h.Cap()))
		}
	}
	w.end(c, nil)
	for _, h := range live {
		w.use(step{verb: doClose}, h)
	}
	for _, o := range r.workers {
		for w.pins = o.pins; len(w.pins) > 0; {
			w.peek(step{verb: doLoad}, nil, nil)
			w.unpin()
		}
	}
	c = w.begin(step{verb: doTable}, nil)
	c.pages = map[int64]seen{}
	note(r.arena.Start, r.arena.End)
	w.end(c, nil)
	r.workers = append(r.workers, w)
}

// judge notes for each call what else happened at the same time, that may have
// been in its way.
func (r *trial) judge() {
	type span struct {
		c        *call
		inv, ret time.Duration
	}
	var all []span
	for _, calls := range r.search.calls {
		for _, c := range calls {
			s := span{c, c.inv - slack, c.ret + slack}
			if c.end != nil {
				s.ret = c.end.ret + slack
			}
			all = append(all, s)
		}
	}
	beside := func(c *call, f func(o *call) bool) bool {
		return slices.ContainsFunc(all, func(s span) bool {
			return s.c != c && s.inv < c.ret && c.inv < s.ret && f(s.c)
		})
	}
	for changed := true; changed; {
		changed = false
		for _, s := range all {
			c := s.c
			c.crowded = beside(c, func(o *call) bool { return o.thread != c.thread })
			if c.got == busy && !c.mayBusy && beside(c, func(o *call) bool { return o.holds() && o.shares(c) }) {
				c.mayBusy, changed = true, true
			}
		}
	}
}

// holds reports whether a call may have held its region against a transition,
// for a moment at least. Of two that were refused, one must have met a third.
func (c *call) holds() bool {
	refused := c.got == moved || c.got == closed
	switch {
	case c.verb.accesses(), c.verb == doJoin && c.got != busy:
		return true
	case c.verb == doOver || c.verb == doPlace:
		return true // they look before they map the new pages elsewhere, and come back
	case c.verb.transition() || c.verb == doClose:
		return !refused && (c.got != busy || c.mayBusy)
	}
	return false
}

func (c *call) shares(o *call) bool {
	for _, a := range []*issued{c.on, c.with} {
		for _, b := range []*issued{o.on, o.with} {
			if a != nil && b != nil && a.region == b.region {
				return true
			}
		}
	}
	return false
}

// Whoever ends the last pin of a closed mapping unmaps it, and nobody else: what
// comes to be there at once, stays.
func TestLastUnpin(t *testing.T) {
	a := newArena(t)
	for i := range 300 {
		m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(onePage).At(a.Start))
		if err != nil {
			t.Fatal(err)
		}
		if i%4 > 0 {
			stripe(m)
		}
		var all sync.WaitGroup
		var ready, working atomic.Int32
		for range 4 {
			all.Go(func() {
				pin, err := m.Pin()
				if err != nil {
					t.Error(err)
				}
				working.Add(1)
				for ready.Add(1); ready.Load() < 5; {
					runtime.Gosched()
				}
				if err := mmap.Guard(func() error { pin.Bytes()[0]++; return nil }, pin); err != nil {
					t.Error(err)
				}
				pin.Unpin()
				working.Add(-1)
			})
		}
		for ready.Load() < 4 {
			runtime.Gosched()
		}
		if i%2 == 0 { // or beside the others
			err = m.Close()
		}
		if ready.Add(1); i%2 == 1 {
			err = m.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		for {
			last := working.Load() == 0
			next, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(onePage).At(a.Start))
			if err == nil {
				if all.Wait(); second(next.WriteAt([]byte{1}, 0)) != nil || next.Close() != nil {
					t.Fatal("a mapping was unmapped with the one before it")
				}
				break
			}
			if last {
				t.Fatal("nobody has unmapped it: ", err)
			}
		}
	}
}

// Reads at full speed beside changes in place, and beside growth from two sides:
// for what goes wrong in a moment between two instructions only.
func TestReadsBesideChanges(t *testing.T) {
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end) && !t.Failed(); {
		readBesideChanges(t)
	}
}

func readBesideChanges(t *testing.T) {
	const times = 1500
	u, err := mmap.MapUnknown(mmap.Anonymous(onePage), mmap.ProtRead)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	stripe(u)
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(onePage).Reserve(times * onePage))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var all, readers sync.WaitGroup
	var stop atomic.Bool
	for range 2 {
		readers.Go(func() {
			p := make([]byte, 1)
			for !stop.Load() {
				if err := second(u.ReadAt(p, 0)); err != nil && answerOf(err) != denied {
					t.Error(err)
				}
				if err := second(m.ReadAt(p, int64(m.Len()-1))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Go(func() {
		for i := range times {
			if err := u.Protect(mmap.Prot(i & 1)); err != nil && !errors.Is(err, mmap.ErrBusy) {
				t.Error(err)
			}
		}
	})
	var size atomic.Int32
	for range 2 {
		all.Go(func() {
			for n := int(size.Add(1)); n <= times; n = int(size.Add(1)) {
				// The other one can have been faster.
				err := mmap.Grow(m, n*onePage)
				if got := m.Len() / onePage; err != nil && answerOf(err) != invalid || got < n {
					t.Errorf("%d pages after growth to %d: %v", got, n, err)
				}
			}
		})
	}
	all.Wait()
	stop.Store(true)
	readers.Wait()
}

// The collector runs all the time, and takes nothing that is in use.
func TestCollectorBeside(t *testing.T) {
	a := newArena(t)
	var all sync.WaitGroup
	var stop atomic.Bool
	for g := range 3 {
		all.Go(func() {
			for i := g; !stop.Load(); i += 3 {
				m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(onePage).At(a.Page(i % arenaPages)))
				if errors.Is(err, os.ErrExist) {
					runtime.Gosched() // not collected yet
					continue
				}
				v := byte(i | 1)
				if err == nil {
					err = second(m.WriteAt([]byte{v}, 0))
				}
				if i%2 == 0 && err == nil {
					err = m.View(func(b []byte) error { // the last that is heard of m
						runtime.Gosched()
						if b[0] != v {
							return errors.New("other contents in a view")
						}
						return nil
					})
				} else if pin, failed := m.Pin(); failed == nil {
					err = mmap.Guard(func() error {
						runtime.Gosched()
						if pin.Bytes()[0] != v {
							return errors.New("other contents under a pin")
						}
						return nil
					}, pin)
					pin.Unpin()
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		runtime.GC()
	}
	stop.Store(true)
	all.Wait()
	table, err := procmaps.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	for start := time.Now(); areas(t, table, a.Start, a.End) > 0; {
		if runtime.GC(); time.Since(start) > 10*time.Second {
			t.Fatal("what is lost was not collected")
		}
		time.Sleep(time.Millisecond)
	}
}

//go:build linux

package mmap

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"

	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/latch"
	"github.com/mmarinus/mmap/internal/perms"
)

// A FaultError says that memory of a mapping could not be touched: a page past
// the end of a truncated file, a full or failing disk, a store through a slice
// lent for reading. It always matches [ErrFault], and the cause where that is
// proven.
//
// The kernel is asked for the cause after the fault, when the page may have come
// back. So a cause is named only if an access of that kind is still refused for
// it. A store through a slice of a file that was lent for reading is not
// ErrPermission for this reason: the file may as well have been truncated and
// written again. The text of the error then says what is seen. In private
// anonymous memory, whose pages do not go, such a store is ErrPermission.
//
// Without a proven cause, when only ErrFault matches, the data may be intact: this is what
// an I/O error of a disk looks like. Do not delete or repair anything because of it.
type FaultError struct {
	// Addr is the address that the processor reported. On s390x it is the
	// start of the page.
	Addr uintptr
	// Offset in bytes from the start of the mapping, not of the file or of a
	// ViewRange. In ReadAt and WriteAt it is where the copy stopped, in a view
	// the byte at Addr. If only the page is known, and it begins before the
	// mapping, it is 0.
	Offset int
	// Err is the cause, [ErrTruncated], [ErrPermission] or [ErrGuard], what package paging
	// says of an absent page, or else ErrFault.
	Err error
	// Path is the name of the file beneath, as /proc/PID/maps has it, and "" for
	// anonymous memory and where that cannot be read.
	Path string
	// PCs is the stack of the access, from the line that faulted up, for
	// [runtime.CallersFrames]. It is nil where no access has faulted, as in Prefault and
	// Lock.
	PCs []uintptr

	seen string // for the text: what was seen afterwards, which proves no cause
}

func (e *FaultError) Error() string {
	text := fmt.Sprintf("mmap: memory fault at %#x, offset %d", e.Addr, e.Offset)
	if e.Path != "" {
		text += " of " + e.Path
	}
	text += ": " + e.Err.Error()
	if e.seen != "" {
		text += ": " + e.seen
	}
	return text
}

// Is reports true for ErrFault.
func (e *FaultError) Is(target error) bool { return target == ErrFault }

// Unwrap returns the cause.
func (e *FaultError) Unwrap() error { return e.Err }

// fault describes a fault at an address of a mapping, of which the first byte is at first,
// by an access that stands at another; see kernel.CauseOf for need. If the caller still
// pins the mapping, the kernel's table shows what the access found.
func (r *region) fault(addr, at, first uintptr, need Prot) *FaultError {
	var why kernel.Verdict
	absent := r.absent(addr)
	if absent == nil {
		why = kernel.CauseOf(addr, perms.Prot(need))
	}
	// On s390x addr is that of the page, which may begin before.
	err := faultAt(addr, int(max(at, first)-first), why)
	if absent != nil {
		err.Err = absent
	}
	err.PCs = faultStack()
	faultCount.Add(1)
	return err
}

func faultAt(addr uintptr, off int, v kernel.Verdict) *FaultError {
	return &FaultError{Addr: addr, Offset: off, Err: causes[v.Cause], Path: v.Path, seen: v.Seen}
}

// faultStack returns the stack of the fault that is being recovered from: what lies above
// the function by which the runtime turns a signal into a panic.
func faultStack() []uintptr {
	var stack [64]uintptr
	pcs := stack[:runtime.Callers(0, stack[:])]
	for i, pc := range pcs {
		if f := runtime.FuncForPC(pc - 1); f != nil && f.Name() == "runtime.sigpanic" {
			return slices.Clone(pcs[i+1:])
		}
	}
	return nil
}

// A guard turns memory faults into errors. The flag of debug.SetPanicOnFault is
// set here only, and as it was on every way out: a return, a panic,
// runtime.Goexit.
//
//	g := guard{…}
//	g.enter()
//	defer func() {
//		if !g.left {
//			g.rescueUnpin(recover(), &err)
//		}
//	}()
//	… touch the memory …
//	g.leave()
//	r.unpin(line)
//
// The deferred function is written out at each place, for rescue itself deferred
// would make a view cost a sixth more, and a second defer in it a fiftieth.
type guard struct {
	r     *region       // the mapping that is guarded, pinned by the caller; nil: see pins of rescue
	line  *latch.Stripe // of that pin, which the caller ends
	at    uintptr       // where a copy stands; 0: it is no copy
	need  Prot          // of a copy: whether it reads or writes
	outer bool          // the flag before
	left  bool          // by leave: there is nothing to rescue
	all   bool          // every mapping is guarded, pinned or not
}

func (g *guard) enter() { g.outer = debug.SetPanicOnFault(true) }

// restore sets the flag to what it was.
func (g *guard) restore() { debug.SetPanicOnFault(g.outer) }

// leave ends the guard on the usual way out.
func (g *guard) leave() {
	g.restore()
	g.left = true
}

// rescue ends the guard on every other way out than leave, p being what was
// recovered. pins are those of other mappings to guard.
func (g *guard) rescue(p any, err *error, pins ...*Pin) {
	g.restore()
	if p != nil {
		*err = g.claim(p, pins)
	}
}

// rescueUnpin is rescue, and then unpins the region.
func (g *guard) rescueUnpin(p any, err *error) {
	defer g.r.unpin(g.line)
	g.rescue(p, err)
}

// claim returns the error for a panic that is a fault of a guarded mapping. Any
// other panic goes on, and a fault elsewhere ends as it would have without a
// guard.
func (g *guard) claim(p any, pins []*Pin) error {
	_, known := p.(runtime.Error)
	where, ok := p.(interface{ Addr() uintptr })
	if !known || !ok {
		panic(p)
	}
	addr := where.Addr()
	if g.r != nil && g.r.covers(addr) {
		return g.r.fault(addr, cmp.Or(g.at, addr), g.r.addr.Load(), g.need)
	}
	for _, pin := range pins {
		if pin != nil && pin.r.covers(addr) {
			return pin.r.fault(addr, addr, pin.r.addr.Load(), 0)
		}
	}
	if g.all {
		if r, first := regionAt(addr); r != nil {
			return r.fault(addr, addr, first, 0)
		}
	}
	if !g.outer && addr >= kernel.PageSize {
		// Without this guard, the runtime would have ended the program with
		// its own report. It does so now, if the fault is still there: the
		// flag is off again.
		load(addr)
		store(addr)
	}
	panic(p)
}

// covers reports whether addr lies in the region's page range. The caller has
// pinned the region.
func (r *region) covers(addr uintptr) bool { return addr-r.Base < r.Size }

// causes are the errors of what the kernel says.
var causes = [...]error{
	kernel.Unproven: ErrFault, kernel.Permission: ErrPermission, kernel.Guard: ErrGuard, kernel.Truncated: ErrTruncated,
}

//go:build linux

package mmap

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/mmarinus/mmap/internal/birth"
	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/latch"
	"github.com/mmarinus/mmap/internal/leftover"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/place"
	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// A region owns one page range of the address space. Handles are tickets: the
// region, and the state of its latch at which they were issued. A transition moves the
// state on, so that every older ticket returns ErrMoved.
//
// Accesses pin the region while they run. A transition takes the region for
// itself, which fails while a pin is held; while a transition holds it,
// accesses wait. So the fields without atomics are written only by a
// transition, and read by whoever holds a pin or the transition.
type region struct {
	latch.Latch

	addr     shared // the first byte
	len, cap shared // in bytes, from addr; len is written under growing, too

	prot  sharedProt // what every page of it allows
	marks atomic.Uint32
	seat  int32   // among those that the collector cares for: see newborns
	rank  int32   // its place in the nursery, about, from the oldest end
	older *region // the one that entered before

	perms.Pages // the page range, with the reserve; Room is written under growing, too

	more atomic.Pointer[more] // nil: there is nothing of it
}

// What most mappings never have, or do.
type more struct {
	broken  atomic.Pointer[PartialError] // what the handle is left with when partial is set
	undone  atomic.Pointer[error]        // why it could not be unmapped, the last time
	growing sync.Mutex                   // held for a moment
	growth  sync.Mutex                   // held by Grow from start to end, which can take long
	locking sync.Mutex                   // held by Lock and LockOnFault, which can take long
	lock    place.Locking                // of pages to come

	attached atomic.Pointer[attachment] // keeps transitions out
	beside   sync.RWMutex               // held with it; shared by calls that must not run beside it; nobody waits
}

// has returns the rest of the region, which it makes if need be. One with a reserve has it
// from the start, so whoever finds none knows that the length does not change.
func (r *region) has() *more {
	if r.more.Load() == nil {
		r.more.CompareAndSwap(nil, new(more))
	}
	return r.more.Load()
}

// lock says how pages to come are locked.
func (r *region) lock() place.Locking {
	if more := r.more.Load(); more != nil {
		return more.lock
	}
	return place.Unlocked
}

func (r *region) setLock(l place.Locking) {
	if l != r.lock() {
		r.has().lock = l
	}
}

// A shared number is loaded by anybody. It is none of sync/atomic's types, because those
// need a locked operation in a new region, too, which nobody else knows yet.
type shared uintptr

func (s *shared) Load() uintptr                { return atomic.LoadUintptr((*uintptr)(s)) }
func (s *shared) Store(n uintptr)              { atomic.StoreUintptr((*uintptr)(s), n) }
func (s *shared) Swap(n uintptr) (old uintptr) { return atomic.SwapUintptr((*uintptr)(s), n) }

type sharedProt uint32

func (s *sharedProt) Load() uint32   { return atomic.LoadUint32((*uint32)(s)) }
func (s *sharedProt) Store(p uint32) { atomic.StoreUint32((*uint32)(s), p) }

// What a region is marked with; no mark is taken away.
const (
	isLost   = 1 << iota // a stranger was mapped into the range: never change or unmap it
	isLent               // never collect it: UnsafeBytes was called, or it may lie in the Go heap
	isSealed             // by mseal(2): never collect it either

	allMarks   = isLost | isLent | isSealed
	birthShift = 4 // above the marks is the number that package live knows it by
)

func (r *region) is(mark uint32) bool { return r.marks.Load()&mark != 0 }

func (r *region) mark(mark uint32) {
	if old := r.marks.Or(mark); mark&^old&(isLent|isSealed) != 0 {
		r.keep()
	}
}

// birth returns the number by which package live knows the region, 0 if it does not.
func (r *region) birth() uint32 { return r.marks.Load() >> birthShift }

// A ticket is the inside of every handle.
type ticket struct {
	r     *region
	state latch.State
}

// newRegion returns a region that is known to nobody yet, and its first ticket.
func newRegion(addr, length, capacity uintptr, pages *perms.Pages) ticket {
	r := &region{Pages: *pages, addr: shared(addr), len: shared(length), cap: shared(capacity)}
	r.prot = sharedProt(pages.Plain().Prot)
	if capacity > length {
		r.has()
	}
	if w := birth.Watching.Load(); w != nil {
		r.mark(w.Born() << birthShift)
	}
	r.enroll()
	return ticket{r: r}
}

// setAddr moves the first byte.
func (r *region) setAddr(addr uintptr) {
	if old := r.addr.Swap(addr); old != addr {
		index.put(r, old)
	}
}

// account makes what the account of pages says known to those who look without a pin.
func (r *region) account() { r.prot.Store(uint32(r.Plain().Prot)) }

func (r *region) setProt(start, end uintptr, p Prot) {
	r.Protect(start, end, perms.Prot(p))
	r.account()
}

func (r *region) setKind(start, end uintptr, k perms.Kind) {
	r.Alter(start, end, func(perms.Kind) perms.Kind { return k })
	r.account()
}

// refused returns the error for an answer of the latch.
func (t ticket) refused(a latch.Answer) error {
	switch a {
	case latch.Busy:
		return ErrBusy
	case latch.Moved:
		return ErrMoved
	case latch.Broken:
		return t.r.has().broken.Load()
	case latch.Kept:
		return ErrSealed
	case latch.Failed:
		return *t.r.has().undone.Load()
	}
	return ErrClosed
}

// Unmap and Keeps are what the latch asks for: see latch.Memory.
func (r *region) Unmap() bool {
	// Most of unmap is here, for after a system call each function that returns costs a
	// mispredicted branch.
	if r.Size != 0 && !r.is(isLost) {
		if err := sys.Munmap(r.Base, r.Size); err != nil {
			if err = r.unmapped(err); err != nil {
				why := err // which would else be on the heap each time
				r.has().undone.Store(&why)
				return false
			}
		}
	}
	r.detach(true)
	r.dismiss(false)
	return true
}

// Keeps reports whether the region cannot be closed: of an empty one there is nothing to
// unmap.
func (r *region) Keeps() bool { return r.is(isSealed) && r.cap.Load() > 0 }

func (r *region) unmap() error {
	if r.Size == 0 || r.is(isLost) {
		return nil
	}
	return r.unmapped(sys.Munmap(r.Base, r.Size))
}

// unmapped returns the error of unmapping the region, where munmap(2) has returned err.
func (r *region) unmapped(err error) error {
	if err == nil {
		return nil
	}
	if err == unix.EINVAL && leftover.WithNeighbours(r.Base, r.Size) {
		return nil
	}
	// At the limit vm.max_map_count this can fail with ENOMEM: where the
	// kernel has merged the range with its neighbours, it has to divide them.
	if err = kernel.Undivided(r.Base, r.Size, kernel.Scarce(err, kernel.Demand{})); err == unix.EPERM {
		err = ErrSealed // an adopted mapping, or one that somebody else has sealed
	}
	return named(err, "unmap %#x+%d", r.Base, r.Size)
}

// acquire takes the region for a transition. It never waits. besides are states that do
// not stand in the way; an attachment does. On success the caller ends the transition with
// pass, giveUp, resign or fallBack.
func (t ticket) acquire(besides latch.State) error { return t.acquireBut(isLost, besides) }

// acquireToChange is acquire for a transition that changes pages.
func (t ticket) acquireToChange() error { return t.acquireBut(isLost|isSealed, 0) }

// acquireBut is acquire, which fails if the region has one of the marks.
func (t ticket) acquireBut(marks uint32, besides latch.State) error {
	if t.r == nil {
		return ErrClosed
	}
	if a := t.r.Acquire(t.state, besides); a != latch.OK {
		return t.refused(a)
	}
	tracked := t.r.attachment() != nil
	if !t.r.is(marks) && !tracked {
		return nil
	}
	t.giveUp() // so that the tracker can be closed: it is not looked for again
	switch {
	case t.r.is(isLost):
		return errLost
	case tracked:
		return errTracked()
	}
	return ErrSealed
}

func errTracked() error {
	const hint = "it has a Tracker, which must be closed first, or a pager, which lasts as long as the mapping"
	return fail.Hint(ErrBusy, hint)
}

// giveUp ends a transition that changed nothing.
func (t ticket) giveUp() { t.r.GiveUp(t.state) }

// pass ends a transition that happened: the ticket is consumed, and the
// returned one is the next.
func (t ticket) pass() ticket { return ticket{t.r, t.r.Pass(t.state)} }

// resign ends a transition that gave the range away: the ticket is consumed,
// and the region owns nothing.
func (t ticket) resign() {
	t.r.dismiss(false)
	t.r.Resign(t.state)
}

// Close unmaps the mapping; munmap(2). From now on every copy of the handle, and every new
// access, returns ErrClosed.
//
// Close does not fail because of a view or a pin, and does not wait for them: the memory is
// unmapped when the last one ends. A second Close returns ErrClosed, and the Close of a
// handle that a transition has consumed ErrMoved. So a deferred Close of an old handle does
// no harm.
//
// Close does not wait for storage either. Call Sync first if the data must survive a power
// failure.
//
// If unmapping fails, Close returns the error and the handle still works: at the limit
// vm.max_map_count, and with EINVAL for a part of memory that the kernel does not divide,
// such as a ring of perf_event_open(2), whose parts must be joined first. If it fails in a
// last view, the next Close tries again and returns the error. A sealed mapping cannot be
// closed: ErrSealed.
//
// Close is safe for concurrent use.
func (m Mapping) Close() error {
	if m.r == nil {
		return named(ErrClosed, "close")
	}
	switch a := m.r.Latch.Close(m.state, m.r); a {
	case latch.OK:
		return nil
	case latch.Failed:
		return m.refused(a) // which says what could not be unmapped
	default:
		return named(m.refused(a), "close")
	}
}

// Release gives the page range up without unmapping it, and returns it: whole pages, the
// reserve included. It is a transition: m then returns ErrMoved. From then on
// the caller has to see to it that they are unmapped, by munmap(2) or after [UnsafeAdopt].
func (m Mapping) Release() (addr uintptr, size int, err error) {
	if err := m.acquire(0); err != nil {
		return 0, 0, named(err, "release")
	}
	addr, size = m.r.Base, int(m.r.Size)
	m.resign()
	return addr, size, nil
}

// Regions returns what the kernel says is mapped in the page range of the
// mapping, reserve included, clipped to that range; proc_pid_maps(5). The
// kernel merges neighbours that look alike, and divides what has come to
// differ, so the regions are not the pieces that the mapping was made of.
func (m Mapping) Regions() ([]procmaps.Region, error) {
	line, err := m.pin()
	if stopped := (*PartialError)(nil); errors.As(err, &stopped) {
		line, err = m.pinSlowly(latch.Partial)
	}
	if err != nil {
		return nil, named(err, "regions")
	}
	defer m.r.unpin(line)
	regions, err := kernel.RegionsOf(m.r.Base, m.r.Base+m.r.Size)
	return regions, named(err, "regions of %#x+%d", m.r.Base, m.r.Size)
}

package mmap

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"
)

// A region owns one page range of the address space. Handles are tickets: the
// region, and the generation at which they were issued. A transition moves the
// generation on, so that every older ticket answers ErrMoved.
//
// Accesses pin the region while they run. A transition takes the region for
// itself, which fails while a pin is held; while a transition holds it,
// accesses wait. So the fields without atomics are written only by a
// transition, and read by whoever holds a pin or the transition.
type region struct {
	word    atomic.Uint64           // generation, state and pins: see the constants below
	stripes atomic.Pointer[stripes] // the other pins; nil until readers collide

	addr     atomic.Uintptr // the first byte
	len, cap atomic.Uintptr // in bytes, from addr; len is written under growing, too
	prot     atomic.Uint32  // what every page of it allows

	perms.Pages             // the page range, with the reserve; Room is written under growing, too
	lock        locking     // of growth
	lost        atomic.Bool // a stranger was mapped into the range: never change or unmap it
	lent        atomic.Bool // never collect it: UnsafeBytes was called, or it may lie in the Go heap
	sealed      atomic.Bool // by mseal(2): never collect it either

	broken  atomic.Pointer[PartialError] // what the handle is left with when partial is set
	growing sync.Mutex                   // held for a moment
	growth  sync.Mutex                   // held by Grow from start to end, which can take long

	seat int // in the nursery, whose lock it needs; -1: not there
}

// The word of a region, from the low bits up.
const (
	pinOne  = 1
	pinMask = 1<<12 - 1 // pins held by compare-and-swap; more go to the stripes
)

const (
	busy    = 1 << (12 + iota) // a transition holds the region
	awaited                    // somebody sleeps until it does not
	closed                     // no access any more; the last pin unmaps
	unowned                    // the range is unmapped or given away
	failed                     // closed, but unmapping failed: the next Close tries again
	partial                    // the permissions of the type do not hold: see PartialError
	genOne
	genMask = ^uint64(genOne - 1)
)

// A ticket is the inside of every handle.
type ticket struct {
	r     *region
	state uint64 // the region's word when nothing is going on
}

// newRegion returns a region that is known to nobody yet, and its first ticket.
func newRegion(addr, length, capacity uintptr, pages perms.Pages) ticket {
	r := &region{Pages: pages}
	r.addr.Store(addr)
	r.len.Store(length)
	r.cap.Store(capacity)
	r.account()
	r.track()
	return ticket{r: r}
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

// stripes count pins when several processors pin one region: each goroutine
// has a line of its own, most of the time. Line 0 is not used: indexing loads
// it for the nil check.
type stripes struct{ lines []stripe }

type stripe struct {
	pins atomic.Int64
	_    cpu.CacheLinePad
}

// perProcessor makes two goroutines at work unlikely to share a line.
const perProcessor = 16

func (r *region) newStripes() *stripes {
	n := min(perProcessor*max(runtime.GOMAXPROCS(0), 2), 1024)
	r.stripes.CompareAndSwap(nil, &stripes{lines: make([]stripe, n+1)})
	return r.stripes.Load()
}

// mine returns the calling goroutine's line.
func (s *stripes) mine() *stripe {
	// Stacks are at least 2 KiB apart. The multiplier is 2^32 over the golden
	// ratio, which spreads neighbours far from each other.
	h := uint32(stackHint()>>11) * 0x9e3779b9
	return &s.lines[1+(uint64(h)*uint64(len(s.lines)-1))>>32]
}

func (s *stripes) idle() bool {
	if s != nil {
		for i := range s.lines {
			if s.lines[i].pins.Load() != 0 {
				return false
			}
		}
	}
	return true
}

// pin keeps the region as it is until unpin is called with the same result,
// which says where the pin is counted: a stripe, or nil for the word.
func (t ticket) pin() (*stripe, error) {
	if t.pinWord() {
		return nil, nil
	}
	return t.pinSlowly(0)
}

// pinWord pins in the word, if nothing stands in the way.
func (t ticket) pinWord() bool {
	r := t.r
	if r == nil || r.stripes.Load() != nil {
		return false
	}
	w := r.word.Load()
	return w-t.state < pinMask && r.word.CompareAndSwap(w, w+pinOne)
}

// pinSlowly deals with all that pin leaves: stripes, a lost race, a full
// counter, a transition to wait for, and tickets that are no longer good.
// besides are state bits that do not stand in the way.
func (t ticket) pinSlowly(besides uint64) (*stripe, error) {
	r := t.r
	if r == nil {
		return nil, ErrClosed
	}
	for {
		w := r.word.Load() &^ besides
		if w&^pinMask == t.state {
			s := r.stripes.Load()
			if s == nil {
				s = r.newStripes()
			}
			line := s.mine()
			line.pins.Add(1)
			if r.word.Load()&^(pinMask|besides) == t.state {
				return line, nil
			}
			r.unpin(line)
			continue
		}
		if err := t.refusal(w); err != nil {
			return nil, err
		}
		if w&busy != 0 {
			r.await()
		}
	}
}

// refusal says why a ticket is no good for access with the region's word w:
// nil if it is good, or if that will be known when a transition ends.
func (t ticket) refusal(w uint64) error {
	switch {
	case w&genMask != t.state:
		return ErrMoved
	case w&closed != 0:
		return ErrClosed
	case w&partial != 0:
		return t.r.broken.Load()
	}
	return nil
}

// unpin ends a pin, and unmaps if it was the last of a closed region.
//
// No wake-up is lost: closed is set before Close looks for pins, and a pin is
// given up before unpin looks for closed, so at least one of the two sees the
// other; settle elects one if both do.
func (r *region) unpin(line *stripe) {
	if line != nil || r.word.Add(^uint64(0))&closed != 0 {
		r.unpinSlowly(line)
	}
}

// unpinSlowly deals with all that unpin leaves: stripes, and closed regions. A pin
// in the word is given up already. Inlined, it would keep unpin from being so, which
// costs a view a seventh.
//
//go:noinline
func (r *region) unpinSlowly(line *stripe) {
	if line != nil {
		line.pins.Add(-1)
	}
	if r.word.Load()&closed != 0 {
		r.settle()
	}
}

// settle unmaps the region if it is closed and nobody pins it any more, once.
func (r *region) settle() {
	for {
		w := r.word.Load()
		if w&(closed|busy|unowned|failed) != closed || w&pinMask != 0 || !r.stripes.Load().idle() {
			return
		}
		if r.word.CompareAndSwap(w, w|busy) {
			r.discard(w)
			return
		}
	}
}

// discard unmaps the range of a region whose word was w before the caller made
// it busy, and publishes the outcome for a closed region.
func (r *region) discard(w uint64) error {
	if err := r.unmap(); err != nil {
		r.publish(w | failed)
		return err
	}
	r.untrack()
	r.publish(w&^failed | unowned)
	return nil
}

func (r *region) unmap() error {
	if r.Size == 0 || r.lost.Load() {
		return nil
	}
	err := sys.Munmap(r.Base, r.Size)
	if err == nil {
		return nil
	}
	if err == unix.EINVAL && unmapWithOrphans(r.Base, r.Size) {
		return nil
	}
	// At the limit vm.max_map_count this can fail with ENOMEM: where the
	// kernel has merged the range with its neighbours, it has to divide them.
	if err = undivided(r.Base, r.Size, scarce(err, demand{})); err == unix.EPERM {
		err = ErrSealed // an adopted mapping, or one that somebody else has sealed
	}
	return named(err, "unmap %#x+%d", r.Base, r.Size)
}

// acquire takes the region for a transition. It never waits. besides are state
// bits that do not stand in the way. On success the caller ends the transition
// with publish, pass or giveUp.
func (t ticket) acquire(besides uint64) error {
	r := t.r
	if r == nil {
		return ErrClosed
	}
	for {
		w := r.word.Load()
		if err := t.refusal(w &^ besides); err != nil {
			return err
		}
		if w&(busy|pinMask) != 0 {
			return ErrBusy
		}
		if r.word.CompareAndSwap(w, w|busy) {
			if r.stripes.Load().idle() && !r.lost.Load() {
				return nil
			}
			r.publish(w)
			if r.lost.Load() {
				return errLost
			}
			return ErrBusy
		}
	}
}

// acquireToChange is acquire for a transition that changes pages.
func (t ticket) acquireToChange() error {
	err := t.acquire(0)
	if err == nil && t.r.sealed.Load() {
		t.giveUp()
		err = ErrSealed
	}
	return err
}

// publish ends a transition: the word becomes w, and whoever waits goes on.
func (r *region) publish(w uint64) {
	if r.word.Swap(w)&awaited != 0 {
		outcome.L.Lock()
		outcome.Broadcast()
		outcome.L.Unlock()
	}
}

// outcome wakes those who wait for a transition of any region. It is used by
// accesses that collide with a transition alone, so one for all is enough.
var outcome = sync.NewCond(new(sync.Mutex))

// await sleeps until no transition holds the region.
func (r *region) await() {
	outcome.L.Lock()
	defer outcome.L.Unlock()
	for {
		w := r.word.Load()
		switch {
		case w&busy == 0:
			return
		case w&awaited != 0 || r.word.CompareAndSwap(w, w|awaited):
			outcome.Wait()
		}
	}
}

// giveUp ends a transition that changed nothing.
func (t ticket) giveUp() { t.r.publish(t.state) }

// pass ends a transition that happened: the ticket is consumed, and the
// returned one is the next.
func (t ticket) pass() ticket {
	t.state += genOne
	t.r.publish(t.state)
	return t
}

// resign ends a transition that gave the range away: the ticket is consumed,
// and the region owns nothing.
func (t ticket) resign() {
	t.r.untrack()
	t.r.publish((t.state + genOne) | closed | unowned)
}

// Close unmaps the mapping; munmap(2). Every copy of the handle, and every
// access from now on, answers ErrClosed.
//
// A view or a pin does not make Close fail: the mapping stays for those that
// have it, and goes with the last of them. A second Close answers ErrClosed,
// and one of a handle that a transition consumed ErrMoved, so a deferred Close
// of an old handle does no harm. If unmapping fails, Close reports it and the handle
// goes on working: at the limit vm.max_map_count, and with EINVAL for a part of memory
// that the kernel does not divide, such as a ring of perf_event_open(2), of which the
// parts must be joined first. Where a last view could not unmap, the next Close tries
// again and reports. A
// sealed mapping cannot be closed: ErrSealed.
//
// It is safe to call from several goroutines at once.
func (m Mapping) Close() error {
	r := m.r
	if r == nil {
		return named(ErrClosed, "close")
	}
	for {
		w := r.word.Load()
		switch {
		case w&genMask != m.state:
			return named(ErrMoved, "close")
		case w&busy != 0:
			r.await()
		case w&failed != 0:
			if r.word.CompareAndSwap(w, w|busy) {
				return r.discard(w)
			}
		case w&(closed|unowned) != 0:
			return named(ErrClosed, "close")
		case r.sealed.Load():
			return named(ErrSealed, "close")
		case w&pinMask != 0:
			if r.word.CompareAndSwap(w, w|closed) {
				r.settle()
				return nil
			}
		case r.word.CompareAndSwap(w, w|busy):
			if !r.stripes.Load().idle() {
				r.publish(w | closed)
				r.settle()
				return nil
			}
			if err := r.unmap(); err != nil {
				r.publish(w)
				return err
			}
			r.untrack()
			r.publish(w | closed | unowned)
			return nil
		}
	}
}

// Release gives the page range up without unmapping it, and returns it: whole
// pages, the reserve included. It belongs to whoever has the address then,
// [UnsafeAdopt] for one. The handle answers ErrMoved. While the mapping is
// accessed or pinned it answers ErrBusy.
func (m Mapping) Release() (addr uintptr, size int, err error) {
	if err := m.acquire(0); err != nil {
		return 0, 0, named(err, "release")
	}
	addr, size = m.r.Base, int(m.r.Size)
	m.resign()
	return addr, size, nil
}

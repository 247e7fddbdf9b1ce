//go:build linux

package mmap

import (
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"weak"

	"github.com/mmarinus/mmap/internal/birth"
	"github.com/mmarinus/mmap/internal/leftover"
	"golang.org/x/sys/unix"
)

// What nobody closes is unmapped by a finalizer of its region. A finalizer and
// not a cleanup, because a cleanup runs when the region is gone: the finalizer
// can see a pin that was lost without Unpin, and leave the memory to whoever
// still has its slice; and it can try again when unmapping fails.
//
// Attaching a finalizer costs about a tenth of mapping and unmapping a page. Most
// mappings are closed before the next garbage collection, which is the first that
// could find them lost. So new regions wait in the nursery, and those still there
// when a collection has run get their finalizer then. A region enters by one
// compare-and-swap, and closing it does nothing: the closed ones are swept out later.
var nursery = newborns{old: map[int32]weak.Pointer[region]{}, kept: map[*region]struct{}{}, last: seatKept}

type newborns struct {
	young atomic.Pointer[region] // the last one that entered, and by region.older the others
	armed atomic.Bool            // a collection will call graduate
	spare atomic.Int32           // how many there may be beyond leastSweep before a sweep

	sync.Mutex                                // of all below, of the regions' seats, and to take young ones out
	leaving    []*region                      // on their way from young to old
	old        map[int32]weak.Pointer[region] // that have their finalizer, by their seats
	last       int32                          // the seat of the last of those
	kept       map[*region]struct{}           // that the collector leaves alone: lent, sealed, a pin was lost
}

// Where a region sits, if not among the old ones: those have lower numbers.
const (
	seatYoung   = -iota
	seatNone    // it owns nothing
	seatLeaving // see newborns
	seatKept
)

// So many closed regions may wait for a sweep, or as many as are open if that is more.
const leastSweep = 64

// enroll puts a new region into the collector's care.
func (r *region) enroll() {
	rank := int32(0)
	for entered := false; !entered; {
		head := nursery.young.Load()
		if rank = 1; head != nil {
			rank += atomic.LoadInt32(&head.rank)
		}
		r.older, r.rank = head, rank
		entered = nursery.young.CompareAndSwap(head, r)
	}
	if !nursery.armed.Load() && nursery.armed.CompareAndSwap(false, true) {
		leftover.AfterCollection(graduate)
	}
	if rank > leastSweep && rank > leastSweep+nursery.spare.Load() {
		sweep()
	}
	index.put(r)
}

// dismiss takes a region that owns nothing any more out of it. One that is young stays in
// the list until somebody sees that it is gone. That can be graduate, too, if it is quick;
// then collect finds it gone. One that has its finalizer already keeps that, which then
// finds nothing to do. collected says that the collector has unmapped it: none that is young.
func (r *region) dismiss(collected bool) {
	if atomic.LoadInt32(&r.seat) != seatYoung {
		nursery.Lock()
		r.sit(seatNone)
		nursery.Unlock()
	}
	index.remove(r)
	if id := r.birth(); id != 0 {
		birth.Watching.Load().Gone(id, collected)
	}
}

// sit moves a region to a seat. It leaves its old one, but for the list of the young.
func (r *region) sit(seat int32) {
	switch {
	case r.seat == seatKept:
		delete(nursery.kept, r)
	case r.seat < seatKept:
		delete(nursery.old, r.seat)
	}
	atomic.StoreInt32(&r.seat, seat)
}

// takeYoung takes all young regions out, and returns those that own something, the oldest
// first.
func takeYoung() (all []*region) {
	for r := nursery.young.Swap(nil); r != nil; {
		if r.seat == seatYoung && !r.Gone() {
			all = append(all, r)
		}
		next := r.older
		r.older = nil // or a closed one that somebody has would keep others
		r = next
	}
	slices.Reverse(all)
	return all
}

// sweep takes the closed regions out of the nursery.
func sweep() {
	nursery.Lock()
	defer nursery.Unlock()
	if head := nursery.young.Load(); head == nil || atomic.LoadInt32(&head.rank) <= leastSweep+nursery.spare.Load() {
		return // somebody else has
	}
	all := takeYoung()
	nursery.spare.Store(int32(len(all) + max(0, len(all)-leastSweep)))
	for back := len(all) == 0; !back; {
		head := nursery.young.Load() // who has entered meanwhile
		last, rank := head, int32(0)
		if head != nil {
			rank = atomic.LoadInt32(&head.rank)
		}
		for _, r := range all {
			rank++
			r.older = last
			atomic.StoreInt32(&r.rank, rank)
			last = r
		}
		back = nursery.young.CompareAndSwap(head, last)
	}
}

// graduate gives every region of the nursery its finalizer.
func graduate() {
	nursery.armed.Store(false)
	nursery.Lock()
	old := takeYoung()
	nursery.spare.Store(0)
	for _, r := range old {
		r.sit(seatLeaving)
	}
	nursery.leaving = append(nursery.leaving, old...)
	nursery.Unlock()
	for part := range slices.Chunk(old, 64) { // for others want to map meanwhile
		nursery.Lock()
		for _, r := range part {
			if r.seat == seatLeaving { // or it has been closed
				seat := freeSeat()
				r.sit(seat)
				nursery.old[seat] = weak.Make(r)
			}
		}
		nursery.Unlock()
	}
	nursery.Lock()
	nursery.leaving = slices.DeleteFunc(nursery.leaving, func(r *region) bool { return r.seat != seatLeaving })
	nursery.Unlock()
	for _, r := range old {
		runtime.SetFinalizer(r, (*region).collect)
	}
}

// freeSeat returns a seat among the old regions. After two billion it begins again.
func freeSeat() int32 {
	for {
		if nursery.last--; nursery.last > seatKept {
			nursery.last = seatKept - 1
		}
		if _, taken := nursery.old[nursery.last]; !taken {
			return nursery.last
		}
	}
}

// collect unmaps a region that no handle and no live Pin refers to.
func (r *region) collect() {
	switch {
	case r.Gone(): // it was closed while it left the nursery
		nursery.Lock()
		r.sit(seatNone)
		nursery.Unlock()
		return
	case !r.Idle():
		r.keep() // a pin was lost, and somebody may have its slice
		return
	}
	switch err := r.unmap(); {
	case err == nil:
		unclosed.Add(1)
		r.detach(true)
		r.dismiss(true)
	case errors.Is(err, unix.EINVAL):
		leftover.Keep(r.Base, r.Size)
		r.detach(true)
		r.dismiss(true)
	default:
		runtime.SetFinalizer(r, (*region).collect) // after the next collection
	}
}

// keep has the register hold a region, which the collector then leaves alone: its memory
// can be in use when nobody has a handle. To wait for the finalizer with it would be too
// late: from the collection to then nobody would know of the region.
func (r *region) keep() {
	nursery.Lock()
	owns := r.seat != seatNone && !r.Gone()
	if owns {
		r.sit(seatKept)
		nursery.kept[r] = struct{}{}
	}
	nursery.Unlock()
	if owns {
		index.put(r) // the weak pointer that it had can be dead
	}
}

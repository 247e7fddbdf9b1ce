//go:build linux

package mmap

import (
	"errors"
	"runtime"
	"slices"
	"sync"
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
// when a collection has run get their finalizer then.
var nursery = newborns{old: map[int32]weak.Pointer[region]{}, kept: map[*region]struct{}{}, last: seatKept}

type newborns struct {
	sync.Mutex
	young []*region
	armed bool // a collection will call graduate

	leaving []*region                      // on their way from young to old
	old     map[int32]weak.Pointer[region] // that have their finalizer, by their seats
	last    int32                          // the seat of the last of those
	kept    map[*region]struct{}           // that the collector leaves alone: lent, sealed, a pin was lost
}

// Where a region sits, if it does not sit among the young ones: a lower number is its seat
// among the old ones.
const (
	seatNone = -1 - iota // it owns nothing
	seatLeaving
	seatKept
)

// track puts a new region into the collector's care.
func (r *region) track() {
	nursery.Lock()
	r.seat = int32(len(nursery.young))
	nursery.young = append(nursery.young, r)
	if !nursery.armed {
		nursery.armed = true
		leftover.AfterCollection(graduate)
	}
	nursery.Unlock()
	index.put(r)
}

// untrack takes a region that owns nothing any more out of it. One that has its
// finalizer already keeps that, which then finds nothing to do. collected says that the
// collector has unmapped it.
func (r *region) untrack(collected bool) {
	nursery.Lock()
	r.standUp()
	nursery.Unlock()
	index.remove(r)
	if id := r.birth(); id != 0 {
		birth.Watching.Load().Gone(id, collected)
	}
}

// standUp takes a region from its seat.
func (r *region) standUp() {
	switch {
	case r.seat >= 0:
		end := len(nursery.young) - 1
		last := nursery.young[end]
		nursery.young[r.seat], last.seat = last, r.seat
		nursery.young[end], nursery.young = nil, nursery.young[:end]
	case r.seat == seatKept:
		delete(nursery.kept, r)
	default:
		delete(nursery.old, r.seat)
	}
	r.seat = seatNone
}

// graduate gives every region of the nursery its finalizer.
func graduate() {
	nursery.Lock()
	nursery.armed = false
	old := nursery.young
	nursery.young, nursery.leaving = nil, append(nursery.leaving, old...)
	for _, r := range old {
		r.seat = seatLeaving
	}
	nursery.Unlock()
	for part := range slices.Chunk(old, 64) { // for others want to map meanwhile
		nursery.Lock()
		for _, r := range part {
			if r.seat == seatLeaving { // or it has been closed
				r.seat = freeSeat()
				nursery.old[r.seat] = weak.Make(r)
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
	if !r.Idle() {
		r.keep() // if it is not unmapped already: a pin was lost, and somebody may have its slice
		return
	}
	switch err := r.unmap(); {
	case err == nil:
		unclosed.Add(1)
		r.untrack(true)
	case errors.Is(err, unix.EINVAL):
		leftover.Keep(r.Base, r.Size)
		r.untrack(true)
	default:
		runtime.SetFinalizer(r, (*region).collect) // after the next collection
	}
}

// keep has the register hold a region, which the collector then leaves alone: its memory
// can be in use when nobody has a handle. To wait for the finalizer with it would be too
// late: from the collection to then nobody would know of the region.
func (r *region) keep() {
	nursery.Lock()
	owns := r.seat != seatNone
	if owns {
		r.standUp()
		nursery.kept[r], r.seat = struct{}{}, seatKept
	}
	nursery.Unlock()
	if owns {
		index.put(r) // the weak pointer that it had can be dead
	}
}

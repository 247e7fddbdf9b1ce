package mmap

import (
	"errors"
	"runtime"
	"sync"

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
var nursery struct {
	sync.Mutex
	young []*region
	armed bool // a collection will call graduate
}

// sentinel is garbage from the start: its finalizer tells of a collection.
type sentinel struct{ _ *sentinel }

// track puts a new region into the collector's care.
func (r *region) track() {
	nursery.Lock()
	r.seat = int32(len(nursery.young))
	nursery.young = append(nursery.young, r)
	if !nursery.armed {
		nursery.armed = true
		runtime.SetFinalizer(new(sentinel), func(*sentinel) { graduate() })
	}
	nursery.Unlock()
}

// untrack takes a region that owns nothing any more out of it. One that has its
// finalizer already keeps that, which then finds nothing to do.
func (r *region) untrack() {
	nursery.Lock()
	if r.seat >= 0 {
		end := len(nursery.young) - 1
		last := nursery.young[end]
		nursery.young[r.seat], last.seat, r.seat = last, r.seat, -1
		nursery.young[end], nursery.young = nil, nursery.young[:end]
	}
	nursery.Unlock()
}

// graduate gives every region of the nursery its finalizer.
func graduate() {
	nursery.Lock()
	nursery.armed = false
	old := nursery.young
	nursery.young = nil
	for _, r := range old {
		r.seat = -1
	}
	nursery.Unlock()
	for _, r := range old {
		runtime.SetFinalizer(r, (*region).collect)
	}
}

// collect unmaps a region that no handle and no live Pin refers to.
func (r *region) collect() {
	if !r.Idle() || r.is(isLent) || r.is(isSealed) {
		return // unmapped already, sealed, or somebody may still have a slice of it
	}
	switch err := r.unmap(); {
	case errors.Is(err, unix.EINVAL):
		leftover.Keep(r.Base, r.Size)
	case err != nil:
		runtime.SetFinalizer(r, (*region).collect) // after the next collection
	}
}

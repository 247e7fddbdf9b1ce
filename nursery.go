package mmap

import (
	"cmp"
	"errors"
	"runtime"
	"slices"
	"sync"

	"github.com/mmarinus/mmap/internal/sys"
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
		orphans.Lock()
		addOrphan(extent{base: r.Base, whole: r.Size})
		orphans.Unlock()
		keepTrying()
	case err != nil:
		runtime.SetFinalizer(r, (*region).collect) // after the next collection
	}
}

// orphans are lost parts of memory that the kernel does not divide. They can be
// unmapped together with their neighbours, when these are lost or closed.
var orphans struct {
	sync.Mutex
	parts []extent
	armed bool // a collection will call keepTrying
}

// addOrphan adds a part that cannot be unmapped alone, and unmaps what is whole now,
// with its lock held.
func addOrphan(part extent) {
	orphans.parts = append(orphans.parts, part)
	slices.SortFunc(orphans.parts, func(a, b extent) int { return cmp.Compare(a.base, b.base) })
	unmapOrphans(2)
}

// unmapOrphans unmaps each range of least neighbours or more, if that can be done. Of one
// that begins or ends within such memory the kernel changes nothing.
func unmapOrphans(least int) {
	parts := orphans.parts
	for first := 0; first < len(parts); first++ {
		end := parts[first].base
		for last := first; last < len(parts) && parts[last].base == end; last++ {
			end += parts[last].whole
			if last-first+1 >= least && sys.Munmap(parts[first].base, end-parts[first].base) == nil {
				parts = slices.Delete(parts, first, last+1)
				first--
				break
			}
		}
	}
	orphans.parts = parts
}

// keepTrying unmaps orphans after each collection, for as long as there are some.
func keepTrying() {
	orphans.Lock()
	defer orphans.Unlock()
	if unmapOrphans(1); len(orphans.parts) > 0 && !orphans.armed {
		orphans.armed = true
		runtime.SetFinalizer(new(sentinel), func(*sentinel) {
			orphans.Lock()
			orphans.armed = false
			orphans.Unlock()
			keepTrying()
		})
	}
}

// unmapWithOrphans unmaps a part of memory that the kernel does not divide, if all
// other parts of it are orphans.
func unmapWithOrphans(base, size uintptr) bool {
	orphans.Lock()
	defer orphans.Unlock()
	addOrphan(extent{base: base, whole: size})
	i := slices.IndexFunc(orphans.parts, func(e extent) bool { return e.base == base })
	if i >= 0 {
		orphans.parts = slices.Delete(orphans.parts, i, i+1)
	}
	return i < 0
}

//go:build linux

// Package leftover unmaps ranges that nobody refers to any more, and keeps those that
// the kernel does not unmap yet: munmap(2) can fail with ENOMEM at vm.max_map_count, and
// with EINVAL for a part of memory that the kernel does not divide, such as a ring of
// perf_event_open(2). It tries again after each garbage collection, and where two
// neighbours have come together.
package leftover

import (
	"cmp"
	"runtime"
	"slices"
	"sync"

	"github.com/mmarinus/mmap/internal/sys"
)

// An extent is a range of addresses.
type extent struct{ base, size uintptr }

var left struct {
	sync.Mutex
	ranges []extent
	armed  bool // a collection will try again
}

// Abandon unmaps a range, at once or later.
func Abandon(base, size uintptr) {
	if size > 0 && sys.Munmap(base, size) != nil {
		Keep(base, size)
	}
}

// Keep takes a range that cannot be unmapped now.
func Keep(base, size uintptr) {
	left.Lock()
	defer left.Unlock()
	add(base, size)
	arm()
}

// Try tries to unmap what is kept, as each collection does.
func Try() {
	left.Lock()
	defer left.Unlock()
	try(1)
	arm()
}

// WithNeighbours unmaps a range that cannot be unmapped by itself together with kept
// ones around it, if that can be done.
func WithNeighbours(base, size uintptr) bool {
	left.Lock()
	defer left.Unlock()
	add(base, size)
	i := slices.IndexFunc(left.ranges, func(e extent) bool { return e.base == base })
	if i >= 0 {
		left.ranges = slices.Delete(left.ranges, i, i+1)
	}
	return i < 0
}

// add adds a range, and unmaps what is whole with it.
func add(base, size uintptr) {
	left.ranges = append(left.ranges, extent{base, size})
	slices.SortFunc(left.ranges, func(a, b extent) int { return cmp.Compare(a.base, b.base) })
	try(2)
}

// try unmaps what can be unmapped of least neighbours together, or more. Where a range
// begins or ends within memory that is not divided, the kernel changes nothing.
func try(least int) {
	ranges := left.ranges
	for first := 0; first < len(ranges); first++ {
		end := ranges[first].base
		for last := first; last < len(ranges) && ranges[last].base == end; last++ {
			end += ranges[last].size
			if last-first+1 >= least && sys.Munmap(ranges[first].base, end-ranges[first].base) == nil {
				ranges = slices.Delete(ranges, first, last+1)
				first--
				break
			}
		}
	}
	left.ranges = ranges
}

// arm has the next collection try again, if there is something to try.
func arm() {
	if left.armed || len(left.ranges) == 0 {
		return
	}
	left.armed = true
	AfterCollection(func() {
		left.Lock()
		left.armed = false
		left.Unlock()
		Try()
	})
}

// A sentinel is garbage from the start: its finalizer tells of a collection.
type sentinel struct{ _ *sentinel }

// AfterCollection calls f after the next garbage collection.
func AfterCollection(f func()) { runtime.SetFinalizer(new(sentinel), func(*sentinel) { f() }) }

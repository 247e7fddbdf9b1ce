//go:build linux

package mmap

import (
	"slices"
	"sync"
	"sync/atomic"
	"weak"

	"github.com/mmarinus/mmap/internal/birth"
	"github.com/mmarinus/mmap/internal/kernel"
)

// Stats are numbers about all mappings of the process.
type Stats struct {
	Mappings  int   // that are mapped, closed but pinned ones too
	Bytes     int64 // the sum of their Len
	Faults    int64 // memory faults that became errors, since the program began
	Collected int64 // mappings that the collector has unmapped, because nobody closed them
}

// ReadStats returns the numbers of this moment. It looks at every mapping. If Collected
// grows, somebody forgets to close.
func ReadStats() Stats {
	s := Stats{Faults: faultCount.Load(), Collected: unclosed.Load()}
	for _, r := range everyRegion() {
		n := int64(0)
		if r.Glance(func() { n = int64(r.len.Load()) }) { // which can look again
			s.Mappings++
			s.Bytes += n
		}
	}
	return s
}

var faultCount, unclosed atomic.Int64

// GuardAll runs fn and returns its error. A memory fault in any mapping of this library,
// pinned or not, ends fn, as a panic would, and is returned as a [*FaultError]. All else is
// as with [Guard].
//
// It pins nothing: it is for memory that is kept alive by other means, such as the slice of
// UnsafeBytes. The cause of a fault is what the kernel says afterwards; if the memory has
// been unmapped meanwhile, the fault goes on as without GuardAll. GuardAll costs nothing
// per mapping until there is a fault.
func GuardAll(fn func() error) (err error) {
	g := guard{all: true}
	g.enter()
	defer func() {
		if !g.left {
			g.rescue(recover(), &err)
		}
	}()
	err = fn()
	g.leave()
	return err
}

func init() {
	birth.Each = func(f func(m birth.Mapping) bool) {
		for _, r := range everyRegion() {
			m := birth.Mapping{ID: r.birth()}
			there := r.Glance(func() {
				m.Addr, m.Len, m.Prot = r.addr.Load(), int(r.len.Load()), uint8(r.prot.Load())
				m.Closed = !r.Good(r.State())
			})
			if there && !f(m) {
				return
			}
		}
	}
}

// regionAt returns the region that covers an address, and its first byte.
func regionAt(addr uintptr) (*region, uintptr) {
	for _, r := range everyRegion() {
		var first, size uintptr
		there := r.Glance(func() { first, size = r.addr.Load(), r.cap.Load() })
		base := kernel.Page(first)
		if end, _ := kernel.Round(first+size, kernel.PageSize); there && size > 0 && addr-base < end-base {
			return r, first
		}
	}
	return nil, 0
}

// everyRegion returns all regions that own something.
func everyRegion() (all []*region) {
	nursery.Lock()
	defer nursery.Unlock()
	for r := nursery.young.Load(); r != nil; r = r.older {
		if r.seat == seatYoung {
			all = append(all, r)
		}
	}
	for _, r := range nursery.leaving {
		if r.seat == seatLeaving {
			all = append(all, r)
		}
	}
	for _, w := range nursery.old {
		if r := w.Value(); r != nil {
			all = append(all, r)
		}
	}
	for r := range nursery.kept {
		all = append(all, r)
	}
	return slices.DeleteFunc(all, func(r *region) bool { return r.Gone() }) // closed ones can still be in their seats
}

// Find returns the mapping that holds all of b, and the offset of b in it. It is for code
// that only has the slice. Bytes that no open mapping holds are not found: those of a
// closed mapping, also while it is pinned, of one that was released, and what Move and
// Resize have left behind. An empty b is in no mapping.
//
// A slice that outlives its mapping can be found in another that lies there by then: Find
// is reliable while b is pinned, and does not pin. The result is a handle like the
// owner's: close it only where the owner would.
//
// The first call looks at every mapping and makes an index, which is kept up to date from
// then on.
func Find(b []byte) (m Mapping, off int, ok bool) {
	if len(b) == 0 {
		return Mapping{}, 0, false
	}
	if !index.on.Load() {
		index.build()
	}
	for {
		m, off, ok, running := index.find(b)
		if running == nil {
			return m, off, ok
		}
		running.Good(running.State()) // waits, and nobody else does so long
	}
}

// index has the regions by their first byte, from the first call of Find on.
var index addressIndex

type addressIndex struct {
	sync.RWMutex
	on      atomic.Bool
	stacked atomic.Bool  // one mapping can lie over a part of another
	entries []indexEntry // ascending
}

type indexEntry struct {
	addr uintptr
	w    weak.Pointer[region]
}

// find is Find, but for a region that has changed or is changing: it returns that.
func (x *addressIndex) find(b []byte) (m Mapping, off int, ok bool, changing *region) {
	at := addressOf(b)
	x.RLock()
	defer x.RUnlock()
	for i := x.after(at) - 1; i >= 0; i-- {
		r := x.entries[i].w.Value()
		if r == nil {
			continue
		}
		s := r.State()
		addr, size := r.addr.Load(), r.len.Load()
		switch good, running := r.GoodNow(s); {
		case running || !good && r.Older(s):
			return Mapping{}, 0, false, r
		case !good || size == 0:
			continue // no open mapping has bytes there
		case at-addr < size && uintptr(len(b)) <= size-(at-addr):
			return Mapping{ticket{r, s}}, int(at - addr), true, nil
		case !x.stacked.Load():
			return Mapping{}, 0, false, nil // mappings do not overlap
		}
	}
	return Mapping{}, 0, false, nil
}

// after returns how many entries begin at addr or before it.
func (x *addressIndex) after(addr uintptr) int {
	i, _ := slices.BinarySearchFunc(x.entries, addr, func(e indexEntry, addr uintptr) int {
		if e.addr <= addr {
			return -1
		}
		return 1
	})
	return i
}

// build makes the index. It is on before it looks, so that what changes meanwhile waits
// and then corrects it.
func (x *addressIndex) build() {
	x.Lock()
	defer x.Unlock()
	if x.on.Swap(true) {
		return
	}
	for _, r := range everyRegion() {
		x.entries = append(x.entries, indexEntry{r.addr.Load(), weak.Make(r)})
	}
	slices.SortFunc(x.entries, func(a, b indexEntry) int {
		if a.addr < b.addr {
			return -1
		}
		return 1
	})
}

// stack notes that a region lies where something else can be: a part of another mapping, or
// of the Go heap, in which it would be a hole when it is unmapped.
func (r *region) stack() {
	index.stacked.Store(true)
	r.mark(isLent)
}

// put notes that a region is at its address now; from are the others where it may have
// been.
func (x *addressIndex) put(r *region, from ...uintptr) {
	if !x.on.Load() {
		return
	}
	addr := r.addr.Load()
	x.Lock()
	defer x.Unlock()
	e := indexEntry{addr, weak.Make(r)}
	x.drop(e.w, append(from, addr))
	x.entries = slices.Insert(x.entries, x.after(addr), e)
}

// remove notes that a region owns nothing any more.
func (x *addressIndex) remove(r *region) {
	if !x.on.Load() {
		return
	}
	x.Lock()
	defer x.Unlock()
	x.drop(weak.Make(r), []uintptr{r.addr.Load()})
}

// drop removes a region from the places where it may be, by its identity, for several can
// have the same address; and those that are gone.
func (x *addressIndex) drop(w weak.Pointer[region], addrs []uintptr) {
	for _, addr := range addrs {
		for i := x.after(addr) - 1; i >= 0 && x.entries[i].addr == addr; i-- {
			if x.entries[i].w == w || x.entries[i].w.Value() == nil {
				x.entries = slices.Delete(x.entries, i, i+1)
			}
		}
	}
}

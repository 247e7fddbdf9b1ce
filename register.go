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
	at := addressOf(b)
	if !index.on.Load() {
		index.build()
	}
	index.RLock()
	defer index.RUnlock()
	for i := index.after(at) - 1; i >= 0; i-- {
		r := index.entries[i].w.Value()
		if r == nil {
			continue
		}
		s := r.State()
		addr, size := r.addr.Load(), r.len.Load()
		if size == 0 || !r.Good(s) {
			continue // it has no bytes, or no open mapping has them
		}
		if at-addr < size && uintptr(len(b)) <= size-(at-addr) {
			return Mapping{ticket{r, s}}, int(at - addr), true
		}
		return Mapping{}, 0, false // mappings do not overlap
	}
	return Mapping{}, 0, false
}

// index has the regions by their first byte, from the first call of Find on.
var index addressIndex

type addressIndex struct {
	sync.RWMutex
	on      atomic.Bool
	entries []indexEntry // ascending
}

type indexEntry struct {
	addr uintptr
	w    weak.Pointer[region]
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

//go:build linux

// Package place puts pages at their place: it maps them, aligned and with a reserve,
// moves them, holds address space, and locks what is mapped into memory. It works on
// address ranges. Each call happens, or changes nothing but what its documentation says.
package place

import (
	"runtime"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/leftover"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// A Backing is what mmap(2) gets.
type Backing struct {
	FD      int
	Offset  int64   // a multiple of the granule
	Granule uintptr // page size of the memory
	Flags   int     // for mmap(2), without placement
	Device  bool    // of a character device

	twice  bool // huge pages are moved once more before they replace others
	filled bool // Onto replaces memory, which must not become a hole
}

// Kind returns that of the backing's pages with these permissions.
func (b Backing) Kind(p perms.Prot) perms.Kind {
	return perms.Kind{Prot: p, Granule: b.Granule, Flags: uint32(b.Flags)}
}

// ToReplace returns the backing for pages that will be moved to the place of others.
func (b Backing) ToReplace() Backing { b.twice = true; return b }

// Where says what the base address of Map means.
type Where uint8

// The placements.
const (
	Anywhere Where = iota
	Near           // a hint
	Exactly        // there, where nothing may be mapped
	Onto           // there, whatever is mapped
)

// A Wish is what is wanted of pages beside their source.
type Wish struct {
	Where            Where
	Align            uintptr // a power of two, or 0
	Populate, Cached bool    // all pages, and those that are in memory already
	Lock             Locking
}

// Map32Bit is MAP_32BIT, which other processors than amd64 do not have: on ppc64 the number
// is that of MAP_NORESERVE.
var Map32Bit = map[string]int{"amd64": 0x40}[runtime.GOARCH]

// Map maps data bytes of b as p, and a reserve up to whole bytes.
func (w Wish) Map(b Backing, base, data, whole uintptr, p perms.Prot) (uintptr, error) {
	flags, prot := b.Flags, p
	if whole > data {
		prot = 0
		if b.Flags&unix.MAP_SHARED != 0 && b.FD < 0 {
			flags |= unix.MAP_NORESERVE // or the kernel charges the whole capacity
		}
	} else if w.Populate && !Populates() {
		flags |= unix.MAP_POPULATE
	}
	// Under UnsafeOnto there can be pages of the Go heap, which must not become a hole.
	b.filled = w.Where == Onto && sys.Msync(base, whole, unix.MS_ASYNC) == nil
	if b.Flags&unix.MAP_HUGETLB != 0 && whole > data {
		// The reserve is ordinary address space: huge pages would be taken from
		// the pool for it.
		base, err := w.mapAt(onlySpace, base, whole, max(w.Align, b.Granule), 0, Holding|b.Flags&Map32Bit)
		if err == nil && data > 0 {
			if err = (Wish{Populate: w.Populate, Lock: w.Lock}).Stage(b, data, base, p); err != nil {
				if b.filled && kernel.Differs(base, data, 0) == nil && refill(base, whole, unix.MAP_FIXED) == nil {
					return 0, kernel.Scarce(err, kernel.Demand{})
				}
				AbandonHold(base, data)
				leftover.Abandon(base+data, whole-data)
			}
		}
		return base, kernel.Scarce(err, kernel.Demand{})
	}
	at, err := w.mapAt(b, base, whole, w.Align, prot, flags)
	if err != nil {
		return 0, err
	}
	if err := w.furnish(at, data, whole, b.Kind(p)); err != nil {
		if !b.filled || refill(at, whole, unix.MAP_FIXED) != nil {
			leftover.Abandon(at, whole)
		}
		return 0, err
	}
	return at, nil
}

// refill puts memory where UnsafeOnto has replaced some, and then failed.
func refill(base, size uintptr, how int) error {
	const memory = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	_, err := sys.Mmap(base, size, unix.PROT_READ|unix.PROT_WRITE, memory|how, -1, 0)
	return err
}

// furnish makes the data of freshly mapped pages what is wanted.
func (w Wish) furnish(base, data, whole uintptr, k perms.Kind) error {
	if data == 0 {
		return nil
	}
	if whole > data && k.Prot != 0 {
		if err := sys.Mprotect(base, data, int(k.Prot)); err != nil {
			return kernel.Scarce(kernel.DeniedExec(k.Prot, err), kernel.Demand{Data: data, Charged: data})
		}
	}
	// Both are best effort, and a lock says what is missing.
	if w.Populate && k.Prot&Accessible != 0 {
		part := Stretch{base, data, k}
		part.Madvise(part.populating())
	}
	if w.Cached {
		EachResident(base, data, func(addr uintptr, in bool) {
			if in {
				sys.Madvise(addr, kernel.PageSize, unix.MADV_POPULATE_READ)
			}
		})
	}
	err := w.Lock.Of(k).Apply(Stretch{base, data, k})
	if f, ok := err.(*Fault); ok {
		f.Base = base
	}
	return err
}

// mapAt maps size bytes of b where the placement says, at a multiple of align.
func (w Wish) mapAt(b Backing, base, size, align uintptr, p perms.Prot, flags int) (uintptr, error) {
	fixed := 0
	switch w.Where {
	case Exactly:
		fixed = unix.MAP_FIXED_NOREPLACE
	case Onto:
		fixed = unix.MAP_FIXED
	}
	got, err := b.Mmap(base, size, p, flags|fixed)
	if err == nil && w.Where == Exactly && got != base {
		leftover.Abandon(got, size) // kernels before 4.17 take NOREPLACE for a hint
		err = unix.EEXIST
	}
	if err == unix.EEXIST {
		err = kernel.Occupied(base, size)
	}
	if err != nil {
		return 0, err
	}
	// The search for huge pages does not know MAP_32BIT before Linux 6.13.
	fits := flags&Map32Bit == 0 || got+size <= 1<<31
	if align = max(align, b.Granule); got&(align-1) == 0 && fits && (b.Granule == kernel.PageSize || !b.twice) {
		return got, nil
	}
	// Not by luck, then, or to see whether the kernel moves huge pages, before a move
	// that unmaps others first: hold enough address space for the alignment, trim it,
	// and move the pages there.
	hold, err := reserveAligned(base, size, align, flags&Map32Bit)
	if err == nil {
		if err = Move(got, size, hold); err == nil {
			return hold, nil
		}
		AbandonHold(hold, size)
	}
	leftover.Abandon(got, size)
	return 0, kernel.Scarce(err, kernel.Demand{})
}

// Mmap maps size bytes of the backing, and explains why not.
func (b Backing) Mmap(addr, size uintptr, p perms.Prot, flags int) (uintptr, error) {
	got, err := sys.Mmap(addr, size, int(p), flags, b.FD, b.Offset)
	if err != nil && b.filled && sys.Msync(addr, size, unix.MS_ASYNC) == unix.ENOMEM {
		refill(addr, size, unix.MAP_FIXED_NOREPLACE) // a driver has refused late
	}
	if err != nil {
		return 0, b.Refused(size, p, flags, err)
	}
	return got, nil
}

// Refused explains why mmap(2) has failed with err.
func (b Backing) Refused(size uintptr, p perms.Prot, flags int, err error) error {
	switch {
	case flags&unix.MAP_TYPE == unix.MAP_DROPPABLE:
		err = kernel.Blame("MAP_DROPPABLE", err)
	case flags&unix.MAP_TYPE == unix.MAP_SHARED_VALIDATE:
		if err = kernel.Blame("MAP_SYNC", err); err == unix.EOPNOTSUPP {
			err = fail.Hint(err, "the file is not on persistent memory (DAX)")
		}
	case b.FD >= 0 && b.Granule == kernel.PageSize:
		err = kernel.Denied(b.FD, p, flags, err)
	case b.Granule > kernel.PageSize:
		err = kernel.ScarceHuge(err, uint64(size), b.Granule)
	}
	err = kernel.DeniedBoth(p, err)
	kind, want := flags&unix.MAP_TYPE, kernel.Demand{Space: size, Data: size, Charged: size, Low: flags & Map32Bit}
	private := kind == unix.MAP_PRIVATE || kind == unix.MAP_DROPPABLE
	if !private || p&perms.Write == 0 {
		want.Data = 0
	}
	if private && want.Data == 0 || !private && b.FD >= 0 || flags&unix.MAP_NORESERVE != 0 || kind == unix.MAP_DROPPABLE {
		want.Charged = 0
	}
	return kernel.Scarce(err, want)
}

// Stage maps size bytes of b elsewhere, where everything that can fail does so,
// and then moves them to the place of others, replacing those: MAP_FIXED that
// fails can leave a hole, into which a stranger may be mapped.
func (w Wish) Stage(b Backing, size, to uintptr, p perms.Prot) error {
	b.twice = true
	staged, err := w.Map(b, 0, size, size, p)
	if f, ok := err.(*Fault); ok {
		f.Addr, f.Base = to+f.Addr-f.Base, to
	}
	if err != nil {
		return err
	}
	if err = Move(staged, size, to); err != nil {
		leftover.Abandon(staged, size)
	}
	return err
}

// Holding are the flags of address space that is held and never touched.
const Holding = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_NORESERVE

// Hold holds address space: anywhere, or, if base is not 0, exactly there, where nothing
// may be mapped.
func Hold(base, size uintptr) (uintptr, error) {
	where := Anywhere
	if base != 0 {
		where = Exactly
	}
	return Wish{Where: where}.mapAt(onlySpace, base, size, 0, 0, Holding)
}

var onlySpace = Backing{FD: -1, Granule: kernel.PageSize}

// reserveAligned holds size bytes of address space at a multiple of align.
func reserveAligned(hint, size, align uintptr, flags int) (uintptr, error) {
	start, err := sys.Mmap(hint, size+align, unix.PROT_NONE, Holding|flags, -1, 0)
	if err != nil {
		return 0, kernel.Scarce(err, kernel.Demand{Space: size + align, Low: flags & Map32Bit})
	}
	at := (start + align - 1) &^ (align - 1)
	leftover.Abandon(start, at-start)
	leftover.Abandon(at+size, start+align-at)
	return at, nil
}

// AbandonHold unmaps address space that was held for a move, which has failed.
// The kernel may have unmapped it already; then a part of it may be a
// stranger's, and what is left of it stays.
func AbandonHold(base, size uintptr) {
	if kernel.Differs(base, size, 0) == nil {
		leftover.Abandon(base, size)
	}
}

// Package mmap maps memory on Linux: every major feature of mmap(2) and its
// companions, and the truth about their safety.
//
// A mapping with known permissions has them in its type: [Map] makes a [Read],
// a [ReadWrite], … and what the type does not allow does not compile. An
// [Unknown] has permissions that change while the program runs, and checks each
// access. [Assert] and [Forget] lead from one to the other.
//
// A memory fault, as on a page that a truncation took away, is a [*FaultError]
// and not the end of the program. While memory is accessed its mapping is
// pinned: it is never moved, replaced or re-protected under a reader, because
// every transition that would do so answers ErrBusy. What is not closed is
// collected; but close it, for the collector knows nothing of address space.
//
// What this cannot cover is in the README under "What safe does not cover".
// Escape hatches have Unsafe in their names. A program that must also run
// elsewhere than on Linux, or that reads its files once from start to end,
// should not use this package.
package mmap

import (
	"cmp"
	"fmt"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/leftover"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// Map makes a mapping with the permissions of M; mmap(2):
//
//	m, err := mmap.Map[mmap.Read](mmap.File(f, 0, 4096))
//
// A mapping of size 0 is valid, and empty. A bad argument matches
// [os.ErrInvalid], a closed file [os.ErrClosed] and EBADF; an error of the
// kernel matches its errno.
func Map[M Known](s Spec) (M, error) {
	t, err := s.mapNew(promised[M]())
	return handleOf[M](t), err
}

// MapUnknown makes a mapping with permissions p that can change. All else is as
// with [Map].
func MapUnknown(s Spec, p Prot) (Unknown, error) {
	t, err := s.mapNew(p)
	return handleOf[Unknown](t), err
}

// UnsafeAdopt makes a mapping of the size bytes at addr, which someone else has
// mapped: a C library, or a handle's Release. From now on the library owns the
// pages and unmaps them. That nobody else does is the caller's duty.
//
// They can be pages of the Go heap, as with [Spec.UnsafeOnto], which says how to give
// those back. So what nobody closes is not collected.
//
// The address must be a multiple of the page size, and the kernel must say that
// every page is mapped; with exactly the permissions of M, where M promises
// some. Otherwise nothing is changed.
func UnsafeAdopt[M Handle](addr uintptr, size int) (M, error) {
	var m M
	known, promises := m.known()
	t, err := adopt(addr, size, known, promises)
	return handleOf[M](t), err
}

func adopt(addr uintptr, size int, known Prot, promises bool) (t ticket, err error) {
	op := fmt.Sprintf("adopt %v at %#x", fail.Count(size), addr)
	n, fits := kernel.Round(uintptr(size), kernel.PageSize)
	switch {
	case size < 0:
		return ticket{}, fail.Bad(op, "negative size")
	case kernel.Page(addr) != addr:
		return ticket{}, fail.Bad(op, "address is no multiple of the page size %d", kernel.PageSize)
	case !fits || addr+n < addr:
		return ticket{}, fail.Bad(op, "beyond the address space")
	case n == 0:
		return newRegion(addr, 0, 0, perms.Uniform(addr, 0, 0, perms.Kind{Prot: perms.Prot(known), Granule: kernel.PageSize})), nil
	}
	var runs []perms.Run
	at, cut, uneven := addr, uintptr(0), false
	err = kernel.Survey(addr, addr+n, func(a kernel.Area) bool {
		switch {
		case a.Start != at:
			return false
		case a.Start&(a.PageSize-1) != 0:
			cut = a.PageSize
			return false
		}
		at = a.End
		runs = perms.Append(runs, a.End-addr, perms.Kind{Prot: a.Prot, Granule: a.PageSize, Flags: a.Flags})
		uneven = uneven || Prot(a.Prot) != known
		return true
	})
	if len(runs) > 0 && at == addr+n {
		last := &runs[len(runs)-1]
		end, _ := kernel.Round(at, last.Granule)
		n, last.End, at = end-addr, end-addr, end // a part of a huge page cannot be owned: it cannot be unmapped
	}
	switch {
	case err != nil:
		return t, named(err, "%s", op)
	case cut > 0:
		return t, fail.Bad(op, "the range cuts a huge page of %d bytes", cut)
	case at != addr+n:
		return t, &fail.Error{Op: op, Hint: fmt.Sprintf("nothing is mapped at %#x", at), Err: unix.ENOMEM}
	case promises && uneven:
		return t, cmp.Or(named(kernel.Differs(addr, n, perms.Prot(known)), "%s", op), error(unix.EACCES))
	}
	pages := perms.Uniform(addr, n, 0, runs[len(runs)-1].Kind)
	pages.SetRuns(runs)
	t = newRegion(addr, uintptr(size), uintptr(size), pages)
	t.r.mark(isLent) // as of UnsafeOnto
	return t, nil
}

// mapNew makes a mapping with permissions p.
func (s *Spec) mapNew(p Prot) (t ticket, err error) {
	if size, fits := kernel.Round(uintptr(s.size), kernel.PageSize); fits && size > 0 && *s == Anonymous(s.size) && p&^protAll == 0 {
		// The same as lay, where most of it has nothing to do: that is half of what
		// the library adds to the system call.
		b := backing{fd: -1, flags: unix.MAP_PRIVATE | unix.MAP_ANONYMOUS, granule: kernel.PageSize}
		base, no := b.mmap(0, size, p, b.flags)
		if err = no; err == nil {
			t = newRegion(base, uintptr(s.size), uintptr(s.size), perms.Uniform(base, size, 0, b.kind(p)))
		}
	} else if err = s.check(p); err == nil {
		err = s.open(p, s.reserve, func(b backing) error {
			t, err = s.lay(b, p)
			return err
		})
	}
	if err != nil {
		return t, named(err, "map %v as %v", *s, p)
	}
	return t, nil
}

// lay maps a backing where the Spec says, as a new region.
func (s *Spec) lay(b backing, p Prot) (ticket, error) {
	capacity := b.size
	if s.reserved {
		if capacity = uintptr(s.reserve); s.reserve < 0 || capacity < b.size {
			return ticket{}, fail.Bad("", "the capacity is below the size of %d bytes", b.size)
		}
	}
	data, _ := kernel.Round(b.lead+b.size, b.granule)
	whole, fits := kernel.Round(b.lead+capacity, b.granule)
	data, whole = data*min(b.size, 1), whole*min(capacity, 1) // no bytes take no pages, whatever the lead
	base, err := s.base(b, whole)
	if err == nil && !fits {
		err = unix.ENOMEM
	}
	if err != nil {
		return ticket{}, err
	}
	if whole > 0 {
		if base, err = s.mapPages(b, base, data, whole, p); err != nil {
			if f, ok := err.(*FaultError); ok {
				f.Offset = max(f.Offset-int(b.lead), 0)
			}
			return ticket{}, err
		}
	}
	t := newRegion(base+b.lead, b.size, capacity, perms.Uniform(base, whole, whole-data, b.kind(p)))
	t.r.lock = s.lock
	if s.placement == onto {
		t.r.mark(isLent) // unmapped, it could be a hole in the Go heap
	}
	return t, nil
}

// base returns the page where the Spec's placement puts size bytes of b: 0 for
// anywhere.
func (s *Spec) base(b backing, size uintptr) (uintptr, error) {
	align, lead := uintptr(s.align), b.lead
	if s.aligned && lead&(align-1) != 0 {
		return 0, fail.Bad("", "a file offset that is %d past a page cannot be aligned to %d", lead, align)
	}
	base := s.addr - lead
	switch {
	case s.placement == anywhere:
		return 0, nil
	case s.placement == near:
		base = kernel.Page(s.addr)
	case base == 0:
		return 0, fail.Bad("", "nothing can be mapped at address 0")
	case s.addr < lead || base&(b.granule-1) != 0:
		return 0, fail.Bad("", "address %#x is not %d past a multiple of the page size %d", s.addr, lead, b.granule)
	case s.aligned && s.addr&(align-1) != 0:
		return 0, fail.Bad("", "address %#x is no multiple of %d", s.addr, align)
	}
	if s.placement != onto && inRaceWindow(base, size) {
		return 0, fail.Bad("", "within the Go heap of a race build, %#x-%#x", uint64(raceStart), uint64(raceEnd))
	}
	return base, nil
}

// mapPages maps data bytes of b as p, and a reserve up to whole bytes.
func (s *Spec) mapPages(b backing, base, data, whole uintptr, p Prot) (uintptr, error) {
	flags, prot := b.flags, p
	if whole > data {
		prot = ProtNone
		if s.shared && b.fd < 0 {
			flags |= unix.MAP_NORESERVE // or the kernel charges the whole capacity
		}
	} else if s.populate && !populates() {
		flags |= unix.MAP_POPULATE
	}
	align := uintptr(s.align)
	// Under UnsafeOnto there can be pages of the Go heap, which must not become a hole.
	b.filled = s.placement == onto && sys.Msync(base, whole, unix.MS_ASYNC) == nil
	if b.flags&unix.MAP_HUGETLB != 0 && whole > data {
		// The reserve is ordinary address space: huge pages would be taken from
		// the pool for it.
		base, err := s.mapAt(onlySpace, base, whole, max(align, b.granule), ProtNone, holding|b.flags&map32Bit)
		if err == nil && data > 0 {
			if err = (&Spec{populate: s.populate, lock: s.lock}).stage(b, data, base, p); err != nil {
				if b.filled && kernel.Differs(base, data, 0) == nil && refill(base, whole, unix.MAP_FIXED) == nil {
					return 0, kernel.Scarce(err, kernel.Demand{})
				}
				abandonHold(base, data)
				abandon(base+data, whole-data)
			}
		}
		return base, kernel.Scarce(err, kernel.Demand{})
	}
	at, err := s.mapAt(b, base, whole, align, prot, flags)
	if err != nil {
		return 0, err
	}
	if err := s.furnish(at, data, whole, b.kind(p)); err != nil {
		if !b.filled || refill(at, whole, unix.MAP_FIXED) != nil {
			abandon(at, whole)
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

// furnish makes the data of freshly mapped pages what the Spec wants. The offset of
// a FaultError is from base.
func (s *Spec) furnish(base, data, whole uintptr, k perms.Kind) error {
	if data == 0 {
		return nil
	}
	if whole > data && k.Prot != 0 {
		if err := sys.Mprotect(base, data, int(k.Prot)); err != nil {
			return kernel.Scarce(kernel.DeniedExec(k.Prot, err), kernel.Demand{Data: data, Charged: data})
		}
	}
	// Both are best effort, and a lock says what is missing.
	if s.populate && k.Prot&accessible != 0 {
		sys.Madvise(base, data, stretch{base, data, k}.populating())
	}
	if s.populateCached {
		eachResident(base, data, func(addr uintptr, in bool) {
			if in {
				sys.Madvise(addr, kernel.PageSize, unix.MADV_POPULATE_READ)
			}
		})
	}
	return located(s.lock.of(k).apply(stretch{base, data, k}), 0, base)
}

// mapAt maps size bytes of b where the placement says, at a multiple of align.
func (s *Spec) mapAt(b backing, base, size, align uintptr, p Prot, flags int) (uintptr, error) {
	fixed := 0
	switch s.placement {
	case exactly:
		fixed = unix.MAP_FIXED_NOREPLACE
	case onto:
		fixed = unix.MAP_FIXED
	}
	got, err := b.mmap(base, size, p, flags|fixed)
	if err == nil && s.placement == exactly && got != base {
		abandon(got, size) // kernels before 4.17 take NOREPLACE for a hint
		err = unix.EEXIST
	}
	if err == unix.EEXIST {
		err = kernel.Occupied(base, size)
	}
	if err != nil {
		return 0, err
	}
	// The search for huge pages does not know MAP_32BIT before Linux 6.13.
	fits := flags&map32Bit == 0 || got+size <= 1<<31
	if align = max(align, b.granule); got&(align-1) == 0 && fits && (b.granule == kernel.PageSize || !b.twice) {
		return got, nil
	}
	// Not by luck, then, or to see whether the kernel moves huge pages, before a move
	// that unmaps others first: hold enough address space for the alignment, trim it,
	// and move the pages there.
	hold, err := reserveAligned(base, size, align, flags&map32Bit)
	if err == nil {
		if err = move(got, size, hold); err == nil {
			return hold, nil
		}
		abandonHold(hold, size)
	}
	abandon(got, size)
	return 0, kernel.Scarce(err, kernel.Demand{})
}

// mmap maps size bytes of the backing, and explains why not.
func (b backing) mmap(addr, size uintptr, p Prot, flags int) (uintptr, error) {
	got, err := sys.Mmap(addr, size, int(p), flags, b.fd, b.offset)
	if err != nil && b.filled && sys.Msync(addr, size, unix.MS_ASYNC) == unix.ENOMEM {
		refill(addr, size, unix.MAP_FIXED_NOREPLACE) // a driver has refused late
	}
	switch {
	case err == nil:
		return got, nil
	case flags&unix.MAP_TYPE == unix.MAP_DROPPABLE:
		err = kernel.Blame("MAP_DROPPABLE", err)
	case flags&unix.MAP_TYPE == unix.MAP_SHARED_VALIDATE:
		if err = kernel.Blame("MAP_SYNC", err); err == unix.EOPNOTSUPP {
			err = fail.Hint(err, "the file is not on persistent memory (DAX)")
		}
	case b.fd >= 0 && b.granule == kernel.PageSize:
		err = kernel.Denied(b.fd, perms.Prot(p), flags, err)
	case b.granule > kernel.PageSize:
		err = kernel.ScarceHuge(err, uint64(size), b.granule)
	}
	kind, want := flags&unix.MAP_TYPE, kernel.Demand{Space: size, Data: size, Charged: size}
	private := kind == unix.MAP_PRIVATE || kind == unix.MAP_DROPPABLE
	if !private || p&ProtWrite == 0 {
		want.Data = 0
	}
	if private && want.Data == 0 || !private && b.fd >= 0 || flags&unix.MAP_NORESERVE != 0 || kind == unix.MAP_DROPPABLE {
		want.Charged = 0
	}
	return 0, kernel.Scarce(err, want)
}

// stage maps size bytes of b elsewhere, where everything that can fail does so,
// and then moves them to the place of others, replacing those: MAP_FIXED that
// fails can leave a hole, into which a stranger may be mapped.
func (s *Spec) stage(b backing, size, to uintptr, p Prot) error {
	b.twice = true
	staged, err := s.mapPages(b, 0, size, size, p)
	if err != nil {
		return located(err, to, to)
	}
	if err = move(staged, size, to); err != nil {
		abandon(staged, size)
	}
	return err
}

// holding are the flags of address space that is held and never touched.
const holding = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_NORESERVE

var onlySpace = backing{fd: -1, granule: kernel.PageSize}

// reserveAligned holds size bytes of address space at a multiple of align.
func reserveAligned(hint, size, align uintptr, flags int) (uintptr, error) {
	start, err := sys.Mmap(hint, size+align, unix.PROT_NONE, holding|flags, -1, 0)
	if err != nil {
		return 0, kernel.Scarce(err, kernel.Demand{Space: size + align})
	}
	at := (start + align - 1) &^ (align - 1)
	abandon(start, at-start)
	abandon(at+size, start+align-at)
	return at, nil
}

// move moves a freshly mapped range to the place of another one, replacing it;
// mremap(2). Both ranges are the library's own. If it fails there may be a hole,
// so the caller sees to that before it explains the error.
func move(from, size, to uintptr) error {
	_, err := sys.Mremap(from, size, size, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, to)
	return err
}

// abandonHold unmaps address space that was held for a move, which has failed.
// The kernel may have unmapped it already; then a part of it may be a
// stranger's, and what is left of it stays.
func abandonHold(base, size uintptr) {
	if kernel.Differs(base, size, 0) == nil {
		abandon(base, size)
	}
}

// abandon unmaps a range that no handle owns, at once or later.
func abandon(base, size uintptr) { leftover.Abandon(base, size) }

// Probe returns nil if the running kernel offers a feature, and otherwise an
// error that names it and the version of Linux that has it, and matches
// [errors.ErrUnsupported]. What needs the feature answers the same error. The
// kernel is asked, not its version, and once.
//
// A feature has the kernel's name, such as mseal or MADV_COLLAPSE; the README
// lists them. One that is not there is a bad argument.
func Probe(feature string) error { return kernel.Probe(feature) }

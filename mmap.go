//go:build linux

// Package mmap maps files and memory on Linux. Permissions are part of the Go type, and a
// memory fault in a guarded access is an error, not a crash.
//
// A mapping with known permissions has them in its type: [Map] makes a [Read],
// a [ReadWrite], … and what the type does not allow does not compile. An
// [Unknown] has permissions that change while the program runs, and checks each
// access. [Assert] and [Forget] lead from one to the other.
//
// A memory fault, as on a page that a truncation took away, is a [*FaultError]
// and not the end of the program. No function moves, replaces or re-protects memory
// that is being read, except those with Unsafe in their names. Close every mapping: the
// garbage collector unmaps those that were forgotten, but it may be late.
//
// A program that must also run elsewhere than on Linux, or that reads its files once
// from start to end, should not use this package.
//
// # Handles and transitions
//
// A handle is a small value: a Read, a ReadWrite, …, an Unknown. It may be copied
// freely, and all copies are the same mapping. The zero value is inert: its methods
// return [ErrClosed]. What all handles have in common is [Mapping], and the page of each
// type has what its permissions add.
//
// A transition gives a mapping other permissions, another place, size or owner:
// [Protect], [Over], [Resize], [Move], [Split], [Join], [Forget], [Assert], and the
// method Release. It consumes its argument: on success it returns the next handle, and every
// copy of the old one returns [ErrMoved]. On failure the old one stays valid, and the
// mapping is unchanged, unless the error is a [*PartialError].
//
// An access, a view or a [Pin] pins the mapping: until it ends, transitions return
// [ErrBusy]. [Mapping.Drain] waits for that. Close also ends the handle, but never returns
// ErrBusy: it returns at once, and the memory is unmapped when the last pin ends.
//
// Code for several types declares the methods that it needs as an interface of its own, such
// as interface{ Len() int; View(func([]byte) error) error }, which every handle with these
// methods satisfies.
//
// # Ranges
//
// Methods with off and n act on n bytes at off. They run beside views and pins. If a
// transition is running, they wait for its end. What is harmless, such as [Mapping.Prefault], is widened to whole
// pages. What destroys contents, such as [ReadWrite.Discard], takes whole pages only, and
// belongs to handles that can be written.
//
// # What "safe" does not cover
//
//   - A slice is valid until the function of its view returns, or until Unpin. The compiler
//     does not stop you from keeping it. Touching it later is a crash, or reads what is
//     mapped there by then.
//   - If a file is cut off inside a page, the rest of that page reads as zeros. There is no
//     error: only the pages behind it fault.
//   - A goroutine that is started inside a view is not guarded, nor is C code: a fault there
//     ends the program.
//   - A fault while the Go runtime holds a lock of its own ends the program: a channel
//     operation or a map access whose value or key lies in mapped memory. Copy it first.
//   - Locks that were taken without defer stay held after a fault, and data that was half
//     changed stays half changed.
//   - Code that recovers from panics, as package fmt does around String methods, swallows a
//     fault.
//   - A system call that is given mapped memory does not fault. It returns EFAULT, or a
//     short count without an error.
//   - Other processes can change shared memory at any moment, also between two reads of the
//     same byte. Check a copy, not the memory. Between processes only aligned operations of
//     sync/atomic mean anything.
//   - The race detector does not see mapped memory. Two views that write are a data race all
//     the same.
//   - Memory that runs out ends a process: there is no fault to catch. A hole of a file on a
//     full disk is a fault; [Allocate] prevents it.
//   - Another mmap, munmap or mprotect of the same range by C code, or by package unix, makes
//     all that is said here untrue.
//
// The whole list is docs/safety.md in the repository.
package mmap

import (
	"cmp"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/leftover"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/place"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// Map makes a mapping with the permissions of M; mmap(2):
//
//	m, err := mmap.Map[mmap.Read](mmap.File(f, 0, 4096))
//
// Size 0 is valid, and the mapping is then empty. A bad argument matches [os.ErrInvalid],
// and a closed file [os.ErrClosed] and EBADF. An error of the kernel matches its errno.
func Map[M Known](s Spec) (M, error) {
	t, err := s.mapNew(promised[M]())
	return handleOf[M](t), err
}

// MapUnknown makes a mapping with permissions p that can change. The errors are those of
// [Map].
func MapUnknown(s Spec, p Prot) (Unknown, error) {
	t, err := s.mapNew(p)
	return handleOf[Unknown](t), err
}

// UnsafeAdopt makes a mapping of the size bytes at addr, which someone else has mapped: a C
// library, or this library before a Release. From now on the library owns the pages and
// unmaps them. The caller has to see to it that nobody else does.
//
// The address must be a multiple of the page size, and the kernel must say that every page
// is mapped, and with exactly the permissions of M, if M promises some. Otherwise nothing
// is changed.
//
// The pages can belong to the Go heap, as those of [Spec.UnsafeOnto] can, which says how to
// give them back. So the mapping is never collected.
func UnsafeAdopt[M Handle](addr uintptr, size int) (M, error) {
	var m M
	known, promises := m.known()
	t, err := adopt(addr, size, known, promises)
	return handleOf[M](t), named(err, "adopt %v at %#x", fail.Count(size), addr)
}

func adopt(addr uintptr, size int, known Prot, promises bool) (t ticket, err error) {
	n, fits := kernel.Round(uintptr(size), kernel.PageSize)
	switch {
	case size < 0:
		return ticket{}, fail.Bad("", "negative size")
	case kernel.Page(addr) != addr:
		return ticket{}, fail.Bad("", "address is no multiple of the page size %d", kernel.PageSize)
	case !fits || addr+n < addr:
		return ticket{}, fail.Bad("", "beyond the address space")
	case n == 0:
		kind := perms.Kind{Prot: perms.Prot(known), Granule: kernel.PageSize}
		pages := perms.Uniform(addr, 0, 0, kind)
		return newRegion(addr, 0, 0, &pages), nil
	}
	var runs []perms.Run
	at := addr
	err = kernel.Survey(addr, addr+n, func(a kernel.Area) bool {
		if a.Start != at {
			return false
		}
		at = a.End
		runs = perms.Append(runs, a.End-addr, perms.Kind{Prot: a.Prot, Granule: a.PageSize, Flags: a.Flags})
		return true
	})
	if len(runs) > 0 && at == addr+n {
		last := &runs[len(runs)-1]
		end, _ := kernel.Round(at, last.Granule)
		n, last.End, at = end-addr, end-addr, end // a part of a huge page cannot be owned: it cannot be unmapped
	}
	switch {
	case err != nil:
		return t, err
	case len(runs) > 0 && addr&(runs[0].Granule-1) != 0:
		return t, fail.Bad("", "the range cuts a huge page of %d bytes", runs[0].Granule)
	case at != addr+n:
		return t, fail.Hint(unix.ENOMEM, "nothing is mapped at %#x", at)
	case promises:
		if err = kernel.Differs(addr, n, perms.Prot(known)); err != nil {
			return t, err
		}
	}
	pages := perms.Uniform(addr, n, 0, runs[len(runs)-1].Kind)
	pages.SetRuns(runs)
	t = newRegion(addr, uintptr(size), uintptr(size), &pages)
	t.r.stack()
	return t, nil
}

// mapNew makes a mapping with permissions p.
func (s *Spec) mapNew(p Prot) (t ticket, err error) {
	size, fits := kernel.Round(uintptr(s.size), kernel.PageSize)
	if fits && size > 0 && *s == Anonymous(s.size) && p&^protAll == 0 {
		// The same as lay, where most of it has nothing to do: that is half of what the
		// library adds to the system call. Backing.Mmap is written out, because after a
		// system call each function that returns costs a mispredicted branch.
		b := place.Backing{FD: -1, Granule: kernel.PageSize, Flags: unix.MAP_PRIVATE | unix.MAP_ANONYMOUS}
		base, no := sys.Mmap(0, size, int(p), b.Flags, b.FD, b.Offset)
		if no == nil {
			pages := perms.Uniform(base, size, 0, b.Kind(perms.Prot(p)))
			t = newRegion(base, uintptr(s.size), uintptr(s.size), &pages)
		} else {
			err = b.Refused(size, perms.Prot(p), b.Flags, no)
		}
	} else if err = s.check(p); err == nil {
		t, err = s.mapSource(p)
	}
	if err != nil {
		return t, named(err, "map %v as %v", *s, p)
	}
	return t, nil
}

// mapSource maps the Spec from its source. It is a function of its own because its results
// are on the heap.
func (s *Spec) mapSource(p Prot) (t ticket, err error) {
	plain := Spec{source: s.source, file: s.file, fd: s.fd, offset: s.offset, size: s.size, shared: s.shared}
	guess := (s.source == openFile || s.source == descriptor) && s.size > 0 && *s == plain
	no := s.withFD(p, s.reserve, func(fd uintptr) {
		sure := false
		if guess {
			t, sure, err = s.guess(int(fd), p)
		}
		if !sure {
			var b backing
			if b, err = s.back(int(fd)); err == nil {
				t, err = s.lay(b, p)
			}
		}
	})
	return t, cmp.Or(no, err)
}

// guess maps a plain range of a file without asking what file it is, which would take a
// tenth of the time. That it has huge pages shows in where it is mapped. It is not sure of
// a file with huge pages that has to be mapped from another offset on.
func (s *Spec) guess(fd int, p Prot) (t ticket, sure bool, err error) {
	b := s.smallPages(fd)
	size, fits := kernel.Round(b.lead+b.size, kernel.PageSize)
	if !fits {
		return t, false, nil
	}
	base, err := sys.Mmap(0, size, int(p), b.Flags, fd, b.Offset)
	if err != nil || (base|uintptr(b.Offset))&(kernel.SmallestHuge()-1) == 0 {
		is, unknown := s.back(fd)
		switch {
		case unknown != nil && err == nil:
			unmapFile(base, size)
			return t, true, unknown
		case unknown == nil && is.Offset != b.Offset:
			return t, false, nil // the kernel has refused that
		case unknown == nil:
			b.Granule = is.Granule
			size, _ = kernel.Round(size, b.Granule) // as the kernel does
		}
	}
	if err != nil {
		return t, true, b.Refused(size, perms.Prot(p), b.Flags, err)
	}
	pages := perms.Uniform(base, size, 0, b.Kind(perms.Prot(p)))
	return newRegion(base+b.lead, b.size, b.size, &pages), true, nil
}

// unmapFile unmaps a file whose pages can be of any size. The kernel refuses to unmap a part
// of one.
func unmapFile(base, size uintptr) {
	err := sys.Munmap(base, size)
	for granule := kernel.SmallestHuge(); err == unix.EINVAL && granule > 0; granule <<= 1 {
		whole, _ := kernel.Round(size, granule)
		area, unread := kernel.RegionsOf(base, base+whole)
		if unread != nil || len(area) != 1 || uintptr(area[0].Size()) != whole {
			break
		}
		err = sys.Munmap(base, whole)
	}
	if err != nil {
		leftover.Keep(base, size)
	}
}

// lay maps a backing where the Spec says, as a new region.
func (s *Spec) lay(b backing, p Prot) (ticket, error) {
	capacity := b.size
	if s.reserved {
		if capacity = uintptr(s.reserve); s.reserve < 0 || capacity < b.size {
			return ticket{}, fail.Bad("", "the capacity is below the size of %d bytes", b.size)
		}
	}
	data, _ := kernel.Round(b.lead+b.size, b.Granule)
	whole, fits := kernel.Round(b.lead+capacity, b.Granule)
	data, whole = data*min(b.size, 1), whole*min(capacity, 1) // no bytes take no pages, whatever the lead
	base, err := s.base(b, whole)
	if err == nil && !fits {
		err = fail.Hint(unix.ENOMEM, "the address space has no room for %d bytes", capacity)
	}
	if err != nil {
		return ticket{}, err
	}
	plain := s.wish == (place.Wish{}) && whole == data && b.Granule == kernel.PageSize && b.Flags&place.Map32Bit == 0
	if plain && whole > 0 { // the same as Wish.Map, of which nothing is left to do but this
		if base, err = sys.Mmap(0, data, int(p), b.Flags, b.FD, b.Offset); err != nil {
			return ticket{}, b.Refused(data, perms.Prot(p), b.Flags, err)
		}
	} else if whole > 0 {
		if base, err = s.wish.Map(b.Backing, base, data, whole, perms.Prot(p)); err != nil {
			if f, ok := err.(*place.Fault); ok {
				err = faulted(err, 0, f.Base+b.lead)
			}
			return ticket{}, err
		}
	}
	pages := perms.Uniform(base, whole, whole-data, b.Kind(perms.Prot(p)))
	t := newRegion(base+b.lead, b.size, capacity, &pages)
	t.r.setLock(s.wish.Lock)
	if s.wish.Where == place.Onto {
		t.r.stack()
	}
	return t, nil
}

// base returns the page where the Spec's placement puts size bytes of b: 0 for
// anywhere.
func (s *Spec) base(b backing, size uintptr) (uintptr, error) {
	align, lead := s.wish.Align, b.lead
	if s.aligned && lead&(align-1) != 0 {
		return 0, fail.Bad("", "a file offset that is %d past a page cannot be aligned to %d", lead, align)
	}
	base := s.addr - lead
	switch {
	case s.wish.Where == place.Anywhere:
		return 0, nil
	case s.wish.Where == place.Near:
		base = kernel.Page(s.addr)
	case base == 0:
		return 0, fail.Bad("", "nothing can be mapped at address 0")
	case s.addr < lead || base&(b.Granule-1) != 0:
		return 0, fail.Bad("", "address %#x is not %d past a multiple of the page size %d", s.addr, lead, b.Granule)
	case base+size < base:
		return 0, fail.Hint(unix.ENOMEM, "the range ends past the end of the address space")
	case s.aligned && s.addr&(align-1) != 0:
		return 0, fail.Bad("", "address %#x is no multiple of %d", s.addr, align)
	}
	if s.wish.Where != place.Onto && inRaceWindow(base, size) {
		return 0, fail.Bad("", "within the Go heap of a race build, %#x-%#x", uint64(raceStart), uint64(raceEnd))
	}
	return base, nil
}

// Probe returns nil if the running kernel offers a feature. Otherwise it returns an error
// that names the feature and the version of Linux that has it, and matches
// [errors.ErrUnsupported]. What needs the feature returns the same error. If a feature is
// forbidden, as by the seccomp filter of a container, the error is EPERM. Probe asks the
// kernel, and not for its version. It remembers whether the kernel has the feature.
//
// A feature has the kernel's name, such as mseal or MADV_COLLAPSE; docs/kernels.md lists
// them. Any other name is a bad argument.
func Probe(feature string) error { return kernel.Probe(feature) }

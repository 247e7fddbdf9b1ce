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
	"fmt"

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
// mapped: a C library, or a handle's Release. From now on the library owns the pages and
// unmaps them. That nobody else does is the caller's duty.
//
// The address must be a multiple of the page size, and the kernel must say that
// every page is mapped; with exactly the permissions of M, where M promises
// some. Otherwise nothing is changed.
func UnsafeAdopt[M Handle](addr uintptr, size int) (M, error) {
	var m M
	t, err := adopt(addr, size, m)
	return handleOf[M](t), err
}

func adopt(addr uintptr, size int, as Mapping) (ticket, error) {
	op := fmt.Sprintf("adopt %d bytes at %#x", size, addr)
	n, fits := round(uintptr(size), pageSize)
	switch {
	case size < 0:
		return ticket{}, bad(op, "negative size")
	case page(addr) != addr:
		return ticket{}, bad(op, "address is no multiple of the page size %d", pageSize)
	case !fits || int(n) < 0 || addr+n < addr:
		return ticket{}, bad(op, "beyond the address space")
	case n > 0 && inRaceWindow(addr, n):
		return ticket{}, bad(op, "within the Go heap of a race build")
	case n == 0:
		p, _ := as.known()
		return newRegion(addr, 0, 0, addr, 0, 0, pageSize, p), nil
	}
	var runs []run
	known, promises := as.known()
	at, granule := addr, pageSize
	err := survey(addr, addr+n, func(a area) bool {
		if a.start != at {
			return false
		}
		at, granule = a.end, max(granule, a.pageSize)
		runs = appendRun(runs, a.end-addr, a.prot)
		return true
	})
	switch {
	case err != nil:
		return ticket{}, named(err, "%s", op)
	case at != addr+n:
		return ticket{}, &failure{op: op, hint: fmt.Sprintf("nothing is mapped at %#x", at), err: unix.ENOMEM}
	case promises && (len(runs) != 1 || runs[0].prot != known):
		wrong, _ := differs(addr, n, known)
		return ticket{}, &failure{op: op, hint: wrong, err: unix.EACCES}
	}
	// A part of a huge page cannot be owned: it cannot be unmapped.
	end, fits := round(addr+n, granule)
	if fits = fits && addr&(granule-1) == 0; fits && end != addr+n {
		wrong, err := differs(addr+n, end-addr-n, runs[len(runs)-1].prot)
		fits = err == nil && wrong == ""
	}
	if !fits {
		return ticket{}, bad(op, "the range cuts a huge page of %d bytes", granule)
	}
	n = end - addr
	runs[len(runs)-1].end = n
	t := newRegion(addr, uintptr(size), uintptr(size), addr, n, 0, granule, ProtNone)
	t.r.setRuns(runs)
	return t, nil
}

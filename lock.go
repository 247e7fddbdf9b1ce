//go:build linux

package mmap

import (
	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/place"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// Lock locks the pages of n bytes at off into memory, widened to whole pages, and brings
// them in; mlock(2). At the limit the error names RLIMIT_MEMLOCK, and nothing has changed.
// If a page cannot be brought in, the error is a [*FaultError], and only what was locked
// before is locked. A page that can neither be read nor written is ErrPermission, and
// nothing has changed: use LockOnFault, also if the processor does not let the kernel bring
// in what can only be executed. At vm.max_map_count a part of the range can stay locked;
// see Unlock.
//
// The pages are marked with MLOCK_ONFAULT, which smaps shows as lf, and then brought in
// with madvise(2), because mlock(2) itself never returns from a page that its storage
// cannot give. Linux before 5.14 cannot do this: there mlock(2) is used, with that danger.
//
// Of two calls of Lock or LockOnFault on one mapping, the second waits for the first. One
// Unlock, which waits for nobody, undoes any number of them. Secret memory is locked already:
// [errors.ErrUnsupported]. Droppable memory cannot be locked, and is a bad argument. Beside
// a [Tracker], pages of a file system's file are ErrBusy, because they would never come into
// memory. The kernel never locks devices, and huge pages of the pool, which stay in memory
// anyway: for these Lock succeeds without an effect.
func (m Mapping) Lock(off, n int) error { return m.lockPages("lock", place.Locked, off, n) }

// LockOnFault is Lock that brings nothing in: each page is locked when it is first touched;
// MLOCK_ONFAULT of mlock2(2).
func (m Mapping) LockOnFault(off, n int) error {
	return m.lockPages("lock on fault", place.LockedOnFault, off, n)
}

func (t ticket) lockPages(op string, l place.Locking, off, n int) error {
	return t.within(op, off, n, false, func(r *region, addr, size uintptr) error {
		var space [4]place.Stretch
		parts := r.stretches(space[:0], addr-r.Base, addr-r.Base+size)
		for _, part := range parts {
			if part.Prot&place.Accessible == 0 && l == place.Locked {
				return fail.Hint(unix.EACCES, "a page can neither be read nor written")
			}
		}
		end, err := r.alone(parts, place.Stretch.InMemory)
		if err != nil {
			return err
		}
		defer end()
		locking := &r.has().locking // or a call that fails would undo what another has done meanwhile
		locking.Lock()
		defer locking.Unlock()
		var held [4]kernel.Area
		before, _ := place.LockedAreas(held[:0], addr, size)
		if err = l.Apply(parts...); err == nil {
			err = place.PassedOver(parts)
		}
		if err != nil {
			place.UnlockAllBut(before, addr, addr+size)
		}
		return r.orAbsent(faulted(err, 0, r.addr.Load()))
	})
}

// Unlock undoes Lock and LockOnFault, also those of the Spec, for the pages of n
// bytes at off, widened to whole pages; munlock(2).
func (m Mapping) Unlock(off, n int) error {
	return m.within("unlock", off, n, false, func(_ *region, addr, size uintptr) error {
		return kernel.Scarce(sys.Munlock(addr, size), kernel.Demand{})
	})
}

// stretches appends those of the pages [start, end), offsets from base.
func (r *region) stretches(parts []place.Stretch, start, end uintptr) []place.Stretch {
	r.Each(start, end, func(start, end uintptr, k perms.Kind) {
		parts = append(parts, place.Stretch{Addr: r.Base + start, Size: end - start, Kind: k})
	})
	return parts
}

// faulted makes the error of a page that cannot be brought in one of the mapping, of
// which the first byte is at first. If the pages were to be moved to the address `to`, it
// says where the page would have been.
func faulted(err error, to, first uintptr) error {
	f, ok := err.(*place.Fault)
	if !ok {
		return err
	}
	addr := f.Addr
	if to != 0 {
		addr = to + f.Addr - f.Base
	}
	return faultAt(addr, int(max(addr, first)-first), f.Verdict)
}

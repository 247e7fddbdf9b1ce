package mmap

import (
	"cmp"
	"errors"
	"sync"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// Lock locks the pages of n bytes at off into memory, widened to whole pages, and
// faults them in; mlock(2). At the limit the error names RLIMIT_MEMLOCK, and nothing
// has changed. If a page cannot be brought in, the error is a [*FaultError], and only
// what was locked before is locked. A page that can neither be read nor written is
// ErrPermission, and nothing has changed: LockOnFault takes those, also where the
// processor does not let the kernel fault in what can only be executed. At
// vm.max_map_count a part of the range can stay locked; see Unlock.
//
// The pages are marked with MLOCK_ONFAULT, which smaps shows as lf, and then
// faulted in with madvise(2), because mlock(2) itself never returns from a page that
// its storage cannot give. Before Linux 5.14, which cannot do this, mlock(2) is used,
// and that is what happens.
//
// Locks do not nest. Secret memory is locked already: [errors.ErrUnsupported].
// Droppable memory cannot be locked, and is a bad argument. Two kinds the kernel
// never locks, and there Lock succeeds without an effect: devices, and huge pages of
// the pool, which stay in memory anyway.
func (m Mapping) Lock(off, n int) error { return m.lockPages("lock", locked, off, n) }

// LockOnFault is Lock that faults nothing in: each page is locked when it is
// first touched; MLOCK_ONFAULT of mlock2(2).
func (m Mapping) LockOnFault(off, n int) error {
	return m.lockPages("lock on fault", lockedOnFault, off, n)
}

func (t ticket) lockPages(op string, l locking, off, n int) error {
	return t.within(op, off, n, false, func(r *region, addr, size uintptr) error {
		var space [4]stretch
		parts := r.stretches(space[:0], addr-r.Base, addr-r.Base+size)
		for _, part := range parts {
			if part.Prot&accessible == 0 && l == locked {
				return fail.Hint(unix.EACCES, "a page can neither be read nor written")
			}
		}
		var held [4]kernel.Area
		before, _ := lockedAreas(held[:0], addr, size)
		err := l.apply(parts...)
		if err == nil {
			err = passedOver(parts)
		}
		if err != nil {
			unlockAllBut(before, addr, addr+size)
		}
		return located(err, 0, r.addr.Load())
	})
}

func errDroppable() error { return fail.Bad("", "droppable memory cannot be locked") }

// Unlock undoes Lock and LockOnFault, also those of the Spec, for the pages of n
// bytes at off, widened to whole pages; munlock(2).
func (m Mapping) Unlock(off, n int) error {
	return m.within("unlock", off, n, false, func(_ *region, addr, size uintptr) error {
		return kernel.Scarce(sys.Munlock(addr, size), kernel.Demand{})
	})
}

// accessible are the permissions of which a page needs one to be faulted in.
const accessible = perms.Prot(ProtRead | ProtWrite)

// A stretch is a range of pages of one kind.
type stretch struct {
	addr, size uintptr
	perms.Kind
}

// stretches appends those of the pages [start, end), offsets from base.
func (r *region) stretches(parts []stretch, start, end uintptr) []stretch {
	r.Each(start, end, func(start, end uintptr, k perms.Kind) {
		parts = append(parts, stretch{r.Base + start, end - start, k})
	})
	return parts
}

// apply locks neighbouring stretches into memory. If it fails, some of them may be
// marked as locked.
func (l locking) apply(parts ...stretch) error {
	if l == unlocked {
		return nil
	}
	for _, part := range parts {
		if part.Flags&unix.MAP_TYPE == unix.MAP_DROPPABLE {
			return errDroppable()
		}
	}
	// All are marked first, which checks the limit and faults nothing in. To populate
	// before would fill memory before the limit is asked, and mlock(2) could still meet
	// a page that has gone.
	prefault := l == locked && populates()
	for rest := parts; len(rest) > 0; {
		n := 0
		for n < len(rest) && (rest[n].Granule == kernel.PageSize || !populates()) {
			n++
		}
		if err := l.mark(rest[:n], prefault); err != nil {
			return err
		}
		// Huge pages of the pool the kernel does not lock; but mlock(2) would fault
		// them in, MLOCK_ONFAULT or not.
		rest = rest[min(n+1, len(rest)):]
	}
	if prefault {
		return faultIn(parts)
	}
	return nil
}

// mark is apply for small pages, without faulting them in if that can be done later.
func (l locking) mark(parts []stretch, later bool) error {
	if len(parts) == 0 {
		return nil
	}
	addr, last := parts[0].addr, parts[len(parts)-1]
	size := last.addr + last.size - addr
	err := sys.Mlock(addr, size, unix.MLOCK_ONFAULT)
	if l == locked && (err == unix.ENOSYS || err == nil && !later) {
		err = sys.Mlock(addr, size, 0) // before Linux 4.4 and 5.14; so do emulators
	}
	switch err {
	case nil:
		return nil
	case unix.ENOMEM, unix.EAGAIN, unix.EPERM:
		_, held := lockedAreas(nil, addr, size) // which count already
		if why := kernel.Scarce(err, kernel.Demand{Locked: size - held}); why != err || err == unix.EPERM {
			return why
		}
		// At no limit that is known. Even MLOCK_ONFAULT faults in what cannot be
		// marked so: droppable memory, and secret memory.
		if why := passedOver(parts); why != nil {
			return why
		}
		var why error
		if l == locked {
			why = faultIn(parts)
		}
		for _, part := range parts { // a page of each tells
			e := populate(part.addr, min(part.size, part.Granule), part.populating())
			if why == nil && errors.Is(e, errors.ErrUnsupported) {
				why = e // of devices mlock(2) does not fail, so this is secret memory
			}
		}
		return cmp.Or(why, err)
	}
	return kernel.Blame("MLOCK_ONFAULT", err)
}

// of returns how pages of a kind can be locked: where they can neither be read nor
// written, there is nothing to fault in yet.
func (l locking) of(k perms.Kind) locking {
	if l == locked && k.Prot&accessible == 0 {
		return lockedOnFault
	}
	return l
}

// later returns the locking of pages that are faulted in when nothing is held any
// more: see faultInLocked.
func (l locking) later() locking {
	if l == locked {
		return lockedOnFault
	}
	return l
}

// lockedAreas appends the areas of a range that are locked, and returns their size.
func lockedAreas(areas []kernel.Area, addr, size uintptr) (_ []kernel.Area, held uintptr) {
	if isLocked(addr, size) {
		kernel.Survey(addr, addr+size, func(a kernel.Area) bool {
			if isLocked(a.Start, a.End-a.Start) {
				areas, held = append(areas, a), held+a.End-a.Start
			}
			return true
		})
	}
	return areas, held
}

// isLocked reports whether a page of a range is locked, or cannot be asked: then
// MS_INVALIDATE of msync(2), which has no effect, fails with EBUSY.
func isLocked(addr, size uintptr) bool { return sys.Msync(addr, size, unix.MS_INVALIDATE) != nil }

func unlockAllBut(areas []kernel.Area, start, end uintptr) {
	for _, a := range areas {
		if a.Start > start {
			sys.Munlock(start, a.Start-start)
		}
		start = a.End
	}
	if start < end {
		sys.Munlock(start, end-start)
	}
}

// passedOver returns an error if the kernel has locked nothing of memory that may
// be droppable, which it does without a word. The library knows this of what it has
// mapped, but not of what it has adopted.
func passedOver(parts []stretch) (err error) {
	for _, part := range parts {
		if part.Flags != 0 || kernel.Probe("MAP_DROPPABLE") != nil {
			continue
		}
		regions, no := kernel.RegionsOf(part.addr, part.addr+part.size)
		if no != nil {
			return no
		}
		for _, g := range regions {
			mayBe := g.Inode == 0 && g.Perms&procmaps.Shared == 0 && part.Granule == kernel.PageSize
			if mayBe && !isLocked(uintptr(g.Start), uintptr(g.Size())) {
				err = errDroppable()
			}
		}
	}
	return err
}

// populates reports whether madvise(2) can fault pages in.
var populates = sync.OnceValue(func() bool { return kernel.Probe("MADV_POPULATE_READ") == nil })

// populating returns the advice that faults in pages of a kind as mlock(2) does:
// private ones that can be written are copied, so that a store does not fault later.
func (part stretch) populating() int {
	if p := Prot(part.Prot); !p.allows(ProtRead) || p.allows(ProtWrite) && part.Flags&unix.MAP_SHARED == 0 {
		return unix.MADV_POPULATE_WRITE
	}
	return unix.MADV_POPULATE_READ
}

// faultIn faults in the pages of locked stretches; like mlock(2), not those of
// devices.
func faultIn(parts []stretch) error {
	for _, part := range parts {
		if part.Prot&accessible == 0 {
			continue
		}
		err := populate(part.addr, part.size, part.populating())
		if errors.Is(err, errors.ErrUnsupported) {
			// An area in it cannot be prefaulted: the others can.
			err = nil
			unread := kernel.Survey(part.addr, part.addr+part.size, func(a kernel.Area) bool {
				err = populate(a.Start, a.End-a.Start, part.populating())
				if errors.Is(err, errors.ErrUnsupported) && !isLocked(a.Start, a.End-a.Start) {
					err = nil // a device; secret memory is locked
				}
				return err == nil
			})
			err = cmp.Or(err, unread)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// populate prefaults pages that allow it. The kernel does not say where it
// stopped, but calling it again for what is there already is cheap. The offset of
// a FaultError is for the caller to set: see located.
func populate(addr, size uintptr, advice int) error {
	err := sys.Madvise(addr, size, advice)
	if err == unix.EINVAL {
		if err = kernel.Blame("MADV_POPULATE_READ", err); err == unix.EINVAL {
			err = fail.Hint(fail.Unsupported(err), "this kind of memory cannot be prefaulted")
		}
	}
	if err != unix.EFAULT && err != unix.EHWPOISON {
		return kernel.Scarce(err, kernel.Demand{Charged: size})
	}
	for size > kernel.PageSize {
		half := kernel.Page(size / 2)
		switch err := sys.Madvise(addr, half, advice); err {
		case nil:
			addr, size = addr+half, size-half
		case unix.EFAULT, unix.EHWPOISON:
			size = half
		default:
			return kernel.Scarce(err, kernel.Demand{Charged: half})
		}
	}
	need := ProtRead
	if advice == unix.MADV_POPULATE_WRITE {
		need = ProtWrite
	}
	seen, err := causeOf(addr, need)
	return &FaultError{Addr: addr, Err: err, seen: seen}
}

// located sets where a fault is: its offset from the first byte of the mapping. If
// pages were to be moved, to the address `to`, the offset says where they were
// relative to their start, and the address becomes what it would have been.
func located(err error, to, first uintptr) error {
	if f, ok := err.(*FaultError); ok {
		if to != 0 {
			f.Addr = to + uintptr(f.Offset)
		}
		f.Offset = int(max(f.Addr, first) - first)
	}
	return err
}

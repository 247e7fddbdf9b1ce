//go:build linux

package mmap

import (
	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/place"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// A loss is advice of madvise(2) that loses contents; hint is for EINVAL.
type loss struct {
	name   string
	advice int
	hint   string
	spares bool // what this process sees
}

var (
	discard       = loss{"MADV_DONTNEED", unix.MADV_DONTNEED, "the pages are locked, or of a device", false}
	discardLocked = loss{"MADV_DONTNEED_LOCKED", unix.MADV_DONTNEED_LOCKED, "the pages are of a device", false}
	free          = loss{"MADV_FREE", unix.MADV_FREE, "the pages are locked, or not private anonymous memory", false}
	punch         = loss{"MADV_REMOVE", unix.MADV_REMOVE, "the pages are locked, or private", false}
	wipeOnFork    = loss{"MADV_WIPEONFORK", unix.MADV_WIPEONFORK, "not private anonymous memory", true}
	installGuards = loss{"MADV_GUARD_INSTALL", sys.MADV_GUARD_INSTALL,
		"the pages are locked or huge, or the file cannot", false}
	removeGuards = loss{"MADV_GUARD_REMOVE", sys.MADV_GUARD_REMOVE, "the pages are huge, or of a device", false}
)

// destroy gives advice that loses contents.
func (t ticket) destroy(l loss, off, n int) error {
	return t.within(l.name, off, n, true, func(r *region, addr, size uintptr) error {
		if r.is(isSealed) {
			return ErrSealed
		}
		if err := r.allowed(off, n, ProtWrite); err != nil {
			return err
		}
		first, last := r.At(addr-r.Base), r.At(addr-r.Base+size-1)
		wider := addr != r.addr.Load()+uintptr(off) || size != uintptr(n)
		if l.advice == unix.MADV_REMOVE && wider && first.Flags&last.Flags&unix.MAP_ANONYMOUS == 0 {
			return fail.Bad("", "the first or the last page lies only partly in the mapping, and the file may have more of it")
		}
		start := addr - r.Base
		if l.advice == sys.MADV_GUARD_INSTALL {
			if a := r.attachment(); a != nil && a.cause != nil {
				return fail.Hint(ErrBusy, "a page that is fetched would replace the guard page")
			}
			end, err := r.alone(r.stretches(nil, start, start+size), place.Stretch.IsPrivateMemory)
			if err != nil {
				return err
			}
			defer end()
		}
		err := sys.Madvise(addr, size, l.advice)
		if a := r.attachment(); a != nil && !l.spares {
			if on := a.tracking.Load(); on != nil {
				on.mark(stretch{start, start + size}) // also of a call that has failed, perhaps half-way
			}
		}
		return whyNot(err, l.name, l.hint)
	})
}

// PrefaultWrite brings the pages of n bytes at off into memory for writing, widened to
// whole pages; MADV_POPULATE_WRITE of madvise(2). Private pages are copied, and holes of a
// shared file are filled; a full disk is a [*FaultError]. The contents do not change.
func (w writer) PrefaultWrite(off, n int) error {
	return w.prefault("MADV_POPULATE_WRITE", off, n, ProtWrite, unix.MADV_POPULATE_WRITE)
}

// Discard drops the pages of n bytes at off; MADV_DONTNEED of madvise(2). Anonymous
// private memory then reads as zeros, and a private mapping of a file as the file. Shared
// memory keeps its contents, because they belong to the file.
//
// The range starts on a page boundary, and ends on one or at Len. In an [Unknown] every
// page must be writable. Locked pages are EINVAL: see DiscardLocked. If it fails, a part of
// the range can be gone.
//
// Like every method that destroys contents, Discard runs beside views and pins, whose
// slices then show the new contents.
func (w writer) Discard(off, n int) error { return w.destroy(discard, off, n) }

// DiscardLocked is Discard for pages that may be locked. They stay locked: a new page is
// locked when it is touched; MADV_DONTNEED_LOCKED of madvise(2).
func (w writer) DiscardLocked(off, n int) error { return w.destroy(discardLocked, off, n) }

// Free lets the kernel drop the pages of n bytes at off when it needs memory; MADV_FREE of
// madvise(2). Until you write to a page again, it reads either as before or as zeros. It
// is for private anonymous memory; the range is as with Discard.
func (w writer) Free(off, n int) error { return w.destroy(free, off, n) }

// Punch makes a hole in the file, or the shared anonymous memory, beneath n bytes at off;
// MADV_REMOVE of madvise(2). They read as zeros in every mapping, and their storage is
// freed. A file system that cannot do it is [errors.ErrUnsupported].
//
// The mapping must be shared, and the range is as with Discard. A page that lies only
// partly in the mapping is a bad argument, because the file may have more of it, which
// would go as well. To punch the last page of a file, map that to the end of the page:
// [File] may reach past the end of the file.
func (w writer) Punch(off, n int) error { return w.destroy(punch, off, n) }

// WipeOnFork makes the n bytes at off read as zeros in a forked child, as keys and the
// state of random number generators should; MADV_WIPEONFORK of madvise(2). It is for
// private anonymous memory, and AdviceKeepOnFork undoes it. The range is as with Discard.
func (w writer) WipeOnFork(off, n int) error { return w.destroy(wipeOnFork, off, n) }

// InstallGuardPages makes touching the n bytes at off a fault, with [ErrGuard] as the
// cause, without dividing the mapping as [Protect] would; MADV_GUARD_INSTALL of
// madvise(2). Their contents are lost, except in a file. Files need Linux 6.15, as does
// the cause. The range is as with Discard. Locked pages are EINVAL: install the guard
// pages first, and lock what lies between them. Beside a [Tracker], anything but private
// anonymous memory is ErrBusy, because the call would never return.
func (w writer) InstallGuardPages(off, n int) error { return w.destroy(installGuards, off, n) }

// RemoveGuardPages undoes InstallGuardPages for the n bytes at off, which then read as
// after Discard; MADV_GUARD_REMOVE of madvise(2). Pages that are no guard pages stay as
// they are. The range is as with Discard.
func (w writer) RemoveGuardPages(off, n int) error { return w.destroy(removeGuards, off, n) }

// Track begins to note which pages are written, none of which counts as written yet;
// userfaultfd(2) and PAGEMAP_SCAN, Linux 6.7 on amd64 and 6.10 on arm64. It needs no
// privileges. It takes 8 bytes of page tables for each page within Len. Pages that Grow
// adds are tracked, too.
//
// As a [Pin] does, a [Tracker] refuses transitions with ErrBusy; Close of the mapping ends
// it. While there is one, a second Track returns ErrBusy, and so do Lock and LockOnFault of
// pages of a file system's file and InstallGuardPages of anything but private anonymous
// memory, which the kernel would never return from. Track returns ErrBusy beside such
// calls and beside Grow, and for a mapping that has locked pages of a file. Do not call
// mlockall(2) meanwhile. [Mapping.Collapse] returns ErrBusy, unless all pages count as
// written.
//
// Where a seccomp filter forbids userfaultfd(2), as that of containers can, the error is
// EPERM. Memory of devices is [errors.ErrUnsupported], and droppable memory can be. A
// shared mapping of a file that is open for reading only is EPERM.
func (w writer) Track() (*Tracker, error) { return w.track() }

// PrefaultWrite brings the pages of n bytes at off into memory for writing, widened to
// whole pages; MADV_POPULATE_WRITE of madvise(2). Private pages are copied, and holes of a
// shared file are filled; a full disk is a [*FaultError]. The contents do not change.
func (u updater) PrefaultWrite(off, n int) error {
	return u.prefault("MADV_POPULATE_WRITE", off, n, ProtWrite, unix.MADV_POPULATE_WRITE)
}

// Discard drops the pages of n bytes at off; MADV_DONTNEED of madvise(2). Anonymous
// private memory then reads as zeros, and a private mapping of a file as the file. Shared
// memory keeps its contents, because they belong to the file.
//
// The range starts on a page boundary, and ends on one or at Len. In an [Unknown] every
// page must be writable. Locked pages are EINVAL: see DiscardLocked. If it fails, a part of
// the range can be gone.
//
// Like every method that destroys contents, Discard runs beside views and pins, whose
// slices then show the new contents.
func (u updater) Discard(off, n int) error { return u.destroy(discard, off, n) }

// DiscardLocked is Discard for pages that may be locked. They stay locked: a new page is
// locked when it is touched; MADV_DONTNEED_LOCKED of madvise(2).
func (u updater) DiscardLocked(off, n int) error { return u.destroy(discardLocked, off, n) }

// Free lets the kernel drop the pages of n bytes at off when it needs memory; MADV_FREE of
// madvise(2). Until you write to a page again, it reads either as before or as zeros. It
// is for private anonymous memory; the range is as with Discard.
func (u updater) Free(off, n int) error { return u.destroy(free, off, n) }

// Punch makes a hole in the file, or the shared anonymous memory, beneath n bytes at off;
// MADV_REMOVE of madvise(2). They read as zeros in every mapping, and their storage is
// freed. A file system that cannot do it is [errors.ErrUnsupported].
//
// The mapping must be shared, and the range is as with Discard. A page that lies only
// partly in the mapping is a bad argument, because the file may have more of it, which
// would go as well. To punch the last page of a file, map that to the end of the page:
// [File] may reach past the end of the file.
func (u updater) Punch(off, n int) error { return u.destroy(punch, off, n) }

// WipeOnFork makes the n bytes at off read as zeros in a forked child, as keys and the
// state of random number generators should; MADV_WIPEONFORK of madvise(2). It is for
// private anonymous memory, and AdviceKeepOnFork undoes it. The range is as with Discard.
func (u updater) WipeOnFork(off, n int) error { return u.destroy(wipeOnFork, off, n) }

// InstallGuardPages makes touching the n bytes at off a fault, with [ErrGuard] as the
// cause, without dividing the mapping as [Protect] would; MADV_GUARD_INSTALL of
// madvise(2). Their contents are lost, except in a file. Files need Linux 6.15, as does
// the cause. The range is as with Discard. Locked pages are EINVAL: install the guard
// pages first, and lock what lies between them. Beside a [Tracker], anything but private
// anonymous memory is ErrBusy, because the call would never return.
func (u updater) InstallGuardPages(off, n int) error { return u.destroy(installGuards, off, n) }

// RemoveGuardPages undoes InstallGuardPages for the n bytes at off, which then read as
// after Discard; MADV_GUARD_REMOVE of madvise(2). Pages that are no guard pages stay as
// they are. The range is as with Discard.
func (u updater) RemoveGuardPages(off, n int) error { return u.destroy(removeGuards, off, n) }

// Track begins to note which pages are written, none of which counts as written yet;
// userfaultfd(2) and PAGEMAP_SCAN, Linux 6.7 on amd64 and 6.10 on arm64. It needs no
// privileges. It takes 8 bytes of page tables for each page within Len. Pages that Grow
// adds are tracked, too.
//
// As a [Pin] does, a [Tracker] refuses transitions with ErrBusy; Close of the mapping ends
// it. While there is one, a second Track returns ErrBusy, and so do Lock and LockOnFault of
// pages of a file system's file and InstallGuardPages of anything but private anonymous
// memory, which the kernel would never return from. Track returns ErrBusy beside such
// calls and beside Grow, and for a mapping that has locked pages of a file. Do not call
// mlockall(2) meanwhile. [Mapping.Collapse] returns ErrBusy, unless all pages count as
// written.
//
// Where a seccomp filter forbids userfaultfd(2), as that of containers can, the error is
// EPERM. Memory of devices is [errors.ErrUnsupported], and droppable memory can be. A
// shared mapping of a file that is open for reading only is EPERM.
func (u updater) Track() (*Tracker, error) { return u.track() }

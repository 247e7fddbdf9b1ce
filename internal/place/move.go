//go:build linux

package place

import (
	"errors"
	"fmt"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/leftover"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// Move moves a range of one kernel area to the place of another, replacing it;
// mremap(2). If it fails there may be a hole, so the caller sees to that before it
// explains the error.
func Move(from, size, to uintptr) error {
	_, err := sys.Mremap(from, size, size, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, to)
	return err
}

// Fill holds the place of [at, at+size) if the kernel has unmapped it, which it does
// with all of it, and reports whether it had. It fails if a stranger has been mapped
// there.
func Fill(at, size uintptr) (hole bool, err error) {
	if sys.Msync(at, size, unix.MS_ASYNC) != unix.ENOMEM {
		return false, nil // which does nothing, but for looking for holes
	}
	return true, hold(at, size)
}

// hold is Fill where there is a hole.
func hold(at, size uintptr) error {
	got, err := sys.Mmap(at, size, unix.PROT_NONE, Holding|unix.MAP_FIXED_NOREPLACE, -1, 0)
	if err == nil && got != at {
		leftover.Abandon(got, size)
		err = unix.EEXIST
	}
	return err
}

// A Stuck error is of pages that were to be moved, and of which some are not where they
// were.
type Stuck struct {
	Err  error // why they were not moved
	Back error // why some did not come back
	Lost bool  // a stranger is where they were
}

func (s *Stuck) Error() string { return fmt.Sprintf("%v; the way back: %v", s.Err, s.Back) }

// A moving area is one that is on its way.
type moving struct {
	kernel.Area
	gone bool // nothing of ours is at its old place
}

// Relocate moves [base, base+size) to address space that is held at to, and makes it
// want bytes long. huge reports whether the page at an address is a huge one. On failure
// the pages are where they were, unless the error is *Stuck, and nothing is held any
// more.
//
// One move is of one area, for that of several can stop half-way; and each but
// the last, after which nothing can fail, leaves its old range mapped, so that
// nobody else comes to be there and there is a way back. Not so huge pages,
// which the kernel does not leave mapped, and locked ones, whose way back somebody
// could be in: to leave those mapped would take the lock from all of the kernel's
// area, which may reach into another mapping, and count the pages as locked twice
// ever after.
func Relocate(base, size, to, want uintptr, huge func(addr uintptr) bool) error {
	var areas []moving
	err := kernel.Survey(base, base+size, func(a kernel.Area) bool {
		areas = append(areas, moving{Area: a})
		return true
	})
	if err != nil {
		leftover.Abandon(to, want)
		return err
	}
	for i, a := range areas {
		at, length, flags := to+a.Start-base, a.End-a.Start, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED
		last := i == len(areas)-1
		whole := !last && (huge(a.Start) || IsLocked(a.Start, length))
		if last {
			length += want - size
		} else if !whole {
			flags |= unix.MREMAP_DONTUNMAP
		}
		if _, err := sys.Mremap(a.Start, a.End-a.Start, length, flags, at); err != nil {
			AbandonHold(at, length)
			for _, b := range areas[i+1:] {
				leftover.Abandon(to+b.Start-base, b.End-b.Start)
			}
			if !last {
				leftover.Abandon(to+size, want-size)
			}
			back, lost := moveBack(areas[:i], base, to)
			if back != nil {
				return &Stuck{err, back, lost}
			}
			return kernel.Scarce(err, kernel.Demand{Space: 2 * want}) // the kernel counts the held place, too
		}
		areas[i].gone = whole
	}
	for _, a := range areas[:max(len(areas), 1)-1] {
		if !a.gone {
			leftover.Abandon(a.Start, a.End-a.Start)
		}
	}
	return nil
}

// moveBack undoes a relocation that failed after some areas. At the limit of areas it
// needs all that are free, so nothing else is held or allocated meanwhile.
func moveBack(areas []moving, base, to uintptr) (stuck error, lost bool) {
	for _, a := range areas {
		var back error
		if a.gone {
			back = hold(a.Start, a.End-a.Start)
			lost = lost || back != nil
		}
		at := to + a.Start - base
		if back == nil {
			back = Move(at, a.End-a.Start, a.Start)
		}
		if back != nil {
			_, err := Fill(a.Start, a.End-a.Start)
			lost = lost || err != nil
			stuck = errors.Join(stuck, fail.Hint(back, "the pages of %#x-%#x are left at %#x", a.Start, a.End, at))
		}
	}
	return stuck, lost
}

// RefusedElsewhere reports whether it is a driver that does not accept any address but
// its own, as that of an SGX enclave does not.
func (b Backing) RefusedElsewhere(size uintptr, p perms.Prot) bool {
	if !b.Device {
		return false
	}
	at, err := sys.Mmap(0, size, int(p), b.Flags, b.FD, b.Offset)
	if err == nil { // then it was something else, such as a lock
		leftover.Abandon(at, size)
	}
	return err == unix.EACCES || err == unix.EPERM || err == unix.EINVAL
}

// OverDevice maps a device over [at, at+size). Its driver can still refuse when the old
// pages are gone, so these must have nothing to lose: then the caller fills the hole.
func (b Backing) OverDevice(at, size uintptr, p perms.Prot) error {
	old, err := kernel.RegionsOf(at, at+size)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(b.FD, &st); err != nil {
		return err
	}
	const access = procmaps.Read | procmaps.Write | procmaps.Exec
	for _, g := range old {
		same := g.Inode == st.Ino && g.Major == unix.Major(uint64(st.Dev)) && g.Minor == unix.Minor(uint64(st.Dev))
		if !same && (g.Inode != 0 || g.Perms&access != 0) {
			return fail.Hint(unix.EBUSY, "the device accepts no other address, and the pages %#x-%#x could be lost: "+
				"place anonymous memory as None there first", g.Start, g.End)
		}
	}
	_, err = sys.Mmap(at, size, int(p), b.Flags|unix.MAP_FIXED, b.FD, b.Offset)
	return err
}

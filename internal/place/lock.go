//go:build linux

package place

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// Locking says how pages are locked into memory.
type Locking uint8

// The ways.
const (
	Unlocked Locking = iota
	Locked
	LockedOnFault
)

// A Fault is a page that cannot be brought in.
type Fault struct {
	Addr uintptr
	Base uintptr // where the pages were that were to be brought in
	kernel.Verdict
}

func (f *Fault) Error() string { return fmt.Sprintf("the page of %#x cannot be brought in", f.Addr) }

func errDroppable() error { return fail.Bad("", "droppable memory cannot be locked") }

func errSecret() error {
	return fail.Hint(fail.Unsupported(unix.EINVAL), "secret memory is locked already")
}

// Accessible are the permissions of which a page needs one to be faulted in.
const Accessible = perms.Read | perms.Write

// A Stretch is a range of pages of one kind.
type Stretch struct {
	Addr, Size uintptr
	perms.Kind
}

// Apply locks neighbouring stretches into memory. If it fails, some of them may be
// marked as locked.
func (l Locking) Apply(parts ...Stretch) error {
	if l == Unlocked {
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
	prefault := l == Locked && Populates()
	for rest := parts; len(rest) > 0; {
		n := 0
		for n < len(rest) && (rest[n].Granule == kernel.PageSize || !Populates()) {
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
		return FaultIn(parts)
	}
	return nil
}

// mark is Apply for small pages, without faulting them in if that can be done later.
func (l Locking) mark(parts []Stretch, later bool) error {
	if len(parts) == 0 {
		return nil
	}
	addr, last := parts[0].Addr, parts[len(parts)-1]
	size := last.Addr + last.Size - addr
	err := sys.Mlock(addr, size, sys.MLOCK_ONFAULT)
	if l == Locked && (err == unix.ENOSYS || err == nil && !later) {
		err = sys.Mlock(addr, size, 0) // before Linux 4.4 and 5.14; so do emulators
	}
	switch err {
	case nil:
		return nil
	case unix.ENOMEM, unix.EAGAIN, unix.EPERM:
		_, held := LockedAreas(nil, addr, size) // which count already
		if why := kernel.Scarce(err, kernel.Demand{Locked: size - held}); why != err || err == unix.EPERM {
			return why
		}
		// At no limit that is known. Even MLOCK_ONFAULT faults in what cannot be
		// marked so: droppable memory, and secret memory.
		why := PassedOver(parts)
		if why == nil && l == Locked {
			why = FaultIn(parts)
		}
		for _, part := range parts { // a page of each tells
			e := Stretch{part.Addr, min(part.Size, part.Granule), part.Kind}.Populate(part.populating())
			if why == nil && errors.Is(e, errors.ErrUnsupported) {
				why = errSecret() // of devices mlock(2) does not fail
			}
		}
		return cmp.Or(why, err)
	}
	return kernel.Blame("MLOCK_ONFAULT", err)
}

// Of returns how pages of a kind can be locked: where they can neither be read nor
// written, there is nothing to fault in yet.
func (l Locking) Of(k perms.Kind) Locking {
	if k.Prot&Accessible == 0 {
		return l.Later()
	}
	return l
}

// Later returns the locking of pages that are faulted in when nothing is held any
// more: the caller sees to that.
func (l Locking) Later() Locking {
	if l == Locked {
		return LockedOnFault
	}
	return l
}

// LockedAreas appends the areas of a range that are locked, and returns their size. Where the
// kernel's table cannot be read, it asks about each page.
func LockedAreas(areas []kernel.Area, addr, size uintptr) (_ []kernel.Area, held uintptr) {
	if !IsLocked(addr, size) {
		return areas, 0
	}
	first := len(areas)
	look := func(a kernel.Area) bool {
		if IsLocked(a.Start, a.End-a.Start) {
			areas, held = append(areas, a), held+a.End-a.Start
		}
		return true
	}
	if kernel.Survey(addr, addr+size, look) != nil {
		areas, held = areas[:first], 0
		for at := addr; at < addr+size; at += kernel.PageSize {
			look(kernel.Area{Start: at, End: at + kernel.PageSize})
		}
	}
	return areas, held
}

// IsLocked reports whether a page of a range is locked, or cannot be asked: then
// MS_INVALIDATE of msync(2), which has no effect, fails with EBUSY.
func IsLocked(addr, size uintptr) bool { return sys.Msync(addr, size, unix.MS_INVALIDATE) != nil }

// UnlockAllBut unlocks [start, end), but for these areas in it.
func UnlockAllBut(areas []kernel.Area, start, end uintptr) {
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

// PassedOver returns an error if the kernel has locked nothing of memory that may
// be droppable, which it does without a word. The library knows this of what it has
// mapped, but not of what it has adopted.
func PassedOver(parts []Stretch) (err error) {
	for _, part := range parts {
		if part.Flags != 0 || kernel.Probe("MAP_DROPPABLE") != nil {
			continue
		}
		regions, no := kernel.RegionsOf(part.Addr, part.Addr+part.Size)
		if no != nil {
			return no
		}
		for _, g := range regions {
			mayBe := g.Inode == 0 && g.Perms&procmaps.Shared == 0 && part.Granule == kernel.PageSize
			if mayBe && !IsLocked(uintptr(g.Start), uintptr(g.Size())) {
				err = errDroppable()
			}
		}
	}
	return err
}

// FaultIn faults in the pages of locked stretches; like mlock(2), not those of
// devices.
func FaultIn(parts []Stretch) error {
	for _, part := range parts {
		if part.Prot&Accessible == 0 {
			continue
		}
		err := part.Populate(part.populating())
		if errors.Is(err, errors.ErrUnsupported) {
			// An area in it cannot be prefaulted: the others can.
			err = nil
			unread := kernel.Survey(part.Addr, part.Addr+part.Size, func(a kernel.Area) bool {
				err = Stretch{a.Start, a.End - a.Start, part.Kind}.Populate(part.populating())
				if errors.Is(err, errors.ErrUnsupported) {
					if err = nil; IsLocked(a.Start, a.End-a.Start) { // or it is a device
						err = errSecret()
					}
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

// EachResident calls f for each page of a range, and whether it is in memory.
func EachResident(addr, size uintptr, f func(addr uintptr, in bool)) error {
	var buf [1024]byte
	for end := addr + size; addr != end; {
		pages, err := resident(buf[:], addr, end)
		if err != nil {
			return err
		}
		for _, p := range pages {
			f(addr, p&1 != 0)
			addr += kernel.PageSize
		}
	}
	return nil
}

// Resident returns how many of the pages of a range are in memory.
func Resident(addr, size uintptr) (n int, err error) {
	var buf [1024]byte
	for end := addr + size; addr != end; {
		pages, err := resident(buf[:], addr, end)
		if err != nil {
			return n, err
		}
		addr += uintptr(len(pages)) * kernel.PageSize
		for ; len(pages) >= 8; pages = pages[8:] {
			n += bits.OnesCount64(binary.NativeEndian.Uint64(pages) & 0x0101010101010101)
		}
		for _, p := range pages {
			n += int(p & 1)
		}
	}
	return n, nil
}

// resident fills buf with a byte for each page from addr on, as far as it reaches, of which
// the lowest bit says whether the page is in memory.
func resident(buf []byte, addr, end uintptr) ([]byte, error) {
	pages := buf[:min((end-addr)/kernel.PageSize, uintptr(len(buf)))]
	return pages, sys.Mincore(addr, kernel.PageSize, pages)
}

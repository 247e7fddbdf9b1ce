//go:build linux

package mmap

import (
	"errors"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/leftover"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/place"
	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// Grow makes the mapping longer, up to its capacity; see [Spec.Reserve]. It is no
// transition: it never moves the mapping and consumes nothing. Views and pins stay valid,
// and new ones have the new length. If the file beneath is shorter than that, touching the
// pages past its end is a fault until it grows. In an [Unknown], new pages have the
// permissions of the last one, and the source that Map gave it.
//
// A size below Len is a bad argument, one above Cap is ErrCapacity. Grow is safe for
// concurrent use. It never returns ErrBusy; it waits for a running transition.
func Grow[M Handle](m M, size int) error { return ticketOf(m).grow(size) }

// grow does without pinned and defer, for after a system call each function that returns
// costs a mispredicted branch. What it calls is all the library's own, and does not panic.
func (t ticket) grow(size int) error {
	line, err := t.pin()
	if err == nil {
		if err = errLost; !t.r.is(isLost) {
			more := t.r.has()
			more.growth.Lock()
			err = t.r.grow(size, more)
			more.growth.Unlock()
		}
		t.r.unpin(line)
	}
	if err != nil {
		return named(err, "grow to %v", fail.Count(size))
	}
	return nil
}

// grow is Grow for one who holds growth.
func (r *region) grow(size int, more *more) error {
	switch length := int(r.len.Load()); {
	case size < length:
		return fail.Bad("", "the mapping has %v", fail.Count(length))
	case size > int(r.cap.Load()):
		return fail.Hint(ErrCapacity, "the capacity is %d", r.cap.Load())
	case size == length:
		return nil // without a write, for others do not lock a region without a reserve
	}
	data, end := r.Data(), r.Rounded(r.offset(size), r.Plain().Granule)
	if end <= data {
		end = data
	} else if err := r.openRoom(data, end, r.lock()); err != nil {
		return err
	}
	// Only this is in the way of those who ask which pages there are.
	more.growing.Lock()
	r.Room -= end - data
	r.len.Store(uintptr(size))
	more.growing.Unlock()
	return nil
}

// pinned runs f under a pin of a region that is all the library's own.
func (t ticket) pinned(f func(r *region) error) error {
	line, err := t.pin()
	if err != nil {
		return err
	}
	defer t.r.unpin(line)
	if t.r.is(isLost) {
		return errLost
	}
	return f(t.r)
}

// openRoom makes pages [start, end) of the reserve accessible, and locks them.
func (r *region) openRoom(start, end uintptr, l place.Locking) error {
	if r.is(isSealed) {
		return ErrSealed
	}
	k, at, size := r.At(start), r.Base+start, end-start
	if k.Flags&unix.MAP_HUGETLB != 0 {
		return r.openHugeRoom(start, end, k, l)
	}
	if err := sys.Mprotect(at, size, int(k.Prot)); err != nil {
		if err == unix.EPERM && Prot(k.Prot)&ProtExec == 0 {
			return ErrSealed // by Seal meanwhile, or by somebody else; what is executable filters refuse, too
		}
		return kernel.Scarce(kernel.DeniedExec(k.Prot, err), kernel.Demand{Data: size, Charged: size})
	}
	err := faulted(l.Of(k).Apply(place.Stretch{Addr: at, Size: size, Kind: k}), 0, r.addr.Load())
	if err == nil {
		err = r.follow(at, size)
	}
	if err != nil {
		sys.Munlock(at, size)
		if back := sys.Mprotect(at, size, unix.PROT_NONE); back != nil {
			err = errors.Join(err, back) // accessible, but not handed out
		}
	}
	return err
}

// openHugeRoom puts huge pages in the place of reserve, which is ordinary address
// space.
func (r *region) openHugeRoom(start, end uintptr, k perms.Kind, l place.Locking) error {
	b := place.Backing{FD: -1, Granule: k.Granule, Flags: int(k.Flags)}
	err := place.Wish{Lock: l}.Stage(b, end-start, r.Base+start, k.Prot)
	if err != nil {
		if _, failed := r.fill(start, end); failed != nil {
			r.cap.Store(r.len.Load())
		}
	} else if err = r.follow(r.Base+start, end-start); err != nil {
		// Of new pages nobody knows yet. They become reserve again.
		_, back := sys.Mmap(r.Base+start, end-start, unix.PROT_NONE, place.Holding|unix.MAP_FIXED, -1, 0)
		return errors.Join(err, back)
	}
	return faulted(kernel.Scarce(err, kernel.Demand{}), 0, r.addr.Load())
}

// Resize makes the mapping size bytes long, and may move it; MREMAP_MAYMOVE of mremap(2). It
// is a transition: it consumes m and returns the new handle. On failure it returns m, so that
//
//	m, err = mmap.Resize(m, n)
//
// never loses a mapping. A reserve is given up.
//
// Resize refuses what would only fault later: to make shared anonymous memory or [Secret]
// longer, whose size is fixed, and to make an empty mapping longer that has lost its
// source, such as the empty side of a Split. Huge pages grow within their reserve only.
func Resize[M Handle](m M, size int) (M, error) {
	old := m.Len()
	m, err := transitAs(m, func(r *region) error { return r.resize(size) },
		func(err error) error { return named(err, "resize to %v", fail.Count(size)) })
	if err == nil && size > old {
		ticketOf(m).faultInLocked(old, size)
	}
	return m, err
}

// faultInLocked faults in the new pages of a mapping with Spec.Lock, as far as that
// works. It is done when the transition is over, for storage may take its time.
func (t ticket) faultInLocked(off, end int) {
	t.within("", off, end-off, false, func(r *region, addr, size uintptr) error {
		if r.lock() == place.Locked && r.At(addr-r.Base).Prot&place.Accessible != 0 {
			return place.FaultIn(r.stretches(nil, addr-r.Base, addr-r.Base+size))
		}
		return nil
	})
}

// transitAs runs a transition that keeps the type, and the handle if it fails.
func transitAs[M Handle](m M, f func(r *region) error, name func(err error) error) (M, error) {
	_, known := m.known()
	t, err := ticketOf(m).transit(known, f, name)
	if err != nil {
		return m, err
	}
	return handleOf[M](t), nil
}

func (r *region) resize(size int) error {
	if size < 0 {
		return fail.Bad("", "negative size")
	}
	data := r.Data()
	grown := r.Plain() // the pages that come
	if data > 0 {
		grown = r.At(data - 1)
	}
	want := uintptr(0)
	switch off := r.offset(size); {
	case size == 0:
	case size <= int(r.len.Load()):
		want = min(r.PageEnd(off), data) // the last page holds more than its bytes
	default:
		if _, fits := kernel.Round(off+r.Largest(), r.Largest()); !fits {
			return fail.Hint(unix.ENOMEM, "the address space has no room for %d bytes", off)
		}
		if want = max(r.Rounded(off, grown.Granule), data); want > data && r.Rounded(off, r.Plain().Granule) <= r.Size {
			grown = r.At(data) // from the reserve
			want = r.Rounded(off, grown.Granule)
		}
	}
	runs := r.Clip(0, min(want, data))
	if want > data {
		runs = perms.Append(runs, want, grown)
	}
	if err := r.repage(data, want); err != nil {
		return err
	}
	r.Size, r.Room = want, 0
	r.SetRuns(runs)
	r.account()
	r.len.Store(uintptr(size))
	r.cap.Store(uintptr(size))
	return nil
}

// repage makes the pages of the region, of which so many bytes are data, want bytes long.
// Nothing of the reserve is left.
func (r *region) repage(data, want uintptr) error {
	switch {
	case want == r.Size && want <= data:
	case want <= data:
		if err := sys.Munmap(r.Base+want, r.Size-want); err != nil {
			return kernel.Undivided(r.Base+want, r.Size-want, kernel.Scarce(err, kernel.Demand{}))
		}
	case want <= r.Size:
		if err := r.openRoom(data, want, r.lock().Later()); err != nil {
			return err
		}
		leftover.Abandon(r.Base+want, r.Size-want)
	default:
		base, err := r.extend(data, want)
		if err != nil {
			more := want - data
			return kernel.Scarce(kernel.Unextended(err), kernel.Demand{Space: more, Data: more, Charged: more})
		}
		leftover.Abandon(r.Base+data, r.Room)
		lead := r.addr.Load() - r.Base
		r.Base = base
		r.setAddr(base + lead)
	}
	return nil
}

// extend makes the data pages want bytes long, for which the reserve is too short, and
// returns where they are then.
func (r *region) extend(data, want uintptr) (base uintptr, err error) {
	k := r.Plain()
	switch {
	case data == 0 && k.Flags&unix.MAP_ANONYMOUS == 0:
		return 0, fail.Bad("", "an empty mapping has no source to grow from")
	case data == 0:
		// There are no pages to extend, but new ones of the same kind can be
		// made where the source needs no descriptor.
		b := place.Backing{FD: -1, Granule: k.Granule, Flags: int(k.Flags)}
		return place.Wish{Lock: r.lock().Later()}.Map(b, 0, want, want, k.Prot)
	}
	if err = r.extendable(data); err == nil {
		base, err = sys.Mremap(r.Base, data, want, unix.MREMAP_MAYMOVE, 0)
	}
	if err != unix.EFAULT && err != unix.EINVAL {
		return base, err
	}
	// mremap(2) refuses to extend several kernel areas.
	if r.At(data).Granule > kernel.PageSize {
		return 0, fail.Hint(err, "huge pages do not grow")
	}
	return r.relocate(data, 0, want)
}

// relocate moves the first size bytes of the region to a free place, anywhere if it is 0,
// and makes them want bytes long. It returns where they are.
func (r *region) relocate(size, to, want uintptr) (uintptr, error) {
	huge := func(addr uintptr) bool { return r.At(addr-r.Base).Granule > kernel.PageSize }
	to, err := place.Hold(to, want)
	if err == nil {
		err = place.Relocate(r.Base, size, to, want, huge)
	}
	if stuck, ok := err.(*place.Stuck); ok {
		if stuck.Lost {
			r.mark(isLost)
		}
		err = r.stopped(stuck.Err, stuck.Back)
	}
	return to, err
}

// Move moves the mapping, and its reserve, so that its first byte is at addr; MREMAP_FIXED of
// mremap(2), which here replaces nothing. It is a transition: it consumes m and returns the
// new handle. On failure it returns m, as [Resize] does.
//
// Nothing may be mapped in the new range: otherwise the error matches EEXIST and
// [os.ErrExist], as with [Spec.At]. addr must equal the old address modulo the page size.
func Move[M Handle](m M, addr uintptr) (M, error) {
	return transitAs(m, func(r *region) error { return r.moveTo(addr) },
		func(err error) error { return named(err, "move to %#x", addr) })
}

func (r *region) moveTo(addr uintptr) error {
	lead := r.addr.Load() - r.Base
	to := addr - lead
	switch {
	case to == 0 || addr < lead || (to^r.Base)&(r.Largest()-1) != 0:
		return fail.Bad("", "it is not %d past a multiple of the page size %d", r.addr.Load()&(r.Largest()-1), r.Largest())
	case inRaceWindow(to, r.Size):
		return fail.Bad("", "within the Go heap of a race build, %#x-%#x", uint64(raceStart), uint64(raceEnd))
	case r.Size > 0:
		if _, err := r.relocate(r.Size, to, r.Size); err != nil {
			return err
		}
	}
	r.Base = to
	r.setAddr(addr)
	return nil
}

// extendable refuses memory whose kernel object has a fixed size: pages past
// its end would fault.
func (r *region) extendable(data uintptr) error {
	flags := r.At(data - 1).Flags
	if flags&unix.MAP_SHARED == 0 {
		return nil
	}
	regions, err := kernel.RegionsOf(r.Base+data-kernel.PageSize, r.Base+data)
	for _, g := range regions {
		fixed := g.Deleted && (g.Name == "/dev/zero" || g.Name == "/secretmem" || g.Name == "/anon_hugepage")
		if flags&unix.MAP_ANONYMOUS != 0 || g.Perms&procmaps.Shared != 0 && fixed {
			return fail.Bad("", "shared anonymous memory has a fixed size")
		}
	}
	return err
}

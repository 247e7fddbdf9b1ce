package mmap

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// Over maps s at the place of m: new pages, with the permissions of M, at the
// same address and of the same size. It consumes m. The new pages replace the
// old ones in one step: on failure m is what it was, but for a [*PartialError].
// While the mapping is accessed or pinned it answers ErrBusy.
//
// The Spec has no placement of its own and no reserve, the size of m, and a
// file offset that is as far past a page as the address of m. A reserve of m
// stays, and grows into the new source.
func Over[M Known, Old Handle](m Old, s Spec) (M, error) {
	_, known := m.known()
	t, err := m.inside().over(s, promised[M](), known)
	return handleOf[M](t), err
}

func (t ticket) over(s Spec, p Prot, known bool) (next ticket, err error) {
	name := func(err error) error { return named(err, "map %v over as %v", s, p) }
	if err = s.checkInside(p); err == nil {
		err = t.change(func(*region) error { return nil }) // before anything is opened
	}
	if err == nil {
		err = s.open(p, t.Cap(), func(b backing) error {
			next, err = t.overlay(s, b, p, known, name)
			return err
		})
	}
	if err != nil {
		return ticket{}, name(err)
	}
	return next, nil
}

// checkInside returns what is wrong with a Spec that is to be mapped inside an
// existing mapping.
func (s *Spec) checkInside(p Prot) error {
	if err := s.check(p); err != nil {
		return err
	}
	if s.placement != anywhere || s.aligned || s.reserved || s.low {
		return bad("", "the place is given already: no placement, alignment or reserve")
	}
	return nil
}

// An extent is where the pages of a region are, of which some are reserve.
type extent struct{ addr, base, data, whole uintptr }

// extentFor returns the region's extent, if the pages of b can take its place.
func (r *region) extentFor(b backing) (extent, error) {
	e := extent{r.addr.Load(), r.base, r.data(), r.size}
	if size := r.len.Load(); b.size != size {
		return e, bad("", "the size is %d, the mapping has %d bytes", b.size, size)
	}
	if e.whole > 0 && (e.addr-b.lead != e.base || (e.base|e.data|e.whole)&(b.granule-1) != 0) {
		return e, bad("", "address %#x, the size or the file offset does not fit pages of %d bytes", e.addr, b.granule)
	}
	return e, nil
}

// overlay replaces all pages of the mapping, and its reserve. The new pages are
// mapped elsewhere first, because MAP_FIXED that fails can leave a hole, into which a
// stranger may be mapped. The region is not held meanwhile, for storage may take
// its time.
func (t ticket) overlay(s Spec, b backing, p Prot, known bool, name func(error) error) (ticket, error) {
	var old extent
	err := t.change(func(r *region) (err error) {
		old, err = r.extentFor(b)
		return err
	})
	staged := uintptr(0)
	if err == nil && old.whole > 0 {
		b.twice = true
		staged, err = s.mapPages(b, 0, old.data, old.whole, p)
	}
	inPlace := err != nil && old.data == old.whole && b.refusedElsewhere(err)
	if err != nil && !inPlace {
		return ticket{}, located(err, old.base, old.addr)
	}
	moved := inPlace
	next, err := t.transit(known, func(r *region) error {
		now, err := r.extentFor(b)
		if err == nil && now != old {
			err = ErrBusy
		}
		if err != nil {
			return err
		}
		switch moved = true; {
		case inPlace:
			if err = r.mapInPlace(b, 0, now.data, p); err != nil {
				return err
			}
		case now.whole > 0:
			if err = r.replace(staged, now.data, now.whole, kind{p, b.granule, b.flags}); err != nil {
				return err
			}
		default:
			r.base = r.addr.Load() &^ (b.granule - 1) // where pages would begin
		}
		r.lock = s.lock
		r.uniform(kind{p, b.granule, b.flags})
		return nil
	}, name)
	if !moved {
		abandon(staged, old.whole)
	}
	return next, err
}

// replace moves staged pages, of which some are reserve, into the place of the
// region's. Each move is of one kernel area: a move of several can fail after the
// first.
func (r *region) replace(staged, data, whole uintptr, k kind) error {
	if data > 0 {
		if err := move(staged, data, r.base); err != nil {
			abandon(staged, whole)
			return r.mend(0, data, err)
		}
	}
	if whole > data {
		if err := move(staged+data, whole-data, r.base+data); err != nil {
			abandon(staged+data, whole-data)
			k.flags &^= unix.MAP_ANONYMOUS // of the reserve nothing can be made
			r.uniform(k)
			r.fill(data, whole)
			return r.stopped(err, errHalfReplaced)
		}
	}
	return nil
}

var errHalfReplaced = errors.New("the old pages are gone")

// place maps b inside the mapping, at the bytes from off on. As in overlay, the
// region is not held while the pages are mapped elsewhere.
func (u Unknown) place(off int, s Spec, b backing, p Prot) error {
	var start, end, base, first uintptr
	err := u.change(func(r *region) (err error) {
		start, end, err = r.spot(off, b)
		base, first = r.base, r.addr.Load()
		return err
	})
	if err != nil || start == end {
		return err
	}
	b.twice = true
	staged, err := s.mapPages(b, 0, end-start, end-start, p)
	inPlace := err != nil && b.refusedElsewhere(err)
	if err != nil && !inPlace {
		return located(err, base+start, first)
	}
	moved := inPlace
	err = u.change(func(r *region) error {
		from, to, err := r.spot(off, b)
		if err == nil && (from != start || to != end) {
			err = ErrBusy
		}
		if err != nil {
			return err
		}
		if moved = true; inPlace {
			err = r.mapInPlace(b, start, end, p)
		} else if err = move(staged, end-start, base+start); err != nil {
			abandon(staged, end-start)
			err = r.mend(start, end, err)
		}
		if err != nil {
			return err
		}
		r.alter(start, end, func(kind) kind { return kind{p, b.granule, b.flags} })
		return nil
	})
	if !moved {
		abandon(staged, end-start)
	}
	return err
}

// refusedElsewhere reports whether it is a driver that does not accept the address
// where the pages were to be mapped first, as that of an SGX enclave does not.
func (b backing) refusedElsewhere(err error) bool {
	return b.device && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL))
}

// mapInPlace maps a device over pages [start, end). Its driver can still refuse when
// the old pages are gone, so these must have nothing to lose. It is neither populated
// nor locked: the kernel does neither with a device.
func (r *region) mapInPlace(b backing, start, end uintptr, p Prot) error {
	at, size := r.base+start, end-start
	old, err := regionsOf(at, at+size)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(b.fd, &st); err != nil {
		return err
	}
	const access = procmaps.Read | procmaps.Write | procmaps.Exec
	for _, g := range old {
		same := g.Inode == st.Ino && g.Major == unix.Major(uint64(st.Dev)) && g.Minor == unix.Minor(uint64(st.Dev))
		if !same && (g.Inode != 0 || g.Perms&access != 0) {
			return &failure{hint: fmt.Sprintf("the device accepts no other address, and the pages %#x-%#x could be lost: "+
				"place anonymous memory as None there first", g.Start, g.End), err: unix.EBUSY}
		}
	}
	if _, err = sys.Mmap(at, size, int(p), b.flags|unix.MAP_FIXED, b.fd, b.offset); err != nil {
		return r.mend(start, end, err)
	}
	return nil
}

// spot returns the pages, as offsets from base, that b replaces at the bytes from
// off on.
func (r *region) spot(off int, b backing) (start, end uintptr, err error) {
	size := int(r.len.Load())
	if off < 0 || off > size || b.size > uintptr(size-off) {
		return 0, 0, bad("", "the mapping has %v", count(size))
	}
	if b.size == 0 {
		return 0, 0, nil
	}
	start, end = r.offset(off)-b.lead, r.data()
	if r.offset(off) < b.lead || (r.base+start)&(b.granule-1) != 0 || !r.boundary(start) {
		granule := max(b.granule, r.kindAt(r.offset(off)).granule)
		return 0, 0, bad("", "address %#x and the file offset differ modulo the page size %d", r.addr.Load()+uintptr(off), granule)
	}
	if off+int(b.size) != size {
		end = r.offset(off) + b.size
	}
	if (r.base+end)&(b.granule-1) != 0 || end < r.data() && !r.boundary(end) {
		granule := max(b.granule, r.kindAt(end).granule)
		return 0, 0, bad("", "the end is on no boundary of the page size %d, nor at the end of the mapping, %d", granule, size)
	}
	return start, end, nil
}

// mend looks at the pages [start, end) after a move onto them has failed with
// err. mremap(2) unmaps the old pages before the last things that can fail.
func (r *region) mend(start, end uintptr, err error) error {
	hole, failed := r.fill(start, end)
	if err = scarce(err, demand{}); !hole {
		if end-start < r.size {
			err = undivided(err)
		}
		return err
	}
	stopped := r.stopped(err, cmp.Or(failed, errHalfReplaced))
	if r.lost.Load() {
		r.setProt(start, end, ProtNone)
	}
	return stopped
}

// fill holds the place of pages [start, end) if the kernel has unmapped them,
// which it does with all of them, and reports whether it had. It fails if a
// stranger has been mapped there.
func (r *region) fill(start, end uintptr) (hole bool, err error) {
	if sys.Msync(r.base+start, end-start, unix.MS_ASYNC) != unix.ENOMEM {
		return false, nil // which does nothing, but for looking for holes
	}
	return true, r.hold(r.base+start, end-start)
}

// hold is fill where there is a hole.
func (r *region) hold(at, size uintptr) error {
	got, err := sys.Mmap(at, size, unix.PROT_NONE, holding|unix.MAP_FIXED_NOREPLACE, -1, 0)
	if err == nil && got != at {
		abandon(got, size)
		err = unix.EEXIST
	}
	if err != nil {
		r.lost.Store(true)
	}
	return err
}

// Grow makes the mapping longer, up to its capacity; see [Spec.Reserve]. It
// never moves it and consumes nothing: views and pins stay valid, and new ones
// have the new length. Pages of a file that the file does not have yet fault
// until it grows.
//
// A size below Len is a bad argument, one above Cap is ErrCapacity. Grow is
// safe for concurrent use; it answers ErrBusy never, and waits for a transition
// as accesses do.
func Grow[M Known](m M, size int) error {
	err := m.inside().pinned(func(r *region) error { return r.grow(size) })
	if err != nil {
		return named(err, "grow to %v", count(size))
	}
	return nil
}

func (r *region) grow(size int) error {
	r.growth.Lock()
	defer r.growth.Unlock()
	switch length := int(r.len.Load()); {
	case size < length:
		return bad("", "the mapping has %v", count(length))
	case size > int(r.cap.Load()):
		return &failure{hint: fmt.Sprintf("the capacity is %d", r.cap.Load()), err: ErrCapacity}
	}
	data, end := r.data(), r.rounded(r.offset(size), r.granule)
	if size == 0 || end <= data {
		end = data
	} else if err := r.open(data, end, r.lock); err != nil {
		return err
	}
	// Only this is in the way of those who ask which pages there are.
	r.growing.Lock()
	r.room -= end - data
	r.len.Store(uintptr(size))
	r.growing.Unlock()
	return nil
}

// pinned runs f under a pin.
func (t ticket) pinned(f func(r *region) error) error {
	line, err := t.pin()
	if err != nil {
		return err
	}
	defer t.r.unpin(line)
	return f(t.r)
}

// open makes pages [start, end) of the reserve accessible, and locks them.
func (r *region) open(start, end uintptr, l locking) error {
	if r.sealed.Load() {
		return ErrSealed
	}
	k, at, size := r.kindAt(start), r.base+start, end-start
	if k.flags&unix.MAP_HUGETLB != 0 {
		return r.openHuge(start, end, k, l)
	}
	if err := sys.Mprotect(at, size, int(k.prot)); err != nil {
		if err == unix.EPERM && k.prot&ProtExec == 0 {
			return ErrSealed // by Seal meanwhile, or by somebody else; what is executable filters refuse, too
		}
		return scarce(err, demand{data: size, charged: size})
	}
	err := located(l.of(k).apply(stretch{at, size, k}), 0, r.addr.Load())
	if err != nil {
		sys.Munlock(at, size)
		if back := sys.Mprotect(at, size, unix.PROT_NONE); back != nil {
			err = errors.Join(err, back) // accessible, but not handed out
		}
	}
	return err
}

// openHuge puts huge pages in the place of reserve, which is ordinary address
// space.
func (r *region) openHuge(start, end uintptr, k kind, l locking) error {
	b := backing{fd: -1, granule: k.granule, flags: k.flags}
	err := (&Spec{lock: l}).stage(b, end-start, r.base+start, k.prot)
	if err != nil {
		if _, failed := r.fill(start, end); failed != nil {
			r.cap.Store(r.len.Load())
		}
	}
	return located(scarce(err, demand{}), 0, r.addr.Load())
}

// Resize makes the mapping size bytes long, and may move it; mremap(2). It
// consumes m and returns the new handle; on failure it returns m, so that
//
//	m, err = mmap.Resize(m, n)
//
// never loses a mapping. A reserve is given up. While the mapping is accessed or
// pinned it answers ErrBusy.
//
// Resize refuses what would only fault later: to grow shared anonymous memory
// or [Secret], whose size is fixed, and to grow from 0 what has no source any
// more, as an empty part of a file. Huge pages grow within their reserve only.
func Resize[M Handle](m M, size int) (M, error) {
	old := m.inside().Len()
	m, err := change(m, func(r *region) error { return r.resize(size) },
		func(err error) error { return named(err, "resize to %v", count(size)) })
	if err == nil && size > old {
		m.inside().faultInLocked(old, size)
	}
	return m, err
}

// faultInLocked faults in the new pages of a mapping with Spec.Lock, as far as that
// works. It is done when the transition is over, for storage may take its time.
func (t ticket) faultInLocked(off, end int) {
	t.within("", off, end-off, false, func(r *region, addr, size uintptr) error {
		if r.lock == locked && r.kindAt(addr-r.base).prot&(ProtRead|ProtWrite) != 0 {
			return faultIn(r.stretches(nil, addr-r.base, addr-r.base+size))
		}
		return nil
	})
}

// change runs a transition that keeps the type, and the handle if it fails.
func change[M Handle](m M, f func(r *region) error, name func(err error) error) (M, error) {
	_, known := m.known()
	t, err := m.inside().transit(known, f, name)
	if err != nil {
		return m, err
	}
	return handleOf[M](t), nil
}

func (r *region) resize(size int) error {
	if size < 0 {
		return bad("", "negative size")
	}
	data := r.data()
	grown := r.plain() // the pages that come
	if data > 0 {
		grown = r.kindAt(data - 1)
	}
	want := uintptr(0)
	switch off := r.offset(size); {
	case size == 0:
	case size <= int(r.len.Load()):
		want = min(r.pageEnd(off), data) // the last page holds more than its bytes
	default:
		if _, fits := round(off+r.largest(), r.largest()); !fits {
			return unix.ENOMEM
		}
		if want = max(r.rounded(off, grown.granule), data); want > data && r.rounded(off, r.granule) <= r.size {
			grown = r.kindAt(data) // from the reserve
			want = r.rounded(off, grown.granule)
		}
	}
	runs := r.clip(0, min(want, data))
	if want > data {
		runs = appendRun(runs, want, grown)
	}
	switch {
	case want <= data:
		if err := r.cut(want); err != nil {
			return err
		}
	case want <= r.size:
		if err := r.open(data, want, min(r.lock, 1)*lockedOnFault); err != nil {
			return err
		}
		abandon(r.base+want, r.size-want)
		r.size, r.room = want, 0
	default:
		if err := r.extend(data, want); err != nil {
			return err
		}
	}
	r.setRuns(runs)
	r.len.Store(uintptr(size))
	r.cap.Store(uintptr(size))
	return nil
}

// cut unmaps everything from want on.
func (r *region) cut(want uintptr) error {
	if want < r.size {
		if err := sys.Munmap(r.base+want, r.size-want); err != nil {
			return undivided(scarce(err, demand{}))
		}
	}
	r.size, r.room = want, 0
	return nil
}

// extend makes the data pages, and with them the region, want bytes long. The
// reserve is too short for that, and goes.
func (r *region) extend(data, want uintptr) error {
	lead, room, base, err := r.addr.Load()-r.base, r.room, r.base, error(nil)
	switch {
	case data == 0 && r.flags&unix.MAP_ANONYMOUS == 0:
		return bad("", "an empty mapping has no source to grow from")
	case data == 0:
		// There are no pages to extend, but new ones of the same kind can be
		// made where the source needs no descriptor.
		b := backing{fd: -1, granule: r.granule, flags: r.flags}
		base, err = (&Spec{lock: min(r.lock, 1) * lockedOnFault}).mapPages(b, 0, want, want, Prot(r.prot.Load()))
	default:
		if err = r.extendable(data); err == nil {
			base, err = sys.Mremap(r.base, data, want, unix.MREMAP_MAYMOVE, 0)
		}
		if err == unix.EFAULT || err == unix.EINVAL {
			base, err = r.extendParts(data, want, err)
		}
	}
	if err != nil {
		return scarce(unextended(err), demand{space: want - data, data: want - data, charged: want - data})
	}
	abandon(r.base+data, room)
	r.base, r.size, r.room = base, want, 0
	r.addr.Store(base + lead)
	return nil
}

// extendParts extends several kernel areas, which mremap(2) refuses.
func (r *region) extendParts(data, want uintptr, reason error) (uintptr, error) {
	if r.kindAt(data).granule > pageSize {
		return 0, &failure{hint: "huge pages do not grow", err: reason}
	}
	to, err := sys.Mmap(0, want, unix.PROT_NONE, holding, -1, 0)
	if err != nil {
		return 0, scarce(err, demand{space: want})
	}
	return to, r.relocate(data, to, want)
}

// relocate moves the first size bytes of the region to address space that is
// held at to, and makes them want bytes long. On failure they are where they
// were, and nothing is held any more.
//
// One move is of one area, for that of several can stop half-way; and each but
// the last, after which nothing can fail, leaves its old range mapped, so that
// nobody else comes to be there and there is a way back. Not so huge pages,
// which the kernel does not leave mapped, and locked ones, whose way back somebody
// could be in: to leave those mapped would take the lock from all of the kernel's
// area, which may reach into another mapping, and count the pages as locked twice
// ever after.
func (r *region) relocate(size, to, want uintptr) error {
	var areas []area
	if err := survey(r.base, r.base+size, func(a area) bool { areas = append(areas, a); return true }); err != nil {
		abandon(to, want)
		return err
	}
	for i, a := range areas {
		at, length, flags := to+a.start-r.base, a.end-a.start, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED
		last := i == len(areas)-1
		whole := !last && (r.kindAt(a.start-r.base).granule > pageSize || isLocked(a.start, length))
		if last {
			length += want - size
		} else if !whole {
			flags |= unix.MREMAP_DONTUNMAP
		}
		if _, err := sys.Mremap(a.start, a.end-a.start, length, flags, at); err != nil {
			abandonHold(at, length)
			for _, b := range areas[i+1:] {
				abandon(to+b.start-r.base, b.end-b.start)
			}
			if !last {
				abandon(to+size, want-size)
			}
			return scarce(r.moveBack(areas[:i], to, err), demand{space: 2 * want}) // the kernel counts the held place, too
		}
		areas[i].gone = whole
	}
	for _, a := range areas[:max(len(areas), 1)-1] {
		if !a.gone {
			abandon(a.start, a.end-a.start)
		}
	}
	return nil
}

// moveBack undoes a relocation that failed with err after some areas. At the
// limit of areas it needs all that are free, so nothing else is held or
// allocated meanwhile.
func (r *region) moveBack(areas []area, to uintptr, err error) error {
	var stuck error
	for _, a := range areas {
		var back error
		if a.gone {
			back = r.hold(a.start, a.end-a.start)
		}
		if back == nil {
			back = move(to+a.start-r.base, a.end-a.start, a.start)
		}
		if back != nil {
			r.fill(a.start-r.base, a.end-r.base)
			stuck = errors.Join(stuck, &failure{hint: fmt.Sprintf("the pages of %#x-%#x are left at %#x", a.start, a.end, to+a.start-r.base), err: back})
		}
	}
	if stuck != nil {
		return r.stopped(err, stuck)
	}
	return err
}

// Move moves the mapping, and its reserve, so that its first byte is at addr;
// mremap(2). It consumes m and returns the new handle; on failure it returns m,
// as [Resize] does. Nothing may be mapped in the new range: otherwise the error
// matches EEXIST and [os.ErrExist], as with [Spec.At]. addr must equal the old
// address modulo the page size. While the mapping is
// accessed or pinned it answers ErrBusy.
func Move[M Handle](m M, addr uintptr) (M, error) {
	return change(m, func(r *region) error { return r.moveTo(addr) },
		func(err error) error { return named(err, "move to %#x", addr) })
}

func (r *region) moveTo(addr uintptr) error {
	lead := r.addr.Load() - r.base
	to := addr - lead
	switch {
	case to == 0 || addr < lead || (to^r.base)&(r.largest()-1) != 0:
		return bad("", "it is not %d past a multiple of the page size %d", r.addr.Load()&(r.largest()-1), r.largest())
	case inRaceWindow(to, r.size):
		return bad("", "within the Go heap of a race build, %#x-%#x", uint64(raceStart), uint64(raceEnd))
	case r.size > 0:
		_, err := (&Spec{placement: exactly}).mapAt(onlySpace, to, r.size, 0, ProtNone, holding)
		if err == nil {
			err = r.relocate(r.size, to, r.size)
		}
		if err != nil {
			return err
		}
	}
	r.base = to
	r.addr.Store(addr)
	return nil
}

// extendable refuses memory whose kernel object has a fixed size: pages past
// its end would fault.
func (r *region) extendable(data uintptr) error {
	flags := r.kindAt(data - 1).flags
	if flags&unix.MAP_SHARED == 0 {
		return nil
	}
	regions, err := regionsOf(r.base+data-pageSize, r.base+data)
	for _, g := range regions {
		fixed := g.Deleted && (g.Name == "/dev/zero" || g.Name == "/secretmem" || g.Name == "/anon_hugepage")
		if flags&unix.MAP_ANONYMOUS != 0 || g.Perms&procmaps.Shared != 0 && fixed {
			return bad("", "shared anonymous memory has a fixed size")
		}
	}
	return err
}

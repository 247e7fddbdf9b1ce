package mmap

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/perms"
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
		err = s.open(p, Mapping{t}.Cap(), func(b backing) error {
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
		return fail.Bad("", "the place is given already: no placement, alignment or reserve")
	}
	return nil
}

// An extent is where the pages of a region are, of which some are reserve.
type extent struct{ addr, base, data, whole uintptr }

// extentFor returns the region's extent, if the pages of b can take its place.
func (r *region) extentFor(b backing) (extent, error) {
	e := extent{r.addr.Load(), r.Base, r.Data(), r.Size}
	if size := r.len.Load(); b.size != size {
		return e, fail.Bad("", "the size is %d, the mapping has %d bytes", b.size, size)
	}
	if e.whole > 0 && (e.addr-b.lead != e.base || (e.base|e.data|e.whole)&(b.granule-1) != 0) {
		return e, fail.Bad("", "address %#x, the size or the file offset does not fit pages of %d bytes", e.addr, b.granule)
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
	inPlace := err != nil && b.refusedElsewhere(old.data, p)
	if inPlace && old.data < old.whole {
		inPlace = false
		err = fail.Hint(err, "the device accepts no other address, and a mapping with a reserve is mapped elsewhere first")
	}
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
			if err = s.mapInPlace(r, b, 0, now.data, p); err != nil {
				return err
			}
		case now.whole > 0:
			if err = r.replace(staged, now.data, now.whole, b.kind(p)); err != nil {
				return err
			}
		default:
			r.Base = r.addr.Load() &^ (b.granule - 1) // where pages would begin
		}
		r.lock = s.lock
		r.SetAll(b.kind(p))
		r.account()
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
func (r *region) replace(staged, data, whole uintptr, k perms.Kind) error {
	if data > 0 {
		if err := move(staged, data, r.Base); err != nil {
			abandon(staged, whole)
			return r.mend(0, data, err)
		}
	}
	if whole > data {
		if err := move(staged+data, whole-data, r.Base+data); err != nil {
			abandon(staged+data, whole-data)
			k.Flags &^= unix.MAP_ANONYMOUS // of the reserve nothing can be made
			r.SetAll(k)
			r.account()
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
		base, first = r.Base, r.addr.Load()
		return err
	})
	if err != nil || start == end {
		return err
	}
	b.twice = true
	staged, err := s.mapPages(b, 0, end-start, end-start, p)
	inPlace := err != nil && b.refusedElsewhere(end-start, p)
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
			err = s.mapInPlace(r, b, start, end, p)
		} else if err = move(staged, end-start, base+start); err != nil {
			abandon(staged, end-start)
			err = r.mend(start, end, err)
		}
		if err != nil {
			return err
		}
		r.setKind(start, end, b.kind(p))
		return nil
	})
	if !moved {
		abandon(staged, end-start)
	}
	return err
}

// refusedElsewhere reports whether it is a driver that does not accept the address
// where the pages were to be mapped first, as that of an SGX enclave does not.
func (b backing) refusedElsewhere(size uintptr, p Prot) bool {
	if !b.device {
		return false
	}
	at, err := sys.Mmap(0, size, int(p), b.flags, b.fd, b.offset)
	if err == nil { // then it was something else, such as a lock
		abandon(at, size)
	}
	return err == unix.EACCES || err == unix.EPERM || err == unix.EINVAL
}

// mapInPlace maps a device over pages [start, end) of a region. Its driver can still
// refuse when the old pages are gone, so these must have nothing to lose. Nothing is
// faulted in, as the region is held: a lock takes its pages when they are touched.
func (s *Spec) mapInPlace(r *region, b backing, start, end uintptr, p Prot) error {
	at, size := r.Base+start, end-start
	old, err := kernel.RegionsOf(at, at+size)
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
			return &fail.Error{Hint: fmt.Sprintf("the device accepts no other address, and the pages %#x-%#x could be lost: "+
				"place anonymous memory as None there first", g.Start, g.End), Err: unix.EBUSY}
		}
	}
	if _, err = sys.Mmap(at, size, int(p), b.flags|unix.MAP_FIXED, b.fd, b.offset); err != nil {
		return r.mend(start, end, err)
	}
	k := b.kind(p)
	if err := s.lock.later().apply(stretch{at, size, k}); err != nil {
		r.setKind(start, end, k)
		return r.stopped(err, errHalfReplaced)
	}
	return nil
}

// spot returns the pages, as offsets from base, that b replaces at the bytes from
// off on.
func (r *region) spot(off int, b backing) (start, end uintptr, err error) {
	size := int(r.len.Load())
	if off < 0 || off > size || b.size > uintptr(size-off) {
		return 0, 0, fail.Bad("", "the mapping has %v", fail.Count(size))
	}
	if b.size == 0 {
		return 0, 0, nil
	}
	start, end = r.offset(off)-b.lead, r.Data()
	if r.offset(off) < b.lead || (r.Base+start)&(b.granule-1) != 0 || !r.Boundary(start) {
		granule := max(b.granule, r.At(r.offset(off)).Granule)
		return 0, 0, fail.Bad("", "address %#x and the file offset differ modulo the page size %d", r.addr.Load()+uintptr(off), granule)
	}
	if off+int(b.size) != size {
		end = r.offset(off) + b.size
	}
	if (r.Base+end)&(b.granule-1) != 0 || end < r.Data() && !r.Boundary(end) {
		granule := max(b.granule, r.At(end).Granule)
		return 0, 0, fail.Bad("", "the end is on no boundary of the page size %d, nor at the end of the mapping, %d", granule, size)
	}
	return start, end, nil
}

// mend looks at the pages [start, end) after a move onto them has failed with
// err. mremap(2) unmaps the old pages before the last things that can fail.
func (r *region) mend(start, end uintptr, err error) error {
	hole, failed := r.fill(start, end)
	if err = kernel.Scarce(err, kernel.Demand{}); !hole {
		return kernel.Undivided(r.Base+start, end-start, err)
	}
	stopped := r.stopped(err, cmp.Or(failed, errHalfReplaced))
	if r.is(isLost) {
		r.setProt(start, end, ProtNone)
	}
	return stopped
}

// fill holds the place of pages [start, end) if the kernel has unmapped them,
// which it does with all of them, and reports whether it had. It fails if a
// stranger has been mapped there.
func (r *region) fill(start, end uintptr) (hole bool, err error) {
	if sys.Msync(r.Base+start, end-start, unix.MS_ASYNC) != unix.ENOMEM {
		return false, nil // which does nothing, but for looking for holes
	}
	return true, r.hold(r.Base+start, end-start)
}

// hold is fill where there is a hole.
func (r *region) hold(at, size uintptr) error {
	got, err := sys.Mmap(at, size, unix.PROT_NONE, holding|unix.MAP_FIXED_NOREPLACE, -1, 0)
	if err == nil && got != at {
		abandon(got, size)
		err = unix.EEXIST
	}
	if err != nil {
		r.mark(isLost)
	}
	return err
}

//go:build linux

package mmap

import (
	"cmp"
	"errors"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/leftover"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/place"
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
	if s.placement != place.Anywhere || s.aligned || s.reserved || s.low {
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
	if e.whole > 0 && (e.addr-b.lead != e.base || (e.base|e.data|e.whole)&(b.Granule-1) != 0) {
		return e, fail.Bad("", "address %#x, the size or the file offset does not fit pages of %d bytes", e.addr, b.Granule)
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
		staged, err = s.wish().Map(b.ToReplace(), 0, old.data, old.whole, perms.Prot(p))
	}
	inPlace := err != nil && b.RefusedElsewhere(old.data, perms.Prot(p))
	if inPlace && old.data < old.whole {
		inPlace = false
		err = fail.Hint(err, "the device accepts no other address, and a mapping with a reserve is mapped elsewhere first")
	}
	if err != nil && !inPlace {
		return ticket{}, faulted(err, old.base, old.addr)
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
			if err = r.replace(staged, now.data, now.whole, b.Kind(perms.Prot(p))); err != nil {
				return err
			}
		default:
			r.Base = r.addr.Load() &^ (b.Granule - 1) // where pages would begin
		}
		r.lock = s.lock
		r.SetAll(b.Kind(perms.Prot(p)))
		r.account()
		return nil
	}, name)
	if !moved {
		leftover.Abandon(staged, old.whole)
	}
	return next, err
}

// replace moves staged pages, of which some are reserve, into the place of the
// region's. Each move is of one kernel area: a move of several can fail after the
// first.
func (r *region) replace(staged, data, whole uintptr, k perms.Kind) error {
	if data > 0 {
		if err := place.Move(staged, data, r.Base); err != nil {
			leftover.Abandon(staged, whole)
			return r.mend(0, data, err)
		}
	}
	if whole > data {
		if err := place.Move(staged+data, whole-data, r.Base+data); err != nil {
			leftover.Abandon(staged+data, whole-data)
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
	staged, err := s.wish().Map(b.ToReplace(), 0, end-start, end-start, perms.Prot(p))
	inPlace := err != nil && b.RefusedElsewhere(end-start, perms.Prot(p))
	if err != nil && !inPlace {
		return faulted(err, base+start, first)
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
		} else if err = place.Move(staged, end-start, base+start); err != nil {
			leftover.Abandon(staged, end-start)
			err = r.mend(start, end, err)
		}
		if err != nil {
			return err
		}
		r.setKind(start, end, b.Kind(perms.Prot(p)))
		return nil
	})
	if !moved {
		leftover.Abandon(staged, end-start)
	}
	return err
}

// mapInPlace maps a device over pages [start, end) of a region. Nothing is faulted in, as
// the region is held: a lock takes its pages when they are touched.
func (s *Spec) mapInPlace(r *region, b backing, start, end uintptr, p Prot) error {
	at, size, k := r.Base+start, end-start, b.Kind(perms.Prot(p))
	if err := b.OverDevice(at, size, k.Prot); err != nil {
		return r.mend(start, end, err)
	}
	if err := s.lock.Later().Apply(place.Stretch{Addr: at, Size: size, Kind: k}); err != nil {
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
	if r.offset(off) < b.lead || (r.Base+start)&(b.Granule-1) != 0 || !r.Boundary(start) {
		granule := max(b.Granule, r.At(r.offset(off)).Granule)
		const hint = "address %#x and the file offset differ modulo the page size %d"
		return 0, 0, fail.Bad("", hint, r.addr.Load()+uintptr(off), granule)
	}
	if off+int(b.size) != size {
		end = r.offset(off) + b.size
	}
	if (r.Base+end)&(b.Granule-1) != 0 || end < r.Data() && !r.Boundary(end) {
		granule := max(b.Granule, r.At(end).Granule)
		return 0, 0, fail.Bad("", noBoundary, granule, size)
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

// fill holds the place of pages [start, end) if the kernel has unmapped them, and
// reports whether it had.
func (r *region) fill(start, end uintptr) (hole bool, err error) {
	hole, err = place.Fill(r.Base+start, end-start)
	if err != nil {
		r.mark(isLost)
	}
	return hole, err
}

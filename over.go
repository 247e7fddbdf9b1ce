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

// Over maps s at the place of m: new pages, with the permissions of M, at the same address
// and of the same size. It is a transition: it consumes m. The new pages replace the old
// ones in one step.
//
// The Spec has no placement of its own and no reserve, and the size of m. Its file offset
// and the address of m must have the same remainder modulo the page size. A reserve of m
// stays, and grows into the new source. Old pages that are locked and new ones that [Spec.Lock]
// locks count together for a moment: RLIMIT_MEMLOCK must have room for both.
func Over[M Known, Old Handle](m Old, s Spec) (M, error) {
	_, known := m.known()
	t, err := ticketOf(m).over(s, promised[M](), known)
	return handleOf[M](t), err
}

func (t ticket) over(s Spec, p Prot, known bool) (next ticket, err error) {
	addr := Mapping{t}.Addr()
	name := func(err error) error { return named(err, "map %v over the mapping at %#x as %v", s, addr, p) }
	err = t.exchange(s, p, Mapping{t}.Cap(), (*region).allPages, func(f func(r *region) error) error {
		next, err = t.transit(known, f, name)
		return err
	})
	return next, name(err)
}

// A site is where pages are replaced: [start, end), of which those from data on are
// reserve.
type site struct {
	addr, base       uintptr // of the region
	start, data, end uintptr // offsets from base
	all              bool    // pages of the region
}

// exchange maps s over the pages that find returns. run runs the transition that puts
// them in their place.
func (t ticket) exchange(s Spec, p Prot, capacity int, find func(r *region, b backing) (site, error),
	run func(f func(r *region) error) error) error {
	err := s.check(p)
	if err == nil && (s.wish.Where != place.Anywhere || s.aligned || s.reserved || s.low) {
		err = fail.Bad("", "the place is given already: no placement, alignment or reserve")
	}
	if err == nil {
		err = t.look(func(*region) error { return nil }) // before anything is opened
	}
	if err != nil {
		return err
	}
	return s.open(p, capacity, func(b backing) error {
		var at site
		err := t.look(func(r *region) (err error) {
			at, err = find(r, b)
			return err
		})
		if err != nil {
			return err
		}
		// Elsewhere first, because MAP_FIXED that fails can leave a hole, into which a
		// stranger may be mapped. The region is not held meanwhile, for storage may take
		// its time.
		staged := uintptr(0)
		if at.start < at.end {
			staged, err = s.wish.Map(b.ToReplace(), 0, at.data-at.start, at.end-at.start, perms.Prot(p))
		}
		inPlace := err != nil && b.RefusedElsewhere(at.data-at.start, perms.Prot(p))
		switch {
		case inPlace && at.data < at.end:
			return fail.Hint(err, "the device accepts no other address, and a mapping with a reserve is mapped elsewhere first")
		case err != nil && !inPlace:
			return faulted(err, at.base+at.start, at.addr)
		}
		moved := inPlace
		err = run(func(r *region) error {
			now, err := find(r, b)
			if err == nil && now != at {
				err = ErrBusy
			}
			if err != nil {
				return err
			}
			if moved = true; inPlace {
				err = s.mapInPlace(r, b, at.start, at.end, p)
			} else {
				err = r.replace(staged, at, b.Kind(perms.Prot(p)))
			}
			if err == nil {
				r.replaced(at, b.Kind(perms.Prot(p)), s.wish.Lock)
			}
			return err
		})
		if !moved {
			leftover.Abandon(staged, at.end-at.start)
		}
		return err
	})
}

// allPages returns all pages of a region, and its reserve, for b to take their place.
func (r *region) allPages(b backing) (site, error) {
	at := site{r.addr.Load(), r.Base, 0, r.Data(), r.Size, true}
	if size := r.len.Load(); b.size != size {
		return at, fail.Bad("", "the size is %d, the mapping has %d bytes", b.size, size)
	}
	if at.end > 0 && (at.addr-b.lead != at.base || (at.base|at.data|at.end)&(b.Granule-1) != 0) {
		return at, fail.Bad("", "address %#x, the size or the file offset does not fit pages of %d bytes", at.addr, b.Granule)
	}
	return at, nil
}

// replace moves staged pages to their site. Each move is of one kernel area: a move of
// several can fail after the first.
func (r *region) replace(staged uintptr, at site, k perms.Kind) error {
	data, room := at.data-at.start, at.end-at.data
	if data > 0 {
		if err := place.Move(staged, data, r.Base+at.start); err != nil {
			leftover.Abandon(staged, data+room)
			return r.mend(at.start, at.data, err)
		}
	}
	if room > 0 {
		if err := place.Move(staged+data, room, r.Base+at.data); err != nil {
			leftover.Abandon(staged+data, room)
			k.Flags &^= unix.MAP_ANONYMOUS // of the reserve nothing can be made
			r.SetAll(k)
			r.account()
			r.fill(at.data, at.end)
			return r.stopped(err, errHalfReplaced)
		}
	}
	return nil
}

// replaced notes what is at a site now.
func (r *region) replaced(at site, k perms.Kind, l place.Locking) {
	switch {
	case at.all:
		if at.end == 0 {
			r.Base = at.addr &^ (k.Granule - 1) // where pages would begin
		}
		r.setLock(l)
		r.SetAll(k)
		r.account()
	case at.start < at.end:
		r.setKind(at.start, at.end, k)
	}
}

var errHalfReplaced = errors.New("the old pages are gone")

// mapInPlace maps a device over pages [start, end) of a region. Nothing is faulted in, as
// the region is held: a lock takes its pages when they are touched.
func (s *Spec) mapInPlace(r *region, b backing, start, end uintptr, p Prot) error {
	at, size, k := r.Base+start, end-start, b.Kind(perms.Prot(p))
	if err := b.OverDevice(at, size, k.Prot); err != nil {
		return r.mend(start, end, err)
	}
	if err := s.wish.Lock.Later().Apply(place.Stretch{Addr: at, Size: size, Kind: k}); err != nil {
		r.setKind(start, end, k)
		return r.stopped(err, errHalfReplaced)
	}
	return nil
}

// spot returns the pages that b replaces at the bytes from off on.
func (r *region) spot(off int, b backing) (at site, err error) {
	size := int(r.len.Load())
	if off < 0 || off > size || b.size > uintptr(size-off) {
		return at, fail.Bad("", "the mapping has %v", fail.Count(size))
	}
	if b.size == 0 {
		return at, nil
	}
	start, end := r.offset(off)-b.lead, r.Data()
	if r.offset(off) < b.lead || (r.Base+start)&(b.Granule-1) != 0 || !r.Boundary(start) {
		granule := max(b.Granule, r.At(r.offset(off)).Granule)
		const hint = "address %#x and the file offset differ modulo the page size %d"
		return at, fail.Bad("", hint, r.addr.Load()+uintptr(off), granule)
	}
	if off+int(b.size) != size {
		end = r.offset(off) + b.size
	}
	if (r.Base+end)&(b.Granule-1) != 0 || end < r.Data() && !r.Boundary(end) {
		return at, fail.Bad("", noBoundary, max(b.Granule, r.At(end).Granule), size)
	}
	return site{r.addr.Load(), r.Base, start, end, end, false}, nil
}

// mend looks at the pages [start, end) after a move onto them has failed with
// err. mremap(2) unmaps the old pages before the last things that can fail.
func (r *region) mend(start, end uintptr, err error) error {
	hole, failed := r.fill(start, end)
	if err = kernel.Scarce(err, kernel.Demand{}); !hole {
		return kernel.Undivided(r.Base+start, end-start, err)
	}
	return r.stopped(err, cmp.Or(failed, errHalfReplaced))
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

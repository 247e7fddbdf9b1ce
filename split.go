//go:build linux

package mmap

import (
	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/latch"
	"github.com/mmarinus/mmap/internal/perms"
)

// Split divides a mapping in two at off, without a system call. It is a transition: it
// consumes m.
//
// off is a page boundary, 0 or Len; anything else is a bad argument. An empty side keeps
// its address. A reserve goes to the right side; with one, a Len that is no page boundary
// is no place to split at.
func Split[M Handle](m M, off int) (left, right M, err error) {
	l, r, err := ticketOf(m).split(off)
	if err != nil {
		return left, right, named(err, "split at %d", off)
	}
	return handleOf[M](l), handleOf[M](r), nil
}

func (t ticket) split(off int) (left, right ticket, err error) {
	if err = t.acquire(0); err != nil {
		return left, right, err
	}
	r := t.r
	size := int(r.len.Load())
	at := r.offset(off) // of the cut, from base
	switch {
	case off < 0 || off > size:
		err = fail.Bad("", "the mapping has %v", fail.Count(size))
	case off == 0:
		at = 0
	case r.Boundary(at):
	case off != size:
		err = fail.Bad("", "on no boundary of the page size %d", r.At(at).Granule)
	case r.cap.Load() > r.len.Load():
		err = fail.Bad("", "the mapping ends within a page, and the reserve behind it cannot be divided from that")
	default:
		at = r.Size
	}
	if err != nil {
		t.giveUp()
		return left, right, err
	}
	addr := r.addr.Load() + uintptr(off)
	base := r.Base + at
	if at == r.Size {
		base = addr &^ (r.Plain().Granule - 1) // nothing is owned there
	}
	pages := perms.Uniform(base, r.Size-at, r.Room, r.Plain())
	if !r.IsUniform() {
		pages.SetRuns(r.Clip(at, r.Size))
		r.SetRuns(r.Clip(0, at))
		r.account()
	}
	right = newRegion(addr, uintptr(size-off), r.cap.Load()-uintptr(off), &pages)
	right.r.setLock(r.lock())
	right.r.mark(r.marks.Load() & allMarks)
	r.Size, r.Room = at, 0
	r.len.Store(uintptr(off))
	r.cap.Store(uintptr(off))
	return t.pass(), right, nil
}

// Join makes one mapping of two neighbours, in either order, without a system call. It is
// the inverse of [Split], and a transition: it consumes both, or on failure neither.
//
// The left one must end where the right one begins, and have no reserve; everything else is
// a bad argument. A sealed mapping can only be joined with a sealed one: otherwise the
// error is ErrSealed.
func Join[M Handle](a, b M) (joined M, err error) {
	t, err := join(ticketOf(a), ticketOf(b))
	if err != nil {
		return joined, named(err, "join %v and %v", a, b)
	}
	return handleOf[M](t), nil
}

func join(a, b ticket) (ticket, error) {
	if a.r != nil && a.r == b.r {
		if a.state == b.state {
			return ticket{}, fail.Bad("", "a mapping cannot be joined to itself")
		}
		return ticket{}, ErrMoved
	}
	if a.r == nil || b.r == nil {
		err := a.acquire(0)
		if err == nil {
			a.giveUp()
			err = b.acquire(0)
		}
		return ticket{}, err
	}
	// Both sides are taken in one order, so that of two calls with the same
	// mappings one wins.
	first, second := a, b
	if b.r.before(a.r) {
		first, second = b, a
	}
	answer := latch.AcquireBoth(&first.r.Latch, first.state, &second.r.Latch, second.state)
	if answer != latch.OK {
		if broken := second.r.has().broken.Load(); answer == latch.Broken && first.r.has().broken.Load() == nil {
			return ticket{}, broken
		}
		return ticket{}, first.refused(answer)
	}
	left, right := a, b
	if !adjoin(a.r, b.r) {
		left, right = b, a
	}
	err := error(nil)
	if !adjoin(left.r, right.r) {
		err = fail.Bad("", "they are no neighbours, or there is a reserve between them")
	} else if left.r.is(isLost) || right.r.is(isLost) {
		err = errLost
	} else if left.r.attachment() != nil || right.r.attachment() != nil {
		err = errTracked()
	} else if left.r.is(isSealed) != right.r.is(isSealed) {
		err = fail.Hint(ErrSealed, "one side only")
	}
	if err != nil {
		first.giveUp()
		second.giveUp()
		return ticket{}, err
	}
	left.r.absorb(right.r)
	right.resign()
	return left.pass(), nil
}

// adjoin reports whether l can take in r on its right.
func adjoin(l, r *region) bool {
	end := l.addr.Load() + l.len.Load()
	if l.cap.Load() > l.len.Load() || end != r.addr.Load() {
		return false
	}
	return l.Size == 0 || r.Size == 0 || l.Base+l.Size == r.Base
}

// absorb makes the neighbour's range part of this region.
func (r *region) absorb(right *region) {
	switch {
	case right.Size == 0:
	case r.Size == 0:
		r.Pages = right.Pages
		r.setLock(right.lock())
	default:
		var runs []perms.Run
		if !r.IsUniform() || !right.IsUniform() || r.Plain() != right.Plain() {
			runs = r.Clip(0, r.Size)
			last := r.At(r.Size).Prot
			right.Each(0, right.Size, func(_, end uintptr, k perms.Kind) {
				if right.Room == right.Size {
					k.Prot = last // nothing but reserve has no say in the permissions
				}
				runs = perms.Append(runs, r.Size+end, k)
			})
			r.SetAll(right.Plain()) // what grows does so at the end
		}
		r.Size, r.Room = r.Size+right.Size, right.Room
		r.setLock(right.lock())
		r.SetRuns(runs)
	}
	r.account()
	if right.is(isLent) {
		r.mark(isLent)
	}
	r.len.Store(r.len.Load() + right.len.Load())
	r.cap.Store(r.len.Load() + right.cap.Load() - right.len.Load())
	if r.cap.Load() > r.len.Load() {
		r.has()
	}
}

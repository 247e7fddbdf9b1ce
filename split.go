package mmap

// Split divides a mapping in two at off, without a system call. It consumes m;
// on failure m is what it was. While the mapping is accessed or pinned it
// answers ErrBusy.
//
// off is on a page boundary, or 0, or Len; anything else is a bad argument. An
// empty side keeps its address. A reserve goes to the right side; with one, a
// Len that is on no page boundary is no place to split at.
func Split[M Handle](m M, off int) (left, right M, err error) {
	l, r, err := m.inside().split(off)
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
		err = bad("", "the mapping has %v", count(size))
	case off == 0:
		at = 0
	case r.boundary(at):
	case off != size:
		err = bad("", "on no boundary of the page size %d", r.kindAt(at).granule)
	case r.cap.Load() > r.len.Load():
		err = bad("", "the mapping ends within a page, and the reserve behind it cannot be divided from that")
	default:
		at = r.size
	}
	if err != nil {
		t.giveUp()
		return left, right, err
	}
	addr := r.addr.Load() + uintptr(off)
	base := r.base + at
	if at == r.size {
		base = addr &^ (r.granule - 1) // nothing is owned there
	}
	right = newRegion(addr, uintptr(size-off), r.cap.Load()-uintptr(off), base, r.size-at, r.room, r.granule, Prot(r.prot.Load()))
	right.r.flags, right.r.lock = r.flags, r.lock
	right.r.lent.Store(r.lent.Load())
	right.r.sealed.Store(r.sealed.Load())
	if r.runs != nil {
		right.r.setRuns(r.clip(at, r.size))
		r.setRuns(r.clip(0, at))
	}
	r.size, r.room = at, 0
	r.len.Store(uintptr(off))
	r.cap.Store(uintptr(off))
	return t.pass(), right, nil
}

// Join makes one mapping of two neighbours, in either order, without a system
// call: the inverse of [Split]. It consumes both; on failure both are what they
// were. The left one must end where the right one begins, and have no reserve;
// everything else is a bad argument. A sealed mapping joins sealed ones only:
// ErrSealed. While one of them is accessed or pinned it answers ErrBusy.
func Join[M Handle](a, b M) (joined M, err error) {
	t, err := join(a.inside(), b.inside())
	if err != nil {
		return joined, named(err, "join %v and %v", a, b)
	}
	return handleOf[M](t), nil
}

func join(a, b ticket) (ticket, error) {
	if a.r != nil && a.r == b.r {
		if a.state == b.state {
			return ticket{}, bad("", "a mapping cannot be joined to itself")
		}
		return ticket{}, ErrMoved
	}
	// Both sides are taken in one order, so that of two calls with the same
	// mappings one wins.
	first, second := a, b
	if a.r != nil && b.r != nil && b.r.before(a.r) {
		first, second = b, a
	}
	if err := first.acquire(0); err != nil {
		return ticket{}, err
	}
	if err := second.acquire(0); err != nil {
		first.giveUp()
		return ticket{}, err
	}
	left, right := a, b
	if !adjoin(a.r, b.r) {
		left, right = b, a
	}
	err := error(nil)
	if !adjoin(left.r, right.r) {
		err = bad("", "they are no neighbours, or there is a reserve between them")
	} else if left.r.sealed.Load() != right.r.sealed.Load() {
		err = &failure{hint: "one side only", err: ErrSealed}
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
	return l.size == 0 || r.size == 0 || l.base+l.size == r.base
}

// absorb makes the neighbour's range part of this region.
func (r *region) absorb(right *region) {
	runs := r.clip(0, r.size)
	last := r.kindAt(r.size - min(r.size, 1)).prot
	right.each(0, right.size, func(_, end uintptr, k kind) {
		if right.room == right.size && r.size > 0 {
			k.prot = last // nothing but reserve has no say in the permissions
		}
		runs = appendRun(runs, r.size+end, k)
	})
	if right.size > 0 {
		if r.size == 0 {
			r.base = right.base
		}
		r.uniform(right.plain()) // what grows does so at the end
		r.lock = right.lock
	}
	if right.lent.Load() {
		r.lent.Store(true)
	}
	r.len.Store(r.len.Load() + right.len.Load())
	r.cap.Store(r.len.Load() + right.cap.Load() - right.len.Load())
	r.size += right.size
	r.room = right.room
	r.setRuns(runs)
}

//go:build linux

package systemtest

import (
	"cmp"
	"hash/maphash"
	"slices"
	"time"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/procmaps"
)

// What orders of the calls of a concurrent program the specification allows.

// What the kernel's table says of a page.
type seen struct {
	perms procmaps.Perms
	index int // of the page in the file; -1: anonymous
}

// The specification: what is true between two steps of the operations. It is
// comparable, and copied for each guess.
type world struct {
	file    [storedPages]byte
	regions [mostRegions]place
	at      [mostThreads + 1]struct {
		call uint16
		step uint8
	}
}

type place struct {
	gen, pins, len, cap uint8
	closed, owned       bool // not unmapped yet
	base                int64
	cells               [mostStored]cell
}

// A cell is a page. Its contents are one byte, at its start.
type cell struct {
	prot   mmap.Prot
	source uint8
	index  uint8 // in the file
	own    bool  // not the file's byte, but this
	value  byte
}

func freshCell(source, index int, p mmap.Prot) cell {
	return cell{prot: p, source: uint8(source), index: uint8(index), own: source < fileSource}
}

func (w *world) load(c *cell) byte {
	if c.own {
		return c.value
	}
	return w.file[c.index]
}

func (w *world) store(c *cell, v byte) {
	if c.source == fileSource {
		c.own = true
	}
	if c.own {
		c.value = v
	} else {
		w.file[c.index] = v
	}
}

// refusal is the answer of a handle that is no longer good.
func (r *place) refusal(h *issued) answer {
	switch {
	case r.gen != uint8(h.gen):
		return moved
	case r.closed:
		return closed
	}
	return done
}

func (r *place) unpin() {
	r.pins--
	r.owned = r.owned && !(r.closed && r.pins == 0)
}

// allowed returns how many of n pages allow p, before one that does not.
func (r *place) allowed(page, n int, p mmap.Prot) int {
	for i := range n {
		if r.cells[page+i].prot&p != p {
			return i
		}
	}
	return n
}

// step takes the next step of a call, and reports whether there can be one with
// the answer that the call had.
func (w *world) step(c *call) bool {
	at := &w.at[c.thread]
	fits, ends := w.next(c, int(at.step))
	if at.step++; ends {
		at.call, at.step = at.call+1, 0
	}
	return fits
}

func (w *world) next(c *call, step int) (fits, ends bool) {
	if c.verb == doTable {
		return w.table(c), true
	}
	r := &w.regions[c.on.region]
	if c.verb.accesses() {
		return w.access(c, r, step)
	}
	switch why := r.refusal(c.on); c.verb {
	case doEnd:
		r.unpin()
		return c.got == done, true
	case doLoad, doStore:
		if c.got != done || c.page >= int(r.len) {
			return false, true
		}
		return w.touch(c, &r.cells[c.page], 0), true
	case doLen, doProt:
		want := 0
		if why == done && c.verb == doLen {
			want = int(r.len)
		} else if why == done {
			all := r.cells[0].prot
			for _, c := range r.cells[:r.len] {
				all &= c.prot
			}
			want = int(all)
		}
		return c.count == want, true
	case doDrain:
		return c.got == done || c.got == why, true
	case doClose:
		if why == done {
			r.closed, r.owned = true, r.pins > 0
		}
		return c.got == why, true
	case doAdopt:
		adopted := &w.regions[c.made[0].region]
		*adopted = *r
		adopted.gen, adopted.closed, adopted.len = 0, false, r.cap
		r.owned = false
		return c.got == done, true
	case doJoin:
		return w.join(c, r, &w.regions[c.with.region]), true
	default:
		switch c.got {
		case moved, closed:
			return why == c.got, true
		case busy:
			return why == done && c.mayBusy, true
		}
		if why != done || r.pins > 0 {
			return false, true
		}
		before := *r
		want := w.transit(c, r)
		if c.got == exists && c.crowded {
			*r = before
			return true, true
		}
		fits = c.got == want
		for _, m := range c.made {
			fits = fits && (m == nil || m.len == int(w.regions[m.region].len))
		}
		return fits, true
	}
}

// access pins, looks, touches page by page, and unpins. A hold ends with a call
// of its own.
func (w *world) access(c *call, r *place, step int) (fits, ends bool) {
	touches := 0
	switch {
	case c.verb == doRead || c.verb == doWrite:
		touches = c.count
	case c.verb == doDiscard && c.got == done:
		touches = c.n
	}
	switch {
	case step == 0:
		if why := r.refusal(c.on); why != done || c.got == moved || c.got == closed {
			return why == c.got, true
		}
		r.pins++
		return true, c.verb == doPin
	case step == 1:
		return c.got == w.enter(c, r), c.verb <= doUpdate && c.got == done
	case step < 2+touches:
		return w.touch(c, &r.cells[c.page+step-2], step-2), false
	}
	r.unpin()
	return true, true
}

// enter returns the answer of an access with the length that the region has now.
func (w *world) enter(c *call, r *place) answer {
	length := int(r.len)
	inside := c.page <= length && c.n <= length-c.page
	switch c.verb {
	case doView, doUpdate:
		need := mmap.ProtRead
		if c.verb == doUpdate {
			need |= mmap.ProtWrite
		}
		if r.allowed(0, length, need) < length {
			return denied
		}
		if c.count != length {
			return strange
		}
	case doRead, doWrite:
		need := mmap.ProtRead
		if c.verb == doWrite {
			need = mmap.ProtWrite
		}
		all := max(0, min(c.n, length-c.page))
		n := r.allowed(c.page, all, need)
		switch {
		case c.count != n:
			return strange
		case n < all:
			return denied
		case n < c.n:
			return atEnd
		}
	case doGrow:
		if c.n < length {
			return invalid
		} else if c.n > int(r.cap) {
			return overCapacity
		}
		r.open(c.n)
	case doRegions:
		for i, cell := range r.cells[:length] {
			if c.pages[r.base+int64(i)] != cell.seen() {
				return strange
			}
		}
	case doAdvise, doLock, doUnlock, doSync:
		if !inside {
			return invalid
		}
	case doPrefault:
		if !inside {
			return invalid
		} else if r.allowed(c.page, c.n, mmap.ProtRead) < c.n {
			return denied
		}
	case doDiscard:
		if !inside {
			return invalid
		} else if r.allowed(c.page, c.n, mmap.ProtWrite) < c.n {
			return denied
		}
	}
	return done
}

// open makes pages of the reserve accessible.
func (r *place) open(n int) {
	for i := int(r.len); i < n; i++ {
		r.cells[i].prot = r.cells[r.len-1].prot
	}
	r.len = uint8(n)
}

func (w *world) touch(c *call, at *cell, i int) bool {
	switch c.verb {
	case doRead, doLoad:
		return c.bytes[i] == w.load(at)
	case doWrite, doStore:
		w.store(at, c.bytes[0])
	case doDiscard:
		if at.source == fileSource {
			at.own = false
		} else if at.source != sharedSource && at.own {
			at.value = 0
		}
	}
	return true
}

// transit makes a transition happen, and returns the answer.
func (w *world) transit(c *call, r *place) answer {
	length := int(r.len)
	inside := c.page <= length && c.n <= length-c.page
	next := *r
	next.gen++
	switch c.verb {
	case doProtect:
		for i := range length {
			next.cells[i].prot = c.prot
		}
	case doOver:
		if c.n != length {
			return invalid
		}
		for i := range int(r.cap) {
			next.cells[i] = freshCell(c.source, c.page+i, c.prot)
			if i >= length {
				next.cells[i].prot = 0
			}
		}
	case doAssert:
		for _, cell := range r.cells[:length] {
			if cell.prot != c.prot {
				return denied
			}
		}
	case doRange, doPlace:
		if !inside {
			return invalid
		}
		next.gen--
		for i := c.page; i < c.page+c.n; i++ {
			if next.cells[i].prot = c.prot; c.verb == doPlace {
				next.cells[i] = freshCell(c.source, i, c.prot)
			}
		}
	case doResize:
		if c.n > int(r.cap) {
			last := r.cells[length-1]
			if last.source == sharedSource {
				return invalid
			}
			for i := length; i < c.n; i++ {
				next.cells[i] = freshCell(int(last.source), int(last.index)+i-length+1, last.prot)
			}
			next.len, next.base = uint8(c.n), c.target
		} else if c.n > length {
			next.open(c.n)
		}
		next.len, next.cap = uint8(c.n), uint8(c.n)
		clear(next.cells[c.n:])
	case doMove:
		for i := range w.regions {
			o := &w.regions[i]
			if o.owned && o.base < c.target+int64(r.cap) && c.target < o.base+int64(o.cap) {
				return exists
			}
		}
		next.base = c.target
	case doSplit:
		if c.n >= length {
			return invalid
		}
		right := &w.regions[c.made[1].region]
		*right = place{len: r.len - uint8(c.n), cap: r.cap - uint8(c.n), owned: true, base: r.base + int64(c.n)}
		copy(right.cells[:], r.cells[c.n:])
		next.len, next.cap = uint8(c.n), uint8(c.n)
		clear(next.cells[c.n:])
	}
	*r = next // forget, and release: whose pages are nobody's now
	return done
}

func (w *world) join(c *call, a, b *place) bool {
	why, other := a.refusal(c.on), b.refusal(c.with)
	switch {
	case a == b && c.on.gen == c.with.gen:
		return c.got == invalid
	case a == b:
		return c.got == moved
	}
	switch c.got {
	case moved, closed:
		return why == c.got || other == c.got
	case busy:
		return (why == done || other == done) && c.mayBusy
	}
	if why != done || other != done || a.pins > 0 || b.pins > 0 {
		return false
	}
	if a.base > b.base {
		a, b = b, a
	}
	if a.cap > a.len || a.base+int64(a.len) != b.base {
		return c.got == invalid
	}
	if c.got != done {
		return false
	}
	copy(a.cells[a.len:], b.cells[:b.cap])
	a.len, a.cap, a.gen = a.len+b.len, a.cap+b.cap, a.gen+1
	b.gen, b.owned = b.gen+1, false
	return c.made[0].len == int(a.len)
}

func (c *cell) seen() seen {
	s := seen{procmaps.Perms(c.prot), -1}
	if c.source&sharedSource != 0 {
		s.perms |= procmaps.Shared
	}
	if c.source >= fileSource {
		s.index = int(c.index)
	}
	return s
}

// table compares the kernel's table, when nothing else happens.
func (w *world) table(c *call) bool {
	mapped := 0
	for i := range w.regions {
		r := &w.regions[i]
		if !r.owned {
			continue
		}
		for j, cell := range r.cells[:r.cap] {
			if s, ok := c.pages[r.base+int64(j)]; !ok || s != cell.seen() {
				return false
			}
			mapped++
		}
	}
	return mapped == len(c.pages)
}

// A search looks for an order of the steps that the specification allows: one
// goroutine's calls in their order, and no call before one that had ended when it
// began.
type search struct {
	calls    [][]*call
	seed     maphash.Seed
	failed   map[uint64]struct{}
	deepest  [mostThreads + 1]uint16 // calls done when it went furthest
	furthest int
}

// Clocks of two processors differ, and stores take a moment to be seen.
const slack = 300 * time.Nanosecond

const mostStates = 1 << 19

func (s *search) order(w *world) bool {
	key := maphash.Comparable(s.seed, *w)
	if _, ok := s.failed[key]; ok {
		return false
	}
	// The one that ended first goes first.
	var ready [mostThreads + 1]*call
	n, sum := 0, 0
	for g, calls := range s.calls {
		if i := int(w.at[g].call); i < len(calls) {
			ready[n] = calls[i]
			n++
		}
		sum += int(w.at[g].call)
	}
	if sum > s.furthest {
		s.furthest = sum
		for g := range s.calls {
			s.deepest[g] = w.at[g].call
		}
	}
	if n == 0 || len(s.failed) > mostStates {
		return true
	}
	slices.SortFunc(ready[:n], func(a, b *call) int { return cmp.Compare(a.ret, b.ret) })
	for _, c := range ready[:n] {
		if w.at[c.thread].step == 0 && slices.ContainsFunc(ready[:n], func(o *call) bool { return o != c && o.ret+slack < c.inv }) {
			continue
		}
		next := *w
		if next.step(c) && s.order(&next) {
			return true
		}
	}
	s.failed[key] = struct{}{}
	return false
}

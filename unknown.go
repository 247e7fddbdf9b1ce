//go:build linux

package mmap

import (
	"fmt"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// Unknown has all methods of [Mapping]. Its permissions, and even what is mapped,
// change in place and piece by piece while the program runs, and each access checks the
// pages that it touches. [Assert] makes it a handle of a known type, as a type assertion
// does with an interface value.
//
// A change keeps the handle: all copies of it see the new state. While the mapping is
// accessed or pinned, a change is refused with ErrBusy.
type Unknown struct {
	_       [0]*Unknown
	updater // of which it checks every access
}

// ReadAt copies from the mapping at off into p, as [io.ReaderAt] says. The copy stops at
// the first page that cannot be read, with the count and ErrPermission. A fault is a
// [*FaultError] with the offset where the copy stopped; the bytes of p beyond the count can
// have changed. p must not overlap the mapping. A negative offset is a bad argument.
func (u Unknown) ReadAt(p []byte, off int64) (int, error) { return u.transfer(p, off, ProtRead) }

// WriteAt copies p into the mapping at off, as [io.WriterAt] says. The copy stops at the
// first page that cannot be written, with the count and ErrPermission. What does not fit
// in the mapping is left out, and the error matches [io.ErrShortWrite]. A fault is a
// [*FaultError] with the offset where the copy stopped; no byte beyond it was changed. A
// negative offset is a bad argument.
func (u Unknown) WriteAt(p []byte, off int64) (int, error) {
	return u.transfer(p, off, ProtWrite)
}

// View calls f with the memory itself, len == cap, if every page can be read; otherwise it
// returns ErrPermission. The slice is valid until f returns, and the mapping stays as it is
// until then. A memory fault ends f and is returned as a [*FaultError]; see [Guard].
func (u Unknown) View(f func(b []byte) error) error { return u.viewAllowed(ProtRead, f) }

// Update calls f with the memory itself, to read and to write, if every page can be read
// and written; otherwise it returns ErrPermission. The slice is valid until f returns, and
// the mapping stays as it is until then. A memory fault ends f and is returned as a
// [*FaultError]; see [Guard].
func (u Unknown) Update(f func(b []byte) error) error {
	return u.viewAllowed(ProtRead|ProtWrite, f)
}

// ViewRange is View of the n bytes at off; the pages that hold them must be
// readable. A range that is not within Len is a bad argument.
func (u Unknown) ViewRange(off, n int, f func(b []byte) error) error {
	return u.viewRange(off, n, ProtRead, f)
}

// UpdateRange is Update of the n bytes at off; the pages that hold them must be
// readable and writable. A range that is not within Len is a bad argument.
func (u Unknown) UpdateRange(off, n int, f func(b []byte) error) error {
	return u.viewRange(off, n, ProtRead|ProtWrite, f)
}

// UnsafeBytes returns the memory itself, neither guarded nor pinned, and nil unless every
// page can be read. A memory fault ends the program. After Close, or a transition that
// moves the mapping, touching the slice ends the program or reaches another mapping's
// bytes. The mapping is never collected from now on.
func (u Unknown) UnsafeBytes() []byte { return u.lend(ProtRead) }

// ProtOf returns what every page of the n bytes at off allows. It is ProtNone for no
// bytes, for a range that is not within Len, and on a handle that is no longer good.
func (u Unknown) ProtOf(off, n int) Prot {
	all := perms.Prot(0)
	u.within("", off, n, false, func(r *region, addr, size uintptr) error {
		all = perms.All
		r.Each(addr-r.Base, addr-r.Base+size, func(_, _ uintptr, k perms.Kind) { all &= k.Prot })
		return nil
	})
	return Prot(all)
}

// allowedPart returns how many of the n bytes at off come before the first page that does
// not allow need. If there is one, the error says so of all bytes that were asked for.
func (r *region) allowedPart(off, n, asked int, need Prot) (int, error) {
	at, has, no := r.refuses(off, n, need)
	if !no {
		return n, nil
	}
	op := fmt.Sprintf("%s of %v at %d", verbs[need], fail.Count(asked), off)
	return max(int(at), off) - off, fail.Named(fail.Hint(unix.EACCES, "%v page at offset %d", has, at), op)
}

// refuses returns the first byte of a range whose page does not allow need, the
// permissions there, and whether there is one.
func (r *region) refuses(off, n int, need Prot) (at uintptr, p Prot, refused bool) {
	lead := r.addr.Load() - r.Base
	if n > 0 {
		r.Each(lead+uintptr(off), lead+uintptr(off)+uintptr(n), func(start, _ uintptr, k perms.Kind) {
			if !refused && !Prot(k.Prot).allows(need) {
				at, p, refused = start-lead, Prot(k.Prot), true
			}
		})
	}
	return at, p, refused
}

// Protect gives every page permissions p; mprotect(2). It happens wholly or not
// at all, but for a [*PartialError].
func (u Unknown) Protect(p Prot) error {
	// Len is that of the transition: a Grow before it counts.
	err := u.change(func(r *region) error { return r.protect(0, int(r.len.Load()), p) })
	if err != nil {
		return named(err, "protect as %v", p)
	}
	return nil
}

// ProtectRange gives the pages of n bytes at off permissions p; mprotect(2). The
// range must start on a page boundary, and end on one or at Len. It happens
// wholly or not at all, but for a [*PartialError].
func (u Unknown) ProtectRange(off, n int, p Prot) error {
	err := u.change(func(r *region) error { return r.protect(off, n, p) })
	if err != nil {
		return named(err, "protect %v at %d as %v", fail.Count(n), off, p)
	}
	return nil
}

func (r *region) protect(off, n int, p Prot) error {
	start, end, err := r.pages(off, n, true)
	if err == nil && p&^protAll != 0 {
		err = fail.Bad("", "no such permissions")
	}
	if err != nil || start == end && r.Data() > 0 {
		return err
	}
	if start != end {
		if err = sys.Mprotect(r.Base+start, end-start, int(p)); err != nil {
			return r.revert(start, end, p, err)
		}
	}
	r.setProt(start, end, p)
	return nil
}

// Place maps s inside this mapping, over the pages of its bytes at off, with permissions p.
// So a loader lays out segments, and a ring buffer is mapped twice, back to back:
//
//	u, err := mmap.MapUnknown(mmap.Anonymous(2*n), mmap.ProtNone)
//	ring := mmap.File(memfd, 0, n).Shared()
//	err = u.Place(0, ring, mmap.ProtRead|mmap.ProtWrite)
//	err = u.Place(n, ring, mmap.ProtRead|mmap.ProtWrite)
//	m, err := mmap.Assert[mmap.ReadWrite](u)
//
// The range must end on a page boundary or at Len. Its address and the file offset must
// have the same remainder modulo the page size. The Spec has no placement of its own and no
// reserve. The new pages replace the old ones in one step: on failure the mapping is as it
// was.
//
// A device whose driver accepts no other address, such as an SGX enclave, is mapped in
// place. The driver can refuse when the old pages are gone, so these must be anonymous
// without permissions, or of the same device; otherwise the error matches EBUSY. If a
// refusal leaves a hole, it is filled with inaccessible pages, and the error is a
// [*PartialError].
func (u Unknown) Place(off int, s Spec, p Prot) error {
	spot := func(r *region, b backing) (site, error) { return r.spot(off, b) }
	return named(u.exchange(s, p, 0, spot, u.change), "place %v at %d as %v", s, off, p)
}

// look runs a transition that changes nothing.
func (t ticket) look(f func(r *region) error) error {
	if err := t.acquireToChange(); err != nil {
		return err
	}
	defer t.giveUp()
	return f(t.r)
}

// change runs a transition that keeps the ticket.
func (t ticket) change(f func(r *region) error) error {
	err := t.acquireToChange()
	if err != nil {
		return err
	}
	if err = f(t.r); err != nil {
		t.giveUp()
	} else {
		t.r.Stay(t.state)
	}
	return err
}

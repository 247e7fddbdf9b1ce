//go:build linux

package mmap

import (
	"cmp"
	"errors"

	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/latch"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/sys"
)

// Protect gives the mapping the permissions of M; mprotect(2). It is a transition: it
// consumes m. Permissions that the file does not allow match ErrPermission.
//
//	rw, err := mmap.Protect[mmap.ReadWrite](m)
func Protect[M Known, Old Handle](m Old) (M, error) {
	_, unknown := any(m).(Unknown) // m.known would be an indirect call
	t, err := ticketOf(m).protect(promised[M](), !unknown)
	return handleOf[M](t), err
}

func (t ticket) protect(p Prot, known bool) (ticket, error) {
	r, err := t.r, t.acquireToChange()
	if err != nil {
		return ticket{}, named(err, "protect as %v", p)
	}
	// Not by transit: after the system call, each function that returns costs a
	// mispredicted branch.
	if size := r.Data(); size > 0 {
		if err = sys.Mprotect(r.Base, size, int(p)); err != nil {
			return ticket{}, t.fallBack(named(r.revert(0, size, p, err), "protect as %v", p), known)
		}
	}
	r.ProtectAll(perms.Prot(p)) // also of no pages: Grow will add some
	r.account()
	return t.pass(), nil
}

// transit runs f as a transition that changes pages and consumes the ticket;
// name completes its error.
func (t ticket) transit(known bool, f func(r *region) error, name func(err error) error) (ticket, error) {
	err := t.acquireToChange()
	if err != nil {
		return ticket{}, name(err)
	}
	if err = f(t.r); err != nil {
		return ticket{}, t.fallBack(name(err), known)
	}
	return t.pass(), nil
}

// fallBack ends a transition that failed with err. Where it stopped half-way, the
// permissions of a known type no longer hold.
func (t ticket) fallBack(err error, known bool) error {
	if stopped := (*PartialError)(nil); known && errors.As(err, &stopped) {
		t.r.has().broken.Store(stopped)
		t.r.Break(t.state)
	} else {
		t.giveUp()
	}
	return err
}

// Forget makes the permissions of a mapping unknown, without a system call. It is a
// transition: it consumes m.
func Forget[M Known](m M) (Unknown, error) {
	t := ticketOf(m)
	if err := t.acquire(latch.Partial); err != nil {
		return Unknown{}, named(err, "forget")
	}
	// If a change has stopped half-way, the account was set right then.
	return handleOf[Unknown](t.pass()), nil
}

// Assert makes the permissions of a mapping known. It is a transition: it consumes u, if
// the kernel says that every page has exactly the permissions of M. Otherwise u stays
// valid, and the error matches ErrPermission.
func Assert[M Known](u Unknown) (M, error) {
	t, err := u.assert(promised[M]())
	return handleOf[M](t), err
}

func (t ticket) assert(p Prot) (ticket, error) {
	if err := t.acquire(0); err != nil {
		return ticket{}, named(err, "assert %v", p)
	}
	r := t.r
	if err := kernel.Differs(r.Base, r.Data(), perms.Prot(p)); err != nil {
		t.giveUp()
		return ticket{}, named(err, "assert %v", p)
	}
	r.setProt(0, r.Data(), p)
	return t.pass(), nil
}

// revert undoes what an mprotect(2) of the pages [start, end) as p did that failed with
// err, and returns the error.
func (r *region) revert(start, end uintptr, p Prot, err error) error {
	// Over several kernel areas it can fail with the first ones changed. There is a
	// way back, unless the kernel has run out of areas or, with PR_SET_MDWE, does
	// not give execute permission again.
	if back := r.restore(start, end); back != nil {
		return r.stopped(err, back)
	}
	err = kernel.DeniedChange(r.Base+start, end-start, perms.Prot(p), err)
	err = kernel.Undivided(r.Base+start, end-start, err)
	return kernel.Scarce(err, kernel.Demand{Data: end - start, Charged: end - start})
}

// restore gives the pages [start, end) the permissions of the account, where
// the kernel's table has others.
func (r *region) restore(start, end uintptr) error {
	var failed error
	err := kernel.Survey(r.Base+start, r.Base+end, func(a kernel.Area) bool {
		r.Each(a.Start-r.Base, a.End-r.Base, func(start, end uintptr, k perms.Kind) {
			if k.Prot != a.Prot && failed == nil {
				failed = sys.Mprotect(r.Base+start, end-start, int(k.Prot))
			}
		})
		return failed == nil
	})
	if err != nil {
		// Unread, as without a descriptor to spare; but to give a page the
		// permissions that it has already changes nothing.
		r.Each(start, end, func(start, end uintptr, k perms.Kind) {
			failed = cmp.Or(failed, sys.Mprotect(r.Base+start, end-start, int(k.Prot)))
		})
	}
	return failed
}

// stopped describes a change that could not be undone, and sets the account of
// permissions to what the kernel's table says: nothing, if a stranger may be there.
func (r *region) stopped(err, undo error) error {
	regions, _ := kernel.RegionsOf(r.Base, r.Base+r.Size) // unread: nothing is allowed
	r.setProt(0, r.Data(), ProtNone)
	for _, g := range regions {
		start, end := uintptr(g.Start)-r.Base, min(uintptr(g.End)-r.Base, r.Data())
		if start < end && !r.is(isLost) {
			r.setProt(start, end, Prot(g.Perms)&protAll)
		}
	}
	return &PartialError{Err: err, Undo: undo, Regions: regions}
}

// Seal makes the mapping, its reserve included, what it is until the process ends;
// mseal(2), Linux 6.10 on 64-bit processors. Nobody can change its permissions, move,
// replace or unmap it, not even a bug elsewhere in the process.
//
// From then on Protect, Over, Resize, Move, Place, Close, growth into the reserve and the
// destructive methods return [ErrSealed], and the mapping is never collected. Access,
// Split, Join of sealed mappings, Forget, Assert, Release, locks and advice still work,
// except AdviceDontFork, which is EPERM if private memory cannot be written.
func (m Mapping) Seal() error {
	err := m.pinned(func(r *region) error {
		err := kernel.Blame("mseal", sys.Mseal(r.Base, r.Size))
		if err == nil {
			r.mark(isSealed)
		}
		return kernel.Scarce(err, kernel.Demand{})
	})
	return named(err, "seal")
}

// SetName names the mapping, its reserve included, in the kernel's tables, where Regions
// shows it as [anon:name]; PR_SET_VMA_ANON_NAME of prctl(2), Linux 5.17.
//
// It is for anonymous memory, and since Linux 6.2 for shared memory and memfds as well,
// which are then [anon_shmem:name]. A file that has a link is EBADF; in an [Unknown] of
// several kinds, what lies before such a file is named all the same. The name has at most
// 79 bytes, printable ASCII without any of \ ` $ [ and ]; an empty name takes it away.
func (m Mapping) SetName(name string) error {
	err := m.pinned(func(r *region) error {
		const hint = "for anonymous memory, and at most 79 printable characters without any of \\ ` $ [ ]"
		return whyNot(sys.SetName(r.Base, r.Size, name), "PR_SET_VMA_ANON_NAME", hint)
	})
	return named(err, "name %q", name)
}

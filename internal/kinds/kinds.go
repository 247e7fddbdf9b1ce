//go:build linux

// Package kinds has the nine handle types as values, for tests that choose a type
// while they run. Only tests import it.
package kinds

import (
	"context"
	"errors"
	"io"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/testkit"
	"github.com/mmarinus/mmap/procmaps"
)

// AnyHandle is a handle of any type: the methods of mmap.Mapping.
type AnyHandle interface {
	Len() int
	Cap() int
	Addr() uintptr
	Prot() mmap.Prot
	String() string
	Untyped() mmap.Mapping
	Close() error
	Pin() (*mmap.Pin, error)
	Release() (addr uintptr, size int, err error)
	Drain(ctx context.Context, fn func() error) error
	Regions() ([]procmaps.Region, error)
	Advise(off, n int, a mmap.Advice) error
	Prefault(off, n int) error
	Collapse(off, n int) error
	Lock(off, n int) error
	LockOnFault(off, n int) error
	Unlock(off, n int) error
	Sync(off, n int) error
	StartSync(off, n int) error
	Invalidate(off, n int) error
	Resident(off, n int) (int, error)
	ResidentPages(off, n int) ([]bool, error)
	SetPolicy(off, n int, p mmap.Policy, nodes ...int) error
	Nodes(off, n int) ([]int, error)
	Seal() error
	SetName(name string) error
}

// A Kind is one of the nine handle types, with the generic functions
// instantiated for it.
type Kind struct {
	Name    string
	Prot    mmap.Prot
	Unknown bool
	Zero    AnyHandle

	Create func(mmap.Spec, mmap.Prot) (AnyHandle, error)
	Adopt  func(uintptr, int) (AnyHandle, error)
	Resize func(AnyHandle, int) (AnyHandle, error)
	Move   func(AnyHandle, uintptr) (AnyHandle, error)
	Split  func(AnyHandle, int) (l, r AnyHandle, err error)
	Join   func(a, b AnyHandle) (AnyHandle, error)
	Grow   func(m AnyHandle, size int) error

	// Known types only:
	Protect func(old AnyHandle) (AnyHandle, error) // to this type
	Over    func(old AnyHandle, s mmap.Spec) (AnyHandle, error)
	Assert  func(u mmap.Unknown) (AnyHandle, error)
	Forget  func(m AnyHandle) (AnyHandle, error)
}

// Unknown is the type whose pages can differ.
var Unknown = handleKind[mmap.Unknown]("Unknown")

const none, read, write, exec = mmap.ProtNone, mmap.ProtRead, mmap.ProtWrite, mmap.ProtExec

// All has the known types at the places of their permissions.
var All = []*Kind{
	none:                    knownKind[mmap.None]("None", none),
	read:                    knownKind[mmap.Read]("Read", read),
	write:                   knownKind[mmap.Write]("Write", write),
	read | write:            knownKind[mmap.ReadWrite]("ReadWrite", read|write),
	exec:                    knownKind[mmap.Exec]("Exec", exec),
	read | exec:             knownKind[mmap.ReadExec]("ReadExec", read|exec),
	write | exec:            knownKind[mmap.WriteExec]("WriteExec", write|exec),
	read | write | exec:     knownKind[mmap.ReadWriteExec]("ReadWriteExec", read|write|exec),
	read | write | exec + 1: Unknown,
}

// Any is true of every kind.
func Any(*Kind) bool { return true }

// Known reports whether the type says what it allows.
func Known(k *Kind) bool { return !k.Unknown }

// IsUnknown reports whether it does not.
func IsUnknown(k *Kind) bool { return k.Unknown }

// Readable reports whether its handles can be read.
func Readable(k *Kind) bool { _, ok := k.Zero.(io.ReaderAt); return ok }

// Writable reports whether its handles can be written.
func Writable(k *Kind) bool { _, ok := k.Zero.(io.WriterAt); return ok }

// Updatable reports whether its handles can be both.
func Updatable(k *Kind) bool { _, ok := k.Zero.(Updater); return ok }

func generic[M mmap.Handle](m M, err error) (AnyHandle, error) { return m, err }

func handleKind[M mmap.Handle](name string) *Kind {
	var zero M
	return &Kind{
		Name:    name,
		Unknown: true,
		Zero:    zero,
		Create: func(s mmap.Spec, p mmap.Prot) (AnyHandle, error) {
			return generic(mmap.MapUnknown(s, p))
		},
		Adopt: func(addr uintptr, size int) (AnyHandle, error) {
			return generic(mmap.UnsafeAdopt[M](addr, size))
		},
		Resize: func(m AnyHandle, size int) (AnyHandle, error) {
			return generic(mmap.Resize(m.(M), size))
		},
		Move: func(m AnyHandle, addr uintptr) (AnyHandle, error) {
			return generic(mmap.Move(m.(M), addr))
		},
		Split: func(m AnyHandle, off int) (AnyHandle, AnyHandle, error) {
			l, r, err := mmap.Split(m.(M), off)
			return l, r, err
		},
		Grow: func(m AnyHandle, size int) error { return mmap.Grow(m.(M), size) },
		Join: func(a, b AnyHandle) (AnyHandle, error) {
			return generic(mmap.Join(a.(M), b.(M)))
		},
	}
}

func knownKind[M mmap.Known](name string, p mmap.Prot) *Kind {
	k := handleKind[M](name)
	k.Unknown, k.Prot = false, p
	k.Create = func(s mmap.Spec, _ mmap.Prot) (AnyHandle, error) { return generic(mmap.Map[M](s)) }
	k.Protect = protectAs[M]
	k.Over = overAs[M]
	k.Assert = func(u mmap.Unknown) (AnyHandle, error) { return generic(mmap.Assert[M](u)) }
	k.Forget = func(m AnyHandle) (AnyHandle, error) { return generic(mmap.Forget(m.(M))) }
	return k
}

func protectAs[M mmap.Known](old AnyHandle) (AnyHandle, error) {
	switch old := old.(type) {
	case mmap.None:
		return generic(mmap.Protect[M](old))
	case mmap.Read:
		return generic(mmap.Protect[M](old))
	case mmap.Write:
		return generic(mmap.Protect[M](old))
	case mmap.Exec:
		return generic(mmap.Protect[M](old))
	case mmap.ReadWrite:
		return generic(mmap.Protect[M](old))
	case mmap.ReadExec:
		return generic(mmap.Protect[M](old))
	case mmap.WriteExec:
		return generic(mmap.Protect[M](old))
	case mmap.ReadWriteExec:
		return generic(mmap.Protect[M](old))
	}
	return generic(mmap.Protect[M](old.(mmap.Unknown)))
}

func overAs[M mmap.Known](old AnyHandle, s mmap.Spec) (AnyHandle, error) {
	switch old := old.(type) {
	case mmap.None:
		return generic(mmap.Over[M](old, s))
	case mmap.Read:
		return generic(mmap.Over[M](old, s))
	case mmap.Write:
		return generic(mmap.Over[M](old, s))
	case mmap.Exec:
		return generic(mmap.Over[M](old, s))
	case mmap.ReadWrite:
		return generic(mmap.Over[M](old, s))
	case mmap.ReadExec:
		return generic(mmap.Over[M](old, s))
	case mmap.WriteExec:
		return generic(mmap.Over[M](old, s))
	case mmap.ReadWriteExec:
		return generic(mmap.Over[M](old, s))
	}
	return generic(mmap.Over[M](old.(mmap.Unknown), s))
}

// Inert fails unless the methods of a handle return what those of a dead one do.
func Inert(t testkit.Failer, h AnyHandle, want error) {
	t.Helper()
	if h.Len() != 0 || h.Cap() != 0 || h.Addr() != 0 || h.Prot() != mmap.ProtNone {
		t.Fatalf("stale handle: Len %d, Cap %d, Addr %#x, Prot %v", h.Len(), h.Cap(), h.Addr(), h.Prot())
	}
	if err := h.Close(); !errors.Is(err, want) {
		t.Fatalf("Close of a stale handle: %v, want %v", err, want)
	}
	if r, ok := h.(interface{ UnsafeBytes() []byte }); ok && r.UnsafeBytes() != nil {
		t.Fatalf("UnsafeBytes of a stale handle is not nil")
	}
}

// transitions tries every transition, with good arguments, and Grow excepted.
func (k *Kind) Transitions(h AnyHandle, s mmap.Spec) map[string]error {
	got := map[string]error{}
	_, got["protect"] = All[mmap.ProtRead].Protect(h)
	_, got["over"] = All[mmap.ProtRead].Over(h, s)
	_, got["resize"] = k.Resize(h, 1)
	_, got["move"] = k.Move(h, h.Addr())
	_, _, got["split"] = k.Split(h, 0)
	_, got["join"] = k.Join(h, k.Zero)
	_, _, got["release"] = h.Release()
	if u, ok := h.(mmap.Unknown); ok {
		_, got["assert"] = All[mmap.ProtRead].Assert(u)
		got["unknown protect"] = u.Protect(mmap.ProtRead)
		got["protect range"] = u.ProtectRange(0, 0, mmap.ProtRead)
		got["place"] = u.Place(0, mmap.Anonymous(0), mmap.ProtRead)
	} else {
		_, got["forget"] = k.Forget(h)
	}
	return got
}

// accesses tries every access.
func (k *Kind) Accesses(h AnyHandle) map[string]error {
	got := map[string]error{}
	none := func([]byte) error { return nil }
	if r, ok := h.(io.ReaderAt); ok {
		_, got["read"] = r.ReadAt(nil, 0)
	}
	if w, ok := h.(io.WriterAt); ok {
		_, got["write"] = w.WriteAt(nil, 0)
	}
	if v, ok := h.(Viewer); ok {
		got["view"] = v.View(none)
	}
	if v, ok := h.(Updater); ok {
		got["update"] = v.Update(none)
	}
	if u, ok := h.(mmap.Unknown); ok {
		got["view range"] = u.ViewRange(0, 0, none)
		got["update range"] = u.UpdateRange(0, 0, none)
	}
	got["grow"] = k.Grow(h, 0)
	got["advise"] = h.Advise(0, 0, mmap.AdviceNormal)
	got["prefault"] = h.Prefault(0, 0)
	got["lock"] = h.LockOnFault(0, 0)
	got["sync"] = h.Sync(0, 0)
	_, got["resident"] = h.Resident(0, 0)
	_, got["nodes"] = h.Nodes(0, 0)
	if w, ok := h.(Destroyer); ok {
		got["discard"] = w.Discard(0, 0)
	}
	_, got["pin"] = h.Pin()
	_, got["regions"] = h.Regions()
	return got
}

// A Viewer can be read where it is.
type Viewer interface {
	View(func(b []byte) error) error
}

// A Destroyer is what handles that can be written have besides.
type Destroyer interface {
	PrefaultWrite(off, n int) error
	Discard(off, n int) error
	DiscardLocked(off, n int) error
	Free(off, n int) error
	Punch(off, n int) error
	WipeOnFork(off, n int) error
	InstallGuardPages(off, n int) error
	RemoveGuardPages(off, n int) error
}

// An Updater can be changed where it is.
type Updater interface {
	Update(func(b []byte) error) error
}

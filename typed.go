package mmap

import (
	"fmt"

	"github.com/mmarinus/mmap/procmaps"
)

// The eight known permissions, and what each of them can do. A handle is a
// small value that may be copied freely; all copies are the same mapping. The
// zero value is inert and answers ErrClosed.
//
// The marker in front keeps the compiler from converting one type into
// another, which it would do for structs with identical fields.
type (
	// None is a mapping that cannot be accessed: address space, held for later.
	None struct {
		_ [0]*None
		ticket
	}
	// Read is a mapping that can be read.
	Read struct {
		_ [0]*Read
		reader
	}
	// Write is a mapping that can be written. On most processors the hardware
	// would let it be read as well; this type does not.
	Write struct {
		_ [0]*Write
		writer
	}
	// Exec is a mapping that can be executed only.
	Exec struct {
		_ [0]*Exec
		ticket
	}
	// ReadWrite is a mapping that can be read and written.
	ReadWrite struct {
		_ [0]*ReadWrite
		updater
	}
	// ReadExec is a mapping that can be read and executed.
	ReadExec struct {
		_ [0]*ReadExec
		reader
	}
	// WriteExec is a mapping that can be written and executed.
	WriteExec struct {
		_ [0]*WriteExec
		writer
	}
	// ReadWriteExec is a mapping that can be read, written and executed.
	ReadWriteExec struct {
		_ [0]*ReadWriteExec
		updater
	}
)

func (None) known() (Prot, bool)          { return ProtNone, true }
func (Read) known() (Prot, bool)          { return ProtRead, true }
func (Write) known() (Prot, bool)         { return ProtWrite, true }
func (Exec) known() (Prot, bool)          { return ProtExec, true }
func (ReadWrite) known() (Prot, bool)     { return ProtRead | ProtWrite, true }
func (ReadExec) known() (Prot, bool)      { return ProtRead | ProtExec, true }
func (WriteExec) known() (Prot, bool)     { return ProtWrite | ProtExec, true }
func (ReadWriteExec) known() (Prot, bool) { return ProtRead | ProtWrite | ProtExec, true }
func (Unknown) known() (Prot, bool)       { return ProtNone, false }

// Mapping is what every handle has. Only the nine handle types implement it.
type Mapping interface {
	// Len returns the length in bytes: what was asked for, not rounded to
	// pages. It is 0 on a handle that is no longer good, as are Cap and Addr.
	Len() int
	// Cap returns the length that Grow can reach. Without Spec.Reserve it is
	// Len.
	Cap() int
	// Addr returns the address of the first byte.
	Addr() uintptr
	// Prot returns the permissions: those of the type, and of an Unknown what
	// every page allows; none on a handle that is no longer good.
	Prot() Prot
	// Close unmaps the mapping.
	Close() error
	// Pin pins the mapping until Unpin.
	Pin() (*Pin, error)
	// Release gives the page range up without unmapping it.
	Release() (addr uintptr, size int, err error)
	// Regions returns what the kernel says is mapped there.
	Regions() ([]procmaps.Region, error)

	// What follows acts on n bytes at off, widened to whole pages, and may be
	// called beside views and pins.

	// Advise gives advice; madvise(2).
	Advise(off, n int, a Advice) error
	// Prefault faults pages in for reading.
	Prefault(off, n int) error
	// Collapse makes huge pages of small ones.
	Collapse(off, n int) error
	// Lock locks pages into memory, and faults them in; mlock(2).
	Lock(off, n int) error
	// LockOnFault locks each page when it is first touched.
	LockOnFault(off, n int) error
	// Unlock undoes both.
	Unlock(off, n int) error
	// Sync writes changed pages to their file, and waits; msync(2).
	Sync(off, n int) error
	// StartSync does not wait.
	StartSync(off, n int) error
	// Invalidate is MS_INVALIDATE.
	Invalidate(off, n int) error
	// Resident returns how many bytes are in memory; mincore(2).
	Resident(off, n int) (int, error)
	// ResidentPages returns which pages are in memory.
	ResidentPages(off, n int) ([]bool, error)
	// SetPolicy says from which NUMA nodes pages are taken; mbind(2).
	SetPolicy(off, n int, p Policy, nodes ...int) error
	// Nodes returns which NUMA node holds each page.
	Nodes(off, n int) ([]int, error)

	// Seal makes the mapping what it is for ever; mseal(2).
	Seal() error
	// SetName names anonymous memory in the kernel's tables.
	SetName(name string) error
	fmt.Stringer

	known() (Prot, bool) // the permissions that the type promises, if it does
	inside() ticket
}

// Known is exactly the eight types with known permissions.
type Known interface {
	None | Read | Write | Exec | ReadWrite | ReadExec | WriteExec | ReadWriteExec
	Mapping
}

// Handle is exactly the nine types of handles. A struct that embeds one has
// its methods, but is no Handle.
type Handle interface {
	None | Read | Write | Exec | ReadWrite | ReadExec | WriteExec | ReadWriteExec | Unknown
	Mapping
}

// promised returns the permissions of a known type.
func promised[M Known]() Prot {
	var m M
	p, _ := m.known()
	return p
}

func (t ticket) inside() ticket { return t }

// good reports whether the ticket is valid, after a transition that runs has
// ended. What was loaded from the region before is then right: a transition
// writes only if it succeeds, and then moves on the generation that this looks
// at.
func (t ticket) good() bool {
	for t.r != nil {
		w := t.r.word.Load()
		if w&(busy|closed) != busy || w&genMask != t.state {
			return w&genMask == t.state && w&closed == 0
		}
		t.r.await()
	}
	return false
}

// measure returns what load loads, or 0 if the ticket is no longer good.
func (t ticket) measure(load func(r *region) uintptr) uintptr {
	if t.r == nil {
		return 0
	}
	if v := load(t.r); t.good() {
		return v
	}
	return 0
}

// Len returns the length in bytes: what was asked for, not rounded to pages.
// It is 0 on a handle that is no longer good.
func (t ticket) Len() int { return int(t.measure(func(r *region) uintptr { return r.len.Load() })) }

// Cap returns the length in bytes that [Grow] can reach. Without
// [Spec.Reserve] it is Len. It is 0 on a handle that is no longer good.
func (t ticket) Cap() int { return int(t.measure(func(r *region) uintptr { return r.cap.Load() })) }

// Addr returns the address of the first byte. It is 0 on a handle that is no
// longer good.
func (t ticket) Addr() uintptr { return t.measure(func(r *region) uintptr { return r.addr.Load() }) }

// Prot returns the permissions of the mapping; of an [Unknown], what every page
// allows. It is ProtNone on a handle that is no longer good.
func (t ticket) Prot() Prot {
	return Prot(t.measure(func(r *region) uintptr { return uintptr(r.prot.Load()) }))
}

// String describes the mapping: its permissions, address and length.
func (t ticket) String() string {
	switch addr, n, p := t.Addr(), t.Len(), t.Prot(); {
	case t.good():
		return fmt.Sprintf("%v mapping of %v at %#x", p, count(n), addr)
	case t.r != nil && t.r.word.Load()&genMask != t.state:
		return "moved mapping"
	}
	return "closed mapping"
}

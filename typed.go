//go:build linux

package mmap

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/procmaps"
)

// Mapping is what every handle has, whatever its permissions: a small value that may
// be copied freely. All copies are the same mapping, and the zero value is inert: it
// returns ErrClosed. The methods are safe for concurrent use.
//
// Handles of several types can be kept together as what Untyped returns. Of the
// transitions, a Mapping by itself has only Close and Release.
//
// The methods that take off and n act on the pages that hold the n bytes at off, and
// may be called beside views and pins. A range that is not within Len is a bad
// argument.
type Mapping struct{ ticket }

// base is Mapping in the handles, where nobody else can name it: so nobody can take a
// handle apart, or put one together.
type base = Mapping

// The eight known permissions, and what each of them can do.
//
// The marker in front keeps the compiler from converting one type into
// another, which it would do for structs with identical fields.
type (
	// None has all methods of [Mapping], and no others: it cannot be accessed. It is
	// address space that is held for later.
	None struct {
		_ [0]*None
		base
	}
	// Read has all methods of [Mapping], and can be read.
	Read struct {
		_ [0]*Read
		reader
	}
	// Write has all methods of [Mapping], and can be written. On most processors the
	// hardware would let it be read as well; this type does not.
	Write struct {
		_ [0]*Write
		writer
	}
	// Exec has all methods of [Mapping], and no others: it can only be executed.
	Exec struct {
		_ [0]*Exec
		base
	}
	// ReadWrite has all methods of [Mapping], and can be read and written.
	ReadWrite struct {
		_ [0]*ReadWrite
		updater
	}
	// ReadExec has all methods of [Mapping], and can be read and executed.
	ReadExec struct {
		_ [0]*ReadExec
		reader
	}
	// WriteExec has all methods of [Mapping], and can be written and executed.
	WriteExec struct {
		_ [0]*WriteExec
		writer
	}
	// ReadWriteExec has all methods of [Mapping], and can be read, written and executed.
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
func (Mapping) known() (Prot, bool)       { return ProtNone, false } // and so of Unknown

// Untyped returns the mapping as a Mapping, to keep handles of several types together. It
// is another handle of the same mapping: a transition of either consumes both.
func (m Mapping) Untyped() Mapping { return m }

// mapping are the methods of Mapping, which generic code may call on any handle.
type mapping interface {
	Len() int
	Cap() int
	Addr() uintptr
	Prot() Prot
	String() string
	Untyped() Mapping
	Close() error
	Pin() (*Pin, error)
	Release() (addr uintptr, size int, err error)
	Drain(ctx context.Context, fn func() error) error
	Regions() ([]procmaps.Region, error)
	Advise(off, n int, a Advice) error
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
	SetPolicy(off, n int, p Policy, nodes ...int) error
	Nodes(off, n int) ([]int, error)
	Seal() error
	SetName(name string) error

	known() (Prot, bool) // the permissions that the type promises, if it does
}

// Known is exactly the eight types with known permissions. Their values have all
// methods of [Mapping].
type Known interface {
	None | Read | Write | Exec | ReadWrite | ReadExec | WriteExec | ReadWriteExec
	mapping
}

// Handle is exactly the nine types of handles, which have all methods of [Mapping]. A
// struct that embeds one has its methods, but is no Handle.
type Handle interface {
	None | Read | Write | Exec | ReadWrite | ReadExec | WriteExec | ReadWriteExec | Unknown
	mapping
}

// promised returns the permissions of a known type.
func promised[M Known]() Prot {
	var m M
	p, _ := m.known()
	return p
}

// good reports whether the ticket is valid, after a transition that runs has
// ended. What was loaded from the region before is then right: a transition
// writes only if it succeeds, and then moves on the generation that this looks
// at.
func (t ticket) good() bool { return t.r != nil && t.r.Good(t.state) }

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
func (m Mapping) Len() int { return int(m.measure(func(r *region) uintptr { return r.len.Load() })) }

// Cap returns the length in bytes that [Grow] can reach. Without
// [Spec.Reserve] it is Len. It is 0 on a handle that is no longer good.
func (m Mapping) Cap() int { return int(m.measure(func(r *region) uintptr { return r.cap.Load() })) }

// Addr returns the address of the first byte. It is 0 on a handle that is no longer good.
// Use the address only while you hold a [Pin].
func (m Mapping) Addr() uintptr { return m.measure(func(r *region) uintptr { return r.addr.Load() }) }

// Prot returns the permissions of the mapping; of an [Unknown], what every page
// allows. It is ProtNone on a handle that is no longer good.
func (m Mapping) Prot() Prot {
	return Prot(m.measure(func(r *region) uintptr { return uintptr(r.prot.Load()) }))
}

// String describes the mapping: its permissions, address and length. Where an [Unknown]
// has pages of several permissions, it names each once: rw-/r--/---.
func (m Mapping) String() string {
	switch addr, n, p := m.Addr(), m.Len(), cmp.Or(m.severalProts(), m.Prot().String()); {
	case m.good():
		return fmt.Sprintf("%s mapping of %v at %#x", p, fail.Count(n), addr)
	case m.r != nil && m.r.Older(m.state):
		return "moved mapping"
	}
	return "closed mapping"
}

// severalProts returns the permissions of the pages, each once, "" if there are none.
func (m Mapping) severalProts() string {
	var names []string
	m.within("", 0, m.Len(), false, func(r *region, addr, size uintptr) error {
		r.Each(addr-r.Base, addr-r.Base+size, func(_, _ uintptr, k perms.Kind) {
			if name := k.Prot.String(); !slices.Contains(names, name) {
				names = append(names, name)
			}
		})
		return nil
	})
	return strings.Join(names, "/")
}

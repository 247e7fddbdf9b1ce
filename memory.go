//go:build linux

package mmap

import (
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/mmarinus/mmap/internal/fail"
)

// This file holds every use of package unsafe outside internal/sys. Mapped
// memory is foreign to Go: addresses are kept as uintptr, so that the garbage
// collector never takes one for a pointer of its own, and become slices here,
// at the moment of access.

// memory returns the n bytes at addr.
func memory(addr uintptr, n int) []byte {
	if n == 0 {
		return []byte{}
	}
	// SAFETY: the caller holds a pin on the region that owns [addr, addr+n),
	// or hands the slice out under a name that says Unsafe. The detour over
	// &addr is a conversion that vet accepts: addr never came from a pointer.
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&addr)), n)
}

// addressOf returns where b is.
func addressOf(b []byte) uintptr {
	// SAFETY: only the number is used.
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))
}

// stackHint returns an address within the calling goroutine's stack. It tells
// goroutines apart cheaply and often; it is never dereferenced.
func stackHint() uintptr {
	var local byte
	// SAFETY: only the number is used.
	return uintptr(unsafe.Pointer(&local))
}

// handleOf makes a handle of type M from a ticket. It must be called with a
// ticket whose region has the permissions of M.
func handleOf[M Handle](t ticket) M {
	// SAFETY: each of the nine types of Handle is a zero-size marker followed
	// by a ticket; TestHandleLayout holds them to it.
	return *(*M)(unsafe.Pointer(&t))
}

// ticketOf returns the ticket of a handle. A method of M would be an indirect call.
func ticketOf[M Handle](m M) ticket {
	// SAFETY: as for handleOf.
	return *(*ticket)(unsafe.Pointer(&m))
}

// before orders two regions, so that whoever needs both takes the same one
// first.
func (r *region) before(other *region) bool {
	// SAFETY: only the numbers are used; regions are on the heap and do not
	// move.
	return uintptr(unsafe.Pointer(r)) < uintptr(unsafe.Pointer(other))
}

// load reads the word that holds the byte at addr, which may fault.
func load(addr uintptr) {
	// SAFETY: callers want the fault, if there is one: they either guard
	// against it or mean to repeat one that has just happened. The word is
	// aligned, and an atomic load is one that the compiler can't drop.
	atomic.LoadUint32((*uint32)(unsafe.Pointer(unsafe.SliceData(memory(addr&^3, 4)))))
}

// store writes the word that holds the byte at addr, without changing it, which
// may fault.
func store(addr uintptr) {
	// SAFETY: as for load; or-ing with zero is atomic, so a change made
	// elsewhere at the same moment is not lost.
	atomic.OrUint32((*uint32)(unsafe.Pointer(unsafe.SliceData(memory(addr&^3, 4)))), 0)
}

// Slice returns b as values of type T, as many whole ones as fit; a remainder is left off.
// The result shares the memory of b and is valid as long as b is.
//
// T must not be of size zero, and have neither pointers nor bools anywhere: any bytes must
// be a valid T, and a bool other than 0 or 1 is not one. b must be aligned for T, and be
// empty or hold at least one value. Otherwise the error matches [os.ErrInvalid].
//
// Values have the byte order and the layout of this processor. Between processes, only
// aligned operations of sync/atomic are sound.
func Slice[T any](b []byte) ([]T, error) {
	t := reflect.TypeFor[T]()
	if err := plain(t); err != nil {
		return nil, err
	}
	size, align := t.Size(), uintptr(t.Align())
	first := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	switch {
	case len(b) == 0:
		return []T{}, nil
	case uintptr(len(b)) < size:
		return nil, fail.Bad(fmt.Sprintf("slice of %v", t), "%d bytes, one value has %d", len(b), size)
	case first%align != 0:
		return nil, fail.Bad(fmt.Sprintf("slice of %v", t), "address %#x is no multiple of %d", first, align)
	}
	// SAFETY: the memory is len(b) bytes long and aligned for T, any bytes are
	// a valid T, and T holds no pointers that the collector would follow.
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b))/size), nil
}

// plainTypes remembers the verdict on each type: an error, or nil.
var plainTypes sync.Map

// plain returns an error unless any bytes are a valid value of type t.
func plain(t reflect.Type) error {
	verdict, ok := plainTypes.Load(t)
	if !ok {
		var err error
		if part := impure(t); part != nil {
			err = fail.Bad(fmt.Sprintf("slice of %v", t), "not every byte pattern is a valid %v", part)
		} else if t.Size() == 0 {
			err = fail.Bad(fmt.Sprintf("slice of %v", t), "the type has no size")
		}
		verdict, _ = plainTypes.LoadOrStore(t, &err)
	}
	return *verdict.(*error)
}

// impure returns a part of t that cannot be any bytes, or nil.
func impure(t reflect.Type) reflect.Type {
	switch k := t.Kind(); {
	case k == reflect.Array:
		return impure(t.Elem())
	case k == reflect.Struct:
		for i := range t.NumField() {
			if part := impure(t.Field(i).Type); part != nil {
				return part
			}
		}
		return nil
	case reflect.Int <= k && k <= reflect.Complex128:
		return nil
	}
	return t
}

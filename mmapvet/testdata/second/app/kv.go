// Package app is a handful of programs that use package store: a key-value
// server, a search index, a log reader, a code cache and a shared ring.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"data/second/store"

	"github.com/mmarinus/mmap"
)

const page = 4096

// SaveFrozen writes a trailer and freezes.
//
// Wrong: store.Freeze consumes rw; its WriteAt is ErrMoved, always.
func SaveFrozen(rw mmap.ReadWrite, trailer []byte) (mmap.Read, error) {
	ro, err := store.Freeze(rw)
	if err != nil {
		return mmap.Read{}, err
	}
	if _, err := rw.WriteAt(trailer, 0); err != nil { // want `moved: `
		log.Print("trailer: ", err)
	}
	return ro, nil
}

// SaveFrozenOrDirty writes a mark where it cannot freeze. Right: with an error
// rw still is the caller's mapping.
func SaveFrozenOrDirty(rw mmap.ReadWrite, mark []byte) (mmap.Read, error) {
	ro, err := store.Freeze(rw)
	if err != nil {
		_, werr := rw.WriteAt(mark, 0)
		return mmap.Read{}, errors.Join(err, werr, rw.Sync(0, rw.Len()))
	}
	return ro, nil
}

// AppendAll appends in a mapping that grows as needed. Right: Resize in a loop
// into the same variable.
func AppendAll(m mmap.ReadWrite, recs [][]byte) (mmap.ReadWrite, error) {
	off := 0
	for _, rec := range recs {
		for off+len(rec) > m.Len() {
			var err error
			if m, err = mmap.Resize(m, 2*m.Len()+page); err != nil {
				return m, err
			}
		}
		n, err := m.WriteAt(rec, int64(off))
		if err != nil {
			return m, err
		}
		off += n
	}
	return m, nil
}

// AppendOne appends, and says how far the mapping has moved.
//
// Wrong: base is a copy of the handle that Extend consumed, so its Addr is 0.
func AppendOne(m mmap.ReadWrite, rec []byte) (mmap.ReadWrite, error) {
	base := m
	off := m.Len()
	m, err := store.Extend(m, off+len(rec))
	if err != nil {
		return m, err
	}
	log.Printf("moved by %d", m.Addr()-base.Addr()) // want `moved: `
	_, err = m.WriteAt(rec, int64(off))
	return m, err
}

// Put writes a value, into a larger mapping if it must.
//
// Wrong: in the larger case m is consumed, and bigger is known in the branch
// only; WriteAt is ErrMoved then.
func Put(keep *store.Lifetime, m mmap.ReadWrite, val []byte) error {
	if len(val) > m.Len() {
		bigger, err := mmap.Resize(m, len(val))
		if err != nil {
			return err
		}
		keep.Keep(bigger)
	}
	_, err := m.WriteAt(val, 0) // want `moved: `
	return err
}

// PutRight is Put as it should be. Right.
func PutRight(keep *store.Lifetime, m mmap.ReadWrite, val []byte) error {
	if len(val) > m.Len() {
		bigger, err := mmap.Resize(m, len(val))
		if err != nil {
			return err
		}
		keep.Keep(bigger)
		m = bigger
	}
	_, err := m.WriteAt(val, 0)
	return err
}

// Checkpoint freezes for a while if asked to. Right: frozen tells the handles
// apart.
func Checkpoint(rw mmap.ReadWrite, freeze bool, stamp []byte) (io.ReaderAt, error) {
	var ro mmap.Read
	frozen := false
	if freeze {
		var err error
		if ro, err = mmap.Protect[mmap.Read](rw); err != nil {
			return nil, err
		}
		frozen = true
	}
	if !frozen {
		if _, err := rw.WriteAt(stamp, 0); err != nil {
			return nil, err
		}
		return rw, nil
	}
	log.Print("frozen: ", ro.Len())
	return ro, nil
}

// Carve divides a mapping at several places.
//
// Wrong: Split consumes m in the first turn, so that the second turn is
// ErrMoved, always.
func Carve(m mmap.ReadWrite, cuts []int) (parts []mmap.ReadWrite, err error) {
	for _, off := range cuts {
		left, right, err := mmap.Split(m, off) // want `moved: `
		if err != nil {
			return parts, err
		}
		parts = append(parts, left, right)
	}
	return parts, nil
}

// CarveRight hands out pages from the front. Right: m becomes the rest.
func CarveRight(m mmap.ReadWrite, n int) (pages []mmap.ReadWrite, rest mmap.ReadWrite, err error) {
	for range n {
		first, rest, err := mmap.Split(m, page)
		if err != nil {
			return pages, m, err
		}
		pages, m = append(pages, first), rest
	}
	return pages, m, nil
}

// Swap makes the front buffer readable and takes the back one. Right: after the
// exchange front is another mapping than the one that Protect has consumed.
func Swap(front, back mmap.ReadWrite, p []byte) (shown mmap.Read, next mmap.ReadWrite, err error) {
	shown, err = mmap.Protect[mmap.Read](front)
	if err != nil {
		return shown, front, err
	}
	front, back = back, front
	if _, err := front.WriteAt(p, 0); err != nil {
		log.Print(err)
	}
	back.Close() // an old handle: does no harm
	return shown, front, nil
}

// A Server has a mapping that it replaces now and then.
type Server struct {
	data mmap.ReadWrite
	gen  int
}

// Replace grows the data. Right: Resize gives the field its handle also when it
// fails, and what is read after it is the field.
func (s *Server) Replace(n int) error {
	old := s.data
	var err error
	if s.data, err = mmap.Resize(old, n); err != nil {
		return fmt.Errorf("replace %v: %w", old, err)
	}
	s.gen++
	return s.data.Sync(0, s.data.Len())
}

// Reload maps new contents over the old ones, and says so.
//
// Wrong: the deferred function runs when Over has consumed old: unless Over
// failed, its Len is 0.
func (s *Server) Reload(f *os.File) error {
	old := s.data
	defer func() { log.Print("reloaded bytes: ", old.Len()) }() // want `moved: `
	fresh, err := mmap.Over[mmap.ReadWrite](old, mmap.File(f, 0, old.Len()))
	if err != nil {
		return err
	}
	s.data = fresh
	return nil
}

// GrowTo grows through a literal. Right: the literal gives m its new value.
func GrowTo(m mmap.ReadWrite, sizes ...int) (mmap.ReadWrite, error) {
	grow := func(n int) (err error) {
		m, err = mmap.Resize(m, n)
		return err
	}
	for _, n := range sizes {
		if err := grow(n); err != nil {
			return m, err
		}
	}
	if err := store.ExtendInPlace(&m, m.Len()+1); err != nil {
		return m, err
	}
	_, err := m.WriteAt([]byte("end"), int64(m.Len()-3))
	return m, err
}

// DrainAndCount freezes a mapping in use.
//
// Wrong: the literal that Drain runs consumes rw, so Len is 0 after it.
func DrainAndCount(ctx context.Context, rw mmap.ReadWrite) (ro mmap.Read, n int, err error) {
	err = rw.Drain(ctx, func() (err error) {
		ro, err = mmap.Protect[mmap.Read](rw)
		return err
	})
	if err != nil {
		return ro, 0, err
	}
	n = rw.Len() // want `moved: `
	return ro, n, nil
}

// Hide gives up what is known of a mapping.
//
// Wrong: Untyped is another name of the same handle, and Forget consumes it
// with the other one: Sync is ErrMoved.
func Hide(rw mmap.ReadWrite) (mmap.Unknown, error) {
	raw := rw.Untyped()
	u, err := mmap.Forget(rw)
	if err != nil {
		return u, err
	}
	if err := raw.Sync(0, page); err != nil { // want `moved: `
		log.Print("sync: ", err)
	}
	return u, nil
}

// Export gives the pages to somebody else, a C library.
//
// Wrong: after Release the handle answers 0 for its length.
func Export(m mmap.ReadWrite, give func(addr uintptr, n int)) error {
	addr, _, err := m.Release()
	if err != nil {
		return err
	}
	give(addr, m.Len()) // want `moved: `
	return nil
}

// ExportRight is Export as it should be. Right.
func ExportRight(m mmap.ReadWrite, give func(addr uintptr, n int)) error {
	want := m.Len()
	addr, n, err := m.Release()
	if err != nil {
		return fmt.Errorf("export %d bytes: %w", m.Len(), err)
	}
	give(addr, min(n, want))
	return nil
}

// Rejoin makes one of two again.
//
// Wrong: Join has consumed both elements; Addr of one is 0.
func Rejoin(m mmap.ReadWrite) (mmap.ReadWrite, error) {
	var half [2]mmap.ReadWrite
	var err error
	half[0], half[1], err = store.Halves(m)
	if err != nil {
		return m, err
	}
	whole, err := mmap.Join(half[0], half[1])
	if err != nil {
		half[1].Close()
		return half[0], err
	}
	log.Printf("joined at %#x", half[1].Addr()) // want `moved: `
	return whole, nil
}

// StillMine tells whether somebody else has taken the mapping. Right: that the
// handle was moved is what is asked.
func StillMine(keep *store.Lifetime, rw mmap.ReadWrite) (bool, error) {
	ro, err := store.Freeze(rw)
	if err != nil {
		return true, err
	}
	keep.Keep(ro)
	_, err = rw.ReadAt(make([]byte, 1), 0)
	if errors.Is(err, mmap.ErrMoved) {
		return false, nil
	}
	return true, err
}

// Generic use.

// TrimTo cuts to n bytes and returns what is cut off.
//
// Wrong: m was consumed by Extend, whatever its type: m.Len() is 0.
func TrimTo[M mmap.Known](m M, n int) (M, int, error) {
	before := m.Len()
	out, err := store.Extend(m, n)
	if err != nil {
		return out, 0, err
	}
	return out, before - m.Len(), nil // want `moved: `
}

// TrimToRight is TrimTo as it should be. Right.
func TrimToRight[M mmap.Known](m M, n int) (M, int, error) {
	before := m.Len()
	m, err := store.Extend(m, n)
	if err != nil {
		return m, 0, err
	}
	return m, before - m.Len(), nil
}

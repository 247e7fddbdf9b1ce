package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"log"
	"slices"
	"sync"

	"data/second/store"

	"github.com/mmarinus/mmap"
)

// SealIfDone freezes a buffer that ends with a mark.
//
// Wrong: the transition is called within the view of the same mapping, through
// a function of another package: ErrBusy, always.
func SealIfDone(rw mmap.ReadWrite, keep *store.Lifetime) error {
	return rw.View(func(b []byte) error {
		if !bytes.HasSuffix(b, []byte("END\n")) {
			return nil
		}
		ro, err := store.Freeze(rw) // want `busy: `
		if err != nil {
			return err
		}
		keep.Keep(ro)
		return nil
	})
}

// SealWhenDone looks first and freezes then. Right: the view is over.
func SealWhenDone(rw mmap.ReadWrite, keep *store.Lifetime) error {
	done := false
	err := rw.View(func(b []byte) error {
		done = bytes.HasSuffix(b, []byte("END\n"))
		return nil
	})
	if err != nil || !done {
		return err
	}
	ro, err := store.Freeze(rw)
	if err != nil {
		return err
	}
	keep.Keep(ro)
	return nil
}

// Encode writes as long as there is room, and makes room. Right: Grow within a
// view is legal, and so is Close.
func Encode(m mmap.ReadWrite, src []byte) error {
	return m.Update(func(b []byte) error {
		n := copy(b, src)
		if n < len(src) {
			if err := mmap.Grow(m, len(src)); err != nil {
				return errors.Join(err, m.Close())
			}
			_, err := m.WriteAt(src[n:], int64(n))
			return err
		}
		return nil
	})
}

// Upgrade takes a pin for a checksum and makes the mapping writable.
//
// Wrong: the pin is held until the function returns, so Protect is ErrBusy.
func Upgrade(m mmap.Read, want uint32) (mmap.ReadWrite, error) {
	pin, err := m.Pin()
	if err != nil {
		return mmap.ReadWrite{}, err
	}
	defer pin.Unpin()
	var sum uint32
	err = mmap.Guard(func() error { sum = crc32.ChecksumIEEE(pin.Bytes()); return nil }, pin)
	if err != nil || sum != want {
		return mmap.ReadWrite{}, errors.Join(err, fmt.Errorf("checksum %#x", sum))
	}
	return mmap.Protect[mmap.ReadWrite](m) // want `busy: `
}

// UpgradeRight is Upgrade as it should be. Right: Unpin comes before Protect.
func UpgradeRight(m mmap.Read, want uint32) (mmap.ReadWrite, error) {
	pin, err := m.Pin()
	if err != nil {
		return mmap.ReadWrite{}, err
	}
	var sum uint32
	err = mmap.Guard(func() error { sum = crc32.ChecksumIEEE(pin.Bytes()); return nil }, pin)
	if err = errors.Join(err, pin.Unpin()); err != nil {
		return mmap.ReadWrite{}, err
	}
	if sum != want {
		return mmap.ReadWrite{}, fmt.Errorf("checksum %#x", sum)
	}
	return store.Thaw(m)
}

// CopyInto resizes one mapping while it looks at another. Right: these are two
// mappings.
func CopyInto(dst mmap.ReadWrite, src mmap.Read) (mmap.ReadWrite, error) {
	err := src.View(func(b []byte) (err error) {
		if dst, err = mmap.Resize(dst, len(b)); err != nil {
			return err
		}
		return dst.Update(func(d []byte) error {
			copy(d, b)
			return nil
		})
	})
	return dst, err
}

// TryShrink shrinks if nobody is in the way. Right: that it is busy, on purpose
// while a pin is held, is what is asked.
func TryShrink(m mmap.ReadWrite, n int) (_ mmap.ReadWrite, busy bool, err error) {
	pin, err := m.Pin()
	if err != nil {
		return m, false, err
	}
	_, err = mmap.Resize(m, n)
	pin.Unpin()
	if !errors.Is(err, mmap.ErrBusy) {
		return m, false, fmt.Errorf("resized under a pin: %v", err)
	}
	m, err = mmap.Resize(m, n)
	return m, errors.Is(err, mmap.ErrBusy), err
}

// Relocate moves the ring's memory to where the device wants it.
//
// Wrong: the pin of this function is held on the path that moves, for Unpin
// comes after Move.
func Relocate(m mmap.ReadWrite, addr uintptr) (mmap.ReadWrite, error) {
	pin, err := m.Pin()
	if err != nil {
		return m, err
	}
	dirty := len(bytes.TrimLeft(pin.Bytes(), "\x00")) > 0
	if !dirty {
		pin.Unpin()
		return m, nil
	}
	m, err = mmap.Move(m, addr) // want `busy: `
	pin.Unpin()
	return m, err
}

// ParallelSum sums pieces at once. Right: the goroutines are waited for in the
// view, and the transition comes after it.
func ParallelSum(m mmap.ReadWrite, n int) (mmap.Read, uint32, error) {
	var mu sync.Mutex
	var total uint32
	err := m.View(func(b []byte) error {
		var wg sync.WaitGroup
		for part := range slices.Chunk(b, n) {
			wg.Add(1)
			go func() {
				defer wg.Done()
				sum := crc32.ChecksumIEEE(part)
				mu.Lock()
				defer mu.Unlock()
				total ^= sum
			}()
		}
		wg.Wait()
		return nil
	})
	if err != nil {
		return mmap.Read{}, 0, err
	}
	ro, err := mmap.Protect[mmap.Read](m)
	return ro, total, err
}

// SplitHot divides a mapping at its first zero page.
//
// Wrong: a copy of the handle is the same mapping, and the literal runs within
// its view: Split is ErrBusy.
func SplitHot(m mmap.Read) (hot, cold mmap.Read, err error) {
	self := m
	cut := func(n int) (err error) {
		hot, cold, err = mmap.Split(self, n) // want `busy: `
		return err
	}
	err = m.View(func(b []byte) error {
		for off := 0; off+page <= len(b); off += page {
			if len(bytes.Trim(b[off:off+page], "\x00")) == 0 {
				return cut(off)
			}
		}
		return nil
	})
	return hot, cold, err
}

// PunchZero drops what is zero. Right: what discards runs beside views.
func PunchZero(m mmap.ReadWrite) (freed int, err error) {
	err = m.View(func(b []byte) error {
		for off := 0; off+page <= len(b); off += page {
			if len(bytes.Trim(b[off:off+page], "\x00")) > 0 {
				continue
			}
			if err := m.Discard(off, page); err != nil {
				return err
			}
			freed += page
		}
		return nil
	})
	return freed, err
}

// FinishTxn ends a transaction, then shrinks the database. Right: the pin is
// another function's, and ended before.
func FinishTxn(ctx context.Context, db *store.DB) error {
	t, err := db.Begin()
	if err != nil {
		return err
	}
	log.Printf("%x", store.Fingerprint(t.Bytes()))
	if err := t.End(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return db.Compact()
}

// VacuumWhileReading compacts a database from within its own lender.
//
// Wrong: the body of View runs within the view of the mapping that Compact
// resizes: ErrBusy, always.
func VacuumWhileReading(db *store.DB, limit int) error {
	return db.View(func(tx []byte) error {
		if len(tx) > limit {
			return db.Compact()
		}
		return nil
	})
}

// ReleaseCold drops a mapping of which nothing is in memory.
//
// Wrong: Release is a transition like others, and the mapping is in a view of
// its own, even if the range is empty.
func ReleaseCold(m mmap.Read) (addr uintptr, err error) {
	err = m.ViewRange(0, 0, func([]byte) error {
		n, err := m.Resident(0, m.Len())
		if err != nil || n > 0 {
			return err
		}
		addr, _, err = m.Release() // want `busy: `
		return err
	})
	return addr, err
}

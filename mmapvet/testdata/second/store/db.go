// Package store is the mapping layer of a small database: a file of records,
// segments, wrappers around the transitions, and things that keep bytes.
package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"iter"
	"os"

	"github.com/mmarinus/mmap"
)

const headerSize = 16

var (
	errBadMagic = errors.New("store: bad magic")
	errNotFound = errors.New("store: not found")
)

// A DB is a file of length-prefixed records, mapped with room to grow.
type DB struct {
	m   mmap.ReadWrite
	end int // bytes in use
}

// OpenDB maps the file at path. Right: every path after Map closes it or hands
// it to the DB.
func OpenDB(path string) (*DB, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil {
		return nil, err
	} else if fi.Size() < 4096 {
		if err := f.Truncate(4096); err != nil {
			return nil, err
		}
	}
	m, err := mmap.Map[mmap.ReadWrite](mmap.Whole(f).Shared().Reserve(1 << 30))
	if err != nil {
		return nil, err
	}
	end := headerSize
	err = m.ViewRange(0, 8, func(b []byte) error {
		end = max(end, int(binary.LittleEndian.Uint64(b)))
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	if end > m.Len() {
		m.Close()
		return nil, errBadMagic
	}
	return &DB{m: m, end: end}, nil
}

// Close ends the DB.
func (db *DB) Close() error { return db.m.Close() }

// View lends all records to fn. Right: a lender keeps nothing itself.
func (db *DB) View(fn func(tx []byte) error) error {
	return db.m.View(func(b []byte) error {
		return fn(b[headerSize:db.end])
	})
}

// Update lends the records to be written.
func (db *DB) Update(fn func(tx []byte) error) error {
	return db.m.UpdateRange(headerSize, db.end-headerSize, fn)
}

// next cuts a record off.
func next(b []byte) (rec, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := int(binary.LittleEndian.Uint32(b))
	if n > len(b)-4 {
		return nil, nil, false
	}
	return b[4 : 4+n : 4+n], b[4+n:], true
}

// Records lends one record after the other to the body of the loop. Right: the
// loop runs within the view.
func (db *DB) Records(failed *error) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		*failed = db.View(func(tx []byte) error {
			for rec, rest, ok := next(tx); ok; rec, rest, ok = next(rest) {
				if !yield(rec) {
					break
				}
			}
			return nil
		})
	}
}

// Get returns a copy of the first record with the prefix. Right.
func (db *DB) Get(prefix []byte) ([]byte, error) {
	var found []byte
	err := db.View(func(tx []byte) error {
		for rec, rest, ok := next(tx); ok; rec, rest, ok = next(rest) {
			if bytes.HasPrefix(rec, prefix) {
				found = append(found[:0], rec...)
				return nil
			}
		}
		return errNotFound
	})
	return found, err
}

// Peek is Get that saves the copy.
//
// Wrong: found leads into the mapping, and is returned after the view; the
// caller reads unmapped or other memory after Compact or Close.
func (db *DB) Peek(prefix []byte) ([]byte, error) {
	var found []byte
	err := db.View(func(tx []byte) error {
		for rec, rest, ok := next(tx); ok; rec, rest, ok = next(rest) {
			if bytes.HasPrefix(rec, prefix) {
				found = rec[len(prefix):] // want `escape: `
				return nil
			}
		}
		return errNotFound
	})
	return found, err
}

// Longest returns the length of the longest record. Right: longest is declared
// around the view, but nobody reads the bytes outside of it.
func (db *DB) Longest() (int, error) {
	var longest []byte
	n := 0
	err := db.View(func(tx []byte) error {
		for rec, rest, ok := next(tx); ok; rec, rest, ok = next(rest) {
			if len(rec) > len(longest) {
				longest = rec
			}
		}
		n = len(longest)
		return nil
	})
	return n, err
}

// Compact shrinks the mapping to what is in use. Right: on failure Resize
// returns the old handle.
func (db *DB) Compact() (err error) {
	db.m, err = mmap.Resize(db.m, (db.end+4095)&^4095)
	return err
}

// Grow makes room in place. Right: Grow consumes nothing.
func (db *DB) Grow(n int) error {
	if err := mmap.Grow(db.m, n); err != nil {
		return err
	}
	return db.m.Prefault(0, db.m.Len())
}

// CompactIfSparse looks and compacts in one go.
//
// Wrong: Resize within a view of the same mapping is ErrBusy, always.
func (db *DB) CompactIfSparse() error {
	return db.m.View(func(b []byte) error {
		if bytes.Count(b, []byte{0}) < len(b)/2 {
			return nil
		}
		m, err := mmap.Resize(db.m, db.end) // want `busy: `
		if err != nil {
			return err
		}
		db.m = m
		return nil
	})
}

// A Txn is a pinned state of a DB.
type Txn struct {
	pin *mmap.Pin
	end int
}

// Begin pins. Right: the pin lives in the Txn.
func (db *DB) Begin() (*Txn, error) {
	pin, err := db.m.Pin()
	if err != nil {
		return nil, err
	}
	return &Txn{pin: pin, end: db.end}, nil
}

// Bytes are valid until End.
func (t *Txn) Bytes() []byte { return t.pin.Bytes()[headerSize:t.end] }

// End unpins.
func (t *Txn) End() error {
	p := t.pin
	t.pin = nil
	return p.Unpin()
}

// PinRange returns a pin and the bytes of a range. Right: on the bad path the
// pin is ended, on the good one it is the caller's.
func (db *DB) PinRange(off, n int) (*mmap.Pin, []byte, error) {
	pin, err := db.m.Pin()
	if err != nil {
		return nil, nil, err
	}
	b := pin.Bytes()
	if off < 0 || n < 0 || off+n > len(b) {
		pin.Unpin()
		return nil, nil, os.ErrInvalid
	}
	return pin, b[off : off+n], nil
}

// Checksum of the records.
//
// Wrong: with an empty DB the pin is never ended, and from then on every
// Compact is ErrBusy and Close unmaps nothing.
func (db *DB) Checksum() (sum uint32, err error) {
	pin, err := db.m.Pin() // want `pins: `
	if err != nil {
		return 0, err
	}
	if db.end == headerSize {
		return 0, errNotFound
	}
	err = mmap.Guard(func() error {
		sum = crc32.ChecksumIEEE(pin.Bytes()[headerSize:db.end])
		return nil
	}, pin)
	return sum, errors.Join(err, pin.Unpin())
}

// Magic returns the first bytes of the file.
//
// Wrong: the deferred Unpin runs before the caller sees the bytes.
func (db *DB) Magic() ([]byte, error) {
	pin, err := db.m.Pin()
	if err != nil {
		return nil, err
	}
	defer pin.Unpin()
	return pin.Bytes()[8:12], nil // want `pins: `
}

// MagicString is Magic as it should be. Right: the conversion copies before
// the pin ends.
func (db *DB) MagicString() (string, error) {
	pin, err := db.m.Pin()
	if err != nil {
		return "", err
	}
	defer pin.Unpin()
	return string(pin.Bytes()[8:12]), nil
}

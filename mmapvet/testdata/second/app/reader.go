package app

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"sync"
	"unsafe"

	"data/second/store"

	"github.com/mmarinus/mmap"
)

// SumRange pins a range of a database and sums it.
//
// Wrong: store.PinRange makes the pin; with nothing to sum it stays, and the
// database cannot be compacted any more.
func SumRange(db *store.DB, off, n int) (sum uint32, err error) {
	pin, b, err := db.PinRange(off, n) // want `pins: `
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, nil
	}
	err = mmap.Guard(func() error { sum = crc32.ChecksumIEEE(b); return nil }, pin)
	pin.Unpin()
	return sum, err
}

// SumRangeRight is SumRange as it should be. Right: len needs no memory.
func SumRangeRight(db *store.DB, off, n int) (sum uint32, size int, err error) {
	pin, b, err := db.PinRange(off, n)
	if err != nil {
		return 0, 0, err
	}
	err = mmap.Guard(func() error { sum = crc32.ChecksumIEEE(b); return nil }, pin)
	if uerr := pin.Unpin(); uerr != nil {
		return 0, 0, errors.Join(err, uerr)
	}
	return sum, len(b), err
}

// Version16 reads a number.
//
// Wrong: the bytes are read after Unpin; if the mapping was closed meanwhile,
// that ends the program.
func Version16(m mmap.Read) (uint16, error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	b := pin.Bytes()
	pin.Unpin()
	if len(b) < 2 {
		return 0, io.ErrUnexpectedEOF
	}
	return binary.LittleEndian.Uint16(b), nil // want `pins: `
}

// Version16Right is Version16 as it should be. Right: v is a number.
func Version16Right(m mmap.Read) (v uint16, err error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	err = mmap.Guard(func() error {
		if b := pin.Bytes(); len(b) >= 2 {
			v = binary.LittleEndian.Uint16(b)
			return nil
		}
		return io.ErrUnexpectedEOF
	}, pin)
	pin.Unpin()
	return v, err
}

// Newest finds the newest of several mappings.
//
// Wrong: with a mapping that is too short, its pin is left.
func Newest(all []mmap.Read) (newest uint64, err error) {
	for _, m := range all {
		pin, err := m.Pin() // want `pins: `
		if err != nil {
			return 0, err
		}
		b := pin.Bytes()
		if len(b) < 8 {
			return newest, io.ErrUnexpectedEOF
		}
		err = mmap.Guard(func() error {
			newest = max(newest, binary.LittleEndian.Uint64(b))
			return nil
		}, pin)
		if err = errors.Join(err, pin.Unpin()); err != nil {
			return 0, err
		}
	}
	return newest, nil
}

// Compare compares two mappings. Right: Guard skips a nil pin, and Unpin of one
// does nothing.
func Compare(a, b mmap.Read) (equal bool, err error) {
	p, _ := a.Pin()
	defer p.Unpin()
	q, _ := b.Pin()
	defer q.Unpin()
	err = mmap.Guard(func() error {
		equal = bytes.Equal(p.Bytes(), q.Bytes())
		return nil
	}, p, q)
	return equal, err
}

// PinAll pins several mappings, all or none. Right: the slice has the pins, and
// a failure ends what is in it.
func PinAll(all []mmap.Read) (pins []*mmap.Pin, err error) {
	for _, m := range all {
		p, err := m.Pin()
		if err != nil {
			for _, p := range pins {
				p.Unpin()
			}
			return nil, err
		}
		pins = append(pins, p)
	}
	return pins, nil
}

// HoldUntil pins for as long as ctx lasts. Right: the literal ends the pin.
func HoldUntil(ctx context.Context, m mmap.Read) ([]byte, error) {
	p, err := m.Pin()
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { p.Unpin() })
	return p.Bytes(), nil
}

// A Cursor walks over a pinned mapping.
type Cursor struct {
	pin *mmap.Pin
	b   []byte
}

// NewCursor makes a cursor. Right: the pin and its bytes live together.
func NewCursor(m mmap.Read) (c Cursor, err error) {
	c.pin, err = m.Pin()
	if err != nil {
		return Cursor{}, err
	}
	c.b = c.pin.Bytes()
	return c, nil
}

// Last ends the cursor and returns what it was at.
//
// Wrong: the field's bytes end with the pin that ends here.
func Last(m mmap.Read) (byte, error) {
	c, err := NewCursor(m)
	if err != nil {
		return 0, err
	}
	c.pin.Unpin()
	return c.b[len(c.b)-1], nil
}

// Signature returns the last bytes of a file.
//
// Wrong: memory of UnsafeBytes goes with Close, and it was no copy.
func Signature(path string) (string, error) {
	m, err := store.Open(path)
	if err != nil {
		return "", err
	}
	b := m.UnsafeBytes()
	if err := m.Close(); err != nil {
		return "", err
	}
	if len(b) < 8 {
		return "", io.ErrUnexpectedEOF
	}
	return string(b[len(b)-8:]), nil // want `unsafebytes: `
}

// SignatureRight is Signature as it should be. Right: string copies before
// Close.
func SignatureRight(path string) (string, error) {
	m, err := store.Open(path)
	if err != nil {
		return "", err
	}
	defer m.Close()
	b := m.UnsafeBytes()
	if len(b) < 8 {
		return "", io.ErrUnexpectedEOF
	}
	return string(b[len(b)-8:]), nil
}

// ReadString is a string without a copy.
//
// Wrong: unsafe.String copies nothing, and the deferred Close unmaps it before
// the caller has it.
func ReadString(path string) (s string, err error) {
	m, err := mmap.Map[mmap.Read](mmap.Path(path))
	if err != nil {
		return "", err
	}
	defer m.Close()
	b := store.Bytes(m)
	if len(b) == 0 {
		return "", nil
	}
	return unsafe.String(&b[0], len(b)), nil // want `unsafebytes: `
}

// Halve gives the second half up.
//
// Wrong: Resize unmaps the half in which the last byte of b lies.
func Halve(m mmap.ReadWrite) (_ mmap.ReadWrite, last byte, err error) {
	b := m.UnsafeBytes()
	if len(b) < 2*page {
		return m, 0, os.ErrInvalid
	}
	m, err = mmap.Resize(m, len(b)/2)
	if err != nil {
		return m, 0, err
	}
	return m, b[len(b)-1], nil // want `unsafebytes: `
}

// HalveRight is Halve as it should be. Right: b is asked for anew, and the old
// byte was copied.
func HalveRight(m mmap.ReadWrite) (_ mmap.ReadWrite, last, mid byte, err error) {
	b := m.UnsafeBytes()
	if len(b) < 2*page {
		return m, 0, 0, os.ErrInvalid
	}
	last = b[len(b)-1]
	m, err = mmap.Resize(m, len(b)/2)
	if err != nil {
		return m, last, b[len(b)/2-1], err
	}
	b = m.UnsafeBytes()
	return m, last, b[len(b)-1], nil
}

// Lock writes through the slice and freezes. Right: Protect leaves the pages
// where they are, and b can be read.
func Lock(rw mmap.ReadWrite) (ro mmap.Read, sum uint32, err error) {
	b := rw.UnsafeBytes()
	copy(b, "locked")
	ro, err = store.Freeze(rw)
	if err != nil {
		return ro, 0, err
	}
	return ro, crc32.ChecksumIEEE(b), nil
}

// Reserve grows in place. Right: Grow does not move, and the old slice is good.
func Reserve(m mmap.ReadWrite, n int) (byte, error) {
	b := m.UnsafeBytes()
	if err := mmap.Grow(m, n); err != nil {
		return 0, err
	}
	return b[0], nil
}

// Rebase moves the mapping.
//
// Wrong: Move takes the memory away from where b points to.
func Rebase(m mmap.ReadWrite, addr uintptr) (mmap.ReadWrite, error) {
	b := m.UnsafeBytes()
	m, err := mmap.Move(m, addr)
	if err != nil {
		return m, err
	}
	binary.LittleEndian.PutUint64(b, uint64(addr)) // want `unsafebytes: `
	return m, nil
}

// CloseHeld closes what a pin holds. Right: the pin keeps the memory, whichever
// way the slice was made, until Unpin.
func CloseHeld(path string) (sum uint32, err error) {
	m, err := store.Open(path)
	if err != nil {
		return 0, err
	}
	pin, err := m.Pin()
	if err != nil {
		m.Close()
		return 0, err
	}
	defer pin.Unpin()
	b := m.UnsafeBytes()
	m.Close()
	err = mmap.GuardAll(func() error { sum = crc32.ChecksumIEEE(b); return nil })
	return sum, err
}

// A Table is an index of which the names are strings in a mapping.
type Table struct {
	m     mmap.Read
	names map[string]int
}

// LoadTable reads names.
//
// Wrong: the deferred Close is for the bad path only, but ok is never set; the
// strings of the table that is returned are unmapped.
func LoadTable(path string) (*Table, error) {
	m, err := store.Open(path)
	if err != nil {
		return nil, err
	}
	ok := false
	defer func() {
		if !ok {
			m.Close()
		}
	}()
	data := m.UnsafeBytes()
	if len(data) == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	line, _, _ := bytes.Cut(data, []byte{'\n'})
	return &Table{names: map[string]int{unsafe.String(&data[0], len(line)): 1}}, nil // want `unsafebytes: `
}

// LoadTableRight is LoadTable as it should be. Right: ok is set, and the Table
// owns the mapping.
func LoadTableRight(path string) (*Table, error) {
	m, err := store.Open(path)
	if err != nil {
		return nil, err
	}
	ok := false
	defer func() {
		if !ok {
			m.Close()
		}
	}()
	data := m.UnsafeBytes()
	if len(data) == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	line, _, _ := bytes.Cut(data, []byte{'\n'})
	t := &Table{m: m, names: map[string]int{unsafe.String(&data[0], len(line)): 1}}
	ok = true
	return t, nil
}

// Blobs uses bytes of another package's owner, then closes it. Right: n was
// counted before.
func Blobs(paths []string) (n int, err error) {
	var mu sync.Mutex
	for _, path := range paths {
		blob, err := store.OpenBlob(path)
		if err != nil {
			return n, err
		}
		mu.Lock()
		n += bytes.Count(blob.Data, []byte{0})
		mu.Unlock()
		if err := blob.Close(); err != nil {
			return n, err
		}
	}
	return n, nil
}

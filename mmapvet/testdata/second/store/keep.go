package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"time"
	"unsafe"

	"github.com/mmarinus/mmap"
)

// An LRU keeps values, in a way that is of no interest here.
type LRU struct {
	mu sync.Mutex
	m  map[string][]byte
}

// Put keeps val itself.
func (c *LRU) Put(key string, val []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = map[string][]byte{}
	}
	c.m[key] = val
}

// PutCopy keeps a copy of val.
func (c *LRU) PutCopy(key string, val []byte) {
	c.Put(key, bytes.Clone(val))
}

// Load is Put as what a view calls.
func (c *LRU) Load(val []byte) error {
	c.Put("", val)
	return nil
}

// LoadCopy is PutCopy as what a view calls.
func (c *LRU) LoadCopy(val []byte) error {
	c.PutCopy("", val)
	return nil
}

// An Entry is a key and a value within somebody's bytes.
type Entry struct {
	Key, Value []byte
	Version    uint32
}

// ParseEntry cuts an entry; it leads to b.
func ParseEntry(b []byte) (Entry, error) {
	if len(b) < 8 {
		return Entry{}, fmt.Errorf("store: entry of %d bytes: %q", len(b), b)
	}
	n := int(binary.LittleEndian.Uint32(b[4:]))
	if n > len(b)-8 {
		return Entry{}, errBadMagic
	}
	return Entry{Key: b[8 : 8+n], Value: b[8+n:], Version: binary.LittleEndian.Uint32(b)}, nil
}

// Clone returns an entry of its own bytes.
func (e Entry) Clone() Entry {
	e.Key, e.Value = bytes.Clone(e.Key), bytes.Clone(e.Value)
	return e
}

// A Header is a copy of what a file begins with.
type Header struct {
	Magic   [4]byte
	Version uint32
	Name    string
}

// ParseHeader leads nowhere: arrays, numbers and strings are copies.
func ParseHeader(b []byte) (h Header, err error) {
	if len(b) < 16 {
		return h, errBadMagic
	}
	h.Magic = [4]byte(b)
	h.Version = binary.LittleEndian.Uint32(b[4:])
	h.Name = string(bytes.TrimRight(b[8:16], "\x00"))
	return h, nil
}

// Fingerprint keeps nothing.
func Fingerprint(b []byte) [32]byte { return sha256.Sum256(b) }

// A BadRecord tells where a record is bad.
type BadRecord struct {
	Near []byte
	Off  int
}

func (e *BadRecord) Error() string {
	return fmt.Sprintf("store: bad record at %d near %q", e.Off, e.Near)
}

// Verify looks at each record of a mapping.
//
// Wrong: the error leads into the mapping, and its Error method reads there
// when the caller prints it, after the view.
func Verify(m mmap.Read) error {
	return m.View(func(b []byte) error {
		for off := 0; off < len(b); {
			rec, _, ok := next(b[off:])
			if !ok {
				return &BadRecord{Near: b[off:min(off+16, len(b))], Off: off} // want `escape: `
			}
			off += 4 + len(rec)
		}
		return nil
	})
}

// VerifyRight is Verify as it should be. Right: the error has a copy, and %q
// of Errorf makes one.
func VerifyRight(m mmap.Read) error {
	return m.View(func(b []byte) error {
		for off := 0; off < len(b); {
			rec, _, ok := next(b[off:])
			if !ok {
				bad := &BadRecord{Near: append([]byte(nil), b[off:min(off+16, len(b))]...), Off: off}
				return fmt.Errorf("verify: %w, first byte %q", bad, b[:1])
			}
			off += 4 + len(rec)
		}
		return nil
	})
}

// An Interner makes one string of equal ones.
type Interner struct {
	mu   sync.Mutex
	seen map[string]int
}

// NewInterner makes one.
func NewInterner() *Interner { return &Interner{seen: map[string]int{}} }

// Count counts words. Right: the string that lies in the mapping is only looked
// up; what is stored is a copy.
func (in *Interner) Count(m mmap.Read) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return m.View(func(b []byte) error {
		for w := range bytes.FieldsSeq(b) {
			key := unsafe.String(unsafe.SliceData(w), len(w))
			if n, ok := in.seen[key]; ok {
				in.seen[string(w)] = n + 1
				continue
			}
			in.seen[string(w)] = 1
		}
		return nil
	})
}

// CountFast is Count without a copy.
//
// Wrong: the keys of the map are strings in the mapping.
func (in *Interner) CountFast(m mmap.Read) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return m.View(func(b []byte) error {
		for w := range bytes.FieldsSeq(b) {
			in.seen[unsafe.String(unsafe.SliceData(w), len(w))]++ // want `escape: `
		}
		return nil
	})
}

// lastHeader is what Status shows.
var lastHeader []byte

// Status reads the header of a mapping.
//
// Wrong: a package variable outlives every view.
func Status(m mmap.Read) error {
	return m.ViewRange(0, headerSize, func(b []byte) error {
		lastHeader = b[:8] // want `escape: `
		return nil
	})
}

// LastHeader returns what Status has seen.
func LastHeader() string { return fmt.Sprintf("%x", lastHeader) }

// ExpireLater drops a key after a while.
//
// Wrong: the timer's function runs long after the view, and compares with
// memory that may be gone.
func (c *LRU) ExpireLater(m mmap.Read, off, n int, d time.Duration) error {
	return m.ViewRange(off, n, func(key []byte) error {
		time.AfterFunc(d, func() { c.drop(string(key)) }) // want `escape: `
		return nil
	})
}

// ExpireLaterRight is ExpireLater as it should be. Right: the string is made
// within the view.
func (c *LRU) ExpireLaterRight(m mmap.Read, off, n int, d time.Duration) error {
	return m.ViewRange(off, n, func(b []byte) error {
		key := string(b)
		time.AfterFunc(d, func() { c.drop(key) })
		return nil
	})
}

func (c *LRU) drop(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.m, key)
}

// Bytes is the whole memory of a mapping that the caller keeps open. Right.
func Bytes(m mmap.Read) []byte { return m.UnsafeBytes() }

// Contents is os.ReadFile, but fast.
//
// Wrong: the deferred Close unmaps what is returned.
func Contents(path string) ([]byte, error) {
	m, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return m.UnsafeBytes(), nil // want `unsafebytes: `
}

// ContentsRight is Contents as it should be. Right: Clone copies before Close.
func ContentsRight(path string) ([]byte, error) {
	m, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	var out []byte
	err = mmap.GuardAll(func() error {
		out = bytes.Clone(m.UnsafeBytes())
		return nil
	})
	return out, err
}

// A Blob is a mapping together with its bytes.
type Blob struct {
	m    mmap.Read
	Data []byte
}

// OpenBlob keeps both. Right: the Blob owns the mapping, and Close is for its
// bad path only.
func OpenBlob(path string) (*Blob, error) {
	m, err := Open(path)
	if err != nil {
		return nil, err
	}
	b := m.UnsafeBytes()
	if len(b) < headerSize {
		m.Close()
		return nil, errBadMagic
	}
	return &Blob{m: m, Data: b[headerSize:]}, nil
}

// Close ends the Blob and what its Data was.
func (b *Blob) Close() error {
	b.Data = nil
	return b.m.Close()
}

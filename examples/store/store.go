// Command store shows a database file: keys and values, appended, and on Linux mapped.
package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Behind the header are records: checksum (4 bytes), lengths of key and value (8 each), key, value.
const header, head = "mmap store 1\n\x00\x00\x00", 20

// A Store is for any number of goroutines; those that read wait for nobody.
type Store struct {
	name   string
	writer sync.Mutex
	now    atomic.Pointer[file] // Compact replaces it
}

type file struct {
	pages          // of mapped.go or other.go
	index sync.Map // from a key to the offset and length of its value, a [2]int
	end   int      // of the records
}

// Open opens a store or makes it. What follows the last whole record is cleared: a crash can leave such
// a record torn if Sync had not returned since its Put.
func Open(name string) (*Store, error) {
	s, f := &Store{name: name}, new(file)
	s.now.Store(f)
	err := f.open(name)
	if err == nil && f.Len() == 0 {
		err = f.write([]byte(header), 0)
	}
	if err == nil {
		err = f.ViewRange(0, f.Len(), f.load)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
	}
	return s, nil
}

func (f *file) load(b []byte) error {
	if !bytes.HasPrefix(b, []byte(header)) {
		return errors.New("not a store")
	}
	for f.end = len(header); f.end+head <= len(b); {
		r, order := b[f.end+head:], binary.LittleEndian
		sum, key, value := order.Uint32(b[f.end:]), order.Uint64(b[f.end+4:]), order.Uint64(b[f.end+12:])
		if key > uint64(len(r)) || value > uint64(len(r))-key || sum != crc32.ChecksumIEEE(b[f.end+4:][:16+key+value]) {
			break
		}
		f.end += head + int(key+value)
		f.index.Store(string(r[:key]), [2]int{f.end - int(value), int(value)})
	}
	return f.write(make([]byte, len(b)-f.end), f.end)
}

// Put sets a value, which is on storage when Sync has returned.
func (s *Store) Put(key string, value []byte) error {
	s.writer.Lock()
	defer s.writer.Unlock()
	f, order := s.now.Load(), binary.LittleEndian
	r := order.AppendUint64(order.AppendUint64(make([]byte, 4), uint64(len(key))), uint64(len(value)))
	r = append(append(r, key...), value...)
	order.PutUint32(r, crc32.ChecksumIEEE(r[4:]))
	if err := f.write(r, f.end); err != nil {
		return err
	}
	f.end += len(r)
	f.index.Store(key, [2]int{f.end - len(value), len(value)})
	return nil
}

// Get returns a copy of a value.
func (s *Store) Get(key string) (value []byte, err error) {
	f := s.now.Load()
	at, _ := f.index.Load(key)
	span, ok := at.([2]int)
	if !ok {
		return nil, os.ErrNotExist
	}
	err = f.ViewRange(span[0], span[1], func(b []byte) error { value = bytes.Clone(b); return nil })
	if errors.Is(err, os.ErrClosed) && f != s.now.Load() {
		return s.Get(key) // of the file that Compact has made
	}
	return value, err
}

// Compact writes the values to a new file, which takes the place of the old one.
func (s *Store) Compact() error {
	s.writer.Lock()
	defer s.writer.Unlock()
	os.Remove(s.name + ".new") // of a crash
	fresh, err := Open(s.name + ".new")
	if err != nil {
		return err
	}
	s.now.Load().index.Range(func(key, _ any) bool {
		value, failed := s.Get(key.(string))
		err = errors.Join(failed, fresh.Put(key.(string), value))
		return err == nil
	})
	if err = errors.Join(err, fresh.Sync()); err == nil {
		err = os.Rename(fresh.name, s.name)
	}
	if err != nil {
		return errors.Join(err, fresh.Close(), os.Remove(fresh.name))
	}
	f := fresh.now.Load()
	return errors.Join(f.syncName(), s.now.Swap(f).Close())
}

// alone runs do when nobody writes.
func (s *Store) alone(do func(f *file) error) error {
	s.writer.Lock()
	defer s.writer.Unlock()
	return do(s.now.Load())
}

func (s *Store) Sync() error  { return s.alone((*file).sync) }
func (s *Store) Close() error { return s.alone((*file).Close) } // waits for no reader

func main() {
	s, err := Open("example.store")
	if err == nil {
		err = errors.Join(s.Put("now", []byte(time.Now().String())), s.Sync(), s.Compact(), s.Close())
	}
	fmt.Println(err)
}

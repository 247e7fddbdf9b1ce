// Command store shows a database file: records by number, mapped on Linux, and read by os.File elsewhere.
// What a database has besides (keys, checksums, a journal, snapshots, the folder on storage) is left out.
//
// The problem: readers want slices of the file without a copy and without a lock, while one
// writer makes the file longer, replaces it by a smaller one, and closes it. On Linux a Pin
// keeps what a reader has in place through all of that (mapped.go); on other systems os.File
// does the same with copies (other.go), and nothing here knows which of them it is.
package main

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
)

const recordSize = 64 // in bytes

// A Store is for any number of goroutines. Those that read wait for nobody.
type Store struct {
	name   string
	writer sync.Mutex
	now    atomic.Pointer[file] // Compact replaces it; see mapped.go and other.go
}

// Open opens a store or makes it. With an error, the store is of no use.
func Open(name string) (*Store, error) {
	f, err := openFile(name, 0)
	s := &Store{name: name}
	s.now.Store(f)
	return s, err
}

// View is a read transaction: record returns a record, which is valid until View returns.
func (s *Store) View(use func(records int, record func(i int) ([]byte, error)) error) error {
	f := s.now.Load()
	err := f.view(func(size int, read func(off, n int) ([]byte, error)) error {
		return use(size/recordSize, func(i int) ([]byte, error) { return read(i*recordSize, recordSize) })
	})
	if errors.Is(err, os.ErrClosed) && f != s.now.Load() { // Compact has just replaced the file
		return s.View(use)
	}
	return err
}

// Put writes a record, which is on storage when Put has returned. Transactions at work can see it.
func (s *Store) Put(i int, record [recordSize]byte) error {
	return s.alone(func(f *file) error { return errors.Join(f.write(record[:], i*recordSize), f.sync()) })
}

func (s *Store) alone(do func(f *file) error) error {
	s.writer.Lock()
	defer s.writer.Unlock()
	return do(s.now.Load())
}

// Compact writes the records that are to be kept to a new file, which takes the place of the old one.
func (s *Store) Compact(keep func(record []byte) bool) error {
	s.writer.Lock()
	defer s.writer.Unlock()
	fresh, err := openFile(s.name+".new", os.O_TRUNC) // it can be there after a crash
	if err != nil {
		return err
	}
	old, kept := s.now.Load(), 0
	err = s.View(func(records int, record func(i int) ([]byte, error)) error {
		for i := range records {
			r, err := record(i)
			if err != nil {
				return err
			}
			if !keep(r) {
				continue
			}
			if err = fresh.write(r, kept*recordSize); err != nil {
				return err
			}
			kept++
		}
		return nil
	})
	if err = errors.Join(err, fresh.sync()); err == nil {
		err = os.Rename(s.name+".new", s.name)
	}
	if err != nil {
		return errors.Join(err, fresh.Close(), os.Remove(s.name+".new"))
	}
	s.now.Store(fresh)
	return old.Close() // which waits for no reader
}

func (s *Store) Close() error { return s.alone((*file).Close) } // waits for nobody that reads

func main() {
	s, err := Open("example.store")
	if err == nil {
		err = errors.Join(s.Put(0, [recordSize]byte{1}), s.Close())
	}
	fmt.Println(err)
}

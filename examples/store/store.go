package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
)

// A Store is an open database. All methods may be called from several goroutines.
type Store struct {
	name   string
	writer sync.Mutex // of Put, Sync, Compact and Close
	now    atomic.Pointer[file]
}

// Open opens a store, or makes it. One process at a time has it.
func Open(name string) (*Store, error) {
	f, err := openFile(name)
	if err != nil {
		return nil, err
	}
	s := &Store{name: name}
	s.now.Store(f)
	return s, nil
}

// Put gives a key a value; nil takes the key away. Transactions that begin from now on see
// it. After a crash of the machine it is there if Sync was called.
func (s *Store) Put(key string, value []byte) error {
	s.writer.Lock()
	defer s.writer.Unlock()
	return s.now.Load().put(key, value)
}

// Sync returns when all that was put is on storage. After an error nothing more is written:
// close the store, and open it again.
func (s *Store) Sync() error {
	s.writer.Lock()
	defer s.writer.Unlock()
	return s.now.Load().sync()
}

// Close waits for no transaction: these go on, and the last one gives the file up.
func (s *Store) Close() error {
	s.writer.Lock()
	defer s.writer.Unlock()
	f := s.now.Load()
	return errors.Join(f.sync(), f.Close())
}

// Compact writes what counts into a new file, which takes the place of the old one. Older
// transactions go on with that.
func (s *Store) Compact() error {
	s.writer.Lock()
	defer s.writer.Unlock()
	old, temp := s.now.Load(), s.name+".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) { // of a crash
		return err
	}
	f, err := openFile(temp)
	if err != nil {
		return err
	}
	tx, err := s.Begin()
	if err == nil {
		err = tx.All(func(key, value []byte) error { return f.put(string(key), value) })
		err = errors.Join(err, tx.end())
	}
	if err == nil {
		err = f.sync()
	}
	if err == nil {
		err = os.Rename(temp, s.name)
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(temp))
	}
	s.now.Store(f)
	return errors.Join(syncDir(s.name), old.Close())
}

// A Tx reads the store as it was at Begin. Its end has to be called.
type Tx struct {
	snapshot
	f    *file
	size int64
}

// Begin begins a transaction for reading. It waits for nobody.
func (s *Store) Begin() (*Tx, error) {
	for {
		f := s.now.Load()
		size := f.size.Load()
		snapshot, err := f.begin()
		if err == nil {
			return &Tx{snapshot, f, size}, nil
		}
		if f == s.now.Load() { // or else a compaction has closed it
			return nil, err
		}
	}
}

func (f *file) add(key string, off int64) {
	old, _ := f.index.Load(key)
	list, _ := old.([]int64)
	f.index.Store(key, append(list, off)) // readers look at their part of the array only
}

// newest returns the offset of the last record of a key, and 0 if there is none.
func (t *Tx) newest(key string) int64 {
	value, _ := t.f.index.Load(key)
	list, _ := value.([]int64)
	for i := len(list) - 1; i >= 0; i-- {
		if list[i] < t.size {
			return list[i]
		}
	}
	return 0
}

// Get returns a copy of a value. A key that has none is an os.ErrNotExist.
func (t *Tx) Get(key string) (value []byte, err error) {
	if off := t.newest(key); off > 0 {
		_, err = record(t, off, t.size, func(_, v []byte) error { value = bytes.Clone(v); return nil })
	}
	if err == nil && value == nil {
		err = fmt.Errorf("key %q: %w", key, os.ErrNotExist)
	}
	return value, err
}

// All calls use with each key and its value, the oldest first. They are the memory itself:
// use copies what it keeps, and changes nothing.
func (t *Tx) All(use func(key, value []byte) error) (err error) {
	for off := int64(start); off < t.size && err == nil; {
		at := off
		off, err = record(t, off, t.size, func(key, value []byte) error {
			if value == nil || t.newest(string(key)) != at {
				return nil
			}
			return use(key, value)
		})
	}
	return err
}

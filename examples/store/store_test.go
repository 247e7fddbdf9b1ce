package main

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path)
	check(t, err)
	return s
}

// mustHold compares the first bytes of all records.
func mustHold(t *testing.T, s *Store, want ...byte) {
	t.Helper()
	check(t, s.View(func(records int, record func(i int) ([]byte, error)) error {
		if records != len(want) {
			t.Errorf("%d records, want %d", records, len(want))
			return nil
		}
		for i, w := range want {
			r, err := record(i)
			if err != nil {
				return err
			}
			if len(r) != recordSize || cap(r) != recordSize || r[0] != w {
				t.Errorf("record %d is %v, want %d", i, r, w)
			}
		}
		return nil
	}))
}

func all([]byte) bool { return true }

func TestStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	mustHold(t, s)
	for i, b := range []byte{1, 2, 3, 2} {
		check(t, s.Put(i, [recordSize]byte{b}))
	}
	check(t, s.Put(1, [recordSize]byte{5}))
	check(t, s.Put(6, [recordSize]byte{7}))
	mustHold(t, s, 1, 5, 3, 2, 0, 0, 7)
	check(t, s.Close())
	none := func(int, func(int) ([]byte, error)) error { t.Error("a transaction of a closed store"); return nil }
	if err := s.View(none); !errors.Is(err, os.ErrClosed) {
		t.Error("closed: ", err)
	}
	if err := s.Put(0, [recordSize]byte{}); !errors.Is(err, os.ErrClosed) {
		t.Error("closed: ", err)
	}
	s = open(t, path)
	mustHold(t, s, 1, 5, 3, 2, 0, 0, 7)
	if err := s.Compact(func(r []byte) bool { return r[0] != 0 && r[0] != 5 }); runtime.GOOS != "windows" {
		check(t, err)
		mustHold(t, s, 1, 3, 2, 7)
		if left, err := filepath.Glob(path + "*"); err != nil || len(left) != 1 {
			t.Error("files: ", left)
		}
	}
	check(t, s.Close())
	failed := errors.New("the transaction's own")
	if s = open(t, path); !errors.Is(s.View(func(int, func(int) ([]byte, error)) error { return failed }), failed) {
		t.Error("its error is lost")
	}
	check(t, s.Close())
	if _, err := Open(t.TempDir()); err == nil {
		t.Error("a directory is a store")
	}
	if _, err := Open(filepath.Join(path, "below a file")); err == nil {
		t.Error("opened below a file")
	}
}

// Readers beside a writer and Compact see whole records of what was put.
func TestBeside(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	check(t, s.Put(0, [recordSize]byte{1}))
	var stop atomic.Bool
	var in sync.WaitGroup
	for range 4 {
		in.Go(func() {
			for !stop.Load() {
				err := s.View(func(records int, record func(i int) ([]byte, error)) error {
					r, err := record(records - 1)
					if err == nil && r[0] != 1 {
						t.Errorf("record %d is %v", records-1, r)
					}
					return err
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 300 {
		check(t, s.Put(0, [recordSize]byte{1})) // what readers look at is not written beside them
		if i%10 == 9 && runtime.GOOS != "windows" {
			check(t, s.Compact(all))
		}
	}
	stop.Store(true)
	in.Wait()
	check(t, s.Close())
}

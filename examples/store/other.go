//go:build !linux || portable

package main

import (
	"os"
	"sync"
)

// A file is read and written by os.File. Close waits for transactions. Windows replaces no open file:
// there, Compact is an error, and the store goes on.
type file struct {
	f       *os.File
	readers sync.RWMutex
}

func openFile(name string, flag int) (*file, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|flag, 0o666)
	return &file{f: f}, err
}

func (f *file) view(use func(size int, read func(off, n int) ([]byte, error)) error) error {
	f.readers.RLock()
	defer f.readers.RUnlock()
	st, err := f.f.Stat()
	if err != nil {
		return err
	}
	return use(int(st.Size()), func(off, n int) ([]byte, error) {
		b := make([]byte, n)
		_, err := f.f.ReadAt(b, int64(off))
		return b, err
	})
}

func (f *file) write(b []byte, off int) error {
	_, err := f.f.WriteAt(b, int64(off))
	return err
}

func (f *file) sync() error { return f.f.Sync() }

func (f *file) Close() error {
	f.readers.Lock()
	defer f.readers.Unlock()
	return f.f.Close()
}

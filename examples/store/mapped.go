//go:build linux && !portable

package main

import (
	"errors"
	"os"

	"github.com/mmarinus/mmap"
)

const capacity = 1 << (29 + 11*(^uint(0)>>63)) // addresses to grow into: 1 TiB, on 32 bits 512 MiB

type file struct { // is mapped, and grows in place: what readers have never moves
	mmap.ReadWrite
	f *os.File
}

func openFile(name string, flag int) (*file, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|flag, 0o666)
	if err != nil {
		return nil, err
	}
	m, err := mmap.Map[mmap.ReadWrite](mmap.Whole(f).Shared().Reserve(capacity))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &file{m, f}, nil
}

// view pins the mapping, so that Close waits for no reader, and guards it: a truncated file or a bad
// disk is an error of the transaction.
func (f *file) view(use func(size int, read func(off, n int) ([]byte, error)) error) error {
	pin, err := f.Pin()
	if err != nil {
		return err
	}
	b := pin.Bytes()
	read := func(off, n int) ([]byte, error) { return b[off : off+n : off+n], nil }
	return errors.Join(mmap.Guard(func() error { return use(len(b), read) }, pin), pin.Unpin())
}

// write has the file system give the blocks first: without them a full disk would be a fault later on.
func (f *file) write(b []byte, off int) (err error) {
	end := off + len(b)
	if end > f.Len() && end <= f.Cap() {
		err = mmap.Allocate(f.f, 0, int64(end))
	}
	if err == nil && end > f.Len() {
		err = mmap.Grow(f.ReadWrite, end) // beyond Cap it says so
	}
	if err == nil {
		_, err = f.WriteAt(b, int64(off))
	}
	return err
}

func (f *file) sync() error  { return f.Sync(0, f.Len()) }
func (f *file) Close() error { return errors.Join(f.ReadWrite.Close(), f.f.Close()) }

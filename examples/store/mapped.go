//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

// capacity is address space and no memory: 1 TiB on 64 bits. On 32 bits it is 512 MiB, for
// a compaction has two files.
var capacity, chunk = 1 << (29 + 11*(^uint(0)>>63)), 1 << 20 // chunk: by which the file grows

// Mapped pages are read in place and written by copies into the same mapping.
type mapped struct {
	f *os.File
	m mmap.ReadWrite
}

var newPages = newMapped

func newMapped(f *os.File) (pages, error) {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("another process has %s: %w", f.Name(), err)
	}
	named, err := os.Stat(f.Name()) // a compaction can have put another file there meanwhile
	if st, failed := f.Stat(); err != nil || failed != nil || !os.SameFile(st, named) {
		return nil, errors.Join(fmt.Errorf("%s has been replaced", f.Name()), err, failed)
	}
	m, err := mmap.Map[mmap.ReadWrite](mmap.Whole(f).Shared().Reserve(capacity))
	return mapped{f, m}, err
}

// WriteAt has the file system give the blocks first: without them a full disk is a fault
// at some later moment.
func (p mapped) WriteAt(b []byte, off int64) (int, error) {
	if end := int(off) + len(b); end > p.m.Cap() {
		return 0, mmap.Grow(p.m, end) // which says what is wrong: ErrCapacity
	} else if end > p.m.Len() {
		size := max(end, min(p.m.Len()+chunk, p.m.Cap()))
		if err := mmap.Allocate(p.f, 0, int64(size)); err != nil {
			return 0, err
		}
		if err := mmap.Grow(p.m, size); err != nil {
			return 0, err
		}
	}
	return p.m.WriteAt(b, off)
}

func (p mapped) flush(off, n int64) error { return p.m.Sync(int(off), int(n)) }

func (p mapped) cut(size int64) error {
	return errors.Join(p.f.Truncate(size), mmap.Allocate(p.f, 0, int64(p.m.Len())))
}

// Close leaves the memory to the snapshots: the last one unmaps.
func (p mapped) Close() error { return errors.Join(p.m.Close(), p.f.Close()) }

func (p mapped) begin() (snapshot, error) {
	pin, err := p.m.Pin()
	return pinned{pin}, err
}

type pinned struct{ pin *mmap.Pin }

// view is guarded: a page that is gone, or on a bad disk, is its error and no crash.
func (p pinned) view(off, n int64, use func(b []byte) error) error {
	b := p.pin.Bytes()
	if off+n > int64(len(b)) {
		return io.ErrUnexpectedEOF
	}
	return mmap.Guard(func() error { return use(b[off : off+n : off+n]) }, p.pin)
}

func (p pinned) end() error { return p.pin.Unpin() }

// syncDir makes a new name durable.
func syncDir(name string) error {
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

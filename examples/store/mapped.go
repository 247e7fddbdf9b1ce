//go:build linux && !portable

package main

import (
	"errors"
	"os"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

var capacity, chunk = 1 << (29 + 11*(^uint(0)>>63)), 1 << 20 // of addresses: 1 TiB, on 32 bits 512 MiB

// Pages are read by ViewRange: a Pin, so that Close waits for no reader, and a Guard, so that a
// truncated file or a bad disk is an error and no crash.
type pages struct {
	mmap.ReadWrite
	f *os.File
}

func (p *pages) open(name string) (err error) {
	p.f, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o666)
	if err == nil {
		p.ReadWrite, err = mmap.Map[mmap.ReadWrite](mmap.Whole(p.f).Shared().Reserve(capacity))
	}
	return errors.Join(err, unix.Flock(int(p.f.Fd()), unix.LOCK_EX|unix.LOCK_NB)) // one process at a time
}

// write has the file system give the blocks first: without them a full disk is a fault later on.
func (p *pages) write(b []byte, off int) (err error) {
	if end := off + len(b); end > p.Cap() {
		return mmap.Grow(p.ReadWrite, end) // which says why not
	} else if end > p.Len() {
		size := max(end, min(p.Len()+chunk, p.Cap()))
		if err = mmap.Allocate(p.f, 0, int64(size)); err == nil {
			err = mmap.Grow(p.ReadWrite, size)
		}
	}
	if err == nil {
		_, err = p.WriteAt(b, int64(off))
	}
	return err
}

func (p *pages) sync() error     { return p.ReadWrite.Sync(0, p.Len()) }
func (p *pages) syncName() error { return unix.Syncfs(int(p.f.Fd())) } // after a rename
func (p *pages) Close() error    { return errors.Join(p.ReadWrite.Close(), p.f.Close()) }

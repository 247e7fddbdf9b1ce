package main

import (
	"io"
	"os"
	"sync/atomic"
)

// Plain pages are those of an os.File, for systems where nothing is mapped. It is closed by
// the last of its users: the store, and each snapshot.
type plain struct {
	*os.File
	users atomic.Int64
}

func newPlain(f *os.File) (pages, error) {
	p := &plain{File: f}
	p.users.Store(1)
	return p, nil
}

func (p *plain) begin() (snapshot, error) {
	for n := p.users.Load(); n > 0; n = p.users.Load() {
		if p.users.CompareAndSwap(n, n+1) {
			return p, nil
		}
	}
	return nil, os.ErrClosed
}

func (p *plain) view(off, n int64, use func(b []byte) error) error {
	b := make([]byte, n)
	if got, err := p.ReadAt(b, off); got < len(b) {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return use(b)
}

func (p *plain) end() error {
	if p.users.Add(-1) > 0 {
		return nil
	}
	return p.File.Close()
}

func (p *plain) Close() error             { return p.end() }
func (p *plain) flush(off, n int64) error { return p.Sync() }
func (p *plain) cut(size int64) error     { return p.Truncate(size) }

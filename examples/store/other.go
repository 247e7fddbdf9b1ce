//go:build !linux || portable

package main

import (
	"io"
	"os"
)

// Pages are read and written by an os.File. Several processes are not kept apart. Windows replaces
// no open file: there, Compact is an error and the store goes on.
type pages struct{ f *os.File }

func (p *pages) open(name string) (err error) {
	p.f, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o666)
	return err
}

func (p *pages) Len() int {
	if st, err := p.f.Stat(); err == nil {
		return int(st.Size())
	}
	return 0
}

func (p *pages) ViewRange(off, n int, use func(b []byte) error) error {
	b := make([]byte, n)
	if got, err := p.f.ReadAt(b, int64(off)); got < n && err == io.EOF {
		return io.ErrUnexpectedEOF
	} else if got < n {
		return err
	}
	return use(b)
}

func (p *pages) write(b []byte, off int) error {
	_, err := p.f.WriteAt(b, int64(off))
	return err
}

func (p *pages) sync() error     { return p.f.Sync() }
func (p *pages) syncName() error { return nil } // not every system can sync a folder
func (p *pages) Close() error    { return p.f.Close() }

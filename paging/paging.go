//go:build linux

// Package paging fills memory from a source when it is first needed: from object storage,
// a compressed file, or a cache of what is far away.
//
//	m, err := mmap.Map[mmap.Read](mmap.Anonymous(size))
//	p, err := paging.New(m, src)
//	n, err := p.ReadAt(b, off) // fetches what is absent
//
// A page that is absent never reads as zeros. Touching it is a fault at once, which the
// library turns into an error, and whoever needs the page fetches it, in its own goroutine
// and by an ordinary ReadAt of the source. Nobody waits in a fault, so there is no handler
// that could wait for the same processor, and no privileges are needed. It is done with
// userfaultfd(2), Linux 4.14; where a seccomp filter forbids that, as in many containers, New
// returns EPERM.
//
// A file that is in the page cache is 3 to 13 times cheaper to read if it is mapped as it is.
// Do not use this package for that.
package paging

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/attach"
	"github.com/mmarinus/mmap/internal/fail"
)

// ErrAbsent is the cause of a fault on a page that has not been fetched. If the last try to
// fetch it has failed, the fault matches the error of the source, too; a pager remembers about
// a thousand of them.
var ErrAbsent = errors.New("page has not been fetched")

// Readable are the handles that can be read.
type Readable interface {
	mmap.Handle
	ReadAt(p []byte, off int64) (int, error)
	View(f func(b []byte) error) error
	ViewRange(off, n int, f func(b []byte) error) error
}

// A handle is a Readable that is not known by its type.
type handle interface {
	Len() int
	Addr() uintptr
	Close() error
	ReadAt(p []byte, off int64) (int, error)
	View(f func(b []byte) error) error
	ViewRange(off, n int, f func(b []byte) error) error
}

// A Pager fetches the pages of a mapping. Its methods are safe for concurrent use.
type Pager struct {
	m        handle
	base     uintptr // of the mapping
	capacity int
	src      io.ReaderAt
	pages    attach.Pages
	buffers  sync.Pool
	windows
}

// An Option is one of New.
type Option func(*Pager)

// Window sets how many bytes are fetched at once, rounded up to whole pages. The default is
// 64 KiB. A size below 1 is a bad argument.
func Window(bytes int) Option { return func(p *Pager) { p.size = bytes } }

// New makes the pages of m come from src: byte i of the mapping is byte i of the source,
// which must have as many as the mapping, and be safe for concurrent use. m is anonymous
// memory, a memfd, or on huge pages, and what is in memory already stays, but not guard
// pages. Everything else is [errors.ErrUnsupported], as is a kernel before Linux 4.14.
//
// The pager is attached to the mapping as a [mmap.Tracker] is: transitions return ErrBusy,
// and Close of the mapping ends it. Guard pages are ErrBusy, too. Grow goes on; beside one
// that runs, New returns ErrBusy. From Linux 6.7 on the mapping can be tracked: fetching a
// page is no write. View and ReadAt of the mapping work; if they touch an absent page, they
// return a [*mmap.FaultError] that matches ErrAbsent, as do Prefault, Lock and PrefaultWrite.
//
// If Cap is above Len, the source is asked for the whole last page: what it does not have of
// that yet reads as zeros after Grow.
//
// A source must not read from the mapping that it feeds: in the goroutine that called it,
// that is an error. If it panics or ends its goroutine, so does the call that it was read for.
func New[M Readable](m M, src io.ReaderAt, options ...Option) (*Pager, error) {
	p := &Pager{m: m, src: src, windows: newWindows(64 << 10)}
	for _, o := range options {
		o(p)
	}
	if p.size < 1 || src == nil {
		return nil, fail.Bad("page", "a window of %v, and the source %T", fail.Count(p.size), src)
	}
	pages, err := attach.Pager(m.Untyped(), p.failures.cause, p.readOn) // failures must not lead to m
	if err != nil {
		return nil, err
	}
	p.pages, p.base, p.capacity = pages, m.Addr(), m.Cap() // which stay until Close
	page := pages.PageSize()
	size := (uint(p.size) + uint(page) - 1) &^ (uint(page) - 1) // a power of two
	p.size = int(min(size, uint(max(p.capacity, 1)+page-1)&^(uint(page)-1)))
	p.failures.size.Store(int64(p.size))
	return p, nil
}

// Close closes the mapping, and with it the pager: pages that are absent cannot be left
// behind. Views and pins of the mapping keep it for as long as they run. Close of the
// mapping itself does the same.
func (p *Pager) Close() error { return p.m.Close() }

// ReadAt copies from the mapping at off into b, as [io.ReaderAt] says, and fetches what is
// absent. If that fails, it has copied what lies before the first page that is absent yet.
func (p *Pager) ReadAt(b []byte, off int64) (n int, err error) {
	return p.pages.ReadAt(b, off) // which calls readOn; this line is inlined
}

// readOn is ReadAt after n bytes, where it has stopped with err.
func (p *Pager) readOn(b []byte, off int64, n int, err error) (int, error) {
	var u use
	defer p.release(&u)
	for {
		at, absent := p.fault(&u, err)
		if !absent {
			return n, err
		}
		failed := p.fetch(context.Background(), &u, at, len(b)-(at-int(off)))
		k, again := p.m.ReadAt(b[n:], off+int64(n)) // also what has come before the failure
		if n, err = n+k, again; err == nil {
			return n, nil
		}
		if failed != nil && errors.Is(err, mmap.ErrFault) {
			return n, failed
		}
	}
}

// ViewRange fetches what is absent of n bytes at off, and calls f once, with the memory
// itself; see ViewRange of the handle. Meanwhile Evict leaves these pages alone.
func (p *Pager) ViewRange(off, n int, f func(b []byte) error) error {
	var u use
	defer p.release(&u)
	if err := p.check("view", off, n); err != nil {
		return err
	}
	if err := p.fetch(context.Background(), &u, off, n); err != nil {
		return err
	}
	return p.m.ViewRange(off, n, f)
}

// View calls f with the memory itself, as View of the handle does. If f touches an absent
// page, it ends there, as at a panic; the page is fetched, and f is called again, from its
// start. So f must be able to run several times. What was fetched stays until View returns.
func (p *Pager) View(f func(b []byte) error) error {
	var u use
	defer p.release(&u)
	for {
		err := p.m.View(f)
		at, absent := p.fault(&u, err)
		if !absent {
			return err
		}
		if err := p.fetch(context.Background(), &u, at, 1); err != nil {
			return err
		}
	}
}

// fault returns where a page was absent that err speaks of. Somebody else can have fetched
// it by now, so it need not be proven. But what faults again and again is something else, as
// a store into memory lent for reading.
func (p *Pager) fault(u *use, err error) (at int, absent bool) {
	var f *mmap.FaultError
	if err == nil || !errors.As(err, &f) || f.Addr-p.base >= uintptr(p.capacity) {
		return 0, false
	}
	at = int(f.Addr - p.base)
	w := at / p.size
	proven := errors.Is(f, ErrAbsent)
	if !proven && f.Err != mmap.ErrFault || u.retried[w] >= 1000 || !proven && u.retried[w] >= 100 {
		return 0, false
	}
	if u.retried == nil {
		u.retried = map[int]int{}
	}
	u.retried[w]++
	return at, true
}

// Fetch brings in what is absent of n bytes at off, in windows, several at once. What
// somebody else is fetching it waits for. When a window fails, or ctx ends, it begins no other
// and waits for those that it has begun. It returns the error of the first that is missing.
func (p *Pager) Fetch(ctx context.Context, off, n int) error {
	var u use
	defer p.release(&u)
	if err := p.check("fetch", off, n); err != nil {
		return err
	}
	return p.fetch(ctx, &u, off, n)
}

// Evict drops the pages of n bytes at off: they become absent, and come again from the
// source. What was written to them is lost. To keep it, take what was written from a
// [mmap.Tracker], save it, and evict then; nobody may write to the pages meanwhile. The range
// starts on a page boundary, and ends on one or at Len. If a part is being viewed or fetched
// by this pager, nothing is dropped and the error matches [mmap.ErrBusy].
//
// The last page of a shared mapping of a file, if Len is within it, can hold other bytes of
// the file, which would go as well. A range with that page is a bad argument, as for Punch of
// the handle, and nothing is dropped. Map whole pages to evict them all.
func (p *Pager) Evict(off, n int) error {
	if err := p.check("evict", off, n); err != nil || n == 0 {
		return err
	}
	e := p.reserve(off/p.size, (off+n-1)/p.size)
	if e == nil {
		return fail.Named(fail.Hint(mmap.ErrBusy, "a part is being viewed or fetched"), p.op("evict", off, n))
	}
	defer p.unreserve(e)
	return p.pages.Evict(off, n)
}

func (p *Pager) op(name string, off, n int) string {
	return fmt.Sprintf("%s of %v at %d", name, fail.Count(n), off)
}

// check returns an error unless n bytes at off are in the mapping, and that is open.
func (p *Pager) check(name string, off, n int) error {
	if _, err := p.pages.Present(0, 0); err != nil {
		return fail.Named(err, p.op(name, off, n))
	}
	if size := p.m.Len(); off < 0 || n < 0 || off > size || n > size-off {
		return fail.Bad(p.op(name, off, n), "the mapping has %v", fail.Count(size))
	}
	return nil
}

// there reports whether all of a window is in memory.
func (p *Pager) there(w int) (bool, error) {
	off := w * p.size
	return p.pages.Present(off, max(min(p.size, p.m.Len()-off), 0))
}

// load fetches a window, unless it is there.
func (p *Pager) load(w int) error {
	off := w * p.size
	page := p.pages.PageSize()
	want := min(p.size, p.m.Len()-off)
	if there, err := p.there(w); there || err != nil {
		return err
	}
	buffer, _ := p.buffers.Get().(*[]byte)
	size := (want + page - 1) / page * page
	if buffer == nil || len(*buffer) < size {
		b := make([]byte, size)
		buffer = &b
	}
	defer p.buffers.Put(buffer)
	b := (*buffer)[:size]
	// Grow can make the rest of the last page part of the mapping, as far as Cap. Behind that are
	// other bytes of a file.
	ask := b[:min(size, p.capacity-off)]
	n, err := p.read(ask, off)
	switch {
	case n < 0 || n > len(ask):
		err = fmt.Errorf("it returns a count of %d", n)
	case n < len(ask) && err == nil, n < want && err == io.EOF:
		err = io.ErrUnexpectedEOF
	case err == io.EOF:
		err = nil
	}
	if err != nil {
		return fmt.Errorf("paging: read of %v at %d from the source: %w", fail.Count(len(ask)), off, err)
	}
	clear(b[n:])
	return p.pages.Install(off, b)
}

func (p *Pager) read(b []byte, off int) (int, error) {
	thread := p.enter()
	defer p.leave(thread)
	return p.src.ReadAt(b, int64(off))
}

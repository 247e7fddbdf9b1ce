//go:build linux

package paging

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// windows keep account of what is going on with the windows: the bytes that are fetched at
// once. Which pages are absent only the kernel knows.
type windows struct {
	size     int // of one, in bytes
	failures *failures

	mu        sync.Mutex
	flights   map[int]*flight // windows that are being fetched; who does so holds them
	held      map[*stretch]bool
	evictions map[*stretch]bool
	reading   map[int]bool // threads of goroutines within the source
}

func newWindows(size int) windows {
	return windows{
		size: size, failures: &failures{errs: map[int]error{}}, flights: map[int]*flight{},
		held: map[*stretch]bool{}, evictions: map[*stretch]bool{}, reading: map[int]bool{},
	}
}

// A flight is one try to fetch a window. err can be read when done is closed.
type flight struct {
	done chan struct{}
	err  error
}

// A stretch is windows that a call holds, which Evict respects, or that are being evicted.
type stretch struct {
	first, last int
	gone        chan struct{} // closed when the eviction is over
}

func (s *stretch) meets(other *stretch) bool { return s.first <= other.last && other.first <= s.last }

// A use is what one call holds, and how often it has tried a window again.
type use struct {
	held    []*stretch
	retried map[int]int
}

// mostFailures are remembered. There can be very many windows, and storage that is away for long.
const mostFailures = 1000

// failures are the errors of windows whose last fetch has failed. A mapping refers to them,
// and they not to the mapping, which the collector could not unmap else.
type failures struct {
	size atomic.Int64 // of a window
	mu   sync.Mutex
	errs map[int]error
}

// cause returns what a fault on an absent page means.
func (f *failures) cause(off int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if size := int(f.size.Load()); size > 0 && f.errs[off/size] != nil {
		return &absentError{f.errs[off/size]}
	}
	return ErrAbsent
}

func (f *failures) set(w int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.errs) > 0 {
		delete(f.errs, w)
	}
	if err == nil {
		return
	}
	for old := range f.errs {
		if len(f.errs) < mostFailures {
			break
		}
		delete(f.errs, old)
	}
	f.errs[w] = err
}

// An absentError is ErrAbsent because of another error.
type absentError struct{ err error }

func (e *absentError) Error() string   { return ErrAbsent.Error() + ": " + e.err.Error() }
func (e *absentError) Unwrap() []error { return []error{ErrAbsent, e.err} }

var errNested = errors.New("paging: the source reads from the mapping that it feeds")

var errLeft = errors.New("paging: the source has panicked, or ended its goroutine")

// most windows are fetched at once by one call.
const most = 8

// fetch brings in what is absent of n bytes at off, and has u hold it.
func (p *Pager) fetch(ctx context.Context, u *use, off, n int) error {
	if n = min(n, p.m.Len()-off); n <= 0 {
		return cmp.Or(p.check("fetch", off, 0), ctx.Err())
	}
	if p.nested() {
		return errNested
	}
	first, last := off/p.size, (off+n-1)/p.size
	if err := p.hold(ctx, u, first, last); err != nil {
		return err
	}
	if first == last {
		return p.fetchOne(ctx, first)
	}
	r := round{next: first, last: last}
	return r.run(min(most, last-first+1), func(w int) error { return p.fetchOne(ctx, w) })
}

// fetchOne brings in a window, or waits for who does.
func (p *Pager) fetchOne(ctx context.Context, w int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p.mu.Lock()
	for f := p.flights[w]; f != nil; f = p.flights[w] {
		p.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if there, err := p.there(w); there || err != nil {
			return err
		} else if f.err != nil {
			return f.err
		}
		// The mapping has grown meanwhile, and that was not all of it.
		p.mu.Lock()
	}
	f := &flight{done: make(chan struct{}), err: errLeft}
	p.flights[w] = f
	p.mu.Unlock()
	defer func() { // also when the source panics
		p.failures.set(w, f.err)
		p.mu.Lock()
		delete(p.flights, w)
		p.mu.Unlock()
		close(f.done)
	}()
	f.err = p.load(w)
	return f.err
}

// hold keeps windows from Evict, until release, and waits for the evictions that are at work.
func (p *Pager) hold(ctx context.Context, u *use, first, last int) error {
	s := &stretch{first: first, last: last}
	u.held = append(u.held, s)
	var before []*stretch
	p.mu.Lock()
	p.held[s] = true // no other eviction begins
	for e := range p.evictions {
		if e.meets(s) {
			before = append(before, e)
		}
	}
	p.mu.Unlock()
	for _, e := range before {
		select {
		case <-e.gone:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (p *Pager) release(u *use) {
	if u.held == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range u.held {
		delete(p.held, s)
	}
}

// reserve takes windows for Evict, until unreserve. It returns nil if somebody uses one.
func (p *Pager) reserve(first, last int) *stretch {
	e := &stretch{first, last, make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, others := range []map[*stretch]bool{p.held, p.evictions} {
		for s := range others {
			if s.meets(e) {
				return nil
			}
		}
	}
	p.evictions[e] = true
	return e
}

func (p *Pager) unreserve(e *stretch) {
	p.mu.Lock()
	delete(p.evictions, e)
	p.mu.Unlock()
	close(e.gone)
}

// enter notes that the calling goroutine is within the source. It keeps its thread so long,
// whose number tells it from others.
func (p *Pager) enter() (thread int) {
	runtime.LockOSThread()
	thread = unix.Gettid()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reading[thread] = true
	return thread
}

func (p *Pager) leave(thread int) {
	p.mu.Lock()
	delete(p.reading, thread)
	p.mu.Unlock()
	runtime.UnlockOSThread()
}

// nested reports whether the calling goroutine is within the source.
func (p *Pager) nested() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.reading) > 0 && p.reading[unix.Gettid()]
}

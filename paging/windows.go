//go:build linux

package paging

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// windows keep account of what is going on with each window: the bytes that are fetched at
// once. Which pages are absent only the kernel knows.
type windows struct {
	size     int // of one, in bytes
	failures *failures

	mu      sync.Mutex
	flights map[int]*flight // windows that are being fetched or evicted
	held    map[int]int     // how many uses each has, which Evict respects
	reading map[int]bool    // threads of goroutines within the source
}

func newWindows(size int) windows {
	f := &failures{errs: map[int]error{}}
	return windows{size: size, failures: f, flights: map[int]*flight{}, held: map[int]int{}, reading: map[int]bool{}}
}

// A flight is one try to fetch a window. err can be read when done is closed.
type flight struct {
	done chan struct{}
	err  error
}

// A use is what one call holds, and how often it has tried a window again.
type use struct {
	ranges  [][2]int // of windows: the first and the last
	retried map[int]int
}

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
	if err != nil {
		f.errs[w] = err
	} else if len(f.errs) > 0 {
		delete(f.errs, w)
	}
}

// An absentError is ErrAbsent because of another error.
type absentError struct{ err error }

func (e *absentError) Error() string   { return ErrAbsent.Error() + ": " + e.err.Error() }
func (e *absentError) Unwrap() []error { return []error{ErrAbsent, e.err} }

var errNested = errors.New("paging: the source reads from the mapping that it feeds")

var errPanicked = errors.New("paging: the source has panicked")

// most windows are fetched at once by one call.
const most = 8

// fetch brings in what is absent of n bytes at off, and has u hold it.
func (p *Pager) fetch(ctx context.Context, u *use, off, n int) error {
	if n = min(n, p.m.Len()-off); n <= 0 {
		return ctx.Err()
	}
	if p.nested() {
		return errNested
	}
	first, last := off/p.size, (off+n-1)/p.size
	p.hold(u, first, last)
	if first == last {
		return p.fetchOne(ctx, first)
	}
	var (
		next   atomic.Int64
		failed atomic.Pointer[error]
		all    sync.WaitGroup
	)
	work := func() {
		for failed.Load() == nil {
			w := first + int(next.Add(1)) - 1
			if w > last {
				return
			}
			if err := p.fetchOne(ctx, w); err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		}
	}
	for range min(most, last-first+1) - 1 {
		all.Go(work)
	}
	work()
	all.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// fetchOne brings in a window, or waits for who does.
func (p *Pager) fetchOne(ctx context.Context, w int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p.mu.Lock()
	if f := p.flights[w]; f != nil {
		p.mu.Unlock()
		select {
		case <-f.done:
			return f.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f := &flight{done: make(chan struct{}), err: errPanicked}
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

// hold keeps windows from Evict, until release. If one is being evicted, it waits for that,
// which is a moment.
func (p *Pager) hold(u *use, first, last int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := first; w <= last; w++ {
		for p.held[w] < 0 {
			f := p.flights[w]
			p.mu.Unlock()
			<-f.done
			p.mu.Lock()
		}
		p.held[w]++
	}
	u.ranges = append(u.ranges, [2]int{first, last})
}

func (p *Pager) release(u *use) {
	if u.ranges == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range u.ranges {
		for w := r[0]; w <= r[1]; w++ {
			if p.held[w]--; p.held[w] == 0 {
				delete(p.held, w)
			}
		}
	}
}

// reserve takes windows for Evict, if nobody uses one.
func (p *Pager) reserve(first, last int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := first; w <= last; w++ {
		if p.held[w] != 0 || p.flights[w] != nil {
			return false
		}
	}
	f := &flight{done: make(chan struct{})}
	for w := first; w <= last; w++ {
		p.held[w], p.flights[w] = -1, f
	}
	return true
}

func (p *Pager) unreserve(first, last int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.flights[first]
	for w := first; w <= last; w++ {
		delete(p.held, w)
		delete(p.flights, w)
	}
	close(f.done)
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

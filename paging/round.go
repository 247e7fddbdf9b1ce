//go:build linux

package paging

import (
	"runtime"
	"runtime/debug"
	"sync"
)

// A round is windows that several goroutines fetch, the lowest first. When one fails, no other
// begins, so those before the lowest that has failed have come.
type round struct {
	mu         sync.Mutex
	next, last int
	over       bool  // no other begins
	err        error // of the lowest window that has failed
	failed     int
	panicked   any // what a source has panicked with
	exited     bool
}

// run fetches the windows in so many goroutines, of which the caller is one, and returns the
// error of the lowest that has failed. When a fetch panics or ends its goroutine, so does the
// caller; the others have returned by then.
func (r *round) run(goroutines int, fetch func(w int) error) error {
	func() {
		var others sync.WaitGroup
		defer others.Wait()
		guarded := debug.SetPanicOnFault(true) // as by mmap.Guard: so are the others
		debug.SetPanicOnFault(guarded)
		for range goroutines - 1 {
			others.Go(func() {
				debug.SetPanicOnFault(guarded)
				r.work(fetch)
			})
		}
		r.work(fetch)
	}()
	switch {
	case r.panicked != nil:
		panic(r.panicked)
	case r.exited:
		runtime.Goexit()
	}
	return r.err
}

func (r *round) work(fetch func(w int) error) {
	returned := false
	defer func() {
		if !returned {
			r.left(recover())
		}
	}()
	for w, ok := r.take(); ok; w, ok = r.take() {
		if err := fetch(w); err != nil {
			r.fail(w, err)
		}
	}
	returned = true
}

// take returns the next window, if there is one to fetch.
func (r *round) take() (w int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over || r.next > r.last {
		return 0, false
	}
	r.next++
	return r.next - 1, true
}

func (r *round) fail(w int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over = true; r.err == nil || w < r.failed {
		r.failed, r.err = w, err
	}
}

// left notes that a fetch has not returned; panicked is nil if it has ended its goroutine.
func (r *round) left(panicked any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over = true; panicked == nil {
		r.exited = true
	} else if r.panicked == nil {
		r.panicked = panicked
	}
}

//go:build linux

package paging_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/testkit"
	"github.com/mmarinus/mmap/paging"
)

// soon returns what f sends, and ends the test if that takes long.
func soon[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: it waits without end", what)
	}
	return v
}

// TestSourceLeaves: a source that panics, or ends its goroutine, does so to the caller, whoever
// of the goroutines has called it. Nobody waits for what it was to bring, and it can be fetched.
func TestSourceLeaves(t *testing.T) {
	const windows = 16
	size := windows * pg
	data := newSource(size)
	for bad := range 8 { // the window where it leaves: one of them the caller has itself
		for _, n := range []int{1, size - bad*pg, size} { // from there, or from the start
			off := bad * pg
			if n == size {
				off = 0
			}
			for what, leave := range map[string]func(){"panics": func() { panic(data) }, "exits": runtime.Goexit} {
				t.Run(fmt.Sprintf("%s/window=%d/bytes=%d", what, bad, n), func(t *testing.T) {
					src := &nested{}
					var inside atomic.Int64
					var well atomic.Bool
					entered, let := make(chan struct{}), make(chan struct{})
					var all sync.WaitGroup // the first windows are with as many goroutines
					all.Add(min(8, (n+pg-1)/pg))
					src.read = func(b []byte, at int64) (int, error) {
						inside.Add(1)
						defer inside.Add(-1)
						if i := int(at) - off; !well.Load() && i < 8*pg {
							all.Done()
							all.Wait()
						}
						if at == int64(bad*pg) && !well.Load() {
							close(entered)
							<-let
							leave()
						}
						return data.ReadAt(b, at)
					}
					_, p := paged[mmap.Read](t, mmap.Anonymous(size), src, paging.Window(pg))
					ended, waited := make(chan any, 1), make(chan error, 1)
					go func() {
						returned := false
						defer func() {
							v := recover()
							if returned || inside.Load() != 0 {
								v = fmt.Sprintf("returned: %v, in the source: %d", returned, inside.Load())
							}
							ended <- v
						}()
						p.Fetch(t.Context(), off, n)
						returned = true
					}()
					soon(t, "the source", entered)
					go func() { waited <- p.Fetch(t.Context(), bad*pg, 1) }()
					time.Sleep(time.Millisecond) // or it is no waiter, which makes no difference to what is right
					well.Store(true)
					close(let)
					want := any(nil)
					if what == "panics" {
						want = data
					}
					if v := soon(t, "the caller", ended); v != want {
						t.Errorf("the caller ends with %v", v)
					}
					soon(t, "who waits", waited)
					b := make([]byte, size)
					if _, err := p.ReadAt(b, 0); err != nil || !bytes.Equal(b, data.data) {
						t.Error("afterwards: ", err)
					}
					check(t, p.Evict(0, size))
				})
			}
		}
	}
}

// TestSourceFaults: a memory fault in the source is that of the caller, and an error in its guard.
func TestSourceFaults(t *testing.T) {
	const windows = 16
	size := windows * pg
	f, data := testkit.Scratch(t, size)
	far, err := mmap.Map[mmap.Read](mmap.Whole(f))
	check(t, err)
	defer far.Close()
	check(t, f.Truncate(0))
	pin, err := far.Pin()
	check(t, err)
	defer pin.Unpin()
	src := &nested{func(b []byte, off int64) (int, error) { return copy(b, pin.Bytes()[off:]), nil }}
	_, p := paged[mmap.Read](t, mmap.Anonymous(size), src, paging.Window(pg))
	for range 20 {
		err := mmap.Guard(func() error { return p.Fetch(t.Context(), 0, size) }, pin)
		wants(t, "a guarded Fetch", err, mmap.ErrFault, mmap.ErrTruncated)
	}
	check(t, testkit.Second(f.WriteAt(data, 0)))
	b := make([]byte, size)
	if check(t, testkit.Second(p.ReadAt(b, 0))); !bytes.Equal(b, data) {
		t.Error("contents differ")
	}
}

// TestSourceStack: the source is called when the fault that asks for it is over, and not in the
// middle of the panic that it was.
func TestSourceStack(t *testing.T) {
	size := 4 * pg
	data := newSource(size)
	var within []string // what a call of the source lies within
	src := &nested{func(b []byte, off int64) (int, error) {
		var pcs [100]uintptr
		for frames := runtime.CallersFrames(pcs[:runtime.Callers(0, pcs[:])]); ; {
			f, more := frames.Next()
			if within = append(within, f.Function); !more {
				return data.ReadAt(b, off)
			}
		}
	}}
	m, p := paged[mmap.Read](t, mmap.Anonymous(size), src, paging.Window(size))
	in := func() {
		for name, f := range map[string]func() error{
			"ReadAt of a byte":    func() error { return testkit.Second(p.ReadAt(make([]byte, 1), 5)) },
			"ReadAt of two pages": func() error { return testkit.Second(p.ReadAt(make([]byte, pg), 5)) },
			"View":                func() error { return p.View(func(b []byte) error { _ = bytes.Count(b, []byte{0}); return nil }) },
			"ReadAt past its end": func() error {
				if _, err := p.ReadAt(make([]byte, size), 5); err != io.EOF {
					return fmt.Errorf("%v, and not EOF", err)
				}
				return nil
			},
			"ReadAt, in a View of m": func() error {
				return m.View(func([]byte) error { return testkit.Second(p.ReadAt(make([]byte, 1), 5)) })
			},
		} {
			check(t, p.Evict(0, size))
			within = nil
			if check(t, f()); within == nil || slices.Contains(within, "runtime.gopanic") {
				t.Errorf("%s: the source is called by %q", name, within)
			}
		}
	}
	in()
	for range 1 << 12 { // more pins than one word counts: the rest go the slow way
		pin, err := m.Pin()
		check(t, err)
		defer pin.Unpin()
	}
	in()
}

// TestReadAtPart: what comes before a failure is delivered, with the error of the first window
// that is missing, whichever of them fails first.
func TestReadAtPart(t *testing.T) {
	const windows = 16
	size := windows * pg
	data := newSource(size)
	errs := make([]error, windows)
	for i := range errs {
		errs[i] = fmt.Errorf("window %d: %w", i, errStorage)
	}
	for name, s := range kinds(t, size) {
		t.Run(name, func(t *testing.T) {
			for bad := range windows {
				src := &nested{}
				m, p := paged[mmap.ReadWrite](t, s, src, paging.Window(pg))
				check(t, p.Evict(0, size)) // a memfd keeps what another pager has put there
				src.read = func(b []byte, at int64) (int, error) {
					if w := int(at) / pg; w >= bad {
						if w == bad {
							time.Sleep(time.Millisecond) // others fail before
						}
						return 0, errs[w]
					}
					return data.ReadAt(b, at)
				}
				for _, off := range []int{0, min(bad, 2) * pg, max(0, bad*pg-10)} {
					b := make([]byte, size+1-off)
					n, err := p.ReadAt(b, int64(off))
					if n != bad*pg-off || !bytes.Equal(b[:n], data.data[off:off+n]) || !errors.Is(err, errs[bad]) {
						t.Errorf("from window %d on it fails: read at %d: %d, %v", bad, off, n, err)
					}
				}
				check(t, p.Evict(0, size))
				wants(t, "Fetch", p.Fetch(t.Context(), 0, size), errs[bad])
				if bad > 0 {
					check(t, p.Evict(0, size))
					b := make([]byte, bad*pg)
					n, err := p.ReadAt(b, 0)
					if check(t, err); n != len(b) || !bytes.Equal(b, data.data[:n]) {
						t.Errorf("what lies before window %d: %d bytes", bad, n)
					}
				}
				check(t, m.Close())
			}
		})
	}
	// The end of the mapping is no failure.
	_, p := paged[mmap.Read](t, mmap.Anonymous(size-7), data, paging.Window(pg))
	b := make([]byte, size)
	n, err := p.ReadAt(b, 0)
	if wants(t, "all", err, io.EOF); err != io.EOF || n != size-7 {
		t.Errorf("%d, %v", n, err)
	}
}

// TestVast: what a call holds or evicts is a range, and costs no more where it is large.
func TestVast(t *testing.T) {
	const size = 1 << 28 << (10 * (^uint(0) >> 63)) // 256 GiB, or as many MiB
	_, p := paged[mmap.ReadWrite](t, mmap.Anonymous(size).NoReserve(), newSource(pg), paging.Window(pg))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for what, f := range map[string]func(){
		"Evict": func() { check(t, p.Evict(0, size)) },
		"Fetch": func() { wants(t, "Fetch", p.Fetch(ctx, 0, size), context.Canceled) },
		"ViewRange": func() {
			err := p.ViewRange(pg, size-pg, func([]byte) error { return nil })
			wants(t, "ViewRange", err, io.ErrUnexpectedEOF) // the source has one page
		},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		f()
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		t.Logf("%s of %d MiB: %v", what, size>>20, took)
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
			t.Errorf("%s of %d MiB allocates %d bytes", what, size>>20, n)
		}
	}
}

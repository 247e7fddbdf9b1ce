//go:build linux

package paging_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/leaks"
	"github.com/mmarinus/mmap/internal/testkit"
	"github.com/mmarinus/mmap/paging"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

var (
	check = testkit.Check
	wants = testkit.Wants
)

func TestMain(m *testing.M) {
	closed := leaks.Watch()
	m.Run()
	if !closed() {
		os.Exit(1)
	}
}

var pg = os.Getpagesize()

// A source has bytes that are never zero, and fails when it is told to.
type source struct {
	data  []byte
	reads atomic.Int64
	fails atomic.Pointer[error]
	from  atomic.Int64 // it fails here and behind
	slow  time.Duration
}

func newSource(size int) *source {
	s := &source{data: make([]byte, size)}
	for i := range s.data {
		s.data[i] = byte(i%251 + i/pg%4 + 1)
	}
	return s
}

func (s *source) ReadAt(b []byte, off int64) (int, error) {
	s.reads.Add(1)
	time.Sleep(s.slow)
	if err := s.fails.Load(); err != nil && off+int64(len(b)) > s.from.Load() {
		clear(b)
		return len(b) / 2, *err
	}
	return bytes.NewReader(s.data).ReadAt(b, off)
}

var errStorage = errors.New("the storage is away")

func (s *source) fail(err error) {
	if s.fails.Store(nil); err != nil {
		s.fails.Store(&err)
	}
}

// kinds are the memory that can be paged, of so many bytes.
func kinds(t testing.TB, size int) map[string]mmap.Spec {
	f, err := mmap.Memfd("paged", int64((size+pg-1)/pg*pg), 0)
	check(t, err)
	t.Cleanup(func() { f.Close() })
	return map[string]mmap.Spec{
		"private": mmap.Anonymous(size), "shared": mmap.Anonymous(size).Shared(), "memfd": mmap.File(f, 0, size).Shared(),
	}
}

// paged maps memory and pages it, until the end of the test.
func paged[M paging.Readable](t testing.TB, s mmap.Spec, src io.ReaderAt, options ...paging.Option) (M, *paging.Pager) {
	t.Helper()
	testkit.Needs(t, "UFFD_FEATURE_SIGBUS")
	m, err := mmap.Map[mmap.ReadWrite](s)
	check(t, err)
	u, err := mmap.Forget(m)
	check(t, err)
	var h M
	switch any(h).(type) {
	case mmap.Unknown:
		h = any(u).(M)
	case mmap.ReadWrite:
		rw, err := mmap.Assert[mmap.ReadWrite](u)
		check(t, err)
		h = any(rw).(M)
	case mmap.Read:
		r, err := mmap.Protect[mmap.Read](u)
		check(t, err)
		h = any(r).(M)
	}
	p, err := paging.New(h, src, options...)
	if err != nil {
		h.Close()
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return h, p
}

func TestReadAt(t *testing.T) {
	const windows = 5
	size := windows*4*pg - 100
	for name, s := range kinds(t, size) {
		t.Run(name, func(t *testing.T) {
			src := newSource(size)
			m, p := paged[mmap.Read](t, s, src, paging.Window(4*pg))
			if n := src.reads.Load(); n != 0 {
				t.Errorf("%d reads before anything was touched", n)
			}
			b := make([]byte, 100)
			for range 2 {
				n, err := p.ReadAt(b, int64(7*pg-50))
				if check(t, err); n != 100 || !bytes.Equal(b, src.data[7*pg-50:][:100]) {
					t.Errorf("%d bytes, which differ", n)
				}
			}
			if n := src.reads.Load(); n != 1 {
				t.Errorf("%d reads of one window", n)
			}
			// The mapping itself has what was fetched, and nothing else.
			check(t, testkit.Second(m.ReadAt(b, int64(5*pg))))
			n, err := m.ReadAt(make([]byte, 3*pg), int64(6*pg))
			if wants(t, "the next window", err, mmap.ErrFault, paging.ErrAbsent); n != 2*pg {
				t.Errorf("%d bytes before it", n)
			}
			all := make([]byte, size+1)
			n, err = p.ReadAt(all, 0)
			if wants(t, "all", err, io.EOF); n != size || !bytes.Equal(all[:n], src.data) {
				t.Errorf("all: %d bytes, which differ", n)
			}
			if n := src.reads.Load(); n != windows {
				t.Errorf("%d reads of %d windows", n, windows)
			}
			check(t, m.View(func(b []byte) error {
				if !bytes.Equal(b, src.data) {
					t.Error("the mapping differs")
				}
				return nil
			}))
		})
	}
}

func TestView(t *testing.T) {
	size := 16 * pg
	for name, s := range kinds(t, size) {
		t.Run(name, func(t *testing.T) {
			src := newSource(size)
			_, p := paged[mmap.Unknown](t, s, src, paging.Window(pg))
			calls := 0
			err := p.View(func(b []byte) error {
				calls++
				if b[3*pg] != src.data[3*pg] || b[15*pg] != src.data[15*pg] || b[0] != src.data[0] {
					t.Error("contents differ")
				}
				return io.ErrNoProgress
			})
			if wants(t, "View", err, io.ErrNoProgress); calls != 4 || src.reads.Load() != 3 {
				t.Errorf("%d calls, %d reads, want 4 and 3", calls, src.reads.Load())
			}
			calls = 0
			check(t, p.ViewRange(5*pg+1, 3*pg, func(b []byte) error {
				if calls++; !bytes.Equal(b, src.data[5*pg+1:][:3*pg]) {
					t.Error("contents differ")
				}
				wants(t, "Evict of what is viewed", p.Evict(6*pg, pg), mmap.ErrBusy)
				check(t, p.Evict(9*pg, pg))
				return nil
			}))
			if calls != 1 {
				t.Errorf("ViewRange: %d calls", calls)
			}
			check(t, p.Fetch(t.Context(), 0, size))
			if n := src.reads.Load(); n != 16 {
				t.Errorf("%d reads of 16 windows", n)
			}
		})
	}
}

// What the source cannot give is its error, and is tried again.
func TestFailure(t *testing.T) {
	size := 8 * pg
	for name, s := range kinds(t, size) {
		t.Run(name, func(t *testing.T) {
			src := newSource(size)
			m, p := paged[mmap.ReadWrite](t, s, src, paging.Window(2*pg))
			src.fail(errStorage)
			b := make([]byte, 3*pg)
			for what, err := range map[string]error{
				"ReadAt": testkit.Second(p.ReadAt(b, 0)), "Fetch": p.Fetch(t.Context(), 0, 2*pg),
				"ViewRange": p.ViewRange(0, 1, func([]byte) error { return nil }), "View": p.View(func(b []byte) error { fmt.Fprint(io.Discard, b[pg]); return nil }),
			} {
				wants(t, what, err, errStorage)
			}
			n, err := m.ReadAt(b, int64(pg))
			if wants(t, "the mapping", err, mmap.ErrFault, paging.ErrAbsent, errStorage); n != 0 {
				t.Errorf("%d bytes of it", n)
			}
			_, err = m.ReadAt(b, int64(4*pg))
			if wants(t, "another window", err, paging.ErrAbsent); errors.Is(err, errStorage) {
				t.Error("which nobody has tried")
			}
			for what, err := range map[string]error{
				"Prefault": m.Prefault(0, pg), "Lock": m.Lock(0, pg), "PrefaultWrite": m.PrefaultWrite(0, pg),
			} {
				if mmap.Probe("MADV_POPULATE_READ") == nil {
					wants(t, what, err, mmap.ErrFault, paging.ErrAbsent)
				}
			}
			wants(t, "a write", testkit.Second(m.WriteAt([]byte{1}, 0)), mmap.ErrFault, paging.ErrAbsent)
			src.fail(nil)
			check(t, testkit.Second(p.ReadAt(b, 0)))
			if !bytes.Equal(b, src.data[:3*pg]) {
				t.Error("contents differ")
			}
			src.data = src.data[:6*pg+10] // it has become shorter
			wants(t, "past the end of the source", testkit.Second(p.ReadAt(b[:1], int64(6*pg))), io.ErrUnexpectedEOF)
			check(t, testkit.Second(p.ReadAt(b[:1], int64(5*pg))))
		})
	}
}

// A memfd that has become shorter has no page to be filled, and says so.
func TestTruncated(t *testing.T) {
	f, err := mmap.Memfd("paged", int64(8*pg), 0)
	check(t, err)
	defer f.Close()
	src := newSource(8 * pg)
	_, p := paged[mmap.ReadWrite](t, mmap.File(f, 0, 8*pg).Shared(), src, paging.Window(2*pg))
	check(t, f.Truncate(int64(3*pg)))
	b := make([]byte, 8*pg)
	n, err := p.ReadAt(b, 0)
	testkit.Explained(t, "read", err, mmap.ErrFault, "past the end of its file")
	if n != 3*pg || !bytes.Equal(b[:n], src.data[:n]) {
		t.Errorf("%d bytes", n)
	}
	for what, err := range map[string]error{
		"fetch": p.Fetch(t.Context(), 0, 8*pg), "view range": p.ViewRange(3*pg, pg, nil), "view": p.View(func(b []byte) error { b[4*pg]++; return nil }),
	} {
		wants(t, what, err, mmap.ErrFault, unix.EFAULT)
	}
	check(t, p.Evict(0, 8*pg))
	check(t, f.Truncate(int64(8*pg)))
	if check(t, testkit.Second(p.ReadAt(b, 0))); !bytes.Equal(b, src.data) {
		t.Error("contents differ")
	}
}

// However many windows fail, the errors of about a thousand are kept, and those of the last.
func TestFailures(t *testing.T) {
	const windows = 3000
	src := &nested{func(b []byte, off int64) (int, error) { return 0, errStorage }}
	m, p := paged[mmap.Read](t, mmap.Anonymous(windows*pg), src, paging.Window(pg))
	b := make([]byte, 1)
	known := func(w int) bool {
		_, err := m.ReadAt(b, int64(w*pg))
		wants(t, "the mapping", err, paging.ErrAbsent)
		return errors.Is(err, errStorage)
	}
	for w := range windows {
		wants(t, "a fetch", testkit.Second(p.ReadAt(b, int64(w*pg))), errStorage)
		if !known(w) {
			t.Fatalf("window %d is not known to have failed", w)
		}
	}
	all := 0
	for w := range windows {
		if known(w) {
			all++
		}
	}
	if all < 900 || all > 1100 {
		t.Errorf("of %d windows that have failed %d are known", windows, all)
	}
}

// Evicted pages come again, and what was written is gone.
func TestEvict(t *testing.T) {
	size := 8*pg - 9
	for name, s := range kinds(t, size) {
		t.Run(name, func(t *testing.T) {
			src := newSource(size)
			m, p := paged[mmap.ReadWrite](t, s, src, paging.Window(2*pg))
			check(t, p.Fetch(t.Context(), 0, size))
			check(t, testkit.Second(m.WriteAt([]byte{0}, int64(5*pg))))
			end := size
			if name == "memfd" {
				end = 7 * pg // see TestEvictPart
			}
			check(t, p.Evict(4*pg, end-4*pg))
			wants(t, "evicted", testkit.Second(m.ReadAt(make([]byte, 1), int64(5*pg))), paging.ErrAbsent)
			check(t, testkit.Second(m.ReadAt(make([]byte, 4*pg), 0)))
			b := make([]byte, size)
			check(t, testkit.Second(p.ReadAt(b, 0)))
			if !bytes.Equal(b, src.data) {
				t.Error("contents differ")
			}
			for _, c := range [][2]int{{1, pg}, {0, pg - 1}, {-1, 1}, {0, size + 1}, {pg, int(^uint(0) >> 1)}} {
				wants(t, fmt.Sprint("evict ", c), p.Evict(c[0], c[1]), os.ErrInvalid)
			}
			check(t, p.Evict(size, 0))
		})
	}
}

// A mapping of a part of a file leaves the other bytes of the file alone, also where they share
// a page with it.
func TestEvictPart(t *testing.T) {
	for _, n := range []int{1, 100, pg - 1, pg, pg + 1, 3*pg - 1, 3 * pg, 3*pg + 7} {
		for _, later := range []bool{false, true} { // the file is longer, or becomes so
			f, err := mmap.Memfd("paged", int64(n), 0)
			check(t, err)
			defer f.Close()
			end := bytes.Repeat([]byte{0xee}, 5*pg-n)
			grow := func() { check(t, testkit.Second(f.WriteAt(end, int64(n)))) }
			if !later {
				grow()
			}
			src := newSource(5 * pg)
			_, p := paged[mmap.ReadWrite](t, mmap.File(f, 0, n).Shared(), src, paging.Window(2*pg))
			check(t, p.Fetch(t.Context(), 0, n))
			if later {
				// What the source has there does not become a part of the file.
				check(t, f.Truncate(int64(5*pg)))
				b := make([]byte, len(end))
				if check(t, testkit.Second(f.ReadAt(b, int64(n)))); !bytes.Equal(b, make([]byte, len(b))) {
					t.Errorf("mapping %d bytes: the source has written behind them", n)
				}
				grow()
			}
			whole, err := n/pg*pg, p.Evict(0, n)
			switch {
			case n == whole:
				check(t, err)
			default:
				testkit.Explained(t, fmt.Sprint("evict ", n), err, os.ErrInvalid, "evict", "other bytes of the file")
				check(t, p.Evict(0, whole))
			}
			want := bytes.Clone(src.data[:n])
			if !later {
				clear(want[whole:]) // this page was in memory
			}
			b := make([]byte, len(end))
			if check(t, testkit.Second(f.ReadAt(b, int64(n)))); !bytes.Equal(b, end) {
				t.Errorf("mapping %d bytes: the bytes of the file behind them have changed", n)
			}
			b = make([]byte, n)
			if check(t, testkit.Second(p.ReadAt(b, 0))); !bytes.Equal(b, want) {
				t.Errorf("mapping %d bytes: contents differ", n)
			}
		}
	}
}

// No absent page reads as zeros: not by the transitions, which are refused, and not when
// the mapping has been closed under a pin.
func TestNoZeros(t *testing.T) {
	size := 4 * pg
	for name, s := range kinds(t, size) {
		t.Run(name, func(t *testing.T) {
			m, p := paged[mmap.ReadWrite](t, s, newSource(size))
			for what, err := range map[string]error{
				"protect": testkit.Second(mmap.Protect[mmap.Read](m)), "resize": testkit.Second(mmap.Resize(m, pg)), "over": testkit.Second(mmap.Over[mmap.ReadWrite](m, mmap.Anonymous(size))),
				"move": testkit.Second(mmap.Move(m, m.Addr())), "forget": testkit.Second(mmap.Forget(m)), "page": testkit.Second(paging.New(m, newSource(size))),
			} {
				wants(t, what, err, mmap.ErrBusy)
			}
			if mmap.Probe("MADV_GUARD_INSTALL") == nil {
				wants(t, "guard pages", m.InstallGuardPages(0, pg), mmap.ErrBusy)
			}
			check(t, m.Discard(0, pg)) // of nothing
			check(t, p.Fetch(t.Context(), 0, 1))
			check(t, p.Evict(pg, pg))
			pin, err := m.Pin()
			check(t, err)
			check(t, p.Close())
			err = mmap.Guard(func() error {
				if v := pin.Bytes()[pg]; v == 0 {
					t.Error("an absent page reads as zeros")
				}
				return nil
			}, pin)
			wants(t, "a pinned page after Close", err, mmap.ErrFault, paging.ErrAbsent)
			for what, err := range map[string]error{
				"ReadAt": testkit.Second(p.ReadAt(make([]byte, 1), 0)), "Fetch": p.Fetch(t.Context(), 0, 1), "Evict": p.Evict(0, pg),
				"ViewRange": p.ViewRange(0, 1, nil), "View": p.View(nil), "Close": p.Close(),
			} {
				wants(t, what+" after Close", err, mmap.ErrClosed)
			}
			check(t, pin.Unpin())
		})
	}
}

// What is sealed can be fetched, and evicted only if it can be written.
func TestSealed(t *testing.T) {
	if !testkit.ByItself(t) {
		return // which ends with a sealed mapping
	}
	testkit.Needs(t, "mseal")
	src := newSource(4 * pg)
	m, p := paged[mmap.Read](t, mmap.Anonymous(4*pg), src)
	w, q := paged[mmap.ReadWrite](t, mmap.Anonymous(4*pg), src)
	check(t, errors.Join(m.Seal(), w.Seal()))
	check(t, errors.Join(p.Fetch(t.Context(), 0, 4*pg), q.Fetch(t.Context(), 0, 4*pg)))
	wants(t, "what can be read only", p.Evict(0, 4*pg), mmap.ErrSealed)
	check(t, testkit.Second(m.ReadAt(make([]byte, 4*pg), 0)))
	check(t, q.Evict(0, 4*pg))
	wants(t, "evicted", testkit.Second(w.ReadAt(make([]byte, 1), 0)), paging.ErrAbsent)
}

func TestGrow(t *testing.T) {
	src := newSource(12 * pg)
	m, p := paged[mmap.ReadWrite](t, mmap.Anonymous(2*pg-10).Reserve(12*pg), src, paging.Window(4*pg))
	b := make([]byte, 12*pg)
	n, err := p.ReadAt(b, 0)
	if wants(t, "before", err, io.EOF); n != 2*pg-10 || !bytes.Equal(b[:n], src.data[:n]) {
		t.Errorf("%d bytes", n)
	}
	check(t, mmap.Grow(m, 12*pg))
	wants(t, "the new pages", testkit.Second(m.ReadAt(b, int64(2*pg))), paging.ErrAbsent)
	check(t, testkit.Second(p.ReadAt(b, 0)))
	if !bytes.Equal(b, src.data) {
		t.Error("contents differ")
	}
}

// Fetching is no write, and neither is eviction: a cache that writes back.
func TestTracked(t *testing.T) {
	size := 8 * pg
	for name, s := range kinds(t, size) {
		t.Run(name, func(t *testing.T) {
			src := newSource(size)
			m, p := paged[mmap.ReadWrite](t, s, src, paging.Window(2*pg))
			check(t, p.Fetch(t.Context(), 0, pg))
			tracker, err := m.Track()
			if errors.Is(err, errors.ErrUnsupported) {
				t.Skip(err)
			}
			check(t, err)
			wants(t, "a second tracker", testkit.Second(m.Track()), mmap.ErrBusy)
			written := func(want ...mmap.Span) {
				t.Helper()
				got, err := tracker.Take(0, size)
				if check(t, err); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("written: %v, want %v", got, want)
				}
			}
			check(t, p.Fetch(t.Context(), 0, size))
			check(t, testkit.Second(p.ReadAt(make([]byte, size), 0)))
			written()
			check(t, testkit.Second(m.WriteAt([]byte{7}, int64(5*pg))))
			spans, err := tracker.Take(0, size)
			if check(t, err); len(spans) != 1 || spans[0] != (mmap.Span{Off: 5 * pg, Len: pg}) {
				t.Fatal(spans)
			}
			check(t, testkit.Second(m.ReadAt(src.data[5*pg:6*pg], int64(5*pg)))) // it is saved
			check(t, p.Evict(4*pg, 4*pg))
			written()
			b := make([]byte, size)
			check(t, testkit.Second(p.ReadAt(b, 0)))
			if b[5*pg] != 7 || !bytes.Equal(b, src.data) {
				t.Error("what was saved does not come again")
			}
			written()
			check(t, testkit.Second(m.WriteAt([]byte{7}, 0)))
			written(mmap.Span{Off: 0, Len: pg})
			check(t, tracker.Close())
			wants(t, "Take after Close", testkit.Second(tracker.Take(0, 0)), mmap.ErrClosed)
			check(t, p.Evict(0, size))
			wants(t, "absent without the tracker", testkit.Second(m.ReadAt(b, 0)), paging.ErrAbsent)
			check(t, testkit.Second(p.ReadAt(b, 0)))
			tracker, err = m.Track()
			check(t, err)
			written()
		})
	}
}

// A feeding source must not eat.
type nested struct {
	read func(b []byte, off int64) (int, error)
}

func (n *nested) ReadAt(b []byte, off int64) (int, error) { return n.read(b, off) }

func TestNested(t *testing.T) {
	src := &nested{}
	m, p := paged[mmap.Read](t, mmap.Anonymous(8*pg), src, paging.Window(pg))
	for what, read := range map[string]func(b []byte, off int64) (int, error){
		"by the pager, the same page":    func(b []byte, off int64) (int, error) { return p.ReadAt(b, off) },
		"by the pager, another page":     func(b []byte, off int64) (int, error) { return p.ReadAt(b, off+int64(2*pg)) },
		"by the mapping":                 func(b []byte, off int64) (int, error) { return m.ReadAt(b, off) },
		"by Fetch":                       func(b []byte, off int64) (int, error) { return len(b), p.Fetch(t.Context(), 0, 8*pg) },
		"by Fetch, which fails, and say": func(b []byte, off int64) (int, error) { return 0, p.Fetch(t.Context(), 0, 8*pg) },
	} {
		if what == "by Fetch" {
			continue // a source that hides the error has the bytes
		}
		src.read = read
		done := make(chan error, 1)
		go func() { done <- testkit.Second(p.ReadAt(make([]byte, 1), 0)) }()
		select {
		case err := <-done:
			if err == nil {
				t.Errorf("%s: no error", what)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: hangs", what)
		}
	}
	// A panic goes on, and leaves nothing behind.
	src.read = func([]byte, int64) (int, error) { panic("source") }
	func() {
		defer func() {
			if recover() != "source" {
				t.Error("the panic is lost")
			}
		}()
		p.ReadAt(make([]byte, 1), 0)
	}()
	src.read = newSource(8 * pg).ReadAt
	check(t, testkit.Second(p.ReadAt(make([]byte, 8*pg), 0)))
}

func TestArguments(t *testing.T) {
	size := 4 * pg
	m, p := paged[mmap.Read](t, mmap.Anonymous(size), newSource(size))
	for _, c := range [][2]int{{-1, 1}, {0, -1}, {0, size + 1}, {size + 1, 0}, {pg, int(^uint(0) >> 1)}} {
		for what, err := range map[string]error{"fetch": p.Fetch(t.Context(), c[0], c[1]), "view": p.ViewRange(c[0], c[1], nil), "evict": p.Evict(c[0], c[1])} {
			testkit.Explained(t, what, err, os.ErrInvalid, what, fmt.Sprint(c[0]), fmt.Sprint(c[1]))
		}
	}
	wants(t, "a negative offset", testkit.Second(p.ReadAt(nil, -1)), os.ErrInvalid)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wants(t, "a context that is done", p.Fetch(ctx, 0, size), context.Canceled)
	_, err := paging.New(m, bytes.NewReader(make([]byte, 1<<20)), paging.Window(0))
	testkit.Explained(t, "no window", err, os.ErrInvalid, "a window of 0 bytes", "*bytes.Reader")
	if n := len(err.Error()); n > 200 {
		t.Errorf("an error of %d bytes, with the source in it", n)
	}
	wants(t, "no source", testkit.Second(paging.New(m, nil)), os.ErrInvalid)
	wants(t, "no mapping", testkit.Second(paging.New(mmap.Read{}, newSource(1))), mmap.ErrClosed)
	f, _ := testkit.Scratch(t, size)
	file, err := mmap.Map[mmap.Read](mmap.File(f, 0, size))
	check(t, err)
	defer file.Close()
	if mmap.Probe("UFFD_FEATURE_WP_ASYNC") == nil {
		_, err = paging.New(file, newSource(size))
		wants(t, "a file", err, errors.ErrUnsupported)
	}
	locked, err := mmap.Map[mmap.Read](mmap.Anonymous(pg).Lock().Reserve(2 * pg))
	check(t, err)
	defer locked.Close()
	_, err = paging.New(locked, newSource(size))
	wants(t, "memory that Grow would bring in", err, os.ErrInvalid)
	_, p = paged[mmap.Read](t, mmap.Anonymous(0), newSource(0))
	check(t, p.Fetch(t.Context(), 0, 0))
}

// Each window is read once, whoever asks at the same time.
func TestOnce(t *testing.T) {
	size := 64 * pg
	src := newSource(size)
	src.slow = 5 * time.Millisecond
	_, p := paged[mmap.Read](t, mmap.Anonymous(size), src, paging.Window(8*pg))
	var all sync.WaitGroup
	start := time.Now()
	for range 8 {
		all.Go(func() {
			b := make([]byte, size)
			if _, err := p.ReadAt(b, 0); err != nil || !bytes.Equal(b, src.data) {
				t.Error("contents differ", err)
			}
		})
	}
	all.Wait()
	if n := src.reads.Load(); n != 8 {
		t.Errorf("%d reads of 8 windows", n)
	}
	t.Logf("8 reads of 5 ms took %v", time.Since(start))
}

// TestHarsh: one processor, a collection all the time, eviction, a source that fails and
// recovers, no privileges. It ends, and what is read is right.
func TestHarsh(t *testing.T) {
	if !testkit.ByItself(t) {
		return
	}
	testkit.Humble(t)
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(1)
	watchdog := time.AfterFunc(time.Minute, func() { panic("it hangs") })
	defer watchdog.Stop()
	size := 256 * pg
	for name, s := range kinds(t, size) {
		src := newSource(size)
		_, p := paged[mmap.ReadWrite](t, s, src, paging.Window(4*pg))
		var stop atomic.Bool
		var all sync.WaitGroup
		var right, failed atomic.Int64
		for seed := range 8 {
			all.Go(func() {
				b := make([]byte, 3*pg)
				for i := seed; !stop.Load(); i++ {
					off := i * 7919 % (size - len(b))
					var err error
					switch i % 3 {
					case 0:
						_, err = p.ReadAt(b, int64(off))
					case 1:
						err = p.ViewRange(off, len(b), func(v []byte) error { copy(b, v); return nil })
					default:
						err = p.View(func(v []byte) error { copy(b, v[off:]); return nil })
					}
					switch {
					case errors.Is(err, errStorage):
						failed.Add(1)
					case err != nil:
						t.Error(err)
						return
					case !bytes.Equal(b, src.data[off:off+len(b)]):
						t.Errorf("what is read at %d differs", off)
						return
					default:
						right.Add(1)
					}
				}
			})
		}
		all.Go(func() {
			for i := 0; !stop.Load(); i++ {
				src.fail([]error{nil, nil, errStorage}[i%3])
				for off := 0; off < size; off += 4 * pg {
					if err := p.Evict(off, 4*pg); err != nil && !errors.Is(err, mmap.ErrBusy) {
						t.Error(err)
					}
				}
				time.Sleep(time.Millisecond)
			}
			src.fail(nil)
		})
		all.Go(func() {
			for !stop.Load() {
				runtime.GC()
			}
		})
		time.Sleep(2 * time.Second)
		stop.Store(true)
		all.Wait()
		if t.Logf("%s: %d right, %d failed, %d reads", name, right.Load(), failed.Load(), src.reads.Load()); right.Load() < 10 || failed.Load() == 0 {
			t.Error("too little was done")
		}
	}
}

// TestCollected: a mapping that nobody has any more is unmapped, with its pager.
func TestCollected(t *testing.T) {
	testkit.Needs(t, "UFFD_FEATURE_SIGBUS")
	if !testkit.ByItself(t) {
		return
	}
	func() {
		_, err := mmap.Map[mmap.Read](mmap.Anonymous(0))
		check(t, err)
		m, err := mmap.Map[mmap.Read](mmap.Anonymous(pg))
		check(t, err)
		p, err := paging.New(m, newSource(pg))
		check(t, err)
		check(t, testkit.Second(p.ReadAt(make([]byte, 1), 0)))
	}()
	for range 100 {
		runtime.GC()
		time.Sleep(time.Millisecond)
		fds, err := os.ReadDir("/proc/self/fd")
		check(t, err)
		left := 0
		for _, fd := range fds {
			if name, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.Contains(name, "userfaultfd") {
				left++
			}
		}
		if left == 0 {
			return
		}
	}
	t.Error("the descriptor is still open")
}

// TestModel compares random operations with a plain slice.
func TestModel(t *testing.T) {
	testkit.Needs(t, "UFFD_FEATURE_SIGBUS")
	const pages = 12
	for name, s := range kinds(t, pages*pg) {
		size := pages * pg
		if name == "private" {
			size -= 5
			s = mmap.Anonymous(size)
		}
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				src := newSource(size)
				m, err := mmap.Map[mmap.ReadWrite](s)
				if err != nil {
					t.Fatal(err)
				}
				if name == "memfd" { // which other runs have filled
					if err := m.Punch(0, size); err != nil {
						t.Fatal(err)
					}
				}
				window, from := rapid.IntRange(1, 4).Draw(t, "window")*pg, 0
				p, err := paging.New(m, src, paging.Window(window))
				if errors.Is(err, errors.ErrUnsupported) {
					m.Close()
					t.Skip(err)
				} else if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				want := bytes.Clone(src.data)
				draw := func(t *rapid.T) (off, n int) {
					off = rapid.IntRange(0, size-1).Draw(t, "off")
					return off, rapid.IntRange(0, min(3*pg, size-off)).Draw(t, "n")
				}
				fails := false
				failed := func(t *rapid.T, err error) bool {
					if err != nil && !(fails && errors.Is(err, errStorage)) {
						t.Fatal(err)
					}
					return err != nil
				}
				same := func(t *rapid.T, b []byte, off int) {
					if !bytes.Equal(b, want[off:off+len(b)]) {
						t.Fatalf("%d bytes at %d differ", len(b), off)
					}
				}
				closed := false
				actions := map[string]func(*rapid.T){
					"read": func(t *rapid.T) {
						off, n := draw(t)
						b := make([]byte, n)
						k, err := p.ReadAt(b, int64(off))
						if same(t, b[:k], off); !failed(t, err) && k != n {
							t.Fatal(k)
						}
						if err != nil { // it has stopped no earlier than it must
							_, err = m.ReadAt(b[:1], int64(off+k))
							if end := (off+k)/window*window + window; !errors.Is(err, paging.ErrAbsent) || min(end, size) <= from {
								t.Fatalf("%d bytes of %d at %d: %v", k, n, off, err)
							}
						}
					},
					"view range": func(t *rapid.T) {
						off, n := draw(t)
						failed(t, p.ViewRange(off, n, func(b []byte) error { same(t, b, off); return nil }))
					},
					"view": func(t *rapid.T) {
						off, n := draw(t)
						failed(t, p.View(func(b []byte) error { same(t, b[off:off+n], off); return nil }))
					},
					"mapping": func(t *rapid.T) {
						off, n := draw(t)
						b := make([]byte, n)
						k, err := m.ReadAt(b, int64(off))
						if same(t, b[:k], off); err != nil && !errors.Is(err, paging.ErrAbsent) {
							t.Fatal(err)
						}
					},
					"write": func(t *rapid.T) {
						off, n := draw(t)
						b := bytes.Repeat([]byte{rapid.Byte().Draw(t, "value")}, n)
						if !failed(t, p.Fetch(context.Background(), off, n)) {
							if _, err := m.WriteAt(b, int64(off)); err != nil {
								t.Fatal(err)
							}
							copy(want[off:], b)
						}
					},
					"evict": func(t *rapid.T) {
						first := rapid.IntRange(0, pages-1).Draw(t, "page")
						end := min(size, (first+rapid.IntRange(1, 4).Draw(t, "pages"))*pg)
						if err := p.Evict(first*pg, end-first*pg); err != nil {
							t.Fatal(err)
						}
						copy(want[first*pg:end], src.data[first*pg:])
					},
					"discard": func(t *rapid.T) {
						first := rapid.IntRange(0, pages-1).Draw(t, "page")
						end := min(size, (first+1)*pg)
						if err := m.Discard(first*pg, end-first*pg); err != nil {
							t.Fatal(err)
						}
						if name == "private" { // of others the file has it
							copy(want[first*pg:end], src.data[first*pg:])
						}
					},
					"fail": func(t *rapid.T) {
						fails, from = true, rapid.IntRange(0, pages).Draw(t, "from")*pg
						src.from.Store(int64(from))
						src.fail(errStorage)
					},
					"recover": func(*rapid.T) { fails = false; src.fail(nil) },
					"close under a view": func(t *rapid.T) {
						if rapid.IntRange(0, 20).Draw(t, "close") > 0 {
							return
						}
						err := p.ViewRange(0, pg, func(b []byte) error {
							if err := p.Close(); err != nil {
								t.Fatal(err)
							}
							closed = true
							same(t, b, 0)
							return nil
						})
						failed(t, err)
					},
				}
				for name, action := range actions {
					actions[name] = func(t *rapid.T) {
						if !closed {
							action(t)
						} else if _, err := p.ReadAt(make([]byte, 1), 0); !errors.Is(err, mmap.ErrClosed) {
							t.Fatal(err)
						}
					}
				}
				t.Repeat(actions)
			})
		})
	}
}

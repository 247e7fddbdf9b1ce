//go:build linux

package mmap_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"testing"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/testkit"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// TestTrackOperations runs random sequences of operations on tracked memory beside a model:
// the exact set of pages that were written, and their contents.
func TestTrackOperations(t *testing.T) {
	for _, feature := range []string{"UFFD_FEATURE_WP_ASYNC", "PAGEMAP_SCAN"} {
		if err := mmap.Probe(feature); err != nil {
			t.Skip(err)
		}
	}
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	const pages, reserve = 12, 24
	all, size := pages*onePage, reserve*onePage
	file := func(f *os.File, err error) *os.File {
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		if err := f.Truncate(int64(size)); err != nil {
			t.Fatal(err)
		}
		return f
	}
	onDisk := file(os.CreateTemp(t.TempDir(), "tracked"))
	memfd := file(mmap.Memfd("tracked", 0, 0))
	specs := map[string]mmap.Spec{
		"private": mmap.Anonymous(all), "shared": mmap.Anonymous(all).Shared(), "memfd": mmap.File(memfd, 0, all).Shared(),
		"private memfd": mmap.File(memfd, 0, all), "file": mmap.File(onDisk, 0, all).Shared(), "private file": mmap.File(onDisk, 0, all),
	}
	if testkit.HasSecret(t) {
		specs["secret"] = mmap.Secret(all)
	}
	run := func(name string, s mmap.Spec, pg, large int) {
		t.Run(name, func(t *testing.T) {
			actions, rounds := 0, rounds
			if large > 0 || pg > onePage {
				rounds = 1 // it takes much longer
			}
			for range rounds {
				rapid.Check(t, trackOperations(s, name, pg, large, &actions))
			}
			t.Logf("%d actions", actions)
		})
	}
	for name, s := range specs {
		run(name, s.Reserve(size), onePage, 0)
	}
	if thp := mmap.TransparentHuge(); thp > 0 {
		run("transparent huge", mmap.Anonymous(2*thp).Align(thp), onePage, thp/onePage)
	}
	t.Run("pool", func(t *testing.T) {
		huge := mmap.WithHugePages(t, 8)
		run("huge", mmap.Anonymous(3*huge).HugePages(0).Reserve(6*huge), huge, 0)
	})
}

// A trackMachine is the model of one tracked mapping.
type trackMachine struct {
	m       mmap.ReadWrite
	tracker *mmap.Tracker
	pg      int    // the size of a page
	large   int    // pages that are drawn as one now and then, as a huge page is; 0: none
	looked  int    // at how many pages
	written []bool // by page
	data    []byte // what each page holds
	file    []byte // what a discarded page of a private file shows; nil: it becomes zeros, or stays
	stays   bool   // what is discarded: it is in the file
	freed   []bool // a page whose contents may be zeros, or not
	guard   []bool
}

func trackOperations(s mmap.Spec, kind string, pg, large int, actions *int) func(*rapid.T) {
	return func(t *rapid.T) {
		m, err := mmap.Map[mmap.ReadWrite](s)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if kind == "transparent huge" {
			m.Advise(0, m.Len(), mmap.AdviceHugePage)
		}
		n := m.Cap() / pg
		x := &trackMachine{m: m, pg: pg, large: large, written: make([]bool, m.Len()/pg), freed: make([]bool, n), guard: make([]bool, n)}
		x.stays = kind == "shared" || kind == "memfd" || kind == "file" || kind == "secret"
		x.data = make([]byte, m.Len())
		if _, err := m.ReadAt(x.data, 0); err != nil {
			t.Fatal(err)
		}
		if kind == "private memfd" || kind == "private file" {
			x.file = make([]byte, m.Cap()) // nobody has written to it, or only through a mapping
			if err := readSpec(s, x.file); err != nil {
				t.Fatal(err)
			}
		}
		if x.tracker, err = m.Track(); err != nil {
			t.Fatal(err)
		}
		t.Repeat(map[string]func(*rapid.T){
			"":             func(t *rapid.T) { *actions++; x.check(t) },
			"write":        x.write,
			"write more":   x.write,
			"kernel write": x.kernelWrite,
			"update":       x.update,
			"discard":      x.destroy(mmap.ReadWrite.Discard, x.discarded),
			"punch":        x.destroy(mmap.ReadWrite.Punch, func(page int) { clear(x.page(page)) }),
			"free":         x.destroy(mmap.ReadWrite.Free, func(page int) { x.freed[page] = true }),
			"guard":        x.destroy(mmap.ReadWrite.InstallGuardPages, func(page int) { x.discarded(page); x.guard[page] = true }),
			"unguard": x.destroy(mmap.ReadWrite.RemoveGuardPages, func(page int) {
				x.guard[page] = false
			}),
			"prefault": x.prefault,
			"grow":     x.grow,
			"take":     x.take,
			"mark":     x.mark,
			"reset":    x.reset,
			"again":    x.again,
			"transit": func(t *rapid.T) {
				if _, err := mmap.Protect[mmap.Read](x.m); !errors.Is(err, mmap.ErrBusy) {
					t.Fatalf("a transition: %v", err)
				}
			},
		})
	}
}

// readSpec reads what a file shows.
func readSpec(s mmap.Spec, to []byte) error {
	m, err := mmap.Map[mmap.Read](s)
	if err != nil {
		return err
	}
	defer m.Close()
	if err = mmap.Grow(m, m.Cap()); err == nil {
		_, err = m.ReadAt(to, 0)
	}
	return err
}

func (x *trackMachine) page(i int) []byte { return x.data[i*x.pg : (i+1)*x.pg] }

func (x *trackMachine) discarded(page int) {
	switch {
	case x.stays:
	case x.file != nil:
		copy(x.page(page), x.file[page*x.pg:])
	default:
		clear(x.page(page))
	}
	x.freed[page] = false
}

// draw draws a range of pages.
func (x *trackMachine) draw(t *rapid.T) (first, n int) {
	if x.large > 0 && rapid.IntRange(0, 3).Draw(t, "large") == 0 {
		return rapid.IntRange(0, len(x.written)/x.large-1).Draw(t, "page") * x.large, x.large
	}
	first = rapid.IntRange(0, len(x.written)-1).Draw(t, "page")
	return first, rapid.IntRange(1, min(4, len(x.written)-first)).Draw(t, "pages")
}

// compare fails unless spans are the pages of a range that the model has as written. A page
// that was freed can be dropped at any time, and then counts as written.
func (x *trackMachine) compare(t *rapid.T, what string, spans []mmap.Span, err error, first, n int) {
	t.Helper()
	is, end := make([]bool, len(x.written)), -1
	for _, s := range spans {
		if s.Off%x.pg != 0 || s.Len <= 0 || s.Len%x.pg != 0 || s.Off <= end || s.Off < first*x.pg || s.Off+s.Len > (first+n)*x.pg {
			t.Fatalf("%s: spans %v of %d pages at page %d", what, spans, n, first)
		}
		for end = s.Off + s.Len; s.Len > 0; s.Len -= x.pg {
			is[(s.Off+s.Len)/x.pg-1] = true
		}
	}
	for i := first; i < first+n && err == nil; i++ {
		if x.freed[i] && is[i] {
			x.written[i] = true
		}
		if is[i] != x.written[i] {
			t.Fatalf("%s: %v, but page %d was written: %v", what, spans, i, x.written[i])
		}
	}
	if err != nil {
		t.Fatal(what, err)
	}
}

func (x *trackMachine) set(first, n int, written bool) {
	for i := first; i < first+n; i++ {
		x.written[i] = written
	}
}

func (x *trackMachine) check(t *rapid.T) {
	got, err := x.tracker.Written(0, x.m.Len())
	x.compare(t, "written", got, err, 0, len(x.written))
	b := make([]byte, x.pg)
	for i := range x.written {
		if most := 24; len(x.written)*x.pg > most*onePage { // dear
			if i >= most*onePage/x.pg+1 {
				break
			}
			x.looked++
			i = x.looked % len(x.written)
		}
		n, err := x.m.ReadAt(b, int64(i*x.pg))
		switch {
		case x.guard[i] && (n > 0 || !errors.Is(err, mmap.ErrFault)):
			t.Fatalf("page %d is a guard page: %d, %v", i, n, err)
		case x.guard[i]:
		case err != nil:
			t.Fatal(err)
		case !bytes.Equal(b, x.page(i)) && !(x.freed[i] && len(bytes.TrimLeft(b, "\x00")) == 0):
			t.Fatalf("page %d differs", i)
		}
	}
	// To read has written nothing.
	got, err = x.tracker.Written(0, x.m.Len())
	x.compare(t, "after reads", got, err, 0, len(x.written))
}

// guarded reports whether a range has a guard page, at which an access would stop.
func (x *trackMachine) guarded(first, n int) bool {
	return slices.Contains(x.guard[first:first+n], true)
}

func (x *trackMachine) bytes(t *rapid.T) (b []byte, off int) {
	first, n := x.draw(t)
	if x.guarded(first, n) {
		return nil, 0
	}
	off = first*x.pg + rapid.IntRange(0, x.pg-1).Draw(t, "at")
	b = bytes.Repeat([]byte{rapid.Byte().Draw(t, "value")}, rapid.IntRange(1, min(4*onePage, (first+n)*x.pg-off)).Draw(t, "bytes"))
	return b, off
}

// wrote notes a write.
func (x *trackMachine) wrote(b []byte, off int) {
	if len(b) == 0 {
		return
	}
	copy(x.data[off:], b)
	for i := off / x.pg; i*x.pg < off+len(b); i++ {
		x.written[i], x.freed[i] = true, false
	}
}

func (x *trackMachine) write(t *rapid.T) {
	b, off := x.bytes(t)
	x.refresh(off, len(b))
	if _, err := x.m.WriteAt(b, int64(off)); err != nil {
		t.Fatal(err)
	}
	x.wrote(b, off)
}

// refresh takes what freed pages show by now, of which a write keeps the rest.
func (x *trackMachine) refresh(off, n int) {
	for i := off / x.pg; i*x.pg < off+n; i++ {
		if x.freed[i] {
			x.m.ReadAt(x.page(i), int64(i*x.pg))
		}
	}
}

// kernelWrite has the kernel write, which cannot do so to secret memory.
func (x *trackMachine) kernelWrite(t *rapid.T) {
	b, off := x.bytes(t)
	b = b[:min(len(b), 4*onePage)] // what a pipe holds
	if len(b) == 0 {
		return
	}
	x.refresh(off, len(b))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err = w.Write(b); err != nil {
		t.Fatal(err)
	}
	w.Close()
	n := 0
	err = x.m.UpdateRange(off, len(b), func(p []byte) (err error) {
		n, err = io.ReadFull(r, p)
		return err
	})
	if err != nil && !errors.Is(err, unix.EFAULT) {
		t.Fatal(err)
	}
	x.wrote(b[:n], off)
}

func (x *trackMachine) update(t *rapid.T) {
	b, off := x.bytes(t)
	if len(b) == 0 {
		return
	}
	x.refresh(off, len(b))
	if err := x.m.UpdateRange(off, len(b), func(p []byte) error { copy(p, b); return nil }); err != nil {
		t.Fatal(err)
	}
	x.wrote(b, off)
}

// destroy gives a call that destroys contents. The pages count as written if it fails, too.
func (x *trackMachine) destroy(f func(m mmap.ReadWrite, off, n int) error, effect func(page int)) func(*rapid.T) {
	return func(t *rapid.T) {
		first, n := x.draw(t)
		err := f(x.m, first*x.pg, n*x.pg)
		if errors.Is(err, mmap.ErrBusy) {
			return // guard pages of what is not private and anonymous
		}
		x.set(first, n, true)
		for i := first; i < first+n && err == nil; i++ {
			effect(i)
		}
	}
}

// prefault brings pages in for reading, which writes nothing.
func (x *trackMachine) prefault(t *rapid.T) {
	first, n := x.draw(t)
	x.m.Prefault(first*x.pg, n*x.pg)
	x.m.Advise(first*x.pg, n*x.pg, mmap.AdvicePageOut)
}

func (x *trackMachine) grow(t *rapid.T) {
	if len(x.written) == x.m.Cap()/x.pg {
		return
	}
	was, n := len(x.data), rapid.IntRange(1, x.m.Cap()/x.pg-len(x.written)).Draw(t, "more")
	if err := mmap.Grow(x.m, was+n*x.pg); err != nil {
		t.Fatal(err)
	}
	x.data, x.written = append(x.data, make([]byte, n*x.pg)...), append(x.written, make([]bool, n)...)
	if _, err := x.m.ReadAt(x.data[was:], int64(was)); err != nil {
		t.Fatal(err)
	}
}

func (x *trackMachine) take(t *rapid.T) {
	first, n := x.draw(t)
	got, err := x.tracker.Take(first*x.pg, n*x.pg)
	x.compare(t, "take", got, err, first, n)
	x.set(first, n, false)
}

func (x *trackMachine) mark(t *rapid.T) {
	first, n := x.draw(t)
	if err := x.tracker.Mark(first*x.pg, n*x.pg); err != nil {
		t.Fatal(err)
	}
	x.set(first, n, true)
}

func (x *trackMachine) reset(t *rapid.T) {
	first, n := x.draw(t)
	if err := x.tracker.Reset(first*x.pg, n*x.pg); err != nil {
		t.Fatal(err)
	}
	x.set(first, n, false)
}

// again closes the tracker and begins anew.
func (x *trackMachine) again(t *rapid.T) {
	if err := x.tracker.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if x.tracker, err = x.m.Track(); err != nil {
		t.Fatal(err)
	}
	x.set(0, len(x.written), false)
}

//go:build linux

package mmap

import (
	"bytes"
	"io"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"unsafe"

	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// mapped maps s, and closes it at the end of the test.
func mapped[M Known](t testing.TB, s Spec) M {
	t.Helper()
	m, err := Map[M](s)
	check(t, err)
	was := m.Untyped()
	t.Cleanup(func() { Mapping{ticket{was.r, was.r.State()}}.Close() }) // the handle can be old by then
	return m
}

// tellsPages reports whether the kernel's table is asked with PROCMAP_QUERY,
// which also tells how large pages are.
func tellsPages(t testing.TB) bool {
	t.Helper()
	fd, err := sys.OpenSelfMaps()
	check(t, err)
	defer unix.Close(fd)
	_, err = (&sys.ProcmapQuery{Flags: sys.ProcmapNext}).Query(fd, nil)
	return err == nil
}

func TestHandleLayout(t *testing.T) {
	for _, h := range []any{None{}, Read{}, Write{}, Exec{}, ReadWrite{}, ReadExec{}, WriteExec{}, ReadWriteExec{}, Unknown{}} {
		typ := reflect.TypeOf(h)
		if typ.Size() != unsafe.Sizeof(ticket{}) || typ.Field(0).Type.Size() != 0 || typ.Field(1).Offset != 0 {
			t.Errorf("%v is not a marker and a ticket", typ)
		}
		inner := typ.Field(1).Type
		for inner != reflect.TypeFor[ticket]() {
			if inner.NumField() != 1 {
				t.Fatalf("%v: %v is not a ticket", typ, inner)
			}
			inner = inner.Field(0).Type
		}
	}
	if size := unsafe.Sizeof(region{}); size > 112 {
		t.Errorf("a region has %d bytes", size)
	}
}

// dead are all calls of a handle, and what each answers.
func dead(m ReadWrite) map[string]error {
	_, r := m.ReadAt(nil, 0)
	_, w := m.WriteAt(nil, 0)
	_, pin := m.Pin()
	_, _, release := m.Release()
	_, regions := m.Regions()
	_, protect := Protect[Read](m)
	_, over := Over[Read](m, Anonymous(0))
	_, resize := Resize(m, 1)
	_, _, split := Split(m, 0)
	_, join := Join(m, m)
	_, forget := Forget(m)
	return map[string]error{
		"ReadAt": r, "WriteAt": w, "Pin": pin, "Release": release, "Regions": regions,
		"View": m.View(nil), "Update": m.Update(nil), "Close": m.Close(),
		"Protect": protect, "Over": over, "Resize": resize, "Grow": Grow(m, 1),
		"Split": split, "Join": join, "Forget": forget,
	}
}

func TestDeadHandles(t *testing.T) {
	closed := mapped[ReadWrite](t, Anonymous(10))
	check(t, closed.Close())
	moved := mapped[ReadWrite](t, Anonymous(10))
	next, err := Protect[ReadWrite](moved)
	check(t, err)
	movedThenClosed := mapped[ReadWrite](t, Anonymous(10))
	last, err := Protect[ReadWrite](movedThenClosed)
	check(t, err)
	check(t, last.Close())
	released := mapped[ReadWrite](t, Anonymous(10))
	addr, size, err := released.Release()
	check(t, err)
	defer unix.MunmapPtr(*(*unsafe.Pointer)(unsafe.Pointer(&addr)), uintptr(size))
	joined := mapped[ReadWrite](t, Anonymous(2*int(pageSize)))
	left, right, err := Split(joined, int(pageSize))
	check(t, err)
	whole, err := Join(left, right)
	check(t, err)
	defer whole.Close()
	for _, c := range []struct {
		name string
		m    ReadWrite
		want error
	}{
		{"zero", ReadWrite{}, ErrClosed}, {"closed", closed, ErrClosed}, {"moved", moved, ErrMoved},
		{"moved then closed", movedThenClosed, ErrMoved}, {"released", released, ErrMoved},
		{"split", joined, ErrMoved}, {"joined left", left, ErrMoved}, {"joined right", right, ErrMoved},
	} {
		for call, err := range dead(c.m) {
			if call == "Join" && c.m.r != nil {
				continue // a mapping with itself
			}
			wants(t, c.name+" "+call, err, c.want)
		}
		if c.m.Len() != 0 || c.m.Cap() != 0 || c.m.Addr() != 0 || c.m.Prot() != ProtNone || c.m.UnsafeBytes() != nil {
			t.Errorf("%s: %d %d %#x %v", c.name, c.m.Len(), c.m.Cap(), c.m.Addr(), c.m.Prot())
		}
		if s := c.m.String(); !strings.Contains(s, "closed") && !strings.Contains(s, "moved") {
			t.Errorf("%s prints as %q", c.name, s)
		}
	}
	if next.Len() != 10 || next.Prot() != ProtRead|ProtWrite {
		t.Errorf("the new handle is %v", next)
	}
}

func TestReaderAt(t *testing.T) {
	for _, size := range []int{0, 1, int(pageSize) - 1, int(pageSize), 3*int(pageSize) + 5} {
		f, data := scratch(t, size)
		m := mapped[Read](t, Path(f.Name()))
		if err := iotest.TestReader(io.NewSectionReader(m, 0, int64(size)), data); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		for _, c := range []struct {
			off, n, want int
			err          error
		}{
			{0, size, size, nil}, {0, size + 1, size, io.EOF}, {size, 1, 0, io.EOF}, {size + 7, 1, 0, io.EOF},
			{size / 2, size, size - size/2, io.EOF}, {0, 0, 0, nil}, {size, 0, 0, nil}, {size + 1, 0, 0, nil},
		} {
			if c.n == c.want {
				c.err = nil
			}
			p := bytes.Repeat([]byte{0xee}, c.n)
			n, err := m.ReadAt(p, int64(c.off))
			if n != c.want || err != c.err {
				t.Errorf("%d bytes: ReadAt(%d at %d) = %d, %v; want %d, %v", size, c.n, c.off, n, err, c.want, c.err)
			}
			if c.want > 0 && !bytes.Equal(p[:n], data[c.off:c.off+n]) || !bytes.Equal(p[n:], bytes.Repeat([]byte{0xee}, c.n-n)) {
				t.Errorf("%d bytes: ReadAt(%d at %d) read something else", size, c.n, c.off)
			}
		}
		for _, off := range []int64{-1, -1 << 63} {
			n, err := m.ReadAt(make([]byte, 1), off)
			if wants(t, "negative offset", err, os.ErrInvalid, unix.EINVAL); n != 0 {
				t.Error(n)
			}
		}
		if n, err := m.ReadAt(make([]byte, 1), 1<<63-1); n != 0 || err != io.EOF {
			t.Errorf("at the largest offset: %d, %v", n, err)
		}
	}
}

func TestWriterAt(t *testing.T) {
	size := 2*int(pageSize) + 3
	f, data := scratch(t, size)
	m := mapped[ReadWrite](t, Path(f.Name()).Shared())
	w := mapped[Write](t, Path(f.Name()).Shared())
	for i, write := range []func([]byte, int64) (int, error){m.WriteAt, w.WriteAt} {
		for _, c := range []struct{ off, n, want int }{
			{0, 1, 1}, {int(pageSize) - 1, 2, 2}, {size - 1, 1, 1}, {size - 1, 2, 1}, {size, 1, 0}, {size + 9, 1, 0}, {5, 0, 0}, {size + 9, 0, 0},
		} {
			p := bytes.Repeat([]byte{byte(0xa0 + i)}, c.n)
			n, err := write(p, int64(c.off))
			if n != c.want || (err == nil) != (n == c.n) {
				t.Errorf("WriteAt(%d at %d) = %d, %v; want %d", c.n, c.off, n, err, c.want)
			}
			if n < c.n {
				wants(t, "short write", err, io.ErrShortWrite)
			}
			copy(data[min(c.off, size):], p[:n])
		}
		_, err := write([]byte{1}, -1)
		wants(t, "negative offset", err, os.ErrInvalid)
	}
	got, err := os.ReadFile(f.Name())
	check(t, err)
	if !bytes.Equal(got, data) {
		t.Error("the file has something else")
	}
}

func TestParallelAccess(t *testing.T) {
	m := mapped[ReadWrite](t, Anonymous(8*int(pageSize)))
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			want := bytes.Repeat([]byte{byte(g + 1)}, int(pageSize))
			for range 500 {
				if _, err := m.WriteAt(want, int64(g)*int64(pageSize)); err != nil {
					t.Error(err)
				}
				got := make([]byte, pageSize)
				if _, err := m.ReadAt(got, int64(g)*int64(pageSize)); err != nil || !bytes.Equal(got, want) {
					t.Error(err, "or another goroutine's bytes")
				}
			}
		})
	}
	wg.Wait()
	if _, err := Protect[Read](m); err != nil {
		t.Error("pins are left over:", err)
	}
}

func TestEmpty(t *testing.T) {
	f, _ := scratch(t, 0)
	for name, s := range map[string]Spec{
		"anonymous": Anonymous(0), "shared": Anonymous(0).Shared(), "path": Path(f.Name()), "file": File(f, 5, 0),
		"proc": Path("/proc/self/status"),
	} {
		m := mapped[ReadWrite](t, s)
		err := m.Update(func(b []byte) error {
			if b == nil || len(b) != 0 || cap(b) != 0 {
				t.Errorf("%s: %v", name, b)
			}
			return io.ErrNoProgress
		})
		wants(t, name, err, io.ErrNoProgress)
		ro, err := Protect[Read](m)
		check(t, err)
		u, err := Forget(ro)
		check(t, err)
		check(t, u.Protect(ProtExec))
		check(t, u.ProtectRange(0, 0, ProtRead))
		m, err = Assert[ReadWrite](u)
		check(t, err)
		l, r, err := Split(m, 0)
		check(t, err)
		m, err = Join(l, r)
		check(t, err)
		if regions, err := m.Regions(); err != nil || len(regions) != 0 {
			t.Error(name, regions, err)
		}
		m, err = Resize(m, 0)
		check(t, err)
		if grown, err := Resize(m, 10); strings.HasPrefix(name, "a") || name == "shared" {
			check(t, err)
			if n, err := grown.WriteAt(make([]byte, 10), 0); n != 10 || err != nil {
				t.Error(name, n, err)
			}
			m = grown
		} else {
			wants(t, name+" has no source", err, os.ErrInvalid)
		}
		check(t, m.Close())
	}
}

func TestNoAllocation(t *testing.T) {
	if testing.CoverMode() != "" {
		t.Skip("coverage changes what is allocated")
	}
	m := mapped[ReadWrite](t, Anonymous(4*int(pageSize)))
	u, err := Forget(mapped[ReadWrite](t, Anonymous(4*int(pageSize))))
	check(t, err)
	p := make([]byte, 100)
	f := func(b []byte) error { p[0] = b[0]; return nil }
	asking := 0.0
	if !tellsPages(t) {
		asking = 16 // reading the table, before Linux 6.11
	}
	for name, c := range map[string]struct {
		most float64
		f    func()
	}{
		"ReadAt": {0, func() { m.ReadAt(p, 3) }}, "WriteAt": {0, func() { m.WriteAt(p, 3) }},
		"View": {0, func() { m.View(f) }}, "Update": {0, func() { m.Update(func(b []byte) error { b[0] = p[0]; return nil }) }},
		"Pin": {1, func() { pin, _ := m.Pin(); pin.Unpin() }},
		"Protect": {0, func() {
			ro, _ := Protect[Read](m)
			m, _ = Protect[ReadWrite](ro)
		}},
		"Forget and Assert": {asking, func() {
			u, _ := Forget(m)
			m, _ = Assert[ReadWrite](u)
		}},
		"Unknown": {0, func() {
			u.ReadAt(p, 3)
			u.WriteAt(p, 3)
			u.View(f)
			u.UpdateRange(1, 5, f)
			u.Protect(ProtRead | ProtWrite)
		}},
	} {
		if n := testing.AllocsPerRun(100, c.f); n > c.most {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
	if m.Len() == 0 {
		t.Error("the mapping was lost on the way")
	}
}

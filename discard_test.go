//go:build linux

package mmap

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A destroyer is what handles that can be written have besides.
type destroyer interface {
	mapping
	PrefaultWrite(off, n int) error
	Discard(off, n int) error
	DiscardLocked(off, n int) error
	Free(off, n int) error
	Punch(off, n int) error
	WipeOnFork(off, n int) error
	InstallGuardPages(off, n int) error
	RemoveGuardPages(off, n int) error
}

// losses are the operations that destroy contents, and refuse parts of pages.
func losses(m destroyer) map[string]func(off, n int) error {
	return map[string]func(off, n int) error{
		"discard": m.Discard, "discard locked": m.DiscardLocked, "free": m.Free, "punch": m.Punch, "wipe on fork": m.WipeOnFork,
		"guard pages": m.InstallGuardPages, "guard pages removal": m.RemoveGuardPages,
	}
}

// What is left after Discard belongs to the file, or is zeros.
func TestDiscard(t *testing.T) {
	pg := int(pageSize)
	f, disk := scratch(t, 3*pg)
	zeros := make([]byte, 3*pg)
	for name, c := range map[string]struct {
		s    Spec
		want []byte // nil: what was written
	}{
		"anonymous": {Anonymous(3*pg - 5), zeros}, "private file": {File(f, 0, 3*pg-5), disk},
		"shared": {Anonymous(3*pg - 5).Shared(), nil}, "shared file": {File(must(Memfd("x", int64(3*pg), 0)), 0, 3*pg-5).Shared(), nil},
	} {
		for _, r := range [][2]int{{0, pg}, {pg, pg}, {pg, 2*pg - 5}, {0, 3*pg - 5}} {
			for op := range 2 {
				m := apart[ReadWrite](t, c.s, 3)
				want := fill(t, m)
				if err := [](func(off, n int) error){m.Discard, m.DiscardLocked}[op](r[0], r[1]); op == 1 && lacks(t, "MADV_DONTNEED_LOCKED", err) {
					continue
				} else if err != nil {
					t.Errorf("%s %v: %v", name, r, err)
				}
				pages := (r[1] + pg - 1) / pg
				if _, sum := smaps(t, m, 0, m.Len()); sum["Rss"] != (3-pages)*pg {
					t.Errorf("%s %v: %d bytes are left", name, r, sum["Rss"])
				}
				if c.want != nil {
					copy(want[r[0]:], c.want[r[0]:r[0]+r[1]])
				}
				holds(t, fmt.Sprint(name, r), m, 0, want)
				check(t, m.Close())
			}
		}
	}
	got, err := os.ReadFile(f.Name())
	if check(t, err); !bytes.Equal(got, disk) {
		t.Error("the file has changed")
	}
}

// Locked pages are not discarded by accident; on purpose they are, and stay
// locked.
func TestDiscardLocked(t *testing.T) {
	pg := int(pageSize)
	m, data := filled(t, 2*pg)
	check(t, m.Lock(pg, pg))
	for op, f := range losses(m) {
		if op == "discard locked" || op == "guard pages removal" || op == "wipe on fork" {
			continue
		}
		err := f(pg, pg)
		if op == "guard pages" && lacks(t, "MADV_GUARD_INSTALL", err) {
			continue
		}
		wants(t, op+" of locked pages", err, unix.EINVAL)
		if err == nil || !strings.Contains(err.Error(), "the pages are locked") {
			t.Error(err)
		}
	}
	holds(t, "locked", m, 0, data)
	if err := m.DiscardLocked(pg, pg); lacks(t, "MADV_DONTNEED_LOCKED", err) {
		return
	} else if err != nil {
		t.Error(err)
	}
	holds(t, "discarded", m, pg, make([]byte, pg))
	if got := pagesWith(t, m, "lo"); got != "-x" {
		t.Errorf("%s is locked", got)
	}
	if _, sum := smaps(t, m, pg, pg); sum["Locked"] != 0 && sum["Rss"] != pg {
		t.Error(sum)
	}
	// A refusal in the middle of a range comes after the pages before it.
	wants(t, "half locked", m.Discard(0, 2*pg), unix.EINVAL)
	holds(t, "half locked", m, pg, make([]byte, pg))
}

// In an Unknown the account is asked first, so that nothing is lost half-way.
func TestLossesPermission(t *testing.T) {
	pg := int(pageSize)
	for _, p := range []Prot{ProtNone, ProtRead, ProtRead | ProtExec} {
		m, data := filled(t, 3*pg)
		u := must(Forget(m))
		defer u.Close()
		check(t, u.ProtectRange(pg, pg, p))
		before := table(t, u)
		for op, f := range losses(u) {
			err := f(0, 3*pg)
			wants(t, op, err, ErrPermission, unix.EACCES)
			names(t, err, 0, 3*pg)
			if err != nil && !strings.Contains(err.Error(), fmt.Sprintf("%v page at offset %d", p, pg)) {
				t.Error(err)
			}
			wants(t, op, f(pg, pg), ErrPermission)
		}
		wants(t, "prefault for writing", u.PrefaultWrite(0, 3*pg), ErrPermission)
		check(t, u.Discard(2*pg, pg))
		check(t, u.PrefaultWrite(2*pg, pg))
		if after := table(t, u); after != before {
			t.Errorf("was\n%s\nis\n%s", before, after)
		}
		check(t, u.Protect(ProtRead|ProtWrite))
		holds(t, "unknown", u, 0, append(data[:2*pg], make([]byte, pg)...))
	}
}

func TestFree(t *testing.T) {
	pg := int(pageSize)
	m, data := filled(t, 128*pg)
	if err := m.Free(pg, 127*pg); lacks(t, "MADV_FREE", err) {
		return
	} else if err != nil {
		t.Error(err)
	}
	// The kernel marks pages in batches.
	if _, sum := smaps(t, m, 0, m.Len()); sum["LazyFree"] < 64*pg || sum["LazyFree"] > 127*pg || sum["Rss"] > m.Len() {
		t.Error(sum["LazyFree"], sum["Rss"])
	}
	got := make([]byte, pg)
	for off := 0; off < m.Len(); off += pg {
		check(t, second(m.ReadAt(got, int64(off))))
		if !bytes.Equal(got, data[off:off+pg]) && (off == 0 || !bytes.Equal(got, make([]byte, pg))) {
			t.Errorf("at %d: neither zeros nor what was", off)
		}
	}
	check(t, second(m.WriteAt(data, 0)))
	if _, sum := smaps(t, m, 0, m.Len()); sum["LazyFree"] != 0 {
		t.Error("pages that were written again may go: ", sum["LazyFree"])
	}
}

func TestPunch(t *testing.T) {
	pg := int(pageSize)
	block := 16 * pg // no file system has larger ones
	disk, _ := scratch(t, 3*block)
	for _, f := range []*os.File{disk, must(Memfd("punched", int64(3*block), 0))} {
		m := mapped[ReadWrite](t, File(f, 0, 3*block).Shared())
		other := mapped[Read](t, File(f, int64(block), 2*block))
		want := fill(t, m)
		check(t, f.Sync())
		before := storage(t, f)
		err := m.Punch(block, block)
		if errors.Is(err, errors.ErrUnsupported) {
			t.Logf("not tested: the file system of %s: %v", f.Name(), err)
			continue
		}
		check(t, err)
		if at, err := f.Seek(0, unix.SEEK_HOLE); err != nil || at != int64(block) {
			t.Errorf("%s: the hole is at %d, %v", f.Name(), at, err)
		}
		if after := storage(t, f); after != before-int64(block) {
			t.Errorf("%s: %d bytes of storage, before %d", f.Name(), after, before)
		}
		if st := must(f.Stat()); st.Size() != int64(3*block) {
			t.Error("the file has another size: ", st.Size())
		}
		clear(want[block : 2*block])
		holds(t, f.Name(), m, 0, want)
		holds(t, f.Name()+" elsewhere", other, 0, want[block:])
		f.Close()
	}
	m := mapped[ReadWrite](t, Anonymous(2*pg).Shared())
	want := fill(t, m)
	check(t, m.Punch(pg, pg))
	clear(want[pg:])
	holds(t, "shared anonymous", m, 0, want)
	if _, sum := smaps(t, m, 0, 2*pg); sum["Rss"] != 0 && sum["Rss"] > 2*pg {
		t.Error(sum)
	}
	// What may be punched depends on the source of these pages, not on that of others.
	f, _ := scratch(t, pg)
	u := must(MapUnknown(Anonymous(2*pg+10).Shared(), ProtRead|ProtWrite))
	defer u.Close()
	check(t, second(u.WriteAt([]byte{1}, int64(2*pg))))
	check(t, u.Place(0, File(f, 0, pg).Shared(), ProtRead|ProtWrite))
	check(t, u.Punch(2*pg, 10))
	holds(t, "shared anonymous behind a file", u, 2*pg, make([]byte, 10))
}

// Bytes of the file that are not in the mapping are not the mapping's to lose,
// though they share its first or last page.
func TestPunchOutside(t *testing.T) {
	pg := int(pageSize)
	f, data := scratch(t, 3*pg)
	for _, c := range []struct{ off, n int }{{100, pg - 100}, {100, 2*pg - 100}, {0, pg + 100}, {100, 7}, {pg + 9, 9}} {
		m := mapped[ReadWrite](t, File(f, int64(c.off), c.n).Shared())
		if err := m.Punch(0, c.n); errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		got, err := os.ReadFile(f.Name())
		check(t, err)
		if !bytes.Equal(got[:c.off], data[:c.off]) || !bytes.Equal(got[c.off+c.n:], data[c.off+c.n:]) {
			t.Errorf("Punch of %d bytes at file offset %d has destroyed bytes outside of the mapping", c.n, c.off)
		}
		check(t, os.WriteFile(f.Name(), data, 0))
	}
}

func TestGuardPages(t *testing.T) {
	pg := int(pageSize)
	m, data := guarding(t, 4*pg, pg, 2*pg)
	cause := guardCause(t, m, pg)
	if r := must(m.Regions()); len(r) != 1 {
		t.Error("the mapping is divided: ", r)
	}
	got := make([]byte, 4*pg)
	n, err := m.ReadAt(got, 3)
	if faults(t, "read", err, pg, cause); n != pg-3 || !bytes.Equal(got[:n], data[3:pg]) {
		t.Error(n)
	}
	n, err = m.WriteAt(data[9:], 9)
	if faults(t, "write", err, pg, cause); n != pg-9 {
		t.Error(n)
	}
	faults(t, "view", m.View(func(b []byte) error { got[0] = b[2*pg+1]; return nil }), 2*pg+1, cause)
	faults(t, "update", m.Update(func(b []byte) error { b[3*pg-1] = 1; return nil }), 3*pg-1, cause)
	faults(t, "prefault", m.Prefault(0, 4*pg), pg, cause)
	faults(t, "prefault for writing", m.PrefaultWrite(2*pg+5, 1), 2*pg, cause)
	faults(t, "lock", m.Lock(0, 4*pg), pg, cause)
	if got := pagesWith(t, m, "lo"); got != "----" {
		t.Errorf("%s is locked after all", got)
	}
	// The kernel, too, stops there.
	var p [2]int
	check(t, unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK))
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	b := m.UnsafeBytes()
	_, err = unix.Write(p[1], b[pg:2*pg])
	wants(t, "write(2) out of it", err, unix.EFAULT)
	check(t, second(unix.Write(p[1], b[:1])))
	_, err = unix.Read(p[0], b[2*pg:])
	wants(t, "read(2) into it", err, unix.EFAULT)
	check(t, m.InstallGuardPages(pg, pg)) // again
	holds(t, "before it", m, 0, data[:pg])
	holds(t, "after it", m, 3*pg, data[3*pg:])

	check(t, m.RemoveGuardPages(0, 2*pg)) // and a page that is none
	holds(t, "what was no guard page", m, 0, append(data[:pg:pg], make([]byte, pg)...))
	faults(t, "the other one", second(m.ReadAt(got[:1], int64(2*pg))), 2*pg, cause)
	check(t, m.Discard(2*pg, pg))
	faults(t, "after Discard", second(m.ReadAt(got[:1], int64(2*pg))), 2*pg, cause)
	check(t, m.RemoveGuardPages(2*pg, pg))
	check(t, m.Lock(0, 4*pg))
	wants(t, "locked", m.InstallGuardPages(0, pg), unix.EINVAL)
	check(t, m.RemoveGuardPages(0, 4*pg))
	holds(t, "at last", m, 0, append(data[:pg:pg], append(make([]byte, 2*pg), data[3*pg:]...)...))
}

// Guard pages belong to the pages, whatever happens to the handle.
func TestGuardPagesStay(t *testing.T) {
	pg := int(pageSize)
	m, data := guarding(t, 4*pg, pg, pg)
	cause := guardCause(t, m, pg)
	guarded := func(what string, m mapping) {
		t.Helper()
		faults(t, what, m.Prefault(0, m.Len()), pg, cause)
		u := m.(interface {
			ReadAt([]byte, int64) (int, error)
		})
		holds(t, what, u, 0, data[:pg])
		holds(t, what, u, 2*pg, data[2*pg:])
	}
	ro := must(Protect[Read](m))
	guarded("protected", ro)
	faults(t, "a store", ro.View(func(b []byte) error { b[pg] = 1; return nil }), pg, cause)
	u := must(Forget(ro))
	check(t, u.ProtectRange(pg, pg, ProtNone))
	wants(t, "no permission comes first", second(u.ReadAt(make([]byte, 1), int64(pg))), ErrPermission)
	check(t, u.Protect(ProtRead|ProtWrite))
	guarded("unknown", u)
	m = must(Assert[ReadWrite](u))
	l, r, err := Split(m, pg)
	check(t, err)
	faults(t, "the right side", r.Prefault(0, 1), 0, cause)
	m = must(Join(l, r))
	guarded("joined", m)
	m = must(Move(m, hole(t, 6)+pageSize))
	guarded("moved", m)
	at := m.Addr()
	wall := mapped[None](t, Anonymous(pg).At(at+4*pageSize))
	m = must(Resize(m, 9*pg))
	if m.Addr() == at {
		t.Error("resized through a wall")
	}
	check(t, wall.Close())
	data = append(data, make([]byte, 5*pg)...)
	guarded("resized", m)
	m = must(Over[ReadWrite](m, Anonymous(m.Len())))
	holds(t, "mapped over", m, 0, make([]byte, 9*pg))
	check(t, m.Close())
}

// In a file's mapping, the file stays what it is.
func TestGuardPagesFile(t *testing.T) {
	pg := int(pageSize)
	f, data := scratch(t, 3*pg)
	for _, s := range []Spec{File(f, 0, 3*pg), File(f, 0, 3*pg).Shared()} {
		m := mapped[ReadWrite](t, s)
		other := mapped[ReadWrite](t, File(f, 0, 3*pg).Shared())
		private := make([]byte, pg)
		check(t, second(m.WriteAt(private, int64(pg))))
		switch err := m.InstallGuardPages(pg, pg); {
		case lacks(t, "MADV_GUARD_INSTALL", err):
			return
		case errors.Is(err, unix.EINVAL):
			t.Skip("guard pages in a file need Linux 6.15: ", err)
		default:
			check(t, err)
		}
		faults(t, "file", m.Prefault(0, 3*pg), pg, ErrGuard)
		check(t, second(other.WriteAt([]byte("elsewhere"), int64(pg))))
		copy(data[pg:], must(os.ReadFile(f.Name()))[pg:2*pg])
		check(t, m.RemoveGuardPages(pg, pg))
		holds(t, "file", m, 0, data)
	}
}

// Huge pages are no place for guards, nor is a part of one for a loss.
func TestLossesHugePages(t *testing.T) {
	huge := int(withHugePages(t, 2))
	m := mapped[ReadWrite](t, Anonymous(2*huge).HugePages(0))
	check(t, second(m.WriteAt([]byte{1}, 0)))
	check(t, second(m.WriteAt([]byte{1}, int64(huge))))
	for op, f := range losses(m) {
		wants(t, op, f(0, int(pageSize)), os.ErrInvalid)
		wants(t, op, f(int(pageSize), huge-int(pageSize)), os.ErrInvalid)
	}
	if err := m.InstallGuardPages(0, huge); !lacks(t, "MADV_GUARD_INSTALL", err) {
		wants(t, "guard pages", err, unix.EINVAL)
	}
	wants(t, "free", m.Free(0, huge), unix.EINVAL)
	for op, f := range rangeOps(m) { // widened to huge pages
		if err := f(huge-1, 1); err != nil && op != "MADV_COLD" && op != "collapse" && !unavailable(err) {
			t.Errorf("%s: %v", op, err)
		}
	}
	if n := must(m.Resident(huge-1, 2)); n != 2*huge {
		t.Errorf("%d bytes are resident", n)
	}
	check(t, m.Unlock(0, 2*huge))
	check(t, m.Discard(huge, huge))
	// The page may be another process's by now, so it is not asked for again.
	if pages := must(m.ResidentPages(0, 2*huge)); !pages[0] || pages[len(pages)/2] {
		t.Error("the first huge page has gone, or the second has not")
	}
	holds(t, "kept", m, 0, []byte{1})
}

// guarding is filled, with guard pages.
func guarding(t testing.TB, n, off, size int) (ReadWrite, []byte) {
	t.Helper()
	m, data := filled(t, n)
	err := m.InstallGuardPages(off, size)
	if lacks(t, "MADV_GUARD_INSTALL", err) {
		wants(t, "removal", m.RemoveGuardPages(off, size), errors.ErrUnsupported)
		holds(t, "unsupported", m, 0, data)
		t.Skip(err)
	}
	check(t, err)
	return m, data
}

// The last page of a file can be punched, if it is all mapped.
func TestPunchLastPage(t *testing.T) {
	pg := int(pageSize)
	f, err := Memfd("odd", int64(pg+100), 0)
	check(t, err)
	defer f.Close()
	check(t, second(f.WriteAt(bytes.Repeat([]byte{7}, pg+100), 0)))
	m := mapped[ReadWrite](t, Whole(f).Shared())
	for _, r := range [][2]int{{0, pg + 100}, {pg, 100}} {
		explained(t, "whole", m.Punch(r[0], r[1]), unix.EINVAL, "lies only partly in the mapping, and the file may have more of it")
	}
	all := mapped[ReadWrite](t, File(f, 0, 2*pg).Shared())
	check(t, all.Punch(pg, pg))
	holds(t, "the first page", m, 0, bytes.Repeat([]byte{7}, pg))
	holds(t, "the last page", m, pg, make([]byte, 100))
	if st := must(f.Stat()); st.Size() != int64(pg+100) {
		t.Errorf("the file has %d bytes", st.Size())
	}
}

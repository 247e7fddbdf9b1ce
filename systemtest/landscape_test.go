//go:build linux

package systemtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/internal/testkit"
	"golang.org/x/sys/unix"
)

// What the kernel does, and no other test has met: how the library answers it.

// Nothing may be mapped where something is, not even in part; but right beside.
func TestLandscapeExactly(t *testing.T) {
	pg := int(pageSize)
	at := spot(t, 16) + 8*pageSize
	m := mapped[mmap.ReadWrite](t, mmap.Anonymous(3*pg).At(at))
	check(t, second(m.WriteAt(bytes.Repeat([]byte{1}, 3*pg), 0)))
	was := pictureOf(t, m)
	for name, c := range map[string]struct {
		from, pages int
		fits        bool
	}{
		"equal": {0, 3, false}, "inside": {1, 1, false}, "its head": {-1, 2, false}, "its tail": {2, 2, false}, "around": {-2, 7, false},
		"its first byte": {-4, 5, false}, "before": {-2, 2, true}, "behind": {3, 2, true},
	} {
		to := at + uintptr(c.from)*pageSize
		n, err := mmap.Map[mmap.Read](mmap.Anonymous(c.pages * pg).At(to))
		if c.fits {
			if check(t, err); n.Addr() != to {
				t.Errorf("%s: %#x, not %#x", name, n.Addr(), to)
			}
			check(t, n.Close())
			continue
		}
		wants(t, name, err, unix.EEXIST, os.ErrExist)
	}
	samePicture(t, "refused", was, pictureOf(t, m))
	unmapped(t, "before", at-8*pageSize, 8)
	unmapped(t, "behind", at+3*pageSize, 4)

	// UnsafeOnto replaces the page in the middle of three, and no other.
	middle := mapped[mmap.Read](t, mmap.Anonymous(pg).UnsafeOnto(at+pageSize))
	is := picture(t, "self", at, 3)
	b := []byte{9}
	if check(t, second(middle.ReadAt(b, 0))); is[0] != was[0] || is[2] != was[2] || b[0] != 0 || !strings.HasPrefix(is[1], "r--p") {
		t.Errorf("%q, %d", is, b)
	}
}

// Nothing of the library's is ever on page 0, where nil points; see the bug list.
func TestLandscapePageZero(t *testing.T) {
	f, _ := scratch(t, int(pageSize))
	for name, s := range map[string]mmap.Spec{"at": mmap.File(f, 7, 1).At(7), "onto": mmap.File(f, 7, 1).UnsafeOnto(7), "reserve": mmap.File(f, 7, 1).Reserve(99).At(7)} {
		m, err := mmap.Map[mmap.Read](s)
		if wants(t, name, err, os.ErrInvalid); err == nil {
			check(t, m.Close())
		}
	}
	if m := mapped[mmap.Read](t, mmap.Anonymous(1).Near(7)); page(m.Addr()) == 0 {
		t.Error("near 0 is at 0")
	}
}

// Which files can be mapped how: the way they were opened decides.
func TestLandscapeOpening(t *testing.T) {
	pg := int(pageSize)
	f, err := mmap.Memfd("opening", int64(pg), 0) // a file system can forbid executing
	check(t, err)
	defer f.Close()
	name := fmt.Sprint("/proc/self/fd/", f.Fd())
	ro, err := os.Open(name)
	check(t, err)
	defer ro.Close()
	wo, err := os.OpenFile(name, os.O_WRONLY, 0)
	check(t, err)
	defer wo.Close()
	r, w, err := os.Pipe()
	check(t, err)
	defer r.Close()
	defer w.Close()
	for p := range protAll + 1 {
		for _, shared := range []bool{false, true} {
			of := func(f *os.File) error {
				s := mmap.File(f, 0, pg)
				if shared {
					s = s.Shared()
				}
				u, err := mmap.MapUnknown(s, p)
				if err == nil {
					err = u.Close()
				}
				return err
			}
			what := fmt.Sprintf("%v, shared %v", p, shared)
			wants(t, what+": write-only", of(wo), mmap.ErrPermission, unix.EACCES)
			if err := of(r); !errors.Is(err, mmap.ErrPermission) { // which it can lack besides
				wants(t, what+": pipe", err, unix.ENODEV, errors.ErrUnsupported)
			} else if p&mmap.ProtExec == 0 && (!shared || p&mmap.ProtWrite == 0) {
				t.Errorf("%s: pipe: %v", what, err)
			}
			if err := of(ro); !shared || p&mmap.ProtWrite == 0 {
				check(t, err)
			} else {
				wants(t, what+": read-only", err, mmap.ErrPermission, unix.EACCES)
			}
			check(t, of(f))
		}
	}
	// Private writing of what is open for reading stays in the mapping.
	m := mapped[mmap.ReadWrite](t, mmap.File(ro, 0, pg))
	check(t, second(m.WriteAt([]byte{1}, 0)))
	if b := []byte{9}; second(ro.ReadAt(b, 0)) != nil || b[0] != 0 {
		t.Error("a private write has reached the file")
	}
}

// The contents survive PROT_NONE, and areas that are alike again are one again.
func TestLandscapeProtect(t *testing.T) {
	pg := int(pageSize)
	u, err := mmap.MapUnknown(mmap.Anonymous(3*pg).At(spot(t, 3)), mmap.ProtRead|mmap.ProtWrite)
	check(t, err)
	defer u.Close()
	check(t, second(u.WriteAt(bytes.Repeat([]byte{6}, 3*pg), 0)))
	was := pictureOf(t, u)
	check(t, u.ProtectRange(pg, pg, mmap.ProtNone))
	if n := len(must(u.Regions())); n != 3 {
		t.Errorf("%d areas, not 3", n)
	}
	if n, err := u.ReadAt(make([]byte, 3*pg), 0); n != pg || !errors.Is(err, mmap.ErrPermission) {
		t.Error(n, err)
	}
	check(t, u.ProtectRange(pg, pg, mmap.ProtRead|mmap.ProtWrite))
	if n := len(must(u.Regions())); n != 1 {
		t.Errorf("%d areas, not 1", n)
	}
	samePicture(t, "and back", was, pictureOf(t, u))
	check(t, u.LockOnFault(pg, pg))
	if n := len(must(u.Regions())); n != 3 {
		t.Errorf("%d areas around a locked page, not 3", n)
	}
}

// Somebody has unmapped a page in the middle behind the library's back. What the
// kernel then does by half is told as an error, and undone where that goes.
func TestLandscapeHole(t *testing.T) {
	pg := int(pageSize)
	build := func() (mmap.Unknown, uintptr) {
		at := spot(t, 16)
		u, err := mmap.MapUnknown(mmap.Anonymous(4*pg).At(at), mmap.ProtRead|mmap.ProtWrite)
		check(t, err)
		check(t, second(u.WriteAt(bytes.Repeat([]byte{3}, 4*pg), 0)))
		check(t, sys.Munmap(at+2*pageSize, pageSize))
		return u, at
	}
	u, at := build()
	was := pictureOf(t, u)
	for what, f := range map[string]func() error{
		"protect":        func() error { return u.Protect(mmap.ProtRead) },
		"protect a part": func() error { return u.ProtectRange(pg, 2*pg, mmap.ProtNone) },
		"assert":         func() error { return second(mmap.Assert[mmap.ReadWrite](u)) }, "sync": func() error { return u.Sync(0, 4*pg) },
		"prefault": func() error { return u.Prefault(0, 4*pg) }, "residency": func() error { return second(u.Resident(0, 4*pg)) },
		"discard nothing": func() error { return u.Discard(2*pg, pg) },
	} {
		err := f()
		if samePicture(t, what, was, pictureOf(t, u)); err == nil {
			t.Errorf("%s does not mind a hole", what)
		} else if what != "assert" {
			wants(t, what, err, unix.ENOMEM)
		}
	}
	wants(t, "the hole itself", second(u.ReadAt(make([]byte, 1), int64(2*pg))), mmap.ErrFault)
	// Advice goes on behind the hole, and says so at the end.
	wants(t, "advice", u.Advise(0, 4*pg, mmap.AdviceDontDump), unix.ENOMEM)
	if is := pictureOf(t, u); !strings.Contains(is[0], " dd") || !strings.Contains(is[3], " dd") {
		t.Errorf("%q", is)
	}
	// A move takes along what there is.
	was = pictureOf(t, u)
	next, err := mmap.Move(u, at+8*pageSize)
	check(t, err)
	unmapped(t, "the old place", at, 4)
	is := pictureOf(t, next)
	samePicture(t, "the first pages", was[:2], is)
	if samePicture(t, "the last page", was[3:], is[3:]); is[2] != "" && !strings.HasPrefix(is[2], "---p") {
		t.Error("in the hole there is", is[2])
	}
	// Unmapping what is not there is fine, and all of it is gone.
	check(t, next.Close())
	unmapped(t, "closed", at+8*pageSize, 4)

	u, at = build()
	mapped[mmap.Read](t, mmap.Anonymous(1).At(at+4*pageSize))
	next, err = mmap.Resize(u, 8*pg)
	check(t, err)
	b := make([]byte, 1)
	if check(t, second(next.ReadAt(b, int64(4*pg)-1))); b[0] != 3 {
		t.Error("another page:", b)
	}
	check(t, next.Close())
	unmapped(t, "resized", at, 4)
}

// With memory-deny-write-execute nothing is writable and executable, and nothing
// becomes executable: as if the file forbade it.
func TestLandscapeDenyWriteExec(t *testing.T) {
	if !byItself(t) {
		return
	}
	pg := int(pageSize)
	m := mapped[mmap.ReadWrite](t, mmap.Anonymous(2*pg))
	denyExecGain(t)
	_, err := mmap.Map[mmap.WriteExec](mmap.Anonymous(1))
	wants(t, "write and exec", err, mmap.ErrPermission, unix.EACCES)
	_, err = mmap.Map[mmap.ReadWriteExec](mmap.Anonymous(1).Reserve(2 * pg))
	wants(t, "with a reserve", err, mmap.ErrPermission, unix.EACCES)
	x := mapped[mmap.ReadExec](t, mmap.Anonymous(1))
	was, wasX := pictureOf(t, m), pictureOf(t, x)
	_, err = mmap.Protect[mmap.ReadExec](m)
	wants(t, "exec gained", err, mmap.ErrPermission, unix.EACCES)
	_, err = mmap.Protect[mmap.WriteExec](x)
	wants(t, "write gained by exec", err, mmap.ErrPermission, unix.EACCES)
	_, err = mmap.Over[mmap.ReadWriteExec](m, mmap.Anonymous(2*pg))
	wants(t, "over", err, mmap.ErrPermission, unix.EACCES)
	u, err := mmap.Forget(m)
	check(t, err)
	wants(t, "place", u.Place(pg, mmap.Anonymous(pg), mmap.ProtWrite|mmap.ProtExec), mmap.ErrPermission, unix.EACCES)
	wants(t, "a page", u.ProtectRange(pg, pg, mmap.ProtExec), mmap.ErrPermission, unix.EACCES)
	samePicture(t, "refused", was, pictureOf(t, u))
	samePicture(t, "refused", wasX, pictureOf(t, x))
	check(t, u.Place(pg, mmap.Anonymous(pg), mmap.ProtRead|mmap.ProtExec))
}

// A reserve and a page and a byte: every page goes.
func TestLandscapeUnmap(t *testing.T) {
	pg := int(pageSize)
	for _, c := range []struct {
		spec mmap.Spec
		most int
	}{
		{mmap.Anonymous(1), 1},
		{mmap.Anonymous(pg), pg},
		{mmap.Anonymous(pg + 1), pg + 1},
		{mmap.Anonymous(0).Reserve(1), 1},
		{mmap.Anonymous(1).Reserve(3*pg + 1), 3*pg + 1},
	} {
		s := c.spec
		at := spot(t, 8)
		m := mapped[mmap.Read](t, s.At(at))
		pages := max(1, (c.most+pg-1)/pg)
		if n := len(must(regionsOf(at, at+8*pageSize))); n == 0 || !isMapped(t, at+uintptr(pages-1)*pageSize) || isMapped(t, at+uintptr(pages)*pageSize) {
			t.Errorf("%v is not %d pages", s, pages)
		}
		check(t, m.Close())
		unmapped(t, s.String(), at, 8)
	}
}

// The end of a file, as mappings see it.
func TestLandscapeEndOfFile(t *testing.T) {
	pg := int(pageSize)
	f, data := scratch(t, pg+100)
	shared := mapped[mmap.ReadWrite](t, mmap.File(f, 0, 3*pg).Shared())
	private := mapped[mmap.ReadWrite](t, mmap.File(f, 0, 3*pg))
	b := make([]byte, pg)
	if check(t, second(shared.ReadAt(b[:pg-100], int64(pg+100)))); !bytes.Equal(b, make([]byte, pg)) {
		t.Error("the tail of the last page is not zero")
	}
	// Bytes there never reach the file,
	check(t, second(shared.WriteAt([]byte("tail"), int64(pg+100))))
	check(t, shared.Sync(0, 2*pg))
	if got := must(os.ReadFile(f.Name())); !bytes.Equal(got, data) {
		t.Error("the file has another end")
	}
	// and a page past the end is a fault, as is a page that was written and cut off.
	check(t, second(private.WriteAt([]byte{0x99}, int64(pg))))
	for name, m := range map[string]mmap.ReadWrite{"shared": shared, "private": private} {
		wants(t, name, second(m.ReadAt(b, int64(2*pg))), mmap.ErrFault, mmap.ErrTruncated)
	}
	check(t, f.Truncate(50))
	for name, m := range map[string]mmap.ReadWrite{"shared": shared, "private, written": private} {
		n, err := m.ReadAt(make([]byte, 2*pg), 0)
		if wants(t, name, err, mmap.ErrFault, mmap.ErrTruncated); n != pg {
			t.Errorf("%s: %d bytes", name, n)
		}
	}
	// Grown again: zeros.
	check(t, f.Truncate(int64(3*pg)))
	for name, m := range map[string]mmap.ReadWrite{"shared": shared, "private": private} {
		got := bytes.Repeat([]byte{1}, 3*pg)
		check(t, second(m.ReadAt(got, 0)))
		if !bytes.Equal(got[:50], data[:50]) || !bytes.Equal(got[50:], make([]byte, 3*pg-50)) {
			t.Errorf("%s: not zeros", name)
		}
	}
	// Without a name and a descriptor it goes on.
	check(t, os.Remove(f.Name()))
	check(t, f.Close())
	check(t, second(shared.WriteAt([]byte("on"), 0)))
	if check(t, second(private.ReadAt(b[:2], 0))); string(b[:2]) != "on" {
		t.Error(b[:2])
	}
}

// Secret memory counts as locked, against the limit of an ordinary user.
func TestLandscapeSecretLimit(t *testing.T) {
	testkit.Needs(t, "memfd_secret")
	if !byItself(t) {
		return
	}
	pg := int(pageSize)
	check(t, unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 4 * uint64(pageSize), Max: 4 * uint64(pageSize)}))
	if os.Geteuid() == 0 {
		check(t, unix.Setresuid(65534, 65534, 65534))
	}
	if fd, err := sys.MemfdSecret(unix.O_CLOEXEC); err == nil { // the bare calls
		check(t, unix.Ftruncate(fd, int64(5*pg)))
		at, err := sys.Mmap(0, 5*pageSize, unix.PROT_READ, unix.MAP_SHARED, fd, 0)
		if unix.Close(fd); err == nil {
			check(t, sys.Munmap(at, 5*pageSize))
			t.Skip("this kernel does not hold secret memory against RLIMIT_MEMLOCK")
		}
	}
	m := mapped[mmap.ReadWrite](t, mmap.Secret(2*pg).Reserve(3*pg))
	check(t, mmap.Grow(m, 3*pg))
	wants(t, "beyond its size", mmap.Grow(m, 4*pg), mmap.ErrCapacity)
	for name, s := range map[string]mmap.Spec{"size": mmap.Secret(5 * pg), "capacity": mmap.Secret(1).Reserve(5 * pg)} {
		_, err := mmap.Map[mmap.ReadWrite](s)
		if wants(t, name, err, unix.EAGAIN); !strings.Contains(fmt.Sprint(err), "RLIMIT_MEMLOCK is ") {
			t.Errorf("%s: %v does not name the limit", name, err)
		}
	}
	mapped[mmap.ReadWrite](t, mmap.Secret(pg))
}

//go:build linux

package mmap

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/mmarinus/mmap/internal/place"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// What is sealed stays until the process ends, so these tests run in a child.
func sealing(t *testing.T) bool {
	t.Helper()
	if err := Probe("mseal"); err != nil {
		m := mapped[ReadWrite](t, Anonymous(1))
		lacking(t, "Seal", m.Seal(), err)
		if check(t, m.Close()); m.Len() != 0 {
			t.Error("a Seal that failed keeps the mapping")
		}
		t.Skip(err)
	}
	return byItself(t)
}

// sealed maps s as M at a place of its own, fills what can be written, and seals
// it.
func sealed(t testing.TB, s Spec) ReadWrite {
	t.Helper()
	m, err := Map[ReadWrite](s)
	check(t, err)
	if m.Len() > 0 {
		check(t, second(m.WriteAt(bytes.Repeat([]byte{0x77}, m.Len()), 0)))
	}
	check(t, m.Seal())
	return m
}

// stays fails unless err is ErrSealed in all its guises, and m as it was.
func stays(t testing.TB, what string, m mapping, was []string, err error) {
	t.Helper()
	if wants(t, what, err, ErrSealed, unix.EPERM, ErrPermission); err == nil || !strings.HasPrefix(err.Error(), "mmap: ") {
		t.Errorf("%s: %v", what, err)
	}
	samePicture(t, what, was, wholePicture(t, m))
}

// wholePicture is pictureOf with the reserve.
func wholePicture(t testing.TB, m mapping) []string {
	t.Helper()
	base := page(m.Addr())
	return picture(t, "self", base, int((m.Addr()+uintptr(m.Cap())-base+pageSize-1)/pageSize))
}

// Everything that would change pages is refused, whatever is sealed.
func TestSealRefuses(t *testing.T) {
	if !sealing(t) {
		return
	}
	pg := int(pageSize)
	f, _ := scratch(t, 4*pg)
	fd, err := Memfd("sealed", int64(4*pg), 0)
	check(t, err)
	for name, s := range map[string]Spec{
		"anonymous": Anonymous(2 * pg), "reserve": Anonymous(2 * pg).Reserve(6 * pg), "shared": Anonymous(2 * pg).Shared(),
		"file": File(f, 0, 2*pg), "odd offset": File(f, 7, 2*pg).Shared(), "memfd": File(fd, 0, 2*pg).Shared(), "locked": Anonymous(2 * pg).Lock(),
	} {
		s = s.At(spot(t, 16) + uintptr(s.offset)%pageSize)
		m := sealed(t, s)
		was := wholePicture(t, m)
		for i, line := range was {
			if !strings.Contains(line, " sl") {
				t.Errorf("%s: page %d is not sealed: %s", name, i, line)
			}
		}
		n := m.Len() &^ (pg - 1)
		first := 0
		if s.offset%int64(pg) != 0 {
			first = pg - int(s.offset)
			n = pg
		}
		to := spot(t, 16) + m.Addr()%pageSize
		for what, f := range map[string]func() error{
			"protect": func() error { return second(Protect[Read](m)) }, "protect, the same": func() error { return second(Protect[ReadWrite](m)) },
			"over": func() error { return second(Over[ReadWrite](m, s0(s))) }, "move": func() error { return second(Move(m, to)) },
			"resize": func() error { return second(Resize(m, 9*pg)) }, "shrink": func() error { return second(Resize(m, 1)) },
			"resize to 0": func() error { return second(Resize(m, 0)) }, "resize to the same": func() error { return second(Resize(m, m.Len())) },
			"close": m.Close, "discard": func() error { return m.Discard(first, n) }, "discard locked": func() error { return m.DiscardLocked(first, n) },
			"free": func() error { return m.Free(first, n) }, "punch": func() error { return m.Punch(first, n) },
			"wipe on fork": func() error { return m.WipeOnFork(first, n) }, "guard": func() error { return m.InstallGuardPages(first, n) },
			"unguard": func() error { return m.RemoveGuardPages(first, n) }, "close again": m.Close,
		} {
			stays(t, name+": "+what, m, was, f())
		}
		unmapped(t, name+": the target", page(to), 16)
		if m.Cap() > m.Len() {
			stays(t, name+": grow", m, was, Grow(m, m.Len()+1))
			stays(t, name+": grow to all", m, was, Grow(m, m.Cap()))
			wants(t, name+": grow too far", Grow(m, m.Cap()+1), ErrCapacity)
		}
		// It is the kernel that holds it.
		for i := range was {
			at := page(m.Addr()) + uintptr(i)*pageSize
			for what, err := range map[string]error{
				"munmap": sys.Munmap(at, pageSize), "mprotect": sys.Mprotect(at, pageSize, unix.PROT_NONE),
				"mremap": second(sys.Mremap(at, pageSize, 2*pageSize, unix.MREMAP_MAYMOVE, 0)),
				"mmap":   second(sys.Mmap(at, pageSize, unix.PROT_NONE, place.Holding|unix.MAP_FIXED, -1, 0)),
			} {
				wants(t, fmt.Sprintf("%s: %s of page %d", name, what, i), err, unix.EPERM)
			}
		}
		samePicture(t, name, was, wholePicture(t, m))

		u, err := Forget(m)
		check(t, err)
		for what, f := range map[string]func() error{
			"protect": func() error { return u.Protect(ProtRead) }, "protect range": func() error { return u.ProtectRange(first, n, ProtNone) },
			"nothing": func() error { return u.ProtectRange(0, 0, ProtNone) }, "place": func() error { return u.Place(first, Anonymous(n), ProtRead) },
			"close": u.Close, "discard": func() error { return u.Discard(first, n) }, "resize": func() error { return second(Resize(u, 1)) },
			"over": func() error { return second(Over[Read](u, s0(s))) }, "move": func() error { return second(Move(u, to)) },
		} {
			stays(t, name+": unknown: "+what, u, was, f())
		}
	}
}

// s0 is the Spec without its placement and reserve, as Over wants it.
func s0(s Spec) Spec {
	s.wish.Where, s.addr, s.reserved, s.reserve = place.Anywhere, 0, false, 0
	return s
}

// What asks nothing of the kernel, or nothing that a seal forbids, goes on.
func TestSealAllows(t *testing.T) {
	if !sealing(t) {
		return
	}
	pg := int(pageSize)
	m := sealed(t, Anonymous(3*pg+5).Reserve(8*pg).At(spot(t, 16)))
	check(t, m.Seal()) // twice
	check(t, Grow(m, 4*pg))
	p := []byte{1, 2, 3}
	check(t, second(m.WriteAt(p, int64(4*pg)-3)))
	check(t, m.View(func(b []byte) error {
		if b[0] != 0x77 || b[4*pg-1] != 3 {
			t.Error(b[0], b[4*pg-1])
		}
		return m.Seal() // beside a view
	}))
	check(t, m.Update(func(b []byte) error { b[0] = 5; return nil }))
	pin := must(m.Pin())
	wants(t, "close under a pin", m.Close(), ErrSealed)
	if pin.Unpin(); m.Len() != 4*pg {
		t.Error("a refused Close has closed it")
	}
	for _, a := range []Advice{AdviceNormal, AdviceRandom, AdviceSequential, AdviceWillNeed, AdviceDontFork, AdviceDoFork, AdviceMergeable, AdviceUnmergeable,
		AdviceHugePage, AdviceNoHugePage, AdviceDontDump, AdviceDoDump, AdviceKeepOnFork, AdviceCold, AdvicePageOut} {
		if err := m.Advise(0, 2*pg, a); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			t.Error(a, err)
		}
	}
	check(t, m.Advise(0, 4*pg, AdviceDontDump))
	for what, err := range map[string]error{
		"lock": m.Lock(0, pg), "lock on fault": m.LockOnFault(pg, pg), "unlock": m.Unlock(0, 4*pg), "prefault": m.Prefault(0, 4*pg),
		"prefault for writing": m.PrefaultWrite(0, 4*pg), "sync": m.Sync(0, 4*pg), "start": m.StartSync(0, 4*pg), "invalidate": m.Invalidate(0, 4*pg),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n, err := m.Resident(0, 4*pg); n != 4*pg || err != nil {
		t.Error(n, err)
	}
	for what, fn := range map[string]func() error{"protect": func() error { return second(Protect[Read](m)) }, "close": m.Close} {
		wants(t, "drain to "+what, m.Drain(t.Context(), fn), ErrSealed)
	}
	was := wholePicture(t, m)
	if !strings.Contains(was[0], " dd") || !strings.Contains(was[7], " sl") {
		t.Error("not dumped, sealed:", was)
	}
	l, r, err := Split(m, pg)
	check(t, err)
	wants(t, "left", l.Close(), ErrSealed)
	wants(t, "right", r.Close(), ErrSealed)
	wants(t, "the right one's reserve", Grow(r, 4*pg), ErrSealed)
	_, err = Protect[Read](r)
	wants(t, "right", err, ErrSealed)
	m, err = Join(r, l)
	check(t, err)
	u, err := Forget(m)
	check(t, err)
	_, err = Assert[Read](u)
	wants(t, "assert", err, ErrPermission)
	m, err = Assert[ReadWrite](u)
	check(t, err)
	samePicture(t, "all of it", was, wholePicture(t, m))
	addr, size, err := m.Release()
	check(t, err)
	if size != 8*pg {
		t.Error(size)
	}
	wants(t, "released", m.Close(), ErrMoved)
	wants(t, "released", m.Seal(), ErrMoved)

	// Adopted again, the library learns of it from the kernel only.
	a, err := UnsafeAdopt[Unknown](addr, size)
	check(t, err)
	for what, err := range map[string]error{
		"close": a.Close(), "protect": a.Protect(ProtNone), "place": a.Place(0, Anonymous(pg), ProtRead), "over": second(Over[Read](a, Anonymous(size))),
		"resize": second(Resize(a, pg)), "grow": second(Resize(a, 20*pg)), "move": second(Move(a, spot(t, 8))), "close again": a.Close(),
	} {
		if wants(t, "adopted: "+what, err, unix.EPERM, ErrPermission); strings.HasPrefix(what, "close") {
			wants(t, "adopted: "+what, err, ErrSealed)
		}
	}
	samePicture(t, "adopted", was, picture(t, "self", addr, 8))
	if n, err := a.ReadAt(make([]byte, size), 0); n != 4*pg || !errors.Is(err, ErrPermission) {
		t.Error("adopted:", n, err)
	}
	// A neighbour that is not sealed is no part of it.
	one := mapped[ReadWrite](t, Anonymous(2*pg))
	x, y, err := Split(one, pg)
	check(t, err)
	check(t, x.Seal())
	_, err = Join(x, y)
	wants(t, "join of one that is sealed", err, ErrSealed)
	_, err = Join(y, x)
	wants(t, "in the other order", err, ErrSealed)
	check(t, y.Close())
	wants(t, "close", x.Close(), ErrSealed)
}

// The handles that Seal refuses, and the kinds of memory that it takes.
func TestSealKinds(t *testing.T) {
	if !sealing(t) {
		return
	}
	pg := int(pageSize)
	m := mapped[ReadWrite](t, Anonymous(pg))
	next, err := Protect[Read](m)
	check(t, err)
	wants(t, "moved", m.Seal(), ErrMoved)
	check(t, next.Close())
	wants(t, "closed", next.Seal(), ErrClosed)
	wants(t, "zero", Read{}.Seal(), ErrClosed)
	check(t, second(Map[None](Anonymous(pg))))
	for name, s := range map[string]Spec{
		"none": Anonymous(pg), "secret": Secret(pg), "droppable": Anonymous(pg).Droppable(), "reserve alone": Anonymous(0).Reserve(pg),
	} {
		m, err := Map[None](s)
		if errors.Is(err, errors.ErrUnsupported) {
			continue
		}
		check(t, err)
		check(t, m.Seal())
		if wants(t, name, m.Close(), ErrSealed); !strings.Contains(picture(t, "self", m.Addr(), 1)[0], " sl") {
			t.Errorf("%s is not sealed", name)
		}
	}
	// Nothing at all is sealed as well: it will not grow or move.
	empty := mapped[ReadWrite](t, Anonymous(0))
	check(t, empty.Seal())
	_, err = Resize(empty, 1)
	wants(t, "resize of nothing", err, ErrSealed)
	check(t, empty.Close())
	whole := sealed(t, Anonymous(pg))
	nothing, whole, err := Split(whole, 0)
	check(t, errors.Join(err, nothing.Close()))
	whole, nothing, err = Split(whole, pg)
	check(t, errors.Join(err, nothing.Close()))
	wants(t, "what is not empty", whole.Close(), ErrSealed)
	// A hole within: nothing is sealed but what is there, and the handle knows.
	at := spot(t, 4)
	u, err := MapUnknown(Anonymous(3*pg).At(at), ProtRead)
	check(t, err)
	check(t, sys.Munmap(at+pageSize, pageSize))
	wants(t, "a hole", u.Seal(), unix.ENOMEM)
	check(t, u.Close())
	unmapped(t, "after a Seal that failed", at, 3)
	// A pin that outlives the handle, and memory that somebody else has sealed:
	// the late unmap fails, and the next Close says so.
	late := mapped[ReadWrite](t, Anonymous(pg).At(spot(t, 1)))
	addr, pin := late.Addr(), must(late.Pin())
	check(t, late.Close())
	wants(t, "seal of a closed one", late.Seal(), ErrClosed)
	check(t, sys.Mseal(addr, pageSize))
	pin.Unpin()
	wants(t, "the next close", late.Close(), ErrSealed)
	if wants(t, "and one more", late.Close(), ErrSealed); !isMapped(t, addr) {
		t.Error("unmapped")
	}
}

// Nobody collects it, whole or in parts.
func TestSealNotCollected(t *testing.T) {
	if !sealing(t) {
		return
	}
	for name, use := range map[string]func(m ReadWrite){
		"whole": func(m ReadWrite) { check(t, m.Seal()) },
		"old":   func(m ReadWrite) { runtime.GC(); runtime.GC(); check(t, m.Seal()) },
		"right": func(m ReadWrite) {
			check(t, m.Seal())
			_, _, err := Split(m, int(pageSize))
			check(t, err)
		},
		"somebody else": func(m ReadWrite) { check(t, sys.Mseal(m.Addr(), 3*pageSize)) },
	} {
		at := spot(t, 3)
		lose(t, at, use)
		if collected(t, at+2*pageSize) {
			t.Error(name, "was collected")
		}
	}
}

// waitingChild forks a child that waits until the end of the test, and returns its
// number: /proc shows what it has inherited.
func waitingChild(t testing.TB) string {
	t.Helper()
	runtime.LockOSThread()
	pid, e := rawFork()
	runtime.UnlockOSThread()
	if e != 0 {
		t.Fatal(e)
	}
	t.Cleanup(func() {
		unix.Kill(int(pid), unix.SIGKILL)
		unix.Wait4(int(pid), nil, 0, nil)
	})
	return strconv.Itoa(int(pid))
}

// rawFork is fork(2). The child has one thread of this process and no runtime:
// it may make raw system calls and nothing else, and sleeps.
//
//go:nosplit
//go:norace
func rawFork() (pid uintptr, e unix.Errno) {
	pid, _, e = unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if pid == 0 && e == 0 {
		for {
			unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
		}
	}
	return pid, e
}

func TestSealInherited(t *testing.T) {
	if !sealing(t) {
		return
	}
	m := sealed(t, Anonymous(2*int(pageSize)))
	was := wholePicture(t, m)
	pid := waitingChild(t)
	samePicture(t, "in the child", was, picture(t, pid, m.Addr(), 2))
}

// A Seal beside something else: one of them comes first.
func TestSealRaces(t *testing.T) {
	if !sealing(t) {
		return
	}
	pg := int(pageSize)
	for range 100 {
		m, err := Map[ReadWrite](Anonymous(pg).Reserve(4 * pg))
		check(t, err)
		other, err := Map[ReadWrite](Anonymous(pg))
		check(t, err)
		third, err := Map[ReadWrite](Anonymous(pg))
		check(t, err)
		var wg sync.WaitGroup
		var grown, sealedFirst, sealedOther, closed, sealedThird, protected error
		var next Read
		addr := third.Addr()
		wg.Go(func() { grown = Grow(m, 2*pg) })
		wg.Go(func() { sealedFirst = m.Seal() })
		wg.Go(func() { closed = other.Close() })
		wg.Go(func() { sealedOther = other.Seal() })
		wg.Go(func() { next, protected = Protect[Read](third) })
		wg.Go(func() { sealedThird = third.Seal() })
		wg.Wait()
		check(t, sealedFirst)
		if grown != nil {
			wants(t, "grow", grown, ErrSealed)
		}
		if n, err := m.WriteAt(make([]byte, 2*pg), 0); (n == 2*pg) != (grown == nil) {
			t.Error(n, err, grown)
		}
		switch { // a Close that meets the Seal's pin leaves the unmapping to it, which fails
		case closed == nil && sealedOther == nil:
			wants(t, "close after both", other.Close(), ErrSealed)
		case closed == nil:
			wants(t, "seal of a closed one", sealedOther, ErrClosed)
		default:
			wants(t, "close", closed, ErrSealed)
		}
		perms := picture(t, "self", addr, 1)[0]
		switch {
		case protected == nil && sealedThird == nil:
			t.Error("protected and sealed by the old handle")
		case protected == nil:
			if wants(t, "seal of a moved one", sealedThird, ErrMoved); !strings.HasPrefix(perms, "r--p") || strings.Contains(perms, " sl") {
				t.Error(perms)
			}
			check(t, next.Close())
		default:
			if !errors.Is(protected, ErrBusy) {
				wants(t, "protect", protected, ErrSealed)
			}
			if !strings.HasPrefix(perms, "rw-p") || !strings.Contains(perms, " sl") {
				t.Error(perms, protected, sealedThird)
			}
		}
	}
}

func TestSetName(t *testing.T) {
	pg := int(pageSize)
	m := mapped[ReadWrite](t, Anonymous(pg+1).Reserve(4*pg).At(spot(t, 8)))
	moved := mapped[ReadWrite](t, Anonymous(1))
	check(t, second(Protect[ReadWrite](moved)))
	for what, c := range map[string]struct{ err, want error }{
		"closed": {Read{}.SetName("x"), ErrClosed}, "moved": {moved.SetName("x"), ErrMoved}, //mmapvet:ignore moved the error beside it is expected
	} {
		wants(t, what, c.err, c.want)
	}
	if missing := Probe("PR_SET_VMA_ANON_NAME"); missing != nil {
		was := table(t, m)
		for _, name := range []string{"x", "", strings.Repeat("x", 80), "a\x00b", "a]"} {
			err := m.SetName(name)
			if wants(t, name, err, errors.ErrUnsupported); !strings.Contains(fmt.Sprint(err), "PR_SET_VMA_ANON_NAME needs Linux 5.17") ||
				!strings.HasPrefix(err.Error(), fmt.Sprintf("mmap: name %q: ", name)) {
				t.Error(err)
			}
		}
		if table(t, m) != was {
			t.Error(table(t, m))
		}
		t.Skip(missing)
	}
	check(t, mapped[Read](t, Anonymous(0)).SetName("nothing"))
	named := func(want string) {
		t.Helper()
		for _, r := range must(m.Regions()) {
			if r.Name != want {
				t.Errorf("the name of %v is %q, not %q", r, r.Name, want)
			}
		}
	}
	longest := strings.Repeat("x", 79)
	for _, name := range []string{"a heap", "x", longest, "\x7f"[:0] + "~!@"} {
		check(t, m.SetName(name))
		named("[anon:" + name + "]")
		for _, bad := range []string{longest + "x", "a\x00b", "\n", "\x7f", "é", "[", "]", `\`, "`", "$"} {
			err := m.SetName(bad)
			if wants(t, bad, err, os.ErrInvalid, unix.EINVAL); !strings.Contains(fmt.Sprint(err), strconv.Quote(bad)) {
				t.Error(err)
			}
		}
		named("[anon:" + name + "]")
	}
	check(t, Grow(m, 3*pg))
	named("[anon:~!@]")
	m, err := Move(m, spot(t, 8))
	check(t, err)
	named("[anon:~!@]")
	m, err = Resize(m, math.MaxInt16*pg)
	check(t, err)
	named("[anon:~!@]")
	pin := must(m.Pin())
	check(t, m.SetName("pinned"))
	pin.Unpin()
	named("[anon:pinned]")
	check(t, m.SetName(""))
	named("")
	f, _ := scratch(t, pg)
	file := mapped[Read](t, File(f, 0, pg))
	was := table(t, file)
	if wants(t, "a file", file.SetName("x"), unix.EBADF); table(t, file) != was {
		t.Error(table(t, file))
	}
}

// Where no kernel at hand has names: one that seems to, and refuses as it would.
func TestSetNameRefused(t *testing.T) {
	if !byItself(t) {
		return
	}
	f, _ := scratch(t, int(pageSize))
	file, other := mapped[Read](t, File(f, 0, 1)), mapped[Read](t, Anonymous(2*int(pageSize)))
	// By the number of bytes: none is the probe, two pages are the bad name.
	filtered(t, []rule{
		{Call: unix.SYS_PRCTL, Arg: 3, Mask: ^uint32(0), Is: 0},
		{Call: unix.SYS_PRCTL, Arg: 3, Mask: ^uint32(0), Is: uint32(2 * pageSize), Errno: unix.EINVAL},
		{Call: unix.SYS_PRCTL, Arg: 0, Mask: ^uint32(0), Is: unix.PR_SET_VMA, Errno: unix.EBADF},
	})
	check(t, Probe("PR_SET_VMA_ANON_NAME"))
	for what, c := range map[string]struct {
		err, want error
		hint      string
	}{
		"a file": {file.SetName("x"), unix.EBADF, `name "x": for anonymous memory`}, "a bad name": {other.SetName("a]"), unix.EINVAL, `name "a]": for anonymous memory, and at most 79`},
	} {
		if wants(t, what, c.err, c.want); !strings.Contains(fmt.Sprint(c.err), c.hint) || errors.Is(c.err, errors.ErrUnsupported) {
			t.Errorf("%s: %v", what, c.err)
		}
	}
}

// Somebody else's seal in the middle: Discard reports it, and what it has lost.
func TestLandscapeDiscardSealed(t *testing.T) {
	if !sealing(t) {
		return
	}
	pg := int(pageSize)
	u, err := MapUnknown(Anonymous(3*pg).At(spot(t, 3)), ProtRead|ProtWrite)
	check(t, err)
	check(t, second(u.WriteAt(bytes.Repeat([]byte{4}, 3*pg), 0)))
	// The kernel minds discarding what is sealed where it could not be written.
	check(t, sys.Mprotect(u.Addr()+pageSize, pageSize, unix.PROT_READ))
	check(t, sys.Mseal(u.Addr()+pageSize, pageSize))
	wants(t, "discard", u.Discard(0, 3*pg), unix.EPERM, ErrPermission)
	b := make([]byte, 3)
	for i := range b {
		check(t, second(u.ReadAt(b[i:i+1], int64(i*pg))))
	}
	if b[1] != 4 || b[2] != 4 {
		t.Error("discarded from the seal on:", b)
	}
	check(t, second(u.ReadAt(b, 0)))
}

//go:build linux

package mmap

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

func TestBadSpecs(t *testing.T) {
	f, _ := scratch(t, 100)
	closed, _ := scratch(t, 100)
	closed.Close()
	free := hole(t, 4)
	odd := free + pageSize // a multiple of its lowest bit, and of nothing larger
	taken := mapped[None](t, Anonymous(int(pageSize))).Addr()
	pg := int(pageSize)
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	check(t, unix.Mkfifo(fifo, 0o600))
	for name, c := range map[string]struct {
		s    Spec
		want []error
	}{
		"zero":                 {Spec{}, []error{os.ErrInvalid, unix.EINVAL}},
		"negative size":        {Anonymous(-1), []error{os.ErrInvalid, unix.EINVAL}},
		"smallest size":        {Anonymous(math.MinInt), []error{os.ErrInvalid}},
		"largest size":         {Anonymous(math.MaxInt), []error{unix.ENOMEM}},
		"negative offset":      {File(f, -1, 1), []error{os.ErrInvalid}},
		"offset overflow":      {File(f, math.MaxInt64, 1), []error{unix.EOVERFLOW}},
		"nil file":             {File(nil, 0, 1), []error{os.ErrInvalid}},
		"closed file":          {File(closed, 0, 1), []error{unix.EBADF, os.ErrClosed}},
		"closed file, empty":   {File(closed, 0, 0), []error{unix.EBADF, os.ErrClosed}},
		"no descriptor":        {FD(-1, 0, 1), []error{unix.EBADF}},
		"two placements":       {Anonymous(1).Near(free).At(free), []error{os.ErrInvalid}},
		"twice the same":       {Anonymous(1).At(free).At(free), []error{os.ErrInvalid}},
		"at 0":                 {Anonymous(1).At(0), []error{os.ErrInvalid}},
		"onto 0":               {Anonymous(1).UnsafeOnto(0), []error{os.ErrInvalid}},
		"at an odd address":    {Anonymous(1).At(free + 1), []error{os.ErrInvalid}},
		"at an incongruent":    {File(f, 5, 1).At(free + 6), []error{os.ErrInvalid}},
		"at what is taken":     {Anonymous(1).At(taken), []error{unix.EEXIST, os.ErrExist}},
		"align 0":              {Anonymous(1).Align(0), []error{os.ErrInvalid}},
		"align 3":              {Anonymous(1).Align(3), []error{os.ErrInvalid}},
		"align negative":       {Anonymous(1).Align(math.MinInt), []error{os.ErrInvalid}},
		"align against offset": {File(f, 2, 1).Align(4), []error{os.ErrInvalid}},
		"align past the space": {Anonymous(1).Align(1 << (unsafe.Sizeof(0)*8 - 2)), []error{unix.ENOMEM}},
		"align against at":     {Anonymous(1).At(odd).Align(int(2 * (odd & -odd))), []error{os.ErrInvalid}},
		"small capacity":       {Anonymous(2).Reserve(1), []error{os.ErrInvalid}},
		"negative capacity":    {Anonymous(0).Reserve(-1), []error{os.ErrInvalid}},
		"largest capacity":     {Anonymous(1).Reserve(math.MaxInt), []error{unix.ENOMEM}},
		"huge 3":               {Anonymous(1).HugePages(3), []error{os.ErrInvalid}},
		"huge file":            {File(f, 0, 1).HugePages(0), []error{os.ErrInvalid}},
		"huge of no such size": {Anonymous(1).HugePages(pg << 3), []error{errors.ErrUnsupported}},
		"no path":              {Path(""), []error{os.ErrNotExist, unix.ENOENT}},
		"missing":              {Path(dir + "/missing"), []error{os.ErrNotExist}},
		"directory":            {Path(dir), []error{unix.EISDIR}},
		"device":               {Path("/dev/zero"), []error{unix.ENODEV, errors.ErrUnsupported}},
		"fifo":                 {Path(fifo), []error{unix.ENODEV, errors.ErrUnsupported}},
	} {
		if name == "align past the space" && (unsafe.Sizeof(0) == 4 || runtime.GOARCH == "s390x") {
			continue // the space has room for any alignment that is an int
		}
		m, err := Map[Read](c.s)
		if err == nil {
			t.Errorf("%s: mapped %v", name, m)
			m.Close()
			continue
		}
		wants(t, name, err, c.want...)
		if m != (Read{}) {
			t.Errorf("%s: a handle with an error", name)
		}
		if text := err.Error(); !strings.HasPrefix(text, "mmap: map ") || strings.Contains(text, "\n") {
			t.Errorf("%s: %s", name, text)
		}
	}
	_, err := MapUnknown(Anonymous(1), 8)
	wants(t, "permissions", err, os.ErrInvalid)
	ro, err := os.Open(f.Name())
	check(t, err)
	defer ro.Close()
	_, err = Map[ReadWrite](File(ro, 0, 1).Shared())
	wants(t, "shared and read-only", err, ErrPermission, unix.EACCES)
	wo, err := os.OpenFile(f.Name(), os.O_WRONLY, 0)
	check(t, err)
	defer wo.Close()
	_, err = Map[Write](File(wo, 0, 1))
	wants(t, "write-only", err, ErrPermission)
}

func TestPlacement(t *testing.T) {
	free := hole(t, 8)
	f, data := scratch(t, 3*int(pageSize))
	m := mapped[Read](t, Anonymous(1).At(free))
	if m.Addr() != free {
		t.Errorf("%#x, not %#x", m.Addr(), free)
	}
	m = mapped[Read](t, File(f, 7, int(pageSize)).At(free+2*pageSize+7))
	if m.Addr() != free+2*pageSize+7 {
		t.Errorf("%#x", m.Addr())
	}
	got := make([]byte, pageSize)
	if _, err := m.ReadAt(got, 0); err != nil || !bytes.Equal(got, data[7:7+pageSize]) {
		t.Error(err, "or other bytes")
	}
	if m.Len() != int(pageSize) || !isMapped(t, free+3*pageSize) {
		t.Error("the last bytes are on the next page")
	}
	onto := mapped[ReadWrite](t, Anonymous(int(pageSize)).UnsafeOnto(free))
	if onto.Addr() != free {
		t.Errorf("%#x", onto.Addr())
	}
	if near := mapped[Read](t, Anonymous(1).Near(free+6*pageSize+9)); near.Addr() != free+6*pageSize {
		t.Errorf("near: %#x", near.Addr())
	}
	for _, align := range []int{1, 2, int(pageSize), 1 << 21, 1 << 24} {
		for _, s := range []Spec{Anonymous(5), Anonymous(5).Reserve(3 * int(pageSize)), File(f, int64(pageSize), 5).Shared()} {
			m := mapped[Read](t, s.Align(align))
			if m.Addr()%uintptr(align) != 0 {
				t.Errorf("%v is at %#x", s.Align(align), m.Addr())
			}
			for _, r := range must(m.Regions()) {
				if end := uintptr(r.End); end > m.Addr()+4*pageSize {
					t.Errorf("%v: too much is mapped: %v", s, r)
				}
			}
			check(t, m.Close())
		}
	}
	if sys.Race {
		inside := uint64(raceStart + 1<<30)
		_, err := Map[Read](Anonymous(1).At(uintptr(inside)))
		wants(t, "in the race detector's window", err, os.ErrInvalid)
	}
}

// The eight types, as the kernel sees them.
func TestKnownPermissions(t *testing.T) {
	one(t, mapped[None](t, Anonymous(1)), "---")
	one(t, mapped[Read](t, Anonymous(1)), "r--")
	one(t, mapped[Write](t, Anonymous(1)), "-w-")
	one(t, mapped[Exec](t, Anonymous(1)), "--x")
	one(t, mapped[ReadWrite](t, Anonymous(1)), "rw-")
	one(t, mapped[ReadExec](t, Anonymous(1)), "r-x")
	one(t, mapped[WriteExec](t, Anonymous(1)), "-wx")
	one(t, mapped[ReadWriteExec](t, Anonymous(1)), "rwx")
}

func one(t *testing.T, m mapping, perms string) {
	t.Helper()
	regions, err := m.Regions()
	check(t, err)
	if len(regions) != 1 || regions[0].Perms.String()[:3] != perms || m.Prot().String() != perms {
		t.Errorf("want %s, have %v, the kernel %v", perms, m, regions)
	}
}

// A transition that fails leaves the mapping exactly as it was.
func TestFailWhole(t *testing.T) {
	pg := int(pageSize)
	f, data := scratch(t, 4*pg)
	ro, err := os.Open(f.Name())
	check(t, err)
	defer ro.Close()
	m := mapped[Read](t, File(ro, 0, 4*pg).Shared())
	before := table(t, m)
	same := func(what string, m mapping, err error, targets ...error) {
		t.Helper()
		wants(t, what, err, targets...)
		if after := table(t, m); after != before {
			t.Errorf("%s: was\n%s\nis\n%s", what, before, after)
		}
	}
	_, err = Protect[ReadWrite](m)
	same("protect", m, err, ErrPermission, unix.EACCES)
	_, err = Over[ReadWrite](m, File(ro, 0, 4*pg).Shared())
	same("over", m, err, ErrPermission)
	_, err = Over[Read](m, Anonymous(pg))
	same("over of another size", m, err, os.ErrInvalid)
	_, err = Over[Read](m, File(ro, 1, 4*pg))
	same("over, incongruent", m, err, os.ErrInvalid)
	_, err = Over[Read](m, Anonymous(4*pg).Near(m.Addr()))
	same("over with a placement", m, err, os.ErrInvalid)
	_, err = Over[Read](m, Anonymous(4*pg).Reserve(8*pg))
	same("over with a reserve", m, err, os.ErrInvalid)
	for _, size := range []int{-1, math.MinInt, math.MaxInt, math.MaxInt - 1} {
		_, err = Resize(m, size)
		same("resize", m, err)
		if err == nil {
			t.Error("resized to", size)
		}
	}
	for _, off := range []int{-1, 1, pg + 1, 4*pg + 1, math.MaxInt, math.MinInt} {
		_, _, err = Split(m, off)
		same("split", m, err, os.ErrInvalid)
	}
	same("grow", m, Grow(m, 4*pg+1), ErrCapacity)
	same("shrink by grow", m, Grow(m, pg), os.ErrInvalid)

	// Half of the pages allow it, half do not: mprotect(2) stops half-way.
	u, err := MapUnknown(Anonymous(4*pg), ProtRead)
	check(t, err)
	defer u.Close()
	check(t, u.Place(2*pg, File(ro, 0, 2*pg).Shared(), ProtRead))
	check(t, u.ProtectRange(pg, pg, ProtRead|ProtExec))
	before = table(t, u)
	same("protect of two areas", u, u.Protect(ProtRead|ProtWrite), ErrPermission)
	same("protect of a part", u, u.ProtectRange(pg, 2*pg, ProtRead|ProtWrite), ErrPermission)
	if u.Prot() != ProtRead {
		t.Error("the account says", u.Prot())
	}
	for _, c := range [][2]int{{-1, 1}, {1, pg - 1}, {0, pg - 1}, {0, 4*pg + 1}, {4 * pg, 1}, {math.MaxInt, math.MaxInt}, {pg, math.MaxInt}, {0, -1}} {
		same("bad range", u, u.ProtectRange(c[0], c[1], ProtRead), os.ErrInvalid)
		same("bad view", u, u.ViewRange(c[0], min(c[1], math.MaxInt)+btoi(c[0] == 1 || c[0] == 0 && c[1] == pg-1)*5*pg, nil), os.ErrInvalid)
	}
	same("bad permissions", u, u.Protect(9), os.ErrInvalid)
	for what, err := range map[string]error{
		"outside": u.Place(pg, Anonymous(4*pg), ProtRead), "before": u.Place(-1, Anonymous(pg), ProtRead),
		"unaligned": u.Place(1, Anonymous(pg), ProtRead), "a part of a page": u.Place(0, Anonymous(1), ProtRead),
		"incongruent": u.Place(0, File(ro, 1, pg-1), ProtRead), "aligned": u.Place(0, Anonymous(pg).Align(1), ProtRead),
		"permissions": u.Place(0, Anonymous(pg), 99), "zero spec": u.Place(0, Spec{}, ProtRead),
	} {
		same("place "+what, u, err, os.ErrInvalid)
	}
	same("place without permission", u, u.Place(0, File(ro, 0, pg).Shared(), ProtWrite), ErrPermission)
	same("place of huge pages", u, u.Place(0, Anonymous(pg).HugePages(0), ProtRead))
	got := make([]byte, 2*pg)
	if _, err := u.ReadAt(got, int64(2*pg)); err != nil || !bytes.Equal(got, data[:2*pg]) {
		t.Error(err, "or other contents")
	}
	_, err = Assert[Read](u)
	same("assert", u, err, ErrPermission)
	check(t, u.ProtectRange(pg, pg, ProtRead))
	if _, err = Assert[ReadExec](u); !errors.Is(err, ErrPermission) {
		t.Error(err)
	}
	known, err := Assert[Read](u)
	check(t, err)
	if _, err := Protect[ReadWrite](known); !errors.Is(err, ErrPermission) {
		t.Error(err)
	}
	one := func() int { return len(must(known.Regions())) }
	if n := one(); n != 2 {
		t.Errorf("%d kernel areas, want the anonymous and the file's", n)
	}
	check(t, known.Close())
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// A change that stops half-way and cannot go back, because the kernel does not
// give execute permission twice.
func TestPartial(t *testing.T) {
	child, out, err := inChild(t)
	if !child {
		if strings.Contains(out, "--- SKIP") {
			t.Skip(out)
		}
		if err != nil || !strings.Contains(out, "--- PASS") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	pg := int(pageSize)
	f, _ := scratch(t, pg)
	ro, err := os.Open(f.Name())
	check(t, err)
	build := func() Unknown {
		u, err := MapUnknown(Anonymous(2*pg), ProtRead|ProtExec)
		check(t, err)
		check(t, u.Place(pg, File(ro, 0, pg).Shared(), ProtRead|ProtExec))
		return u
	}
	u, again := build(), build()
	denyExecGain(t)
	known, err := Assert[ReadExec](u)
	check(t, err)
	_, err = Protect[ReadWrite](known)
	var stopped *PartialError
	if wants(t, "protect", err, ErrPermission, unix.EACCES); !errors.As(err, &stopped) || len(stopped.Regions) != 2 || stopped.Undo == nil {
		t.Fatalf("%#v", err)
	}
	explained(t, "protect", err, unix.EACCES, "protect as rw-: stopped half-way: "+unix.EACCES.Error()+"; the way back: "+unix.EACCES.Error())
	_, err = known.ReadAt(make([]byte, 1), 0)
	if !errors.As(err, &stopped) {
		t.Error("a known handle reads on:", err)
	}
	if _, _, err = Split(known, pg); !errors.As(err, &stopped) {
		t.Error("a known handle splits:", err)
	}
	if _, err := known.Regions(); err != nil {
		t.Error(err)
	}
	check(t, known.Drain(t.Context(), func() (err error) {
		u, err = Forget(known)
		return err
	}))
	if n, err := u.ReadAt(make([]byte, 2*pg), 0); n != 2*pg || err != nil {
		t.Error(n, err)
	}
	if n, err := u.WriteAt(make([]byte, 2*pg), 0); n != pg || !errors.Is(err, ErrPermission) {
		t.Error("the account differs from the kernel's:", n, err)
	}
	check(t, u.Close())
	// An Unknown goes on.
	if err := again.Protect(ProtRead | ProtWrite); !errors.As(err, &stopped) {
		t.Error(err)
	}
	if n, err := again.WriteAt(make([]byte, 2*pg), 0); n != pg || !errors.Is(err, ErrPermission) {
		t.Error(n, err)
	}
	if _, err := Protect[ReadWrite](again); err == nil {
		t.Error("protected")
	}
	if _, err := again.ReadAt(make([]byte, 1), 0); err != nil {
		t.Error(err)
	}
	check(t, again.Close())
}

func TestReserve(t *testing.T) {
	pg := int(pageSize)
	f, _ := scratch(t, 2*pg)
	for name, s := range map[string]Spec{
		"anonymous": Anonymous(10), "shared": Anonymous(10).Shared(), "file": File(f, 0, 10).Shared(), "private": File(f, 0, 10),
		"offset": File(f, 9, 10), "empty": Anonymous(0), "empty file": File(f, 9, 0), "secret": Secret(10),
	} {
		if name == "secret" && !hasSecret(t) {
			continue
		}
		m := mapped[ReadWrite](t, s.Reserve(5*pg))
		addr, size := m.Addr(), m.Len()
		if m.Cap() != 5*pg {
			t.Error(name, m.Cap())
		}
		var old []byte
		check(t, m.View(func(b []byte) error {
			old = b
			for _, n := range []int{size, 11, pg, pg + 1, 2 * pg} {
				check(t, Grow(m, n))
			}
			if len(b) != size {
				t.Error("a slice has grown")
			}
			if size > 0 {
				b[0] = 7
			}
			return nil
		}))
		if m.Addr() != addr || m.Len() != 2*pg || m.Cap() != 5*pg {
			t.Errorf("%s: %v, cap %d", name, m, m.Cap())
		}
		n, err := m.WriteAt(bytes.Repeat([]byte{3}, 2*pg-9), 0)
		if err != io.ErrShortWrite && err != nil && !errors.Is(err, ErrFault) || n == 0 {
			t.Error(name, n, err)
		}
		wants(t, name, Grow(m, 5*pg+1), ErrCapacity)
		wants(t, name, Grow(m, -1), os.ErrInvalid)
		// The reserve cannot be accessed, and shows so.
		regions := must(m.Regions())
		if last := regions[len(regions)-1]; last.Perms.String()[:3] != "---" {
			t.Errorf("%s: the reserve is %v", name, last)
		}
		if _, right, err := Split(m, 2*pg); name != "offset" && name != "empty file" {
			check(t, err)
			check(t, right.Close())
		} else {
			wants(t, name, err, os.ErrInvalid)
		}
		_ = old
	}
	// The reserve goes right at a split, stays with Over, and goes with Resize.
	m := mapped[ReadWrite](t, Anonymous(2*pg).Reserve(6*pg))
	m, err := Over[ReadWrite](m, File(f, 0, 2*pg))
	check(t, err)
	if m.Cap() != 6*pg {
		t.Error("after Over", m.Cap())
	}
	l, r, err := Split(m, pg)
	check(t, err)
	if l.Cap() != pg || r.Cap() != 5*pg || r.Len() != pg {
		t.Error(l.Cap(), r.Cap())
	}
	_, err = Join(r, l)
	check(t, err)
	m = mapped[ReadWrite](t, Anonymous(pg).Reserve(8*pg))
	addr := m.Addr()
	check(t, second(m.WriteAt([]byte{42}, 5)))
	m, err = Resize(m, 3*pg)
	check(t, err)
	if m.Addr() != addr || m.Cap() != 3*pg || isMapped(t, addr+3*pageSize) {
		t.Error("resized within the reserve:", m, m.Cap())
	}
	m = mapped[ReadWrite](t, Anonymous(pg).Reserve(2*pg))
	check(t, second(m.WriteAt([]byte{42}, 5)))
	m, err = Resize(m, 64*pg)
	check(t, err)
	b := make([]byte, 6)
	check(t, second(m.ReadAt(b, 0)))
	if b[5] != 42 || m.Len() != 64*pg {
		t.Error(b, m)
	}
	check(t, m.Close())
}

func TestResizeContents(t *testing.T) {
	pg := int(pageSize)
	f, data := scratch(t, 8*pg)
	m := mapped[ReadWrite](t, File(f, 3, 2*pg))
	for _, n := range []int{2*pg + 1, 6 * pg, 5, pg, 7 * pg, 1, 0} {
		var err error
		m, err = Resize(m, n)
		check(t, err)
		got := make([]byte, n)
		if n, err := m.ReadAt(got, 0); err != nil || !bytes.Equal(got[:n], data[3:3+n]) {
			t.Errorf("at %d bytes: %v, or other contents", n, err)
		}
	}
	_, err := Resize(m, 1)
	wants(t, "a file from 0", err, os.ErrInvalid)
	sh := mapped[ReadWrite](t, Anonymous(10).Shared())
	_, err = Resize(sh, pg+1)
	wants(t, "shared anonymous", err, os.ErrInvalid)
	sh, err = Resize(sh, pg)
	check(t, err)
	check(t, sh.Close())
}

// Assert says what it has found instead.
func TestAssertSays(t *testing.T) {
	pg := int(pageSize)
	u := must(MapUnknown(Anonymous(2*pg).At(hole(t, 2)), ProtRead))
	defer u.Close()
	_, err := Assert[ReadWrite](u)
	explained(t, "permissions", err, ErrPermission, fmt.Sprintf("%#x-%#x are r--, not rw-", u.Addr(), u.Addr()+2*pageSize))
	check(t, sys.Munmap(u.Addr(), pageSize))
	_, err = Assert[Read](u)
	explained(t, "a hole", err, ErrPermission, fmt.Sprintf("nothing is mapped at %#x", u.Addr()))
}

func TestStress(t *testing.T) {
	stop := time.Now().Add(300 * time.Millisecond)
	for time.Now().Before(stop) {
		m, err := Map[ReadWrite](Anonymous(2 * int(pageSize)))
		check(t, err)
		addr := m.Addr()
		var handle atomic.Pointer[ReadWrite]
		handle.Store(&m)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				p := make([]byte, 64)
				for range 100 {
					h := *handle.Load()
					err := h.View(func(b []byte) error {
						if b[0] != b[len(b)-1] {
							t.Error("half of a change")
						}
						return nil
					})
					_, again := h.ReadAt(p, 5)
					for _, err := range []error{err, again} {
						if err != nil && !errors.Is(err, ErrMoved) && !errors.Is(err, ErrClosed) {
							t.Error(err)
						}
					}
				}
			})
		}
		wg.Go(func() {
			cur := m
			for range 50 {
				ro, err := Protect[Read](cur)
				if err == nil {
					if cur, err = Protect[ReadWrite](ro); err != nil {
						// A reader of the old handle passes by.
						for errors.Is(err, ErrBusy) {
							cur, err = Protect[ReadWrite](ro)
						}
					}
					check(t, err)
					next := cur
					handle.Store(&next)
				} else if !errors.Is(err, ErrBusy) {
					t.Error(err)
				}
			}
			for err := error(ErrBusy); errors.Is(err, ErrBusy); {
				err = cur.Close()
			}
		})
		wg.Wait()
		if isMapped(t, addr) {
			// Another test may have mapped something there meanwhile.
			if err := (*handle.Load()).Close(); err == nil {
				t.Error("nobody has unmapped it")
			}
		}
	}
}

func TestReleaseAdopt(t *testing.T) {
	pg := int(pageSize)
	m := mapped[ReadWrite](t, Anonymous(pg+1).Reserve(4*pg))
	addr, size, err := m.Release()
	check(t, err)
	if size != 4*pg || !isMapped(t, addr) {
		t.Error(addr, size)
	}
	for what, err := range map[string]error{
		"odd address":   second(UnsafeAdopt[Unknown](addr+1, pg)),
		"negative size": second(UnsafeAdopt[Unknown](addr, -1)),
		"overflow":      second(UnsafeAdopt[Unknown](addr, math.MaxInt)),
	} {
		if err == nil {
			t.Error(what)
		}
	}
	explained(t, "negative size", second(UnsafeAdopt[Unknown](addr, -1)), unix.EINVAL, "negative size")
	_, err = UnsafeAdopt[Read](addr, pg)
	wants(t, "other permissions", err, ErrPermission)
	_, err = UnsafeAdopt[ReadWrite](addr, size)
	wants(t, "permissions that differ", err, ErrPermission)
	u, err := UnsafeAdopt[Unknown](addr, size)
	check(t, err)
	if u.Prot() != ProtNone || u.Len() != size {
		t.Error(u)
	}
	if n, err := u.WriteAt(make([]byte, size), 0); n != 2*pg || !errors.Is(err, ErrPermission) {
		t.Error(n, err)
	}
	l, r, err := Split(u, 2*pg)
	check(t, err)
	rw, err := Assert[ReadWrite](l)
	check(t, err)
	check(t, r.Close())
	check(t, rw.Close())
	_, err = UnsafeAdopt[Unknown](hole(t, 1), pg)
	wants(t, "nothing there", err, unix.ENOMEM)
	at := hole(t, 3)
	first, last := mapped[Read](t, Anonymous(1).At(at)), mapped[Read](t, Anonymous(1).At(at+2*pageSize))
	_, err = UnsafeAdopt[Read](at, 3*pg)
	explained(t, "a hole in the middle", err, unix.ENOMEM, fmt.Sprintf("at %#x", at+pageSize))
	one(t, first, "r--")
	one(t, last, "r--")
}

// Regions are those of the mapping, however far the kernel's go.
func TestRegionsClipped(t *testing.T) {
	pg := int(pageSize)
	f, _ := scratch(t, 5*pg)
	left, rest, err := Split(mapped[Read](t, File(f, int64(pg), 4*pg)), pg)
	check(t, err)
	middle, right, err := Split(rest, 2*pg)
	check(t, err)
	for m, pages := range map[Read][2]uint64{left: {1, 1}, middle: {2, 2}, right: {4, 1}} {
		defer m.Close()
		regions := must(m.Regions())
		if len(regions) != 1 {
			t.Fatal(regions)
		}
		r, page := regions[0], uint64(pageSize)
		if r.Start != uint64(m.Addr()) || r.Size() != pages[1]*page || r.Offset != pages[0]*page || r.Name != f.Name() {
			t.Errorf("%v: %v", m, r)
		}
	}
}

// Pages that an Unknown gets from its reserve are as its last ones.
func TestResizeIntoReserve(t *testing.T) {
	pg := int(pageSize)
	u, err := MapUnknown(Anonymous(3*pg).Reserve(8*pg), ProtRead|ProtWrite)
	check(t, err)
	check(t, u.ProtectRange(pg, pg, ProtNone))
	check(t, u.ProtectRange(2*pg, pg, ProtRead))
	u, err = Resize(u, 4*pg+1)
	check(t, err)
	defer u.Close()
	if perms := fmt.Sprint(permsOf(t, u)); perms != "[rw-p ---p r--p r--p r--p]" {
		t.Error(perms)
	}
	if n, err := u.ReadAt(make([]byte, 8*pg), int64(2*pg)); n != 2*pg+1 || err != io.EOF {
		t.Error(n, err)
	}
	wants(t, "beyond", second(u.WriteAt([]byte{1}, int64(4*pg))), ErrPermission)
	if u.UnsafeBytes() != nil {
		t.Error("memory is lent that cannot be read")
	}
	check(t, u.Protect(ProtRead))
	if b := u.UnsafeBytes(); len(b) != 4*pg+1 || cap(b) != len(b) {
		t.Error(len(b), cap(b))
	}
}

// perms are the kernel's permissions of each page of a mapping.
func permsOf(t testing.TB, m mapping) (pages []string) {
	t.Helper()
	for _, r := range must(m.Regions()) {
		for range r.Size() / uint64(pageSize) {
			pages = append(pages, r.Perms.String())
		}
	}
	return pages
}

// Growing to the length that a mapping has is safe beside all else: race builds look.
func TestGrowToLen(t *testing.T) {
	for range 200 {
		m := must(Map[ReadWrite](Anonymous(1)))
		var all sync.WaitGroup
		all.Go(func() { ok(Grow(m, 1)) })
		all.Go(func() { must(m.Resident(0, 1)) })
		all.Wait()
		check(t, m.Close())
	}
}

// Protect of a whole Unknown has all of its pages, also those of a Grow that was quicker. The
// two meet seldom: many try.
func TestProtectBesideGrow(t *testing.T) {
	pg := int(pageSize)
	for range 20_000 {
		u, err := MapUnknown(Anonymous(100).Reserve(3*pg), ProtRead|ProtWrite)
		check(t, err)
		grown := make(chan error)
		go func() { grown <- Grow(u, 2*pg+100) }()
		for err = ErrBusy; errors.Is(err, ErrBusy); {
			err = u.Protect(ProtRead)
		}
		if check(t, errors.Join(err, <-grown)); u.Prot() != ProtRead {
			t.Errorf("protected as r--, and it is %v", u)
		}
		check(t, u.Close())
	}
}

// Protect says why the file does not allow it, also where it is closed by then.
func TestProtectDenied(t *testing.T) {
	pg := int(pageSize)
	file, _ := scratch(t, pg)
	ro, err := os.Open(file.Name())
	check(t, err)
	sealed, err := Memfd("sealed", int64(pg), SealWrite)
	check(t, err)
	const why = "when it was mapped, the file was open for reading only, or sealed against writing"
	for what, f := range map[string]*os.File{"read-only": ro, "sealed": sealed} {
		m, err := Map[Read](File(f, 0, pg).Shared())
		if errors.Is(err, unix.EPERM) {
			t.Logf("not tested: before Linux 6.7 a sealed file cannot be mapped shared: %v", err)
			continue
		}
		check(t, err)
		check(t, f.Close())
		explained(t, what, second(Protect[ReadWrite](m)), unix.EACCES, "protect as rw-: "+why)
		u := must(Forget(m))
		explained(t, what, u.ProtectRange(0, pg, ProtRead|ProtWrite), unix.EACCES, why)
		check(t, u.Close())
	}
	m := mapped[ReadWrite](t, Anonymous(pg).Shared())
	check(t, second(Protect[Read](m)))
	if hasSecret(t) {
		const why = "secret memory cannot be executed"
		explained(t, "secret", second(Map[ReadExec](Secret(pg))), unix.EPERM, why)
		secret := mapped[ReadWrite](t, Secret(pg))
		explained(t, "secret", second(Protect[ReadExec](secret)), unix.EACCES, why)
		canLock(t, pg)
		explained(t, "lock", secret.Lock(0, pg), errors.ErrUnsupported, "secret memory is locked already")
	}
}

func TestProtectDeniedNoexec(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	m := mapped[Read](t, Path(onNoexec(t)))
	explained(t, "noexec", second(Protect[ReadExec](m)), unix.EACCES, "the file system is mounted with noexec")
}

// PR_SET_MDWE is named wherever it is met.
func TestProtectDeniedMDWE(t *testing.T) {
	if !byItself(t) {
		return
	}
	m := mapped[ReadWrite](t, Anonymous(100))
	grows := mapped[ReadExec](t, Anonymous(100).Reserve(1<<20))
	denyExecGain(t)
	for what, err := range map[string]error{
		"protect": second(Protect[ReadExec](m)), "grow": Grow(grows, 1<<16),
		"map": second(Map[ReadWriteExec](Anonymous(100))), "reserve": second(Map[ReadExec](Anonymous(10).Reserve(100000))),
	} {
		explained(t, what, err, unix.EACCES, "PR_SET_MDWE")
	}
}

//go:build linux

package mmap

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mmarinus/mmap/internal/place"
	"github.com/mmarinus/mmap/internal/testkit"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// A page that its storage cannot give ends what has to bring it in, soon, and with
// nothing changed. mlock(2) and MAP_POPULATE would never return.
func TestLockUnreadable(t *testing.T) {
	fs := mountFUSE(t)
	if fs == nil {
		return
	}
	pg := int(pageSize)
	bad, name := 2*pg, fs.path("eio2")
	f, err := os.Open(name)
	check(t, err)
	defer f.Close()
	part := File(f, 0, 4*pg)
	fill := mapped[Read](t, Anonymous(4*pg))
	u := must(MapUnknown(Anonymous(6*pg), ProtRead))
	grows := mapped[Read](t, File(f, 0, 2*pg).Reserve(6*pg).Lock())
	plain := mapped[Read](t, part)
	for what, c := range map[string]struct {
		at int // of the fault; -1: there is none
		m  mapping
		f  func() error
	}{
		"map":   {bad, fill, func() error { return second(Map[Read](part.Lock())) }},
		"path":  {bad, fill, func() error { return second(Map[ReadWrite](Path(name).Lock())) }},
		"lock":  {bad, plain, func() error { return plain.Lock(0, 4*pg) }},
		"grow":  {bad, grows, func() error { return Grow(grows, 5*pg) }},
		"over":  {bad, fill, func() error { return second(Over[Read](fill, part.Lock())) }},
		"place": {bad + 2*pg, u, func() error { return u.Place(2*pg, part.Lock(), ProtRead) }},
		"populate": {-1, fill, func() error {
			m, err := Map[Read](part.Populate())
			return errors.Join(err, m.Close())
		}},
		"lock on fault": {-1, plain, func() error { return errors.Join(plain.LockOnFault(0, 4*pg), plain.Unlock(0, 4*pg)) }},
	} {
		before, locks, start := state(t, c.m), counted(t, "VmLck"), time.Now()
		err := c.f()
		if took := time.Since(start); took > time.Second {
			t.Errorf("%s: %v", what, took)
		}
		fault := (*FaultError)(nil)
		switch {
		case c.at < 0:
			check(t, err)
		case !errors.As(err, &fault) || fault.Err != ErrFault || fault.Offset != c.at:
			t.Errorf("%s: %v", what, err)
		case c.m != mapping(fill) && fault.Addr != c.m.Addr()+uintptr(c.at):
			t.Errorf("%s: %v, and the mapping is at %#x", what, err, c.m.Addr())
		}
		kept(t, what, c.m, before)
		if now := counted(t, "VmLck"); now != locks {
			t.Errorf("%s: %d bytes are locked, not %d", what, now, locks)
		}
	}
	// Resize brings in what it can, as mremap(2) does.
	start := time.Now()
	longer, err := Resize(grows, 5*pg)
	check(t, err)
	longer, err = Resize(longer, 8*pg)
	if took := time.Since(start); err != nil || took > time.Second {
		t.Error("resize: ", took, err)
	}
	flagged(t, "resize", longer, "lo", "")
	// What was locked before stays so.
	check(t, plain.Lock(pg, pg))
	wants(t, "again", plain.Lock(0, 4*pg), ErrFault)
	for i := range 4 {
		if locked := place.IsLocked(plain.Addr()+uintptr(i*pg), pageSize); locked != (i == 1) {
			t.Errorf("page %d is locked: %v", i, locked)
		}
	}
}

// While somebody waits for storage, nobody else does.
func TestNobodyElseWaits(t *testing.T) {
	fs := mountFUSE(t)
	if fs == nil {
		return
	}
	pg := int(pageSize)
	open := func(name string) *os.File {
		f, err := os.OpenFile(fs.path(name), os.O_RDWR, 0)
		check(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	next := 0
	fresh := func(kind string) string { next++; return fmt.Sprintf("%s.%d", kind, next) }
	held := func() *os.File { return open(fresh("gate2")) }
	unknown := func() Unknown { return must(MapUnknown(Anonymous(4*pg), ProtRead|ProtWrite)) }
	type waiting struct {
		op    string
		first func() (m mapping, read func(p []byte, off int64) (int, error), f func() error)
	}
	of := func(m ReadWrite, f func() error) (mapping, func(p []byte, off int64) (int, error), func() error) {
		return m, m.ReadAt, f
	}
	nothingLeft := func(op string) {
		t.Helper()
		table := must(procmaps.Open(0))
		defer table.Close()
		for r, err := range table.Regions() {
			if check(t, err); strings.HasPrefix(r.Name, fs.dir) {
				t.Errorf("%s: left is %v", op, r)
			}
		}
	}
	for _, w := range []waiting{
		{"lock", func() (mapping, func(p []byte, off int64) (int, error), func() error) {
			m := mapped[ReadWrite](t, File(held(), 0, 4*pg))
			return of(m, func() error { return m.Lock(0, 4*pg) })
		}},
		{"prefault", func() (mapping, func(p []byte, off int64) (int, error), func() error) {
			m := mapped[ReadWrite](t, File(held(), 0, 4*pg))
			return of(m, func() error { return m.Prefault(0, 4*pg) })
		}},
		{"sync", func() (mapping, func(p []byte, off int64) (int, error), func() error) {
			m := mapped[ReadWrite](t, File(open(fresh("gatewrite")), 0, 4*pg).Shared())
			check(t, second(m.WriteAt([]byte{1}, 0)))
			return of(m, func() error { return m.Sync(0, 4*pg) })
		}},
		{"grow", func() (mapping, func(p []byte, off int64) (int, error), func() error) {
			m := mapped[ReadWrite](t, File(held(), 0, 2*pg).Reserve(4*pg).Lock())
			return of(m, func() error { return Grow(m, 4*pg) })
		}},
		{"resize", func() (mapping, func(p []byte, off int64) (int, error), func() error) {
			m := mapped[ReadWrite](t, File(held(), 0, 2*pg).Reserve(4*pg).Lock())
			return of(m, func() error {
				m, err := Resize(m, 4*pg)
				m.Close()
				return err
			})
		}},
		{"over, populate", func() (mapping, func(p []byte, off int64) (int, error), func() error) {
			m := mapped[ReadWrite](t, Anonymous(4*pg))
			return of(m, func() error { return second(Over[Read](m, File(held(), 0, 4*pg).Populate())) })
		}},
		{"over, lock", func() (mapping, func(p []byte, off int64) (int, error), func() error) {
			m := mapped[ReadWrite](t, Anonymous(4*pg))
			return of(m, func() error { return second(Over[Read](m, File(held(), 0, 4*pg).Lock())) })
		}},
		{"over, open", func() (mapping, func(p []byte, off int64) (int, error), func() error) {
			m := mapped[ReadWrite](t, Anonymous(fusePages*pg))
			name := fs.path(fresh("gateopen"))
			return of(m, func() error { return second(Over[Read](m, Path(name))) })
		}},
		{"over, stat", func() (mapping, func(p []byte, off int64) (int, error), func() error) {
			m := mapped[ReadWrite](t, Anonymous(fusePages*pg))
			name := fs.path(fresh("gatestat"))
			return of(m, func() error { return second(Over[Read](m, Path(name))) })
		}},
		{"place, populate", func() (mapping, func(p []byte, off int64) (int, error), func() error) {
			u := unknown()
			return u, u.ReadAt, func() error { return u.Place(0, File(held(), 0, 4*pg).Populate(), ProtRead) }
		}},
		{"place, lock", func() (mapping, func(p []byte, off int64) (int, error), func() error) {
			u := unknown()
			return u, u.ReadAt, func() error { return u.Place(0, File(held(), 0, 4*pg).Lock(), ProtRead) }
		}},
		{"place, open", func() (mapping, func(p []byte, off int64) (int, error), func() error) {
			u := must(MapUnknown(Anonymous(fusePages*pg), ProtRead|ProtWrite))
			name := fs.path(fresh("gateopen"))
			return u, u.ReadAt, func() error { return u.Place(0, Path(name), ProtRead) }
		}},
		{"place, stat", func() (mapping, func(p []byte, off int64) (int, error), func() error) {
			u := must(MapUnknown(Anonymous(fusePages*pg), ProtRead|ProtWrite))
			name := fs.path(fresh("gatestat"))
			return u, u.ReadAt, func() error { return u.Place(0, Path(name), ProtRead) }
		}},
	} {
		fs.let(t)
		m, read, f := w.first()
		fs.hold(t)
		done := make(chan error, 1)
		go func() { done <- f() }()
		fs.wait(t)
		for what, g := range map[string]func(){
			"read":     func() { read(make([]byte, 1), 0) },
			"Len":      func() { m.Len() },
			"Cap":      func() { m.Cap() },
			"Addr":     func() { m.Addr() },
			"Prot":     func() { m.Prot() },
			"Pin":      func() { p, _ := m.Pin(); p.Unpin() },
			"Advise":   func() { m.Advise(0, pg, AdviceRandom) },
			"Resident": func() { m.Resident(0, pg) },
			"Unlock":   func() { m.Unlock(0, pg) },
		} {
			start, gone := time.Now(), make(chan bool)
			go func() { defer close(gone); g() }()
			select {
			case <-gone:
			case <-time.After(5 * time.Second):
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("%s: %s waits %v", w.op, what, took)
			}
		}
		if w.op == "grow" {
			for what, g := range map[string]func() error{
				"Track":      func() error { return second(m.(ReadWrite).Track()) },
				"paging.New": func() error { return second(m.(ReadWrite).page(nothingFetched)) },
			} {
				refused := make(chan error, 1)
				go func() { refused <- g() }()
				select {
				case err := <-refused:
					wants(t, what+" beside Grow", err, ErrBusy)
				case <-time.After(5 * time.Second):
					t.Errorf("%s waits for a Grow", what)
				}
			}
		}
		start := time.Now()
		m.Close()
		if took := time.Since(start); took > time.Second {
			t.Errorf("%s: Close waits %v", w.op, took)
		}
		select {
		case err := <-done:
			if w.op != "resize" {
				t.Errorf("%s did not wait: %v", w.op, err)
			}
			continue
		default:
		}
		fs.let(t)
		if err := <-done; err != nil && !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", w.op, err)
		}
		nothingLeft(w.op)
	}
}

// A page that cannot be brought in is not a limit, also of an ordinary user, and
// leaves nothing locked.
func TestLockNoLimit(t *testing.T) {
	if !alone(t) {
		return
	}
	pg := int(pageSize)
	f, err := Memfd("locked", int64(5*pg), 0)
	check(t, err)
	defer f.Close()
	secret := hasSecret(t)
	humble(t)
	const limit = 8
	check(t, unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: uint64(limit * pg), Max: uint64(limit * pg)}))
	m := mapped[ReadWrite](t, File(f, 0, 5*pg).Shared())
	check(t, f.Truncate(int64(4*pg)))
	wants(t, "truncated", m.Lock(0, 5*pg), ErrFault)
	if Probe("MADV_GUARD_INSTALL") == nil {
		g := mapped[ReadWrite](t, Anonymous(5*pg))
		check(t, g.InstallGuardPages(2*pg, pg))
		wants(t, "guard page", g.Lock(0, 5*pg), ErrFault)
	}
	if secret {
		s := mapped[ReadWrite](t, Secret(5*pg))
		wants(t, "secret", s.Lock(0, 5*pg), errors.ErrUnsupported)
		check(t, s.Close())
	}
	if n := counted(t, "VmLck"); n != 0 {
		t.Errorf("%d bytes are locked", n)
	}
	check(t, m.Lock(0, 4*pg)) // what counts already does not count again
	check(t, m.Lock(0, 4*pg))
	explained(t, "limit", mapped[Read](t, Anonymous(9*pg)).Lock(0, 9*pg), unix.ENOMEM, fmt.Sprintf("RLIMIT_MEMLOCK is %d, and %d are in use", limit*pg, 4*pg))
}

// Without /proc nobody knows how much is in use.
func TestLimitWithoutProc(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	pg := int(pageSize)
	m := mapped[Read](t, Anonymous(9*pg))
	check(t, unix.Mount("none", "/proc", "tmpfs", 0, ""))
	// An ordinary user is the only one of the namespace, and has the limit in it.
	if err := unix.Setresuid(65534, 65534, 65534); err != unix.EINVAL {
		check(t, err)
	}
	check(t, unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: uint64(8 * pg), Max: uint64(8 * pg)}))
	err := m.Lock(0, 9*pg)
	explained(t, "lock", err, unix.ENOMEM)
	if err != nil && strings.Contains(err.Error(), "in use") {
		t.Error(err)
	}
}

// A size beyond the address space is not the fault of a limit.
func TestBeyondAddressSpace(t *testing.T) {
	if strconv.IntSize == 32 {
		t.Skip("an int is within the address space")
	}
	size := math.MaxInt &^ 0xffff
	_, err := Map[ReadWrite](Anonymous(size))
	explained(t, "map", err, unix.ENOMEM, "the address space has no room for ")
}

// Droppable memory cannot be locked, however it came to be where it is.
func TestLockDroppableParts(t *testing.T) {
	testkit.Needs(t, "MAP_DROPPABLE")
	pg := int(pageSize)
	placed := must(MapUnknown(Anonymous(3*pg), ProtRead|ProtWrite))
	check(t, placed.Place(pg, Anonymous(pg).Droppable(), ProtRead|ProtWrite))
	at := nowhere(t, 4)
	joined := must(Join(must(MapUnknown(Anonymous(2*pg).At(at), ProtRead|ProtWrite)), must(MapUnknown(Anonymous(2*pg).Droppable().At(at+2*pageSize), ProtRead|ProtWrite))))
	addr, size, err := mapped[ReadWrite](t, Anonymous(3*pg).Droppable()).Release()
	check(t, err)
	adopted := must(UnsafeAdopt[Unknown](addr, size))
	for what, u := range map[string]Unknown{"placed": placed, "joined": joined, "adopted": adopted} {
		wants(t, what, u.Lock(0, u.Len()), os.ErrInvalid)
		wants(t, what+", on fault", u.LockOnFault(0, u.Len()), os.ErrInvalid)
		if place.IsLocked(u.Addr(), uintptr(u.Len())) {
			t.Errorf("%s: and yet pages are locked", what)
		}
	}
	check(t, placed.Lock(0, pg))
	check(t, placed.Lock(2*pg, pg))
	left, right, err := Split(placed, 2*pg)
	check(t, err)
	check(t, right.Lock(0, pg))
	wants(t, "left", left.Lock(0, 2*pg), os.ErrInvalid)
	for _, u := range []Unknown{left, right, joined, adopted} {
		check(t, u.Close())
	}
}

func vmLocked() int { return int(number("/proc/self/status", "VmLck:")) << 10 }

func TestLockRange(t *testing.T) {
	pg := int(pageSize)
	canLock(t, 6*pg)
	// In a process of its own, for VmLck counts what any test has locked.
	if child, out, err := inChild(t, quick); !child {
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	m := apart[ReadWrite](t, Anonymous(3*pg-1).Reserve(6*pg), 6)
	check(t, m.Advise(0, m.Len(), AdviceNoHugePage))
	before := vmLocked()
	for i, c := range []struct {
		f                func(off, n int) error
		off, n           int
		locked, resident string
	}{
		{m.Lock, 7, 0, "---", "---"},
		{m.Lock, 2*pg - 1, 1, "-x-", "-x-"},
		{m.LockOnFault, pg - 1, 1, "xx-", "-x-"},
		{m.Unlock, pg, 1, "x--", "-x-"},
		{m.Lock, 0, 3*pg - 1, "xxx", "xxx"},
		{m.Unlock, pg + 9, 9, "x-x", "xxx"},
		{m.Unlock, pg, 1, "x-x", "xxx"}, // again
		{m.Unlock, 0, 3*pg - 1, "---", "xxx"},
		{m.LockOnFault, 0, 3*pg - 1, "xxx", "xxx"},
	} {
		check(t, c.f(c.off, c.n))
		locked, resident := pagesWith(t, m, "lo"), mappedPages(t, m)
		if n := vmLocked() - before; locked != c.locked || resident != c.resident || n != strings.Count(locked, "x")*pg {
			t.Errorf("%d: %s locked, %s resident, VmLck %d, want %s, %s", i, locked, resident, n, c.locked, c.resident)
		}
	}
	check(t, Grow(m, 6*pg)) // what is locked stays so
	if got := pagesWith(t, m, "lo"); got[:3] != "xxx" {
		t.Error(got)
	}
	check(t, m.Unlock(0, 6*pg))
	if n := vmLocked(); n != before {
		t.Errorf("VmLck is %d, was %d", n, before)
	}

	// On fault is just that.
	m = apart[ReadWrite](t, Anonymous(2*pg), 2)
	check(t, m.LockOnFault(0, 2*pg))
	if _, sum := smaps(t, m, 0, 2*pg); sum["Rss"] != 0 || sum["Locked"] != 0 {
		t.Error(sum)
	}
	check(t, second(m.WriteAt([]byte{1}, int64(pg))))
	if _, sum := smaps(t, m, 0, 2*pg); sum["Rss"] != pg || sum["Locked"] != pg {
		t.Error(sum)
	}

	// Unlock undoes the Spec's Lock as well.
	m = apart[ReadWrite](t, Anonymous(2*pg).Lock(), 2)
	check(t, m.Unlock(0, pg))
	if got := pagesWith(t, m, "lo"); got != "-x" {
		t.Error(got)
	}
}

// What cannot be accessed cannot be locked, and is not half locked either;
// mlock(2) alone would leave the area pagesWith.
func TestLockPermission(t *testing.T) {
	pg := int(pageSize)
	canLock(t, 3*pg)
	none := apart[None](t, Anonymous(3*pg), 3)
	u, err := MapUnknown(Anonymous(3*pg), ProtRead|ProtWrite)
	check(t, err)
	defer u.Close()
	check(t, u.ProtectRange(pg, pg, ProtNone))
	for _, m := range []mapping{none, u} {
		err := m.Lock(0, 3*pg)
		wants(t, "lock", err, ErrPermission, unix.EACCES)
		if names(t, err, 0, 3*pg); pagesWith(t, m, "lo") != "---" || mappedPages(t, m) != "---" {
			t.Errorf("%v: %s is locked, %s resident", m, pagesWith(t, m, "lo"), mappedPages(t, m))
		}
		check(t, m.LockOnFault(pg, 1))
		if pagesWith(t, m, "lo") != "-x-" {
			t.Errorf("%v: %s is locked on fault", m, pagesWith(t, m, "lo"))
		}
		check(t, m.Unlock(pg, 1))
	}
	check(t, u.Lock(0, pg))
	check(t, u.Lock(2*pg, 1))
	if pagesWith(t, u, "lo") != "x-x" {
		t.Error(pagesWith(t, u, "lo"))
	}
}

func lockTruncated[M Known](t *testing.T) {
	pg := int(pageSize)
	for _, shared := range []bool{false, true} {
		m, _ := truncatedMapping[M](t, shared)
		what := fmt.Sprintf("%T, shared %v", m, shared)
		err := m.Lock(0, m.Len())
		// Where protection keys make it so, nobody can reach what is for
		// execution only, not even the kernel.
		unreachable := m.Prot() == ProtExec && errors.Is(err, ErrPermission)
		if !unreachable {
			faults(t, what, err, pg, ErrTruncated)
		}
		if got := pagesWith(t, m, "lo"); got != "---" {
			t.Errorf("%s: %s is locked", what, got)
		}
		if err := m.Lock(0, pg); err != nil && !unreachable {
			t.Errorf("%s: lock of what is left: %v", what, err)
		} else if got := pagesWith(t, m, "lo"); got[1:] != "--" || (got[0] == 'x') != (err == nil) {
			t.Errorf("%s: %s is locked, and %v", what, got, err)
		}
		check(t, m.LockOnFault(0, m.Len()))
		check(t, m.Close())
	}
}

// A page that a truncation took away is a fault for all that can be accessed,
// and leaves nothing locked.
func TestLockTruncated(t *testing.T) {
	canLock(t, 3*int(pageSize))
	lockTruncated[Read](t)
	lockTruncated[ReadWrite](t)
	lockTruncated[Write](t)
	lockTruncated[WriteExec](t)
	lockTruncated[Exec](t)

	// Pages that can be read and pages that can be written fault in different
	// ways.
	pg := int(pageSize)
	m, _ := truncatedMapping[ReadWrite](t, true)
	u := must(Forget(m))
	defer u.Close()
	check(t, u.ProtectRange(0, pg, ProtWrite))
	check(t, u.ProtectRange(pg, pg, ProtRead))
	faults(t, "pages that differ", u.Lock(0, 3*pg), pg, ErrTruncated)
	if got := pagesWith(t, u, "lo"); got != "---" {
		t.Errorf("%s is locked", got)
	}
}

// Whoever may lock without a limit is not told of one.
func TestLockTruncatedPrivileged(t *testing.T) {
	if !byItself(t) {
		return
	}
	pg := int(pageSize)
	check(t, unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{}))
	m, _ := truncatedMapping[ReadWrite](t, true)
	if err := m.Lock(0, pg); err != nil {
		t.Skip("needs CAP_IPC_LOCK: ", err)
	}
	faults(t, "three pages", m.Lock(0, 3*pg), pg, ErrTruncated)
}

// What the kernel would pass over in silence is an error: such pages are lost at
// any moment.
func TestLockDroppable(t *testing.T) {
	testkit.Needs(t, "MAP_DROPPABLE")
	m := mapped[ReadWrite](t, Anonymous(int(pageSize)).Droppable())
	for _, lock := range []func(off, n int) error{m.Lock, m.LockOnFault} {
		if err := lock(0, m.Len()); err == nil && pagesWith(t, m, "lo") == "-" {
			t.Error("droppable memory is said to be locked, and is not")
		}
	}
}

// A limit is met before memory is taken: there may be less of that.
func TestLockOverLimit(t *testing.T) {
	child, out, err := inChild(t, quick)
	if !child {
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	pg := int(pageSize)
	check(t, unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: uint64(2 * pg), Max: uint64(2 * pg)}))
	if os.Geteuid() == 0 {
		check(t, unix.Setresuid(65534, 65534, 65534))
	}
	m := apart[ReadWrite](t, Anonymous(4*pg).Shared(), 4)
	for _, f := range []func(off, n int) error{m.LockOnFault, m.Lock} {
		err := f(0, 4*pg)
		if wants(t, "over the limit", err, unix.ENOMEM); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("RLIMIT_MEMLOCK is %d", 2*pg)) {
			t.Error(err)
		}
		if pagesWith(t, m, "lo") != "----" {
			t.Error(pagesWith(t, m, "lo"))
		}
	}
	check(t, m.Lock(2*pg, 2*pg))
	if rss := smapsOf(t, m.Addr())["Rss"]; rss != "0 kB" { // pagemap is root's, and this process was that
		t.Errorf("pages were taken for a lock that was refused: %s", rss)
	}
}

// A Lock that fails takes nothing from one of the same pages that succeeds: the second waits.
func TestLocksTakeTurns(t *testing.T) {
	testkit.Needs(t, "MADV_POPULATE_WRITE")
	pg := int(pageSize)
	f, _ := scratch(t, pg)
	m := mapped[ReadWrite](t, File(f, 0, 2*pg).Shared())
	var done chan struct{}
	failed := paused(t, unix.SYS_MADVISE, 0, m.Addr(), func() {
		_, done = ends(func() { check(t, m.Lock(0, pg)) })
	}, func() error { return m.Lock(0, 2*pg) })
	<-done
	if wants(t, "lock", failed, ErrTruncated); !place.IsLocked(m.Addr(), pageSize) || place.IsLocked(m.Addr()+pageSize, pageSize) {
		t.Error("the wrong pages are locked")
	}
}

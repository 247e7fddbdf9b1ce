//go:build linux

package mmap

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mmarinus/mmap/internal/place"
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
			return of(m, func() error { return second(Resize(m, 4*pg)) })
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
	check(t, unix.Setresuid(65534, 65534, 65534))
	check(t, unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: uint64(8 * pg), Max: uint64(8 * pg)}))
	err := m.Lock(0, 9*pg)
	explained(t, "lock", err, unix.ENOMEM)
	if err != nil && strings.Contains(err.Error(), "in use") {
		t.Error(err)
	}
}

// A size beyond the address space is not the fault of a limit.
func TestBeyondAddressSpace(t *testing.T) {
	size := int(^uint(0)>>1) &^ 0xffff
	_, err := Map[ReadWrite](Anonymous(size))
	explained(t, "map", err, unix.ENOMEM, "the address space has no room for ")
}

// Droppable memory cannot be locked, however it came to be where it is.
func TestLockDroppableParts(t *testing.T) {
	if err := Probe("MAP_DROPPABLE"); err != nil {
		t.Skip(err)
	}
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

//go:build linux

package mmap

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// truncatedMapping is a mapping of three pages whose file has half a page left.
func truncatedMapping[M Known](t *testing.T, shared bool) (M, *os.File) {
	f, _ := scratch(t, 3*int(pageSize))
	s := Path(f.Name())
	if shared {
		s = s.Shared()
	}
	m := mapped[M](t, s)
	check(t, f.Truncate(int64(pageSize)/2))
	return m, f
}

func TestTruncated(t *testing.T) {
	size := int(pageSize)
	// Also in a later piece of a long copy.
	left := 2*pieceSize + 3*size
	f, _ := scratch(t, 4*pieceSize) // which has a name: see ErrTruncated
	long := mapped[ReadWrite](t, File(f, 0, 4*pieceSize).Shared())
	check(t, f.Truncate(int64(left)))
	for what, transfer := range map[string]func(p []byte, off int64) (int, error){"read": long.ReadAt, "write": long.WriteAt} {
		for _, off := range []int{0, 7, size + 1} {
			n, err := transfer(make([]byte, 4*pieceSize-off), int64(off))
			var fault *FaultError
			if !errors.As(err, &fault) || n != left-off || fault.Offset != left || !errors.Is(err, ErrTruncated) {
				t.Errorf("%s at %d: %d, %v; want %d", what, off, n, err, left-off)
			}
		}
	}
	for _, shared := range []bool{false, true} {
		m, f := truncatedMapping[ReadWrite](t, shared)
		// From every distance before the fault, the copy stops at the page.
		for _, off := range []int{0, 1, size / 2, size - 1, size, size + 1, 2*size + 7} {
			for _, write := range []bool{false, true} {
				want := max(0, size-off)
				p := bytes.Repeat([]byte{0xee}, 3*size+100)
				var n int
				var err error
				if write {
					n, err = m.WriteAt(p[:3*size-off], int64(off))
				} else {
					n, err = m.ReadAt(p, int64(off))
				}
				var fault *FaultError
				if !errors.As(err, &fault) || n != want || fault.Offset != off+want {
					t.Fatalf("write %v at %d: %d, %v; want %d", write, off, n, err, want)
				}
				wants(t, "truncated", err, ErrFault, ErrTruncated)
				if page(fault.Addr) != m.Addr()+uintptr(max(size, off/size*size)) {
					t.Errorf("at %d: address %#x", off, fault.Addr)
				}
			}
		}
		err := m.View(func(b []byte) error { _ = bytes.Count(b, []byte{0xff}); return nil })
		wants(t, "view", err, ErrFault, ErrTruncated)
		err = m.Update(func(b []byte) error { b[2*size+9] = 1; return nil })
		var fault *FaultError
		if wants(t, "update", err, ErrTruncated); !errors.As(err, &fault) || runtime.GOARCH != "s390x" && fault.Offset != 2*size+9 {
			t.Error(err)
		}
		check(t, f.Truncate(int64(3*size)))
		if n, err := m.ReadAt(make([]byte, 3*size), 0); n != 3*size || err != nil {
			t.Errorf("after the file has grown again: %d, %v", n, err)
		}
		if _, err := Protect[Read](m); err != nil {
			t.Error("a fault has left a pin:", err)
		}
	}
}

func TestTruncatedUnlinked(t *testing.T) {
	m, f := truncatedMapping[Read](t, true)
	check(t, os.Remove(f.Name()))
	_, err := m.ReadAt(make([]byte, 1), 2*int64(pageSize))
	wants(t, "unlinked", err, ErrFault)
	// Proof is at hand only with the capability that map_files wants.
	if errors.Is(err, ErrPermission) {
		t.Error("a wrong cause:", err)
	}
	if os.Geteuid() == 0 && !errors.Is(err, ErrTruncated) {
		var st unix.Stat_t
		regions, rerr := m.Regions()
		check(t, rerr)
		if unix.Stat("/proc/self/map_files/"+strings.SplitN(regions[0].String(), " ", 2)[0], &st) == nil {
			t.Error("map_files proves it, and yet:", err)
		}
	}
}

func TestStoreIntoRead(t *testing.T) {
	f, data := scratch(t, 2*int(pageSize))
	m := mapped[Read](t, Path(f.Name()))
	at := int(pageSize) + 5
	err := m.View(func(b []byte) error { b[at] = 1; return nil })
	var fault *FaultError
	// It is no ErrPermission: the page may have gone and come back.
	explained(t, "store", err, ErrFault, "it was a store into memory lent for reading, or the page has come back")
	if errors.Is(err, ErrPermission) {
		t.Error("not proven, and yet:", err)
	}
	if !errors.As(err, &fault) || runtime.GOARCH != "s390x" && (fault.Offset != at || fault.Addr != m.Addr()+uintptr(at)) {
		t.Error(err)
	}
	got := make([]byte, len(data))
	if _, err := m.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
		t.Error(err, "or the store has arrived")
	}
	// A page that begins before the mapping is no offset before it, where the
	// processor tells no more than the page.
	m = mapped[Read](t, File(f, 100, 50))
	err = m.View(func(b []byte) error { b[5] = 1; return nil })
	if !errors.As(err, &fault) || fault.Offset != 5 && (runtime.GOARCH != "s390x" || fault.Offset != 0) {
		t.Error(err)
	}
}

// A pretender panics with an address, and is no fault.
type pretender uintptr

func (p pretender) Addr() uintptr { return uintptr(p) }

// The flag of SetPanicOnFault is as it was, and no pin is left, on every way
// out of a view.
func TestWaysOut(t *testing.T) {
	m := mapped[ReadWrite](t, Anonymous(int(pageSize)))
	pin, err := m.Pin()
	check(t, err)
	boom := errors.New("boom")
	for _, flag := range []bool{false, true} {
		for name, leave := range map[string]func(){
			"return": func() {}, "panic": func() { panic(boom) }, "goexit": runtime.Goexit,
			"nil dereference": func() { var p *int; *p = 1 },
			"index":           func() { var b []byte; i := 5; b[i] = 1 },
			"pretender":       func() { panic(pretender(m.Addr())) },
		} {
			for how, run := range map[string]func(func([]byte) error) error{
				"view": m.View, "update": m.Update,
				"guard": func(f func([]byte) error) error { return Guard(func() error { return f(nil) }, nil, pin) },
			} {
				var got any
				var after bool
				done := make(chan bool)
				go func() {
					defer close(done)
					defer debug.SetPanicOnFault(debug.SetPanicOnFault(flag))
					defer func() { after = debug.SetPanicOnFault(flag) }()
					defer func() { got = recover() }()
					run(func([]byte) error { leave(); return nil })
				}()
				<-done
				if after != flag {
					t.Errorf("%s by %s: the flag was %v, and is %v", how, name, flag, after)
				}
				want := map[string]string{"return": "<nil>", "goexit": "<nil>", "panic": "boom", "nil dereference": "nil pointer", "index": "index out of range", "pretender": fmt.Sprint(pretender(m.Addr()))}[name]
				if !strings.Contains(fmt.Sprint(got), want) {
					t.Errorf("%s by %s: recovered %v", how, name, got)
				}
			}
		}
	}
	pin.Unpin()
	if _, err := Protect[Read](m); err != nil {
		t.Error("a pin is left:", err)
	}
}

var loaded byte // or the compiler drops the load

// A guard claims faults of its own mapping alone.
func TestNestedGuards(t *testing.T) {
	outer, _ := truncatedMapping[Read](t, false)
	inner := mapped[Read](t, Anonymous(int(pageSize)))
	reached := false
	err := outer.View(func(o []byte) error {
		err := inner.View(func([]byte) error { _ = bytes.Count(o, []byte{0xff}); return nil })
		reached = true
		return err
	})
	var fault *FaultError
	if wants(t, "outer", err, ErrTruncated); reached || !errors.As(err, &fault) || page(fault.Addr) != outer.Addr()+pageSize {
		t.Error(reached, err)
	}
	err = inner.View(func([]byte) error {
		return outer.View(func(o []byte) error { _ = bytes.Count(o, []byte{0xff}); return nil })
	})
	wants(t, "inner", err, ErrTruncated)
	// The inner guard lets the fault pass as it is.
	at := int(pageSize) + 3
	pin := must(inner.Pin())
	for by, guard := range map[string]func(f func() error) error{
		"view":  func(f func() error) error { return inner.View(func([]byte) error { return f() }) },
		"guard": func(f func() error) error { return Guard(f, nil, pin) },
	} {
		reached = false
		err = outer.View(func(o []byte) error {
			err := guard(func() error { loaded = o[at]; return nil })
			reached = true
			return err
		})
		if reached || !errors.As(err, &fault) || fault.Offset != at && runtime.GOARCH != "s390x" {
			t.Errorf("outer, one byte, inner %s: %v, %v", by, reached, err)
		}
	}
	pin.Unpin()
	for _, m := range []Read{outer, inner} {
		if _, err := Protect[None](m); err != nil {
			t.Error("a pin is left:", err)
		}
	}
}

// A fault elsewhere ends the program, with the runtime's own report, although a
// guard is in place.
func TestFaultElsewhere(t *testing.T) {
	for name, fault := range map[string]func(){
		"load": func() {
			other, _ := truncatedMapping[Read](t, false)
			_ = bytes.Count(other.UnsafeBytes(), []byte{0xff})
		},
		"store": func() { mapped[Read](t, Anonymous(1)).UnsafeBytes()[0] = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			child, out, err := inChild(t)
			if child {
				m := mapped[Read](t, Anonymous(1))
				defer func() { println("recovered:", recover() != nil) }()
				m.View(func([]byte) error { fault(); return nil })
				return
			}
			if err == nil || !strings.Contains(out, "unexpected fault address") || strings.Contains(out, "recovered:") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// onSmallDisk returns a file on a tmpfs of so many bytes. The test has its own mounts.
func onSmallDisk(t *testing.T, size int) *os.File {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skip("mounting a small tmpfs is not allowed: ", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	f, err := os.Create(filepath.Join(dir, "f"))
	check(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func TestFullDisk(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	f := onSmallDisk(t, 64<<10)
	check(t, f.Truncate(1<<20)) // a hole
	m := mapped[ReadWrite](t, File(f, 0, 1<<20).Shared())
	n, err := m.WriteAt(make([]byte, 1<<20), 0)
	if wants(t, "full", err, ErrFault); n != 64<<10 || errors.Is(err, ErrTruncated) || errors.Is(err, ErrPermission) {
		t.Errorf("%d bytes, %v", n, err)
	}
	explained(t, "allocate", Allocate(f, 0, 1<<20), unix.ENOSPC, "the file may keep the blocks that it got: Truncate frees those past a size")
	check(t, Allocate(f, 0, 64<<10))
	if n, err := m.WriteAt(make([]byte, 64<<10), 0); n != 64<<10 || err != nil {
		t.Errorf("allocated, and yet %d bytes, %v", n, err)
	}
}

func TestPin(t *testing.T) {
	m := mapped[ReadWrite](t, Anonymous(100).Reserve(3*int(pageSize)))
	addr := m.Addr()
	pin, err := m.Pin()
	check(t, err)
	if b := pin.Bytes(); len(b) != 100 || cap(b) != 100 {
		t.Error(len(b), cap(b))
	}
	check(t, Grow(m, 2*int(pageSize)))
	if b := pin.Bytes(); len(b) != 2*int(pageSize) {
		t.Error("after growth", len(b))
	}
	for name, err := range transitions(m) {
		wants(t, name+" of a pinned mapping", err, ErrBusy)
	}
	check(t, m.Close())
	_, err = m.ReadAt(make([]byte, 1), 0)
	wants(t, "closed under a pin", err, ErrClosed)
	check(t, Guard(func() error { pin.Bytes()[5] = 1; return nil }, nil, pin))
	check(t, Guard(func() error { pin.Unpin(); _ = Bare(addr, 1)[0]; return nil }, pin, pin))
	if isMapped(t, addr) {
		t.Error("still mapped after the last pin")
	}
	pin.Unpin()
	if pin.Bytes() != nil {
		t.Error("bytes after Unpin")
	}
	ran := false
	wants(t, "guard after Unpin", Guard(func() error { ran = true; return nil }, pin), ErrClosed)
	wants(t, "guard of a zero pin", Guard(func() error { ran = true; return nil }, new(Pin)), ErrClosed)
	if ran {
		t.Error("ran over an unpinned mapping")
	}
	new(Pin).Unpin()
	(*Pin)(nil).Unpin()
	for _, m := range []mapping{mapped[None](t, Anonymous(5)), mapped[Write](t, Anonymous(5)), mapped[Exec](t, Anonymous(5))} {
		p, err := m.Pin()
		if check(t, err); p.Bytes() != nil {
			t.Errorf("%v: bytes that cannot be read", m)
		}
		p.Unpin()
	}
}

// transitions are all transitions of m, and what each answers.
func transitions(m ReadWrite) map[string]error {
	_, _, release := m.Release()
	_, protect := Protect[Read](m)
	_, over := Over[Read](m, Anonymous(m.Len()))
	_, resize := Resize(m, 1)
	_, _, split := Split(m, 0)
	_, forget := Forget(m)
	return map[string]error{"Release": release, "Protect": protect, "Over": over, "Resize": resize, "Split": split, "Forget": forget}
}

// The fault of a page that somebody else has taken the permissions from.
func TestForeignProtect(t *testing.T) {
	pg := int(pageSize)
	m := mapped[ReadWrite](t, Anonymous(2*pg))
	at := m.Addr() + pageSize
	check(t, sys.Mprotect(at, pageSize, unix.PROT_NONE))
	n, err := m.ReadAt(make([]byte, 2*pg), 7)
	var fault *FaultError
	if wants(t, "read", err, ErrFault, ErrPermission); !errors.As(err, &fault) || n != pg-7 || fault.Offset != pg || page(fault.Addr) != at {
		t.Fatal(n, err)
	}
	explained(t, "read", err, ErrPermission, fmt.Sprintf("%#x", fault.Addr), fmt.Sprintf("offset %d", pg), ErrPermission.Error())
	if sys.Race {
		return // the race detector makes atomic accesses itself, and ends the program at a fault
	}
	// An access is repeated with load and store, for whichever byte of a word.
	pin := must(m.Pin())
	defer pin.Unpin()
	check(t, second(m.WriteAt([]byte{1, 2, 3, 4, 5, 6, 7, 8}, 0)))
	for i := range uintptr(8) {
		for what, touch := range map[string]func(addr uintptr){"load": load, "store": store} {
			touch(m.Addr() + i)
			err := Guard(func() error { touch(at + i); return nil }, pin)
			wants(t, what, err, ErrFault, ErrPermission)
		}
	}
	if b := pin.Bytes()[:9]; !bytes.Equal(b, []byte{1, 2, 3, 4, 5, 6, 7, 8, 0}) {
		t.Error("a store has changed something: ", b)
	}
	check(t, sys.Mprotect(at, pageSize, unix.PROT_READ))
	check(t, Guard(func() error { load(at); return nil }, pin))
	wants(t, "store", Guard(func() error { store(at); return nil }, pin), ErrPermission)
}

// Without privileges a file is asked by its name, while it has that name.
func TestTruncatedHumble(t *testing.T) {
	if !byItself(t) {
		return
	}
	m, f := truncatedMapping[Read](t, false)
	other, named := truncatedMapping[Read](t, true)
	name := named.Name()
	for _, dir := range []string{f.Name(), name} {
		for dir = filepath.Dir(dir); strings.Contains(dir, t.Name()); dir = filepath.Dir(dir) {
			check(t, os.Chmod(dir, 0o777))
		}
	}
	humble(t)
	if _, err := os.Stat(name); err != nil {
		t.Skip("the directory for temporary files is not everybody's: ", err)
	}
	cause := func(m Read) error { return second(m.ReadAt(make([]byte, 1), 2*int64(pageSize))) }
	unproven := func(what string, m Read) {
		t.Helper()
		if err := cause(m); !errors.Is(err, ErrFault) || errors.Is(err, ErrTruncated) || errors.Is(err, ErrPermission) {
			t.Errorf("%s: %v", what, err)
		}
	}
	wants(t, "a file with a name", cause(m), ErrTruncated)
	wants(t, "another", cause(other), ErrTruncated)
	check(t, os.Remove(f.Name()))
	unproven("unlinked", m)
	check(t, os.Rename(name, name+".old"))
	if cause(other) == nil {
		t.Error("no fault")
	}
	m, _ = truncatedMapping[Read](t, false)
	name = must(m.Regions())[0].Name
	check(t, os.Rename(name, name+".old"))
	check(t, os.WriteFile(name, nil, 0o600))
	wants(t, "renamed", cause(m), ErrTruncated) // the kernel's table follows the name
}

func TestGuardCause(t *testing.T) {
	a, _ := truncatedMapping[Read](t, false)
	b := mapped[Read](t, Anonymous(int(pageSize)))
	pa, err := a.Pin()
	check(t, err)
	defer pa.Unpin()
	pb, err := b.Pin()
	check(t, err)
	defer pb.Unpin()
	wants(t, "a", Guard(func() error { _ = bytes.Count(pa.Bytes(), []byte{0xff}); return nil }, pb, pa), ErrTruncated)
	explained(t, "b", Guard(func() error { pb.Bytes()[0] = 1; return nil }, pb, pa), ErrPermission, "it was a store into memory lent for reading")
	var fault *FaultError
	if err := Guard(func() error { pb.Bytes()[0] = 1; return nil }, pb, pa); !errors.As(err, &fault) || page(fault.Addr) != b.Addr() {
		t.Error(err)
	}
	wants(t, "own error", Guard(func() error { return os.ErrExist }, pa), os.ErrExist)
}

// A fault says in which file it was, and where the access is in the program.
func TestFaultPlace(t *testing.T) {
	pg := int(pageSize)
	f, _ := scratch(t, 2*pg)
	m := mapped[ReadWrite](t, File(f, 0, 2*pg).Shared())
	check(t, f.Truncate(0))
	top := func(err error) (name string) {
		t.Helper()
		var fault *FaultError
		if !errors.As(err, &fault) {
			t.Fatal(err)
		}
		if fault.Path != f.Name() || !strings.Contains(err.Error(), " of "+f.Name()+": ") {
			t.Errorf("path %q: %v", fault.Path, err)
		}
		frame, more := runtime.CallersFrames(fault.PCs).Next()
		if !more && len(fault.PCs) > 1 {
			t.Error("the stack has one frame")
		}
		return fmt.Sprintf("%s %s", frame.Function, filepath.Base(frame.File))
	}
	load := func(b []byte) error { _ = b[pg]; sinkhole = b[pg]; return nil }
	store := func(b []byte) error { b[1] = 1; return nil }
	for what, err := range map[string]error{
		"load": m.View(load), "store": m.Update(store), "range": m.UpdateRange(0, pg, store),
		"guard": func() error {
			pin := must(m.Pin())
			defer pin.Unpin()
			return Guard(func() error { return store(pin.Bytes()) }, pin)
		}(),
	} {
		if got := top(err); !strings.HasPrefix(got, "github.com/mmarinus/mmap.TestFaultPlace.func") || !strings.HasSuffix(got, " fault_test.go") {
			t.Errorf("%s: the fault was in %s", what, got)
		}
	}
	for _, n := range []int{3, pg + 3} {
		err := second(m.ReadAt(make([]byte, n), 0))
		if got := top(err); !strings.Contains(got, "memmove") {
			t.Errorf("ReadAt: the fault was in %s", got)
		}
		var fault *FaultError
		errors.As(err, &fault)
		for frames := runtime.CallersFrames(fault.PCs); ; {
			frame, more := frames.Next()
			if strings.Contains(frame.Function, "rescue") || strings.Contains(frame.Function, "panic") {
				t.Errorf("the stack of ReadAt has %s", frame.Function)
			}
			if !more {
				break
			}
		}
	}
	var fault *FaultError
	if err := m.Prefault(0, pg); !errors.As(err, &fault) || fault.PCs != nil || fault.Path != f.Name() {
		t.Errorf("%v, %+v", err, fault)
	}
	none := mapped[Read](t, Anonymous(pg))
	if err := none.View(store); !errors.As(err, &fault) || fault.Path != "" {
		t.Errorf("%v, %+v", err, fault)
	}
}

var sinkhole byte // keeps loads

// A collection can stop a copy before it ends.
func TestCopyStops(t *testing.T) {
	if sys.Race {
		t.Skip("it looks at memory that is being copied")
	}
	if !byItself(t) {
		return
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	const size = 128 << 20 // which takes longer than a collection
	m := mapped[ReadWrite](t, Anonymous(size))
	p := make([]byte, size)
	b := m.UnsafeBytes()
	for name, c := range map[string]struct {
		to       []byte
		transfer func() error
	}{
		"ReadAt":  {p, func() error { return second(m.ReadAt(p, 0)) }},
		"WriteAt": {b, func() error { return second(m.WriteAt(p, 0)) }},
	} {
		stopped := false
		for try := range 50 {
			p[0], p[size-1], b[0], b[size-1] = byte(2*try), byte(2*try), byte(2*try), byte(2*try)
			from := &p
			if &c.to[0] == &p[0] {
				from = &b
			}
			(*from)[0], (*from)[size-1] = byte(2*try+1), byte(2*try+1)
			done := make(chan error)
			go func() { done <- c.transfer() }()
			for now(c.to, 0) != byte(2*try+1) {
				runtime.Gosched()
			}
			runtime.GC()
			stopped = now(c.to, size-1) != byte(2*try+1)
			if check(t, <-done); stopped {
				break
			}
		}
		if !stopped {
			t.Errorf("%s never stops", name)
		}
	}
}

//go:noinline
func now(b []byte, i int) byte { return b[i] }

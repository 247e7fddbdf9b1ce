//go:build linux

package mmap_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/mmarinus/mmap"
)

func Example() {
	f, err := os.CreateTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	fmt.Fprintln(f, "hello, memory")

	m, err := mmap.Map[mmap.Read](mmap.File(f, 0, 13))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	err = m.View(func(b []byte) error {
		fmt.Printf("%s\n", b)
		return nil
	})
	fmt.Println(m.Len(), m.Prot(), err)
	// Output:
	// hello, memory
	// 13 r-- <nil>
}

func ExampleMap() {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(100))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	n, err := m.WriteAt([]byte("written"), 93)
	fmt.Println(n, err)
	n, err = m.WriteAt([]byte("too long"), 96)
	fmt.Println(n, errors.Is(err, io.ErrShortWrite))

	_, err = mmap.Map[mmap.Read](mmap.Anonymous(-1))
	fmt.Println(errors.Is(err, os.ErrInvalid), err)
	// Output:
	// 7 <nil>
	// 4 true
	// true mmap: map -1 anonymous bytes as r--: negative size: invalid argument
}

// The permissions of some pages change, and what is the same everywhere can be
// asserted.
func ExampleMapUnknown() {
	page := os.Getpagesize()
	u, err := mmap.MapUnknown(mmap.Anonymous(3*page), mmap.ProtRead|mmap.ProtWrite)
	if err != nil {
		log.Fatal(err)
	}
	defer u.Close()
	if err := u.ProtectRange(page, page, mmap.ProtNone); err != nil { // a guard page
		log.Fatal(err)
	}
	n, err := u.WriteAt(make([]byte, 2*page), 0)
	fmt.Println(n == page, errors.Is(err, mmap.ErrPermission))
	_, err = mmap.Assert[mmap.ReadWrite](u)
	fmt.Println(errors.Is(err, mmap.ErrPermission))

	if err := u.Protect(mmap.ProtRead | mmap.ProtWrite); err != nil {
		log.Fatal(err)
	}
	m, err := mmap.Assert[mmap.ReadWrite](u)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	fmt.Println(m.Prot())
	// Output:
	// true true
	// true
	// rw-
}

// Code is written first and becomes executable afterwards: it is never both.
func ExampleProtect() {
	w, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(64))
	if err != nil {
		log.Fatal(err)
	}
	if _, err := w.WriteAt([]byte{0xc3}, 0); err != nil { // ret, on amd64
		log.Fatal(err)
	}
	code, err := mmap.Protect[mmap.ReadExec](w)
	if err != nil {
		log.Fatal(err)
	}
	defer code.Close()
	fmt.Println(code.Prot())
	_, err = w.WriteAt([]byte{0xcc}, 0)
	fmt.Println(errors.Is(err, mmap.ErrMoved)) // the old handle is used up
	// Output:
	// r-x
	// true
}

func ExampleErrBusy() {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(1))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	err = m.View(func(b []byte) error {
		_, err := mmap.Protect[mmap.None](m) // would take the memory away under b
		return err
	})
	fmt.Println(errors.Is(err, mmap.ErrBusy), m.Prot())
	// Output: true rw-
}

// New pages take the place of the old ones; the address stays.
func ExampleOver() {
	old, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(10))
	if err != nil {
		log.Fatal(err)
	}
	addr := old.Addr()
	old.WriteAt([]byte("old"), 0)

	f, err := mmap.Memfd("example", 10, 0)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	f.WriteString("from file ")
	m, err := mmap.Over[mmap.Read](old, mmap.File(f, 0, 10))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	b := make([]byte, m.Len())
	m.ReadAt(b, 0)
	fmt.Printf("%q %v\n", b, m.Addr() == addr)
	// Output: "from file " true
}

func ExampleResize() {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(4))
	if err != nil {
		log.Fatal(err)
	}
	m.WriteAt([]byte("kept"), 0)
	m, err = mmap.Resize(m, 1<<20) // returns m if it fails
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	b := make([]byte, 4)
	m.ReadAt(b, 0)
	fmt.Printf("%s %d\n", b, m.Len())
	// Output: kept 1048576
}

// A log that grows in place: the slice of an earlier pin stays valid.
func ExampleGrow() {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(6).Reserve(1 << 30))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	m.WriteAt([]byte("first "), 0)
	pin, err := m.Pin()
	if err != nil {
		log.Fatal(err)
	}
	defer pin.Unpin()

	fmt.Println(mmap.Grow(m, 12), m.Len(), m.Cap())
	m.WriteAt([]byte("second"), 6)
	fmt.Printf("%s\n", pin.Bytes()) // has the new length
	fmt.Println(errors.Is(mmap.Grow(m, 1<<31-1), mmap.ErrCapacity))
	// Output:
	// <nil> 12 1073741824
	// first second
	// true
}

// The first half becomes read-only, and one mapping again with the other.
func ExampleSplit() {
	page := os.Getpagesize()
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(2 * page))
	if err != nil {
		log.Fatal(err)
	}
	left, right, err := mmap.Split(m, page)
	if err != nil {
		log.Fatal(err)
	}
	defer right.Close()
	fixed, err := mmap.Protect[mmap.Read](left)
	if err != nil {
		log.Fatal(err)
	}
	defer fixed.Close()
	fmt.Println(fixed.Prot(), right.Prot())
	// Output: r-- rw-
}

func ExampleJoin() {
	page := os.Getpagesize()
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(2 * page))
	if err != nil {
		log.Fatal(err)
	}
	left, right, err := mmap.Split(m, page)
	if err != nil {
		log.Fatal(err)
	}
	whole, err := mmap.Join(left, right)
	if err != nil {
		log.Fatal(err)
	}
	defer whole.Close()
	fmt.Println(whole.Len() == 2*page)
	// Output: true
}

func ExampleForget() {
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(1))
	if err != nil {
		log.Fatal(err)
	}
	u, err := mmap.Forget(m)
	if err != nil {
		log.Fatal(err)
	}
	defer u.Close()
	_, err = u.WriteAt([]byte{1}, 0) // compiles, and is checked
	fmt.Println(errors.Is(err, mmap.ErrPermission), u.Prot())
	// Output: true r--
}

func ExampleAssert() {
	u, err := mmap.MapUnknown(mmap.Anonymous(1), mmap.ProtRead)
	if err != nil {
		log.Fatal(err)
	}
	_, err = mmap.Assert[mmap.ReadWrite](u)
	fmt.Println(errors.Is(err, mmap.ErrPermission))
	m, err := mmap.Assert[mmap.Read](u)
	fmt.Println(m.Prot(), err)
	m.Close()
	// Output:
	// true
	// r-- <nil>
}

// A ring buffer is mapped twice in a row: what goes past its end appears at its
// start, so every message is in one piece.
func ExampleUnknown_Place() {
	page := os.Getpagesize()
	f, err := mmap.Memfd("ring", int64(page), mmap.SealShrink|mmap.SealGrow)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	u, err := mmap.MapUnknown(mmap.Anonymous(2*page), mmap.ProtNone)
	if err != nil {
		log.Fatal(err)
	}
	const rw = mmap.ProtRead | mmap.ProtWrite
	for _, off := range []int{0, page} {
		if err := u.Place(off, mmap.File(f, 0, page).Shared(), rw); err != nil {
			log.Fatal(err)
		}
	}
	ring, err := mmap.Assert[mmap.ReadWrite](u)
	if err != nil {
		log.Fatal(err)
	}
	defer ring.Close()

	ring.WriteAt([]byte("message"), int64(page-4))
	b := make([]byte, 3)
	ring.ReadAt(b, 0)
	fmt.Printf("%s\n", b)
	// Output: age
}

// The pages asked for need the permission, not all of them.
func ExampleUnknown_UpdateRange() {
	page := os.Getpagesize()
	u, err := mmap.MapUnknown(mmap.Anonymous(2*page), mmap.ProtRead)
	if err != nil {
		log.Fatal(err)
	}
	defer u.Close()
	if err := u.ProtectRange(page, page, mmap.ProtRead|mmap.ProtWrite); err != nil {
		log.Fatal(err)
	}
	write := func(b []byte) error { b[0] = 'w'; return nil }
	fmt.Println(errors.Is(u.Update(write), mmap.ErrPermission))
	fmt.Println(u.UpdateRange(page, 1, write))
	err = u.ViewRange(page, 1, func(b []byte) error {
		fmt.Printf("%s\n", b)
		return nil
	})
	fmt.Println(err)
	// Output:
	// true
	// <nil>
	// w
	// <nil>
}

// A pin keeps the mapping as it is for longer than a function.
func ExamplePin() {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(4))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	pin, err := m.Pin()
	if err != nil {
		log.Fatal(err)
	}
	_, err = mmap.Resize(m, 1<<20) // could move the memory away
	fmt.Println(errors.Is(err, mmap.ErrBusy), len(pin.Bytes()))
	pin.Unpin()
	fmt.Println(pin.Bytes() == nil)
	// Output:
	// true 4
	// true
}

// The memory of a pin is touched under a guard, and stays until the last pin
// goes.
func ExampleGuard() {
	f, err := mmap.Memfd("example", 10, 0)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	m, err := mmap.Map[mmap.Read](mmap.File(f, 0, 10))
	if err != nil {
		log.Fatal(err)
	}
	pin, err := m.Pin()
	if err != nil {
		log.Fatal(err)
	}
	m.Close() // the pin still has the memory

	var sum int
	add := func() error {
		for _, c := range pin.Bytes() {
			sum += int(c)
		}
		return nil
	}
	fmt.Println(mmap.Guard(add, pin), sum)
	if err := f.Truncate(0); err != nil {
		log.Fatal(err)
	}
	fmt.Println(errors.Is(mmap.Guard(add, pin), mmap.ErrFault))
	pin.Unpin()
	fmt.Println(errors.Is(mmap.Guard(add, pin), mmap.ErrClosed))
	// Output:
	// <nil> 0
	// true
	// true
}

// A truncated file is an error, with the place where reading stopped.
func ExampleFaultError() {
	page := os.Getpagesize()
	f, err := os.CreateTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Truncate(2 * int64(page)); err != nil {
		log.Fatal(err)
	}
	m, err := mmap.Map[mmap.Read](mmap.File(f, 0, 2*page))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	if err := f.Truncate(int64(page)); err != nil {
		log.Fatal(err)
	}

	n, err := m.ReadAt(make([]byte, 2*page), 0)
	var fault *mmap.FaultError
	if errors.As(err, &fault) {
		fmt.Println(fault.Offset == page, n == page, fault.Addr >= m.Addr()+uintptr(page))
	}
	fmt.Println(errors.Is(err, mmap.ErrFault), errors.Is(err, mmap.ErrTruncated))
	// Output:
	// true true true
	// true true
}

// A store into a slice that was lent for reading is refused by the hardware.
func ExampleRead_View() {
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(8))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	err = m.View(func(b []byte) error {
		b[0] = 1
		return nil
	})
	var fault *mmap.FaultError
	fmt.Println(errors.As(err, &fault) && fault.Offset == 0, errors.Is(err, mmap.ErrPermission))
	// Output: true true
}

func ExampleRead_ReadAt() {
	f, err := mmap.Memfd("example", 0, 0)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	n, _ := f.WriteString("two\nlines\n")
	m, err := mmap.Map[mmap.Read](mmap.File(f, 0, n))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	// It is an io.ReaderAt, which much of the standard library takes.
	lines := bufio.NewScanner(io.NewSectionReader(m, 0, int64(m.Len())))
	for lines.Scan() {
		fmt.Println(lines.Text())
	}
	// Output:
	// two
	// lines
}

// Two mappings of one file are the same memory.
func ExampleReadWrite_Update() {
	f, err := mmap.Memfd("example", 8, mmap.SealShrink)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	shared := mmap.File(f, 0, 8).Shared() // a Spec can be used again
	a, err := mmap.Map[mmap.ReadWrite](shared)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	b, err := mmap.Map[mmap.Read](shared)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	for range 3 {
		err := a.Update(func(b []byte) error {
			counter, err := mmap.Slice[uint64](b)
			if err == nil {
				atomic.AddUint64(&counter[0], 1)
			}
			return err
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	err = b.View(func(b []byte) error {
		counter, err := mmap.Slice[uint64](b)
		fmt.Println(atomic.LoadUint64(&counter[0]))
		return err
	})
	fmt.Println(err)
	// Output:
	// 3
	// <nil>
}

// A file that can never shrink: mappings of it cannot fault by truncation.
func ExampleMemfd() {
	f, err := mmap.Memfd("example", 100, mmap.SealShrink|mmap.SealGrow|mmap.SealSeal)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	fmt.Println(f.Name(), errors.Is(f.Truncate(50), mmap.ErrPermission))

	m, err := mmap.Map[mmap.ReadWrite](mmap.FD(int(f.Fd()), 0, 100).Shared())
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	m.WriteAt([]byte("through the mapping"), 0)
	b := make([]byte, 7)
	f.ReadAt(b, 0)
	fmt.Printf("%s\n", b)
	// Output:
	// memfd:example true
	// through
}

// A file gets its blocks before it is mapped, so that a full disk is an error
// here and not a fault later.
func ExampleAllocate() {
	f, err := mmap.Memfd("example", 0, 0)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	if err := mmap.Allocate(f, 0, 1000); err != nil {
		log.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Size())
	// Output: 1000
}

func ExampleSlice() {
	type point struct{ X, Y int16 }
	points, err := mmap.Slice[point](make([]byte, 10)) // two, and a remainder
	fmt.Println(points, err)

	_, err = mmap.Slice[bool](make([]byte, 10)) // a byte can be neither
	fmt.Println(err)
	// Output:
	// [{0 0} {0 0}] <nil>
	// mmap: slice of bool: not every byte pattern is a valid bool: invalid argument
}

// Pages go out of the library's hands and come back, as if by way of C.
func ExampleUnsafeAdopt() {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(os.Getpagesize()))
	if err != nil {
		log.Fatal(err)
	}
	m.WriteAt([]byte("still there"), 0)
	addr, size, err := m.Release()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(m, m.Len()) //mmapvet:ignore moved nothing is left in this handle

	_, err = mmap.UnsafeAdopt[mmap.ReadExec](addr, size) // the kernel knows better
	fmt.Println(errors.Is(err, mmap.ErrPermission))
	m, err = mmap.UnsafeAdopt[mmap.ReadWrite](addr, size)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	fmt.Printf("%s\n", m.UnsafeBytes()[:11])
	// Output:
	// moved mapping 0
	// true
	// still there
}

func ExamplePath() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "file")
	if err := os.WriteFile(name, []byte("the whole file"), 0o600); err != nil {
		log.Fatal(err)
	}
	m, err := mmap.Map[mmap.Read](mmap.Path(name).Populate())
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	fmt.Println(m.Len())

	_, err = mmap.Map[mmap.Read](mmap.Path("/dev/zero"))
	fmt.Println(err)
	// Output:
	// 14
	// mmap: map "/dev/zero" as r--: a device has no length of its own: open it and use File with a size: no such device
}

// The address is a multiple of 2 MiB, as a huge page needs it.
func ExampleSpec_Align() {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(4 << 20).Align(2 << 20))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	fmt.Println(m.Addr() % (2 << 20))
	// Output: 0
}

// What is mapped already is never replaced.
func ExampleSpec_At() {
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(1))
	if err != nil {
		log.Fatal(err)
	}
	_, err = mmap.Map[mmap.Read](mmap.Anonymous(1).At(m.Addr()))
	fmt.Println(errors.Is(err, os.ErrExist))
	m.Close()
	// Output: true
}

// A hint that cannot be followed is no error.
func ExampleSpec_Near() {
	first, err := mmap.Map[mmap.Read](mmap.Anonymous(1))
	if err != nil {
		log.Fatal(err)
	}
	defer first.Close()
	second, err := mmap.Map[mmap.Read](mmap.Anonymous(1).Near(first.Addr()))
	if err != nil {
		log.Fatal(err)
	}
	defer second.Close()
	fmt.Println(second.Addr() != first.Addr())
	// Output: true
}

// Address space is held, given up, and taken over in one step.
func ExampleSpec_UnsafeOnto() {
	held, err := mmap.Map[mmap.None](mmap.Anonymous(1))
	if err != nil {
		log.Fatal(err)
	}
	addr, size, err := held.Release() // nobody owns it now
	if err != nil {
		log.Fatal(err)
	}
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(size).UnsafeOnto(addr))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	fmt.Println(m.Addr() == addr, m.Prot())
	// Output: true rw-
}

// The kernel says what is mapped.
func ExampleMapping_Regions() {
	page := os.Getpagesize()
	f, err := mmap.Memfd("example", int64(page), 0)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	m, err := mmap.Map[mmap.Read](mmap.File(f, 0, page).Shared())
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	regions, err := m.Regions()
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range regions {
		fmt.Println(r.Perms, r.Name, r.Size() == uint64(page))
	}
	// Output: r--s /memfd:example true
}

// Handles of several types are kept together by what they have in common.
func ExampleMapping() {
	r, err := mmap.Map[mmap.Read](mmap.Anonymous(10))
	if err != nil {
		log.Fatal(err)
	}
	x, err := mmap.Map[mmap.Exec](mmap.Anonymous(20))
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range []mmap.Mapping{r.Untyped(), x.Untyped()} {
		what, _, _ := strings.Cut(m.String(), " at ")
		fmt.Println(what, m.Close(), m)
	}
	// Output:
	// r-- mapping of 10 bytes <nil> closed mapping
	// --x mapping of 20 bytes <nil> closed mapping
}

// grown is for every type of handle.
func grown[M mmap.Handle](m M) (M, error) { return mmap.Resize(m, 2*m.Len()) }

func ExampleHandle() {
	m, err := mmap.Map[mmap.Write](mmap.Anonymous(8))
	if err != nil {
		log.Fatal(err)
	}
	m, err = grown(m)
	fmt.Println(m.Len(), err)
	m.Close()
	// Output: 16 <nil>
}

// zeroed is for every known permission: Known has a type to map as.
func zeroed[M mmap.Known](s mmap.Spec) (mmap.Mapping, error) {
	m, err := mmap.Map[M](s)
	return m.Untyped(), err
}

func ExampleKnown() {
	page := mmap.Anonymous(os.Getpagesize()).Populate()
	for _, as := range []func(mmap.Spec) (mmap.Mapping, error){zeroed[mmap.Write], zeroed[mmap.ReadExec]} {
		m, err := as(page)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(m.Prot(), m.Close())
	}
	// Output:
	// -w- <nil>
	// r-x <nil>
}

func ExampleProt() {
	var p mmap.Prot = mmap.ProtRead | mmap.ProtExec
	fmt.Println(p, p|mmap.ProtWrite, mmap.ProtNone)
	// Output: r-x rwx ---
}

func ExampleMove() {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(5))
	if err != nil {
		log.Fatal(err)
	}
	m.WriteAt([]byte("moved"), 0)
	// A place that is free: somebody had it a moment ago.
	free, err := mmap.Map[mmap.None](mmap.Anonymous(5))
	if err != nil {
		log.Fatal(err)
	}
	addr := free.Addr()
	_, err = mmap.Move(m, addr)
	fmt.Println("occupied:", errors.Is(err, os.ErrExist))
	free.Close()

	m, err = mmap.Move(m, addr)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	b := make([]byte, 5)
	m.ReadAt(b, 0)
	fmt.Println(string(b), m.Addr() == addr)
	// Output:
	// occupied: true
	// moved true
}

func ExampleProbe() {
	for _, feature := range []string{"mseal", "MADV_COLLAPSE", "MAP_DROPPABLE"} {
		if err := mmap.Probe(feature); err != nil {
			_ = errors.Is(err, errors.ErrUnsupported) // true: "mseal needs Linux 6.10 on 64-bit: …"; or a container forbids it: EPERM
		}
	}
	err := mmap.Probe("mseel")
	fmt.Println(errors.Is(err, os.ErrInvalid), err)
	// Output: true mmap: probe mseel: no such feature: invalid argument
}

func ExampleMapping_Prefault() {
	f, err := os.CreateTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := os.Getpagesize()
	f.Truncate(int64(3 * page))
	m, err := mmap.Map[mmap.Read](mmap.Path(f.Name()))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	fmt.Println(m.Prefault(0, m.Len()))

	f.Truncate(int64(page)) // somebody else does that
	err = m.Prefault(0, m.Len())
	var fault *mmap.FaultError
	if errors.As(err, &fault) {
		fmt.Println(fault.Offset == page, errors.Is(err, mmap.ErrTruncated))
	} else if errors.Is(err, errors.ErrUnsupported) { // before Linux 5.14
		fmt.Println(true, true)
	}
	// Output:
	// <nil>
	// true true
}

func ExampleMapping_Advise() {
	index, err := mmap.Map[mmap.Read](mmap.Path(os.Args[0])) // any file
	if err != nil {
		log.Fatal(err)
	}
	defer index.Close()
	// Look-ups jump about: no read-ahead, except at the start.
	fmt.Println(index.Advise(0, index.Len(), mmap.AdviceRandom))
	fmt.Println(index.Advise(0, 100_000, mmap.AdviceWillNeed))
	fmt.Println(index.Advise(0, index.Len()+1, mmap.AdviceNormal) != nil, mmap.AdviceRandom)
	// Output:
	// <nil>
	// <nil>
	// true MADV_RANDOM
}

func ExampleReadWrite_Discard() {
	page := os.Getpagesize()
	cache, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(4 * page))
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close()
	cache.Update(func(b []byte) error { b[page] = 'x'; return nil })
	resident, err := cache.Resident(0, cache.Len())
	fmt.Println(resident/page, err)

	fmt.Println(cache.Discard(page, 2*page))
	resident, err = cache.Resident(0, cache.Len())
	fmt.Println(resident/page, err)
	err = cache.Discard(page, 100)
	fmt.Println("a part of a page:", errors.Is(err, os.ErrInvalid))
	// Output:
	// 1 <nil>
	// <nil>
	// 0 <nil>
	// a part of a page: true
}

func ExampleReadWrite_Track() {
	if err := mmap.Probe("UFFD_FEATURE_WP_ASYNC"); err != nil {
		fmt.Println("took [{0 4096} {8192 4096}]\nleft [{8192 4096}]") // no such kernel, or a container forbids it
		return
	}
	page := os.Getpagesize()
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(16 * page))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	tracker, err := m.Track()
	if err != nil {
		log.Fatal(err)
	}
	defer tracker.Close()
	m.WriteAt([]byte("first"), 0)
	m.WriteAt([]byte("third"), int64(2*page))
	inPages := func(spans []mmap.Span) (pages []mmap.Span) {
		for _, s := range spans {
			pages = append(pages, mmap.Span{Off: s.Off / page * 4096, Len: s.Len / page * 4096})
		}
		return pages
	}
	spans, err := tracker.Take(0, m.Len()) // and now copy them
	fmt.Println("took", inPages(spans))
	tracker.Mark(2*page, page) // this one could not be copied
	spans, err = tracker.Written(0, m.Len())
	fmt.Println("left", inPages(spans))
	tracker.Reset(0, m.Len())
	// Output:
	// took [{0 4096} {8192 4096}]
	// left [{8192 4096}]
}

func ExampleReadWrite_InstallGuardPages() {
	page := os.Getpagesize()
	stack, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(4 * page))
	if err != nil {
		log.Fatal(err)
	}
	defer stack.Close()
	switch err := stack.InstallGuardPages(0, page); {
	case errors.Is(err, errors.ErrUnsupported): // before Linux 6.13
	case err != nil:
		log.Fatal(err)
	default:
		_, err = stack.WriteAt(make([]byte, 4*page), 0)
		if !errors.Is(err, mmap.ErrFault) {
			log.Fatal(err)
		}
	}
	_, err = stack.WriteAt(make([]byte, 3*page), int64(page))
	fmt.Println(err)
	// Output: <nil>
}

func ExampleMapping_Lock() {
	key, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(32).LockOnFault())
	if err != nil {
		log.Fatal(err) // at the limit it says: RLIMIT_MEMLOCK is …, and … are in use
	}
	defer key.Close()
	fmt.Println(key.Lock(0, key.Len()), key.Advise(0, key.Len(), mmap.AdviceDontDump))
	fmt.Println(key.WipeOnFork(0, key.Len()))
	fmt.Println(key.Unlock(0, key.Len()))
	// Output:
	// <nil> <nil>
	// <nil>
	// <nil>
}

func ExampleMapping_Sync() {
	f, err := os.CreateTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := mmap.Allocate(f, 0, 100); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		log.Fatal(err)
	}
	m, err := mmap.Map[mmap.ReadWrite](mmap.File(f, 0, 100).Shared())
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	m.WriteAt([]byte("kept"), 0)
	fmt.Println(m.Sync(0, 4)) // after a power failure it is still there
	// Output: <nil>
}

func ExampleMapping_Seal() {
	config, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(100))
	if err != nil {
		log.Fatal(err)
	}
	config.WriteAt([]byte("final"), 0)
	ro, err := mmap.Protect[mmap.Read](config)
	if err != nil {
		log.Fatal(err)
	}
	if mmap.Probe("mseal") != nil {
		fmt.Println("true true") // before Linux 6.10, or where a container forbids it
		return
	}
	if err := ro.Seal(); err != nil {
		log.Fatal(err)
	}
	_, err = mmap.Protect[mmap.ReadWrite](ro)
	fmt.Println(errors.Is(err, mmap.ErrSealed), errors.Is(ro.Close(), mmap.ErrSealed))
	// Output: true true
}

// Readers that never pause would keep a transition from its turn: Drain holds them back
// while it waits.
func ExampleMapping_Drain() {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(4096))
	if err != nil {
		log.Fatal(err)
	}
	pin, err := m.Pin() // a reader
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		fmt.Println("the reader ends")
		pin.Unpin()
	}()
	var ro mmap.Read
	err = m.Drain(context.Background(), func() (err error) {
		fmt.Println("nobody reads")
		ro, err = mmap.Protect[mmap.Read](m)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ro.Prot())
	// A Close that waits for the last reader.
	fmt.Println(ro.Drain(context.Background(), ro.Close))
	// Output:
	// the reader ends
	// nobody reads
	// r--
	// <nil>
}

func ExampleMapping_SetPolicy() {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(os.Getpagesize()))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	err = m.SetPolicy(0, m.Len(), mmap.PolicyBind, 0)
	m.WriteAt([]byte{1}, 0)
	nodes := []int{0}
	if err == nil {
		nodes, err = m.Nodes(0, m.Len())
	}
	switch {
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, mmap.ErrPermission):
		nodes = []int{0} // a kernel without NUMA, or a container forbids it: the memory is as good
	case err != nil:
		log.Fatal(err)
	}
	fmt.Println(nodes)
	// Output: [0]
}

func ExampleMemfdHuge() {
	f, err := mmap.MemfdHuge("guest", 100<<20, mmap.SealShrink|mmap.SealGrow, 0)
	if err != nil {
		return // this kernel has no huge pages
	}
	defer f.Close()
	m, err := mmap.Map[mmap.ReadWrite](mmap.File(f, 0, 100<<20).Shared())
	if err != nil {
		return // such as: 50 huge pages are wanted and 0 are free; the size of the pool is in …
	}
	m.Close()
	// Output:
}

func ExampleAddSeals() {
	table, err := mmap.Memfd("table", 4096, mmap.SealShrink|mmap.SealGrow)
	if err != nil {
		log.Fatal(err)
	}
	defer table.Close()
	table.WriteAt([]byte("complete"), 0)
	// From now on, whoever gets the descriptor can rely on the contents.
	fmt.Println(mmap.AddSeals(table, mmap.SealWrite|mmap.SealSeal))
	_, err = table.WriteAt([]byte("changed"), 0)
	fmt.Println(errors.Is(err, os.ErrPermission))
	// Output:
	// <nil>
	// true
}

func ExampleWhole() {
	f, err := os.CreateTemp("", "whole")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	f.WriteString("all of it")
	m, err := mmap.Map[mmap.Read](mmap.Whole(f))
	if err != nil {
		log.Fatal(err)
	}
	f.Close() // the mapping stays
	err = m.View(func(b []byte) error {
		fmt.Printf("%s\n", b)
		return nil
	})
	fmt.Println(err, m.Close())
	// Output:
	// all of it
	// <nil> <nil>
}

func ExampleUnknown_ProtOf() {
	page := os.Getpagesize()
	u, err := mmap.MapUnknown(mmap.Anonymous(3*page), mmap.ProtRead|mmap.ProtWrite)
	if err != nil {
		log.Fatal(err)
	}
	defer u.Close()
	if err := u.ProtectRange(page, page, mmap.ProtRead); err != nil {
		log.Fatal(err)
	}
	fmt.Println(u.ProtOf(0, page), u.ProtOf(page, 1), u.ProtOf(0, 3*page), u.ProtOf(0, 0))
	// Output: rw- r-- r-- ---
}

// A library that hands out slices of a mapping can find it again.
func ExampleFind() {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(100))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	name := m.UnsafeBytes()[20:30]
	found, off, ok := mmap.Find(name)
	fmt.Println(found == m.Untyped(), off, ok)
	_, _, ok = mmap.Find([]byte("Go memory"))
	fmt.Println(ok)
	// Output:
	// true 20 true
	// false
}

func ExampleGuardAll() {
	f, err := mmap.Memfd("pages", 1<<20, 0)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	m, err := mmap.Map[mmap.Read](mmap.Whole(f).Shared())
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	page := m.UnsafeBytes()[1<<19:] // what a cache has kept, without a pin
	f.Truncate(0)
	err = mmap.GuardAll(func() error {
		fmt.Println(page[0])
		return nil
	})
	fmt.Println(errors.Is(err, mmap.ErrFault))
	// Output: true
}

func ExampleReadStats() {
	before := mmap.ReadStats()
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(1000))
	if err != nil {
		log.Fatal(err)
	}
	now := mmap.ReadStats()
	fmt.Println(now.Mappings-before.Mappings, now.Bytes-before.Bytes, m.Close())
	// Output: 1 1000 <nil>
}

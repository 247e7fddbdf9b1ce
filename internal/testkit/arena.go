//go:build linux

package testkit

import (
	"os"
	"reflect"
	"strconv"
	"sync/atomic"

	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// PageSize is the size of a page.
var PageSize = os.Getpagesize()

// An Arena is a range of addresses that no one else in the process uses: what
// is mapped there is the test's, or a leak.
type Arena struct{ Start, End uintptr }

// ArenaPages is how many pages an arena has.
const ArenaPages = 64

var arenas atomic.Uint32

// NewArena finds an arena of its own for each test that asks.
func NewArena(t interface{ Fatal(args ...any) }) Arena {
	table, err := procmaps.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	size := uintptr(ArenaPages * PageSize)
	// Below what the kernel gives out, which is from the top, and below the Go
	// heap, which is at 0xc000000000. On 32-bit processors the heap is low.
	first, last := uint64(0x10_0000_0000), uint64(0x20_0000_0000)
	if strconv.IntSize == 32 {
		first, last = 0x5000_0000, 0x7000_0000
	}
	step := uint64(16 * size)
	for {
		at := first + uint64(arenas.Add(1))*step // no two tests get the same
		if at >= last {
			t.Fatal("no free range of addresses")
		}
		r, ok, err := table.Next(at)
		if err != nil {
			t.Fatal(err)
		}
		if !ok || r.Start >= at+uint64(size) {
			return Arena{uintptr(at), uintptr(at) + size}
		}
	}
}

// Page returns the address of the i-th page.
func (a Arena) Page(i int) uintptr { return a.Start + uintptr(i*PageSize) }

// A Failer is what *rapid.T and *testing.T have in common here.
type Failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// Walk calls f with each page of [start, end) that is mapped, and the kernel's
// region around it.
func Walk(t Failer, table *procmaps.Table, start, end uintptr, f func(at uintptr, area procmaps.Region)) {
	t.Helper()
	for at := uint64(start); at < uint64(end); {
		area, ok, err := table.Next(at)
		if err != nil {
			t.Fatalf("table: %v", err)
		}
		if !ok {
			return
		}
		for at = max(at, area.Start); at < min(area.End, uint64(end)); at += uint64(PageSize) {
			f(uintptr(at), area)
		}
	}
}

// AreasIn returns how many regions the kernel has in [start, end).
func AreasIn(t Failer, table *procmaps.Table, start, end uintptr) int {
	t.Helper()
	n, last := 0, uint64(0)
	Walk(t, table, start, end, func(_ uintptr, area procmaps.Region) {
		if area.End != last {
			n, last = n+1, area.End
		}
	})
	return n
}

// InodeOf asks the kernel how its table calls a file: on a stacked file system
// stat can have another inode.
func InodeOf(t Failer, table *procmaps.Table, f *os.File) uint64 {
	t.Helper()
	b, err := unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatalf("mmap: %v", err)
	}
	defer unix.Munmap(b)
	var inode uint64
	start := reflect.ValueOf(b).Pointer()
	Walk(t, table, start, start+uintptr(PageSize), func(_ uintptr, area procmaps.Region) { inode = area.Inode })
	return inode
}

//go:build linux

package testkit

import (
	"bufio"
	"fmt"
	"hash/crc32"
	"math"
	"math/bits"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/place"
	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// A Mapping is what is asked of a handle here.
type Mapping interface {
	Addr() uintptr
	Len() int
	Regions() ([]procmaps.Region, error)
}

// Table returns the kernel's lines for a mapping, without names.
func Table(t testing.TB, m Mapping) string {
	t.Helper()
	regions, err := m.Regions()
	Check(t, err)
	var lines []string
	for _, r := range regions {
		lines = append(lines, r.String())
	}
	return strings.Join(lines, "\n")
}

// State returns the kernel's table of m, without the lines between pages that
// are alike.
func State(t testing.TB, m Mapping) string {
	t.Helper()
	var lines []string
	var last procmaps.Region
	for _, r := range Must(m.Regions()) {
		joined, end := r, last.End
		joined.Start = last.Start
		if r.Inode != 0 {
			joined.Offset -= r.Start - last.Start
		}
		last.End = r.End
		if len(lines) > 0 && r.Start == end && joined == last {
			r, lines = joined, lines[:len(lines)-1]
		}
		last, lines = r, append(lines, r.String())
	}
	return strings.Join(lines, "\n")
}

// Kept fails unless m is what it was when before was its state.
func Kept(t testing.TB, what string, m Mapping, before string) {
	t.Helper()
	if after := State(t, m); after != before {
		t.Errorf("%s has failed, and made\n%s\ninto\n%s", what, before, after)
	}
}

// IsMapped reports whether anything is mapped in the page at addr.
func IsMapped(t testing.TB, addr uintptr) bool {
	t.Helper()
	regions, err := kernel.RegionsOf(kernel.Page(addr), kernel.Page(addr)+kernel.PageSize)
	Check(t, err)
	return len(regions) > 0
}

// Unmapped fails unless nothing is mapped in a range of pages.
func Unmapped(t testing.TB, what string, base uintptr, pages int) {
	t.Helper()
	if regions := Must(kernel.RegionsOf(base, base+uintptr(pages)*kernel.PageSize)); len(regions) != 0 {
		t.Errorf("%s: still mapped: %v", what, regions)
	}
}

// spots is where the next spot looks for space. The kernel maps nothing there by
// itself, so that what a test has left free stays so.
var spots = map[int]uintptr{32: 0x5000_0000, 64: 0x30_0000_0000 & math.MaxUint}[bits.UintSize]

// Spot returns the address of as many free pages.
func Spot(t testing.TB, pages int) uintptr {
	t.Helper()
	for {
		at := spots
		spots += uintptr(pages) * kernel.PageSize
		if bits.UintSize == 32 && spots > 0x9000_0000 {
			spots = 0x5000_0000
		}
		if len(Must(kernel.RegionsOf(at, at+uintptr(pages)*kernel.PageSize))) == 0 {
			return at
		}
	}
}

// Hole returns an address with n free pages, found by mapping and unmapping.
func Hole(t testing.TB, n int) uintptr {
	t.Helper()
	return free(t, 0x10_0000*kernel.PageSize, n)
}

// Nowhere returns an address with n free pages, far from where the kernel and the
// runtime put what they are free to.
func Nowhere(t testing.TB, n int) uintptr {
	t.Helper()
	return free(t, 0x5_0000*kernel.PageSize, n)
}

// free returns an address with n free pages, near one if the kernel has them there.
func free(t testing.TB, near uintptr, n int) uintptr {
	t.Helper()
	size := uintptr(n) * kernel.PageSize
	addr, err := sys.Mmap(near, size, unix.PROT_NONE, place.Holding, -1, 0)
	Check(t, err)
	Check(t, sys.Munmap(addr, size))
	return addr
}

// SmapsOf returns what /proc/self/smaps says of the area that holds addr.
func SmapsOf(t testing.TB, addr uintptr) map[string]string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	Check(t, err)
	var of map[string]string
	for line := range strings.Lines(string(text)) {
		var start, end uint64
		key, value, _ := strings.Cut(line, ":")
		switch head := strings.ContainsAny(key, " -"); {
		case head && of != nil:
			return of
		case head:
			if fmt.Sscanf(line, "%x-%x", &start, &end); start <= uint64(addr) && uint64(addr) < end {
				of = map[string]string{}
			}
		case of != nil:
			of[key] = strings.TrimSpace(value)
		}
	}
	if of == nil {
		t.Fatalf("nothing is mapped at %#x", addr)
	}
	return of
}

// Kilobytes turns a value of smaps into bytes.
func Kilobytes(value string) (n uint64) {
	fmt.Sscan(value, &n)
	return n << 10
}

// Flagged fails unless VmFlags of the first and the last page of m have all of
// has and none of hasNot.
func Flagged(t testing.TB, what string, m Mapping, has, hasNot string) {
	t.Helper()
	for _, off := range []int{0, m.Len() - 1} {
		flags := strings.Fields(SmapsOf(t, m.Addr()+uintptr(off))["VmFlags"])
		for _, f := range strings.Fields(has) {
			if f == "lf" && slices.Contains(flags, "??") {
				continue // which had no name of its own before Linux 6.2 or so
			}
			if !slices.Contains(flags, f) {
				t.Errorf("%s: the page at %d lacks %s: %v", what, off, f, flags)
			}
		}
		for _, f := range strings.Fields(hasNot) {
			if slices.Contains(flags, f) {
				t.Errorf("%s: the page at %d has %s: %v", what, off, f, flags)
			}
		}
	}
}

// Picture describes pages of a process as the kernel has them, one line each:
// permissions, place in the file, VmFlags, and a sum of the contents, which
// /proc/PID/mem shows even of pages without permissions.
func Picture(t testing.TB, pid string, base uintptr, pages int) []string {
	t.Helper()
	mem, err := os.Open("/proc/" + pid + "/mem")
	Check(t, err)
	defer mem.Close()
	smaps, err := os.Open("/proc/" + pid + "/smaps")
	Check(t, err)
	defer smaps.Close()
	lines := make([]string, pages)
	var start, end, offset, inode uint64
	var perms, device string
	for s := bufio.NewScanner(smaps); s.Scan(); {
		if c := s.Text()[0]; c < 'A' || c > 'Z' {
			_, err := fmt.Sscanf(s.Text(), "%x-%x %s %x %s %d", &start, &end, &perms, &offset, &device, &inode)
			Check(t, err)
			continue
		}
		flags, found := strings.CutPrefix(s.Text(), "VmFlags:")
		for i := range lines {
			at := uint64(base) + uint64(i)*uint64(kernel.PageSize)
			if !found || at < start || at >= end {
				continue
			}
			place, b := "", make([]byte, kernel.PageSize)
			if inode != 0 {
				place = fmt.Sprintf(" %d at %#x", inode, offset+at-start)
			}
			n, _ := mem.ReadAt(b, int64(at))
			// Soft-dirty is set by moving, and says nothing here.
			flags := strings.ReplaceAll(flags, " sd", "")
			lines[i] = fmt.Sprintf("%s%s%s %d:%08x", perms, place, flags, n, crc32.ChecksumIEEE(b[:n]))
		}
	}
	return lines
}

// PictureOf is Picture of the pages that hold the data of a mapping.
func PictureOf(t testing.TB, m Mapping) []string {
	t.Helper()
	base := kernel.Page(m.Addr())
	return Picture(t, "self", base, int((m.Addr()+uintptr(m.Len())-base+kernel.PageSize-1)/kernel.PageSize))
}

// SamePicture fails unless the first pages look as they did.
func SamePicture(t testing.TB, what string, was, is []string) {
	t.Helper()
	for i := range was {
		if i >= len(is) {
			t.Fatalf("%s: page %d is gone", what, i)
		}
		if was[i] != is[i] {
			t.Fatalf("%s: page %d was %q and is %q", what, i, was[i], is[i])
		}
	}
}

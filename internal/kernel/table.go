//go:build linux

// Package kernel asks the kernel: what is mapped, what it offers, which limit was met,
// why it has refused something, and why a page has faulted. It changes nothing.
package kernel

import (
	"cmp"
	"fmt"
	"os"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// PageSize is the size of a page.
var PageSize = uintptr(os.Getpagesize())

// Page returns the start of the page that addr lies in.
func Page(addr uintptr) uintptr { return addr &^ (PageSize - 1) }

// Round returns a size or an address rounded up to a multiple of granule, and
// whether an int can hold that.
func Round(n, granule uintptr) (uintptr, bool) {
	r := (n + granule - 1) &^ (granule - 1)
	return r, int(r) >= 0
}

// An Area is what the kernel's table says of one range: a VMA, clipped to what
// was asked.
type Area struct {
	Start, End uintptr
	Prot       perms.Prot
	PageSize   uintptr
	Flags      uint32 // of mmap(2): MAP_SHARED, or 0 where the table does not tell
}

// Survey calls f with the areas of [start, end) in ascending order, holes left
// out, until f returns false.
func Survey(start, end uintptr, f func(a Area) bool) error {
	if start >= end {
		return nil
	}
	fd, err := sys.OpenSelfMaps()
	if err != nil {
		return fail.Hint(err, "/proc/self/maps cannot be read")
	}
	defer unix.Close(fd)
	for start < end {
		q := sys.ProcmapQuery{Addr: uint64(start), Flags: sys.ProcmapNext}
		switch _, err := q.Query(fd, nil); {
		case err == unix.ENOENT || err == nil && q.Start >= uint64(end):
			return nil
		case err != nil:
			// A kernel before 6.11, without the ioctl, or a filter that knows
			// nothing of it. The table does not tell how large the pages are.
			regions, err := RegionsOf(start, end)
			for _, g := range regions {
				if !f(Area{uintptr(g.Start), uintptr(g.End), perms.Prot(g.Perms) & perms.All, PageSize, sharing(g.Perms)}) {
					break
				}
			}
			return err
		}
		p := perms.Prot(q.VMAFlags) & perms.All
		flags := sharing(procmaps.Perms(q.VMAFlags))
		a := Area{max(start, uintptr(q.Start)), min(end, uintptr(q.End)), p, uintptr(q.PageSize), flags}
		if start = a.End; !f(a) {
			return nil
		}
	}
	return nil
}

// sharing returns the flags of mmap(2) that the table tells. A private area of
// somebody else's may be of any kind.
func sharing(p procmaps.Perms) uint32 {
	if p&procmaps.Shared != 0 {
		return unix.MAP_SHARED
	}
	return 0
}

// RegionsOf returns the kernel's regions of [start, end), clipped to it.
func RegionsOf(start, end uintptr) ([]procmaps.Region, error) {
	if start >= end {
		return nil, nil
	}
	table, err := procmaps.Open(0)
	if err != nil {
		return nil, err
	}
	defer table.Close()
	var regions []procmaps.Region
	for at := uint64(start); at < uint64(end); {
		r, ok, err := table.Next(at)
		if err != nil {
			return nil, err
		}
		if !ok || r.Start >= uint64(end) {
			break
		}
		cut := at - min(at, r.Start)
		if r.Start += cut; r.Inode != 0 {
			r.Offset += cut
		}
		r.End = min(r.End, uint64(end))
		regions = append(regions, r)
		at = r.End
	}
	return regions, nil
}

// Differs returns an error that says how the kernel's table of [base, base+size)
// Differs from uniform permission p, nil if it does not.
func Differs(base, size uintptr, p perms.Prot) error {
	at, wrong := base, ""
	err := Survey(base, base+size, func(a Area) bool {
		if a.Start == at && a.Prot == p {
			at = a.End
			return true
		}
		if a.Start == at {
			wrong = fmt.Sprintf("pages %#x-%#x are %v, not %v", a.Start, a.End, a.Prot, p)
		}
		return false
	})
	if err != nil || at >= base+size {
		return err
	}
	return &fail.Error{Hint: cmp.Or(wrong, fmt.Sprintf("nothing is mapped at %#x", at)), Err: unix.EACCES}
}

// regionAt returns the kernel's region that holds addr, or else the next above it, and
// false if there is none, or if nobody can tell.
func regionAt(addr uintptr) (g procmaps.Region, ok bool) {
	table, err := procmaps.Open(0)
	if err == nil {
		defer table.Close()
		g, ok, err = table.Next(uint64(addr))
	}
	return g, ok && err == nil
}

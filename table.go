package mmap

import (
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// An area is what the kernel's table says of one range: a VMA, clipped to what
// was asked.
type area struct {
	start, end uintptr
	prot       Prot
	pageSize   uintptr
}

// survey calls f with the areas of [start, end) in ascending order, holes left
// out, until f returns false.
func survey(start, end uintptr, f func(a area) bool) error {
	if start >= end {
		return nil
	}
	fd, err := sys.OpenSelfMaps()
	if err != nil {
		return named(err, "open /proc/self/maps")
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
			regions, err := regionsOf(start, end)
			for _, g := range regions {
				if !f(area{uintptr(g.Start), uintptr(g.End), protOf(g.Perms), pageSize}) {
					break
				}
			}
			return err
		}
		a := area{
			start:    max(start, uintptr(q.Start)),
			end:      min(end, uintptr(q.End)),
			prot:     Prot(q.VMAFlags & (sys.ProcmapRead | sys.ProcmapWrite | sys.ProcmapExec)),
			pageSize: uintptr(q.PageSize),
		}
		if start = a.end; !f(a) {
			return nil
		}
	}
	return nil
}

// regionsOf returns the kernel's regions of [start, end), clipped to it.
func regionsOf(start, end uintptr) ([]procmaps.Region, error) {
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
		if cut := at - min(at, r.Start); cut > 0 {
			r.Start += cut
			if r.Inode != 0 {
				r.Offset += cut
			}
		}
		r.End = min(r.End, uint64(end))
		regions = append(regions, r)
		at = r.End
	}
	return regions, nil
}

// protOf returns the permissions in the kernel's table as a Prot.
func protOf(p procmaps.Perms) Prot {
	return Prot(p & (procmaps.Read | procmaps.Write | procmaps.Exec))
}

// Regions returns what the kernel says is mapped in the page range of the
// mapping, reserve included, clipped to that range; proc_pid_maps(5). The
// kernel merges neighbours that look alike, and divides what has come to
// differ, so the regions are not the pieces that the mapping was made of.
func (t ticket) Regions() ([]procmaps.Region, error) {
	line, err := t.pin()
	if stopped := (*PartialError)(nil); errors.As(err, &stopped) {
		line, err = t.pinSlowly(partial)
	}
	if err != nil {
		return nil, named(err, "regions")
	}
	defer t.r.unpin(line)
	regions, err := regionsOf(t.r.base, t.r.base+t.r.size)
	if err != nil {
		return nil, named(err, "regions of %#x+%d", t.r.base, t.r.size)
	}
	return regions, nil
}

// A run is a stretch of pages with the same permissions. Runs are kept in
// ascending order and without gaps, from the start of a region's page range to
// the end of its data.
type run struct {
	end  uintptr // from the region's base
	prot Prot
}

// data returns how many bytes of the page range are not reserve.
func (r *region) data() uintptr { return r.size - r.room }

// find returns the index of the run that holds offset off from base. There are
// runs, and they reach that far.
func (r *region) find(off uintptr) int {
	return sort.Search(len(r.runs)-1, func(i int) bool { return off < r.runs[i].end })
}

// protAt returns the permissions of the page that holds the byte at off.
func (r *region) protAt(off uintptr) Prot {
	if r.runs == nil {
		return Prot(r.prot.Load())
	}
	return r.runs[r.find(off+r.addr.Load()-r.base)].prot
}

// each calls f with the stretches of [start, end), offsets from base, that have
// the same permissions.
func (r *region) each(start, end uintptr, f func(start, end uintptr, p Prot)) {
	if r.runs == nil {
		if start < end {
			f(start, end, Prot(r.prot.Load()))
		}
		return
	}
	for _, run := range r.runs[r.find(start):] {
		stop := min(run.end, end)
		if start >= stop {
			break
		}
		f(start, stop, run.prot)
		start = stop
	}
}

// clip returns the runs of [start, end), with offsets from start.
func (r *region) clip(start, end uintptr) (runs []run) {
	r.each(start, end, func(_, end uintptr, p Prot) { runs = appendRun(runs, end-start, p) })
	return runs
}

// setRuns replaces the account of permissions. Without runs there are no pages,
// and prot stays for those to come.
func (r *region) setRuns(runs []run) {
	if len(runs) == 0 {
		r.runs = nil
		return
	}
	all := protAll
	for _, run := range runs {
		all &= run.prot
	}
	if r.runs = runs; len(runs) == 1 {
		r.runs = nil
	}
	r.prot.Store(uint32(all))
}

// appendRun adds a stretch up to end, merging it with one of the same kind.
func appendRun(runs []run, end uintptr, p Prot) []run {
	if n := len(runs); n > 0 && runs[n-1].prot == p {
		runs[n-1].end = end
		return runs
	}
	return append(runs, run{end, p})
}

// setProt notes that the pages [start, end), offsets from base, have
// permissions p.
func (r *region) setProt(start, end uintptr, p Prot) {
	if r.runs == nil {
		r.runs = []run{{r.data(), Prot(r.prot.Load())}}
	}
	first, last := r.find(start), r.find(end-1)
	begin := uintptr(0)
	if first > 0 {
		begin = r.runs[first-1].end
	}
	// What is left of the first run and of the last one stays around p, and
	// neighbours of the same kind become one.
	var piece [4]run
	pieces := piece[:0]
	if begin < start {
		pieces = appendRun(pieces, start, r.runs[first].prot)
	} else if first > 0 {
		first--
		pieces = appendRun(pieces, start, r.runs[first].prot)
	}
	pieces = appendRun(pieces, end, p)
	if rest := r.runs[last]; end < rest.end {
		pieces = appendRun(pieces, rest.end, rest.prot)
	} else if last+1 < len(r.runs) {
		last++
		pieces = appendRun(pieces, r.runs[last].end, r.runs[last].prot)
	}
	r.setRuns(slices.Replace(r.runs, first, last+1, pieces...))
}

// differs returns how the kernel's table of [base, base+size) differs from
// uniform permission p, as a sentence, or "" if it does not.
func differs(base, size uintptr, p Prot) (string, error) {
	at, wrong := base, ""
	err := survey(base, base+size, func(a area) bool {
		if a.start == at && a.prot == p {
			at = a.end
			return true
		}
		if a.start == at {
			wrong = fmt.Sprintf("pages %#x-%#x are %v, not %v", a.start, a.end, a.prot, p)
		}
		return false
	})
	if err == nil && wrong == "" && at < base+size {
		wrong = fmt.Sprintf("nothing is mapped at %#x", at)
	}
	return wrong, err
}

// Release gives the page range up without unmapping it, and returns it: whole
// pages, the reserve included. It belongs to whoever has the address then,
// [UnsafeAdopt] for one. The handle answers ErrMoved. While the mapping is
// accessed or pinned it answers ErrBusy.
func (t ticket) Release() (addr uintptr, size int, err error) {
	if err := t.acquire(0); err != nil {
		return 0, 0, named(err, "release")
	}
	addr, size = t.r.base, int(t.r.size)
	t.resign()
	return addr, size, nil
}

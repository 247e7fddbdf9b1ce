package mmap

import (
	"slices"
	"sort"
)

// A kind is what a region knows of a page: its permissions, its size, which is a
// huge page's where it is one, and the flags of mmap(2) that it was mapped with, as
// far as they are known. With MAP_ANONYMOUS among them, more of the same memory can
// be made without a descriptor.
type kind struct {
	prot    Prot
	granule uintptr
	flags   int
}

// A run is a stretch of pages of one kind. Runs are kept in ascending order and
// without gaps, over a region's whole page range. Those of the reserve say what its
// pages become when Grow opens them.
type run struct {
	end uintptr // from the region's base
	kind
}

// data returns how many bytes of the page range are not reserve.
func (r *region) data() uintptr { return r.size - r.room }

// plain returns the kind of all pages of a region without runs.
func (r *region) plain() kind { return kind{Prot(r.prot.Load()), r.granule, r.flags} }

// find returns the index of the run that holds offset off from base. There are
// runs, and they reach that far.
func (r *region) find(off uintptr) int {
	return sort.Search(len(r.runs)-1, func(i int) bool { return off < r.runs[i].end })
}

// kindAt returns the kind of the page at an offset from base; at the end, that of
// the last one.
func (r *region) kindAt(off uintptr) kind {
	if r.runs == nil {
		return r.plain()
	}
	return r.runs[r.find(off)].kind
}

// pageStart and pageEnd return where the page begins that holds the byte at an
// offset from base, and where the one ends that holds the byte before it.
func (r *region) pageStart(off uintptr) uintptr {
	return max((r.base+off)&^(r.kindAt(off).granule-1), r.base) - r.base
}

func (r *region) pageEnd(off uintptr) uintptr {
	if off == 0 {
		return 0
	}
	return r.rounded(off, r.kindAt(off-1).granule)
}

// rounded returns an offset from base, rounded up to an address that is a multiple of
// granule.
func (r *region) rounded(off, granule uintptr) uintptr {
	lead := r.base & (granule - 1)
	end, _ := round(lead+off, granule)
	return end - lead
}

// boundary reports whether a page begins at an offset from base.
func (r *region) boundary(off uintptr) bool { return (r.base+off)&(r.kindAt(off).granule-1) == 0 }

// largest returns the size of the largest page.
func (r *region) largest() uintptr {
	size := r.granule
	for i, run := range r.runs {
		if i == 0 || run.granule > size {
			size = run.granule
		}
	}
	return size
}

// each calls f with the stretches of [start, end), offsets from base, that are of
// one kind.
func (r *region) each(start, end uintptr, f func(start, end uintptr, k kind)) {
	if r.runs == nil {
		if start < end {
			f(start, end, r.plain())
		}
		return
	}
	for _, run := range r.runs[r.find(start):] {
		stop := min(run.end, end)
		if start >= stop {
			break
		}
		f(start, stop, run.kind)
		start = stop
	}
}

// clip returns the runs of [start, end), with offsets from start.
func (r *region) clip(start, end uintptr) (runs []run) {
	r.each(start, end, func(_, end uintptr, k kind) { runs = appendRun(runs, end-start, k) })
	return runs
}

// setRuns replaces the account. Without runs there are no pages, and what those to
// come will be stays.
func (r *region) setRuns(runs []run) {
	all := protAll
	for _, run := range runs {
		all &= run.prot
	}
	if len(runs) > 0 {
		r.prot.Store(uint32(all))
	}
	if r.runs = runs; len(runs) == 0 || len(runs) == 1 && runs[0].kind == r.plain() {
		r.runs = nil
	}
}

// appendRun adds a stretch up to end, merging it with one of the same kind.
func appendRun(runs []run, end uintptr, k kind) []run {
	if n := len(runs); n > 0 && runs[n-1].kind == k {
		runs[n-1].end = end
		return runs
	}
	return append(runs, run{end, k})
}

// uniform replaces the account by one kind for all pages, and for those to come.
func (r *region) uniform(k kind) {
	r.runs, r.granule, r.flags = nil, k.granule, k.flags
	r.prot.Store(uint32(k.prot))
}

// setProt notes that the pages [start, end), offsets from base, have permissions
// p. Behind the last page of the data, the reserve follows.
func (r *region) setProt(start, end uintptr, p Prot) {
	r.alter(start, end, func(k kind) kind { k.prot = p; return k })
}

// alter replaces the kind of the pages [start, end), offsets from base. If they are
// the last of the data, those that Grow adds have the new permissions.
func (r *region) alter(start, end uintptr, change func(k kind) kind) {
	if r.runs == nil && start == 0 && end == r.data() {
		if k := change(r.plain()); k == (kind{k.prot, r.granule, r.flags}) {
			r.prot.Store(uint32(k.prot)) // also of no pages: Grow will add some
			return
		}
	}
	if start == end {
		return
	}
	if r.runs == nil {
		r.runs = []run{{r.size, r.plain()}}
	}
	stop := end
	if end == r.data() {
		stop = r.size
	}
	// The runs that it touches are made anew, and their neighbours, which may
	// become one with them.
	first, final := max(r.find(start)-1, 0), min(r.find(stop-1)+1, len(r.runs)-1)
	begin := uintptr(0)
	if first > 0 {
		begin = r.runs[first-1].end
	}
	var space [5]run
	runs, p := space[:0], protAll
	add := func(_, end uintptr, k kind) { runs = appendRun(runs, end, k) }
	r.each(begin, start, add)
	r.each(start, end, func(_, end uintptr, k kind) {
		k = change(k)
		p = k.prot
		runs = appendRun(runs, end, k)
	})
	r.each(end, stop, func(_, end uintptr, k kind) {
		k.prot = p
		runs = appendRun(runs, end, k)
	})
	r.each(stop, r.runs[final].end, add)
	r.setRuns(slices.Replace(r.runs, first, final+1, runs...))
}

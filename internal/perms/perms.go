//go:build linux

// Package perms keeps account of a range of pages: what each allows, how large it is,
// and how it was mapped. It is pure data: it asks nobody, knows no memory, and is not
// safe for concurrent use.
//
// All positions are offsets in bytes from the range's base, unless they are called
// addresses.
package perms

import (
	"math/bits"
	"slices"
	"sort"

	"github.com/mmarinus/mmap/procmaps"
)

// Prot is a set of permissions, the prot argument of mmap(2).
type Prot uint8

// The permissions.
const (
	Read Prot = 1 << iota
	Write
	Exec

	All = Read | Write | Exec
)

// String returns the permissions as in /proc/PID/maps: r-x.
func (p Prot) String() string { return procmaps.Perms(p).String()[:3] } // which has the same bits

// A Kind is what is known of a page: its permissions, its size, which is a huge
// page's where it is one, and the flags of mmap(2) that it was mapped with, as far as
// they are known.
type Kind struct {
	Granule uintptr // a power of two
	Flags   uint32
	Prot    Prot
}

// Pages are the pages of a range, of which the last Room bytes are reserve: pages that
// are held, and become what the account says of them.
type Pages struct {
	Base, Size, Room uintptr

	plain packed // of every page, where runs is nil; else see Plain
	runs  *[]Run // in ascending order and without gaps, up to Size
}

// packed is a Kind in half the space, for every mapping has one.
type packed struct {
	flags uint32
	prot  Prot
	order uint8 // of the granule, which is 1<<order; 64, which shifts the 1 out, if it is 0
}

func pack(k Kind) packed {
	return packed{k.Flags, k.Prot, uint8(bits.TrailingZeros64(uint64(k.Granule)))}
}

func (p packed) kind() Kind { return Kind{1 << p.order, p.flags, p.prot} }

// A Run is a stretch of pages of one kind, up to End.
type Run struct {
	End uintptr
	Kind
}

// Uniform returns the account of a range of pages of one kind.
func Uniform(base, size, room uintptr, k Kind) Pages {
	return Pages{Base: base, Size: size, Room: room, plain: pack(k)}
}

// Data returns how many bytes of the range are not reserve.
func (p *Pages) Data() uintptr { return p.Size - p.Room }

// Plain returns what all pages allow, and of which size and with which flags those
// are that the range was made of. If IsUniform, it is the kind of every page.
func (p *Pages) Plain() Kind { return p.plain.kind() }

// IsUniform reports whether all pages are of one kind.
func (p *Pages) IsUniform() bool { return p.runs == nil }

// find returns the index of the run that holds off. There are runs, and they reach
// that far.
func (p *Pages) find(off uintptr) int {
	runs := *p.runs
	return sort.Search(len(runs)-1, func(i int) bool { return off < runs[i].End })
}

// At returns the kind of the page at an offset; at the end, that of the last one.
func (p *Pages) At(off uintptr) Kind {
	if p.runs == nil {
		return p.Plain()
	}
	return (*p.runs)[p.find(off)].Kind
}

// PageStart returns where the page begins that holds the byte at an offset.
func (p *Pages) PageStart(off uintptr) uintptr {
	return max((p.Base+off)&^(p.At(off).Granule-1), p.Base) - p.Base
}

// PageEnd returns where the page ends that holds the byte before an offset.
func (p *Pages) PageEnd(off uintptr) uintptr {
	if off == 0 {
		return 0
	}
	return p.Rounded(off, p.At(off-1).Granule)
}

// Rounded returns an offset, rounded up to an address that is a multiple of granule.
func (p *Pages) Rounded(off, granule uintptr) uintptr {
	lead := p.Base & (granule - 1)
	return (lead+off+granule-1)&^(granule-1) - lead
}

// Boundary reports whether a page begins at an offset.
func (p *Pages) Boundary(off uintptr) bool { return (p.Base+off)&(p.At(off).Granule-1) == 0 }

// Largest returns the size of the largest page.
func (p *Pages) Largest() uintptr {
	size := p.At(0).Granule
	p.Each(0, p.Size, func(_, _ uintptr, k Kind) { size = max(size, k.Granule) })
	return size
}

// Each calls f with the stretches of [start, end) that are of one kind.
func (p *Pages) Each(start, end uintptr, f func(start, end uintptr, k Kind)) {
	if p.runs == nil {
		if start < end {
			f(start, end, p.Plain())
		}
		return
	}
	for _, run := range (*p.runs)[p.find(start):] {
		stop := min(run.End, end)
		if start >= stop {
			break
		}
		f(start, stop, run.Kind)
		start = stop
	}
}

// Clip returns the runs of [start, end), counted from start.
func (p *Pages) Clip(start, end uintptr) (runs []Run) {
	p.Each(start, end, func(_, end uintptr, k Kind) { runs = Append(runs, end-start, k) })
	return runs
}

// Append adds a stretch up to end to runs, merging it with one of the same kind.
func Append(runs []Run, end uintptr, k Kind) []Run {
	if n := len(runs); n > 0 && runs[n-1].Kind == k {
		runs[n-1].End = end
		return runs
	}
	return append(runs, Run{end, k})
}

// SetRuns replaces the account. Without runs there are no pages, and what those to
// come will be stays.
func (p *Pages) SetRuns(runs []Run) {
	all := All
	for _, run := range runs {
		all &= run.Prot
	}
	if len(runs) > 0 {
		p.plain.prot = all
	}
	p.runs = nil
	if len(runs) > 1 || len(runs) == 1 && runs[0].Kind != p.Plain() {
		p.runs = &runs
	}
}

// SetAll makes all pages, and those to come, of one kind.
func (p *Pages) SetAll(k Kind) { p.runs, p.plain = nil, pack(k) }

// Protect notes that the pages [start, end) allow what prot says. If they are the last
// of the data, so will those of the reserve.
func (p *Pages) Protect(start, end uintptr, prot Prot) {
	p.Alter(start, end, func(k Kind) Kind { k.Prot = prot; return k })
}

// ProtectAll is Protect of all pages, or of none: some may come.
func (p *Pages) ProtectAll(prot Prot) {
	if p.runs == nil {
		p.plain.prot = prot
	} else {
		p.Protect(0, p.Data(), prot)
	}
}

// Alter replaces the kind of the pages [start, end). If they are the last of the data,
// those of the reserve get the new permissions.
func (p *Pages) Alter(start, end uintptr, change func(k Kind) Kind) {
	if p.runs == nil && start == 0 && end == p.Data() {
		old := p.Plain()
		if k := change(old); k == (Kind{old.Granule, old.Flags, k.Prot}) {
			p.plain.prot = k.Prot
			return
		}
	}
	if start == end {
		return
	}
	if p.runs == nil {
		p.runs = &[]Run{{p.Size, p.Plain()}}
	}
	old := *p.runs
	stop := end
	if end == p.Data() {
		stop = p.Size
	}
	// The runs that it touches are made anew, and their neighbours, which may
	// become one with them.
	first, final := max(p.find(start)-1, 0), min(p.find(stop-1)+1, len(old)-1)
	begin := uintptr(0)
	if first > 0 {
		begin = old[first-1].End
	}
	var space [5]Run
	runs, prot := space[:0], All
	add := func(_, end uintptr, k Kind) { runs = Append(runs, end, k) }
	p.Each(begin, start, add)
	p.Each(start, end, func(_, end uintptr, k Kind) {
		k = change(k)
		prot = k.Prot
		runs = Append(runs, end, k)
	})
	p.Each(end, stop, func(_, end uintptr, k Kind) {
		k.Prot = prot
		runs = Append(runs, end, k)
	})
	p.Each(stop, old[final].End, add)
	p.SetRuns(slices.Replace(old, first, final+1, runs...))
}

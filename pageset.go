//go:build linux

package mmap

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/mmarinus/mmap/internal/kernel"
)

// A stretch is a range of pages, as offsets from the region's base.
type stretch struct{ start, end uintptr }

// A pageSet is a set of pages, in ascending order and with gaps between.
type pageSet []stretch

// append adds a stretch that does not begin before the last one.
func (set pageSet) append(s stretch) pageSet {
	if n := len(set); n > 0 && s.start <= set[n-1].end {
		set[n-1].end = max(set[n-1].end, s.end)
		return set
	}
	return append(set, s)
}

// union returns the pages that are in one of two sets.
func (set pageSet) union(other pageSet) (all pageSet) {
	both := slices.Concat(set, other)
	slices.SortFunc(both, func(a, b stretch) int { return cmp.Compare(a.start, b.start) })
	for _, s := range both {
		all = all.append(s)
	}
	return all
}

// A pageBits is a set of pages, one bit each, up to the last word with a page. It is for
// changes in any order; the page tables of what is tracked take 64 times as much.
type pageBits []uint64

// add adds the pages of a stretch.
func (set *pageBits) add(s stretch) {
	if words := int((s.end/kernel.PageSize + 63) / 64); words > len(*set) {
		*set = append(*set, make(pageBits, words-len(*set))...)
	}
	set.each(s, func(i int, mask uint64) { (*set)[i] |= mask })
}

// remove takes the pages of a stretch out.
func (set *pageBits) remove(s stretch) { set.each(s, func(i int, mask uint64) { (*set)[i] &^= mask }) }

// clip returns the pages of the set that are in a range.
func (set *pageBits) clip(in stretch) (out pageSet) {
	set.each(in, func(i int, mask uint64) {
		for left := (*set)[i] & mask; left != 0; {
			from := bits.TrailingZeros64(left)
			n := bits.TrailingZeros64(^(left >> from))
			left &^= (1<<n - 1) << from
			page := uintptr(i*64 + from)
			out = out.append(stretch{page * kernel.PageSize, (page + uintptr(n)) * kernel.PageSize})
		}
	})
	return out
}

// each calls f with the index of each word that has pages of a stretch, and their bits.
func (set *pageBits) each(s stretch, f func(i int, mask uint64)) {
	page, end := s.start/kernel.PageSize, min(s.end/kernel.PageSize, uintptr(len(*set))*64)
	for page < end {
		next := min(end, (page/64+1)*64)
		f(int(page/64), ^uint64(0)>>(64-(next-page))<<(page%64))
		page = next
	}
}

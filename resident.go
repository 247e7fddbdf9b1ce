//go:build linux

package mmap

import (
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/place"
)

// Resident returns how many bytes of the pages that hold n bytes at off are in memory, a
// multiple of the page size; mincore(2). Of a file it counts what the page cache holds, or
// everything, if the process neither owns the file nor may write to it.
func (m Mapping) Resident(off, n int) (int, error) {
	pages := 0
	err := m.within("residency", off, n, false, func(_ *region, start, length uintptr) (err error) {
		pages, err = place.Resident(start, length)
		return err
	})
	return pages * int(kernel.PageSize), err
}

// ResidentPages returns for each of the pages that hold n bytes at off whether
// it is in memory, as Resident does. A huge page counts as many. The result takes a byte for
// each page.
func (m Mapping) ResidentPages(off, n int) (pages []bool, err error) {
	err = m.within("residency", off, n, false, func(_ *region, start, length uintptr) error {
		pages = make([]bool, 0, length/kernel.PageSize)
		return place.EachResident(start, length, func(_ uintptr, in bool) { pages = append(pages, in) })
	})
	return pages, err
}

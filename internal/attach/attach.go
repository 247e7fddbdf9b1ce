//go:build linux

// Package attach lets package paging bring in the pages of a mapping, without a public name
// for it in package mmap.
package attach

// Pages are those of a mapping, some of which are absent: touching one is a fault, and not
// a page of zeros. They are there as long as the mapping is not unmapped. Offsets and sizes
// are in bytes and of whole pages. After Close of the mapping all methods return ErrClosed.
type Pages interface {
	// PageSize is that of every page.
	PageSize() int
	// Present reports whether all pages of a range are in memory.
	Present(off, n int) (bool, error)
	// Install puts contents into the absent pages of a range, and leaves the others alone.
	Install(off int, contents []byte) error
	// ReadAt is that of the mapping. If that fails, it returns what the function returns
	// that Pager was given for it.
	ReadAt(b []byte, off int64) (int, error)
	// Evict makes the pages of a range absent.
	Evict(off, n int) error
}

// A ReadOn goes on with a ReadAt that has failed with err after n bytes.
type ReadOn func(b []byte, off int64, n int, err error) (int, error)

// Pager attaches to a mapping, a Mapping of package mmap, which sets it. cause returns what
// a fault on an absent page at an offset means.
var Pager func(mapping any, cause func(off int) error, readOn ReadOn) (Pages, error)

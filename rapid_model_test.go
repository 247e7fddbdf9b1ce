//go:build linux

package mmap_test

import (
	"io"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/kinds"
	"github.com/mmarinus/mmap/internal/testkit"
)

// What the tests share with those in systemtest, by the names that they have for it.
var (
	onePage     = testkit.PageSize
	newArena    = testkit.NewArena
	walk        = testkit.Walk
	areas       = testkit.AreasIn
	inodeOf     = testkit.InodeOf
	modelKinds  = kinds.All
	unknownKind = kinds.Unknown
	known       = kinds.Known
	unknown     = kinds.IsUnknown
	anyKind     = kinds.Any
	readable    = kinds.Readable
	writable    = kinds.Writable
	updatable   = kinds.Updatable
	inert       = kinds.Inert
)

const arenaPages = testkit.ArenaPages

type (
	arena     = testkit.Arena
	modelKind = kinds.Kind
	viewer    = kinds.Viewer
	updater   = kinds.Updater
	destroyer = kinds.Destroyer
	failer    = testkit.Failer
)

// A modelObject is memory that several mappings can show: a file, or shared
// anonymous memory.
type modelObject struct {
	data  []byte // as far as the file goes: whole pages
	inode uint64 // in the kernel's table; 0: not seen yet
	// Faults past its end are proven to be truncations.
	proven bool
	noExec bool // its file system forbids execution
}

// A modelPage is one page of a mapping.
type modelPage struct {
	prot      mmap.Prot
	shared    bool
	readOnly  bool         // the file was opened for reading only
	object    *modelObject // nil: private anonymous memory
	index     int          // of the page in the object
	own       []byte       // what copy-on-write has made of it; nil: not written yet
	guard     bool         // a guard page
	droppable bool
	attributes
}

var zeroPage = make([]byte, onePage)

// contents returns what the page holds, and nil if touching it faults.
func (p *modelPage) contents() []byte {
	if p.guard {
		return nil
	}
	if p.object == nil {
		if p.own != nil {
			return p.own
		}
		return zeroPage
	}
	start := p.index * onePage
	if start >= len(p.object.data) {
		return nil // a private copy goes with the truncation, too
	}
	if p.own != nil {
		return p.own
	}
	return p.object.data[start : start+onePage]
}

// store writes b at an offset in the page, which does not fault.
func (p *modelPage) store(off int, b []byte) {
	if !p.shared && p.own == nil {
		p.own = append([]byte(nil), p.contents()...)
	}
	copy(p.contents()[off:], b)
}

// refuses reports whether the kernel denies the page these permissions.
func (p *modelPage) refuses(prot mmap.Prot) bool {
	return p.shared && p.readOnly && prot&mmap.ProtWrite != 0 ||
		p.object != nil && p.object.noExec && prot&mmap.ProtExec != 0
}

// A modelSource is a Spec, and what the model makes of it.
type modelSource struct {
	spec             mmap.Spec
	size             int
	object           *modelObject // of a file
	index, lead      int          // where in it, in pages and bytes
	shared, readOnly bool
	droppable        bool
}

// pages returns n pages of the source, as they are while nobody has access.
func (s modelSource) pages(n int) []modelPage {
	object := s.object
	if object == nil && s.shared {
		object = &modelObject{data: make([]byte, n*onePage)}
	}
	pages := make([]modelPage, n)
	for i := range pages {
		pages[i] = modelPage{shared: s.shared, readOnly: s.readOnly, object: object, index: s.index + i, droppable: s.droppable}
		if s.droppable {
			pages[i].attributes = dontDump
		}
	}
	return pages
}

// What an empty mapping grows from.
const (
	noMore = iota
	morePrivate
	moreShared
	moreDroppable
)

func (s modelSource) more() int {
	switch {
	case s.object != nil:
		return noMore
	case s.shared:
		return moreShared
	case s.droppable:
		return moreDroppable
	}
	return morePrivate
}

// A modelRegion is a mapping.
type modelRegion struct {
	h        kinds.AnyHandle
	kind     *modelKind
	addr     uintptr
	len, cap int
	pages    []modelPage // the whole range, with the reserve
	room     int         // pages at its end that are reserve
	prot     mmap.Prot   // while there are no pages
	more     int
	pin      *mmap.Pin
	closing  bool // closed under the pin
	sealed   bool
	kept     bool // it may lie in the Go heap: never collected
}

func (r *modelRegion) lead() int     { return int(r.addr % uintptr(onePage)) }
func (r *modelRegion) base() uintptr { return r.addr - uintptr(r.lead()) }
func (r *modelRegion) data() int     { return len(r.pages) - r.room }
func (r *modelRegion) end() uintptr  { return r.base() + uintptr(len(r.pages)*onePage) }

// pagesFor returns how many pages a length of size bytes takes.
func (r *modelRegion) pagesFor(size int) int { return pagesFor(r.lead(), size) }

func pagesFor(lead, size int) int {
	if size == 0 {
		return 0
	}
	return (lead + size + onePage - 1) / onePage
}

// boundary reports whether a page begins at off.
func (r *modelRegion) boundary(off int) bool { return (r.lead()+off)%onePage == 0 }

// at returns the page that holds the byte at off, and where in it.
func (r *modelRegion) at(off int) (*modelPage, int) {
	off += r.lead()
	return &r.pages[off/onePage], off % onePage
}

// allows returns what every page allows.
func (r *modelRegion) allows() mmap.Prot {
	if r.data() == 0 {
		return r.prot
	}
	all := mmap.ProtRead | mmap.ProtWrite | mmap.ProtExec
	for _, p := range r.pages[:r.data()] {
		all &= p.prot
	}
	return all
}

// protect gives pages permissions.
func protect(pages []modelPage, p mmap.Prot) {
	for i := range pages {
		pages[i].prot = p
	}
}

func refused(pages []modelPage, p mmap.Prot) bool {
	for i := range pages {
		if pages[i].refuses(p) {
			return true
		}
	}
	return false
}

// transfer goes through n bytes at off as a copy that needs a permission does.
// It calls f for each piece that is copied, and returns the count and why it
// stopped there: nil at the end of the n bytes, io.EOF at that of the mapping.
func (r *modelRegion) transfer(off, n int, need mmap.Prot, f func(p *modelPage, at, done, size int)) (int, error) {
	done := 0
	for done < n {
		if off+done >= r.len {
			return done, io.EOF
		}
		p, at := r.at(off + done)
		size := min(n-done, onePage-at, r.len-off-done)
		switch {
		case p.prot&need != need:
			return done, mmap.ErrPermission
		case p.guard:
			return done, guards().cause
		case p.contents() == nil && p.object.proven:
			return done, mmap.ErrTruncated
		case p.contents() == nil:
			return done, mmap.ErrFault
		}
		f(p, at, done, size)
		done += size
	}
	return done, nil
}

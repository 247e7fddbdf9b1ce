//go:build linux

package mmap_test

import (
	"errors"
	"io"
	"os"
	"reflect"
	"strconv"
	"sync/atomic"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// onePage is the size of a page.
var onePage = os.Getpagesize()

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
	h        mmap.AnyHandle
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

// A modelKind is one of the nine handle types, with the generic functions
// instantiated for it.
type modelKind struct {
	name    string
	prot    mmap.Prot
	unknown bool
	zero    mmap.AnyHandle

	create func(mmap.Spec, mmap.Prot) (mmap.AnyHandle, error)
	adopt  func(uintptr, int) (mmap.AnyHandle, error)
	resize func(mmap.AnyHandle, int) (mmap.AnyHandle, error)
	move   func(mmap.AnyHandle, uintptr) (mmap.AnyHandle, error)
	split  func(mmap.AnyHandle, int) (l, r mmap.AnyHandle, err error)
	join   func(a, b mmap.AnyHandle) (mmap.AnyHandle, error)
	grow   func(m mmap.AnyHandle, size int) error

	// Known types only:
	protect func(old mmap.AnyHandle) (mmap.AnyHandle, error) // to this type
	over    func(old mmap.AnyHandle, s mmap.Spec) (mmap.AnyHandle, error)
	assert  func(u mmap.Unknown) (mmap.AnyHandle, error)
	forget  func(m mmap.AnyHandle) (mmap.AnyHandle, error)
}

var unknownKind = handleKind[mmap.Unknown]("Unknown")

// modelKinds has the known types at the places of their permissions.
var modelKinds = []*modelKind{
	mmap.ProtNone:                                      knownKind[mmap.None]("None", 0),
	mmap.ProtRead:                                      knownKind[mmap.Read]("Read", mmap.ProtRead),
	mmap.ProtWrite:                                     knownKind[mmap.Write]("Write", mmap.ProtWrite),
	mmap.ProtRead | mmap.ProtWrite:                     knownKind[mmap.ReadWrite]("ReadWrite", mmap.ProtRead|mmap.ProtWrite),
	mmap.ProtExec:                                      knownKind[mmap.Exec]("Exec", mmap.ProtExec),
	mmap.ProtRead | mmap.ProtExec:                      knownKind[mmap.ReadExec]("ReadExec", mmap.ProtRead|mmap.ProtExec),
	mmap.ProtWrite | mmap.ProtExec:                     knownKind[mmap.WriteExec]("WriteExec", mmap.ProtWrite|mmap.ProtExec),
	mmap.ProtRead | mmap.ProtWrite | mmap.ProtExec:     knownKind[mmap.ReadWriteExec]("ReadWriteExec", mmap.ProtRead|mmap.ProtWrite|mmap.ProtExec),
	mmap.ProtRead | mmap.ProtWrite | mmap.ProtExec + 1: unknownKind,
}

func known(k *modelKind) bool { return !k.unknown }

func generic[M mmap.Handle](m M, err error) (mmap.AnyHandle, error) { return m, err }

func handleKind[M mmap.Handle](name string) *modelKind {
	var zero M
	return &modelKind{
		name:    name,
		unknown: true,
		zero:    zero,
		create: func(s mmap.Spec, p mmap.Prot) (mmap.AnyHandle, error) {
			return generic(mmap.MapUnknown(s, p))
		},
		adopt: func(addr uintptr, size int) (mmap.AnyHandle, error) {
			return generic(mmap.UnsafeAdopt[M](addr, size))
		},
		resize: func(m mmap.AnyHandle, size int) (mmap.AnyHandle, error) {
			return generic(mmap.Resize(m.(M), size))
		},
		move: func(m mmap.AnyHandle, addr uintptr) (mmap.AnyHandle, error) {
			return generic(mmap.Move(m.(M), addr))
		},
		split: func(m mmap.AnyHandle, off int) (mmap.AnyHandle, mmap.AnyHandle, error) {
			l, r, err := mmap.Split(m.(M), off)
			return l, r, err
		},
		grow: func(m mmap.AnyHandle, size int) error { return mmap.Grow(m.(M), size) },
		join: func(a, b mmap.AnyHandle) (mmap.AnyHandle, error) {
			return generic(mmap.Join(a.(M), b.(M)))
		},
	}
}

func knownKind[M mmap.Known](name string, p mmap.Prot) *modelKind {
	k := handleKind[M](name)
	k.unknown, k.prot = false, p
	k.create = func(s mmap.Spec, _ mmap.Prot) (mmap.AnyHandle, error) { return generic(mmap.Map[M](s)) }
	k.protect = protectAs[M]
	k.over = overAs[M]
	k.assert = func(u mmap.Unknown) (mmap.AnyHandle, error) { return generic(mmap.Assert[M](u)) }
	k.forget = func(m mmap.AnyHandle) (mmap.AnyHandle, error) { return generic(mmap.Forget(m.(M))) }
	return k
}

func protectAs[M mmap.Known](old mmap.AnyHandle) (mmap.AnyHandle, error) {
	switch old := old.(type) {
	case mmap.None:
		return generic(mmap.Protect[M](old))
	case mmap.Read:
		return generic(mmap.Protect[M](old))
	case mmap.Write:
		return generic(mmap.Protect[M](old))
	case mmap.Exec:
		return generic(mmap.Protect[M](old))
	case mmap.ReadWrite:
		return generic(mmap.Protect[M](old))
	case mmap.ReadExec:
		return generic(mmap.Protect[M](old))
	case mmap.WriteExec:
		return generic(mmap.Protect[M](old))
	case mmap.ReadWriteExec:
		return generic(mmap.Protect[M](old))
	}
	return generic(mmap.Protect[M](old.(mmap.Unknown)))
}

func overAs[M mmap.Known](old mmap.AnyHandle, s mmap.Spec) (mmap.AnyHandle, error) {
	switch old := old.(type) {
	case mmap.None:
		return generic(mmap.Over[M](old, s))
	case mmap.Read:
		return generic(mmap.Over[M](old, s))
	case mmap.Write:
		return generic(mmap.Over[M](old, s))
	case mmap.Exec:
		return generic(mmap.Over[M](old, s))
	case mmap.ReadWrite:
		return generic(mmap.Over[M](old, s))
	case mmap.ReadExec:
		return generic(mmap.Over[M](old, s))
	case mmap.WriteExec:
		return generic(mmap.Over[M](old, s))
	case mmap.ReadWriteExec:
		return generic(mmap.Over[M](old, s))
	}
	return generic(mmap.Over[M](old.(mmap.Unknown), s))
}

// An arena is a range of addresses that no one else in the process uses: what
// is mapped there is the test's, or a leak.
type arena struct{ start, end uintptr }

const arenaPages = 64

var arenas atomic.Uint32

// newArena finds an arena of its own for each test that asks.
func newArena(t interface{ Fatal(args ...any) }) arena {
	table, err := procmaps.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	size := uintptr(arenaPages * onePage)
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
			return arena{uintptr(at), uintptr(at) + size}
		}
	}
}

// page returns the address of the i-th page.
func (a arena) page(i int) uintptr { return a.start + uintptr(i*onePage) }

// failer is what *rapid.T and *testing.T have in common here.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// walk calls f with each page of [start, end) that is mapped, and the kernel's
// region around it.
func walk(t failer, table *procmaps.Table, start, end uintptr, f func(at uintptr, area procmaps.Region)) {
	t.Helper()
	for at := uint64(start); at < uint64(end); {
		area, ok, err := table.Next(at)
		if err != nil {
			t.Fatalf("table: %v", err)
		}
		if !ok {
			return
		}
		for at = max(at, area.Start); at < min(area.End, uint64(end)); at += uint64(onePage) {
			f(uintptr(at), area)
		}
	}
}

// areas returns how many regions the kernel has in [start, end).
func areas(t failer, table *procmaps.Table, start, end uintptr) int {
	t.Helper()
	n, last := 0, uint64(0)
	walk(t, table, start, end, func(_ uintptr, area procmaps.Region) {
		if area.End != last {
			n, last = n+1, area.End
		}
	})
	return n
}

// inodeOf asks the kernel how its table calls a file: on a stacked file system
// stat can have another inode.
func inodeOf(t failer, table *procmaps.Table, f *os.File) uint64 {
	t.Helper()
	b, err := unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatalf("mmap: %v", err)
	}
	defer unix.Munmap(b)
	var inode uint64
	start := reflect.ValueOf(b).Pointer()
	walk(t, table, start, start+uintptr(onePage), func(_ uintptr, area procmaps.Region) { inode = area.Inode })
	return inode
}

// inert fails unless a handle answers as one that is no longer good.
func inert(t failer, h mmap.AnyHandle, want error) {
	t.Helper()
	if h.Len() != 0 || h.Cap() != 0 || h.Addr() != 0 || h.Prot() != mmap.ProtNone {
		t.Fatalf("stale handle: Len %d, Cap %d, Addr %#x, Prot %v", h.Len(), h.Cap(), h.Addr(), h.Prot())
	}
	if err := h.Close(); !errors.Is(err, want) {
		t.Fatalf("Close of a stale handle: %v, want %v", err, want)
	}
	if r, ok := h.(interface{ UnsafeBytes() []byte }); ok && r.UnsafeBytes() != nil {
		t.Fatalf("UnsafeBytes of a stale handle is not nil")
	}
}

// transitions tries every transition, with good arguments, and Grow excepted.
func (k *modelKind) transitions(h mmap.AnyHandle, s mmap.Spec) map[string]error {
	got := map[string]error{}
	_, got["protect"] = modelKinds[mmap.ProtRead].protect(h)
	_, got["over"] = modelKinds[mmap.ProtRead].over(h, s)
	_, got["resize"] = k.resize(h, 1)
	_, got["move"] = k.move(h, h.Addr())
	_, _, got["split"] = k.split(h, 0)
	_, got["join"] = k.join(h, k.zero)
	_, _, got["release"] = h.Release()
	if u, ok := h.(mmap.Unknown); ok {
		_, got["assert"] = modelKinds[mmap.ProtRead].assert(u)
		got["unknown protect"] = u.Protect(mmap.ProtRead)
		got["protect range"] = u.ProtectRange(0, 0, mmap.ProtRead)
		got["place"] = u.Place(0, mmap.Anonymous(0), mmap.ProtRead)
	} else {
		_, got["forget"] = k.forget(h)
	}
	return got
}

// accesses tries every access.
func (k *modelKind) accesses(h mmap.AnyHandle) map[string]error {
	got := map[string]error{}
	none := func([]byte) error { return nil }
	if r, ok := h.(io.ReaderAt); ok {
		_, got["read"] = r.ReadAt(nil, 0)
	}
	if w, ok := h.(io.WriterAt); ok {
		_, got["write"] = w.WriteAt(nil, 0)
	}
	if v, ok := h.(viewer); ok {
		got["view"] = v.View(none)
	}
	if v, ok := h.(updater); ok {
		got["update"] = v.Update(none)
	}
	if u, ok := h.(mmap.Unknown); ok {
		got["view range"] = u.ViewRange(0, 0, none)
		got["update range"] = u.UpdateRange(0, 0, none)
	}
	got["grow"] = k.grow(h, 0)
	got["advise"] = h.Advise(0, 0, mmap.AdviceNormal)
	got["prefault"] = h.Prefault(0, 0)
	got["lock"] = h.LockOnFault(0, 0)
	got["sync"] = h.Sync(0, 0)
	_, got["resident"] = h.Resident(0, 0)
	_, got["nodes"] = h.Nodes(0, 0)
	if w, ok := h.(destroyer); ok {
		got["discard"] = w.Discard(0, 0)
	}
	_, got["pin"] = h.Pin()
	_, got["regions"] = h.Regions()
	return got
}

type viewer interface {
	View(func(b []byte) error) error
}

// A destroyer is what handles that can be written have besides.
type destroyer interface {
	PrefaultWrite(off, n int) error
	Discard(off, n int) error
	DiscardLocked(off, n int) error
	Free(off, n int) error
	Punch(off, n int) error
	WipeOnFork(off, n int) error
	InstallGuardPages(off, n int) error
	RemoveGuardPages(off, n int) error
}

type updater interface {
	Update(func(b []byte) error) error
}

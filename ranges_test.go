//go:build linux

package mmap_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"testing"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/kinds"
	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// What FuzzRanges maps.
const (
	privateMemory = iota
	sharedMemory
	privateFile
	sharedFile
	rangeSources
)

// rangeArgs are the arguments of FuzzRanges.
type rangeArgs struct {
	op, source, prot uint8
	other            uint8  // permissions of the pages in mask
	mask             uint16 // page by page
	size             uint32
	reserve          uint32 // beyond the size
	lead             uint16 // of the file offset, beyond a page
	off, n           int64
	arg              uint8 // of the operation
	known            bool  // a handle of a known type
}

// A span is what a range should come to, computed with numbers that cannot
// overflow.
type span struct {
	outside      bool
	first, last  int  // the pages that it touches
	begins, ends bool // on a page boundary
	whole        bool // both, or at an end of the mapping
}

// spanOf computes the span of n bytes at off in a mapping of size bytes, the
// first of which is lead bytes past a page boundary.
func spanOf(lead, size int, off, n int64) (s span) {
	page, length := big.NewInt(int64(onePage)), big.NewInt(int64(size))
	from := big.NewInt(off)
	to := new(big.Int).Add(from, big.NewInt(n))
	if s.outside = off < 0 || n < 0 || to.Cmp(length) > 0; s.outside || n == 0 {
		s.begins, s.ends, s.whole = true, true, true
		return s
	}
	skew := big.NewInt(int64(lead))
	first, begins := new(big.Int).DivMod(new(big.Int).Add(skew, from), page, new(big.Int))
	last, ends := new(big.Int).DivMod(new(big.Int).Add(skew, to), page, new(big.Int))
	s.first, s.last = int(first.Int64()), int(last.Int64())
	if ends.Sign() > 0 {
		s.last++
	}
	s.begins, s.ends = begins.Sign() == 0, ends.Sign() == 0
	s.whole = (off == 0 || s.begins) && (to.Cmp(length) == 0 || s.ends)
	return s
}

// How an operation on a range shows what it did.
const (
	unseen   = iota // not at all
	divides         // the kernel's areas are divided where the range ends
	loses           // contents change
	replaces        // in the permissions, or in what is mapped
)

// A rangeOp is an operation on a range.
type rangeOp struct {
	name    string
	feature string    // that not every kernel has
	whole   bool      // it refuses parts of pages
	need    mmap.Prot // of each page
	shows   int
	do      func(h kinds.AnyHandle, off, n int, a rangeArgs) error
}

func advises(a mmap.Advice) func(h kinds.AnyHandle, off, n int, _ rangeArgs) error {
	return func(h kinds.AnyHandle, off, n int, _ rangeArgs) error { return h.Advise(off, n, a) }
}

func does(f func(h kinds.AnyHandle, off, n int) error) func(h kinds.AnyHandle, off, n int, _ rangeArgs) error {
	return func(h kinds.AnyHandle, off, n int, _ rangeArgs) error { return f(h, off, n) }
}

func loss(f func(w destroyer, off, n int) error) func(h kinds.AnyHandle, off, n int, _ rangeArgs) error {
	return func(h kinds.AnyHandle, off, n int, _ rangeArgs) error { return f(h.(destroyer), off, n) }
}

// rangeOps are numbered by the corpus: new ones go to the end.
var rangeOps = []rangeOp{
	{"protect", "", true, 0, replaces, func(h kinds.AnyHandle, off, n int, a rangeArgs) error {
		return h.(mmap.Unknown).ProtectRange(off, n, mmap.Prot(a.arg%10))
	}},
	{"place", "", true, 0, replaces, nil},
	{"view", "", false, mmap.ProtRead, unseen, nil},
	{"update", "", false, mmap.ProtRead | mmap.ProtWrite, loses, nil},
	{"read", "", false, mmap.ProtRead, unseen, nil},
	{"write", "", false, mmap.ProtWrite, loses, nil},
	{"split", "", false, 0, unseen, nil},
	{"grow", "", false, 0, replaces, nil},
	{"resize", "", false, 0, replaces, nil},
	{"sync", "", false, 0, unseen, does(kinds.AnyHandle.Sync)},
	{"start sync", "", false, 0, unseen, does(kinds.AnyHandle.StartSync)},
	{"invalidate", "MLOCK_ONFAULT", false, 0, unseen, does(kinds.AnyHandle.Invalidate)},
	{"random", "", false, 0, divides, advises(mmap.AdviceRandom)},
	{"do not fork", "", false, 0, divides, advises(mmap.AdviceDontFork)},
	{"do not dump", "", false, 0, divides, advises(mmap.AdviceDontDump)},
	{"will need", "", false, 0, unseen, advises(mmap.AdviceWillNeed)},
	{"cold", "MADV_COLD", false, 0, unseen, advises(mmap.AdviceCold)},
	{"lock", "", false, 0, divides, does(kinds.AnyHandle.Lock)},
	{"lock on fault", "MLOCK_ONFAULT", false, 0, divides, does(kinds.AnyHandle.LockOnFault)},
	{"unlock", "MLOCK_ONFAULT", false, 0, divides, does(kinds.AnyHandle.Unlock)},
	{"policy", "mbind", false, 0, divides, func(h kinds.AnyHandle, off, n int, _ rangeArgs) error {
		return h.SetPolicy(off, n, mmap.PolicyLocal)
	}},
	{"resident", "", false, 0, unseen, nil},
	{"nodes", "move_pages", false, 0, unseen, nil},
	{"prefault", "MADV_POPULATE_READ", false, mmap.ProtRead, unseen, does(kinds.AnyHandle.Prefault)},
	{"prefault write", "MADV_POPULATE_READ", false, mmap.ProtWrite, unseen, loss(destroyer.PrefaultWrite)},
	{"collapse", "", false, 0, unseen, does(kinds.AnyHandle.Collapse)},
	{"discard", "", true, mmap.ProtWrite, loses, loss(destroyer.Discard)},
	{"discard locked", "MADV_DONTNEED_LOCKED", true, mmap.ProtWrite, loses, loss(destroyer.DiscardLocked)},
	{"free", "", true, mmap.ProtWrite, loses, loss(destroyer.Free)},
	{"punch", "", true, mmap.ProtWrite, loses, loss(destroyer.Punch)},
	{"wipe on fork", "MADV_WIPEONFORK", true, mmap.ProtWrite, divides, loss(destroyer.WipeOnFork)},
	{"guard", "MADV_GUARD_INSTALL", true, mmap.ProtWrite, loses, loss(destroyer.InstallGuardPages)},
	{"remove guard", "MADV_GUARD_INSTALL", true, mmap.ProtWrite, loses, loss(destroyer.RemoveGuardPages)},
}

// A pageState is what the kernel has at a page.
type pageState struct {
	perms         procmaps.Perms
	inode, offset uint64
	mapped, cut   bool // cut: an area begins here
}

// seeding reports whether a target only runs its seeds. Then there can be many:
// the engine would spend seconds on them before it begins.
func seeding() bool { return flag.Lookup("test.fuzz").Value.String() == "" }

// pictured is what the kernel has at the pages of an arena.
type pictured [arenaPages]pageState

func (p pictured) String() (text string) {
	for i, page := range p {
		if page.mapped {
			text += fmt.Sprintf("\n\tpage %d: %v, inode %d from %#x, begins an area: %v", i-firstPage, page.perms, page.inode, page.offset, page.cut)
		}
	}
	return text
}

// An arenaTest is the fixed part of FuzzRanges.
type arenaTest struct {
	arena arena
	table *procmaps.Table
	file  *os.File
	inode uint64
	bytes []byte // of the file
	dirty bool   // a mapping has changed them
}

// The mapping begins at this page of the arena, and at this one of the file. It
// has at most so many pages.
const (
	firstPage   = 16
	firstOfFile = 1
	mostPages   = 8
	morePages   = 4 // of reserve
)

// picture returns what the kernel has in the arena, or in as much elsewhere.
func (a *arenaTest) picture(t *testing.T, start uintptr) (pages pictured) {
	walk(t, a.table, start, start+uintptr(arenaPages*onePage), func(at uintptr, area procmaps.Region) {
		p := pageState{perms: area.Perms, inode: area.Inode, mapped: true, cut: uint64(at) == area.Start}
		if area.Inode != 0 {
			p.offset = area.Offset + uint64(at) - area.Start
		}
		pages[(at-start)/uintptr(onePage)] = p
	})
	return pages
}

// uncut returns the pages without where areas begin.
func uncut(pages pictured) pictured {
	for i := range pages {
		pages[i].cut = false
	}
	return pages
}

// FuzzRanges does one operation with any range on a mapping of any length,
// capacity, lead and permissions. Which pages that touches, and whether it is
// refused, is computed with numbers of any size.
func FuzzRanges(f *testing.F) {
	page := onePage
	seed := func(op string, a rangeArgs) {
		a.op = uint8(slices.IndexFunc(rangeOps, func(o rangeOp) bool { return o.name == op }))
		f.Add(a.op, a.source, a.prot, a.other, a.mask, a.size, a.reserve, a.lead, a.off, a.n, a.arg, a.known)
	}
	four := rangeArgs{prot: 3, size: uint32(4 * page)}
	for _, op := range rangeOps {
		a := four
		a.off, a.n = int64(page), int64(2*page)
		seed(op.name, a) // whole pages in the middle
		a.n = int64(4 * page)
		seed(op.name, a) // more than there is from there on
		a.source, a.lead, a.size = sharedFile, 100, uint32(3*page)
		a.off, a.n = int64(page-100), int64(page)
		seed(op.name, a) // the same with a file offset that is unaligned
		a.source, a.off, a.n = privateFile, 1, int64(page)
		seed(op.name, a) // parts of two pages
		a.source, a.size, a.off, a.n = sharedMemory, uint32(2*page+5), int64(page), int64(page+5)
		seed(op.name, a) // to an end that is no page boundary
		a.off, a.n = 0, int64(2*page+6)
		seed(op.name, a) // one byte too many
		a.source, a.off, a.n = privateMemory, math.MaxInt64, 1
		seed(op.name, a) // the sum overflows
		a.off, a.n = 1, math.MaxInt64
		seed(op.name, a) // here, too
		a.off, a.n = -1, 1
		seed(op.name, a) // negative
		a.off, a.n = 1, -1
		seed(op.name, a) // negative
		a.off, a.n = int64(2*page+5), 0
		seed(op.name, a) // nothing, at the end
		a.size, a.off = 0, 0
		seed(op.name, a) // nothing, of nothing
		a = four
		a.mask, a.other, a.n = 4, 0, int64(4*page)
		seed(op.name, a) // a page in the middle allows nothing
		a.n = int64(2 * page)
		seed(op.name, a) // and is not touched
		a = four
		a.known, a.reserve, a.off, a.n = true, uint32(2*page+1), int64(5*page), int64(page)
		seed(op.name, a) // within the reserve
		a.off = int64(6*page + 1)
		seed(op.name, a) // to its very end
		a.off = int64(6*page + 2)
		seed(op.name, a) // a byte behind that
	}
	a := four
	a.off, a.n, a.arg = int64(page), int64(page), 8
	seed("protect", a) // no such permission
	a.n = 0
	seed("protect", a) // nor for nothing
	a = four
	a.off, a.n, a.arg = int64(page+7), int64(page-7), 1
	seed("place", a) // a file whose offset is as far past a page
	a.arg = 3
	seed("place", a) // and one whose is not
	a = four
	a.off, a.n, a.arg = int64(page), int64(page), 0
	seed("invalidate", a) // the locked page is before the range
	a.arg = 1
	seed("invalidate", a) // and in it
	a.arg = 2
	seed("invalidate", a) // and behind it
	a = four
	a.source, a.lead, a.n = sharedFile, 100, int64(page-100)
	seed("punch", a) // the file has other bytes before it, on the first page
	a.lead, a.size, a.n = 0, uint32(page+5), int64(page+5)
	seed("punch", a) // and here behind it, on the last
	a = four
	a.mask, a.reserve, a.off = 8, uint32(2*page), int64(5*page)
	seed("resize", a) // into the reserve, which becomes as the last page is
	a = four
	a.size, a.reserve, a.off = uint32(4*page-5), uint32(page), int64(4*page-5)
	seed("split", a) // the reserve cannot be divided from the last page
	a = four
	a.source, a.size, a.off = sharedMemory, 0, int64(page)
	seed("resize", a) // from nothing
	a.source = sharedFile
	seed("resize", a) // which has no source
	a.source, a.size, a.off = privateFile, uint32(page), 1<<40
	seed("resize", a) // farther than the file
	a.source, a.mask, a.other, a.size, a.off = privateMemory, 5, 1, uint32(4*page), int64(8*page)
	seed("resize", a) // of several areas

	if seeding() {
		random := rand.New(rand.NewPCG(4, 0))
		near := func(most int) int {
			return max(0, random.IntN(most+1)*page+[]int{0, 0, 0, 1, -1, 100, -100}[random.IntN(7)])
		}
		for range 60 * len(rangeOps) {
			a := rangeArgs{source: uint8(random.IntN(rangeSources)), prot: 3, size: uint32(near(4)), mask: uint16(random.Uint32() & random.Uint32()), other: uint8(random.IntN(8)),
				off: int64(near(4)), arg: uint8(random.Uint32()), known: random.IntN(4) == 0}
			if random.IntN(2) == 0 {
				a.lead = []uint16{1, 100, uint16(page - 1)}[random.IntN(3)]
			}
			if random.IntN(2) == 0 {
				a.reserve = uint32(near(2))
			}
			a.off = max(0, a.off-int64(random.IntN(2)*int(a.lead)))
			switch a.n = int64(near(3)); random.IntN(3) {
			case 0:
				a.n = int64(a.size) - a.off // to the end
			case 1:
				a.n = max(0, a.n-int64(a.lead)) // to a page boundary, from the start
			}
			seed(rangeOps[random.IntN(len(rangeOps))].name, a)
		}
	}

	fixed := &arenaTest{arena: newArena(f)}
	var err error
	if fixed.table, err = procmaps.Open(0); err != nil {
		f.Fatal(err)
	}
	fixed.bytes = make([]byte, (firstOfFile+mostPages+morePages+2)*page)
	for i := range fixed.bytes {
		fixed.bytes[i] = byte(i%251 + 1)
	}
	if fixed.file, err = mmap.Memfd("ranges", int64(len(fixed.bytes)), 0); err != nil {
		f.Fatal(err)
	}
	fixed.inode, fixed.dirty = inodeOf(f, fixed.table, fixed.file), true
	f.Cleanup(func() {
		fixed.table.Close()
		fixed.file.Close()
	})
	f.Fuzz(func(t *testing.T, op, source, prot, other uint8, mask uint16, size, reserve uint32, lead uint16, off, n int64, arg uint8, known bool) {
		a := rangeArgs{op % uint8(len(rangeOps)), source % rangeSources, prot % 8, other % 8, mask, size % uint32(mostPages*page+1),
			reserve % uint32(morePages*page+1), lead % uint16(min(page, 1<<15)), off, n, arg, known}
		if a.source < privateFile {
			a.lead = 0
		}
		switch o := rangeOps[a.op].name; {
		case int64(int(off)) != off && o != "read" && o != "write" || int64(int(n)) != n:
			t.Skip("wider than an int of this processor")
		case o == "resize" && sys.Race && off > 1<<40:
			t.Skip("it may reach the Go heap of a race build")
		}
		r := &rangeTest{arenaTest: fixed, rangeArgs: a, rangeOp: rangeOps[a.op], T: t}
		r.run()
	})
}

// A rangeTest is one execution of FuzzRanges.
type rangeTest struct {
	*testing.T
	*arenaTest
	rangeArgs
	rangeOp

	h           kinds.AnyHandle
	kind        *modelKind
	lead, len   int
	span        span
	data, pages int         // without and with the reserve
	prots       []mmap.Prot // of the data
	contents    []byte
	guards      []bool // pages that fault
	freed       []bool // pages whose contents can be gone
	before      pictured
}

func (r *rangeTest) isFile() bool { return r.source >= privateFile }
func (r *rangeTest) shared() bool { return r.source == sharedMemory || r.source == sharedFile }

// bytesOf returns where the bytes of pages [first, last) are in the mapping.
func (r *rangeTest) bytesOf(first, last int) (off, n int) {
	off = max(0, first*onePage-r.lead)
	return off, max(0, min(r.len, last*onePage-r.lead)-off)
}

// fileBytes returns what the file has for the mapping.
func (r *rangeTest) fileBytes() []byte {
	return r.bytes[firstOfFile*onePage+r.lead:][:r.len]
}

func (r *rangeTest) must(what string, err error) {
	r.Helper()
	if err != nil {
		r.Fatalf("%s: %v", what, err)
	}
}

// agrees fails unless err is one of the reasons or, without any, nil. It reports
// whether it is.
func (r *rangeTest) agrees(err error, reasons []error) bool {
	r.Helper()
	for _, reason := range reasons {
		if errors.Is(err, reason) {
			return false
		}
	}
	if err != nil || len(reasons) > 0 {
		r.Fatalf("%s of %d bytes at %d, of %d bytes with lead %d: %v, want %v", r.name, r.n, r.off, r.len, r.lead, err, reasons)
	}
	return true
}

func (r *rangeTest) run() {
	if r.feature != "" && mmap.Probe(r.feature) != nil {
		r.Skip(r.feature)
	}
	r.lead, r.len = int(r.rangeArgs.lead), int(r.size)
	capacity := r.len + int(r.reserve)
	r.data, r.pages = pagesFor(r.lead, r.len), pagesFor(r.lead, capacity)
	r.span = spanOf(r.lead, r.len, r.off, r.n)
	if r.dirty {
		_, err := r.file.WriteAt(r.bytes, 0)
		r.must("write", err)
		r.dirty = false
	}
	spec := mmap.Anonymous(r.len)
	if r.isFile() {
		spec = mmap.File(r.file, int64(firstOfFile*onePage+r.lead), r.len)
	}
	if r.shared() {
		spec = spec.Shared()
	}
	if r.reserve > 0 {
		spec = spec.Reserve(capacity)
	}
	u, err := mmap.MapUnknown(spec.At(r.arena.Page(firstPage)+uintptr(r.lead)), mmap.ProtRead|mmap.ProtWrite)
	r.must("map", err)
	r.h, r.kind = u, unknownKind
	defer func() {
		if err := r.h.Close(); err != nil {
			r.Error(err)
		}
		if r.picture(r.T, r.arena.Start) != (pictured{}) {
			r.Error("something is mapped after Close")
			r.arena = newArena(r)
		}
	}()
	r.prepare(u)
	r.before = r.picture(r.T, r.arena.Start)
	r.checkBefore()
	switch r.name {
	case "place":
		r.place()
	case "view", "update":
		r.view()
	case "read", "write":
		r.transfer()
	case "split":
		r.split()
	case "grow":
		r.grow()
	case "resize":
		r.resize()
	case "resident", "nodes":
		r.ask()
	default:
		r.within()
	}
	r.checkAccount()
}

// checkAccount compares what the library believes of each page with what the
// kernel has.
func (r *rangeTest) checkAccount() {
	if r.len = r.h.Len(); pagesFor(r.lead, r.len) > arenaPages-firstPage {
		return
	}
	pages := r.picture(r.T, r.h.Addr()-uintptr(r.lead)-uintptr(firstPage*onePage))
	u, ok := r.h.(mmap.Unknown)
	for i := range pagesFor(r.lead, r.len) {
		p := mmap.Prot(pages[firstPage+i].perms &^ procmaps.Shared)
		if !ok {
			if r.h.Prot() != p {
				r.Fatalf("after %s of %d bytes at %d: page %d is %v, of %v", r.name, r.n, r.off, i, p, r.h)
			}
			continue
		}
		off, n := r.bytesOf(i, i+1)
		view, update := u.ViewRange(off, n, idle), u.UpdateRange(off, n, idle)
		if (view == nil) != (p&mmap.ProtRead != 0) || (update == nil) != (p&3 == 3) {
			r.Fatalf("after %s of %d bytes at %d: page %d is %v, but %v, %v", r.name, r.n, r.off, i, p, view, update)
		}
	}
}

// idle is a view that looks at nothing.
func idle([]byte) error { return nil }

// prepare gives the mapping its contents and permissions.
func (r *rangeTest) prepare(u mmap.Unknown) {
	if r.contents = make([]byte, r.len); r.isFile() {
		copy(r.contents, r.fileBytes())
	}
	r.guards, r.freed = make([]bool, r.data), make([]bool, r.data)
	switch r.name {
	case "view", "update", "read", "write", "discard", "discard locked", "free", "punch", "guard", "remove guard":
		for i := range r.contents {
			r.contents[i] = byte(200 - i%193)
		}
		_, err := u.WriteAt(r.contents, 0)
		r.must("write", err)
		r.dirty = r.source == sharedFile
	case "resident", "nodes", "prefault", "prefault write":
		u.Advise(0, r.len, mmap.AdviceNoHugePage) // which not every kernel has
		for i := range r.data {
			if off, _ := r.bytesOf(i, i+1); r.arg>>(i%8)&1 != 0 {
				_, err := u.WriteAt([]byte{0}, int64(off))
				r.must("write", err)
				r.contents[off] = 0
				r.dirty = r.source == sharedFile
			}
		}
	}
	if r.name == "remove guard" {
		if err := u.InstallGuardPages(0, r.len); err != nil && r.source != privateMemory {
			r.Skip("no guard pages in files") // before Linux 6.15
		} else {
			r.must("guard pages", err)
		}
		r.drop(0, r.data)
		for i := range r.guards {
			r.guards[i] = true
		}
	}
	if lock := r.lockRange(); r.data > 0 && lock[1] > 0 {
		if err := u.LockOnFault(lock[0], lock[1]); err != nil {
			r.Skip("the limit of locked memory")
		}
	}
	switch r.name {
	case "protect", "place", "view", "update":
		r.known = false
	case "grow":
		r.known = true
	}
	r.prots = slices.Repeat([]mmap.Prot{mmap.Prot(r.prot)}, r.data)
	r.must("protect", u.Protect(mmap.Prot(r.prot)))
	for i := range r.prots {
		if !r.known && r.mask>>i&1 != 0 {
			off, n := r.bytesOf(i, i+1)
			r.prots[i] = mmap.Prot(r.other)
			r.must("protect", u.ProtectRange(off, n, r.prots[i]))
		}
	}
	if r.known {
		h, err := modelKinds[r.prot].Assert(u)
		r.must("assert", err)
		r.h, r.kind = h, modelKinds[r.prot]
	}
}

// lockedPage returns which page Invalidate is to find locked.
func (r *rangeTest) lockedPage() int { return int(r.arg) % max(r.data, 1) }

// lockRange returns the bytes that are to be locked before the operation.
func (r *rangeTest) lockRange() (is [2]int) {
	switch r.name {
	case "unlock":
		is[1] = r.len
	case "invalidate":
		is[0], is[1] = r.bytesOf(r.lockedPage(), r.lockedPage()+1)
	}
	return is
}

// drop does to the contents of pages what Discard does.
func (r *rangeTest) drop(first, last int) {
	off, n := r.bytesOf(first, last)
	switch r.source {
	case privateMemory:
		clear(r.contents[off : off+n])
	case privateFile:
		copy(r.contents[off:off+n], r.fileBytes()[off:])
	}
}

// checkBefore compares what was mapped with what was asked for.
func (r *rangeTest) checkBefore() {
	for i, p := range r.before {
		i -= firstPage
		if p.mapped != (i >= 0 && i < r.pages) {
			r.Fatalf("page %d: mapped %v, of %d", i, p.mapped, r.pages)
		}
		if !p.mapped {
			continue
		}
		want := procmaps.Perms(0)
		if i < r.data {
			want = procmaps.Perms(r.prots[i])
		}
		if r.shared() {
			want |= procmaps.Shared
		}
		if p.perms != want || r.isFile() && (p.inode != r.inode || p.offset != uint64((i+firstOfFile)*onePage)) {
			r.Fatalf("page %d is %+v, want %v", i, p, want)
		}
	}
}

// unchanged fails unless the kernel has what it had.
func (r *rangeTest) unchanged() {
	r.Helper()
	if after := r.picture(r.T, r.arena.Start); after != r.before {
		r.Fatalf("%s of %d bytes at %d changed%v\nto%v", r.name, r.n, r.off, r.before, after)
	}
}

// becomes fails unless the kernel has these pages, however divided.
func (r *rangeTest) becomes(want pictured) (after pictured) {
	r.Helper()
	after = r.picture(r.T, r.arena.Start)
	if uncut(after) != uncut(want) {
		r.Fatalf("%s of %d bytes at %d: got%v\nwant%v", r.name, r.n, r.off, after, want)
	}
	return after
}

// reasons are those not to touch the span.
func (r *rangeTest) reasons() (reasons []error) {
	because(&reasons, r.span.outside || r.whole && !r.span.whole, os.ErrInvalid)
	for _, p := range r.prots[r.span.first:r.span.last] {
		because(&reasons, p&r.need != r.need, mmap.ErrPermission)
	}
	return reasons
}

// within does what acts on the pages of a range.
func (r *rangeTest) within() {
	if _, ok := r.h.(destroyer); !ok && r.need&mmap.ProtWrite != 0 {
		return // which is seen at compile time
	}
	reasons, some := r.reasons(), r.span.first < r.span.last
	switch r.name {
	case "protect":
		because(&reasons, r.arg%10 > 7, os.ErrInvalid)
	case "invalidate":
		because(&reasons, r.span.first <= r.lockedPage() && r.lockedPage() < r.span.last, unix.EBUSY)
	case "lock":
		for _, p := range r.prots[r.span.first:r.span.last] {
			because(&reasons, p&(mmap.ProtRead|mmap.ProtWrite) == 0, mmap.ErrPermission)
		}
	case "collapse":
		// No huge page lies within.
		because(&reasons, some, unix.EINVAL)
		because(&reasons, some, errors.ErrUnsupported)
	case "free", "wipe on fork":
		because(&reasons, some && r.source != privateMemory, unix.EINVAL)
	case "punch":
		because(&reasons, some && !r.shared(), unix.EINVAL)
		because(&reasons, some && !r.shared(), unix.EACCES)
		because(&reasons, !(r.span.begins && r.span.ends) && r.isFile(), unix.EINVAL)
	}
	err := r.do(r.h, int(r.off), int(r.n), r.rangeArgs)
	if r.name == "guard" && r.source != privateMemory && len(reasons) == 0 && errors.Is(err, unix.EINVAL) {
		r.Skip("no guard pages in files") // before Linux 6.15
	}
	if (r.name == "lock" || r.name == "lock on fault") && len(reasons) == 0 && (errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EPERM)) {
		r.Skip("the limit of locked memory")
	}
	done := r.agrees(err, reasons) && some
	want, first, last := r.before, firstPage+r.span.first, firstPage+r.span.last
	switch {
	case !done || r.shows == unseen:
		r.unchanged()
	case r.shows == divides:
		after := r.becomes(want)
		for i, p := range after {
			// What is unlocked becomes like the reserve.
			end := i == last && (r.span.last < r.data || r.span.last < r.pages && r.name != "unlock")
			if (i == first || end) && !p.cut || i != first && i != last && p.cut && !want[i].cut {
				r.Fatalf("%s of %d bytes at %d: page %d begins an area: %v", r.name, r.n, r.off, i-firstPage, p.cut)
			}
		}
	case r.shows == replaces:
		for i := first; i < last; i++ {
			want[i].perms = want[i].perms&procmaps.Shared | procmaps.Perms(r.arg%10)
		}
		r.becomes(want)
	}
	if r.name == "prefault" || r.name == "prefault write" {
		r.checkResident(done)
	}
	if r.shows != loses {
		return
	}
	if done {
		switch r.name {
		case "punch":
			off, n := r.bytesOf(r.span.first, r.span.last)
			clear(r.contents[off : off+n])
			r.dirty = true
		case "free":
			for i := r.span.first; i < r.span.last; i++ {
				r.freed[i] = true
			}
		default:
			r.drop(r.span.first, r.span.last)
		}
		for i := r.span.first; i < r.span.last; i++ {
			r.guards[i] = r.name == "guard"
		}
	}
	r.checkContents()
}

// checkContents compares all contents, page by page.
func (r *rangeTest) checkContents() {
	r.Helper()
	if u, ok := r.h.(mmap.Unknown); ok {
		r.must("protect", u.Protect(mmap.ProtRead|mmap.ProtWrite))
	}
	reader, ok := r.h.(io.ReaderAt)
	if !ok {
		return
	}
	got := make([]byte, onePage)
	for i := range r.data {
		off, n := r.bytesOf(i, i+1)
		done, err := reader.ReadAt(got[:n], int64(off))
		switch {
		case r.guards[i]:
			if done != 0 || !errors.Is(err, mmap.ErrFault) {
				r.Fatalf("%s of %d bytes at %d: page %d can be touched: %v", r.name, r.n, r.off, i, err)
			}
		case err != nil:
			r.Fatalf("%s of %d bytes at %d: page %d: %v", r.name, r.n, r.off, i, err)
		case r.freed[i] && !bytes.ContainsFunc(got[:n], func(c rune) bool { return c != 0 }):
		case !bytes.Equal(got[:n], r.contents[off:off+n]):
			r.Fatalf("%s of %d bytes at %d: page %d has other contents", r.name, r.n, r.off, i)
		}
	}
}

// touched reports whether prepare has written to a page of anonymous memory.
func (r *rangeTest) touched(i int) bool { return r.arg>>(i%8)&1 != 0 }

// checkResident compares which pages of anonymous memory are there, after the
// span was prefaulted.
func (r *rangeTest) checkResident(done bool) {
	pages, err := r.h.ResidentPages(0, r.len)
	if err != nil || len(pages) != r.data {
		r.Fatalf("%d of %d pages, %v", len(pages), r.data, err)
	}
	for i, in := range pages {
		if want := r.touched(i) || done && r.span.first <= i && i < r.span.last; !r.isFile() && in != want {
			r.Fatalf("%s of %d bytes at %d: page %d is in memory: %v", r.name, r.n, r.off, i, in)
		}
	}
}

// ask does what answers for each page.
func (r *rangeTest) ask() {
	off, n := int(r.off), int(r.n)
	var is []bool
	if r.name == "nodes" {
		nodes, err := r.h.Nodes(off, n)
		r.agrees(err, r.reasons())
		for _, node := range nodes {
			is = append(is, node >= 0)
		}
	} else {
		sum, err := r.h.Resident(off, n)
		r.agrees(err, r.reasons())
		is, err = r.h.ResidentPages(off, n)
		r.agrees(err, r.reasons())
		for _, in := range is {
			if in {
				sum -= onePage
			}
		}
		if sum != 0 {
			r.Fatalf("Resident and ResidentPages of %d bytes at %d differ by %d bytes", n, off, sum)
		}
	}
	if len(is) != r.span.last-r.span.first {
		r.Fatalf("%s of %d bytes at %d: %d pages, want %d", r.name, n, off, len(is), r.span.last-r.span.first)
	}
	for i, in := range is {
		if i += r.span.first; in != r.touched(i) && !r.isFile() {
			r.Fatalf("%s of %d bytes at %d: page %d is %v", r.name, n, off, i, in)
		}
	}
	r.unchanged()
}

// place maps n bytes inside. arg says what: a file, at an offset that does not
// fit, and with which permissions.
func (r *rangeTest) place() {
	p, lead := mmap.Prot(r.arg>>2%9), int64(0)
	spec, inode := mmap.Anonymous(int(r.n)), uint64(0)
	past := new(big.Int).Add(big.NewInt(int64(r.lead)), big.NewInt(r.off))
	past.Mod(past, big.NewInt(int64(onePage)))
	if r.arg&1 != 0 {
		if r.arg&2 == 0 {
			lead = past.Int64()
		}
		spec, inode = mmap.File(r.file, int64(2*onePage)+lead, int(r.n)), r.inode
	}
	var reasons []error
	fits := past.Cmp(big.NewInt(lead)) == 0 && (r.span.ends || int64(r.len)-r.off == r.n)
	because(&reasons, r.span.outside || p > 7 || r.n > 0 && !fits, os.ErrInvalid)
	because(&reasons, r.arg&1 != 0 && r.n > math.MaxInt64-int64(3*onePage), unix.EOVERFLOW)
	err := r.h.(mmap.Unknown).Place(int(r.off), spec, p)
	if !r.agrees(err, reasons) {
		r.unchanged()
		return
	}
	want := r.before
	for i := r.span.first; i < r.span.last; i++ {
		q := pageState{mapped: true, perms: procmaps.Perms(p), inode: inode}
		if inode != 0 {
			q.offset = uint64((2 + i - r.span.first) * onePage)
		}
		want[firstPage+i] = q
	}
	r.becomes(want)
}

// view does ViewRange and UpdateRange.
func (r *rangeTest) view() {
	u, called := r.h.(mmap.Unknown), false
	do := u.ViewRange
	if r.name == "update" {
		do = u.UpdateRange
	}
	err := do(int(r.off), int(r.n), func(b []byte) error {
		called = true
		if len(b) != int(r.n) || cap(b) != len(b) {
			r.Fatalf("a view of %d bytes has len %d, cap %d", r.n, len(b), cap(b))
		}
		if len(b) > 0 && reflect.ValueOf(b).Pointer() != r.h.Addr()+uintptr(r.off) {
			r.Fatalf("a view at %d is elsewhere", r.off)
		}
		if !bytes.Equal(b, r.contents[r.off:r.off+r.n]) {
			r.Fatalf("a view of %d bytes at %d has other contents", r.n, r.off)
		}
		if r.name == "update" {
			for i := range b {
				b[i] ^= 0xff
				r.contents[int(r.off)+i] ^= 0xff
			}
		}
		return nil
	})
	if r.agrees(err, r.reasons()) != called {
		r.Fatalf("called: %v, %v", called, err)
	}
	r.unchanged()
	r.checkContents()
}

// transfer does ReadAt and WriteAt.
func (r *rangeTest) transfer() {
	buf := bytes.Repeat([]byte{0xa5}, int(min(max(r.n, 0), int64((mostPages+2)*onePage))))
	// How much there is from off on, and how much of that is allowed.
	there := new(big.Int).Sub(big.NewInt(int64(r.len)), big.NewInt(r.off))
	want, reasons := 0, []error(nil)
	switch {
	case r.off < 0:
		reasons = []error{os.ErrInvalid}
	case len(buf) == 0:
	case there.Cmp(big.NewInt(int64(len(buf)))) >= 0:
		want = len(buf)
	default:
		want = int(max(there.Int64(), 0))
		reasons = []error{io.EOF}
		if r.name == "write" {
			reasons = []error{io.ErrShortWrite}
		}
	}
	for i := int64(0); i < int64(want); i++ {
		if p := r.prots[(int64(r.lead)+r.off+i)/int64(onePage)]; p&r.need == 0 {
			want, reasons = int(i), []error{mmap.ErrPermission}
		}
	}
	var n int
	var err error
	if r.name == "read" {
		h, ok := r.h.(io.ReaderAt)
		if !ok {
			return
		}
		if n, err = h.ReadAt(buf, r.off); n == want && want > 0 && !bytes.Equal(buf[:n], r.contents[r.off:][:n]) {
			r.Fatalf("%d bytes read at %d differ", n, r.off)
		}
		if bytes.ContainsFunc(buf[min(n, len(buf)):], func(c rune) bool { return c != 0xfffd }) {
			r.Fatalf("a read of %d bytes at %d has changed more than %d", len(buf), r.off, n)
		}
	} else {
		h, ok := r.h.(io.WriterAt)
		if !ok {
			return
		}
		if n, err = h.WriteAt(buf, r.off); want > 0 {
			copy(r.contents[r.off:], buf[:want])
		}
	}
	if r.agrees(err, reasons); n != want {
		r.Fatalf("%s of %d bytes at %d: %d, want %d", r.name, len(buf), r.off, n, want)
	}
	r.unchanged()
	r.checkContents()
}

// split divides at off, and joins again.
func (r *rangeTest) split() {
	s := spanOf(r.lead, r.len, 0, r.off)
	var reasons []error
	because(&reasons, s.outside || !s.whole || !s.ends && r.reserve > 0 && r.off > 0, os.ErrInvalid)
	left, right, err := r.kind.Split(r.h, int(r.off))
	if r.agrees(err, reasons) {
		off, capacity := int(r.off), r.len+int(r.reserve)
		addr := r.arena.Page(firstPage) + uintptr(r.lead)
		inert(r, r.h, mmap.ErrMoved)
		if left.Addr() != addr || left.Len() != off || left.Cap() != off ||
			right.Addr() != addr+uintptr(off) || right.Len() != r.len-off || right.Cap() != capacity-off {
			r.Fatalf("split of %d bytes (%d) at %d: %v (%d) and %v (%d)", r.len, capacity, off, left, left.Cap(), right, right.Cap())
		}
		r.unchanged()
		if r.h, err = r.kind.Join(left, right); err != nil {
			r.Fatalf("join after split of %d bytes at %d: %v", r.len, off, err)
		}
	}
	if r.h.Len() != r.len || r.h.Cap() != r.len+int(r.reserve) {
		r.Fatalf("%v, Cap %d", r.h, r.h.Cap())
	}
	r.unchanged()
}

// grow makes the mapping off bytes long.
func (r *rangeTest) grow() {
	var reasons []error
	capacity := r.len + int(r.reserve)
	because(&reasons, r.off < int64(r.len), os.ErrInvalid)
	because(&reasons, r.off > int64(capacity), mmap.ErrCapacity)
	if !r.agrees(r.kind.Grow(r.h, int(r.off)), reasons) {
		r.unchanged()
		return
	}
	want := r.before
	for i := r.data; i < pagesFor(r.lead, int(r.off)); i++ {
		want[firstPage+i].perms |= procmaps.Perms(r.prot)
	}
	r.becomes(want)
	if r.h.Len() != int(r.off) || r.h.Cap() != capacity {
		r.Fatalf("%v, Cap %d, after growth to %d", r.h, r.h.Cap(), r.off)
	}
}

// resize makes the mapping off bytes long, and may move it.
func (r *rangeTest) resize() {
	const huge = 1 << 24
	want := 0
	if r.off <= huge {
		want = pagesFor(r.lead, int(max(r.off, 0)))
	}
	var reasons []error
	grows := r.off > huge || want > r.pages
	because(&reasons, r.off < 0, os.ErrInvalid)
	because(&reasons, grows && (r.data == 0 && r.isFile() || r.data > 0 && r.source == sharedMemory), os.ErrInvalid)
	old := r.h.Addr()
	next, err := r.kind.Resize(r.h, int(r.off))
	if err != nil && r.off > huge {
		reasons = append(reasons, unix.ENOMEM, unix.EINVAL)
	}
	if !r.agrees(err, reasons) {
		if next != r.h {
			r.Fatalf("a failed Resize returns %v", next)
		}
		r.unchanged()
		return
	}
	inert(r, r.h, mmap.ErrMoved)
	r.h = next
	if next.Len() != int(r.off) || next.Cap() != int(r.off) || next.Addr()%uintptr(onePage) != old%uintptr(onePage) || !grows && next.Addr() != old {
		t := [2]uintptr{old, next.Addr()}
		r.Fatalf("%v, Cap %d, from %#x, after a resize to %d", next, next.Cap(), t, r.off)
	}
	if r.off > huge {
		return
	}
	pages := r.before
	last := procmaps.Perms(r.prot)
	if r.data > 0 {
		last = procmaps.Perms(r.prots[r.data-1])
	}
	clear(pages[firstPage+min(r.data, want):])
	for i := min(r.data, want); i < want; i++ {
		// As far as it has been mapped from the start it is the same object.
		q := pageState{mapped: true, perms: last, inode: r.before[firstPage].inode}
		if r.shared() {
			q.perms |= procmaps.Shared
		}
		if q.inode != 0 {
			q.offset = r.before[firstPage].offset + uint64(i*onePage)
		}
		pages[firstPage+i] = q
	}
	after := r.picture(r.T, next.Addr()-uintptr(r.lead)-uintptr(firstPage*onePage))
	for i := range pages {
		// Elsewhere others are around it; and new shared memory is another object.
		if i < firstPage || i >= firstPage+want {
			if next.Addr() != old {
				after[i] = pageState{}
			}
		} else if r.data == 0 && grows && r.shared() {
			pages[i].inode, pages[i].offset = after[i].inode, after[i].offset
		}
	}
	if uncut(after) != uncut(pages) {
		r.Fatalf("resize to %d: got%v\nwant%v", r.off, after, pages)
	}
	if next.Addr() != old && r.picture(r.T, r.arena.Start) != (pictured{}) {
		r.Fatal("something is left at the old place")
	}
}

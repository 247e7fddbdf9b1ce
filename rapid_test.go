//go:build linux

package mmap_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/kinds"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// TestOperations runs random sequences of operations beside a model, and after
// each compares the model with the kernel's table and with the contents.
func TestOperations(t *testing.T) {
	// One check is 100 sequences; this takes seconds, and finds what one in a
	// thousand sequences shows.
	rounds := 24
	if testing.Short() {
		rounds = 4
	}
	actions := 0
	for range rounds {
		rapid.Check(t, operationsAnd(t, nil, &actions))
	}
	t.Logf("%d actions", actions)
}

// operations returns the property of [TestOperations] and [FuzzOperations].
func operations(tb testing.TB) func(*rapid.T) { return operationsAnd(tb, nil, new(int)) }

// operationsAnd has an action more, and adds the number of all that it runs to
// done.
func operationsAnd(tb testing.TB, more func(m *machine) (name string, action func(*rapid.T)), done *int) func(*rapid.T) {
	table, err := procmaps.Open(0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { table.Close() })
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { smaps.Close() })
	pagemap, err := os.Open("/proc/self/pagemap")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { pagemap.Close() })
	arena, dir := newArena(tb), tb.TempDir()
	return func(t *rapid.T) {
		m := &machine{table: table, smaps: smaps, pagemap: pagemap, arena: arena, t: t, limit: lockLimit}
		defer func() {
			*done += m.actions
			if m.end(); areas(t, table, arena.Start, arena.End) > 0 {
				arena = newArena(t) // a failed run or Seal has left pages in the old one
			}
		}()
		m.openFiles(dir)
		actions := map[string]func(*rapid.T){
			"":           m.check,
			"map":        m.mapNew,
			"map more":   m.mapNew, // twice as often as the rest
			"protect":    m.on(anyKind, m.protect),
			"range":      m.on(unknown, m.protectRange),
			"range more": m.on(unknown, m.protectRange), // a patchwork takes several
			"place":      m.on(unknown, m.place),
			"place more": m.on(unknown, m.place),
			"deny":       m.on(unknown, m.deny),
			"over":       m.on(anyKind, m.over),
			"resize":     m.on(anyKind, m.resize),
			"move":       m.on(anyKind, m.move),
			"advise":     m.on(anyKind, m.advise),
			"destroy":    m.on(writable, m.destroy),
			"lose":       m.on(anyKind, m.lose),
			"prefault":   m.on(anyKind, m.prefault),
			"grow":       m.on(anyKind, m.grow),
			"split":      m.on(anyKind, m.split),
			"join":       m.on(anyKind, m.join),
			"forget":     m.on(known, m.forget),
			"assert":     m.on(unknown, m.assert),
			"adopt":      m.on(anyKind, m.releaseAndAdopt),
			"drain":      m.on(anyKind, m.drain),
			"close":      m.on(anyKind, m.close),
			"pin":        m.on(anyKind, m.pin),
			"unpin":      m.unpin,
			"read":       m.on(readable, m.read),
			"write":      m.on(writable, m.write),
			"view":       m.on(readable, m.view),
			"update":     m.on(updatable, m.update),
			"stale":      m.useStale,
			"truncate":   m.truncate,
			"flicker":    m.on(readable, m.flicker),
			"write file": m.writeFile,
		}
		if more != nil {
			name, action := more(m)
			actions[name] = action
		}
		t.Repeat(actions)
		m.done = true
	}
}

// A machine is the model of all mappings of one run.
type machine struct {
	table   *procmaps.Table
	smaps   *os.File
	pagemap *os.File
	arena   arena
	t       *rapid.T
	files   []modelFile
	regions []*modelRegion
	stale   []staleHandle
	actions int
	limit   uint64 // of locked memory, in bytes; 0: none
	done    bool   // nothing has failed
}

type modelFile struct {
	f, readOnly *os.File
	object      *modelObject
}

type staleHandle struct {
	h    kinds.AnyHandle
	kind *modelKind
	err  error
}

// openFiles makes a file with a name and one without.
func (m *machine) openFiles(dir string) {
	const pages = 5
	add := func(f *os.File, err error) *modelObject {
		if err != nil {
			m.t.Fatalf("file: %v", err)
		}
		// A private descriptor for reading only makes pages that can never be
		// shared and writable.
		ro, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		if err != nil {
			m.t.Fatalf("file: %v", err)
		}
		o := &modelObject{data: make([]byte, pages*onePage)}
		m.files = append(m.files, modelFile{f, ro, o})
		for i := range o.data {
			o.data[i] = byte(i/onePage*16 + i%13 + 1)
		}
		if _, err := f.WriteAt(o.data, 0); err != nil {
			m.t.Fatalf("file: %v", err)
		}
		o.inode = inodeOf(m.t, m.table, f)
		return o
	}
	f, err := os.CreateTemp(dir, "model")
	o := add(f, err)
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err := errors.Join(unix.Fstat(int(f.Fd()), &st), unix.Fstatfs(int(f.Fd()), &fs)); err != nil {
		m.t.Fatalf("stat: %v", err)
	}
	o.proven, o.noExec = st.Ino == o.inode && unix.Major(uint64(st.Dev)) != 0, fs.Flags&unix.ST_NOEXEC != 0
	add(mmap.Memfd("model", 0, 0))
}

// end closes everything, and looks whether that left anything.
func (m *machine) end() {
	for _, r := range m.regions {
		r.pin.Unpin()
		if !r.closing && !r.sealed {
			if err := r.h.Close(); err != nil && m.done {
				m.t.Fatal(err)
			}
		}
	}
	m.regions = slices.DeleteFunc(m.regions, func(r *modelRegion) bool { return !r.sealed })
	for _, f := range m.files {
		f.f.Close()
		f.readOnly.Close()
		os.Remove(f.f.Name())
	}
	if m.done {
		m.compare(m.t)
	}
}

// check is the invariant.
func (m *machine) check(t *rapid.T) {
	m.actions++
	for _, r := range m.regions {
		if r.closing {
			inert(t, r.h, mmap.ErrClosed)
		} else {
			m.checkHandle(t, r)
		}
		m.checkPin(t, r)
		m.settle(t, r, func(p *modelPage) bool {
			return p.attributes&(locked|lockedOnFault) == locked || p.attributes&unsaid != 0
		})
	}
	for _, s := range m.stale {
		inert(t, s.h, s.err)
	}
	for _, f := range m.files {
		got := make([]byte, len(f.object.data)+1)
		if n, err := f.f.ReadAt(got, 0); err != io.EOF || !bytes.Equal(got[:n], f.object.data) {
			t.Fatalf("%s: %d bytes, %v, want %d", f.f.Name(), n, err, len(f.object.data))
		}
	}
	m.compare(t)
	if m.actions%4 == 0 { // dear, and what differs goes on to differ
		m.compareAttributes(t)
	}
}

func (m *machine) checkHandle(t *rapid.T, r *modelRegion) {
	if r.h.Len() != r.len || r.h.Cap() != r.cap || r.h.Addr() != r.addr {
		t.Fatalf("%v: Len %d, Cap %d, Addr %#x, want %d, %d, %#x", r.h, r.h.Len(), r.h.Cap(), r.h.Addr(), r.len, r.cap, r.addr)
	}
	switch {
	case !r.kind.Unknown:
		r.prot = r.kind.Prot
		for i, p := range r.pages[:r.data()] {
			if p.prot != r.kind.Prot {
				t.Fatalf("model: page %d of a %s is %v", i, r.kind.Name, p.prot)
			}
		}
		fallthrough
	case r.data() > 0:
		if r.h.Prot() != r.allows() {
			t.Fatalf("%v: Prot %v, want %v", r.h, r.h.Prot(), r.allows())
		}
	default:
		r.prot = r.h.Prot() // of no pages any answer is true
	}
	if u, ok := r.h.(mmap.Unknown); ok {
		for off := 0; off < r.len; off += onePage {
			n := min(2*onePage, r.len-off)
			want, pages := mmap.ProtRead|mmap.ProtWrite|mmap.ProtExec, r.pages[(r.lead()+off)/onePage:r.pagesFor(off+n)]
			for _, p := range pages {
				want &= p.prot
			}
			if got := u.ProtOf(off, n); got != want {
				t.Fatalf("%v: ProtOf(%d, %d) is %v, want %v", u, off, n, got, want)
			}
		}
	}
	if _, ok := r.h.(io.ReaderAt); ok {
		for off := 0; off < r.len; off += onePage - (r.lead()+off)%onePage {
			m.readAt(t, r, off, min(onePage-(r.lead()+off)%onePage, r.len-off))
		}
	}
}

// checkPin compares the slice of a pin with the model.
func (m *machine) checkPin(t *rapid.T, r *modelRegion) {
	if r.pin == nil || r.data() == 0 {
		return
	}
	b := r.pin.Bytes()
	if r.allows()&mmap.ProtRead == 0 {
		if b != nil {
			t.Fatalf("%v: a pin lends what cannot be read", r.h)
		}
		return
	}
	m.find(t, r, b)
	if len(b) != r.len || cap(b) != r.len {
		t.Fatalf("%v: a pin's slice has len %d, cap %d, want %d", r.h, len(b), cap(b), r.len)
	}
	m.compareSlice(t, r, 0, b, func(f func() error) error { return mmap.Guard(f, r.pin) })
}

// find looks for the mapping of the bytes of r, and of a part of them.
func (m *machine) find(t *rapid.T, r *modelRegion, b []byte) {
	for _, at := range []int{0, len(b) / 2, len(b) - 1} {
		if len(b) == 0 {
			break
		}
		h, off, ok := mmap.Find(b[at:])
		if ok == r.closing || ok && (off != at || h != r.h.Untyped()) {
			t.Fatalf("%v: Find at %d: %v at %d, %v; closed: %v", r.h, at, h, off, ok, r.closing)
		}
	}
	if _, _, ok := mmap.Find(b[:0]); ok {
		t.Fatalf("%v: nothing is found in it", r.h)
	}
}

// compareSlice compares b, the bytes of r at off, inside guard.
func (m *machine) compareSlice(t *rapid.T, r *modelRegion, off int, b []byte, guard func(func() error) error) {
	want, wrong := make([]byte, len(b)), -1
	n, reason := r.transfer(off, len(b), mmap.ProtRead, func(p *modelPage, at, done, size int) {
		copy(want[done:], p.contents()[at:at+size])
	})
	err := guard(func() error {
		if !bytes.Equal(b[:n], want[:n]) {
			wrong = n
		} else if n < len(b) && b[n] == 0 { // the load is what matters
			wrong = n
		}
		return nil
	})
	if wrong >= 0 {
		t.Fatalf("%v: contents at %d differ", r.h, off)
	}
	m.expectFault(t, r, err, reason, off+n)
}

// expectFault checks the error of an access against the model's reason.
func (m *machine) expectFault(t *rapid.T, r *modelRegion, err, reason error, off int) {
	switch {
	case reason == nil || errors.Is(reason, mmap.ErrPermission) || reason == io.EOF:
		if reason == nil && err != nil || !errors.Is(err, reason) {
			t.Fatalf("%v at %d: %v, want %v", r.h, off, err, reason)
		}
		return
	}
	fault := (*mmap.FaultError)(nil)
	if !errors.As(err, &fault) || !errors.Is(err, mmap.ErrFault) || !errors.Is(err, reason) {
		t.Fatalf("%v at %d: %v, want a fault, %v", r.h, off, err, reason)
	}
	if fault.Offset != off || fault.Addr-(r.addr+uintptr(off))&^uintptr(onePage-1) >= uintptr(onePage) {
		t.Fatalf("%v: fault at offset %d, address %#x, want offset %d", r.h, fault.Offset, fault.Addr, off)
	}
}

// compare compares every page of every mapping, and the rest of the arena, with
// the kernel's table. The kernel merges neighbours, so this goes by pages.
func (m *machine) compare(t *rapid.T) {
	owner := map[uintptr]*modelRegion{}
	for _, r := range m.regions {
		seen := 0
		walk(t, m.table, r.base(), r.end(), func(at uintptr, area procmaps.Region) {
			p := &r.pages[(at-r.base())/uintptr(onePage)]
			if owner[at] != nil {
				t.Fatalf("page %#x belongs to %v and to %v", at, owner[at].h, r.h)
			}
			owner[at] = r
			seen++
			want := procmaps.Perms(p.prot)
			if p.shared {
				want |= procmaps.Shared
			}
			if area.Perms != want {
				t.Fatalf("%v: page %#x is %v, want %v", r.h, at, area.Perms, want)
			}
			var inode, offset uint64
			if p.object != nil {
				if p.object.inode == 0 {
					p.object.inode = area.Inode
				}
				inode, offset = p.object.inode, uint64(p.index*onePage)
			}
			if area.Inode != inode || inode != 0 && area.Offset+uint64(at)-area.Start != offset {
				t.Fatalf("%v: page %#x is inode %d from %#x at %#x, want inode %d, %#x", r.h, at, area.Inode, area.Offset, area.Start, inode, offset)
			}
		})
		if seen != len(r.pages) {
			t.Fatalf("%v: %d pages are mapped, want %d", r.h, seen, len(r.pages))
		}
	}
	walk(t, m.table, m.arena.Start, m.arena.End, func(at uintptr, area procmaps.Region) {
		if owner[at] == nil {
			t.Fatalf("page %#x is mapped, and nobody's: %v", at, area)
		}
	})
}

// expect checks the outcome of an operation: one of the reasons, or, if there
// are none, success, which it reports.
func expect(t *rapid.T, err error, reasons []error) bool {
	t.Helper()
	for _, reason := range reasons {
		if errors.Is(err, reason) {
			if reason == os.ErrInvalid && !errors.Is(err, unix.EINVAL) {
				t.Fatalf("%v is no EINVAL", err)
			}
			return false
		}
	}
	if len(reasons) > 0 {
		t.Fatalf("got %v, want %v", err, reasons)
	}
	if err != nil {
		t.Fatal(err)
	}
	return true
}

// because adds a reason to fail.
func because(reasons *[]error, yes bool, reason error) {
	if yes {
		*reasons = append(*reasons, reason)
	}
}

// busy is the reason why a region allows no transition, if there is one.
func (r *modelRegion) busy() (reasons []error) {
	because(&reasons, r.pin != nil, mmap.ErrBusy)
	return reasons
}

// unchangeable adds to that what a seal forbids.
func (r *modelRegion) unchangeable() []error {
	reasons := r.busy()
	because(&reasons, r.sealed, mmap.ErrSealed)
	return reasons
}

// on makes an action of one that is for an open mapping of some of the kinds.
// Where there is none it makes one: a stream that a fuzzer chose can ask for the
// impossible again and again, which rapid takes for an error in the test.
func (m *machine) on(of func(*modelKind) bool, action func(*rapid.T, *modelRegion)) func(*rapid.T) {
	return func(t *rapid.T) {
		var some []*modelRegion
		for _, r := range m.regions {
			if !r.closing && of(r.kind) {
				some = append(some, r)
			}
		}
		if len(some) == 0 {
			m.mapNew(t)
			return
		}
		action(t, some[rapid.IntRange(0, len(some)-1).Draw(t, "region")])
	}
}

// makeRoom closes a mapping where there are too many.
func (m *machine) makeRoom(t *rapid.T) {
	if len(m.regions) < most {
		return
	}
	open := slices.DeleteFunc(slices.Clone(m.regions), func(r *modelRegion) bool { return r.sealed && r.cap > 0 })
	r := open[rapid.IntRange(0, len(open)-1).Draw(t, "superfluous")]
	r.pin.Unpin()
	if r.pin = nil; r.closing {
		m.remove(r)
	} else {
		m.close(t, r)
	}
}

// retire notes that a region's handle is consumed, and has a successor.
func (m *machine) retire(r *modelRegion, kind *modelKind, next kinds.AnyHandle) {
	m.bury(r, mmap.ErrMoved)
	r.h, r.kind = next, kind
}

func (m *machine) bury(r *modelRegion, err error) {
	if m.stale = append(m.stale, staleHandle{r.h, r.kind, err}); len(m.stale) > 6 {
		m.stale = m.stale[1:]
	}
}

func (m *machine) remove(gone *modelRegion) {
	for i, r := range m.regions {
		if r == gone {
			m.regions = append(m.regions[:i:i], m.regions[i+1:]...)
		}
	}
}

func (m *machine) free(start, end uintptr) bool {
	for _, r := range m.regions {
		if len(r.pages) > 0 && start < r.end() && r.base() < end {
			return false
		}
	}
	return true
}

func drawProt(t *rapid.T) mmap.Prot {
	// The eighth bit is no permission.
	return rapid.SampledFrom([]mmap.Prot{0, 1, 2, 3, 4, 5, 6, 7, 3, 3, 1, 8}).Draw(t, "prot")
}

func drawKind(t *rapid.T) *modelKind {
	return modelKinds[rapid.SampledFrom([]mmap.Prot{0, 1, 2, 3, 4, 5, 6, 7, 3, 3, 1}).Draw(t, "kind")]
}

func drawSize(t *rapid.T, most int) int {
	n := rapid.IntRange(0, most).Draw(t, "pages")*onePage + rapid.SampledFrom([]int{0, 0, 0, -1, 1, 17 - onePage}).Draw(t, "bytes")
	return max(0, n)
}

// drawOffset draws an offset in the mapping, mostly a page boundary.
func (r *modelRegion) drawOffset(t *rapid.T) int {
	switch rapid.IntRange(0, 9).Draw(t, "offset kind") {
	case 0:
		return rapid.IntRange(0, r.len).Draw(t, "offset")
	case 1:
		return rapid.SampledFrom([]int{-1, -onePage, r.len + 1, r.len + onePage, int(^uint(0) >> 1)}).Draw(t, "offset")
	case 2:
		return r.len
	}
	return max(0, rapid.IntRange(0, r.data()).Draw(t, "page")*onePage-r.lead())
}

// drawSource draws what to map. lead is how far past a page it begins, if not
// negative.
func (m *machine) drawSource(t *rapid.T, size, lead int) (s modelSource) {
	s.size = size
	s.shared = rapid.Bool().Draw(t, "shared")
	if which := rapid.IntRange(-1, len(m.files)-1).Draw(t, "file"); which < 0 {
		s.spec = mmap.Anonymous(size)
		if !s.shared && mmap.Probe("MAP_DROPPABLE") == nil && rapid.IntRange(0, 2).Draw(t, "droppable") == 0 {
			s.spec, s.droppable = s.spec.Droppable(), true
		}
	} else {
		f := m.files[which]
		s.object, s.index = f.object, rapid.IntRange(0, 6).Draw(t, "file page")
		s.readOnly = rapid.Bool().Draw(t, "read-only")
		if s.lead = lead; lead < 0 {
			s.lead = rapid.SampledFrom([]int{0, 0, 0, 1, 100, onePage - 1}).Draw(t, "lead")
		}
		file := f.f
		if s.readOnly {
			file = f.readOnly
		}
		if at := int64(s.index*onePage + s.lead); rapid.Bool().Draw(t, "by descriptor") {
			s.spec = mmap.FD(int(file.Fd()), at, size)
		} else {
			s.spec = mmap.File(file, at, size)
		}
	}
	if s.shared {
		s.spec = s.spec.Shared()
	}
	return s
}

const most = 8 // mappings at a time

func (m *machine) mapNew(t *rapid.T) {
	m.makeRoom(t)
	kind, p := drawKind(t), mmap.ProtNone
	if rapid.IntRange(0, 2).Draw(t, "unknown") == 0 {
		kind, p = unknownKind, drawProt(t)
	} else {
		p = kind.Prot
	}
	s := m.drawSource(t, drawSize(t, 5), -1)
	r := &modelRegion{kind: kind, len: s.size, cap: s.size, prot: p, more: s.more()}
	var reasons []error
	spec := s.spec
	if rapid.IntRange(0, 2).Draw(t, "reserve") == 0 {
		r.cap += rapid.IntRange(-1, 3*onePage).Draw(t, "reserve size")
		spec = spec.Reserve(r.cap)
		because(&reasons, r.cap < s.size, os.ErrInvalid)
	}
	data, whole := pagesFor(s.lead, s.size), pagesFor(s.lead, r.cap)
	align := 0
	if rapid.IntRange(0, 5).Draw(t, "align") == 0 {
		align = rapid.SampledFrom([]int{onePage, 4 * onePage, 16 * onePage, 3, 1}).Draw(t, "alignment")
		spec = spec.Align(align)
		because(&reasons, align == 3 || s.lead%align != 0, os.ErrInvalid)
	}
	start := m.arena.Page(rapid.IntRange(0, arenaPages-max(whole, 0)).Draw(t, "arena page"))
	empty := m.free(start, start+uintptr(max(whole, 1)*onePage))
	where := rapid.SampledFrom([]string{"at", "at", "at", "at", "near", "onto", "anywhere", "twice"}).Draw(t, "where")
	at := start + uintptr(s.lead)
	if where == "onto" && !empty {
		where = "at" // what lies under UnsafeOnto is the caller's duty
	}
	switch where {
	case "at", "onto":
		r.kept = where == "onto"
		if rapid.IntRange(0, 19).Draw(t, "misplace") == 0 {
			at++
			reasons = append(reasons, os.ErrInvalid)
		}
		if where == "at" {
			spec = spec.At(at)
			because(&reasons, whole > 0 && !empty, os.ErrExist)
		} else {
			spec = spec.UnsafeOnto(at)
		}
		because(&reasons, align > 0 && at%uintptr(align) != 0, os.ErrInvalid)
	case "near":
		spec = spec.Near(start + 5)
	case "twice":
		spec = spec.Near(start).At(at)
		reasons = append(reasons, os.ErrInvalid)
	}
	r.pages = s.pages(max(whole, 0))
	because(&reasons, p > 7, os.ErrInvalid)
	because(&reasons, refused(r.pages[:min(data, len(r.pages))], p), mmap.ErrPermission)
	var err error
	r.h, err = kind.Create(spec, p)
	if !expect(t, err, reasons) {
		inert(t, r.h, mmap.ErrClosed)
		return
	}
	r.room = whole - data
	protect(r.pages[:data], p)
	r.addr = r.h.Addr()
	switch {
	case r.lead() != s.lead:
		t.Fatalf("%v is at %#x, want it %d past a page", spec, r.addr, s.lead)
	case (where == "at" || where == "onto" || where == "near" && empty && whole > 0 && align <= onePage) && r.addr != at:
		t.Fatalf("%v is at %#x", spec, r.addr)
	case whole > 0 && align > 0 && r.addr%uintptr(align) != 0:
		t.Fatalf("%v is at %#x, not aligned", spec, r.addr)
	}
	m.regions = append(m.regions, r)
}

func (m *machine) protect(t *rapid.T, r *modelRegion) {
	reasons := r.unchangeable()
	pages := r.pages[:r.data()]
	if r.kind.Unknown && rapid.Bool().Draw(t, "in place") {
		p := drawProt(t)
		because(&reasons, p > 7, os.ErrInvalid)
		because(&reasons, refused(pages, p), mmap.ErrPermission)
		if expect(t, r.h.(mmap.Unknown).Protect(p), reasons) {
			protect(pages, p)
		}
		return
	}
	k := drawKind(t)
	because(&reasons, refused(pages, k.Prot), mmap.ErrPermission)
	next, err := k.Protect(r.h)
	if !expect(t, err, reasons) {
		inert(t, next, mmap.ErrClosed)
		return
	}
	protect(pages, k.Prot)
	m.retire(r, k, next)
}

func (m *machine) protectRange(t *rapid.T, r *modelRegion) {
	off, p := r.drawOffset(t), drawProt(t)
	end := r.drawOffset(t)
	n := end - off
	reasons := r.unchangeable()
	because(&reasons, p > 7, os.ErrInvalid)
	var pages []modelPage
	switch {
	case off < 0 || n < 0 || off > r.len || n > r.len-off:
		reasons = append(reasons, os.ErrInvalid)
	case n == 0:
	case off > 0 && !r.boundary(off), end < r.len && !r.boundary(end):
		reasons = append(reasons, os.ErrInvalid)
	default:
		pages = r.pages[(r.lead()+off)/onePage : r.pagesFor(end)]
	}
	because(&reasons, refused(pages, p), mmap.ErrPermission)
	if expect(t, r.h.(mmap.Unknown).ProtectRange(off, n, p), reasons) {
		protect(pages, p)
	}
}

func (m *machine) place(t *rapid.T, r *modelRegion) {
	off, p := r.drawOffset(t), drawProt(t)
	size := r.drawOffset(t) - off
	if size < 0 || size > 16*onePage {
		size = drawSize(t, 2)
	}
	s := m.drawSource(t, size, rapid.SampledFrom([]int{0, -1}).Draw(t, "any lead"))
	reasons := r.unchangeable()
	because(&reasons, p > 7, os.ErrInvalid)
	var fresh []modelPage
	first := 0
	switch end := off + size; {
	case off < 0 || off > r.len || size > r.len-off:
		reasons = append(reasons, os.ErrInvalid)
	case size == 0:
	case r.lead()+off < s.lead || !r.boundary(off-s.lead) || end < r.len && !r.boundary(end):
		reasons = append(reasons, os.ErrInvalid)
	default:
		first = (r.lead() + off - s.lead) / onePage
		fresh = s.pages(r.pagesFor(end) - first)
	}
	because(&reasons, refused(fresh, p), mmap.ErrPermission)
	if expect(t, r.h.(mmap.Unknown).Place(off, s.spec, p), reasons) && size > 0 {
		protect(fresh, p)
		copy(r.pages[first:], fresh)
	}
}

// deny places a page that can never be written, and then asks for all to be: the
// kernel refuses that after it has changed the pages in front.
func (m *machine) deny(t *rapid.T, r *modelRegion) {
	i := rapid.IntRange(0, max(0, r.data()-1)).Draw(t, "page")
	off := i*onePage - r.lead()
	if r.pin != nil || r.sealed || off < 0 || off >= r.len {
		return
	}
	f := m.files[rapid.IntRange(0, len(m.files)-1).Draw(t, "file")]
	size := min(onePage, r.len-off)
	s := modelSource{spec: mmap.File(f.readOnly, 0, size).Shared(), object: f.object, shared: true, readOnly: true}
	u := r.h.(mmap.Unknown)
	if err := u.Place(off, s.spec, mmap.ProtRead); err != nil {
		t.Fatal(err)
	}
	r.pages[i] = s.pages(1)[0]
	r.pages[i].prot = mmap.ProtRead
	if err := u.Protect(mmap.ProtRead | mmap.ProtWrite); !errors.Is(err, mmap.ErrPermission) {
		t.Fatalf("%v: pages of a file opened for reading: %v", u, err)
	}
}

func (m *machine) over(t *rapid.T, r *modelRegion) {
	k := drawKind(t)
	reasons := r.unchangeable()
	size, lead := r.len, r.lead()
	if rapid.IntRange(0, 9).Draw(t, "misfit") == 0 {
		size, lead = drawSize(t, 3), -1
	}
	s := m.drawSource(t, size, lead)
	because(&reasons, size != r.len || len(r.pages) > 0 && s.lead != r.lead(), os.ErrInvalid)
	if rapid.IntRange(0, 19).Draw(t, "with placement") == 0 {
		s.spec = s.spec.Near(r.addr)
		reasons = append(reasons, os.ErrInvalid)
	}
	fresh := s.pages(len(r.pages))
	because(&reasons, refused(fresh[:r.data()], k.Prot), mmap.ErrPermission)
	next, err := k.Over(r.h, s.spec)
	if !expect(t, err, reasons) {
		inert(t, next, mmap.ErrClosed)
		return
	}
	protect(fresh[:r.data()], k.Prot)
	r.pages, r.more = fresh, s.more()
	m.retire(r, k, next)
}

func (m *machine) resize(t *rapid.T, r *modelRegion) {
	size := drawSize(t, 8)
	if rapid.IntRange(0, 19).Draw(t, "negative") == 0 {
		size = -1
	}
	reasons := r.unchangeable()
	because(&reasons, size < 0, os.ErrInvalid)
	want, data := r.pagesFor(max(size, 0)), r.data()
	p := r.prot
	if data > 0 {
		p = r.pages[data-1].prot
	}
	pages := r.pages[:min(want, len(r.pages))]
	switch {
	case want <= data:
	case want <= len(r.pages):
		because(&reasons, refused(r.pages[data:want], p), mmap.ErrPermission)
	case data == 0:
		because(&reasons, r.more == noMore, os.ErrInvalid)
		pages = modelSource{shared: r.more == moreShared, droppable: r.more == moreDroppable}.pages(want)
	default:
		last := r.pages[data-1]
		because(&reasons, last.shared && last.object.inode != 0 && !m.isFile(last.object), os.ErrInvalid)
		because(&reasons, len(reasons) == 0 && last.attributes&locked != 0 && m.overLimit(t, want-data), unix.EAGAIN)
		pages = append([]modelPage(nil), r.pages[:data]...)
		for i := range want - data {
			next := last
			next.index, next.own, next.guard, next.attributes = last.index+i+1, nil, false, 0
			pages = append(pages, next)
		}
	}
	next, err := r.kind.Resize(r.h, size)
	if !expect(t, err, reasons) {
		if next != r.h {
			t.Fatalf("a failed Resize of %v returned %v", r.h, next)
		}
		return
	}
	if want > data {
		protect(pages[data:], p)
		set(pages[data:], unsaid, 0)
	}
	old := r.addr
	m.retire(r, r.kind, next)
	r.pages, r.room, r.len, r.cap, r.addr = pages, 0, size, size, next.Addr()
	if r.addr%uintptr(onePage) != old%uintptr(onePage) || want <= data && r.addr != old {
		t.Fatalf("Resize to %d bytes moved from %#x to %#x", size, old, r.addr)
	}
	if size == 0 && rapid.Bool().Draw(t, "and back") { // or it hardly ever comes back
		m.check(t)
		m.resize(t, r)
	}
}

func (m *machine) move(t *rapid.T, r *modelRegion) {
	size := uintptr(len(r.pages) * onePage)
	to := m.arena.Page(rapid.IntRange(0, arenaPages-1).Draw(t, "page")) + uintptr(r.lead())
	if rapid.IntRange(0, 5).Draw(t, "odd") == 0 {
		to++
	}
	base := to - uintptr(r.lead())
	if base+size > m.arena.End {
		return
	}
	reasons := r.unchangeable()
	because(&reasons, base%uintptr(onePage) != 0, os.ErrInvalid)
	because(&reasons, size > 0 && !m.free(base, base+size), os.ErrExist)
	next, err := r.kind.Move(r.h, to)
	if expect(t, err, reasons) {
		m.retire(r, r.kind, next)
		r.addr = to
	} else if next != r.h {
		t.Fatalf("a failed Move of %v returned %v", r.h, next)
	}
}

// within returns the pages that hold n bytes at off, and why there are none.
func (r *modelRegion) within(off, n int) (pages []modelPage, reasons []error) {
	if off < 0 || n < 0 || off > r.len || n > r.len-off {
		return nil, []error{os.ErrInvalid}
	}
	if n == 0 {
		return nil, nil
	}
	return r.pages[(r.lead()+off)/onePage : r.pagesFor(off+n)], nil
}

func (m *machine) prefault(t *rapid.T, r *modelRegion) {
	off := r.drawOffset(t)
	n := r.drawOffset(t) - off
	pages, reasons := r.within(off, n)
	for _, p := range pages {
		because(&reasons, p.prot&mmap.ProtRead == 0, mmap.ErrPermission)
	}
	because(&reasons, mmap.Probe("MADV_POPULATE_READ") != nil && len(reasons) == 0 && n > 0, errors.ErrUnsupported)
	at := m.firstFault(r, off, pages)
	because(&reasons, len(reasons) == 0 && at >= 0, mmap.ErrFault)
	var fault *mmap.FaultError
	err := r.h.Prefault(off, n)
	if expect(t, err, reasons); errors.As(err, &fault) && fault.Offset != at {
		t.Fatalf("%v: fault at %d, want %d", r.h, fault.Offset, at)
	}
}

// firstFault returns the offset of the first of the pages from off that faults,
// and -1 if none does.
func (m *machine) firstFault(r *modelRegion, off int, pages []modelPage) int {
	for i := range pages {
		if pages[i].contents() == nil {
			return max(0, ((r.lead()+off)/onePage+i)*onePage-r.lead())
		}
	}
	return -1
}

func (m *machine) isFile(o *modelObject) bool {
	for _, f := range m.files {
		if f.object == o {
			return true
		}
	}
	return false
}

func (m *machine) grow(t *rapid.T, r *modelRegion) {
	size := rapid.IntRange(r.len, r.cap).Draw(t, "size") + rapid.SampledFrom([]int{0, 0, 0, 0, -onePage, onePage}).Draw(t, "more")
	var reasons []error
	because(&reasons, size < r.len, os.ErrInvalid)
	because(&reasons, size > r.cap, mmap.ErrCapacity)
	var opened []modelPage
	if want := r.pagesFor(max(size, 0)); want > r.data() && want <= len(r.pages) {
		opened = r.pages[r.data():want]
	}
	p := r.prot
	if data := r.data(); data > 0 {
		p = r.pages[data-1].prot
	}
	because(&reasons, refused(opened, p), mmap.ErrPermission)
	because(&reasons, r.sealed && len(opened) > 0, mmap.ErrSealed)
	if expect(t, r.kind.Grow(r.h, size), reasons) {
		protect(opened, p)
		set(opened, unsaid, 0)
		r.len, r.room = size, r.room-len(opened)
	}
}

func (m *machine) split(t *rapid.T, r *modelRegion) {
	if len(m.regions) >= most {
		if !r.sealed {
			m.makeRoom(t)
		}
		return
	}
	off := r.drawOffset(t)
	reasons := r.busy()
	cut := (r.lead() + off) / onePage
	switch {
	case off < 0 || off > r.len:
		reasons = append(reasons, os.ErrInvalid)
	case off == 0:
		cut = 0
	case r.boundary(off):
	case off < r.len || r.cap > r.len:
		reasons = append(reasons, os.ErrInvalid)
	default:
		cut = len(r.pages)
	}
	left, right, err := r.kind.Split(r.h, off)
	if !expect(t, err, reasons) {
		inert(t, left, mmap.ErrClosed)
		inert(t, right, mmap.ErrClosed)
		return
	}
	m.regions = append(m.regions, &modelRegion{
		h: right, kind: r.kind, addr: r.addr + uintptr(off), len: r.len - off, cap: r.cap - off,
		pages: r.pages[cut:], room: r.room, prot: r.prot, more: r.more, sealed: r.sealed, kept: r.kept,
	})
	m.retire(r, r.kind, left)
	r.pages, r.room, r.len, r.cap = r.pages[:cut:cut], 0, off, off
}

// adjoin reports whether l and r can be joined, in this order.
func adjoin(l, r *modelRegion) bool {
	return l.cap == l.len && l.addr+uintptr(l.len) == r.addr &&
		(len(l.pages) == 0 || len(r.pages) == 0 || l.end() == r.base())
}

func (m *machine) join(t *rapid.T, a *modelRegion) {
	var partners, neighbours []*modelRegion
	for _, b := range m.regions {
		if b.kind == a.kind && !b.closing {
			partners = append(partners, b)
			if b != a && (adjoin(a, b) || adjoin(b, a)) {
				neighbours = append(neighbours, b)
			}
		}
	}
	if len(neighbours) > 0 {
		partners = neighbours
	}
	b := partners[rapid.IntRange(0, len(partners)-1).Draw(t, "partner")]
	reasons := append(a.busy(), b.busy()...)
	l, r := a, b
	if !adjoin(l, r) {
		l, r = b, a
	}
	because(&reasons, a == b || !adjoin(l, r), os.ErrInvalid)
	because(&reasons, a.sealed != b.sealed, mmap.ErrSealed)
	next, err := a.kind.Join(a.h, b.h)
	if !expect(t, err, reasons) {
		inert(t, next, mmap.ErrClosed)
		return
	}
	l.kept = l.kept || r.kept
	if len(r.pages) > 0 { // what grows does so at the end
		l.more = r.more
		if len(l.pages) == 0 {
			l.prot = r.prot
		}
	}
	m.bury(r, mmap.ErrMoved)
	m.retire(l, l.kind, next)
	l.pages = append(l.pages[:len(l.pages):len(l.pages)], r.pages...)
	l.len, l.cap, l.room = l.len+r.len, l.len+r.cap, r.room
	m.remove(r)
}

func (m *machine) forget(t *rapid.T, r *modelRegion) {
	next, err := r.kind.Forget(r.h)
	if expect(t, err, r.busy()) {
		m.retire(r, unknownKind, next)
	}
}

func (m *machine) assert(t *rapid.T, r *modelRegion) {
	k := drawKind(t)
	if rapid.Bool().Draw(t, "what it is") {
		k = modelKinds[r.allows()]
	}
	reasons := r.busy()
	for _, p := range r.pages[:r.data()] {
		because(&reasons, p.prot != k.Prot, mmap.ErrPermission)
	}
	next, err := k.Assert(r.h.(mmap.Unknown))
	if !expect(t, err, reasons) {
		inert(t, next, mmap.ErrClosed)
		return
	}
	m.retire(r, k, next)
}

func (m *machine) releaseAndAdopt(t *rapid.T, r *modelRegion) {
	if r.sealed {
		return // who adopts it does not know
	}
	// All is drawn before the release: a stream of a fuzzer that ends in between
	// would leave pages that nobody owns.
	k := unknownKind
	if rapid.Bool().Draw(t, "as known") {
		if k = drawKind(t); rapid.Bool().Draw(t, "what it is") {
			k = modelKinds[r.allows()]
		}
	}
	base, size, err := r.h.Release()
	if !expect(t, err, r.busy()) {
		return
	}
	if size != len(r.pages)*onePage || size > 0 && base != r.base() {
		t.Fatalf("Release: %d bytes at %#x, want %d at %#x", size, base, len(r.pages)*onePage, r.base())
	}
	m.bury(r, mmap.ErrMoved)
	r.addr, r.len, r.cap, r.room, r.more = base, size, size, 0, noMore
	r.kept = true
	if _, err := unknownKind.Adopt(base+1, size); !errors.Is(err, os.ErrInvalid) {
		t.Fatalf("adopting an odd address: %v", err)
	}
	var reasons []error
	for _, p := range r.pages {
		because(&reasons, !k.Unknown && p.prot != k.Prot, mmap.ErrPermission)
	}
	next, err := k.Adopt(base, size)
	if !expect(t, err, reasons) {
		inert(t, next, mmap.ErrClosed)
		k = unknownKind
		if next, err = k.Adopt(base, size); err != nil {
			t.Fatal(err)
		}
	}
	r.h, r.kind = next, k
}

// drain does a transition within Drain, which waits for a pin.
func (m *machine) drain(t *rapid.T, r *modelRegion) {
	if r.pin != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Microsecond)
		defer cancel()
		err := r.h.Drain(ctx, func() error { t.Fatal("it runs beside a pin"); return nil })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("beside a pin: %v", err)
		}
		return
	}
	transitions := []func(*rapid.T, *modelRegion){m.protect, m.over, m.resize, m.move, m.split, m.releaseAndAdopt, m.close, m.forget}
	if r.kind.Unknown {
		transitions[len(transitions)-1] = m.assert
		transitions = append(transitions, m.protectRange, m.place, m.deny)
	}
	transition := rapid.SampledFrom(transitions).Draw(t, "transition")
	runs := 0
	if err := r.h.Drain(context.Background(), func() error { runs++; transition(t, r); return os.ErrExist }); err != os.ErrExist || runs != 1 {
		t.Fatalf("%d runs: %v", runs, err)
	}
}

func (m *machine) close(t *rapid.T, r *modelRegion) {
	var reasons []error
	because(&reasons, r.sealed && r.cap > 0, mmap.ErrSealed)
	if !expect(t, r.h.Close(), reasons) {
		return
	}
	if m.bury(r, mmap.ErrClosed); r.pin != nil {
		r.closing = true // the pages stay until Unpin
		return
	}
	m.remove(r)
}

func (m *machine) pin(t *rapid.T, r *modelRegion) {
	if r.pin != nil {
		return
	}
	var err error
	if r.pin, err = r.h.Pin(); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) unpin(t *rapid.T) {
	var pinned []*modelRegion
	for _, r := range m.regions {
		if r.pin != nil {
			pinned = append(pinned, r)
		}
	}
	if len(pinned) == 0 {
		return
	}
	r := pinned[rapid.IntRange(0, len(pinned)-1).Draw(t, "pin")]
	r.pin.Unpin()
	r.pin.Unpin() // does no harm
	if err := mmap.Guard(func() error { return nil }, r.pin); !errors.Is(err, mmap.ErrClosed) || r.pin.Bytes() != nil {
		t.Fatalf("after Unpin: %v, %d bytes", err, len(r.pin.Bytes()))
	}
	if r.pin = nil; r.closing {
		m.remove(r)
	}
}

// readAt compares n bytes at off, and that nothing else is changed in the
// buffer.
func (m *machine) readAt(t *rapid.T, r *modelRegion, off, n int) {
	got := bytes.Repeat([]byte{0xa5}, n)
	want := bytes.Clone(got)
	count, reason := r.transfer(off, n, mmap.ProtRead, func(p *modelPage, at, done, size int) {
		copy(want[done:], p.contents()[at:at+size])
	})
	read, err := r.h.(io.ReaderAt).ReadAt(got, int64(off))
	if read != count || !bytes.Equal(got, want) {
		t.Fatalf("%v: ReadAt of %d bytes at %d: %d, %v, want %d, %v; contents differ: %v", r.h, n, off, read, err, count, reason, !bytes.Equal(got, want))
	}
	m.expectFault(t, r, err, reason, off+count)
}

func (m *machine) read(t *rapid.T, r *modelRegion) {
	if rapid.IntRange(0, 19).Draw(t, "negative") == 0 {
		if n, err := r.h.(io.ReaderAt).ReadAt(make([]byte, 3), -1); n != 0 || !errors.Is(err, os.ErrInvalid) {
			t.Fatalf("ReadAt -1: %d, %v", n, err)
		}
		return
	}
	m.readAt(t, r, rapid.IntRange(0, r.len+1).Draw(t, "offset"), rapid.IntRange(0, r.len+1).Draw(t, "n"))
}

func drawBytes(t *rapid.T, n int) []byte {
	b := make([]byte, n)
	seed := rapid.IntRange(0, 255).Draw(t, "seed")
	for i := range b {
		b[i] = byte(seed + i*7)
	}
	return b
}

func (m *machine) write(t *rapid.T, r *modelRegion) {
	w := r.h.(io.WriterAt)
	off, b := rapid.IntRange(0, r.len+1).Draw(t, "offset"), drawBytes(t, rapid.IntRange(0, r.len+1).Draw(t, "n"))
	if rapid.IntRange(0, 19).Draw(t, "negative") == 0 {
		if n, err := w.WriteAt(b, -1); n != 0 || !errors.Is(err, os.ErrInvalid) {
			t.Fatalf("WriteAt -1: %d, %v", n, err)
		}
	}
	n, err := w.WriteAt(b, int64(off))
	count, reason := r.transfer(off, len(b), mmap.ProtWrite, func(p *modelPage, at, done, size int) {
		p.store(at, b[done:done+size])
	})
	if n != count {
		t.Fatalf("%v: WriteAt of %d bytes at %d: %d, %v, want %d, %v", r.h, len(b), off, n, err, count, reason)
	}
	if reason == io.EOF {
		reason = io.ErrShortWrite
		if !errors.Is(err, reason) {
			t.Fatalf("WriteAt past the end: %v", err)
		}
		return
	}
	m.expectFault(t, r, err, reason, off+count)
}

// drawRange draws a part of the mapping for a view: all of it, where the type
// has nothing else.
func (m *machine) drawRange(t *rapid.T, r *modelRegion) (off, n int, part bool) {
	if !r.kind.Unknown || rapid.IntRange(0, 3).Draw(t, "whole") == 0 {
		return 0, r.len, false
	}
	off = r.drawOffset(t)
	return off, rapid.SampledFrom([]int{0, 1, onePage, r.len - max(off, 0), r.len, -1}).Draw(t, "n"), true
}

// allowed returns what must be wrong with a view of a range.
func (r *modelRegion) allowed(off, n int, need mmap.Prot) (reasons []error) {
	if off < 0 || n < 0 || off > r.len || n > r.len-off {
		return []error{os.ErrInvalid}
	}
	for i := off; i < off+n; i++ {
		p, at := r.at(i)
		because(&reasons, p.prot&need != need, mmap.ErrPermission)
		i += onePage - 1 - at
	}
	return reasons
}

var errOwn = errors.New("the callback's own error")

func (m *machine) view(t *rapid.T, r *modelRegion) {
	off, n, part := m.drawRange(t, r)
	reasons := r.allowed(off, n, mmap.ProtRead)
	called := false
	f := func(b []byte) error {
		if called = true; len(b) != n || cap(b) != n || b == nil {
			t.Fatalf("%v: view of %d bytes at %d: len %d, cap %d", r.h, n, off, len(b), cap(b))
		}
		if len(b) > 0 {
			if h, at, ok := mmap.Find(b); !ok || at != off || h != r.h.Untyped() {
				t.Fatalf("%v: Find of a view at %d: %v at %d, %v", r.h, off, h, at, ok)
			}
		}
		m.compareSlice(t, r, off, b, func(f func() error) error {
			p, err := r.h.Pin()
			if err != nil {
				t.Fatal(err)
			}
			defer p.Unpin()
			return mmap.Guard(f, p)
		})
		for op, err := range r.kind.Transitions(r.h, mmap.Anonymous(r.len)) {
			if !errors.Is(err, mmap.ErrBusy) {
				t.Fatalf("%v: %s under a view: %v", r.h, op, err)
			}
		}
		m.check(t) // a refused transition has changed nothing
		if !r.kind.Unknown && n > 0 && r.kind.Prot&mmap.ProtWrite == 0 {
			b[n-1]++ // the hardware refuses it
		}
		return errOwn
	}
	var err error
	if part {
		err = r.h.(mmap.Unknown).ViewRange(off, n, f)
	} else {
		err = r.h.(viewer).View(f)
	}
	if called != (len(reasons) == 0) {
		t.Fatalf("%v: view of %d bytes at %d: called: %v, %v", r.h, n, off, called, err)
	}
	switch {
	case !called:
		expect(t, err, reasons)
	case !r.kind.Unknown && n > 0 && r.kind.Prot&mmap.ProtWrite == 0:
		// Only pages that cannot go prove that it was a store.
		p, _ := r.at(n - 1)
		proven := p.contents() != nil && p.object == nil && !p.shared
		if errors.Is(err, mmap.ErrPermission) != proven || !errors.Is(err, mmap.ErrFault) {
			t.Fatalf("%v: a store in a view, proven %v: %v", r.h, proven, err)
		}
	case err != errOwn:
		t.Fatal(err)
	}
}

func (m *machine) update(t *rapid.T, r *modelRegion) {
	off, n, part := m.drawRange(t, r)
	reasons := r.allowed(off, n, mmap.ProtRead|mmap.ProtWrite)
	data := drawBytes(t, max(0, min(n, r.len)))
	called := false
	f := func(b []byte) error {
		called = true
		for i := range b { // a copy may begin with the end
			b[i] = data[i]
		}
		return nil
	}
	var err error
	if part {
		err = r.h.(mmap.Unknown).UpdateRange(off, n, f)
	} else {
		err = r.h.(updater).Update(f)
	}
	if called != (len(reasons) == 0) {
		t.Fatalf("%v: update of %d bytes at %d: called: %v, %v", r.h, n, off, called, err)
	}
	if !called {
		expect(t, err, reasons)
		return
	}
	done, reason := r.transfer(off, n, mmap.ProtWrite, func(p *modelPage, at, done, size int) {
		p.store(at, data[done:done+size])
	})
	if reason == nil {
		expect(t, err, nil)
		return
	}
	// How much a copy changed before it faulted is the processor's secret.
	// What it was asked to change is repaired.
	fault, at := (*mmap.FaultError)(nil), -1
	if errors.As(err, &fault) {
		if at = fault.Offset; runtime.GOARCH == "s390x" {
			at = max(at, off) // it tells the page
		}
	}
	if at < off || at >= off+n {
		t.Fatalf("%v: update past the end of a file, %d good bytes: %v", r.h, done, err)
	}
	// Nor does it go from the start to the end: of several bad pages, any can be first.
	if _, why := r.transfer(at, 1, mmap.ProtWrite, func(*modelPage, int, int, int) {}); why == nil || !errors.Is(err, why) {
		t.Fatalf("%v: update with %d good bytes: %v, and not %v", r.h, done, err, why)
	}
	if _, err := r.h.(io.WriterAt).WriteAt(data, int64(off)); !errors.Is(err, reason) {
		t.Fatal(err)
	}
}

func (m *machine) useStale(t *rapid.T) {
	if len(m.stale) == 0 {
		return
	}
	s := m.stale[rapid.IntRange(0, len(m.stale)-1).Draw(t, "stale")]
	if err := s.h.Drain(context.Background(), func() error { t.Fatal("it runs"); return nil }); !errors.Is(err, s.err) {
		t.Fatalf("Drain of a stale handle: %v, want %v", err, s.err)
	}
	for op, err := range s.kind.Transitions(s.h, mmap.Anonymous(0)) {
		if !errors.Is(err, s.err) {
			t.Fatalf("%s on a stale handle: %v, want %v", op, err, s.err)
		}
	}
	for op, err := range s.kind.Accesses(s.h) {
		if !errors.Is(err, s.err) {
			t.Fatalf("%s on a stale handle: %v, want %v", op, err, s.err)
		}
	}
}

// truncate makes a file shorter or longer. Private copies of what it loses go.
func (m *machine) truncate(t *rapid.T) {
	f := m.files[rapid.IntRange(0, len(m.files)-1).Draw(t, "file")]
	pages := rapid.IntRange(0, 8).Draw(t, "pages")
	if err := f.f.Truncate(int64(pages * onePage)); err != nil {
		t.Fatal(err)
	}
	if n := pages * onePage; n <= len(f.object.data) {
		f.object.data = f.object.data[:n:n]
	} else {
		f.object.data = append(f.object.data, make([]byte, n-len(f.object.data))...)
	}
	m.forgetCopies(f.object, pages)
}

// flicker reads a mapping while a file loses its pages and has them again, over and
// over. A page that has come back proves nothing: a load that faulted had permission.
func (m *machine) flicker(t *rapid.T, r *modelRegion) {
	f := m.files[rapid.IntRange(0, len(m.files)-1).Draw(t, "file")]
	if len(f.object.data) == 0 || !slices.ContainsFunc(r.pages[:r.data()], func(p modelPage) bool { return p.object == f.object }) {
		return
	}
	stop, done := make(chan bool), make(chan error)
	go func() {
		for {
			err := f.f.Truncate(0)
			if err == nil {
				_, err = f.f.WriteAt(f.object.data, 0)
			}
			select {
			case <-stop:
				done <- err
				return
			default:
			}
		}
	}()
	most, reason := 0, error(nil) // as far as an access is allowed
	for most < r.len && reason == nil {
		if p, at := r.at(most); p.prot&mmap.ProtRead == 0 {
			reason = mmap.ErrPermission
		} else {
			most = min(most+onePage-at, r.len)
		}
	}
	failed := ""
	for range 20 {
		n, err := r.h.(io.ReaderAt).ReadAt(make([]byte, r.len), 0)
		var fault *mmap.FaultError
		switch {
		case n == most && (err == nil && reason == nil || reason != nil && errors.Is(err, reason)):
		case n < most && errors.As(err, &fault) && fault.Offset == n && !errors.Is(err, mmap.ErrPermission):
		default:
			failed = fmt.Sprintf("ReadAt: %d, %v, and %d bytes can be read", n, err, most)
		}
		v, ok := r.h.(viewer)
		if !ok || reason != nil {
			continue
		}
		err = v.View(func(b []byte) error {
			for i := 0; i < len(b); i += onePage {
				sink += b[i]
			}
			return nil
		})
		if errors.Is(err, mmap.ErrPermission) && !slices.ContainsFunc(r.pages[:r.data()], func(p modelPage) bool { return p.object == nil }) {
			failed = fmt.Sprintf("View: %v", err)
		}
	}
	stop <- true
	if err := <-done; err != nil || failed != "" {
		t.Fatalf("%v: %s, %v", r.h, failed, err)
	}
	m.forgetCopies(f.object, 0)
}

var sink byte

// forgetCopies drops the private copies of a file's pages from an index on, as its
// truncation does.
func (m *machine) forgetCopies(o *modelObject, from int) {
	for _, r := range m.regions {
		for i := range r.pages {
			if p := &r.pages[i]; p.object == o && p.index >= from {
				p.own = nil
			}
		}
	}
}

// writeFile writes to a file: mappings show it, but for private copies.
func (m *machine) writeFile(t *rapid.T) {
	f := m.files[rapid.IntRange(0, len(m.files)-1).Draw(t, "file")]
	if len(f.object.data) == 0 {
		return
	}
	off := rapid.IntRange(0, len(f.object.data)-1).Draw(t, "offset")
	b := drawBytes(t, min(100, len(f.object.data)-off))
	if _, err := f.f.WriteAt(b, int64(off)); err != nil {
		t.Fatal(err)
	}
	copy(f.object.data[off:], b)
}

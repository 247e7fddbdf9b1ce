//go:build linux

package mmap_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/testkit"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// The part of the machine that knows what pages are beside their permissions and
// contents: locked, advised, guarding, sealed.

// attributes are those of a page that the kernel tells in smaps.
type attributes uint8

const (
	locked attributes = 1 << iota
	lockedOnFault
	adviceRandom
	adviceSequential
	dontFork
	dontDump
	unsaid // of pages that have been added: whatever the next look shows
)

var attributeNames = map[string]attributes{
	"lo": locked, "lf": lockedOnFault, "rr": adviceRandom, "sr": adviceSequential, "dc": dontFork, "dd": dontDump,
	"??": lockedOnFault, // its name before Linux 6.2
}

// compareAttributes compares those of the pages in the arena with smaps, which
// is in the order of the addresses, and read no further than the arena.
func (m *machine) compareAttributes(t *rapid.T) {
	if _, err := m.smaps.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	var start, end uintptr
	for lines := bufio.NewScanner(m.smaps); start < m.arena.End && lines.Scan(); {
		line := lines.Bytes()
		if c := line[0]; '0' <= c && c <= '9' || 'a' <= c && c <= 'f' {
			head, _, _ := strings.Cut(string(line), " ")
			from, to, _ := strings.Cut(head, "-")
			start, end = address(t, from), address(t, to)
			continue
		}
		if end <= m.arena.Start || !strings.HasPrefix(string(line), "VmFlags:") {
			continue
		}
		var got attributes
		for _, name := range strings.Fields(string(line)[len("VmFlags:"):]) {
			got |= attributeNames[name]
		}
		for _, r := range m.regions {
			for at := max(start, r.base()); at < min(end, r.end()); at += uintptr(onePage) {
				p := &r.pages[(at-r.base())/uintptr(onePage)]
				if p.attributes&unsaid != 0 {
					p.attributes = got
				} else if p.attributes != got && p.attributes|got&lockedOnFault != got { // Lock marks its pages so, too
					t.Fatalf("%v: page %#x has %s, want attributes %b", r.h, at, line, p.attributes)
				}
			}
		}
	}
}

func address(t *rapid.T, hex string) uintptr {
	n, err := strconv.ParseUint(hex, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return uintptr(n)
}

// settle looks which locked pages of private files have become copies: when
// that happens is for the kernel to say.
func (m *machine) settle(t *rapid.T, r *modelRegion, of func(*modelPage) bool) {
	const present, ofFile = 1 << 63, 1 << 61
	for i := range r.pages {
		p := &r.pages[i]
		if !of(p) || p.shared || p.object == nil || p.own != nil || p.contents() == nil {
			continue
		}
		var entry [8]byte
		if _, err := m.pagemap.ReadAt(entry[:], int64(r.base()/uintptr(onePage)+uintptr(i))*8); err != nil {
			t.Fatal(err)
		}
		if e := binary.NativeEndian.Uint64(entry[:]); e&present != 0 && e&ofFile == 0 {
			p.own = bytes.Clone(p.contents())
		}
	}
}

// guards tells what the kernel can do about guard pages.
var guards = sync.OnceValue(func() (g struct {
	private, files bool
	cause          error // of a fault in one
}) {
	g.cause = mmap.ErrFault
	g.private = mmap.Probe("MADV_GUARD_INSTALL") == nil
	f, err := mmap.Memfd("guards", int64(onePage), 0)
	if err != nil {
		return g
	}
	defer f.Close()
	u, err := mmap.Map[mmap.ReadWrite](mmap.File(f, 0, onePage))
	if err != nil {
		return g
	}
	defer u.Close()
	g.files = u.InstallGuardPages(0, onePage) == nil
	if g.files {
		g.cause = mmap.ErrGuard // both came with Linux 6.15
	}
	return g
})

// set changes the attributes of pages.
func set(pages []modelPage, on, off attributes) {
	for i := range pages {
		pages[i].attributes = pages[i].attributes&^off | on
	}
}

// advise does what changes no contents, but makes the kernel divide its areas.
func (m *machine) advise(t *rapid.T, r *modelRegion) {
	off := r.drawOffset(t)
	n := r.drawOffset(t) - off
	pages, reasons := r.within(off, n)
	const lock, lockOnFault, unlock, sync = -1, -2, -3, -4
	var on, gone attributes
	var err error
	switch a := rapid.SampledFrom([]mmap.Advice{mmap.AdviceRandom, mmap.AdviceSequential, mmap.AdviceNormal, mmap.AdviceDontFork,
		mmap.AdviceDoFork, mmap.AdviceDontDump, mmap.AdviceDoDump, mmap.AdviceWillNeed, lock, lockOnFault, unlock, sync}).Draw(t, "advice"); a {
	case lock:
		m.lock(t, r, off, n)
		return
	case lockOnFault:
		on = locked | lockedOnFault
		because(&reasons, someDroppable(pages) >= 0, os.ErrInvalid)
		because(&reasons, m.overLimit(t, unlockedOf(t, m, pages)), unix.ENOMEM)
		err = r.h.LockOnFault(off, n)
	case unlock:
		gone = locked | lockedOnFault
		err = r.h.Unlock(off, n)
	case sync:
		err = r.h.Sync(off, n)
	case mmap.AdviceDontFork:
		if on = dontFork; r.sealed {
			return // refused for some pages, as its documentation says
		}
		fallthrough
	default:
		switch a {
		case mmap.AdviceRandom:
			on, gone = adviceRandom, adviceSequential
		case mmap.AdviceSequential:
			on, gone = adviceSequential, adviceRandom
		case mmap.AdviceNormal:
			gone = adviceRandom | adviceSequential
		case mmap.AdviceDoFork:
			gone = dontFork
		case mmap.AdviceDontDump:
			on = dontDump
		case mmap.AdviceDoDump:
			gone = dontDump
			if i := someDroppable(pages); i >= 0 { // the kernel goes as far as there
				expect(t, r.h.Advise(off, n, a), append(reasons, unix.EINVAL))
				set(pages[:i], 0, dontDump)
				return
			}
		}
		err = r.h.Advise(off, n, a)
	}
	if expect(t, err, reasons) {
		set(pages, on, gone)
	}
}

func (m *machine) lock(t *rapid.T, r *modelRegion, off, n int) {
	pages, reasons := r.within(off, n)
	for _, p := range pages {
		because(&reasons, p.prot&(mmap.ProtRead|mmap.ProtWrite) == 0, mmap.ErrPermission)
	}
	usable, over := len(reasons) == 0, m.overLimit(t, unlockedOf(t, m, pages))
	at := m.firstFault(r, off, pages)
	because(&reasons, usable && over, unix.ENOMEM)
	because(&reasons, usable && !over && at >= 0, mmap.ErrFault)
	because(&reasons, someDroppable(pages) >= 0, os.ErrInvalid)
	err := r.h.Lock(off, n)
	var fault *mmap.FaultError
	if errors.As(err, &fault) && fault.Offset != at {
		t.Fatalf("%v: fault at %d, want %d", r.h, fault.Offset, at)
	}
	if expect(t, err, reasons) { // otherwise what was locked before is locked
		set(pages, locked, lockedOnFault)
	}
	m.settle(t, r, func(*modelPage) bool { return true }) // those that a failed Lock has faulted in, too
}

// someDroppable returns the index of the first droppable page, and -1 if there is none.
func someDroppable(pages []modelPage) int {
	return slices.IndexFunc(pages, func(p modelPage) bool { return p.droppable })
}

// unlockedOf returns how many of the pages are not locked.
func unlockedOf(t *rapid.T, m *machine, pages []modelPage) (n int) {
	if m.limit > 0 {
		m.compareAttributes(t) // of pages that have been added nobody knows
	}
	for _, p := range pages {
		if p.attributes&locked == 0 {
			n++
		}
	}
	return n
}

// overLimit reports whether so many pages more cannot be locked.
func (m *machine) overLimit(t *rapid.T, pages int) bool {
	if m.limit == 0 {
		return false
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmLck:")
	kilobytes, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kilobytes<<10+uint64(pages*onePage) > m.limit
}

// lockLimit is that of the process, where operations shall know of it.
var lockLimit uint64

// TestLockLimitOperations is [TestOperations] of a user who may lock little memory.
func TestLockLimitOperations(t *testing.T) {
	child, output, err := testkit.InChild(t)
	if !child {
		switch {
		case err != nil:
			t.Fatalf("%v\n%s", err, output)
		case strings.Contains(output, "--- SKIP"):
			t.Skip(output)
		}
		return
	}
	dir := os.Getenv("TMPDIR") // the test's own, which a humble user is to write to
	if err := errors.Join(os.Chmod(dir, 0o777), os.Chmod(filepath.Dir(dir), 0o777)); err != nil {
		t.Fatal(err)
	}
	testkit.Humble(t)
	lockLimit = testkit.Limit(t, unix.RLIMIT_MEMLOCK, "VmLck", 6*uint64(onePage))
	actions := 0
	for range 4 {
		rapid.Check(t, operationsAnd(t, nil, &actions))
	}
}

// destroy drops contents.
func (m *machine) destroy(t *rapid.T, r *modelRegion) {
	off := r.drawOffset(t)
	n := r.drawOffset(t) - off
	pages, reasons := r.within(off, n)
	because(&reasons, n > 0 && (off > 0 && !r.boundary(off) || off+n < r.len && !r.boundary(off+n)), os.ErrInvalid)
	because(&reasons, r.sealed && n > 0, mmap.ErrSealed)
	someLocked, plain, memory := false, true, true
	for _, p := range pages {
		because(&reasons, p.prot&mmap.ProtWrite == 0, mmap.ErrPermission)
		someLocked = someLocked || p.attributes&(locked|unsaid) != 0
		plain = plain && p.object == nil
		memory = memory && p.shared && p.object != m.files[0].object
	}
	firstLocked := len(pages) > 0 && pages[0].attributes&locked != 0
	h := r.h.(destroyer)
	var destroy func(off, n int) error
	var effect func(p *modelPage)
	need := ""
	switch rapid.SampledFrom([]string{"discard", "discard locked", "punch", "install", "install", "remove"}).Draw(t, "destroy") {
	case "discard":
		destroy = h.Discard
		effect = func(p *modelPage) { p.own = nil }
	case "discard locked":
		destroy, need, someLocked = h.DiscardLocked, "MADV_DONTNEED_LOCKED", false
		effect = func(p *modelPage) { p.own = nil }
	case "punch":
		// The file system of the other file may not have this.
		if !memory || r.lead() > 0 || n%onePage > 0 {
			return
		}
		destroy = h.Punch
		effect = func(p *modelPage) {
			if at := p.index * onePage; at < len(p.object.data) {
				clear(p.object.data[at : at+onePage])
			}
		}
	case "install":
		if !plain && !guards().files {
			return
		}
		destroy, need = h.InstallGuardPages, "MADV_GUARD_INSTALL"
		effect = func(p *modelPage) {
			if p.guard = true; !p.shared {
				p.own = nil
			}
		}
	case "remove":
		if !plain && !guards().files {
			return
		}
		destroy, need, someLocked = h.RemoveGuardPages, "MADV_GUARD_INSTALL", false
		effect = func(p *modelPage) { p.guard = false }
	}
	if len(reasons) == 0 && someLocked {
		if !firstLocked {
			return // what lies before the locked pages may be gone
		}
		reasons = append(reasons, unix.EINVAL)
	}
	because(&reasons, need != "" && n > 0 && mmap.Probe(need) != nil, errors.ErrUnsupported)
	if expect(t, destroy(off, n), reasons) {
		for i := range pages {
			effect(&pages[i])
		}
	}
}

// lose leaves a mapping to the collector.
func (m *machine) lose(t *rapid.T, r *modelRegion) {
	base, end := r.base(), r.end()
	// Outside of the arena somebody else may map what has become free. Collecting
	// is dear, so this is rare.
	if r.pin != nil || r.sealed || r.kept || base == end || base < m.arena.Start || end > m.arena.End || rapid.IntRange(0, 7).Draw(t, "lose") > 0 {
		return
	}
	m.remove(r)
	r.h, m.stale = nil, nil // which may have the region
	for range 100 {
		runtime.GC()
		gone := true
		walk(t, m.table, base, end, func(uintptr, procmaps.Region) { gone = false })
		if gone {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%#x to %#x is not collected", base, end)
}

// seal makes what only the end of the process undoes.
func (m *machine) seal(t *rapid.T, r *modelRegion) {
	sealed := 0
	for _, r := range m.regions {
		if r.sealed {
			sealed++
		}
	}
	if sealed >= most/2 {
		return // the rest would be about nothing else
	}
	if err := r.h.Seal(); err != nil {
		t.Fatal(err)
	}
	r.sealed = true
}

// TestSealedOperations is [TestOperations] with Seal. What that makes stays until
// the end of the process, so it has one of its own.
func TestSealedOperations(t *testing.T) {
	testkit.Needs(t, "mseal")
	child, output, err := testkit.InChild(t)
	if !child {
		if err != nil {
			t.Fatalf("%v\n%s", err, output)
		}
		return
	}
	sealing := func(m *machine) (string, func(*rapid.T)) { return "seal", m.on(anyKind, m.seal) }
	actions := 0
	for range 4 {
		rapid.Check(t, operationsAnd(t, sealing, &actions))
	}
}

//go:build linux

package mmap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// apart is mapped between two pages of another kind, so that the kernel merges
// no neighbour with it.
func apart[M Known](t testing.TB, s Spec, pages int) M {
	t.Helper()
	pg := int(pageSize)
	left, rest, err := Split(mapped[None](t, Anonymous((pages+2)*pg).Shared()), pg)
	check(t, err)
	middle, right, err := Split(rest, pages*pg)
	check(t, err)
	t.Cleanup(func() { left.Close(); right.Close() })
	at, _, err := middle.Release()
	check(t, err)
	return mapped[M](t, s.UnsafeOnto(at))
}

// filled is apart for n anonymous bytes that differ from page to page.
func filled(t testing.TB, n int) (ReadWrite, []byte) {
	t.Helper()
	m := apart[ReadWrite](t, Anonymous(n), (n-1)/int(pageSize)+1)
	return m, fill(t, m)
}

func fill(t testing.TB, m ReadWrite) []byte {
	t.Helper()
	data := make([]byte, m.Len())
	for i := range data {
		data[i] = byte(1 + i%100 + i/int(pageSize))
	}
	check(t, second(m.WriteAt(data, 0)))
	return data
}

// holds fails unless the mapping has these bytes at off.
func holds(t testing.TB, what string, m interface {
	ReadAt([]byte, int64) (int, error)
}, off int, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := m.ReadAt(got, int64(off)); n != len(want) || err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d of %d bytes, %v, or other contents", what, n, len(want), err)
	}
}

// smaps returns what /proc/self/smaps says of the kernel's areas that lie in
// the pages of n bytes at off: the VmFlags page by page, and the sums in bytes.
func smaps(t testing.TB, m mapping, off, n int) (flags []string, sum map[string]int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	check(t, err)
	start, end := uint64(page(m.Addr()+uintptr(off))), uint64(m.Addr())+uint64(off+n)
	sum = map[string]int{}
	var from, to uint64
	for line := range strings.Lines(string(text)) {
		switch key, rest, _ := strings.Cut(line, ":"); {
		case 'a' <= line[0] && line[0] <= 'f' || '0' <= line[0] && line[0] <= '9':
			_, err := fmt.Sscanf(line, "%x-%x ", &from, &to)
			check(t, err)
		case from >= end || to <= start:
		case key == "VmFlags":
			for at := max(from, start); at < min(to, end); at += uint64(pageSize) {
				flags = append(flags, strings.TrimSpace(rest))
			}
		default:
			var kB int
			fmt.Sscan(rest, &kB)
			sum[key] += kB << 10
		}
	}
	return flags, sum
}

// pagesWith tells for each page of a mapping whether it has one of VmFlags.
func pagesWith(t testing.TB, m mapping, flag string) string {
	t.Helper()
	flags, _ := smaps(t, m, 0, m.Len())
	var pages strings.Builder
	for _, f := range flags {
		pages.WriteByte("-x"[btoi(slices.Contains(strings.Fields(f), flag))])
	}
	return pages.String()
}

// lacks reports, and logs, that the kernel lacks what err speaks of. Then the
// error must be that of Probe.
func lacks(t testing.TB, feature string, err error) bool {
	t.Helper()
	missing := Probe(feature)
	if missing == nil {
		return false
	}
	t.Log("not tested: ", missing)
	wants(t, feature, err, errors.ErrUnsupported)
	if err == nil || !strings.Contains(err.Error(), missing.Error()) {
		t.Errorf("%s says %v", feature, err)
	}
	return true
}

func TestAdviceString(t *testing.T) {
	seen := map[string]bool{}
	for a := Advice(-1); a < 300; a++ {
		name := a.String()
		if listed := strings.HasPrefix(name, "MADV_"); listed && seen[name] || !listed && name != fmt.Sprintf("Advice(%d)", int(a)) {
			t.Errorf("%d prints as %s", int(a), name)
		} else if listed {
			seen[name] = true
		}
	}
	if len(seen) != 15 || AdvicePageOut.String() != "MADV_PAGEOUT" || AdviceNormal.String() != "MADV_NORMAL" {
		t.Error(seen)
	}
}

// What would destroy, and what is no advice at all, is refused, whatever the
// range and the handle.
func TestNoAdvice(t *testing.T) {
	m, data := filled(t, 2*int(pageSize))
	for _, a := range []Advice{
		-1, math.MinInt, math.MaxInt, 5, 6, 7, unix.MADV_DONTNEED, unix.MADV_FREE, unix.MADV_REMOVE, unix.MADV_WIPEONFORK, unix.MADV_DONTNEED_LOCKED,
		sys.MADV_GUARD_INSTALL, unix.MADV_POPULATE_WRITE, unix.MADV_COLLAPSE, unix.MADV_HWPOISON, 101,
	} {
		for _, n := range []int{0, m.Len()} {
			err := m.Advise(0, n, a)
			wants(t, a.String(), err, os.ErrInvalid, unix.EINVAL)
			if err == nil || !strings.Contains(err.Error(), a.String()) {
				t.Error(err)
			}
		}
	}
	holds(t, "refused advice", m, 0, data)
	if r := must(m.Regions()); len(r) != 1 {
		t.Error(r)
	}
}

func TestAdvise(t *testing.T) {
	pg := int(pageSize)
	for _, c := range []struct {
		do, undo    Advice
		flag, after string // of VmFlags: with the advice, and when it is undone
		feature     string
	}{
		{do: AdviceRandom, undo: AdviceNormal, flag: "rr"},
		{do: AdviceSequential, undo: AdviceNormal, flag: "sr"},
		{do: AdviceDontFork, undo: AdviceDoFork, flag: "dc"},
		{do: AdviceDontDump, undo: AdviceDoDump, flag: "dd"},
		{do: AdviceMergeable, undo: AdviceUnmergeable, flag: "mg", feature: "MADV_MERGEABLE"},
		{do: AdviceHugePage, undo: AdviceNoHugePage, flag: "hg", after: "nh", feature: "MADV_HUGEPAGE"},
	} {
		m, data := filled(t, 3*pg)
		err := m.Advise(2*pg-1, 1, c.do) // a byte stands for its page
		if c.feature != "" && lacks(t, c.feature, err) {
			continue
		}
		check(t, err)
		if got := pagesWith(t, m, c.flag); got != "-x-" {
			t.Errorf("%v: %s has %q", c.do, got, c.flag)
		}
		check(t, m.Advise(pg, pg, c.undo))
		if got := pagesWith(t, m, c.flag); got != "---" {
			t.Errorf("%v: %s has %q", c.undo, got, c.flag)
		}
		if c.after != "" && pagesWith(t, m, c.after) != "-x-" {
			t.Errorf("%v: nothing has %q", c.undo, c.after)
		} else if r := must(m.Regions()); c.after == "" && len(r) != 1 {
			t.Errorf("%v has left %v", c.undo, r)
		}
		holds(t, c.do.String(), m, 0, data)
	}
}

// Any byte range will do for advice: it is widened to its pages, no further.
func TestAdviceWidens(t *testing.T) {
	pg := int(pageSize)
	f, _ := scratch(t, 4*pg)
	for _, c := range []struct {
		off, n int
		want   string
	}{
		{0, 0, "---"}, {1, 0, "---"}, {3*pg - 9, 0, "---"}, {0, 1, "x--"}, {pg - 1, 1, "x--"}, {pg, 1, "-x-"}, {pg - 1, 2, "xx-"},
		{pg, pg, "-x-"}, {pg - 1, pg + 2, "xxx"}, {2 * pg, pg - 9, "--x"}, {3*pg - 10, 1, "--x"}, {0, 3*pg - 9, "xxx"},
	} {
		m := apart[Read](t, Anonymous(3*pg-9), 3)
		check(t, m.Advise(c.off, c.n, AdviceRandom))
		if got := pagesWith(t, m, "rr"); got != c.want {
			t.Errorf("%d bytes at %d: %s, want %s", c.n, c.off, got, c.want)
		}
	}
	// Pages are those of the memory, not of the mapping's first byte, and the
	// reserve is no part of it.
	m := mapped[Read](t, File(f, 9, 2*pg-9).Shared().Reserve(4*pg))
	check(t, m.Advise(pg-9, 1, AdviceRandom))
	flags, _ := smaps(t, m, 0, 3*pg-9)
	for i, want := range []bool{false, true, false} {
		if slices.Contains(strings.Fields(flags[i]), "rr") != want {
			t.Errorf("page %d: %s", i, flags[i])
		}
	}
}

// rangeOps are the operations that widen their range.
func rangeOps(m mapping) map[string]func(off, n int) error {
	ops := map[string]func(off, n int) error{
		"MADV_RANDOM": func(off, n int) error { return m.Advise(off, n, AdviceRandom) },
		"MADV_COLD":   func(off, n int) error { return m.Advise(off, n, AdviceCold) },
		"prefault":    m.Prefault, "collapse": m.Collapse,
		"lock": m.Lock, "lock on fault": m.LockOnFault, "unlock": m.Unlock,
		"sync": m.Sync, "start of sync": m.StartSync, "invalidation": m.Invalidate,
		"residency": func(off, n int) error {
			p, err := m.ResidentPages(off, n)
			b, same := m.Resident(off, n)
			if (err == nil) != (same == nil) || b > len(p)*int(pageSize) {
				return fmt.Errorf("Resident has %d, %v; ResidentPages %d, %w", b, same, len(p), err)
			}
			return err
		},
		"policy": func(off, n int) error { return m.SetPolicy(off, n, PolicyDefault) },
		"nodes":  func(off, n int) error { _, err := m.Nodes(off, n); return err },
	}
	if w, ok := m.(destroyer); ok {
		ops["prefault for writing"] = w.PrefaultWrite
	}
	return ops
}

// A destroyer is what handles that can be written have besides.
type destroyer interface {
	mapping
	PrefaultWrite(off, n int) error
	Discard(off, n int) error
	DiscardLocked(off, n int) error
	Free(off, n int) error
	Punch(off, n int) error
	WipeOnFork(off, n int) error
	InstallGuardPages(off, n int) error
	RemoveGuardPages(off, n int) error
}

// losses are the operations that destroy contents, and refuse parts of pages.
func losses(m destroyer) map[string]func(off, n int) error {
	return map[string]func(off, n int) error{
		"discard": m.Discard, "discard locked": m.DiscardLocked, "free": m.Free, "punch": m.Punch, "wipe on fork": m.WipeOnFork,
		"guard pages": m.InstallGuardPages, "guard pages removal": m.RemoveGuardPages,
	}
}

// names fails unless an error says which operation it was, on what, and why not.
func names(t testing.TB, err error, off, n int) {
	t.Helper()
	op, why, ok := strings.Cut(fmt.Sprint(err), fmt.Sprintf(" of %v at %d: ", fail.Count(n), off))
	if !ok || why == "" || len(op) <= len("mmap: ") || !strings.HasPrefix(op, "mmap: ") {
		t.Errorf("for %d bytes at %d: %v", n, off, err)
	}
}

// Bounds and page boundaries, of every operation on a range: what is refused
// has no effect, and nothing is always fine.
func TestRangeArguments(t *testing.T) {
	pg := int(pageSize)
	size := 3*pg + 5
	outside := [][2]int{
		{-1, 1}, {-1, 0}, {0, -1}, {0, size + 1}, {1, size}, {size, 1}, {size + 1, 0}, {size, -1}, {pg, math.MaxInt}, {math.MaxInt, 1},
		{math.MaxInt, math.MaxInt}, {math.MaxInt, math.MinInt}, {math.MinInt, 1}, {math.MinInt, math.MaxInt}, {math.MinInt, math.MinInt}, {-pg, 2 * pg},
	}
	odd := [][2]int{{0, 1}, {1, pg}, {1, pg - 1}, {0, pg - 1}, {0, pg + 1}, {pg, 1}, {pg, 2*pg + 4}, {3 * pg, 4}, {3*pg + 1, 4}, {size - 1, 1}}
	m, data := filled(t, size)
	before, _ := smaps(t, m, 0, size)
	refuse := func(op string, f func(off, n int) error, ranges [][2]int) {
		for _, r := range ranges {
			err := f(r[0], r[1])
			wants(t, fmt.Sprint(op, r), err, os.ErrInvalid, unix.EINVAL)
			names(t, err, r[0], r[1])
		}
		for _, off := range []int{0, 7, pg, size} {
			if err := f(off, 0); err != nil {
				t.Errorf("%s of nothing: %v", op, err)
			}
		}
	}
	for op, f := range rangeOps(m) {
		refuse(op, f, outside)
	}
	for op, f := range losses(m) {
		refuse(op, f, append(outside, odd...))
	}
	holds(t, "after all", m, 0, data)
	if after, _ := smaps(t, m, 0, size); !slices.Equal(after, before) || len(must(m.Regions())) != 1 {
		t.Errorf("VmFlags were %s, are %s", before, after)
	}
	// The other ranges are good ones, for those that widen.
	for op, f := range rangeOps(m) {
		for _, r := range append(odd, [2]int{0, size}) {
			if err := f(r[0], r[1]); err != nil && op != "collapse" && !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("%s %v: %v", op, r, err)
			}
			check(t, m.Unlock(0, size)) // or MADV_COLD is refused
		}
	}
	holds(t, "after what widens", m, 0, data)

	empty := mapped[ReadWrite](t, Anonymous(0).Reserve(pg))
	for _, ops := range []map[string]func(off, n int) error{rangeOps(empty), losses(empty)} {
		for op, f := range ops {
			if err := f(0, 0); err != nil {
				t.Errorf("%s of an empty mapping: %v", op, err)
			}
			wants(t, op+" beyond an empty mapping", f(0, 1), os.ErrInvalid)
		}
	}
}

func TestRangeDeadHandles(t *testing.T) {
	closed := mapped[ReadWrite](t, Anonymous(10))
	check(t, closed.Close())
	moved := mapped[ReadWrite](t, Anonymous(10))
	defer must(Protect[ReadWrite](moved)).Close()
	late := mapped[ReadWrite](t, Anonymous(10))
	pin := must(late.Pin())
	defer pin.Unpin()
	check(t, late.Close())
	for _, c := range []struct {
		m    ReadWrite
		want error
	}{{ReadWrite{}, ErrClosed}, {closed, ErrClosed}, {moved, ErrMoved}, {late, ErrClosed}} {
		for _, ops := range []map[string]func(off, n int) error{rangeOps(c.m), losses(c.m)} {
			for op, f := range ops {
				for _, n := range []int{0, 10} {
					err := f(0, n)
					wants(t, op, err, c.want)
					names(t, err, 0, n)
				}
			}
		}
	}
}

// Advice that the kernel has, but not for this memory.
func TestAdviceRefused(t *testing.T) {
	pg := int(pageSize)
	f, _ := scratch(t, pg)
	file := mapped[ReadWrite](t, File(f, 0, pg))
	shared := mapped[ReadWrite](t, Anonymous(pg).Shared())
	locked := mapped[ReadWrite](t, Anonymous(pg))
	check(t, locked.LockOnFault(0, pg))
	for name, c := range map[string]struct {
		err  error
		want error
	}{
		"wipe on fork of a file": {file.WipeOnFork(0, pg), unix.EINVAL},
		"wipe on fork of shared": {shared.WipeOnFork(0, pg), unix.EINVAL},
		"free of a file":         {file.Free(0, pg), unix.EINVAL},
		"free of shared":         {shared.Free(0, pg), unix.EINVAL},
		"punch of anonymous":     {locked.Punch(0, pg), unix.EINVAL},
		"punch of private":       {file.Punch(0, pg), ErrPermission},
		"cold of locked":         {locked.Advise(0, 1, AdviceCold), unix.EINVAL},
		"page out of locked":     {locked.Advise(0, 1, AdvicePageOut), unix.EINVAL},
	} {
		wants(t, name, c.err, c.want)
		if c.err != nil && !strings.Contains(c.err.Error(), " at 0: ") {
			t.Error(c.err)
		}
	}
}

// inCache waits until as much of a mapping is in memory as wanted, for storage
// takes its time; what is the last count.
func inCache(t testing.TB, m mapping, try func(), good func(n int) bool) int {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		try()
		if n := must(m.Resident(0, m.Len())); good(n) || time.Now().After(end) {
			return n
		}
	}
}

// uncached drops a file's pages from memory.
func uncached(t testing.TB, f *os.File, m mapping) {
	t.Helper()
	check(t, f.Sync())
	check(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	if n := must(m.Resident(0, m.Len())); n != 0 {
		t.Skipf("the file system of %s keeps %d bytes in memory", f.Name(), n)
	}
}

func TestWillNeed(t *testing.T) {
	f, data := scratch(t, 32*int(pageSize))
	m := mapped[Read](t, Path(f.Name()))
	uncached(t, f, m)
	check(t, m.Advise(0, m.Len(), AdviceWillNeed))
	if n := inCache(t, m, func() {}, func(n int) bool { return n == m.Len() }); n != m.Len() {
		t.Errorf("%d of %d bytes were read", n, m.Len())
	}
	for _, e := range pagemap(t, m, 0, m.Len()) {
		if e&present != 0 {
			t.Error("a page is mapped, and not only in memory")
		}
	}
	holds(t, "needed", m, 0, data)
}

func TestPageOut(t *testing.T) {
	f, data := scratch(t, 32*int(pageSize))
	m := mapped[Read](t, Path(f.Name()))
	uncached(t, f, m) // or skips
	holds(t, "before", m, 0, data)
	if n := must(m.Resident(0, m.Len())); n != m.Len() {
		t.Error(n)
	}
	out := func() {
		if err := m.Advise(0, m.Len(), AdvicePageOut); !lacks(t, "MADV_PAGEOUT", err) {
			check(t, err)
		}
	}
	// Pages that another processor has just taken in hand stay.
	if n := inCache(t, m, out, func(n int) bool { return n < m.Len()/2 }); n >= m.Len()/2 {
		t.Errorf("%d of %d bytes have stayed", n, m.Len())
	}
	holds(t, "paged out", m, 0, data)
}

func TestCold(t *testing.T) {
	m, data := filled(t, 4*int(pageSize))
	if _, sum := smaps(t, m, 0, m.Len()); sum["Referenced"] != m.Len() {
		t.Skip("this kernel does not say what was referenced: ", sum)
	}
	for try := range 100 { // it passes over pages that another processor has in hand
		if err := m.Advise(int(pageSize), 2*int(pageSize), AdviceCold); lacks(t, "MADV_COLD", err) {
			break
		} else if check(t, err); try == 99 {
			t.Error("pages are still referenced")
		}
		if _, sum := smaps(t, m, 0, m.Len()); sum["Referenced"] == 2*int(pageSize) && sum["Rss"] == m.Len() {
			break
		}
	}
	holds(t, "cold", m, 0, data)
}

// present is set for the pages that are mapped; pagemap of proc(5).
const present = 1 << 63

func pagemap(t testing.TB, m mapping, off, n int) []uint64 {
	t.Helper()
	f, err := os.Open("/proc/self/pagemap")
	check(t, err)
	defer f.Close()
	start, end := (m.Addr()+uintptr(off))/pageSize, (m.Addr()+uintptr(off+n)-1)/pageSize+1
	b := make([]byte, 8*(end-start))
	check(t, second(f.ReadAt(b, 8*int64(start))))
	entries := make([]uint64, end-start)
	for i := range entries {
		entries[i] = binary.NativeEndian.Uint64(b[8*i:])
	}
	return entries
}

// forked starts a child with a copy of this process's memory, until the end of
// the test. It does nothing but wait, for there is no Go runtime in it; what it
// has is in /proc.
func forked(t testing.TB) (pid int) {
	t.Helper()
	child, e := clone()
	if e != 0 {
		t.Fatal(e)
	}
	t.Cleanup(func() {
		unix.Kill(int(child), unix.SIGKILL)
		unix.Wait4(int(child), nil, 0, nil)
	})
	return int(child)
}

//go:norace
//go:nosplit
func clone() (pid uintptr, e unix.Errno) {
	flags, stack := uintptr(unix.SIGCHLD), uintptr(0)
	if runtime.GOARCH == "s390x" {
		flags, stack = stack, flags
	}
	if pid, _, e = unix.RawSyscall6(unix.SYS_CLONE, flags, stack, 0, 0, 0, 0); e != 0 || pid != 0 {
		return pid, e
	}
	unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
	for {
		unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}

// What a forked child has of a mapping.
func TestFork(t *testing.T) {
	pg := int(pageSize)
	m, data := filled(t, 6*pg)
	check(t, m.Advise(pg, 1, AdviceDontFork))
	check(t, m.Advise(2*pg, 1, AdviceDontFork))
	check(t, m.Advise(2*pg, 1, AdviceDoFork))
	check(t, m.WipeOnFork(3*pg, 2*pg))
	check(t, m.Advise(4*pg, 1, AdviceKeepOnFork))
	if got := pagesWith(t, m, "wf"); got != "---x--" {
		t.Errorf("%s is wiped", got)
	}
	pid := forked(t)
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	check(t, err)
	defer mem.Close()
	for i := range 6 {
		got, want := make([]byte, pg), data[i*pg:][:pg]
		_, err := mem.ReadAt(got, int64(m.Addr())+int64(i*pg))
		switch i {
		case 1:
			if err == nil {
				t.Error("the child has a page of AdviceDontFork")
			}
			continue
		case 3:
			want = make([]byte, pg)
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("page %d: the child has other contents: %v", i, err)
		}
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	check(t, err)
	for i, want := range []bool{false, true, false} { // areas end before the page and begin after it
		edge := fmt.Sprintf("%x-", m.Addr()+uintptr((i)*pg))
		if i > 0 && strings.Contains("\n"+string(maps), "\n"+edge) == want {
			t.Errorf("the child's table has %s or has not:\n%s", edge, maps)
		}
	}
	holds(t, "the parent", m, 0, data)
}

// What is left after Discard belongs to the file, or is zeros.
func TestDiscard(t *testing.T) {
	pg := int(pageSize)
	f, disk := scratch(t, 3*pg)
	zeros := make([]byte, 3*pg)
	for name, c := range map[string]struct {
		s    Spec
		want []byte // nil: what was written
	}{
		"anonymous": {Anonymous(3*pg - 5), zeros}, "private file": {File(f, 0, 3*pg-5), disk},
		"shared": {Anonymous(3*pg - 5).Shared(), nil}, "shared file": {File(must(Memfd("x", int64(3*pg), 0)), 0, 3*pg-5).Shared(), nil},
	} {
		for _, r := range [][2]int{{0, pg}, {pg, pg}, {pg, 2*pg - 5}, {0, 3*pg - 5}} {
			for op := range 2 {
				m := apart[ReadWrite](t, c.s, 3)
				want := fill(t, m)
				if err := [](func(off, n int) error){m.Discard, m.DiscardLocked}[op](r[0], r[1]); op == 1 && lacks(t, "MADV_DONTNEED_LOCKED", err) {
					continue
				} else if err != nil {
					t.Errorf("%s %v: %v", name, r, err)
				}
				pages := (r[1] + pg - 1) / pg
				if _, sum := smaps(t, m, 0, m.Len()); sum["Rss"] != (3-pages)*pg {
					t.Errorf("%s %v: %d bytes are left", name, r, sum["Rss"])
				}
				if c.want != nil {
					copy(want[r[0]:], c.want[r[0]:r[0]+r[1]])
				}
				holds(t, fmt.Sprint(name, r), m, 0, want)
				check(t, m.Close())
			}
		}
	}
	got, err := os.ReadFile(f.Name())
	if check(t, err); !bytes.Equal(got, disk) {
		t.Error("the file has changed")
	}
}

// Locked pages are not discarded by accident; on purpose they are, and stay
// locked.
func TestDiscardLocked(t *testing.T) {
	pg := int(pageSize)
	m, data := filled(t, 2*pg)
	check(t, m.Lock(pg, pg))
	for op, f := range losses(m) {
		if op == "discard locked" || op == "guard pages removal" || op == "wipe on fork" {
			continue
		}
		err := f(pg, pg)
		if op == "guard pages" && lacks(t, "MADV_GUARD_INSTALL", err) {
			continue
		}
		wants(t, op+" of locked pages", err, unix.EINVAL)
		if err == nil || !strings.Contains(err.Error(), "the pages are locked") {
			t.Error(err)
		}
	}
	holds(t, "locked", m, 0, data)
	if err := m.DiscardLocked(pg, pg); lacks(t, "MADV_DONTNEED_LOCKED", err) {
		return
	} else if err != nil {
		t.Error(err)
	}
	holds(t, "discarded", m, pg, make([]byte, pg))
	if got := pagesWith(t, m, "lo"); got != "-x" {
		t.Errorf("%s is locked", got)
	}
	if _, sum := smaps(t, m, pg, pg); sum["Locked"] != 0 && sum["Rss"] != pg {
		t.Error(sum)
	}
	// A refusal in the middle of a range comes after the pages before it.
	wants(t, "half locked", m.Discard(0, 2*pg), unix.EINVAL)
	holds(t, "half locked", m, pg, make([]byte, pg))
}

// In an Unknown the account is asked first, so that nothing is lost half-way.
func TestLossesPermission(t *testing.T) {
	pg := int(pageSize)
	for _, p := range []Prot{ProtNone, ProtRead, ProtRead | ProtExec} {
		m, data := filled(t, 3*pg)
		u := must(Forget(m))
		defer u.Close()
		check(t, u.ProtectRange(pg, pg, p))
		before := table(t, u)
		for op, f := range losses(u) {
			err := f(0, 3*pg)
			wants(t, op, err, ErrPermission, unix.EACCES)
			names(t, err, 0, 3*pg)
			if err != nil && !strings.Contains(err.Error(), fmt.Sprintf("%v page at offset %d", p, pg)) {
				t.Error(err)
			}
			wants(t, op, f(pg, pg), ErrPermission)
		}
		wants(t, "prefault for writing", u.PrefaultWrite(0, 3*pg), ErrPermission)
		check(t, u.Discard(2*pg, pg))
		check(t, u.PrefaultWrite(2*pg, pg))
		if after := table(t, u); after != before {
			t.Errorf("was\n%s\nis\n%s", before, after)
		}
		check(t, u.Protect(ProtRead|ProtWrite))
		holds(t, "unknown", u, 0, append(data[:2*pg], make([]byte, pg)...))
	}
}

func TestFree(t *testing.T) {
	pg := int(pageSize)
	m, data := filled(t, 128*pg)
	if err := m.Free(pg, 127*pg); lacks(t, "MADV_FREE", err) {
		return
	} else if err != nil {
		t.Error(err)
	}
	// The kernel marks pages in batches.
	if _, sum := smaps(t, m, 0, m.Len()); sum["LazyFree"] < 64*pg || sum["LazyFree"] > 127*pg || sum["Rss"] > m.Len() {
		t.Error(sum["LazyFree"], sum["Rss"])
	}
	got := make([]byte, pg)
	for off := 0; off < m.Len(); off += pg {
		check(t, second(m.ReadAt(got, int64(off))))
		if !bytes.Equal(got, data[off:off+pg]) && (off == 0 || !bytes.Equal(got, make([]byte, pg))) {
			t.Errorf("at %d: neither zeros nor what was", off)
		}
	}
	check(t, second(m.WriteAt(data, 0)))
	if _, sum := smaps(t, m, 0, m.Len()); sum["LazyFree"] != 0 {
		t.Error("pages that were written again may go: ", sum["LazyFree"])
	}
}

// storage returns how many bytes of storage a file takes.
func storage(t testing.TB, f *os.File) int64 {
	t.Helper()
	var st unix.Stat_t
	check(t, unix.Fstat(int(f.Fd()), &st))
	return st.Blocks * 512
}

func TestPunch(t *testing.T) {
	pg := int(pageSize)
	block := 16 * pg // no file system has larger ones
	disk, _ := scratch(t, 3*block)
	for _, f := range []*os.File{disk, must(Memfd("punched", int64(3*block), 0))} {
		m := mapped[ReadWrite](t, File(f, 0, 3*block).Shared())
		other := mapped[Read](t, File(f, int64(block), 2*block))
		want := fill(t, m)
		check(t, f.Sync())
		before := storage(t, f)
		err := m.Punch(block, block)
		if errors.Is(err, errors.ErrUnsupported) {
			t.Logf("not tested: the file system of %s: %v", f.Name(), err)
			continue
		}
		check(t, err)
		if at, err := f.Seek(0, unix.SEEK_HOLE); err != nil || at != int64(block) {
			t.Errorf("%s: the hole is at %d, %v", f.Name(), at, err)
		}
		if after := storage(t, f); after != before-int64(block) {
			t.Errorf("%s: %d bytes of storage, before %d", f.Name(), after, before)
		}
		if st := must(f.Stat()); st.Size() != int64(3*block) {
			t.Error("the file has another size: ", st.Size())
		}
		clear(want[block : 2*block])
		holds(t, f.Name(), m, 0, want)
		holds(t, f.Name()+" elsewhere", other, 0, want[block:])
		f.Close()
	}
	m := mapped[ReadWrite](t, Anonymous(2*pg).Shared())
	want := fill(t, m)
	check(t, m.Punch(pg, pg))
	clear(want[pg:])
	holds(t, "shared anonymous", m, 0, want)
	if _, sum := smaps(t, m, 0, 2*pg); sum["Rss"] != 0 && sum["Rss"] > 2*pg {
		t.Error(sum)
	}
}

// Bytes of the file that are not in the mapping are not the mapping's to lose,
// though they share its first or last page.
func TestPunchOutside(t *testing.T) {
	pg := int(pageSize)
	f, data := scratch(t, 3*pg)
	for _, c := range []struct{ off, n int }{{100, pg - 100}, {100, 2*pg - 100}, {0, pg + 100}, {100, 7}, {pg + 9, 9}} {
		m := mapped[ReadWrite](t, File(f, int64(c.off), c.n).Shared())
		if err := m.Punch(0, c.n); errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		got, err := os.ReadFile(f.Name())
		check(t, err)
		if !bytes.Equal(got[:c.off], data[:c.off]) || !bytes.Equal(got[c.off+c.n:], data[c.off+c.n:]) {
			t.Errorf("Punch of %d bytes at file offset %d has destroyed bytes outside of the mapping", c.n, c.off)
		}
		check(t, os.WriteFile(f.Name(), data, 0))
	}
}

// guardCause is what a fault in a guard page is known to be: before Linux 6.15
// the kernel does not tell.
func guardCause(t testing.TB, m mapping, off int) error {
	if pagemap(t, m, off, 1)[0]&(1<<58) == 0 {
		return ErrFault
	}
	return ErrGuard
}

// guarding is filled, with guard pages.
func guarding(t testing.TB, n, off, size int) (ReadWrite, []byte) {
	t.Helper()
	m, data := filled(t, n)
	err := m.InstallGuardPages(off, size)
	if lacks(t, "MADV_GUARD_INSTALL", err) {
		wants(t, "removal", m.RemoveGuardPages(off, size), errors.ErrUnsupported)
		holds(t, "unsupported", m, 0, data)
		t.Skip(err)
	}
	check(t, err)
	return m, data
}

// faults fails unless err is a fault at this offset, for one of these causes.
func faults(t testing.TB, what string, err error, offset int, causes ...error) {
	t.Helper()
	var fault *FaultError
	if !errors.As(err, &fault) || fault.Offset != offset && runtime.GOARCH != "s390x" {
		t.Errorf("%s: %v, want a fault at offset %d", what, err, offset)
	}
	wants(t, what, err, append(causes, ErrFault)...)
}

func TestGuardPages(t *testing.T) {
	pg := int(pageSize)
	m, data := guarding(t, 4*pg, pg, 2*pg)
	cause := guardCause(t, m, pg)
	if r := must(m.Regions()); len(r) != 1 {
		t.Error("the mapping is divided: ", r)
	}
	got := make([]byte, 4*pg)
	n, err := m.ReadAt(got, 3)
	if faults(t, "read", err, pg, cause); n != pg-3 || !bytes.Equal(got[:n], data[3:pg]) {
		t.Error(n)
	}
	n, err = m.WriteAt(data[9:], 9)
	if faults(t, "write", err, pg, cause); n != pg-9 {
		t.Error(n)
	}
	faults(t, "view", m.View(func(b []byte) error { got[0] = b[2*pg+1]; return nil }), 2*pg+1, cause)
	faults(t, "update", m.Update(func(b []byte) error { b[3*pg-1] = 1; return nil }), 3*pg-1, cause)
	faults(t, "prefault", m.Prefault(0, 4*pg), pg, cause)
	faults(t, "prefault for writing", m.PrefaultWrite(2*pg+5, 1), 2*pg, cause)
	faults(t, "lock", m.Lock(0, 4*pg), pg, cause)
	if got := pagesWith(t, m, "lo"); got != "----" {
		t.Errorf("%s is locked after all", got)
	}
	// The kernel, too, stops there.
	var p [2]int
	check(t, unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK))
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	b := m.UnsafeBytes()
	_, err = unix.Write(p[1], b[pg:2*pg])
	wants(t, "write(2) out of it", err, unix.EFAULT)
	check(t, second(unix.Write(p[1], b[:1])))
	_, err = unix.Read(p[0], b[2*pg:])
	wants(t, "read(2) into it", err, unix.EFAULT)
	check(t, m.InstallGuardPages(pg, pg)) // again
	holds(t, "before it", m, 0, data[:pg])
	holds(t, "after it", m, 3*pg, data[3*pg:])

	check(t, m.RemoveGuardPages(0, 2*pg)) // and a page that is none
	holds(t, "what was no guard page", m, 0, append(data[:pg:pg], make([]byte, pg)...))
	faults(t, "the other one", second(m.ReadAt(got[:1], int64(2*pg))), 2*pg, cause)
	check(t, m.Discard(2*pg, pg))
	faults(t, "after Discard", second(m.ReadAt(got[:1], int64(2*pg))), 2*pg, cause)
	check(t, m.RemoveGuardPages(2*pg, pg))
	check(t, m.Lock(0, 4*pg))
	wants(t, "locked", m.InstallGuardPages(0, pg), unix.EINVAL)
	check(t, m.RemoveGuardPages(0, 4*pg))
	holds(t, "at last", m, 0, append(data[:pg:pg], append(make([]byte, 2*pg), data[3*pg:]...)...))
}

// Guard pages belong to the pages, whatever happens to the handle.
func TestGuardPagesStay(t *testing.T) {
	pg := int(pageSize)
	m, data := guarding(t, 4*pg, pg, pg)
	cause := guardCause(t, m, pg)
	guarded := func(what string, m mapping) {
		t.Helper()
		faults(t, what, m.Prefault(0, m.Len()), pg, cause)
		u := m.(interface {
			ReadAt([]byte, int64) (int, error)
		})
		holds(t, what, u, 0, data[:pg])
		holds(t, what, u, 2*pg, data[2*pg:])
	}
	ro := must(Protect[Read](m))
	guarded("protected", ro)
	faults(t, "a store", ro.View(func(b []byte) error { b[pg] = 1; return nil }), pg, cause)
	u := must(Forget(ro))
	check(t, u.ProtectRange(pg, pg, ProtNone))
	wants(t, "no permission comes first", second(u.ReadAt(make([]byte, 1), int64(pg))), ErrPermission)
	check(t, u.Protect(ProtRead|ProtWrite))
	guarded("unknown", u)
	m = must(Assert[ReadWrite](u))
	l, r, err := Split(m, pg)
	check(t, err)
	faults(t, "the right side", r.Prefault(0, 1), 0, cause)
	m = must(Join(l, r))
	guarded("joined", m)
	m = must(Move(m, hole(t, 6)+pageSize))
	guarded("moved", m)
	at := m.Addr()
	wall := mapped[None](t, Anonymous(pg).At(at+4*pageSize))
	m = must(Resize(m, 9*pg))
	if m.Addr() == at {
		t.Error("resized through a wall")
	}
	check(t, wall.Close())
	data = append(data, make([]byte, 5*pg)...)
	guarded("resized", m)
	m = must(Over[ReadWrite](m, Anonymous(m.Len())))
	holds(t, "mapped over", m, 0, make([]byte, 9*pg))
	check(t, m.Close())
}

// In a file's mapping, the file stays what it is.
func TestGuardPagesFile(t *testing.T) {
	pg := int(pageSize)
	f, data := scratch(t, 3*pg)
	for _, s := range []Spec{File(f, 0, 3*pg), File(f, 0, 3*pg).Shared()} {
		m := mapped[ReadWrite](t, s)
		other := mapped[ReadWrite](t, File(f, 0, 3*pg).Shared())
		private := make([]byte, pg)
		check(t, second(m.WriteAt(private, int64(pg))))
		switch err := m.InstallGuardPages(pg, pg); {
		case lacks(t, "MADV_GUARD_INSTALL", err):
			return
		case errors.Is(err, unix.EINVAL):
			t.Skip("guard pages in a file need Linux 6.15: ", err)
		default:
			check(t, err)
		}
		faults(t, "file", m.Prefault(0, 3*pg), pg, ErrGuard)
		check(t, second(other.WriteAt([]byte("elsewhere"), int64(pg))))
		copy(data[pg:], must(os.ReadFile(f.Name()))[pg:2*pg])
		check(t, m.RemoveGuardPages(pg, pg))
		holds(t, "file", m, 0, data)
	}
}

// Huge pages are no place for guards, nor is a part of one for a loss.
func TestLossesHugePages(t *testing.T) {
	huge := int(withHugePages(t, 2))
	m := mapped[ReadWrite](t, Anonymous(2*huge).HugePages(0))
	check(t, second(m.WriteAt([]byte{1}, 0)))
	check(t, second(m.WriteAt([]byte{1}, int64(huge))))
	for op, f := range losses(m) {
		wants(t, op, f(0, int(pageSize)), os.ErrInvalid)
		wants(t, op, f(int(pageSize), huge-int(pageSize)), os.ErrInvalid)
	}
	if err := m.InstallGuardPages(0, huge); !lacks(t, "MADV_GUARD_INSTALL", err) {
		wants(t, "guard pages", err, unix.EINVAL)
	}
	wants(t, "free", m.Free(0, huge), unix.EINVAL)
	for op, f := range rangeOps(m) { // widened to huge pages
		if err := f(huge-1, 1); err != nil && op != "MADV_COLD" && op != "collapse" {
			t.Errorf("%s: %v", op, err)
		}
	}
	if n := must(m.Resident(huge-1, 2)); n != 2*huge {
		t.Errorf("%d bytes are resident", n)
	}
	check(t, m.Unlock(0, 2*huge))
	check(t, m.Discard(huge, huge))
	// The page may be another process's by now, so it is not asked for again.
	if pages := must(m.ResidentPages(0, 2*huge)); !pages[0] || pages[len(pages)/2] {
		t.Error("the first huge page has gone, or the second has not")
	}
	holds(t, "kept", m, 0, []byte{1})
}

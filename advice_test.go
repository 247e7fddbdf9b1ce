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

// lacks reports, and logs, that the kernel lacks what err speaks of, or that it is forbidden.
// Then the error must be that of Probe.
func lacks(t testing.TB, feature string, err error) bool {
	t.Helper()
	missing := Probe(feature)
	if missing == nil {
		return false
	}
	t.Log("not tested: ", missing)
	lacking(t, feature, err, missing)
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
			if err := f(r[0], r[1]); err != nil && op != "collapse" && !unavailable(err) {
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
		time.Sleep(time.Duration(try) * time.Millisecond)
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

// storage returns how many bytes of storage a file takes.
func storage(t testing.TB, f *os.File) int64 {
	t.Helper()
	var st unix.Stat_t
	check(t, unix.Fstat(int(f.Fd()), &st))
	return st.Blocks * 512
}

// guardCause is what a fault in a guard page is known to be: before Linux 6.15
// the kernel does not tell.
func guardCause(t testing.TB, m mapping, off int) error {
	if pagemap(t, m, off, 1)[0]&(1<<58) == 0 {
		return ErrFault
	}
	return ErrGuard
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

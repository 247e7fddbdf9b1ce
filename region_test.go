//go:build linux

package mmap

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// collected reports whether the page at addr is unmapped after a few
// collections. Another test may map something there meanwhile: marked memory
// tells, 0xa5 in the first byte.
func collected(t testing.TB, addr uintptr) bool {
	t.Helper()
	for range 20 {
		runtime.GC()
		time.Sleep(2 * time.Millisecond)
		if !isMapped(t, addr) {
			return true
		}
	}
	return false
}

//go:noinline
func lose(t testing.TB, at uintptr, use func(m ReadWrite)) {
	m, err := Map[ReadWrite](Anonymous(3 * int(pageSize)).At(at))
	check(t, err)
	use(m)
}

func TestCollection(t *testing.T) {
	for name, c := range map[string]struct {
		use  func(m ReadWrite)
		kept bool
	}{
		"lost":      {func(ReadWrite) {}, false},
		"after use": {func(m ReadWrite) { m.WriteAt([]byte{1}, 0) }, false},
		"after pin": {func(m ReadWrite) { must(m.Pin()).Unpin() }, false},
		"protected": {func(m ReadWrite) { must(Protect[Read](m)) }, false},
		"old age":   {func(m ReadWrite) { runtime.GC(); runtime.GC(); runtime.KeepAlive(m.r) }, false},
		"lost pin":  {func(m ReadWrite) { must(m.Pin()) }, true},
		"lent":      {func(m ReadWrite) { m.UnsafeBytes() }, true},
		"lent, then split": {func(m ReadWrite) {
			m.UnsafeBytes()
			_, _, err := Split(m, int(pageSize))
			check(t, err)
		}, true},
		"lent, then joined": {func(m ReadWrite) {
			l, r, err := Split(m, int(pageSize))
			check(t, err)
			r.UnsafeBytes()
			must(Join(l, r))
		}, true},
		"closed under a lost pin": {func(m ReadWrite) { must(m.Pin()); check(t, m.Close()) }, true},
		"released":                {func(m ReadWrite) { m.Release() }, true},
	} {
		at := hole(t, 3)
		lose(t, at, c.use)
		if got := collected(t, at+2*pageSize); got == c.kept {
			t.Errorf("%s: unmapped is %v", name, got)
		}
		// What is the library's stays: at its place no test can have other memory.
		if r, _ := regionAt(at); c.kept && r == nil {
			check(t, sys.Munmap(at, 3*pageSize))
		}
	}
}

func TestAliveInUse(t *testing.T) {
	at := hole(t, 3)
	lose(t, at, func(m ReadWrite) {
		check(t, m.View(func(b []byte) error {
			m = ReadWrite{}
			for range 5 {
				runtime.GC()
				time.Sleep(time.Millisecond)
			}
			if b[100] != 0 {
				t.Error("other memory")
			}
			return nil
		}))
	})
	if !collected(t, at) {
		t.Error("not collected after the view")
	}
	var pin *Pin
	lose(t, at, func(m ReadWrite) { pin = must(m.Pin()) })
	if collected(t, at) {
		t.Error("collected under a pin")
	}
	check(t, Guard(func() error { pin.Bytes()[0] = 1; return nil }, pin))
	pin.Unpin()
	if !collected(t, at) {
		t.Error("not collected after Unpin")
	}
}

// Pins that are counted in stripes keep a mapping as those in the word do.
func TestStripes(t *testing.T) {
	striped := func() ReadWrite {
		m := mapped[ReadWrite](t, Anonymous(int(pageSize)).At(hole(t, 1)))
		inStripes(t, m)
		return m
	}
	refused := func(what string, m ReadWrite) {
		t.Helper()
		if !m.r.Striped() || m.r.Idle() {
			t.Errorf("%s: not in a stripe", what)
		}
		for by, err := range transitions(m) {
			wants(t, what+", "+by, err, ErrBusy)
		}
	}
	m := striped()
	check(t, m.View(func([]byte) error { refused("view", m); return nil }))
	pin := must(m.Pin())
	refused("pin", m)
	pin.Unpin()
	check(t, second(m.WriteAt([]byte{1}, 0)))
	if m = must(Protect[ReadWrite](m)); !m.r.Idle() {
		t.Error("a pin is left over")
	}
	check(t, m.Close()) // with stripes, and nothing in them
	// Close takes effect when the last one is out.
	m = striped()
	at := m.Addr()
	check(t, m.View(func(b []byte) error {
		pin := must(m.Pin())
		check(t, m.Close())
		wants(t, "closed twice", m.Close(), ErrClosed)
		wants(t, "a view after Close", m.View(nil), ErrClosed)
		pin.Unpin()
		b[0] = 2
		return nil
	}))
	if isMapped(t, at) {
		t.Error("mapped after the last view")
	}
}

// inStripes has a mapping's pins counted in stripes from now on, by filling the counter
// of the others.
func inStripes[M Handle](t testing.TB, m M) {
	t.Helper()
	var pins []*Pin
	for !m.Untyped().ticket.r.Striped() {
		pins = append(pins, must(m.Pin()))
	}
	for _, pin := range pins {
		pin.Unpin()
	}
}

// Of several that close a mapping at once, one does.
func TestCloseAtOnce(t *testing.T) {
	for range 20000 {
		m := must(Map[Read](Anonymous(1)))
		var ready, done atomic.Int32
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for ready.Add(1); ready.Load() < 2; {
					runtime.Gosched()
				}
				if err := m.Close(); err == nil {
					done.Add(1)
				} else if !errors.Is(err, ErrClosed) {
					t.Error(err)
				}
			})
		}
		if wg.Wait(); done.Load() != 1 {
			t.Fatalf("%d have closed it", done.Load())
		}
		if slices.Contains(everyRegion(), m.r) {
			t.Fatal("the collector still cares for it")
		}
	}
}

// Closed mappings that wait in the nursery are never many more than others, also where
// several goroutines map and close, and none that is open gets lost.
func TestSweep(t *testing.T) {
	if !byItself(t) {
		return
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	runtime.GC()
	inNursery := func() (open, closed int) {
		nursery.Lock()
		defer nursery.Unlock()
		for r := nursery.young.Load(); r != nil; r = r.older {
			if r.Gone() {
				closed++
			} else {
				open++
			}
		}
		return open, closed
	}
	var kept []Read
	for _, n := range []int{0, 10, 100, 1000} {
		for range n {
			kept = append(kept, must(Map[Read](Anonymous(1))))
		}
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for range 3000 {
					ok(must(Map[Read](Anonymous(1))).Close())
				}
			})
		}
		all.Wait()
		if open, closed := inNursery(); open != len(kept) || closed > max(leastSweep, open)+4 {
			t.Errorf("of %d mappings %d are in the nursery, and %d closed ones", len(kept), open, closed)
		}
		if all := everyRegion(); len(all) != len(kept) {
			t.Errorf("%d mappings are known of %d", len(all), len(kept))
		}
	}
	runtime.GC()
	for range 1000 {
		if open, closed := inNursery(); open+closed == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if all := everyRegion(); len(all) != len(kept) {
		t.Errorf("after a collection %d mappings are known of %d", len(all), len(kept))
	}
	for _, m := range kept {
		check(t, m.Close())
	}
	if all := everyRegion(); len(all) != 0 {
		t.Errorf("%d mappings are known, and all are closed", len(all))
	}
}

func TestHeap(t *testing.T) {
	if sys.Race || testing.CoverMode() != "" {
		t.Skip("the race detector and coverage change what is allocated")
	}
	if !byItself(t) { // where nobody watches for what is not closed
		return
	}
	const n = 2000
	maps := make([]Read, n)
	heap := func() uint64 {
		for range 3 {
			runtime.GC()
			time.Sleep(5 * time.Millisecond)
		}
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	before := heap()
	for i := range maps {
		maps[i] = must(Map[Read](Anonymous(1)))
	}
	each := int64(heap()-before) / n
	for _, m := range maps {
		check(t, m.Close())
	}
	if each > 256 {
		t.Errorf("a live mapping has %d bytes of Go heap", each)
	}
	t.Logf("%d bytes of Go heap a mapping", each)
}

// At the limit vm.max_map_count, unmapping the middle of a merged area fails:
// the mapping stays owned and closable.
func TestMapLimit(t *testing.T) {
	limit, err := os.ReadFile("/proc/sys/vm/max_map_count")
	check(t, err)
	most, err := strconv.Atoi(strings.TrimSpace(string(limit)))
	check(t, err)
	if most > 1<<18 {
		t.Skip("vm.max_map_count is too high to reach: ", most)
	}
	child, out, err := inChild(t)
	if !child {
		if err != nil || !strings.Contains(out, "--- PASS") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	pg := int(pageSize)
	m := mapped[ReadWrite](t, Anonymous(9*pg).Near(0x10_0000*pageSize))
	left, rest, err := Split(m, 3*pg)
	check(t, err)
	middle, right, err := Split(rest, 3*pg)
	check(t, err)
	pinned := mapped[ReadWrite](t, Anonymous(9*pg).Near(0x20_0000*pageSize))
	pl, prest, err := Split(pinned, 3*pg)
	check(t, err)
	pm, pr, err := Split(prest, 3*pg)
	check(t, err)
	check(t, second(middle.WriteAt([]byte{7}, 0)))
	pin := must(pm.Pin())

	// Pages that differ from their neighbours use up every area there is.
	big, err := MapUnknown(Anonymous((most+64)*pg).Near(0x40_0000*pageSize), ProtNone)
	check(t, err)
	used := 0
	for off := 0; off < big.Len() && err == nil; off += 2 * pg {
		if err = big.ProtectRange(off, pg, ProtRead); err == nil {
			used++
		}
	}
	wants(t, "the limit", err, unix.ENOMEM)
	for i := 0; i < 3; i++ { // and the odd one that is left
		Map[Read](Anonymous(pg)) //mmapvet:ignore ignored the limit is to be reached
	}

	wants(t, "close", middle.Close(), unix.ENOMEM)
	b := make([]byte, 1)
	if _, err := middle.ReadAt(b, 0); err != nil || b[0] != 7 {
		t.Error("after a Close that failed:", b, err)
	}
	check(t, pm.Close())
	pin.Unpin() // fails to unmap
	_, err = pm.ReadAt(b, 0)
	wants(t, "after the late unmap", err, ErrClosed)
	wants(t, "close again", pm.Close(), unix.ENOMEM)
	if !isMapped(t, pr.Addr()-pageSize) {
		t.Error("unmapped all the same")
	}
	_, err = Protect[Read](middle)
	wants(t, "protect", err, unix.ENOMEM)
	if one := table(t, middle); strings.Contains(one, "r--") {
		t.Error("half protected: ", one)
	}
	_, err = Over[Read](middle, Anonymous(3*pg))
	if wants(t, "over", err, unix.ENOMEM); middle.Len() != 3*pg {
		t.Error("over has consumed it")
	}

	check(t, big.Close())
	check(t, pm.Close())
	wants(t, "and again", pm.Close(), ErrClosed)
	for _, m := range []ReadWrite{left, middle, right, pl, pr} {
		check(t, m.Close())
	}
}

// withHugePages reserves n huge pages of the default size for the test.
func withHugePages(t testing.TB, n int) uintptr {
	size, _, err := hugeFlags(0)
	if err != nil {
		t.Skip(err)
	}
	used := func() uint64 {
		return number("/proc/meminfo", "HugePages_Total:") - number("/proc/meminfo", "HugePages_Free:") + number("/proc/meminfo", "HugePages_Rsvd:")
	}
	before := used()
	if os.Getenv("MMAP_TEST_MACHINE") != "1" {
		spare := int(number("/proc/meminfo", "HugePages_Total:")) - int(before) - n
		if spare < 0 {
			t.Skipf("%d free huge pages are needed: set vm.nr_hugepages, or MMAP_TEST_MACHINE=1 as root", n)
		}
		if spare > 0 { // then n are left; not the library's, of which a test can have all collected
			others, err := unix.Mmap(-1, 0, spare*int(size), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_HUGETLB)
			check(t, err)
			t.Cleanup(func() { check(t, unix.Munmap(others)) })
		}
		before += uint64(spare)
	} else {
		setPool(t, n)
	}
	t.Cleanup(func() {
		if is := used(); is != before {
			t.Errorf("%d huge pages are mapped, and before %d", is, before)
		}
	})
	return size
}

const poolFile, poolKeeper = "/proc/sys/vm/nr_hugepages", "MMAP_TEST_POOL"

// TestMain fails tests that leave the machine other than they found it.
func TestMain(m *testing.M) {
	before, closed := content(poolFile), Leaks()
	m.Run()
	if !closed() {
		os.Exit(1)
	}
	if is := content(poolFile); is != "" && is != before { // a test can hide the file
		fmt.Fprintf(os.Stderr, "FAIL: vm.nr_hugepages was %s, and is %s\n", before, is)
		os.Exit(1)
	}
}

// As the process that puts the pool back, this program does nothing else.
func init() {
	if old := os.Getenv(poolKeeper); old != "" {
		io.Copy(io.Discard, os.Stdin)
		if err := os.WriteFile(poolFile, []byte(old), 0); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// setPool sets the size of the huge pages' pool, the machine's, for the test. A
// process of its own puts it back when the test ends or this process does, however
// it is killed: then the pipe closes.
func setPool(t testing.TB, n int) {
	t.Helper()
	const file = poolFile
	old, err := os.ReadFile(file)
	check(t, err)
	program, err := os.Executable()
	check(t, err)
	keeper := exec.Command(program)
	keeper.Env = append(os.Environ(), poolKeeper+"="+strings.TrimSpace(string(old)))
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // out of reach of the terminal's ^C
	pipe, err := keeper.StdinPipe()
	check(t, err)
	check(t, keeper.Start())
	t.Cleanup(func() { pipe.Close(); keeper.Wait() })
	if err := os.WriteFile(file, []byte(strconv.Itoa(n)), 0); err != nil {
		t.Skip("reserving huge pages is not allowed: ", err)
	}
	if got := content(file); got != strconv.Itoa(n) {
		t.Skipf("the kernel has reserved %s huge pages of %d", got, n)
	}
}

func TestHugePages(t *testing.T) {
	size := withHugePages(t, 4)
	huge := int(size)
	m, err := Map[ReadWrite](Anonymous(100).HugePages(0))
	check(t, err)
	if m.Len() != 100 || m.Cap() != 100 || m.Addr()%size != 0 {
		t.Error(m)
	}
	if r := must(m.Regions()); len(r) != 1 || r[0].Size() != uint64(size) {
		t.Error(r)
	}
	check(t, second(m.WriteAt(bytes.Repeat([]byte{1}, 100), 0)))
	m, err = Resize(m, huge)
	check(t, err)
	ro, err := Protect[Read](m)
	check(t, err)
	_, _, err = Split(ro, int(pageSize))
	wants(t, "split of a huge page", err, os.ErrInvalid)
	same, err := Over[ReadWrite](ro, Anonymous(huge).HugePages(huge))
	check(t, err)
	b := make([]byte, 1)
	if check(t, second(same.ReadAt(b, 0))); b[0] != 0 {
		t.Error("the old page")
	}
	check(t, same.Close())

	// The reserve takes nothing from the pool.
	m, err = Map[ReadWrite](Anonymous(100).HugePages(0).Reserve(64 * huge))
	check(t, err)
	check(t, Grow(m, huge+1))
	check(t, second(m.WriteAt([]byte{9}, int64(huge))))
	check(t, Grow(m, 4*huge))
	wants(t, "the pool is empty", Grow(m, 4*huge+1), unix.ENOMEM)
	if m.Len() != 4*huge || len(must(m.Regions())) == 0 {
		t.Error(m)
	}
	_, err = Map[Read](Anonymous(1).HugePages(0))
	wants(t, "the pool is empty", err, unix.ENOMEM)
	before := table(t, m)
	if _, err := Over[ReadWrite](m, Anonymous(m.Len()).HugePages(0)); !errors.Is(err, unix.ENOMEM) || table(t, m) != before {
		t.Error(err, "or it has changed", table(t, m))
	}
	if _, err := m.ReadAt(b, int64(huge)); err != nil || b[0] != 9 {
		t.Error(b, err)
	}
	l, r, err := Split(m, 2*huge)
	check(t, err)
	if m, err = Join(l, r); err != nil {
		t.Fatal(err)
	}
	m, err = Resize(m, 100)
	check(t, err)
	l, r, err = Split(m, 100)
	check(t, err)
	if r, err = Resize(r, 5); err != nil {
		t.Fatal(err)
	}
	check(t, r.Close())
	addr, n, err := l.Release()
	check(t, err)
	part := 100
	if !tellsPages(t) {
		part = n // nobody says that these are huge pages
	}
	if u, err := UnsafeAdopt[ReadWrite](addr, part); err != nil || n != huge {
		t.Error(n, err)
	} else {
		check(t, u.Close())
	}
	if isMapped(t, addr) {
		t.Error("the huge page is still mapped")
	}
}

func TestSecret(t *testing.T) {
	if !hasSecret(t) {
		t.Skip("memfd_secret(2) is not available")
	}
	m, err := Map[ReadWrite](Secret(100))
	check(t, err)
	check(t, second(m.WriteAt([]byte("secret"), 3)))
	b := make([]byte, 6)
	if check(t, second(m.ReadAt(b, 3))); string(b) != "secret" {
		t.Error(b)
	}
	if r := must(m.Regions()); len(r) != 1 || r[0].Name != "/secretmem" || r[0].Perms.String() != "rw-s" {
		t.Error(r)
	}
	// Who asks the kernel for the pages does not get them.
	mem, err := os.Open("/proc/self/mem")
	check(t, err)
	defer mem.Close()
	if n, err := mem.ReadAt(b, int64(m.Addr())); err == nil {
		t.Errorf("/proc/self/mem shows %q", b[:n])
	}
	_, err = Resize(m, 2*int(pageSize))
	wants(t, "resize", err, os.ErrInvalid)
	check(t, m.Close())
}

func TestMemfd(t *testing.T) {
	pg := int(pageSize)
	for _, seals := range []Seal{0, SealShrink, SealShrink | SealGrow | SealSeal, SealFutureWrite, SealWrite} {
		f, err := Memfd("test", int64(pg)+5, seals)
		check(t, err)
		got, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
		if check(t, err); Seal(got) != seals {
			t.Errorf("seals %#x, not %#x", got, seals)
		}
		if st, err := f.Stat(); err != nil || st.Size() != int64(pg)+5 {
			t.Error(st, err)
		}
		m, err := Map[ReadWrite](File(f, 0, pg).Shared())
		if locked := seals&(SealWrite|SealFutureWrite) != 0; locked != errors.Is(err, ErrPermission) || !locked && err != nil {
			t.Errorf("seals %#x: %v", seals, err)
		}
		m.Close()
		if err := f.Truncate(1); (err == nil) != (seals&SealShrink == 0) {
			t.Errorf("seals %#x: truncated: %v", seals, err)
		}
		f.Close()
	}
	f, err := Memfd("exec", 1, SealExec)
	if err == nil {
		if got, _ := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); Seal(got)&SealExec == 0 {
			t.Errorf("seals %#x", got)
		}
		f.Close()
	} else {
		wants(t, "SealExec on an old kernel", err, errors.ErrUnsupported)
	}
	_, err = Memfd("x", -1, 0)
	wants(t, "negative size", err, os.ErrInvalid)
	_, err = Memfd("a\x00b", 1, 0)
	wants(t, "NUL in the name", err, os.ErrInvalid)
	_, err = Memfd(strings.Repeat("x", 250), 1, 0)
	wants(t, "a long name", err, os.ErrInvalid)
	_, err = Memfd("x", 1, 1<<20)
	wants(t, "no such seal", err, os.ErrInvalid)
}

func TestAllocate(t *testing.T) {
	f, _ := scratch(t, 1)
	check(t, Allocate(f, 10, 5000))
	check(t, Allocate(f, 10, 0))
	if st, err := f.Stat(); err != nil || st.Size() != 5010 {
		t.Error(st, err)
	}
	wants(t, "nil", Allocate(nil, 0, 1), os.ErrInvalid)
	wants(t, "offset", Allocate(f, -1, 1), os.ErrInvalid)
	wants(t, "size", Allocate(f, 0, -1), os.ErrInvalid)
	wants(t, "sum", Allocate(f, 1<<62, 1<<62), unix.EFBIG)
	f.Close()
	wants(t, "closed", Allocate(f, 0, 1), os.ErrClosed, unix.EBADF)
	wants(t, "closed, nothing", Allocate(f, 0, 0), os.ErrClosed, unix.EBADF)
}

func TestLock(t *testing.T) {
	size := int(pageSize)
	locked := func(m mapping) bool { return strings.Contains(smapsOf(t, m.Addr())["VmFlags"], " lo") }
	at := hole(t, 16)
	m := mapped[ReadWrite](t, Anonymous(size).Reserve(4*size).Lock().At(at))
	check(t, Grow(m, 2*size))
	if r := must(m.Regions()); len(r) != 2 || r[0].Size() != uint64(2*size) || !locked(m) {
		t.Error("not all of it is locked:", r)
	}
	if n := mapped[None](t, Anonymous(size).Lock().At(at+8*pageSize)); !locked(n) {
		t.Error("not locked")
	}
	child, out, err := inChild(t)
	if child {
		check(t, unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 0, Max: 0}))
		if os.Geteuid() == 0 {
			check(t, unix.Setresuid(65534, 65534, 65534))
		}
		at := hole(t, 1)
		_, err := Map[ReadWrite](Anonymous(size).Lock().At(at))
		if wants(t, "over the limit", err, unix.EPERM); isMapped(t, at) {
			t.Error("and yet it is mapped")
		}
		return
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Over and Place show the new pages, in one step.
func TestReplace(t *testing.T) {
	pg := int(pageSize)
	f, data := scratch(t, 4*pg)
	m := mapped[ReadWrite](t, Anonymous(3*pg))
	check(t, second(m.WriteAt(bytes.Repeat([]byte{0xcc}, 3*pg), 0)))
	addr := m.Addr()
	ro, err := Over[Read](m, File(f, int64(pg), 3*pg))
	check(t, err)
	got := make([]byte, 3*pg)
	if _, err := ro.ReadAt(got, 0); err != nil || !bytes.Equal(got, data[pg:]) || ro.Addr() != addr {
		t.Error(err, "or other contents")
	}
	u, err := Forget(ro)
	check(t, err)
	check(t, u.Place(pg, Anonymous(pg), ProtRead|ProtWrite))
	check(t, u.Place(2*pg+7, File(f, 7, pg-7).Shared(), ProtRead))
	check(t, u.Place(5, Anonymous(0), ProtNone))
	want := append(append(data[pg:2*pg:2*pg], make([]byte, pg)...), data[:pg]...)
	if _, err := u.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Error(err, "or other contents")
	}
	if n, err := u.WriteAt(make([]byte, 3*pg), int64(pg)); n != pg || !errors.Is(err, ErrPermission) {
		t.Error(n, err)
	}
	check(t, u.Close())

	// A ring: the same memory twice.
	fd, err := Memfd("ring", int64(pg), 0)
	check(t, err)
	defer fd.Close()
	u, err = MapUnknown(Anonymous(2*pg), ProtNone)
	check(t, err)
	defer u.Close()
	for _, off := range []int{0, pg} {
		check(t, u.Place(off, File(fd, 0, pg).Shared(), ProtRead|ProtWrite))
	}
	ring, err := Assert[ReadWrite](u)
	check(t, err)
	defer ring.Close()
	check(t, second(ring.WriteAt([]byte("around"), int64(pg)-3)))
	b := make([]byte, 3)
	if check(t, second(ring.ReadAt(b, 0))); string(b) != "und" {
		t.Error(string(b))
	}
}

func TestSlice(t *testing.T) {
	type pair struct {
		A uint32
		B [2]uint16
	}
	b := mapped[ReadWrite](t, Anonymous(100)).UnsafeBytes()
	copy(b, []byte{1, 0, 0, 0, 2, 0, 3, 0})
	p, err := Slice[pair](b)
	if err != nil || len(p) != 12 || cap(p) != 12 {
		t.Error(len(p), cap(p), err)
	}
	p[1].A = 1 << 31
	if bytes.Count(b[8:12], []byte{0x80}) != 1 {
		t.Error("not the same memory")
	}
	if s, err := Slice[uint64](b[:0]); err != nil || s == nil || len(s) != 0 {
		t.Error(s, err)
	}
	for what, err := range map[string]error{
		"misaligned": second(Slice[uint32](b[1:])), "too few": second(Slice[uint64](b[:7])), "bool": second(Slice[bool](b)),
		"a bool inside": second(Slice[[2]struct{ x [1]bool }](b)), "pointer": second(Slice[*int](b)), "string": second(Slice[string](b)),
		"slice": second(Slice[[]byte](b)), "interface": second(Slice[any](b)), "map": second(Slice[map[int]int](b)),
		"func": second(Slice[func()](b)), "chan": second(Slice[chan int](b)), "no size": second(Slice[struct{}](b)),
		"no elements": second(Slice[[0]uint32](b)), "no pointers": second(Slice[struct {
			_ [0]*int
			x int
		}](b)), "bool of nothing": second(Slice[bool](nil)),
	} {
		wants(t, what, err, os.ErrInvalid, unix.EINVAL)
	}
}

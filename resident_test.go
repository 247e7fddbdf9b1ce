//go:build linux

package mmap

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/internal/testkit"
	"golang.org/x/sys/unix"
)

// mappedPages tells for each page of a mapping whether the processor has it.
func mappedPages(t testing.TB, m mapping) string {
	t.Helper()
	var pages strings.Builder
	for _, e := range pagemap(t, m, 0, m.Len()) {
		pages.WriteByte("-x"[btoi(e&present != 0)])
	}
	return pages.String()
}

func TestPrefault(t *testing.T) {
	pg := int(pageSize)
	m := apart[ReadWrite](t, Anonymous(4*pg), 4)
	check(t, m.Advise(0, 4*pg, AdviceNoHugePage))
	for i, c := range []struct {
		off, n int
		f      func(off, n int) error
		want   string
		own    int // pages of memory that it takes
	}{
		{pg - 1, 0, m.Prefault, "----", 0},
		{2*pg - 1, 1, m.Prefault, "-x--", 0}, // the page of zeros
		{2*pg - 1, 2, m.PrefaultWrite, "-xx-", 2},
		{0, 4 * pg, m.Prefault, "xxxx", 2},
		{0, 4 * pg, m.PrefaultWrite, "xxxx", 4},
	} {
		if err := c.f(c.off, c.n); c.n > 0 && lacks(t, "MADV_POPULATE_READ", err) {
			return
		} else if err != nil {
			t.Error(err)
		}
		_, sum := smaps(t, m, 0, 4*pg)
		if got := mappedPages(t, m); got != c.want || sum["Anonymous"] != c.own*pg {
			t.Errorf("%d: %s with %d bytes, want %s with %d pages", i, got, sum["Anonymous"], c.want, c.own)
		}
	}
	holds(t, "prefaulted", m, 0, make([]byte, 4*pg))

	// Of a private mapping of a file, writing copies pages, and changes nothing.
	f, data := scratch(t, 2*pg)
	file := mapped[ReadWrite](t, Path(f.Name()))
	check(t, file.Prefault(0, 2*pg))
	if _, sum := smaps(t, file, 0, 2*pg); mappedPages(t, file) != "xx" || sum["Anonymous"] != 0 {
		t.Error(mappedPages(t, file), sum)
	}
	check(t, file.PrefaultWrite(pg, 1))
	if _, sum := smaps(t, file, 0, 2*pg); sum["Anonymous"] != pg {
		t.Error(sum)
	}
	holds(t, "copied", file, 0, data)

	// Of a shared one, it fills holes.
	hollow := must(Memfd("hollow", int64(4*pg), 0))
	defer hollow.Close()
	sh := mapped[Write](t, File(hollow, 0, 4*pg).Shared())
	check(t, sh.PrefaultWrite(pg, 2*pg))
	if n := storage(t, hollow); n != int64(2*pg) {
		t.Errorf("%d bytes of storage", n)
	}
}

// Without the permission nothing is faulted in, not even the pages before.
func TestPrefaultPermission(t *testing.T) {
	pg := int(pageSize)
	for _, m := range []mapping{
		mapped[None](t, Anonymous(3*pg)), mapped[Write](t, Anonymous(3*pg)), mapped[Exec](t, Anonymous(3*pg)), mapped[WriteExec](t, Anonymous(3*pg)),
	} {
		err := m.Prefault(pg+1, 7)
		wants(t, "prefault", err, ErrPermission, unix.EACCES)
		if names(t, err, pg+1, 7); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%v page at offset %d", m.Prot(), pg+1)) {
			t.Error(err)
		}
		if got := mappedPages(t, m); got != "---" {
			t.Errorf("%v: %s", m, got)
		}
	}
	u, err := MapUnknown(Anonymous(3*pg), ProtRead|ProtWrite)
	check(t, err)
	defer u.Close()
	check(t, u.ProtectRange(pg, pg, ProtRead))
	check(t, u.ProtectRange(2*pg, pg, ProtNone))
	for _, c := range []struct {
		f      func(off, n int) error
		off, n int
		bad    int
	}{{u.PrefaultWrite, 0, 3 * pg, pg}, {u.PrefaultWrite, pg, 1, pg}, {u.Prefault, 0, 2*pg + 1, 2 * pg}, {u.Prefault, 2*pg - 1, 2, 2 * pg}} {
		err := c.f(c.off, c.n)
		wants(t, "prefault", err, ErrPermission)
		if err == nil || !strings.HasSuffix(err.Error(), fmt.Sprintf("page at offset %d: permission denied", c.bad)) {
			t.Error(err)
		}
	}
	if got := mappedPages(t, u); got != "---" {
		t.Error(got)
	}
	if err := u.Prefault(0, 2*pg); !lacks(t, "MADV_POPULATE_READ", err) {
		check(t, err)
		check(t, u.PrefaultWrite(0, pg))
		if got := mappedPages(t, u); got != "xx-" {
			t.Error(got)
		}
	}
}

// The page that cannot be had is found, wherever in a range it is, and so is
// the cause.
func TestPrefaultFault(t *testing.T) {
	testkit.Needs(t, "MADV_POPULATE_READ")
	pg := int(pageSize)
	const pages = 3000
	f, _ := scratch(t, pg)
	for _, bad := range []int{0, 1, 2, 511, 512, 1499, 1500, 1501, pages - 2, pages - 1} {
		u, err := MapUnknown(Anonymous(pages*pg), ProtRead|ProtWrite)
		check(t, err)
		check(t, u.Place(bad*pg, File(f, int64(pg), pg).Shared(), ProtRead|ProtWrite))
		faults(t, "in the whole", u.Prefault(0, pages*pg), bad*pg, ErrTruncated)
		faults(t, "in the page", u.PrefaultWrite(bad*pg+pg-1, 1), bad*pg, ErrTruncated)
		first := max(0, bad-5)
		faults(t, "behind others", u.PrefaultWrite(first*pg, (bad-first+1)*pg), bad*pg, ErrTruncated)
		if bad > 0 {
			check(t, u.Prefault(0, bad*pg))
		}
		check(t, u.Prefault((bad+1)*pg, (pages-bad-1)*pg))
		check(t, u.Close())
	}
	// A file that was cut, seen from a first byte within a page.
	g, data := scratch(t, 4*pg)
	for _, s := range []Spec{File(g, 100, 4*pg-100), File(g, 100, 4*pg-100).Shared()} {
		m := mapped[ReadWrite](t, s)
		check(t, g.Truncate(int64(pg)+1))
		faults(t, "cut", m.Prefault(0, m.Len()), 2*pg-100, ErrTruncated)
		faults(t, "cut", m.PrefaultWrite(3*pg-100, 1), 3*pg-100, ErrTruncated)
		check(t, m.Prefault(0, 2*pg-100))
		check(t, g.Truncate(0))
		faults(t, "cut to nothing", m.Prefault(7, 1), 0, ErrTruncated)
		check(t, second(g.WriteAt(data, 0)))
		check(t, m.Prefault(0, m.Len()))
	}
	// A pin, a reserve and a handle that grows do not matter.
	m := mapped[ReadWrite](t, File(f, 0, pg).Shared().Reserve(4*pg))
	check(t, Grow(m, 3*pg))
	faults(t, "grown past the file", m.PrefaultWrite(0, 3*pg), pg, ErrTruncated)
}

func TestPrefaultFullDisk(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	testkit.Needs(t, "MADV_POPULATE_READ")
	f := onSmallDisk(t, 4*int(pageSize))
	size := 64 * int(pageSize)
	check(t, f.Truncate(int64(size)))
	m := mapped[ReadWrite](t, File(f, 0, size).Shared())
	full := 4 * int(pageSize)
	for name, f := range map[string]func(off, n int) error{"prefault": m.Prefault, "for writing": m.PrefaultWrite, "lock": m.Lock} {
		err := f(0, size)
		if faults(t, name, err, full); errors.Is(err, ErrTruncated) || errors.Is(err, ErrPermission) {
			t.Errorf("%s: a wrong cause: %v", name, err)
		}
	}
	if strings.Contains(pagesWith(t, m, "lo"), "x") {
		t.Error("locked all the same")
	}
	check(t, m.Punch(0, int(pageSize)))
	check(t, m.PrefaultWrite(9*int(pageSize), 1))
}

// The kernel itself cannot reach secret memory: not to prefault it, and not to
// lock what is locked anyhow.
func TestPrefaultSecret(t *testing.T) {
	if !hasSecret(t) {
		t.Skip("memfd_secret(2) is not available")
	}
	m := mapped[ReadWrite](t, Secret(100))
	check(t, second(m.WriteAt([]byte("secret"), 0)))
	for _, err := range []error{m.Prefault(0, 100), m.PrefaultWrite(0, 100)} {
		if wants(t, "secret", err, errors.ErrUnsupported); err != nil {
			names(t, err, 0, 100)
		}
	}
	holds(t, "secret", m, 0, []byte("secret"))
	for _, err := range []error{m.Lock(0, 100), m.LockOnFault(0, 100)} {
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			t.Error("lock of secret memory: ", err)
		}
	}
}

// Prefaulting for writing is no write: it loses none of those that others make
// at the same moment.
func TestPrefaultCounter(t *testing.T) {
	testkit.Needs(t, "MADV_POPULATE_READ")
	m := mapped[ReadWrite](t, Anonymous(int(pageSize)).Shared())
	const each = 3000
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			m.Update(func(b []byte) error {
				n := must(Slice[uint64](b))
				for range each {
					atomic.AddUint64(&n[0], 1)
				}
				return nil
			})
		})
	}
	for range 300 {
		check(t, m.PrefaultWrite(0, 1))
		check(t, m.Prefault(0, 1))
	}
	wg.Wait()
	m.View(func(b []byte) error {
		if n := must(Slice[uint64](b))[0]; n != 2*each {
			t.Errorf("%d of %d", n, 2*each)
		}
		return nil
	})
}

// hugeSize returns the size of a transparent huge page.
func hugeSize(t testing.TB) int {
	if err := Probe("MADV_COLLAPSE"); err != nil {
		m := mapped[ReadWrite](t, Anonymous(1))
		wants(t, "collapse", m.Collapse(0, 1), errors.ErrUnsupported)
		t.Skip(err)
	}
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		t.Skip("the kernel could, but the processor has no huge pages: ", err)
	}
	return int(number("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", ""))
}

func TestCollapse(t *testing.T) {
	pg, huge := int(pageSize), hugeSize(t)
	m := mapped[ReadWrite](t, Anonymous(3*huge).Align(huge))
	check(t, m.Advise(0, 3*huge, AdviceNoHugePage))
	data := fill(t, m)
	hugePages := func() int { _, sum := smaps(t, m, 0, 3*huge); return sum["AnonHugePages"] / huge }
	refused := func(off, n int) {
		t.Helper()
		err := m.Collapse(off, n)
		wants(t, "too small", err, unix.EINVAL)
		names(t, err, off, n)
	}
	if n := hugePages(); n != 0 {
		t.Fatalf("%d huge pages before anything was collapsed", n)
	}
	refused(0, huge-pg)
	refused(pg, huge-pg)
	refused(pg, pg)
	check(t, m.Advise(0, 3*huge, AdviceHugePage)) // which takes back that there be none
	collapse := func(off, n int) {
		err := m.Collapse(off, n)
		if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EBUSY) {
			t.Skip("no huge page is to be had: ", err)
		}
		check(t, err)
	}
	if collapse(pg, 2*huge+pg); hugePages() < 1 { // or more, if the kernel does so at the same moment
		t.Error("no huge page of the one that is whole")
	}
	collapse(0, 3*huge)
	if n := hugePages(); n != 3 {
		t.Errorf("%d huge pages", n)
	}
	holds(t, "collapsed", m, 0, data)
	collapse(0, 3*huge) // again
	pool := mapped[Read](t, Anonymous(0))
	check(t, pool.Collapse(0, 0))
}

// The doc comment promises EINVAL where no whole huge page lies within, also
// where a boundary does.
func TestCollapseStraddling(t *testing.T) {
	pg, huge := int(pageSize), hugeSize(t)
	m := mapped[ReadWrite](t, Anonymous(2*huge).Align(huge))
	check(t, m.Advise(0, 2*huge, AdviceNoHugePage))
	fill(t, m) // the kernel refuses what was never touched
	check(t, m.Advise(0, 2*huge, AdviceHugePage))
	for _, r := range [][2]int{{huge - pg, 2 * pg}, {pg, 2*huge - 2*pg}, {huge, pg}, {huge - pg, pg}} {
		wants(t, fmt.Sprint(r), m.Collapse(r[0], r[1]), unix.EINVAL)
	}
}

// dirty returns how many bytes of a mapping are newer than their file's.
func dirty(t testing.TB, m mapping, off, n int) int {
	t.Helper()
	_, sum := smaps(t, m, off, n)
	return sum["Private_Dirty"] + sum["Shared_Dirty"]
}

// stored returns a file of n bytes on a file system that has storage: in the working
// directory, without a name, if that of temporary files is in memory.
func stored(t *testing.T, n int) *os.File {
	t.Helper()
	f, data := scratch(t, n)
	if !onTmpfs(t, f) {
		return f
	}
	f, err := os.OpenFile(".", unix.O_TMPFILE|os.O_RDWR, 0o600)
	if err != nil {
		t.Skip("TMPDIR is a tmpfs, which has no storage to write to, and the working directory takes no file: ", err)
	}
	t.Cleanup(func() { f.Close() })
	if onTmpfs(t, f) {
		t.Skip("TMPDIR and the working directory are on a tmpfs, which has no storage to write to")
	}
	check(t, second(f.Write(data)))
	return f
}

func TestSync(t *testing.T) {
	pg := int(pageSize)
	f, g := stored(t, 2*pg), stored(t, 2*pg)
	u, err := MapUnknown(Anonymous(4*pg), ProtNone)
	check(t, err)
	defer u.Close()
	check(t, u.Place(0, File(f, 0, 2*pg).Shared(), ProtRead|ProtWrite))
	check(t, u.Place(2*pg, File(g, 0, 2*pg).Shared(), ProtRead|ProtWrite))
	check(t, u.Sync(0, 4*pg))
	data := bytes.Repeat([]byte{0xab}, 4*pg)
	check(t, second(u.WriteAt(data, 0)))
	if n := dirty(t, u, 0, 4*pg); n != 4*pg {
		t.Errorf("%d bytes are dirty after %d were written", n, 4*pg)
	}
	check(t, u.Sync(0, 2*pg))
	if a, b := dirty(t, u, 0, 2*pg), dirty(t, u, 2*pg, 2*pg); a != 0 || b != 2*pg {
		t.Errorf("%d bytes are dirty after Sync, %d elsewhere", a, b)
	}
	check(t, u.StartSync(2*pg, 2*pg)) // promises nothing that shows
	check(t, u.Sync(3*pg, 1))
	check(t, u.Sync(2*pg+1, 1))
	if n := dirty(t, u, 0, 4*pg); n != 0 {
		t.Errorf("%d bytes are dirty at last", n)
	}
	// What is on storage is what memory loses when it is dropped.
	check(t, u.Protect(ProtNone))
	check(t, u.Discard(0, 0))
	check(t, u.Close())
	m := mapped[Read](t, File(f, 0, 2*pg))
	if unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); must(m.Resident(0, 2*pg)) == 0 {
		holds(t, "from storage", m, 0, data[:2*pg])
	} else {
		t.Error("pages that were synced are not clean")
	}
}

// Private pages are never written, and locked ones do not mind but for
// Invalidate.
func TestSyncPrivate(t *testing.T) {
	pg := int(pageSize)
	canLock(t, pg)
	f, data := scratch(t, 2*pg)
	for name, s := range map[string]Spec{"file": File(f, 0, 2*pg), "shared file": File(f, 0, 2*pg).Shared(), "anonymous": Anonymous(2 * pg)} {
		m := mapped[Read](t, s)
		check(t, m.Lock(pg, 1))
		for _, sync := range []func(off, n int) error{m.Sync, m.StartSync} {
			check(t, sync(0, 2*pg))
		}
		check(t, m.Invalidate(0, pg))
		for _, r := range [][2]int{{0, 2 * pg}, {pg, 1}, {pg - 1, 2}} {
			err := m.Invalidate(r[0], r[1])
			wants(t, name, err, unix.EBUSY)
			names(t, err, r[0], r[1])
		}
	}
	m := mapped[ReadWrite](t, File(f, 0, 2*pg))
	check(t, second(m.WriteAt(make([]byte, pg), 0)))
	check(t, m.Sync(0, 2*pg))
	check(t, m.Invalidate(0, 2*pg))
	if got := must(os.ReadFile(f.Name())); !bytes.Equal(got, data) {
		t.Error("a private page has reached the file")
	}
	holds(t, "private", m, 0, make([]byte, pg))
}

func TestResident(t *testing.T) {
	pg := int(pageSize)
	const pages = 5000
	m := apart[ReadWrite](t, Anonymous(pages*pg-7), pages)
	check(t, m.Advise(0, m.Len(), AdviceNoHugePage))
	touched := []int{0, 1, 511, 1022, 1023, 1024, 1025, 2047, 2048, 4095, 4096, pages - 1}
	for _, p := range touched {
		check(t, second(m.WriteAt([]byte{1}, int64(p*pg))))
	}
	bare := make([]byte, pages)
	check(t, sys.Mincore(m.Addr(), pageSize, bare))
	for _, r := range [][2]int{
		{0, m.Len()}, {0, 1}, {pg, 1}, {2 * pg, pg}, {pg - 1, 2}, {1022*pg + 1, 3 * pg}, {1023 * pg, 1024 * pg}, {m.Len() - 1, 1}, {2*pg + 5, 510 * pg}, {5, 1024*pg - 5}, {9, 0},
	} {
		first, end := r[0]/pg, (r[0]+r[1]+pg-1)/pg
		if r[1] == 0 {
			end = first
		}
		got := must(m.ResidentPages(r[0], r[1]))
		if len(got) != end-first {
			t.Errorf("%v: %d pages", r, len(got))
			continue
		}
		in := 0
		for i, p := range got {
			if want := slices.Contains(touched, first+i); p != want || want != (bare[first+i]&1 != 0) {
				t.Errorf("%v: page %d is resident: %v", r, first+i, p)
			}
			in += btoi(p)
		}
		if n := must(m.Resident(r[0], r[1])); n != in*pg {
			t.Errorf("%v: %d bytes, %d pages", r, n, in)
		}
	}
	if pages, err := mapped[None](t, Anonymous(3*pg)).ResidentPages(1, 2*pg); err != nil || !slices.Equal(pages, []bool{false, false, false}) {
		t.Error(pages, err)
	}
	f, _ := scratch(t, pg)
	past := mapped[Read](t, File(f, 0, 2*pg))
	holds(t, "the file", past, 0, []byte{1})
	if pages := must(past.ResidentPages(0, 2*pg)); !slices.Equal(pages, []bool{true, false}) {
		t.Error("past the end of the file: ", pages)
	}
}

// Who may not write to a file is told nothing of it.
func TestResidentStranger(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("becoming somebody else is not allowed")
	}
	child, out, err := inChild(t, quick)
	if !child {
		if strings.Contains(out, "--- SKIP") {
			t.Skip(out)
		} else if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	f, _ := scratch(t, 8*int(pageSize))
	check(t, f.Chmod(0o644))
	m := mapped[Read](t, Path(f.Name()))
	uncached(t, f, m)
	if n := must(m.Resident(0, m.Len())); n != 0 {
		t.Error(n)
	}
	check(t, unix.Setresuid(-1, 65534, -1))
	n := must(m.Resident(0, m.Len()))
	check(t, unix.Setresuid(-1, 0, -1))
	if n != m.Len() {
		t.Errorf("%d bytes", n)
	}
}

// Everything on ranges is allowed under pins and inside views, beside Grow and
// from several goroutines.
func TestRangesUnderPins(t *testing.T) {
	pg := int(pageSize)
	canLock(t, 64*pg)
	m := apart[ReadWrite](t, Anonymous(8*pg).Reserve(64*pg), 64)
	pin := must(m.Pin())
	check(t, m.Update(func(b []byte) error {
		for _, ops := range []map[string]func(off, n int) error{rangeOps(m), losses(m)} {
			for op, f := range ops {
				check(t, m.Unlock(0, 8*pg))
				if err := f(4*pg, 4*pg); err != nil && op != "collapse" && op != "punch" && !unavailable(err) {
					t.Errorf("%s in a view: %v", op, err)
				}
			}
		}
		m.RemoveGuardPages(4*pg, 4*pg)
		b[7*pg] = 1
		check(t, m.Discard(7*pg, pg))
		if b[7*pg] != 0 {
			t.Error("a slice does not show the new contents")
		}
		return nil
	}))
	var wg sync.WaitGroup
	errs := make(chan error, 1000)
	for _, f := range []func(off, n int) error{
		m.Prefault, m.PrefaultWrite, m.Sync, m.LockOnFault, m.Unlock, m.Discard, m.WipeOnFork, m.Free,
		func(off, n int) error { return m.Advise(off, n, AdviceSequential) },
		func(off, n int) error {
			if p, err := m.ResidentPages(0, m.Len()); err != nil || len(p) < 8 {
				return fmt.Errorf("%d pages: %w", len(p), err)
			}
			return nil
		},
		func(off, n int) error { _, err := m.ReadAt(make([]byte, n), int64(off)); return err },
	} {
		wg.Go(func() {
			for range 30 {
				if err := f(4*pg, 4*pg); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, unix.EINVAL) {
					errs <- err
				}
			}
		})
	}
	for n := 8; n <= 64; n++ {
		check(t, Grow(m, n*pg))
		check(t, m.PrefaultWrite((n-1)*pg, pg))
		check(t, second(m.WriteAt([]byte{byte(n)}, int64((n-1)*pg))))
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	for n := 9; n <= 64; n++ {
		holds(t, "grown", m, (n-1)*pg, []byte{byte(n)})
	}
	_, err := Protect[Read](m)
	wants(t, "under a pin", err, ErrBusy)
	pin.Unpin()
	check(t, must(Protect[Read](m)).Close()) // no pin is left over
}

func TestRangeNoAllocation(t *testing.T) {
	if testing.CoverMode() != "" {
		t.Skip("coverage changes what is allocated")
	}
	pg := int(pageSize)
	canLock(t, 4*pg)
	m := mapped[ReadWrite](t, Anonymous(4*pg))
	u := must(Forget(mapped[ReadWrite](t, Anonymous(4*pg))))
	defer u.Close()
	check(t, u.ProtectRange(pg, pg, ProtRead))
	for name, f := range map[string]func(off, n int) error{
		"Advise": func(off, n int) error { return m.Advise(off, n, AdviceRandom) }, "Sync": m.Sync, "StartSync": m.StartSync,
		"Prefault": m.Prefault, "PrefaultWrite": m.PrefaultWrite, "Lock": m.Lock, "LockOnFault": m.LockOnFault, "Unlock": m.Unlock,
		"Discard": m.Discard, "Prefault of an Unknown": u.Prefault, "Lock of an Unknown": u.Lock,
		"Resident": func(off, n int) error { _, err := m.Resident(off, n); return err },
	} {
		check(t, m.Unlock(0, 4*pg))
		if n := testing.AllocsPerRun(50, func() { check(t, f(pg, 2*pg)) }); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

//go:build linux

package mmap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/mmarinus/mmap/internal/testkit"
	"golang.org/x/sys/unix"
)

// inTable returns which pages of m are in the page table: a page of a file can
// be in memory and yet not be mapped.
func inTable(t testing.TB, m mapping) (present []bool) {
	t.Helper()
	f, err := os.Open("/proc/self/pagemap")
	check(t, err)
	defer f.Close()
	entries := make([]byte, 8*((m.Len()+int(pageSize)-1)/int(pageSize)))
	check(t, second(f.ReadAt(entries, int64(m.Addr()/pageSize*8))))
	for e := range slices.Chunk(entries, 8) {
		present = append(present, binary.NativeEndian.Uint64(e)>>63 != 0)
	}
	return present
}

// fork makes a child process that does nothing but wait for its end. It runs
// none of Go's code: of the threads, it has this one only.
//
//go:nosplit
//go:norace
//go:noinline
func fork() (uintptr, unix.Errno) {
	flags, stack := uintptr(unix.SIGCHLD), uintptr(0)
	if runtime.GOARCH == "s390x" {
		flags, stack = stack, flags
	}
	pid, _, e := unix.RawSyscall6(unix.SYS_CLONE, flags, stack, 0, 0, 0, 0)
	if pid != 0 || e != 0 {
		return pid, e
	}
	unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
	for {
		unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}

// inherited returns n bytes at addr as a forked child has them.
func inherited(t testing.TB, addr uintptr, n int) ([]byte, error) {
	t.Helper()
	runtime.LockOSThread() // the child ends with the thread that made it
	defer runtime.UnlockOSThread()
	pid, e := fork()
	if e != 0 {
		t.Fatal("fork: ", e)
	}
	defer func() {
		unix.Kill(int(pid), unix.SIGKILL)
		_, err := unix.Wait4(int(pid), nil, 0, nil)
		check(t, err)
	}()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	check(t, err)
	defer mem.Close()
	b := make([]byte, n)
	_, err = mem.ReadAt(b, int64(addr))
	return b, err
}

// ways are all the ways to two pages of anonymous memory that a flag of the Spec
// must take part in.
func ways(t testing.TB) map[string]func(flag func(Spec) Spec) (ReadWrite, error) {
	pg := int(pageSize)
	grown := func(m ReadWrite, err error) (ReadWrite, error) {
		if err == nil {
			err = Grow(m, 2*pg)
		}
		return m, err
	}
	resized := func(m ReadWrite, err error, sizes ...int) (ReadWrite, error) {
		for _, n := range sizes {
			if err == nil {
				m, err = Resize(m, n)
			}
		}
		return m, err
	}
	return map[string]func(flag func(Spec) Spec) (ReadWrite, error){
		"map": func(flag func(Spec) Spec) (ReadWrite, error) { return Map[ReadWrite](flag(Anonymous(2 * pg))) },
		"near": func(flag func(Spec) Spec) (ReadWrite, error) {
			return Map[ReadWrite](flag(Anonymous(2 * pg)).Near(hole(t, 2)))
		},
		"align": func(flag func(Spec) Spec) (ReadWrite, error) {
			return Map[ReadWrite](flag(Anonymous(2 * pg)).Align(1 << 22))
		},
		"grow": func(flag func(Spec) Spec) (ReadWrite, error) {
			return grown(Map[ReadWrite](flag(Anonymous(5)).Reserve(4 * pg)))
		},
		"grow from 0": func(flag func(Spec) Spec) (ReadWrite, error) {
			return grown(Map[ReadWrite](flag(Anonymous(0)).Reserve(4 * pg)))
		},
		"align and grow": func(flag func(Spec) Spec) (ReadWrite, error) {
			return grown(Map[ReadWrite](flag(Anonymous(pg)).Align(1 << 22).Reserve(4 * pg)))
		},
		"resize": func(flag func(Spec) Spec) (ReadWrite, error) {
			m, err := Map[ReadWrite](flag(Anonymous(pg)))
			return resized(m, err, 2*pg)
		},
		"resize to 0 and back": func(flag func(Spec) Spec) (ReadWrite, error) {
			m, err := Map[ReadWrite](flag(Anonymous(pg)))
			return resized(m, err, 0, 2*pg)
		},
		"resize in the reserve": func(flag func(Spec) Spec) (ReadWrite, error) {
			m, err := Map[ReadWrite](flag(Anonymous(pg)).Reserve(4 * pg))
			return resized(m, err, 2*pg)
		},
	}
}

// insides are the ways that carry the flag into a mapping that exists.
func insides(t testing.TB) map[string]func(flag func(Spec) Spec) (ReadWrite, error) {
	pg := int(pageSize)
	return map[string]func(flag func(Spec) Spec) (ReadWrite, error){
		"over": func(flag func(Spec) Spec) (ReadWrite, error) {
			return Over[ReadWrite](mapped[Read](t, Anonymous(2*pg)), flag(Anonymous(2*pg)))
		},
		"over and grow": func(flag func(Spec) Spec) (ReadWrite, error) {
			m, err := Over[ReadWrite](mapped[Read](t, Anonymous(pg).Reserve(4*pg)), flag(Anonymous(pg)))
			if err == nil {
				err = Grow(m, 2*pg)
			}
			return m, err
		},
		"place": func(flag func(Spec) Spec) (ReadWrite, error) {
			u, err := MapUnknown(Anonymous(2*pg), ProtNone)
			check(t, err)
			t.Cleanup(func() { u.Close() })
			if err = u.Place(0, flag(Anonymous(2*pg)), ProtRead|ProtWrite); err != nil {
				return ReadWrite{}, err
			}
			return Assert[ReadWrite](u)
		},
	}
}

// Each creation flag is in force on every page, whichever way that came to be.
func TestCreationFlags(t *testing.T) {
	mode, err := os.ReadFile("/proc/sys/vm/overcommit_memory")
	check(t, err)
	for name, c := range map[string]struct {
		flag        func(Spec) Spec
		has, hasNot string
		missing     error
	}{
		"no flag":       {func(s Spec) Spec { return s }, "rd wr", "nr dp wf dd lo lf", nil},
		"NoReserve":     {Spec.NoReserve, "nr", "dp wf dd lo lf", nil},
		"Droppable":     {Spec.Droppable, "dp nr wf dd", "lo lf", Probe("MAP_DROPPABLE")},
		"Lock":          {Spec.Lock, "lo", "nr dp", nil},
		"LockOnFault":   {Spec.LockOnFault, "lo lf", "nr dp", nil},
		"two of them":   {func(s Spec) Spec { return s.NoReserve().LockOnFault() }, "nr lo lf", "dp", nil},
		"the last lock": {func(s Spec) Spec { return s.LockOnFault().Lock() }, "lo", "", nil},
	} {
		all := ways(t)
		for way, f := range insides(t) {
			all[way] = f
		}
		for way, f := range all {
			what := name + ", " + way
			m, err := f(c.flag)
			if c.missing != nil {
				explained(t, what, err, errors.ErrUnsupported, c.missing.Error())
				continue
			}
			if strings.HasPrefix(string(mode), "2") && strings.Contains(c.has, "nr") {
				c.has = "rd" // the kernel ignores it then
			}
			if err != nil {
				t.Errorf("%s: %v", what, err)
				continue
			}
			flagged(t, what, m, c.has, c.hasNot)
			got := make([]byte, m.Len())
			if err := errors.Join(second(m.WriteAt([]byte{7}, int64(m.Len())-1)), second(m.ReadAt(got, 0))); err != nil || got[m.Len()-1] != 7 || bytes.Count(got, []byte{0}) != m.Len()-1 {
				t.Errorf("%s: %v, or it is not zero-filled", what, err)
			}
			check(t, m.Close())
		}
	}
}

// What cannot be asked for together is refused before anything is mapped, also
// inside another mapping, which stays.
func TestCreationFlagsRefused(t *testing.T) {
	pg := int(pageSize)
	f, _ := scratch(t, pg)
	free := nowhere(t, 2)
	for name, s := range map[string]Spec{
		"droppable, shared":           Anonymous(pg).Droppable().Shared(),
		"droppable file":              File(f, 0, pg).Droppable(),
		"droppable descriptor":        FD(int(f.Fd()), 0, pg).Droppable(),
		"droppable path":              Path(f.Name()).Droppable(),
		"droppable secret":            Secret(pg).Droppable(),
		"droppable huge":              Anonymous(pg).HugePages(0).Droppable(),
		"droppable, locked":           Anonymous(pg).Droppable().Lock(),
		"droppable, locked on fault":  Anonymous(pg).LockOnFault().Droppable(),
		"synchronous, private":        File(f, 0, pg).Synchronous(),
		"synchronous, at":             File(f, 0, pg).Shared().Synchronous().At(free),
		"synchronous anonymous":       Anonymous(pg).Shared().Synchronous(),
		"synchronous secret":          Secret(pg).Shared().Synchronous(),
		"synchronous droppable":       Anonymous(pg).Synchronous().Droppable(),
		"synchronous, private path":   Path(f.Name()).Synchronous(),
		"huge file":                   File(f, 0, pg).HugePages(0),
		"huge secret":                 Secret(pg).HugePages(0),
		"huge path":                   Path(f.Name()).HugePages(0),
		"low, at":                     Anonymous(pg).Low().At(free),
		"low, onto":                   Anonymous(pg).UnsafeOnto(free).Low(),
		"droppable, negative":         Anonymous(-1).Droppable(),
		"no-reserve, small capacity":  Anonymous(2).NoReserve().Reserve(1),
		"lock, negative capacity":     Anonymous(0).Lock().Reserve(math.MinInt),
		"zero Spec with every flag":   Spec{}.NoReserve().Low().Lock().Populate().PopulateCached(),
		"populate, negative offset":   File(f, -1, 1).Populate(),
		"lock, two placements":        Anonymous(1).Near(free).Lock().Near(free),
		"huge page of negative size":  Anonymous(1).HugePages(-1),
		"huge page of smallest size":  Anonymous(1).HugePages(math.MinInt),
		"huge page of two sizes":      Anonymous(1).HugePages(3 << 20),
		"huge page of one byte":       Anonymous(1).HugePages(1),
		"huge page, unaligned at":     Anonymous(1).HugePages(1 << 30).At(1<<30 + pageSize),
		"huge page, small page, at 0": Anonymous(1).HugePages(2 << 20).At(0),
	} {
		m, err := Map[ReadWrite](s)
		if wants(t, name, err, os.ErrInvalid, unix.EINVAL); err == nil {
			m.Close()
		}
		old := mapped[Read](t, Anonymous(pg))
		before := table(t, old)
		_, err = Over[ReadWrite](old, s)
		wants(t, name+" over", err, os.ErrInvalid)
		if table(t, old) != before || old.Len() != pg {
			t.Errorf("%s: over has changed %s to %s", name, before, table(t, old))
		}
		u, err := Forget(old)
		check(t, err)
		wants(t, name+" place", u.Place(0, s, ProtRead), os.ErrInvalid)
		if table(t, u) != before {
			t.Errorf("%s: place has changed %s to %s", name, before, table(t, u))
		}
		check(t, u.Close())
	}
	if isMapped(t, free) {
		t.Error("something is left")
	}
}

// A forked child has zeros in the place of droppable memory: the flag, and what
// it is good for.
func TestDroppableFork(t *testing.T) {
	testkit.Needs(t, "MAP_DROPPABLE")
	pg := int(pageSize)
	for name, s := range map[string]Spec{"droppable": Anonymous(2 * pg).Droppable(), "ordinary": Anonymous(2 * pg)} {
		m := mapped[ReadWrite](t, s)
		secret := bytes.Repeat([]byte{0x5a}, 2*pg)
		check(t, second(m.WriteAt(secret, 0)))
		b, err := inherited(t, m.Addr(), 2*pg)
		check(t, err)
		if wiped := bytes.Equal(b, make([]byte, 2*pg)); wiped != (name == "droppable") || !wiped && !bytes.Equal(b, secret) {
			t.Errorf("%s: the child begins with %x", name, b[:4])
		}
		got := make([]byte, 2*pg)
		if check(t, second(m.ReadAt(got, 0))); !bytes.Equal(got, secret) {
			t.Errorf("%s: the parent has lost it", name)
		}
		if name == "droppable" {
			wants(t, "keep on fork", m.Advise(0, pg, AdviceKeepOnFork), unix.EINVAL)
		}
		// It is neither copied nor forgotten where the mapping changes.
		m, err = Resize(m, 4*pg)
		check(t, err)
		if b, err = inherited(t, m.Addr(), pg); err != nil || bytes.Equal(b, secret[:pg]) != (name == "ordinary") {
			t.Errorf("%s, resized: the child has %x, %v", name, b[:4], err)
		}
		check(t, m.Close())
	}
}

// Lock has every page in memory at once, LockOnFault each when it is touched.
func TestLockResident(t *testing.T) {
	pg := int(pageSize)
	f, _ := scratch(t, 8*pg)
	for name, c := range map[string]struct {
		s    Spec
		want int // pages at Map
	}{
		"lock": {Anonymous(8 * pg).Lock(), 8}, "on fault": {Anonymous(8 * pg).LockOnFault(), 0},
		"lock, reserve": {Anonymous(8 * pg).Lock().Reserve(16 * pg), 8}, "on fault, reserve": {Anonymous(8 * pg).LockOnFault().Reserve(16 * pg), 0},
		"file": {File(f, 0, 8*pg).Lock(), 8}, "file on fault": {File(f, 0, 8*pg).Shared().LockOnFault(), 0},
	} {
		// One at a time: the kernel merges areas that are locked alike.
		t.Run(name, func(t *testing.T) {
			m := mapped[ReadWrite](t, c.s)
			pages := func(want int, when string) {
				t.Helper()
				rss, lock := 0, 0
				for _, r := range must(m.Regions()) { // which the kernel may merge, or not
					in := smapsOf(t, uintptr(r.Start))
					rss, lock = rss+int(kilobytes(in["Rss"])), lock+int(kilobytes(in["Locked"]))
				}
				if rss != want*pg || lock != want*pg {
					t.Errorf("%s: Rss %d, Locked %d bytes, not %d pages", when, rss, lock, want)
				}
			}
			pages(c.want, "mapped")
			check(t, second(m.WriteAt([]byte{1}, int64(3*pg))))
			if strings.Contains(name, "file") && c.want == 0 {
				return // a fault of a file's page maps its neighbours as well
			}
			pages(max(c.want, 1), "touched")
			if m.Cap() > m.Len() {
				check(t, Grow(m, 16*pg))
				pages(max(2*c.want, 1), "grown")
			}
		})
	}
	// What cannot be accessed cannot be faulted in, but is flagged.
	n := mapped[None](t, Anonymous(pg).Lock())
	flagged(t, "no access", n, "lo", "")
	rw, err := Protect[ReadWrite](n)
	check(t, err)
	defer rw.Close()
	check(t, second(rw.WriteAt([]byte{1}, 0)))
	if in := smapsOf(t, rw.Addr()); kilobytes(in["Locked"]) != uint64(pg) {
		t.Error("touched and not locked: ", in)
	}
	// Where a page cannot be had, all of Map fails.
	at := nowhere(t, 3)
	_, err = Map[Read](File(f, int64(7*pg), 3*pg).Lock().At(at))
	if wants(t, "lock past the end of the file", err, ErrTruncated); isMapped(t, at) || isMapped(t, at+2*pageSize) {
		t.Error("and yet it is mapped")
	}
	part := mapped[Read](t, File(f, 0, 8*pg).Lock().Reserve(12*pg))
	was := table(t, part)
	if wants(t, "grow past the end of the file", Grow(part, 10*pg), ErrTruncated); table(t, part) != was || part.Len() != 8*pg {
		t.Error("and yet it has grown: ", table(t, part))
	}
	if flags := smapsOf(t, part.Addr()+8*pageSize)["VmFlags"]; strings.Contains(flags, " lo") {
		t.Error("the reserve is locked: ", flags)
	}
	old := mapped[Read](t, Anonymous(3*pg))
	before := table(t, old)
	_, err = Over[Read](old, File(f, int64(7*pg), 3*pg).Lock())
	if wants(t, "over past the end of the file", err, ErrTruncated); table(t, old) != before {
		t.Error("and yet it is there: ", table(t, old))
	}
}

// Low is below 2 GiB with everything that still leaves the choice of the place.
func TestLow(t *testing.T) {
	pg := int(pageSize)
	f, _ := scratch(t, pg)
	if runtime.GOARCH != "amd64" {
		_, err := Map[Read](Anonymous(pg).Low())
		wants(t, "low", err, errors.ErrUnsupported)
		if err != nil && !strings.Contains(err.Error(), "MAP_32BIT") {
			t.Error(err)
		}
		_, err = Map[Read](Anonymous(0).Low())
		wants(t, "low and empty", err, errors.ErrUnsupported)
		return
	}
	specs := map[string]Spec{
		"plain": Anonymous(pg), "shared": Anonymous(pg).Shared(), "file": File(f, 0, pg), "shared file": File(f, 0, pg).Shared(), "path": Path(f.Name()),
		"large": Anonymous(64 << 20), "no-reserve": Anonymous(pg).NoReserve(), "locked": Anonymous(pg).Lock(), "populated": Anonymous(pg).Populate(),
		"aligned": Anonymous(pg).Align(1 << 26), "reserve": Anonymous(pg).Reserve(64 << 20), "aligned reserve": Anonymous(pg).Reserve(64 << 20).Align(1 << 26),
		"far hint": Anonymous(pg).Near(1 << 40 >> (32 - 32*(^uint(0)>>63))), "empty with a reserve": Anonymous(0).Reserve(4 * pg),
	}
	if Probe("MAP_DROPPABLE") == nil {
		specs["droppable"] = Anonymous(pg).Droppable()
	}
	if hasSecret(t) {
		specs["secret"] = Secret(pg)
	}
	for name, s := range specs {
		m := mapped[ReadWrite](t, s.Low())
		if top := uint64(m.Addr()) + uint64(m.Cap()); m.Addr() == 0 || top > 1<<31 {
			t.Errorf("%s: %#x-%#x", name, m.Addr(), top)
		}
		if s.aligned && m.Addr()&(1<<26-1) != 0 {
			t.Errorf("%s: aligned to %#x", name, m.Addr()&-m.Addr())
		}
		addr := m.Addr()
		check(t, Grow(m, m.Cap()))
		check(t, second(m.WriteAt([]byte{1}, int64(m.Cap())-1)))
		if m.Addr() != addr {
			t.Errorf("%s: moved to %#x", name, m.Addr())
		}
		check(t, m.Close())
	}
	large := pg << 19 // no 32-bit constant
	_, err := Map[Read](Anonymous(large).Low())
	wants(t, "too much", err, unix.ENOMEM)
	_, err = Map[Read](Anonymous(1).Reserve(large).Low())
	wants(t, "too much in reserve", err, unix.ENOMEM)
	_, err = Map[Read](Anonymous(1).Align(large).Low())
	wants(t, "aligned out of it", err, unix.ENOMEM)
	_, err = Over[Read](mapped[Read](t, Anonymous(pg)), Anonymous(pg).Low())
	wants(t, "over", err, os.ErrInvalid)
	u, err := MapUnknown(Anonymous(pg).Low(), ProtNone)
	check(t, err)
	defer u.Close()
	wants(t, "place", u.Place(0, Anonymous(pg).Low(), ProtRead), os.ErrInvalid)
}

// cold is a file of n pages, of which only some are in memory, and which. It
// skips the test where the file system keeps everything.
func cold(t testing.TB, n int) (*os.File, []bool) {
	t.Helper()
	f, _ := scratch(t, n*int(pageSize))
	check(t, f.Sync())
	// Without read-ahead, reading a byte brings one page.
	check(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM))
	check(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	for i := 0; i < n; i += 1 + i%3 {
		check(t, second(f.ReadAt(make([]byte, 1), int64(i)*int64(pageSize))))
	}
	in, err := mapped[Read](t, File(f, 0, n*int(pageSize))).ResidentPages(0, n*int(pageSize))
	check(t, err)
	if !slices.Contains(in, false) {
		t.Skip("the file system of the test's directory keeps every file in memory")
	}
	if !slices.Contains(in, true) {
		t.Skip("the pages that were read are gone again")
	}
	return f, in
}

// PopulateCached maps what is in memory and reads nothing, Populate maps it all.
func TestPopulate(t *testing.T) {
	pg := int(pageSize)
	const n = 17
	all := slices.Repeat([]bool{true}, n)
	for name, build := range map[string]func(s Spec) (mapping, error){
		"map":     func(s Spec) (mapping, error) { return Map[Read](s) },
		"shared":  func(s Spec) (mapping, error) { return Map[Read](s.Shared()) },
		"writing": func(s Spec) (mapping, error) { return Map[ReadWrite](s) },
		"reserve": func(s Spec) (mapping, error) { return Map[Read](s.Reserve(2 * n * pg)) },
		"align":   func(s Spec) (mapping, error) { return Map[Read](s.Align(1 << 22)) },
		"over":    func(s Spec) (mapping, error) { return Over[Read](mapped[None](t, Anonymous(n*pg)), s) },
		"place": func(s Spec) (mapping, error) {
			u, err := MapUnknown(Anonymous(n*pg), ProtNone)
			check(t, err)
			return u, u.Place(0, s, ProtRead)
		},
	} {
		f, in := cold(t, n)
		s := File(f, 0, n*pg)
		m, err := build(s.PopulateCached())
		check(t, err)
		if got := inTable(t, m); !slices.Equal(got, in) {
			t.Errorf("%s: in memory were\n%v, mapped are\n%v", name, in, got)
		}
		if got, err := m.ResidentPages(0, n*pg); err != nil || !slices.Equal(got, in) {
			t.Errorf("%s: in memory were\n%v, now are\n%v, %v", name, in, got, err)
		}
		check(t, m.Close())
		m, err = build(s)
		check(t, err)
		if got := inTable(t, m); slices.Contains(got, true) {
			t.Errorf("%s: without being asked, mapped are %v", name, got)
		}
		check(t, m.Close())
		m, err = build(s.Populate())
		check(t, err)
		if got := inTable(t, m); !slices.Equal(got, all) {
			t.Errorf("%s: populated are %v", name, got)
		}
		check(t, m.Close())
	}
	// Best effort: what cannot be had is no error, and no fault.
	f, _ := scratch(t, pg)
	for _, s := range []Spec{File(f, 0, 3*pg), File(f, 0, 3*pg).Reserve(8 * pg), Anonymous(pg), Anonymous(0).Reserve(pg), File(f, 0, 0)} {
		for _, s := range []Spec{s.Populate(), s.PopulateCached(), s.Populate().PopulateCached()} {
			check(t, mapped[Read](t, s).Close())
			check(t, mapped[Write](t, s).Close())
			check(t, mapped[None](t, s).Close())
		}
	}
}

// Populated for writing, a private page is a copy: it keeps the old contents
// when the file changes. Any other shows the new ones.
func TestPopulateCopies(t *testing.T) {
	pg := int(pageSize)
	for name, c := range map[string]struct {
		build  func(s Spec) (mapping, error)
		copied bool
	}{
		"populate":          {func(s Spec) (mapping, error) { return Map[ReadWrite](s.Populate()) }, true},
		"populate, reserve": {func(s Spec) (mapping, error) { return Map[ReadWrite](s.Populate().Reserve(9 * pg)) }, true},
		"populate, read":    {func(s Spec) (mapping, error) { return Map[Read](s.Populate()) }, false},
		"read, reserve":     {func(s Spec) (mapping, error) { return Map[Read](s.Populate().Reserve(9 * pg)) }, false},
		"cached":            {func(s Spec) (mapping, error) { return Map[ReadWrite](s.PopulateCached()) }, false},
		"not":               {func(s Spec) (mapping, error) { return Map[ReadWrite](s) }, false},
	} {
		f, data := scratch(t, 2*pg)
		m, err := c.build(File(f, 0, 2*pg))
		check(t, err)
		check(t, second(f.WriteAt([]byte{data[5] + 1}, 5)))
		b := make([]byte, 6)
		check(t, second(m.(io.ReaderAt).ReadAt(b, 0)))
		if (b[5] == data[5]) != c.copied {
			t.Errorf("%s: the page is a copy: %v", name, b[5] == data[5])
		}
		check(t, m.Close())
	}
}

// Populate of a shared mapping reads: whether there is a reserve behind it, the
// file is not written, and a hole of it stays a hole.
func TestPopulateHole(t *testing.T) {
	const size = 1 << 20
	blocks := func(s func(Spec) Spec) int64 {
		f, err := os.Create(filepath.Join(t.TempDir(), "hole"))
		check(t, err)
		defer f.Close()
		check(t, f.Truncate(size))
		m := mapped[ReadWrite](t, s(File(f, 0, size).Shared()))
		defer m.Close()
		var st unix.Stat_t
		check(t, unix.Fstat(int(f.Fd()), &st))
		return st.Blocks
	}
	plain := blocks(Spec.Populate)
	if with := blocks(func(s Spec) Spec { return s.Populate().Reserve(2 * size) }); with != plain {
		t.Errorf("populated, a file that was all hole has %d blocks, with a reserve %d", plain, with)
	}
}

// Without persistent memory, Synchronous is an error and not a mapping that is
// less than was asked for.
func TestSynchronousRefused(t *testing.T) {
	pg := int(pageSize)
	memfd, err := Memfd("sync", int64(pg), 0)
	check(t, err)
	defer memfd.Close()
	zero, err := os.OpenFile("/dev/zero", os.O_RDWR, 0)
	check(t, err)
	defer zero.Close()
	for name, f := range map[string]*os.File{"memfd": memfd, "device": zero} {
		for way, s := range map[string]Spec{"": File(f, 0, pg), "reserve": File(f, 0, pg).Reserve(4 * pg), "populate": File(f, 0, pg).Populate()} {
			_, err := Map[ReadWrite](s.Shared().Synchronous())
			if wants(t, name+way, err, unix.EOPNOTSUPP, errors.ErrUnsupported); err == nil || !strings.Contains(err.Error(), "DAX") {
				t.Errorf("%s %s: %v", name, way, err)
			}
		}
		m := mapped[Read](t, Anonymous(pg))
		before := table(t, m)
		_, err := Over[ReadWrite](m, File(f, 0, pg).Shared().Synchronous())
		if wants(t, name+" over", err, unix.EOPNOTSUPP); table(t, m) != before {
			t.Error(table(t, m))
		}
		u, err := Forget(m)
		check(t, err)
		wants(t, name+" place", u.Place(0, File(f, 0, pg).Shared().Synchronous(), ProtRead), unix.EOPNOTSUPP)
		if table(t, u) != before {
			t.Error(table(t, u))
		}
		check(t, u.Close())
	}
}

// On persistent memory, Synchronous is a mapping of the storage itself, wherever
// it is placed.
func TestSynchronous(t *testing.T) {
	dir := os.Getenv("MMAP_TEST_DAX")
	if dir == "" {
		t.Skip("MMAP_TEST_DAX names no directory on a DAX file system")
	}
	pg := int(pageSize)
	name := filepath.Join(dir, fmt.Sprintf("mmap-test-%d", os.Getpid()))
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	check(t, err)
	t.Cleanup(func() { f.Close(); os.Remove(name) })
	check(t, Allocate(f, 0, int64(8*pg)))
	s := File(f, 0, 4*pg).Shared().Synchronous()
	for way, build := range map[string]func() (ReadWrite, error){
		"map":  func() (ReadWrite, error) { return Map[ReadWrite](s) },
		"path": func() (ReadWrite, error) { return Map[ReadWrite](Path(name).Shared().Synchronous()) },
		"onto": func() (ReadWrite, error) {
			return Map[ReadWrite](s.UnsafeOnto(mapped[None](t, Anonymous(4*pg)).Addr()))
		},
		"align":      func() (ReadWrite, error) { return Map[ReadWrite](s.Align(1 << 22)) },
		"populate":   func() (ReadWrite, error) { return Map[ReadWrite](s.Populate()) },
		"no-reserve": func() (ReadWrite, error) { return Map[ReadWrite](s.NoReserve()) },
		"offset":     func() (ReadWrite, error) { return Map[ReadWrite](File(f, 5, 4*pg-5).Shared().Synchronous()) },
		"over":       func() (ReadWrite, error) { return Over[ReadWrite](mapped[None](t, Anonymous(4*pg)), s) },
		"resize": func() (ReadWrite, error) {
			m, err := Map[ReadWrite](s)
			check(t, err)
			return Resize(m, 8*pg)
		},
		"grow": func() (ReadWrite, error) {
			m, err := Map[ReadWrite](s.Reserve(8 * pg))
			check(t, err)
			return m, Grow(m, 8*pg)
		},
		"place": func() (ReadWrite, error) {
			u, err := MapUnknown(Anonymous(4*pg), ProtNone)
			check(t, err)
			if err := u.Place(0, s, ProtRead|ProtWrite); err != nil {
				u.Close()
				return ReadWrite{}, err
			}
			return Assert[ReadWrite](u)
		},
	} {
		m, err := build()
		if err != nil {
			t.Errorf("%s: %v", way, err)
			continue
		}
		flagged(t, way, m, "sf sh", "")
		// What is stored is in the file, before any call says so, and after one.
		last := m.Len() - 1
		check(t, second(m.WriteAt([]byte(way[:2]), int64(last)-1)))
		b, end := make([]byte, 2), int64(last)-1
		if way == "offset" {
			end += 5
		}
		if check(t, second(f.ReadAt(b, end))); string(b) != way[:2] {
			t.Errorf("%s: the file has %q", way, b)
		}
		check(t, m.Sync(0, m.Len()))
		check(t, m.Close())
	}
	// The same file without it, to see that the flag is not there by itself.
	flagged(t, "not synchronous", mapped[ReadWrite](t, File(f, 0, pg).Shared()), "sh", "sf")
}

// Secret memory is locked from the start, and asking for it changes nothing.
func TestSecretLock(t *testing.T) {
	pg := int(pageSize)
	m, err := Map[ReadWrite](Secret(pg).Lock())
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	check(t, err)
	m, err = Over[ReadWrite](m, Secret(pg).LockOnFault())
	check(t, err)
	u, err := Forget(m)
	check(t, err)
	defer u.Close()
	check(t, u.Place(0, Secret(pg).Lock(), ProtRead|ProtWrite))
	// Its flag depends on the kernel, 6.12 does without; what there is stays.
	before := smapsOf(t, u.Addr())["VmFlags"]
	wants(t, "lock", u.Lock(0, pg), errors.ErrUnsupported)
	if after := smapsOf(t, u.Addr())["VmFlags"]; after != before {
		t.Errorf("Lock has made %s of %s", after, before)
	}
}

// A file is opened for no more than is asked for: most kernels let nobody open a
// program that runs for writing.
func TestPathOfProgram(t *testing.T) {
	s := Path("/proc/self/exe")
	check(t, must(Map[Read](s.Shared())).Close())
	check(t, must(Map[ReadWrite](s)).Close())
}

// Descriptor 0 is one as any other.
func TestDescriptorZero(t *testing.T) {
	if !byItself(t) {
		return
	}
	pg := int(pageSize)
	f, data := scratch(t, 2*pg)
	check(t, unix.Dup3(int(f.Fd()), 0, 0))
	m := mapped[Read](t, FD(0, 0, 2*pg))
	got := make([]byte, 2*pg)
	if check(t, second(m.ReadAt(got, 0))); !bytes.Equal(got, data) {
		t.Error("other contents")
	}
	m, err := Resize(m, 0)
	check(t, err)
	_, err = Resize(m, pg)
	wants(t, "nothing of a file has no source", err, os.ErrInvalid)
}

func TestSpecString(t *testing.T) {
	for want, s := range map[string]Spec{
		"zero Spec": {}, "7 anonymous bytes, near 0x5000": Anonymous(7).Near(0x5000), "7 secret bytes, at 0x5000": Secret(7).At(0x5000),
		"\"file\", shared, onto 0x5000, aligned to 4096": Path("file").Shared().UnsafeOnto(0x5000).Align(4096), "\"\"": Path(""),
		"7 anonymous bytes, in huge pages, reserving 9": Anonymous(7).HugePages(0).Reserve(9), "7 bytes of descriptor 3 at offset 5": FD(3, 5, 7),
		"7 bytes of a nil file at offset 5": File(nil, 5, 7), "\"a\\nb\", shared, synchronous": Path("a\nb").Shared().Synchronous(),
		"7 anonymous bytes, not charged, below 2 GiB, populated, locked": Anonymous(7).Low().NoReserve().Lock().Populate(),
		"7 anonymous bytes, droppable, populated from the cache":         Anonymous(7).Droppable().PopulateCached(),
		"7 secret bytes, reserving 9":                                    Secret(7).Lock().Reserve(9), "7 anonymous bytes, locked on fault": Anonymous(7).LockOnFault(),
	} {
		if got := s.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// What does not fit is explained, also below 2 GiB and at the largest numbers.
func TestNoRoom(t *testing.T) {
	if runtime.GOARCH == "amd64" {
		gib := 1 << 30
		explained(t, "reserve", second(Map[Read](Anonymous(1).Low().Reserve(3*gib))), unix.ENOMEM, "there is no room for 3221225472 bytes below 2 GiB")
		explained(t, "align", second(Map[Read](Anonymous(1).Low().Align(2*gib))), unix.ENOMEM, "bytes below 2 GiB")
	}
	const none = "the address space has no room for "
	explained(t, "size", second(Map[Read](Anonymous(math.MaxInt))), unix.ENOMEM, none)
	explained(t, "capacity", second(Map[Read](Anonymous(1).Reserve(math.MaxInt))), unix.ENOMEM, none)
	m := mapped[Read](t, Anonymous(1))
	explained(t, "resize", second(Resize(m, math.MaxInt)), unix.ENOMEM, none)
	for _, s := range []Spec{Anonymous(1).At(^(pageSize - 1)), Anonymous(1).UnsafeOnto(^(pageSize - 1))} {
		explained(t, "end", second(Map[Read](s)), unix.ENOMEM, "past the end of the address space")
	}
	near := must(Map[Read](Anonymous(1).Near(^uintptr(0))))
	check(t, near.Close())
	explained(t, "over", second(Over[Read](m, Anonymous(2))), unix.EINVAL, fmt.Sprintf("map 2 anonymous bytes over the mapping at %#x as r--: the size is 2", m.Addr()))
}

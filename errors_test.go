//go:build linux

package mmap

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/mmarinus/mmap/internal/place"
	"github.com/mmarinus/mmap/internal/testkit"
	"golang.org/x/sys/unix"
)

// The refusals that everybody meets say what to do.
func TestDenied(t *testing.T) {
	pg := int(pageSize)
	name := filepath.Join(t.TempDir(), "file")
	check(t, os.WriteFile(name, make([]byte, pg), 0o600))
	open := func(mode int) *os.File {
		f, err := os.OpenFile(name, mode, 0)
		check(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	shared := func(f *os.File) error { return second(Map[ReadWrite](File(f, 0, pg).Shared())) }
	explained(t, "read-only", shared(open(os.O_RDONLY)), unix.EACCES, "open for reading only")
	explained(t, "write-only", shared(open(os.O_WRONLY)), unix.EACCES, "open for writing only")
	explained(t, "write-only, to read", second(Map[Read](File(open(os.O_WRONLY), 0, pg))), unix.EACCES, "open for writing only")
	u := must(MapUnknown(Anonymous(pg), ProtRead))
	defer u.Close()
	explained(t, "place", u.Place(0, File(open(os.O_RDONLY), 0, pg).Shared(), ProtRead|ProtWrite), unix.EACCES, "open for reading only")

	sealed, err := Memfd("sealed", int64(pg), SealWrite)
	check(t, err)
	defer sealed.Close()
	explained(t, "sealed", shared(sealed), unix.EPERM, "sealed against writing")
	free, err := Memfd("free", int64(pg), 0)
	check(t, err)
	defer free.Close()
	m := mapped[ReadWrite](t, File(free, 0, pg).Shared())
	explained(t, "add seals", AddSeals(free, SealWrite), unix.EBUSY, "is still there")
	check(t, m.Close())
	check(t, AddSeals(free, SealWrite))

	taken := mapped[Read](t, File(free, 0, 2*pg))
	for what, err := range map[string]error{
		"at":   second(Map[Read](Anonymous(pg).At(taken.Addr()))),
		"move": second(Move(mapped[Read](t, Anonymous(pg)), taken.Addr())),
	} {
		explained(t, what, err, unix.EEXIST, fmt.Sprintf("%#x-%#x is mapped already, r--p /memfd:free", taken.Addr(), taken.Addr()+2*pageSize))
	}
}

// Shared is refused by a FUSE file that passes the page cache by.
func TestDeniedFUSE(t *testing.T) {
	fs := mountFUSE(t)
	if fs == nil {
		return
	}
	explained(t, "direct", second(Map[Read](Path(fs.path("direct")).Shared())), unix.ENODEV, "can only be mapped private")
	check(t, mapped[Read](t, Path(fs.path("direct"))).Close())
}

// onNoexec returns the name of a file of one page where programs are not run. The test has its
// own mounts.
func onNoexec(t *testing.T) (name string) {
	t.Helper()
	dir := t.TempDir()
	check(t, unix.Mount("none", dir, "tmpfs", unix.MS_NOEXEC, ""))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	name = filepath.Join(dir, "file")
	check(t, os.WriteFile(name, make([]byte, pageSize), 0o700))
	return name
}

// Programs are not run from everywhere.
func TestDeniedNoexec(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	explained(t, "noexec", second(Map[ReadExec](Path(onNoexec(t)))), unix.EPERM, "noexec")
}

func TestDeniedMDWE(t *testing.T) {
	if !alone(t) {
		return
	}
	denyExecGain(t)
	check(t, mapped[ReadExec](t, Anonymous(10)).Close())
	explained(t, "reserve", second(Map[ReadExec](Anonymous(10).Reserve(100000))), unix.EACCES, "without a reserve")
}

// Memory without storage is not a bad argument of Sync, and a driver's ring is
// neither extended nor divided.
func TestNoStorage(t *testing.T) {
	pg := int(pageSize)
	if hasSecret(t) {
		m := mapped[ReadWrite](t, Secret(pg))
		if err := m.Sync(0, pg); !errors.Is(err, errors.ErrUnsupported) || errors.Is(err, os.ErrInvalid) {
			t.Error("secret: ", err)
		}
		check(t, m.Close())
	}
}

// ring returns a ring of perf_event_open(2) of three pages.
func ring(t *testing.T) ReadWrite {
	t.Helper()
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_DUMMY, Bits: unix.PerfBitDisabled | unix.PerfBitExcludeKernel}
	fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		if testkit.Capable(unix.CAP_SYS_ADMIN) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOSYS) {
			t.Error(err)
		}
		t.Skip("perf_event_open: ", err)
	}
	defer unix.Close(fd)
	return must(Map[ReadWrite](FD(fd, 0, 3*int(pageSize)).Shared()))
}

func TestUndivided(t *testing.T) {
	pg := int(pageSize)
	m := ring(t)
	if err := m.Sync(0, pg); !errors.Is(err, errors.ErrUnsupported) || errors.Is(err, os.ErrInvalid) {
		t.Error("sync: ", err)
	}
	m, err := Resize(m, 6*pg)
	explained(t, "resize", err, unix.EFAULT, "does not extend")
	wants(t, "resize", err, errors.ErrUnsupported)
	left, right, err := Split(m, pg)
	check(t, err)
	err = right.Close()
	if err == nil {
		check(t, left.Close())
		t.Skip("before Linux 6.17 the kernel divides it")
	}
	explained(t, "close", err, unix.EINVAL, "does not divide this memory")
	_, err = Resize(right, pg)
	explained(t, "resize", err, unix.EINVAL, "does not divide this memory")
	if _, err = Protect[Read](right); !errors.Is(err, errors.ErrUnsupported) || errors.Is(err, os.ErrInvalid) {
		t.Error("protect all: ", err)
	}
	explained(t, "protect all", err, unix.EINVAL, "does not divide this memory")
	_, err = Over[Read](right, Anonymous(2*pg))
	explained(t, "over", err, unix.EINVAL, "does not divide this memory")
	u := must(Forget(right))
	explained(t, "place", u.Place(0, Anonymous(pg), ProtRead), unix.EINVAL, "does not divide this memory")
	explained(t, "protect", u.ProtectRange(0, pg, ProtRead), unix.EINVAL, "does not divide this memory")
	rest := must(Forget(left))
	check(t, must(Join(rest, u)).Close())
}

// When all parts of it are lost, the collector unmaps it.
func TestUndividedCollected(t *testing.T) {
	var at uintptr
	func() {
		m := ring(t)
		at = m.Addr()
		left, rest, err := Split(m, int(pageSize))
		check(t, err)
		middle, right, err := Split(rest, int(pageSize))
		check(t, err)
		runtime.KeepAlive([]ReadWrite{left, middle, right})
	}()
	if !collected(t, at) || isMapped(t, at+2*pageSize) {
		t.Error("parts of it are left")
	}
}

// A part of it that is lost goes when the last other one is closed, and rings that lie
// side by side do not hold each other up.
func TestUndividedLostAndClosed(t *testing.T) {
	pg := int(pageSize)
	split := func(at uintptr) (left, right ReadWrite) {
		left, right, err := Split(must(Move(ring(t), at)), pg)
		check(t, err)
		return left, right
	}
	at := nowhere(t, 6)
	var kept ReadWrite
	func() {
		left, right := split(at)
		if kept = right; left.Len() != pg {
			t.Error(left)
		}
	}()
	for range 3 {
		runtime.GC()
	}
	if isMapped(t, at) { // Linux 6.17, which does not divide it
		wants(t, "while the other part is in use", second(kept.ReadAt(make([]byte, 1), 0)), nil)
	}
	err := kept.Close()
	for range 200 {
		if err == nil {
			break
		}
		runtime.GC() // the finalizer of the other part has not run yet
		time.Sleep(time.Millisecond)
		err = kept.Close()
	}
	if check(t, err); isMapped(t, at) || isMapped(t, at+pageSize) {
		t.Error("a part is left")
	}
	func() { split(at); split(at + 3*pageSize) }()
	for page := range uintptr(6) {
		if !collected(t, at+page*pageSize) {
			t.Errorf("page %d is left", page)
		}
	}
}

// What cannot be synced does not keep the rest from it.
func TestSyncBesideRing(t *testing.T) {
	pg := int(pageSize)
	f, _ := scratch(t, 3*pg)
	u := must(MapUnknown(File(f, 0, 3*pg).Shared(), ProtRead|ProtWrite))
	defer u.Close()
	at := nowhere(t, 6)
	m, err := Move(ring(t), at)
	check(t, err)
	behind := must(MapUnknown(File(f, 0, 3*pg).Shared().At(at+3*pageSize), ProtRead|ProtWrite))
	joined, err := Join(must(Forget(m)), behind)
	check(t, err)
	defer joined.Close()
	check(t, second(joined.WriteAt([]byte{1}, int64(4*pg))))
	dirty := func() uint64 {
		smaps := smapsOf(t, joined.Addr()+3*pageSize)
		return kilobytes(smaps["Shared_Dirty"]) + kilobytes(smaps["Private_Dirty"])
	}
	check(t, u.Sync(0, 3*pg))
	check(t, second(joined.WriteAt([]byte{1}, int64(4*pg))))
	if dirty() == 0 {
		t.Fatal("it has not been written")
	}
	err = joined.Sync(0, 6*pg)
	wants(t, "sync", err, errors.ErrUnsupported, unix.EINVAL)
	if errors.Is(err, os.ErrInvalid) {
		t.Error("the arguments are right: ", err)
	}
	if n := dirty(); n > 0 && !onTmpfs(t, f) {
		t.Errorf("%d bytes are not synced", n)
	}
}

func onTmpfs(t *testing.T, f *os.File) bool {
	var fs unix.Statfs_t
	check(t, unix.Fstatfs(int(f.Fd()), &fs))
	return uint32(fs.Type) == unix.TMPFS_MAGIC
}

// heldHeap is Go memory that has become another's for ever.
var heldHeap [][]byte

// heapPage returns a page of the Go heap.
func heapPage() (b []byte, at uintptr) {
	heap := make([]byte, 1<<20)
	for i := range heap {
		heap[i] = byte(i)
	}
	at = (uintptr(unsafe.Pointer(&heap[0])) + pageSize - 1) &^ (pageSize - 1)
	off := int(at - uintptr(unsafe.Pointer(&heap[0])))
	return heap[off : off+int(pageSize)], at
}

// A page that cannot be brought in takes the mapping away again, and leaves memory.
func TestOntoHeapFails(t *testing.T) {
	f, err := Memfd("heap", 0, 0)
	check(t, err)
	defer f.Close()
	b, at := heapPage()
	_, err = Map[Read](File(f, 0, len(b)).Shared().Lock().UnsafeOnto(at))
	wants(t, "lock past the end", err, ErrFault)
	b[7] = 1

	size, _, err := hugeFlags(0)
	if err != nil {
		t.Log("not tested: ", err)
		return
	}
	n := pools(t)[int(size)] + 1 // one more than there are
	if n > 1000 {
		t.Logf("not tested: %d huge pages are free", n-1)
		return
	}
	place := mapped[ReadWrite](t, Anonymous((n+1)*int(size)).Align(int(size)))
	_, err = Map[ReadWrite](Anonymous(n * int(size)).HugePages(0).Reserve((n + 1) * int(size)).UnsafeOnto(place.Addr()))
	wants(t, "huge pages", err, unix.ENOMEM)
	check(t, second(place.WriteAt([]byte{1}, int64(place.Len()-1))))
	check(t, second(place.WriteAt([]byte{1}, 0)))
}

// Nor does a driver that refuses when the old pages are gone.
func TestOntoRefusedLate(t *testing.T) {
	fs := mountFUSE(t)
	if fs == nil {
		return
	}
	m := mapped[ReadWrite](t, Anonymous(3*int(pageSize)))
	f, err := os.Open(fs.path("direct"))
	check(t, err)
	defer f.Close()
	_, err = Map[Read](File(f, 0, int(pageSize)).Shared().UnsafeOnto(m.Addr() + pageSize))
	explained(t, "direct", err, unix.ENODEV, "can only be mapped private")
	check(t, second(m.WriteAt(bytes.Repeat([]byte{1}, m.Len()), 0)))
}

// What was put in the place of the Go heap goes back to it, or stays for ever.
func TestOntoHeap(t *testing.T) {
	pg := int(pageSize)
	b, at := heapPage()
	f, err := Memfd("heap", int64(pg), 0)
	check(t, err)
	defer f.Close()
	m, err := Map[ReadWrite](File(f, 0, pg).Shared().UnsafeOnto(at))
	check(t, err)
	b[7] = 42
	got := []byte{0}
	if check(t, second(f.ReadAt(got, 7))); got[0] != 42 {
		t.Error("the store has not reached the file")
	}
	m, err = Over[ReadWrite](m, Anonymous(pg))
	check(t, err)
	_, _, err = m.Release()
	check(t, err)
	if b[7] != 0 {
		t.Error("the page is another's")
	}
	lost, at := heapPage()
	func() { check(t, second(Map[ReadWrite](File(f, 0, pg).Shared().UnsafeOnto(at)))) }()
	kept, at2 := heapPage()
	func() { check(t, second(UnsafeAdopt[ReadWrite](at2, pg))) }()
	for range 4 {
		runtime.GC()
	}
	b[7], lost[7], kept[7] = 1, 2, 3 // a hole would end the program
	if heldHeap = append(heldHeap, lost, kept); !isMapped(t, at) || !isMapped(t, at2) {
		t.Error("collected")
	}
}

// What a fault was is known without the files of /proc that a process which is not
// dumpable cannot open.
func TestNotDumpable(t *testing.T) {
	if !alone(t) {
		return
	}
	pg := int(pageSize)
	m := mapped[Read](t, Anonymous(pg))
	if os.Geteuid() == 0 {
		check(t, unix.Setresgid(65534, 65534, 65534))
		check(t, unix.Setresuid(65534, 65534, 65534))
	}
	check(t, unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
	wants(t, "store", m.View(func(b []byte) error { b[3] = 1; return nil }), ErrPermission)
}

// Another file of the same inode, on another file system, proves nothing.
func TestTruncatedElsewhere(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	pg := int(pageSize)
	dir := t.TempDir()
	mount := func() string {
		check(t, unix.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%d", 4*pg)))
		return filepath.Join(dir, "file")
	}
	name := mount()
	f, err := os.Create(name)
	check(t, err)
	check(t, f.Truncate(int64(16*pg)))
	m := mapped[ReadWrite](t, File(f, 0, 16*pg).Shared())
	defer func() {
		check(t, unix.Unmount(dir, unix.MNT_DETACH))
		check(t, unix.Unmount(dir, unix.MNT_DETACH))
	}()
	_, err = m.WriteAt(make([]byte, 16*pg), 0)
	if !errors.Is(err, ErrFault) || errors.Is(err, ErrTruncated) || !strings.Contains(err.Error(), "no free space") {
		t.Error("full: ", err)
	}
	second := mount()
	check(t, os.WriteFile(second, nil, 0o600))
	// Without the capability, the link of map_files does not lead to the file.
	for name := second; strings.Contains(name, t.Name()); name = filepath.Dir(name) {
		check(t, unix.Chmod(name, 0o755))
	}
	// An ordinary user is the only one of the namespace, and has no such capability in it.
	if err := unix.Setresuid(-1, 65534, 0); err != unix.EINVAL {
		check(t, err)
	}
	defer unix.Setresuid(0, 0, 0)
	check(t, unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0))
	_, err = m.WriteAt(make([]byte, 16*pg), 0)
	if !errors.Is(err, ErrFault) || errors.Is(err, ErrTruncated) {
		t.Error("another tmpfs over it: ", err)
	}
}

// Without a free descriptor the kernel's table cannot be asked. What needs it
// says so, and leaves everything as it was.
func TestDescriptorLimit(t *testing.T) {
	if !alone(t) {
		return
	}
	pg := int(pageSize)
	f, _ := scratch(t, 3*pg)
	u := patchwork(t)
	known := mapped[Read](t, File(f, 0, 3*pg))
	foreign := must(Map[Read](Anonymous(pg)))
	addr, size, err := foreign.Release()
	check(t, err)
	to, before := nowhere(t, 8), state(t, u)
	check(t, f.Truncate(0))
	cut, _ := scratch(t, pg)
	locked := mapped[Read](t, File(cut, 0, 3*pg))
	check(t, locked.LockOnFault(0, pg))
	var old unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: old.Max}))
	_, mapPath := Map[Read](Path(f.Name()))
	_, assert := Assert[ReadWrite](u)
	_, regions := u.Regions()
	_, move := Move(u, to)
	_, adopt := UnsafeAdopt[Unknown](addr, size)
	_, memfd := Memfd("none", 1, 0)
	_, secret := Map[ReadWrite](Secret(1))
	_, fault := known.ReadAt(make([]byte, 1), 0)
	resident := second(known.Resident(0, 3*pg))
	lock := locked.Lock(0, 3*pg)
	check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old))
	if wants(t, "lock", lock, ErrFault); !place.IsLocked(locked.Addr(), pageSize) || place.IsLocked(locked.Addr()+pageSize, 2*pageSize) {
		t.Error("a lock that failed has left other pages locked than before")
	}
	for what, err := range map[string]error{"map": mapPath, "assert": assert, "regions": regions, "move": move, "adopt": adopt, "memfd": memfd} {
		wants(t, what, err, unix.EMFILE)
	}
	explained(t, "assert", assert, unix.EMFILE, "assert rw-: /proc/self/maps cannot be read")
	explained(t, "adopt", adopt, unix.EMFILE, fmt.Sprintf("adopt %d bytes at %#x", size, addr))
	if Probe("memfd_secret") == nil {
		wants(t, "secret", secret, unix.EMFILE)
	}
	var cause *FaultError
	if !errors.As(fault, &cause) || cause.Err != ErrFault {
		t.Errorf("a fault without a proof: %#v", fault)
	}
	check(t, resident)
	kept(t, "all of it", u, before)
	if isMapped(t, to) {
		t.Error("the place that a move was to have is held on")
	}
	u, err = Move(u, to)
	check(t, err)
	check(t, u.Close())
}

//go:build linux

package place

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// large is brought in piece by piece. Reading memory that nobody has written takes none.
const large = 100<<20 + 3<<12

func TestPopulateLarge(t *testing.T) {
	if !Populates() {
		t.Skip("before Linux 5.14")
	}
	size := kernel.Page(large)
	at := mapped(t, Wish{}, 0, size/page, size/page, perms.Read)
	part := Stretch{at, size, memory.Kind(perms.Read)}
	if err := part.Populate(unix.MADV_POPULATE_READ); err != nil {
		t.Fatal(err)
	}
	if n, err := Resident(at, size); uintptr(n) != size/page || err != nil {
		t.Errorf("%d pages are there, %v", n, err)
	}
	for range 1000 { // who came late has nothing to do, and nobody waits for it
		if threads.Load() == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if n := threads.Load(); n != 0 {
		t.Errorf("%d threads are at work", n)
	}
	// Of several pages that are not to be had, the lowest is named, and all below are there.
	for _, first := range []uintptr{0, 5 * page, 40 << 20, 40<<20 + 7*page, size - page} {
		if err := sys.Madvise(at, size, unix.MADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
		for _, bad := range []uintptr{first, (first + size - page) / 2 &^ (page - 1), size - page} {
			if _, err := sys.Mmap(at+bad, page, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_FIXED, endless(t), 0); err != nil {
				t.Fatal(err)
			}
		}
		var fault *Fault
		if err := part.Populate(unix.MADV_POPULATE_READ); !errors.As(err, &fault) || fault.Addr != at+first {
			t.Errorf("the page at %#x: %v, %+v from %#x", first, err, fault, at)
		}
		if n, err := Resident(at, first); uintptr(n) != first/page || err != nil {
			t.Errorf("below %#x %d pages are there, %v", first, n, err)
		}
		if _, err := sys.Mmap(at, size, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED, -1, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := (Stretch{at, size, memory.Kind(0)}).Populate(-1); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

// endless is a file that has no bytes.
func endless(t *testing.T) int {
	f, err := os.Create(filepath.Join(t.TempDir(), "empty"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return int(f.Fd())
}

// All calls together have no more threads than there may be, and each has one.
func TestHire(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(5))
	for _, c := range []struct{ wants, gets int }{{2, 2}, {100, 1}, {100, 0}, {1, 0}, {-1, 0}} {
		if n := hire(c.wants); n != c.gets {
			t.Errorf("%d of %d", n, c.wants)
		}
	}
	threads.Store(0)
	runtime.GOMAXPROCS(64)
	if n := hire(100); n != maxThreads-1 {
		t.Error(n)
	}
	threads.Store(0)
}

// Only what comes from memory is brought in by several threads.
func TestInMemory(t *testing.T) {
	file := func(name string, open func() (int, error), want bool) {
		t.Helper()
		fd, err := open()
		if err != nil {
			t.Logf("not tested: %s: %v", name, err)
			return
		}
		defer unix.Close(fd)
		if err := unix.Ftruncate(fd, 2*int64(page)); err != nil {
			t.Fatal(name, err)
		}
		b := Backing{FD: fd, Granule: page, Flags: unix.MAP_SHARED}
		at, err := (Wish{}).Map(b, 0, 2*page, 2*page, perms.Read)
		if err != nil {
			t.Fatal(name, err)
		}
		defer sys.Munmap(at, 2*page)
		if is := (Stretch{at, 2 * page, b.Kind(perms.Read)}).InMemory(); is != want {
			t.Errorf("%s: %v", name, is)
		}
	}
	create := func(dir string) func() (int, error) {
		return func() (int, error) {
			name := filepath.Join(dir, "mmap-test")
			t.Cleanup(func() { os.Remove(name) })
			return unix.Open(name, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		}
	}
	file("memfd", func() (int, error) { return unix.MemfdCreate("test", unix.MFD_CLOEXEC) }, true)
	var fs unix.Statfs_t
	onTmpfs := func(dir string) bool { return unix.Statfs(dir, &fs) == nil && fs.Type == unix.TMPFS_MAGIC }
	if onTmpfs("/dev/shm") {
		file("tmpfs", create("/dev/shm"), true)
	}
	if dir := t.TempDir(); !onTmpfs(dir) {
		file("storage", create(dir), false)
	}
	shared := Backing{FD: -1, Granule: page, Flags: unix.MAP_SHARED | unix.MAP_ANONYMOUS}
	at, err := (Wish{}).Map(shared, 0, page, page, perms.Read)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Munmap(at, page)
	// As adopted memory: without the flag.
	if !(Stretch{at, page, perms.Kind{Prot: perms.Read, Granule: page, Flags: unix.MAP_SHARED}}).InMemory() {
		t.Error("shared anonymous memory")
	}
}

//go:build linux

package procmaps

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var pageSize = os.Getpagesize()

// mapped maps pages, and unmaps them when the test ends.
func mapped(t testing.TB, fd int, offset int64, size, prot, flags int) []byte {
	t.Helper()
	b, err := unix.Mmap(fd, offset, size, prot, flags)
	if err != nil {
		t.Fatal(os.NewSyscallError("mmap", err))
	}
	t.Cleanup(func() {
		if err := unix.Munmap(b); err != nil {
			t.Error(os.NewSyscallError("munmap", err))
		}
	})
	return b
}

func addr(b []byte) uint64 { return uint64(reflect.ValueOf(b).Pointer()) }

// mapKinds maps one area of every kind, and returns what the table must say.
// Where the inode is not known it is 0. The device is left out.
func mapKinds(t *testing.T) (want []Region) {
	dir := t.TempDir()
	expect := func(b []byte, r Region) {
		r.Start = addr(b)
		r.End = r.Start + uint64(len(b))
		want = append(want, r)
	}
	// file maps the second and third page of a new file, read-only.
	file := func(name string, unlink bool) {
		t.Helper()
		path := filepath.Join(dir, name)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := mapped(t, int(f.Fd()), int64(pageSize), 2*pageSize, unix.PROT_READ, unix.MAP_PRIVATE)
		if unlink {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		path, suffix := strings.CutSuffix(path, " (deleted)")
		if unlink && suffix {
			path += " (deleted)"
		}
		expect(b, Region{Perms: Read, Offset: uint64(pageSize), Name: path, Deleted: unlink || suffix})
	}
	file("plain", false)
	file("two words and a space ", false)
	file("\nnew\n\nlines\n", false)
	file("tab\tand\rreturn\x01\xff\\\\", false)
	file("alive (deleted)", false) // the kernel does not say which
	file("unlinked", true)
	file("unlinked\n (deleted)", true)

	const shared = unix.MAP_SHARED | unix.MAP_ANONYMOUS
	const private = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	const rw = unix.PROT_READ | unix.PROT_WRITE
	expect(mapped(t, -1, 0, 3*pageSize, rw, shared), Region{Perms: Read | Write | Shared, Name: "/dev/zero", Deleted: true})
	// A combination that nothing else here has, so that no neighbour merges with it.
	expect(mapped(t, -1, 0, pageSize, unix.PROT_WRITE|unix.PROT_EXEC, private), Region{Perms: Write | Exec})

	zero, err := os.OpenFile("/dev/zero", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer zero.Close()
	expect(mapped(t, int(zero.Fd()), 0, pageSize, rw, unix.MAP_PRIVATE), Region{Perms: Read | Write, Name: "/dev/zero"})

	memfd, err := unix.MemfdCreate("a\nmemfd", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(os.NewSyscallError("memfd_create", err))
	}
	defer unix.Close(memfd)
	var st unix.Stat_t
	if err := unix.Fstat(memfd, &st); err != nil {
		t.Fatal(err)
	}
	far := int64(1) << 40
	expect(mapped(t, memfd, far, pageSize, unix.PROT_NONE, unix.MAP_SHARED),
		Region{Perms: Shared, Offset: uint64(far), Inode: st.Ino, Name: "/memfd:a\nmemfd", Deleted: true})

	if id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 2*pageSize, unix.IPC_CREAT|0o600); err != nil {
		t.Logf("not tested: System V shared memory: %v", err)
	} else {
		b, err := unix.SysvShmAttach(id, 0, 0)
		unix.SysvShmCtl(id, unix.IPC_RMID, nil)
		if err != nil {
			t.Fatal(os.NewSyscallError("shmat", err))
		}
		t.Cleanup(func() { unix.SysvShmDetach(b) })
		expect(b, Region{Perms: Read | Write | Shared, Inode: uint64(id), Name: "/SYSV00000000", Deleted: true})
	}

	clock := unix.PerfEventAttr{
		Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK,
		Bits: unix.PerfBitDisabled | unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv,
	}
	clock.Size = unix.PERF_ATTR_SIZE_VER0
	if fd, err := unix.PerfEventOpen(&clock, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC); err != nil {
		t.Logf("not tested: a name without a slash: perf_event_open: %v", err)
	} else {
		defer unix.Close(fd)
		expect(mapped(t, fd, 0, pageSize, unix.PROT_READ, unix.MAP_SHARED), Region{Perms: Read | Shared, Name: "anon_inode:[perf_event]"})
	}
	return want
}

// longNames maps two files and returns the addresses and names: one as long as
// open(2) allows, all newlines, and one that is longer, which only a chain of
// directories opened one below the other makes.
func longNames(t *testing.T) map[uint64]string {
	t.Helper()
	name := t.TempDir()
	dir, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { unix.Close(dir) }()
	names := map[uint64]string{}
	file := func(base string) {
		t.Helper()
		fd, err := unix.Openat(dir, base, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		names[addr(mapped(t, fd, 0, pageSize, unix.PROT_READ, unix.MAP_SHARED))] = name + "/" + base
	}
	descend := func(base string) {
		t.Helper()
		if err := unix.Mkdirat(dir, base, 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(dir, base, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(dir)
		dir, name = next, name+"/"+base
	}
	for unix.PathMax-1-len(name) > 300 {
		descend(strings.Repeat("\n", 200))
	}
	left := unix.PathMax - 1 - len(name) - 1 // without the NUL and the slash
	if left > 255 {
		descend(strings.Repeat("\n", 100))
		left -= 101
	}
	file(strings.Repeat("\n", left-1))
	file(strings.Repeat("\n", left))
	file(strings.Repeat("\n", left-1) + "xx") // one too long for the kernel's answer
	descend(strings.Repeat("d", 200))
	file(fmt.Sprintf("%0200d", 0))
	return names
}

// TestLongNames covers what PROCMAP_QUERY cannot answer, and lines that do not
// fit into the buffer.
func TestLongNames(t *testing.T) {
	names := longNames(t)
	compareTable(t, 0)
	ask, tooLong := asking(t, 0), 0
	for at, name := range names {
		if r, ok, err := ask.At(at); r.Name != name || !ok || err != nil {
			t.Errorf("At a name of %d bytes: one of %d, %v, %v", len(name), len(r.Name), ok, err)
		}
		if _, err := ask.query(at); err == unix.ENAMETOOLONG {
			tooLong++
		} else if err != nil {
			t.Error(err)
		}
	}
	if tooLong != 2 {
		t.Errorf("%d names were too long for the kernel, want 2", tooLong)
	}
	if ask.noQuery.Load() {
		t.Error("ENAMETOOLONG was taken for a kernel that cannot be asked")
	}
}

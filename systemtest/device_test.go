//go:build linux

package systemtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

// /dev/zero is anonymous memory with a descriptor: private, or one object that
// a mapping shares with its parts.
func TestZeroDevice(t *testing.T) {
	pg := int(pageSize)
	zero, err := os.OpenFile("/dev/zero", os.O_RDWR, 0)
	check(t, err)
	defer zero.Close()
	for _, size := range []int{0, 1, pg - 1, pg, 3*pg + 5} {
		for name, s := range map[string]mmap.Spec{
			"private": mmap.File(zero, 0, size), "shared": mmap.File(zero, 0, size).Shared(), "offset": mmap.File(zero, 7, size),
			"descriptor": mmap.FD(int(zero.Fd()), 0, size), "far": mmap.File(zero, 1<<40+3, size), "populated": mmap.File(zero, 0, size).Populate().Lock(),
		} {
			m := mapped[mmap.ReadWrite](t, s)
			got := bytes.Repeat([]byte{0xee}, size)
			if n, err := m.ReadAt(got, 0); n != size || err != nil || !bytes.Equal(got, make([]byte, size)) {
				t.Errorf("%s, %d bytes: %d, %v, or no zeros", name, size, n, err)
			}
			if n, err := m.WriteAt(bytes.Repeat([]byte{5}, size), 0); n != size || err != nil {
				t.Errorf("%s, %d bytes: wrote %d, %v", name, size, n, err)
			}
			for _, r := range must(m.Regions()) {
				if r.Name != "/dev/zero" || (r.Perms.String() == "rw-s") != (name == "shared") {
					t.Errorf("%s: %v", name, r)
				}
			}
			check(t, m.Close())
		}
	}
	// Two mappings of it have nothing in common, not even if they are shared.
	a := mapped[mmap.ReadWrite](t, mmap.File(zero, 0, pg).Shared())
	b := mapped[mmap.Read](t, mmap.File(zero, 0, pg).Shared())
	check(t, second(a.WriteAt([]byte{1}, 0)))
	p := make([]byte, 1)
	if check(t, second(b.ReadAt(p, 0))); p[0] != 0 {
		t.Error("another mapping's byte")
	}
	// A private one can be longer, a shared one has the size that it got.
	for name, s := range map[string]mmap.Spec{
		"private": mmap.File(zero, 0, pg), "shared": mmap.File(zero, 0, pg).Shared(),
	} {
		m := mapped[mmap.ReadWrite](t, s.Reserve(4*pg))
		check(t, second(m.WriteAt([]byte{9}, int64(pg)-1)))
		check(t, mmap.Grow(m, 3*pg))
		check(t, second(m.WriteAt([]byte{8}, int64(3*pg)-1)))
		p := make([]byte, 2)
		if check(t, second(m.ReadAt(p, int64(pg)-1))); p[0] != 9 || p[1] != 0 {
			t.Errorf("%s: grown, it has %v", name, p)
		}
		before := table(t, m)
		m, err = mmap.Resize(m, 8*pg)
		if name == "shared" {
			if wants(t, "resize", err, os.ErrInvalid); table(t, m) != before {
				t.Errorf("resized: %s", table(t, m))
			}
		} else if check(t, err); true {
			check(t, second(m.WriteAt([]byte{7}, int64(8*pg)-1)))
		}
		check(t, m.Close())
	}
	wo, err := os.OpenFile("/dev/zero", os.O_WRONLY, 0)
	check(t, err)
	defer wo.Close()
	_, err = mmap.Map[mmap.Write](mmap.File(wo, 0, pg))
	wants(t, "opened for writing", err, mmap.ErrPermission, unix.EACCES)
	ro, err := os.Open("/dev/zero")
	check(t, err)
	defer ro.Close()
	_, err = mmap.Map[mmap.ReadWrite](mmap.File(ro, 0, pg).Shared())
	wants(t, "shared, opened for reading", err, mmap.ErrPermission)
	check(t, second(mapped[mmap.ReadWrite](t, mmap.File(ro, 0, pg)).WriteAt(p, 0)))
}

// What has no memory to map is an error that says so.
func TestNoMemory(t *testing.T) {
	r, w, err := os.Pipe()
	check(t, err)
	defer r.Close()
	defer w.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	check(t, err)
	ofPath, err := unix.Open("/dev/zero", unix.O_PATH|unix.O_CLOEXEC, 0)
	check(t, err)
	fds := map[string]int{"pipe": int(r.Fd()), "socket": pair[0], "event": event}
	for _, fd := range append(pair[:], event, ofPath) {
		defer unix.Close(fd)
	}
	for _, name := range []string{"/dev/null", "/dev/full", "/dev/random", "/dev/kmsg", t.TempDir()} {
		f, err := os.Open(name)
		if err != nil {
			t.Log("not tested: ", err) // a container may have few devices
			continue
		}
		defer f.Close()
		fds[name] = int(f.Fd())
	}
	for name, fd := range fds {
		for _, s := range []mmap.Spec{mmap.FD(fd, 0, 1), mmap.FD(fd, 0, 1).Shared(), mmap.FD(fd, int64(pageSize), 5).Reserve(3 * int(pageSize)).Populate()} {
			_, err := mmap.Map[mmap.Read](s)
			wants(t, name, err, unix.ENODEV, errors.ErrUnsupported)
		}
		check(t, mapped[mmap.Read](t, mmap.FD(fd, 0, 0)).Close())
		m := mapped[mmap.Read](t, mmap.Anonymous(1))
		before := table(t, m)
		_, err := mmap.Over[mmap.Read](m, mmap.FD(fd, 0, 1))
		if wants(t, name+" over", err, unix.ENODEV); table(t, m) != before {
			t.Errorf("%s: over has failed, and left %s", name, table(t, m))
		}
	}
	_, err = mmap.Map[mmap.Read](mmap.FD(ofPath, 0, 1))
	wants(t, "O_PATH", err, unix.EBADF)
	for _, name := range []string{"/dev/zero", "/dev/null", "/dev/full"} {
		_, err := mmap.Map[mmap.Read](mmap.Path(name))
		if wants(t, name, err, unix.ENODEV, errors.ErrUnsupported); err == nil || !strings.Contains(err.Error(), "File with a size") {
			t.Errorf("Path(%q) does not say what to use: %v", name, err)
		}
	}
}

// A block device has no length that fstat(2) knows: mapped with a size, it is a
// file like any other.
func TestBlockDevice(t *testing.T) {
	names, _ := filepath.Glob("/sys/class/block/*")
	for _, name := range names {
		f, err := os.Open("/dev/" + filepath.Base(name))
		if err != nil {
			continue
		}
		defer f.Close()
		end, err := f.Seek(0, 2)
		if err != nil || end < 3*int64(pageSize) || end > 1<<40 {
			continue
		}
		want := make([]byte, 2*pageSize)
		check(t, second(f.ReadAt(want, 1024)))
		m := mapped[mmap.Read](t, mmap.File(f, 1024, len(want)).Shared())
		got := make([]byte, len(want))
		if check(t, second(m.ReadAt(got, 0))); !bytes.Equal(got, want) {
			t.Error("other contents than read(2) has")
		}
		last := (end - 1) &^ int64(pageSize-1)
		past := mapped[mmap.Read](t, mmap.File(f, last, 2*int(pageSize)))
		if n, err := past.ReadAt(make([]byte, 2*pageSize), 0); n != int(pageSize) || !errors.Is(err, mmap.ErrFault) {
			t.Errorf("%s of %d bytes: read %d, %v past the end", f.Name(), end, n, err)
		}
		_, err = mmap.Map[mmap.Read](mmap.Path(f.Name()))
		wants(t, "Path", err, unix.ENODEV)
		return
	}
	t.Skipf("none of %d block devices can be opened", len(names))
}

// A driver that accepts no other address than its own, as that of an SGX enclave, is
// mapped in place, over pages that have nothing to lose. A filter imitates it.
func TestDeviceInPlace(t *testing.T) {
	if !alone(t) {
		return
	}
	if mmapNumber == 0 {
		t.Skip("a filter cannot see the arguments of mmap(2) on ", runtime.GOARCH)
	}
	pg := int(pageSize)
	zero, err := os.OpenFile("/dev/zero", os.O_RDWR, 0)
	check(t, err)
	defer zero.Close()
	u := must(mmap.MapUnknown(mmap.Anonymous(4*pg), mmap.ProtNone))
	full := must(mmap.MapUnknown(mmap.Anonymous(4*pg), mmap.ProtRead|mmap.ProtWrite))
	check(t, second(full.WriteAt([]byte{7}, int64(pg))))
	none := mapped[mmap.None](t, mmap.Anonymous(2*pg))
	over := mapped[mmap.ReadWrite](t, mmap.Anonymous(2*pg))
	refuseElsewhere(t, uint32(zero.Fd()))

	_, err = mmap.Map[mmap.ReadWrite](mmap.File(zero, 0, pg))
	wants(t, "elsewhere", err, unix.EACCES)
	check(t, u.Place(pg, mmap.File(zero, 0, 2*pg), mmap.ProtRead|mmap.ProtWrite))
	check(t, second(u.WriteAt([]byte{1, 2, 3}, int64(2*pg))))
	if _, err := u.ReadAt(make([]byte, 1), 0); !errors.Is(err, mmap.ErrPermission) {
		t.Error("before it:", err)
	}
	check(t, u.Place(2*pg, mmap.File(zero, 0, pg), mmap.ProtRead)) // over the same device
	got := []byte{9}
	if check(t, second(u.ReadAt(got, int64(2*pg)))); got[0] != 0 {
		t.Error("it is the old page")
	}
	if got := pictureOf(t, u); len(got) != 4 {
		t.Error(got)
	}
	before := state(t, full)
	explained(t, "something to lose", full.Place(pg, mmap.File(zero, 0, pg), mmap.ProtRead), unix.EBUSY, "place anonymous memory as None there first")
	kept(t, "something to lose", full, before)
	check(t, full.Place(pg, mmap.Anonymous(pg), mmap.ProtNone))
	check(t, full.Place(pg, mmap.File(zero, 0, pg), mmap.ProtRead))

	rw, err := mmap.Over[mmap.ReadWrite](none, mmap.File(zero, 0, 2*pg))
	check(t, err)
	check(t, second(rw.WriteAt([]byte{1}, int64(pg))))
	before = state(t, over)
	_, err = mmap.Over[mmap.ReadWrite](over, mmap.File(zero, 0, 2*pg))
	explained(t, "over something to lose", err, unix.EBUSY, "place anonymous memory as None there first")
	kept(t, "over something to lose", over, before)
	for _, err := range []error{u.Close(), full.Close(), rw.Close()} {
		check(t, err)
	}
}

// That a device cannot be locked is not that its driver refuses the address.
func TestDeviceLockLimit(t *testing.T) {
	if !alone(t) {
		return
	}
	zero, err := os.OpenFile("/dev/zero", os.O_RDWR, 0)
	check(t, err)
	defer zero.Close()
	humble(t)
	check(t, unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{}))
	u := must(mmap.MapUnknown(mmap.Anonymous(int(pageSize)), mmap.ProtNone))
	before := state(t, u)
	wants(t, "place", u.Place(0, mmap.File(zero, 0, int(pageSize)).Lock(), mmap.ProtRead), unix.EPERM)
	kept(t, "place", u, before)
	check(t, u.Close())
}

// refuseElsewhere makes mmap(2) of a descriptor without an address EACCES.
func refuseElsewhere(t *testing.T, fd uint32) {
	t.Helper()
	const load, equal, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	low := uint32(0) // of a register's two halves
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		low = 4
	}
	arg := func(i uint32) uint32 { return 16 + 8*i }
	filter := []unix.SockFilter{
		{Code: load, K: 0}, {Code: equal, K: uint32(mmapNumber), Jf: 7},
		{Code: load, K: arg(4) + low}, {Code: equal, K: fd, Jf: 5},
		{Code: load, K: arg(0)}, {Code: equal, K: 0, Jf: 3},
		{Code: load, K: arg(0) + 4}, {Code: equal, K: 0, Jf: 1},
		{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EACCES)},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	check(t, unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog))); e != 0 {
		t.Skip("seccomp(2): ", e)
	}
}

// A driver that refuses when the old pages are gone leaves no hole.
func TestDeviceRefuses(t *testing.T) {
	name := filepath.Join(t.TempDir(), "mem")
	err := unix.Mknod(name, unix.S_IFCHR|0o400, int(unix.Mkdev(1, 1))) // /dev/mem, which need not be there
	if err != nil {
		t.Skip("mknod(2): ", err)
	}
	mem, err := os.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		t.Skip("/dev/mem: ", err)
	}
	defer mem.Close()
	pg := int(pageSize)
	const nowhere = 1 << 62 // no physical address
	u := must(mmap.MapUnknown(mmap.Anonymous(3*pg), mmap.ProtNone))
	check(t, u.ProtectRange(0, pg, mmap.ProtRead))
	err = u.Place(pg, mmap.File(mem, nowhere, pg).Shared(), mmap.ProtRead)
	if err == nil {
		t.Fatal("it is mapped")
	}
	for i := range 3 {
		if !isMapped(t, u.Addr()+uintptr(i*pg)) {
			t.Errorf("page %d is a hole after %v", i, err)
		}
	}
	check(t, second(u.ReadAt(make([]byte, 1), 0)))
	check(t, u.Close())
}

//go:build linux

package systemtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// What runs out, or is refused by something other than the file, and is in no other
// test: descriptors, permission to execute, healthy memory.

// Without a descriptor to spare the kernel's table cannot be read. Nothing is lost by
// that, and no feature is said to be missing.
func TestNoDescriptors(t *testing.T) {
	if !alone(t) {
		return
	}
	pg := int(pageSize)
	f, data := scratch(t, 3*pg)
	ro := must(os.Open(f.Name()))
	defer ro.Close()
	m := mapped[mmap.Read](t, mmap.File(ro, 0, 3*pg).Shared())
	rw := mapped[mmap.ReadWrite](t, mmap.Anonymous(3*pg).Reserve(5*pg))
	u := must(mmap.MapUnknown(mmap.Anonymous(3*pg), mmap.ProtRead))
	defer u.Close()
	half := must(mmap.MapUnknown(mmap.Anonymous(3*pg), mmap.ProtRead))
	defer half.Close()
	check(t, half.Place(pg, mmap.File(ro, 0, pg).Shared(), mmap.ProtRead))
	to := spot(t, 8)
	before := map[mapping]string{m: state(t, m), rw: state(t, rw), u: state(t, u), half: state(t, half)}
	var old unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: old.Max}))

	_, err := mmap.Protect[mmap.ReadWrite](m)
	for what, err := range map[string]error{"protect": err, "protect, refused half-way": half.Protect(mmap.ProtRead | mmap.ProtWrite)} {
		wants(t, what, err, unix.EACCES, mmap.ErrPermission)
		if stopped := (*mmap.PartialError)(nil); errors.As(err, &stopped) {
			t.Errorf("%s changes nothing in the end, and yet: %v", what, err)
		}
	}
	b := make([]byte, 3*pg)
	if check(t, second(m.ReadAt(b, 0))); !bytes.Equal(b, data) {
		t.Error("other contents")
	}
	for what, err := range map[string]error{
		"regions": second(m.Regions()), "assert": second(mmap.Assert[mmap.Read](u)), "move": second(mmap.Move(rw, to)), "path": second(mmap.Map[mmap.Read](mmap.Path(f.Name()))),
		"adopt": second(mmap.UnsafeAdopt[mmap.Read](m.Addr(), 3*pg)), "memfd": second(mmap.Memfd("none", 0, 0)), "resize of a file": second(mmap.Resize(m, 4*pg)),
		"huge pages": second(mmap.Map[mmap.Read](mmap.Anonymous(1).HugePages(0))),
		"huge memfd": second(mmap.MemfdHuge("none", 1, 0, 0)),
	} {
		if wants(t, what, err, unix.EMFILE); errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: this is not missing: %v", what, err)
		}
	}
	// What needs none goes on.
	check(t, mapped[mmap.ReadWrite](t, mmap.Anonymous(pg)).Close())
	check(t, mapped[mmap.Read](t, mmap.File(f, 0, pg)).Close())
	wants(t, "a store", m.View(func(b []byte) error { b[0] = 1; return nil }), mmap.ErrFault) // for whatever reason

	check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old))
	for m, state := range before {
		kept(t, "all of it", m, state)
	}
	unmapped(t, "the place to move to", to, 8)
	check(t, mmap.Grow(rw, 5*pg))
}

// Of what has stopped half-way, where nobody can say what is left, nothing is
// allowed.
func TestNoDescriptorsHalfWay(t *testing.T) {
	if !alone(t) {
		return
	}
	pg := int(pageSize)
	f, _ := scratch(t, pg)
	ro := must(os.Open(f.Name()))
	defer ro.Close()
	u := must(mmap.MapUnknown(mmap.Anonymous(2*pg), mmap.ProtRead|mmap.ProtExec))
	defer u.Close()
	check(t, u.Place(pg, mmap.File(ro, 0, pg).Shared(), mmap.ProtRead))
	denyExecGain(t)
	var old unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: old.Max}))
	err := u.Protect(mmap.ProtRead | mmap.ProtWrite)
	check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old))
	stopped := (*mmap.PartialError)(nil)
	if wants(t, "protect", err, unix.EACCES); !errors.As(err, &stopped) || stopped.Regions != nil {
		t.Error(err)
	}
	if p := u.Prot(); p != mmap.ProtNone {
		t.Error(p)
	}
	wants(t, "read", second(u.ReadAt(make([]byte, 1), int64(pg))), mmap.ErrPermission)
}

// On a file system that is mounted noexec a file cannot be executed by way of a
// mapping, and a mapping of it cannot become executable.
func TestNoexecMount(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	pg := int(pageSize)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOEXEC, "size=64k"); err == nil {
		defer unix.Unmount(dir, unix.MNT_DETACH)
	} else {
		var fs unix.Statfs_t // many systems have one that anybody can write to
		if dir = "/dev/shm"; unix.Statfs(dir, &fs) != nil || fs.Flags&unix.ST_NOEXEC == 0 {
			t.Skip("mounting a tmpfs is not allowed, and /dev/shm is none without execution: ", err)
		}
	}
	f, err := os.CreateTemp(dir, "noexec")
	check(t, err)
	defer os.Remove(f.Name())
	defer f.Close()
	check(t, f.Truncate(int64(2*pg)))
	for what, s := range map[string]mmap.Spec{"private": mmap.File(f, 0, 2*pg), "shared": mmap.File(f, 0, 2*pg).Shared(), "path": mmap.Path(f.Name())} {
		_, err := mmap.Map[mmap.ReadExec](s)
		wants(t, what, err, unix.EPERM, mmap.ErrPermission)
		at := spot(t, 4)
		_, err = mmap.Map[mmap.ReadExec](mmap.File(f, 0, pg).Reserve(3 * pg).At(at)) // the reserve could be mapped
		wants(t, what+" with a reserve", err, mmap.ErrPermission)
		unmapped(t, what+" with a reserve", at, 4)
		m := mapped[mmap.Read](t, s)
		before := state(t, m)
		_, err = mmap.Protect[mmap.ReadExec](m)
		wants(t, what+" protect", err, unix.EACCES, mmap.ErrPermission)
		u := must(mmap.Forget(m))
		wants(t, what+" protect a range", u.ProtectRange(pg, pg, mmap.ProtExec), unix.EACCES)
		kept(t, what, u, before)
		check(t, u.Close())
	}
	m := mapped[mmap.ReadWrite](t, mmap.Anonymous(2*pg))
	before := state(t, m)
	_, err = mmap.Over[mmap.ReadExec](m, mmap.File(f, 0, 2*pg))
	wants(t, "over", err, unix.EPERM, mmap.ErrPermission)
	u := must(mmap.Forget(m))
	defer u.Close()
	wants(t, "place", u.Place(pg, mmap.File(f, 0, pg), mmap.ProtExec), unix.EPERM, mmap.ErrPermission)
	kept(t, "all of it", u, before)
}

// A page whose memory has gone bad is a fault, as any other that cannot be had. The
// page is lost to the machine, so this is for virtual machines that end with the test.
func TestPoisonedPage(t *testing.T) {
	if os.Getenv("MMAP_TEST_VM") == "" {
		t.Skip("it takes a page of memory from the whole machine: MMAP_TEST_VM is not set")
	}
	pg := int(pageSize)
	f, err := mmap.Memfd("poisoned", int64(3*pg), 0)
	check(t, err)
	defer f.Close()
	m := mapped[mmap.ReadWrite](t, mmap.File(f, 0, 3*pg).Shared())
	check(t, second(m.WriteAt(bytes.Repeat([]byte{7}, 3*pg), 0)))
	// Who poisons a page gets a signal in the middle of the call, which ends a Go
	// program.
	child, out, _ := inChild(t, fmt.Sprintf("MMAP_TEST_MEMFD=/proc/%d/fd/%d", os.Getpid(), f.Fd()))
	if child {
		f, err := os.OpenFile(os.Getenv("MMAP_TEST_MEMFD"), os.O_RDWR, 0)
		check(t, err)
		m := mapped[mmap.ReadWrite](t, mmap.File(f, 0, 3*pg).Shared())
		check(t, second(m.WriteAt([]byte{7}, int64(pg))))
		t.Log("not poisoned:", sys.Madvise(m.Addr()+pageSize, pageSize, unix.MADV_HWPOISON))
		return
	}
	if strings.Contains(out, "not poisoned") {
		t.Skip("no page can be poisoned, for lack of privilege or of CONFIG_MEMORY_FAILURE: ", out)
	}
	for what, stop := range map[string]func() (int, error){
		"read":  func() (int, error) { return m.ReadAt(make([]byte, 3*pg), 0) },
		"write": func() (int, error) { return m.WriteAt(make([]byte, 2*pg), 0) },
		"view": func() (int, error) {
			return pg, m.View(func(b []byte) error { return second(bytes.Count(b, []byte{1}), nil) })
		},
		"prefault": func() (int, error) { return pg, m.Prefault(0, 3*pg) },
	} {
		n, err := stop()
		var fault *mmap.FaultError
		if !errors.As(err, &fault) || n != pg || fault.Offset != pg || fault.Err != mmap.ErrFault {
			t.Errorf("%s: %d, %v", what, n, err)
		}
	}
	// The other pages are as they were, and new ones can take their place.
	b := make([]byte, 1)
	if check(t, second(m.ReadAt(b, int64(2*pg)))); b[0] != 7 {
		t.Error("another page: ", b)
	}
	m = must(mmap.Over[mmap.ReadWrite](m, mmap.Anonymous(3*pg)))
	check(t, second(m.ReadAt(b, int64(pg))))
	check(t, m.Close())
}

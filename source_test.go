//go:build linux

package mmap

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A file under a lease is opened when its holder gives that up, as open(2) does it.
func TestPathLease(t *testing.T) {
	if !byItself(t) {
		return
	}
	const patience = 500 * time.Millisecond
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, unix.SIGIO)
	leased := func(what, name, path string, lease int, maps func(Spec) error) {
		holder, err := os.Open(name)
		check(t, err)
		defer holder.Close()
		set := func(lease int) error { return second(unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, lease)) }
		if err := set(lease); err == unix.EINVAL {
			t.Skip("the file system of the test's directory has no leases: ", err)
		} else {
			check(t, err)
		}
		given := make(chan bool)
		defer func() { <-given }() // before the file is closed
		go func() {
			defer close(given)
			select {
			case <-broken:
				time.Sleep(patience)
			case <-time.After(20 * patience):
			}
			set(unix.F_UNLCK)
		}()
		start := time.Now()
		if err := maps(Path(path)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if took := time.Since(start); took < patience {
			t.Errorf("%s: under the lease, after %v", what, took)
		}
	}
	f, _ := scratch(t, int(pageSize))
	name := f.Name()
	check(t, f.Close()) // who leases a file has it alone
	reads := func(s Spec) error {
		m, err := Map[Read](s)
		m.Close()
		return err
	}
	leased("write lease", name, name, unix.F_WRLCK, reads)
	leased("read lease", name, name, unix.F_RDLCK, func(s Spec) error {
		m, err := Map[ReadWrite](s.Shared())
		m.Close()
		return err
	})
	leased("over", name, name, unix.F_WRLCK, func(s Spec) error {
		m, err := Over[Read](mapped[None](t, Anonymous(int(pageSize))), s)
		m.Close()
		return err
	})
	// Who cannot reach a lease's file is told so, as ever.
	_, err := openWaiting(filepath.Join(filepath.Dir(name), "nothing"), unix.O_RDONLY)
	wants(t, "nothing", err, os.ErrNotExist)
	// What has taken the name's place is not opened.
	fifo := filepath.Join(filepath.Dir(name), "fifo")
	check(t, unix.Mkfifo(fifo, 0o600))
	_, err = openWaiting(fifo, unix.O_RDONLY)
	wants(t, "fifo", err, unix.ENODEV)
	// Without /proc it is the same.
	base := "/" + filepath.Base(name)
	if err := unix.Chroot(filepath.Dir(name)); err == unix.EPERM {
		t.Log("not tested: chroot(2): ", err)
		return
	} else {
		check(t, err)
	}
	leased("no /proc", base, base, unix.F_WRLCK, reads)
}

// Whole is a file with the length that it has at Map.
func TestWhole(t *testing.T) {
	pg := int(pageSize)
	f, _ := scratch(t, pg+5)
	s := Whole(f)
	m := mapped[Read](t, s)
	check(t, f.Truncate(int64(3*pg)))
	longer := mapped[ReadWrite](t, s.Shared().Reserve(5*pg))
	if m.Len() != pg+5 || longer.Len() != 3*pg || longer.Cap() != 5*pg {
		t.Errorf("%v, %v with capacity %d", m, longer, longer.Cap())
	}
	check(t, f.Truncate(0))
	if empty := mapped[Read](t, s); empty.Len() != 0 {
		t.Error(empty)
	}
	_, err := Map[Read](s.HugePages(0))
	wants(t, "in huge pages", err, os.ErrInvalid)
	_, err = Map[Read](Whole(nil))
	wants(t, "of nothing", err, os.ErrInvalid)
	dir, err := os.Open(t.TempDir())
	check(t, err)
	defer dir.Close()
	_, err = Map[Read](Whole(dir))
	explained(t, "directory", err, unix.EISDIR, "use the path of a file in it", fmt.Sprintf("map all of %q as r--", dir.Name()))
	zero, err := os.Open("/dev/zero")
	check(t, err)
	defer zero.Close()
	_, err = Map[Read](Whole(zero))
	explained(t, "device", err, unix.ENODEV, "File with a size")
	check(t, f.Close())
	_, err = Map[Read](s)
	wants(t, "closed", err, os.ErrClosed, unix.EBADF)
}

// The page size of a file is known, wherever it is mapped and whatever file system it is on.
func TestFilePageSize(t *testing.T) {
	pg := int(pageSize)
	look := func(what string, f *os.File, offsets []int, size int) {
		t.Helper()
		for _, off := range offsets {
			m, err := Map[Read](File(f, int64(off), size).Shared())
			if err != nil {
				t.Errorf("%s at %d: %v", what, off, err)
				continue
			}
			regions := must(m.Regions())
			granule := m.r.Plain().Granule
			if _, sum := smaps(t, m, 0, m.Len()); sum["KernelPageSize"] != int(granule) {
				t.Errorf("%s at %d: pages of %d bytes, and the kernel has %d", what, off, granule, sum["KernelPageSize"])
			}
			if len(regions) != 1 || regions[0].Size() != uint64(m.r.Size) || regions[0].Offset%uint64(granule) != 0 {
				t.Errorf("%s at %d: %d bytes of %v", what, off, m.r.Size, regions)
			}
			check(t, m.Close())
		}
	}
	const large = 4 << 20 // where the kernel looks for an address that suits huge pages
	disk, _ := scratch(t, 3*pg)
	memfd := must(Memfd("small", 2*large, 0))
	defer memfd.Close()
	for _, f := range []*os.File{disk, memfd} {
		for _, size := range []int{1, pg, large} {
			look(f.Name(), f, []int{0, 1, pg, large, large + 1}, size)
		}
	}
	huge := int(withHugePages(t, 12)) // a file keeps what it has reserved
	offsets := []int{0, 1, pg, pg + 1, huge - pg, huge, huge + 5}
	f := must(MemfdHuge("huge", int64(3*huge), 0, 0))
	defer f.Close()
	look("a memfd of huge pages", f, offsets, 1)
	look("a memfd of huge pages", f, offsets, huge-1)
	if !inOwnMounts(t) {
		return
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "hugetlbfs", 0, ""); err != nil {
		t.Skip("hugetlbfs: ", err)
	}
	defer unix.Unmount(dir, 0)
	f = must(os.Create(filepath.Join(dir, "f")))
	defer f.Close()
	check(t, f.Truncate(int64(3*huge)))
	look("hugetlbfs", f, offsets, 1)
	look("hugetlbfs", f, offsets, huge-1)
}

// A pipe that has taken the name of a file between the look at that and its opening keeps
// nobody waiting for who writes to it.
func TestPathBecomesFIFO(t *testing.T) {
	f, _ := scratch(t, 1)
	name := f.Name()
	waits := make(chan bool, 1)
	cwd := unix.AT_FDCWD
	err := paused(t, unix.SYS_OPENAT, 0, uintptr(cwd), func() {
		check(t, os.Remove(name))
		check(t, unix.Mkfifo(name, 0o600))
		go func() {
			time.Sleep(200 * time.Millisecond)
			fd, err := unix.Open(name, unix.O_WRONLY|unix.O_NONBLOCK, 0) // there is a reader?
			unix.Close(fd)
			waits <- err == nil
		}()
	}, func() error { return second(Map[Read](Path(name))) })
	if wants(t, "a pipe", err, unix.ENODEV); <-waits {
		t.Error("it waits")
	}
}

// What has no pages is named, with what to map instead.
func TestNoPages(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	check(t, err)
	defer dir.Close()
	explained(t, "directory", second(Map[Read](File(dir, 0, 10))), unix.ENODEV, "it is a directory: map a file in it")
	r, w, err := os.Pipe()
	check(t, err)
	defer r.Close()
	defer w.Close()
	explained(t, "pipe", second(Map[Read](File(r, 0, 10))), unix.ENODEV, "a pipe or socket cannot be mapped: read it, or use Anonymous or Memfd")
}
